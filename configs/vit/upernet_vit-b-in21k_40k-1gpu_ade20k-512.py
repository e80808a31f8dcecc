"""UperNet, ViT-B (ImageNet-21k), 40k on one GPU, ADE20K 512 x 512.

One GPU of 24 GB, 4 images at a time, 4 of them accumulated to the total batch of 16; the averaged weights (EMA) are
the ones evaluated and saved. To freeze the patches and the first six blocks, add --cfg-options
model.backbone.frozen_stages=6
python tools/train.py configs/vit/upernet_vit-b-in21k_40k-1gpu_ade20k-512.py
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_512.py', '../_base_/schedules/ade20k_40k.py',
          '../_base_/optimizers/vit_beit.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init='vit-b-augreg-in21k', batch=16, per_gpu=4,
    schedule='40000 iterations, poly 1.0 to 0', warmup='1500 iterations from 1e-06', lr=6e-5, weight_decay=0.05,
    no_weight_decay='beit', decay='layer_wise 0.9, 12 layers', drop_path=0.1, precision='fp16', ema=2e-4,
    train='2048 x 512 times 0.5..2.0, crop 512 x 512', test='2048 x 512, slide 512 x 512 by 341 x 341',
    params='127M (ours)', flops='340G at 512 x 512 (ours)', score=None,
    note=(
        "A recipe of ours for one GPU, no score measured yet. Based on BEiT's 160k recipe, with twice its "
        'learning rate for the shorter training, crops of 512 and heads of 512 channels. AugReg weights, '
        'trained on images in [-1, 1] and fed with such.'))
model = dict(
    data_preprocessor=dict(size=(512, 512), mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type='backbones.VisionTransformer', arch='base', out_indices=(3, 5, 7, 11), norm_eps=1e-6, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='vit-b-augreg-in21k')),
    neck=dict(
        type='backbones.Feature2Pyramid', in_channels=768, norm_cfg=dict(type='SyncBN', eps=1e-5, requires_grad=True)),
    decode_head=dict(in_channels=[768] * 4), auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(lr=6e-5), paramwise_cfg=dict(decay_rate=0.9))
custom_hooks = [dict(
    type='backbones.EMAHook', ema_type='ExponentialMovingAverage', momentum=0.0002, update_buffers=True)]
