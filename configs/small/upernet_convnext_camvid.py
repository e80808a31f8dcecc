"""UperNet, narrow ConvNeXt from scratch, CamVid (11 classes): the measured run is in the main README.

python tools/train.py configs/small/upernet_convnext_camvid.py
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/camvid.py',
          '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper=None, table=None, source=None, init=None, batch=4, per_gpu=4,
    schedule='4500 iterations, poly 1.0 to 0', warmup='100 iterations from 0.01', lr=2e-3, weight_decay=0.05,
    no_weight_decay='convnext', decay=None, drop_path=0.0, precision='fp32', clip=5.0,
    train='480 x 360 times 0.6..1.4, crop 240 x 320', test='480 x 360, whole',
    params='2.4M (ours)', flops='1.01G at 240 x 320 (ours)', score=None)
norm_cfg = dict(type='BN', eps=1e-5)
dims = (32, 64, 128, 256)
iterations = 4500
# 1 / sqrt(share of the training pixels), mean 1, in the order of classes.txt: poles and people count, roads less
class_weight = [0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.3, 1.32, 0.58, 1.76, 2.61]
model = dict(
    data_preprocessor=dict(size=(240, 320)),
    backbone=dict(
        type='backbones.ConvNeXt', arch=dict(depths=(2, 2, 4, 2), dims=dims), layer_scale_init_value=1.0),
    decode_head=dict(
        in_channels=list(dims), channels=48, num_classes=11, norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=dict(
        in_channels=dims[2], channels=48, num_classes=11, norm_cfg=norm_cfg),
    test_cfg=dict(mode='whole'))
total_batch = 4
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=iterations, val_interval=1500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=100, end=iterations),
]
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0, weight_decay_rule='convnext'))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
