"""Cascade Mask R-CNN, ConvNeXt-T (ImageNet-1k), 3x, COCO.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/cascade-mask-rcnn_convnext-t-in1k_3x_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/cascade_mask_rcnn.py', '../_base_/datasets/coco_ms.py', '../_base_/schedules/coco_3x.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2201.03545', table='Table 3',
    source='https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/configs/convnext/cascade_mask_rcnn_convnext_tiny_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_3x_coco_in1k.py',
    init='convnext_tiny_1k_224.pth', batch=16, per_gpu=2, schedule='36 epochs, steps at 27 and 33',
    warmup='500 iterations from 0.001', lr=2e-4, weight_decay=0.05, no_weight_decay='convnext',
    decay='layer_wise 0.7, 6 layers', drop_path=0.4, precision='fp16', train='short side 480..800, long side 1333',
    test='1333 x 800', params='86M', flops='741G at 800 x 1280', score=dict(box=50.4, mask=43.7))
checkpoint = 'https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth'
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='tiny', drop_path_rate=0.4, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(decay_rate=0.7))
