"""Mask R-CNN, ResNet-50 (ImageNet-1k), 3x, COCO.

torchrun --nproc_per_node 8 tools/train.py configs/baselines/mask-rcnn_r50-in1k_3x_coco.py --launcher pytorch
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco_ms.py',
          '../_base_/schedules/coco_3x.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init='resnet50-0676ba61.pth', batch=16, per_gpu=2,
    schedule='36 epochs, steps at 27 and 33', warmup='500 iterations from 0.001', lr=1e-4, weight_decay=0.05,
    no_weight_decay=None, decay=None, drop_path=0.0, precision='fp16', train='short side 480..800, long side 1333',
    test='1333 x 800', params='44M (ours)', flops='259G at 800 x 1280 (ours)', score=None,
    note='No score was published. Settings of the Cascade.')
checkpoint = 'https://download.pytorch.org/models/resnet50-0676ba61.pth'
model = dict(
    backbone=dict(
        type='mmdet.ResNet', depth=50, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', eps=1e-5, requires_grad=True),
        norm_eval=True, style='pytorch', init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05))
