"""COCO 2017, large-scale jittering 0.1..2.0 on a 1024 x 1024 canvas (https://arxiv.org/abs/2012.07177), as ViTDet.

ViTDet pads to 1024 after normalisation (`data_preprocessor.pad_size_divisor`), as detectron2's `square_pad` does; the
others pad to a multiple of 32. Images whose objects were all cropped away stay as negatives, as there.
https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/common/coco_loader_lsj.py
"""
data_root = 'data/coco/'
image_size = (1024, 1024)

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadInstanceAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop', crop_type='absolute', crop_size=image_size, recompute_bbox=True,
        allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]
tta_scales = [image_size]

train_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True, pin_memory=True,
    sampler=dict(type='backbones.ResumableInfiniteSampler', shuffle=True),
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
