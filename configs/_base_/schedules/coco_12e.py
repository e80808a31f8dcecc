"""COCO, 12 epochs for one GPU: total batch 16, steps at 8 and 11, 500 iterations of warm-up. Ours."""
total_batch = 16
train_cfg = dict(type='backbones.EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
