"""ADE20K, 160,000 iterations of Swin, BEiT and ConvNeXt: AdamW, total batch 16, warm-up 1500, poly 1.0 to 0.

A leaf gives the optimiser's lr, weight decay and the parameter-wise rule.
https://github.com/facebookresearch/ConvNeXt/tree/048efce/semantic_segmentation/configs/convnext
"""
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
optim_wrapper = dict(
    type='OptimWrapper', clip_grad=None,
    optimizer=dict(type='AdamW', betas=(0.9, 0.999)),
    constructor='backbones.LayerDecayOptimWrapperConstructor')
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=16000, max_keep_ckpts=3),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=16)
