"""Cascade Mask R-CNN, ConvNeXt-B (DINOv3), 3x, COCO.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/cascade-mask-rcnn_convnext-b-dinov3_3x_coco.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/cascade_mask_rcnn.py', '../_base_/datasets/coco_ms.py', '../_base_/schedules/coco_3x.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init='dinov3-convnext-base', batch=16, per_gpu=2,
    schedule='36 epochs, steps at 27 and 33', warmup='500 iterations from 0.001', lr=1e-4, weight_decay=0.05,
    no_weight_decay='convnext', decay='layer_wise 0.8, 12 layers', drop_path=0.6, precision='fp16',
    train='short side 480..800, long side 1333', test='1333 x 800', params='146M', flops='964G at 800 x 1280',
    score=None,
    note=(
        'No score was published. Weights of https://arxiv.org/abs/2508.10104 in the recipe of the '
        'ImageNet-22k weights of this size. Gated download.'))
checkpoint = 'dinov3-convnext-base'
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch='base', drop_path_rate=0.6, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.8))
