"""ADE20K, 160,000 iterations of Swin, BEiT and ConvNeXt: total batch 16, warm-up 1500, poly 1.0 to 0.

The decay runs from the first step, under the warm-up, as in the mmcv of these papers: the two factors multiply.
https://github.com/facebookresearch/ConvNeXt/tree/048efce/semantic_segmentation/configs/convnext
"""
total_batch = 16
train_cfg = dict(type='backbones.IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=160000),
]
log_processor = dict(by_epoch=False)
