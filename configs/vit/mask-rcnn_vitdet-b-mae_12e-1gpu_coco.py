"""Mask R-CNN, ViT-B (MAE) as ViTDet, 12 epochs on one GPU, COCO.

One GPU of 24 GB, 2 images at a time, 8 of them accumulated to the total batch of 16; the averaged weights (EMA) are
the ones evaluated and saved. To freeze the patches and the first six blocks, add --cfg-options
model.backbone.frozen_stages=6
python tools/train.py configs/vit/mask-rcnn_vitdet-b-mae_12e-1gpu_coco.py
"""
_base_ = ['../_base_/models/mask_rcnn_vitdet.py', '../_base_/datasets/coco_lsj.py', '../_base_/schedules/coco_12e.py',
          '../_base_/optimizers/vitdet.py', '../_base_/hooks.py', '../_base_/runtime_det.py']
card = dict(
    paper=None, table=None, source=None, init='vit-b-mae', batch=16, per_gpu=2,
    schedule='12 epochs, steps at 8 and 11', warmup='500 iterations from 0.001', lr=1e-4, weight_decay=0.1,
    no_weight_decay='vitdet', decay='layer_wise 0.7, 12 layers', drop_path=0.1, precision='fp16', ema=2e-4,
    train='1024 x 1024 times 0.1..2.0, crop 1024 x 1024', test='1024 x 1024', params='111M',
    flops='0.8T at 1024 x 1024', score=None,
    note=(
        'A recipe of ours for one GPU, no score measured yet. Based on the 100-epoch recipe of ViTDet-B, '
        'with a quarter of its batch.'))
model = dict(
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', with_cls_token=False, window_size=14,
        global_attn_indexes=(2, 5, 8, 11), rel_pos='decomposed', img_size=1024, norm_eps=1e-6, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='vit-b-mae')),
    neck=dict(in_channels=768))
train_dataloader = dict(batch_size=2, sampler=dict(type='backbones.ResumableSampler'))
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.7))
custom_hooks = [dict(
    type='backbones.EMAHook', ema_type='ExponentialMovingAverage', momentum=0.0002, update_buffers=True)]
