"""Cascade Mask R-CNN, ConvNeXt-XL (ImageNet-22k), 3x, COCO.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/cascade-mask-rcnn_convnext-xl-in22k_3x_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/cascade_mask_rcnn.py', '../_base_/datasets/coco_ms.py', '../_base_/schedules/coco_3x.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2201.03545', table='Table 3',
    source='https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/configs/convnext/cascade_mask_rcnn_convnext_xlarge_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_3x_coco_in22k.py',
    init='convnext-xl-in22k', batch=16, per_gpu=2, schedule='36 epochs, steps at 27 and 33',
    warmup='500 iterations from 0.001', lr=1e-4, weight_decay=0.05, no_weight_decay='convnext',
    decay='layer_wise 0.7, 12 layers', drop_path=0.8, precision='fp32', train='short side 480..800, long side 1333',
    test='1333 x 800', params='407M', flops='1898G at 800 x 1280', score=dict(box=55.2, mask=47.7))
checkpoint = 'convnext-xl-in22k'
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='xlarge', drop_path_rate=0.8, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.7))
