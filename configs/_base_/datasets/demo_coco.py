"""The generated demo data (`make demo` writes data/demo), as COCO: 320 + 80 images of 128 x 160, 6 classes."""
data_root = 'data/demo/'

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadInstanceAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]
tta_scales = [(160, 128), (240, 192)]

train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='backbones.ResumableSampler', shuffle=True),
    dataset=dict(
        type='backbones.CocoDataset', data_root=data_root, ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/training/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='backbones.CocoDataset', data_root=data_root, ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/validation/'), test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='backbones.CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
