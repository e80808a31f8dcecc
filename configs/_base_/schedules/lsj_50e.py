"""COCO, 50 epochs of large-scale jittering as ViTDet: total batch 64, 250 iterations of warm-up.

92187 iterations and their steps = half of those of 100 epochs, as the supervised backbones of the paper.
https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/cascade_mask_rcnn_swin_b_in21k_50ep.py
"""
total_batch = 64
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=92187, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=92187, milestones=[81944, 88773], gamma=0.1),
]
log_processor = dict(by_epoch=False)
