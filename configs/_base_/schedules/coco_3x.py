"""COCO 3x (36 epochs) of Swin and ConvNeXt: AdamW, total batch 16, steps at 27 and 33, 500 iterations of warm-up.

fp16 AMP as in the official T, S and B recipes; no gradient clipping. A leaf gives lr and the layer-wise decay rate.
https://github.com/facebookresearch/ConvNeXt/tree/048efce/object_detection/configs/convnext
"""
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', clip_grad=None,
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), weight_decay=0.05),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_type='layer_wise', weight_decay_rule='convnext'))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3))
auto_scale_lr = dict(enable=False, base_batch_size=16)
