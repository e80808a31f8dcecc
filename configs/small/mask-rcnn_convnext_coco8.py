"""Mask R-CNN, narrow ConvNeXt from scratch, learns eight COCO images by heart.

python tools/coco_subset.py data/coco_mini/annotations/instances_train2017.json data/coco8.json --images 8
python tools/train.py configs/small/mask-rcnn_convnext_coco8.py
"""
_base_ = ['../_base_/models/mask_rcnn.py', '../_base_/datasets/coco8.py', '../_base_/runtime_det.py']
dims = (32, 64, 128, 256)
width = 96
iterations = 800
model = dict(
    backbone=dict(
        type='backbones.ConvNeXt', arch=dict(depths=(2, 2, 4, 2), dims=dims), layer_scale_init_value=1.0),
    neck=dict(in_channels=list(dims), out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width), mask_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=512),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_convs=2)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=50, end=iterations),
]
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0),
    constructor='backbones.LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(decay_rate=1.0))
custom_hooks = [dict(type='backbones.MetricsFileHook'), dict(type='backbones.ChannelsLastHook')]
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=iterations, max_keep_ckpts=1),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
