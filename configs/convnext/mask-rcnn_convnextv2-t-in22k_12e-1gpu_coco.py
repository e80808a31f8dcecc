"""Mask R-CNN, ConvNeXt V2-T (ImageNet-22k, then 1k), 12 epochs on one GPU, COCO.

One GPU of 24 GB, 2 images at a time, 8 of them accumulated to the total batch of 16; the averaged weights (EMA) are
the ones evaluated and saved. To freeze the stem and the first two stages, add --cfg-options
model.backbone.frozen_stages=2
python tools/train.py configs/convnext/mask-rcnn_convnextv2-t-in22k_12e-1gpu_coco.py
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco_ms.py', '../_base_/schedules/coco_12e.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init='convnextv2-t-in22k-in1k', batch=16, per_gpu=2,
    schedule='12 epochs, steps at 8 and 11', warmup='500 iterations from 0.001', lr=1e-4, weight_decay=0.05,
    no_weight_decay='convnext', decay='layer_wise 0.95, 6 layers', drop_path=0.2, precision='fp16', ema=2e-4,
    train='short side 480..800, long side 1333', test='1333 x 800', params='48M (ours)',
    flops='262G at 800 x 1280 (ours)', score=None,
    note=(
        'A recipe of ours for one GPU, no score measured yet. Based on the 3x recipe of ConvNeXt-T, with '
        'less drop path for the shorter training.'))
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='tiny', use_grn=True, drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2-t-in22k-in1k')),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95))
custom_hooks = [dict(
    type='backbones.EMAHook', ema_type='ExponentialMovingAverage', momentum=0.0002, update_buffers=True)]
