"""COCO, 75 epochs of large-scale jittering as ViTDet: total batch 64, 250 iterations of warm-up.

138281 iterations and their steps = three quarters of those of 100 epochs, as ViTDet-H.
https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_h_75ep.py
"""
total_batch = 64
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=138281, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=138281, milestones=[122916, 133159], gamma=0.1),
]
log_processor = dict(by_epoch=False)
