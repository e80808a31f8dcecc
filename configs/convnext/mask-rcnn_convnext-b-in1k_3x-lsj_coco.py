"""Mask R-CNN, ConvNeXt-B (ImageNet-1k), 3x with large-scale jittering, COCO.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/mask-rcnn_convnext-b-in1k_3x-lsj_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco_lsj.py', '../_base_/schedules/coco_lsj_3x.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper='https://arxiv.org/abs/2301.00808', table='Table 6', source=None, init='convnext_base_1k_224.pth', batch=32,
    per_gpu=4, schedule='36 epochs, steps at 27 and 33', warmup='1000 iterations from 0.001', lr=1e-4,
    weight_decay=0.05, no_weight_decay='convnext', decay='layer_wise 0.95, 12 layers', drop_path=0.4,
    precision='fp16', train='1024 x 1024 times 0.1..2.0, crop 1024 x 1024', test='1333 x 800, soft-NMS',
    params='108M (ours)', flops='486G at 800 x 1280', score=dict(box=50.3, mask=44.9),
    note=(
        'Layer decay and drop path are our choice from the published sweep (0.9, 0.95; 0.2 to 0.5), the '
        'rest as mmdetection has ConvNeXt V2-B; the paper prints none of it per size.'))
checkpoint = 'https://dl.fbaipublicfiles.com/convnext/convnext_base_1k_224.pth'
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='base', drop_path_rate=0.4, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[128, 256, 512, 1024]), test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms'))))
train_dataloader = dict(batch_size=4, sampler=dict(type='backbones.ResumableSampler'))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True),
                 dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs')]
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
tta_scales = [(1333, 800)]
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95))
