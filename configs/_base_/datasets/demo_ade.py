"""The generated demo data (`make demo` writes data/demo) as ADE20K-style label maps: 6 things + 4 kinds of ground."""
data_root = 'data/demo'

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadLabelMap', reduce_zero_label=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='backbones.LoadLabelMap', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
tta_scales = [(160, 128), (240, 192)]

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
