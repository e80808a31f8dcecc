"""COCO 100 epochs with large-scale jittering, as ViTDet: AdamW, lr 1e-4, weight decay 0.1, total batch 64.

184375 iterations = 100 epochs * 118000 images / 64 images per iteration; steps at 8/9 and 26/27 of them.
https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py
"""
train_cfg = dict(type='IterBasedTrainLoop', max_iters=184375, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=184375, milestones=[163889, 177546], gamma=0.1),
]
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', clip_grad=None,
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_type='layer_wise', weight_decay_rule='vitdet'))
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5000, max_keep_ckpts=3),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=64)
