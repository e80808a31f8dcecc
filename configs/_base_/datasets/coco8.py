"""Eight COCO images, for training and scoring alike: a detector that cannot learn them by heart is broken.

data/coco8.json is made by tools/coco_subset.py; the images lie in data/coco_mini/train2017. data_root is their parent.
"""
data_root = 'data/'
ann_file = 'coco8.json'
size = (448, 448)

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadInstanceAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]
tta_scales = [size]

train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='backbones.ResumableInfiniteSampler', shuffle=True),
    dataset=dict(
        type='backbones.CocoDataset', data_root=data_root, ann_file=ann_file,
        data_prefix=dict(img='coco_mini/train2017/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='backbones.CocoDataset', data_root=data_root, ann_file=ann_file,
        data_prefix=dict(img='coco_mini/train2017/'), test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='backbones.CocoMetric', ann_file=data_root + ann_file, metric=['bbox', 'segm'])
test_evaluator = val_evaluator
