"""Eight images until they are known by heart: AdamW, cosine, narrow models from scratch on two CPU cores."""
iterations = 2200
total_batch = 1
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=50, end=iterations),
]
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0, weight_decay_rule='matrices_only'))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
