"""UperNet, narrow ViT (patch 8), demo data: trained by `make demo` in 1.5 minutes on two CPU cores.

python tools/train.py configs/small/upernet_vit_demo.py
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/demo_ade.py',
          '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init=None, batch=4, per_gpu=4,
    schedule='400 iterations, poly 1.0 to 0', warmup='50 iterations from 0.01', lr=3e-3, weight_decay=0.05,
    no_weight_decay='matrices_only', decay=None, drop_path=0.0, precision='fp32', clip=1.0,
    train='as they are', test='160 x 128, whole',
    params='0.98M (ours)', flops='0.69G at 128 x 160 (ours)', score=None)
norm_cfg = dict(type='BN', eps=1e-5)
iterations = 400
class_weight = [1.5] * 6 + [0.6] * 4  # the six things cover a tenth of the pixels
model = dict(
    data_preprocessor=dict(size=(128, 160), test_cfg=dict(size_divisor=8)),
    backbone=dict(
        type='backbones.VisionTransformer', arch=dict(embed_dim=96, depth=6, num_heads=3), patch_size=8,
        position='rope', with_cls_token=False, out_indices=(2, 3, 4, 5), out_norm='last', norm_eps=1e-6),
    neck=dict(type='backbones.Feature2Pyramid', in_channels=96, in_stride=8, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[96] * 4, channels=32, num_classes=10, norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=dict(in_channels=96, channels=32, num_classes=10, norm_cfg=norm_cfg),
    test_cfg=dict(mode='whole'))
total_batch = 4
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=50, end=iterations),
]
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0, weight_decay_rule='matrices_only'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
