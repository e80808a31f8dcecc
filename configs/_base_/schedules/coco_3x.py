"""COCO 3x (36 epochs) of Swin and ConvNeXt: total batch 16, steps at 27 and 33, 500 iterations of warm-up.

https://github.com/facebookresearch/ConvNeXt/tree/048efce/object_detection/configs/convnext
"""
total_batch = 16
train_cfg = dict(type='backbones.EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
