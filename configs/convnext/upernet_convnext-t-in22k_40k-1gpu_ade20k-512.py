"""UperNet, ConvNeXt-T (ImageNet-22k), 40k on one GPU, ADE20K 512 x 512.

One GPU of 24 GB, 4 images at a time, 4 of them accumulated to the total batch of 16; the averaged weights (EMA) are
the ones evaluated and saved. To freeze the stem and the first two stages, add --cfg-options
model.backbone.frozen_stages=2
python tools/train.py configs/convnext/upernet_convnext-t-in22k_40k-1gpu_ade20k-512.py
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_40k.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init='convnext-t-in22k', batch=16, per_gpu=4,
    schedule='40000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=1e-4, weight_decay=0.05,
    no_weight_decay='convnext', decay='stage_wise 0.9, 6 layers', drop_path=0.2, precision='fp16', ema=2e-4,
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 512 x 512 by 341 x 341', params='60M',
    flops='939G at 512 x 2048', score=None,
    note=(
        'A recipe of ours for one GPU, no score measured yet. Based on the 160k recipe of ConvNeXt-T, with '
        'less drop path for the shorter training.'))
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='tiny', layer_scale_init_value=1.0, drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='convnext-t-in22k')),
    decode_head=dict(in_channels=[96, 192, 384, 768]), auxiliary_head=dict(in_channels=384),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16', optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9))
custom_hooks = [dict(
    type='backbones.EMAHook', ema_type='ExponentialMovingAverage', momentum=0.0002, update_buffers=True)]
