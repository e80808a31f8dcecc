"""ADE20K, 40,000 iterations: total batch 16, warm-up 1500, poly 1.0 to 0.

Those of DINOv2's linear evaluation; our recipes for one GPU take them as well.
https://github.com/facebookresearch/dinov2/blob/0cb13e0/notebooks/semantic_segmentation.ipynb
"""
total_batch = 16
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=40000),
]
log_processor = dict(by_epoch=False)
