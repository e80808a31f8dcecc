"""CamVid (11 classes, 480 x 360 pixels) in the layout of ADE20K under data/camvid; see data/README.md."""
data_root = 'data/camvid'
crop_size = (240, 320)

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadLabelMap', reduce_zero_label=True),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.6, 1.4), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(480, 360), keep_ratio=True),
    dict(type='backbones.LoadLabelMap', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
tta_scales = [(480, 360), (720, 540)]

train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='backbones.ResumableInfiniteSampler', shuffle=True),
    dataset=dict(
        type='backbones.LabelMapDataset', data_root=data_root, pipeline=train_pipeline,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='backbones.LabelMapDataset', data_root=data_root, pipeline=test_pipeline, test_mode=True,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation')))
test_dataloader = val_dataloader
val_evaluator = dict(type='backbones.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
