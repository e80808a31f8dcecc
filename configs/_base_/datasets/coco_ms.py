"""COCO 2017, multi-scale training of DETR / Sparse R-CNN / Swin / ConvNeXt: short side 480..800, long side <= 1333.

Half of the images are first resized to 400..600 and cropped; 2 images per GPU (8 GPUs: batch 16).
https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/configs/convnext/mask_rcnn_convnext_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco_in1k.py
"""
data_root = 'data/coco/'
short_sides = [(side, 1333) for side in range(480, 801, 32)]

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadInstanceAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=short_sides, keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=[(s, 1333) for s in (400, 500, 600)], keep_ratio=True),
                dict(
                    type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600),
                    allow_negative_crop=True),
                dict(type='RandomChoiceResize', scales=short_sides, keep_ratio=True),
            ],
        ]),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]
tta_scales = [(1333, 600), (1333, 800), (1333, 1000)]

train_dataloader = dict(
    batch_size=2, num_workers=2, persistent_workers=True, pin_memory=True,
    sampler=dict(type='backbones.ResumableSampler', shuffle=True),
    batch_sampler=dict(type='backbones.AspectRatioBatchSampler'),
    dataset=dict(
        type='backbones.CocoDataset', data_root=data_root,
        ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True, drop_last=False, pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='backbones.CocoDataset', data_root=data_root,
        ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'),
        test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='backbones.CocoMetric', ann_file=data_root + 'annotations/instances_val2017.json',
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator
