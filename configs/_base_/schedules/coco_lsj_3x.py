"""COCO 3x (36 epochs) of ConvNeXt V2: total batch 32, steps at 27 and 33, 1000 iterations of warm-up.

https://arxiv.org/abs/2301.00808, A.3, and, for the warm-up,
https://github.com/open-mmlab/mmdetection/blob/4d83986/projects/ConvNeXt-V2/configs/mask-rcnn_convnext-v2-b_fpn_lsj-3x-fcmae_coco.py
"""
total_batch = 32
train_cfg = dict(type='backbones.EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
