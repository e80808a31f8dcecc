"""COCO, 100 epochs of large-scale jittering as ViTDet: total batch 64, 250 iterations of warm-up.

184375 iterations = 100 epochs * 118000 images / 64 images per iteration; steps at 8/9 and 26/27 of them.
https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py
"""
total_batch = 64
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=184375, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=184375, milestones=[163889, 177546], gamma=0.1),
]
log_processor = dict(by_epoch=False)
