"""ADE20K (150 classes), 512 x 512 crops, augmentation of Swin / BEiT / ConvNeXt; 8 GPUs x 2 images.

https://github.com/facebookresearch/ConvNeXt/tree/048efce/semantic_segmentation/configs
"""
data_root = 'data/ade/ADEChallengeData2016'
scale = (2048, 512)
crop_size = (512, 512)

train_pipeline = [
    dict(type='backbones.LoadImageFromFile'),
    dict(type='backbones.LoadLabelMap', reduce_zero_label=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# Labels are loaded after the resize: the prediction is scored at the size of the original image.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='backbones.LoadLabelMap', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
tta_scales = [(int(scale[0] * r), int(scale[1] * r)) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]

train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True, pin_memory=True,
    sampler=dict(type='backbones.ResumableInfiniteSampler', shuffle=True),
    dataset=dict(
        type='backbones.ADE20KDataset', data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=True, pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='backbones.ADE20KDataset', data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='backbones.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
