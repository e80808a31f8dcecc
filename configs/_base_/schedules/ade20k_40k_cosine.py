"""ADE20K, 40,000 iterations of DINOv3's linear evaluation: total batch 16, warm-up 1500, cosine to 0.

https://github.com/facebookresearch/dinov3/blob/6876159/dinov3/eval/segmentation/configs/config-ade20k-linear-training.yaml
"""
total_batch = 16
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=40000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=0, end=40000),
]
log_processor = dict(by_epoch=False)
