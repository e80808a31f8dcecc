"""Tables of config names: those of MMCV 1.x, mmdet 2.x and mmseg 0.x, what replaces them, and dicts without a class."""

from __future__ import annotations

# Old top-level variables. MMEngine reads none of them: a config that has them trains without what they ask for.
OLD_TOP_LEVEL = {
    'optimizer': "write optim_wrapper=dict(type='OptimWrapper', optimizer=dict(...))",
    'optimizer_config': 'write its grad_clip as optim_wrapper=dict(clip_grad=dict(max_norm=...)) and its '
    'cumulative_iters as optim_wrapper=dict(accumulative_counts=...)',
    'grad_clip': 'write optim_wrapper=dict(clip_grad=dict(max_norm=...))',
    'lr_config': "write param_scheduler=[dict(type='LinearLR', ...), dict(type='MultiStepLR', ...)]",
    'momentum_config': "write param_scheduler=[dict(type='CosineAnnealingMomentum', ...)]",
    'runner': "write train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=...) or "
    "dict(type='IterBasedTrainLoop', max_iters=...)",
    'total_epochs': "write train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=...)",
    'total_iters': "write train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)",
    'data': 'write train_dataloader, val_dataloader and test_dataloader, each with batch_size, num_workers, sampler '
    'and dataset',
    'samples_per_gpu': 'write train_dataloader=dict(batch_size=...)',
    'workers_per_gpu': 'write train_dataloader=dict(num_workers=...)',
    'img_norm_cfg': "write model=dict(data_preprocessor=dict(mean=..., std=..., bgr_to_rgb=True))",
    'evaluation': 'write val_evaluator=dict(type=...) and train_cfg=dict(val_interval=...)',
    'checkpoint_config': "write default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=...))",
    'log_config': "write default_hooks=dict(logger=dict(type='LoggerHook', interval=...))",
    'fp16': "write optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16'); as it is, the run trains in fp32",
    'workflow': 'leave it out: train_cfg and val_cfg say what is run',
    'dist_params': "write env_cfg=dict(dist_cfg=dict(backend='nccl'))",
    'cudnn_benchmark': 'write env_cfg=dict(cudnn_benchmark=True)',
    'opencv_num_threads': 'write env_cfg=dict(mp_cfg=dict(opencv_num_threads=0))',
    'mp_start_method': "write env_cfg=dict(mp_cfg=dict(mp_start_method='fork'))",
    'resume_from': 'use --resume PATH of tools/train.py',
    'pretrained': "write model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=...)))",
    'gpu_ids': 'choose GPUs with the environment variable CUDA_VISIBLE_DEVICES',
    'seed': 'write randomness=dict(seed=...)',
}

# Old keys of dicts, wherever the class of the dict does not take them.
OLD_KEYS = {
    'pretrained': "write init_cfg=dict(type='Pretrained', checkpoint=...) in the backbone",
    'samples_per_gpu': 'write batch_size',
    'workers_per_gpu': 'write num_workers',
    'img_scale': 'write scale=(width, height)',
    'multiscale_mode': "use dict(type='RandomChoiceResize', scales=[...], keep_ratio=True) for 'value', "
    "dict(type='RandomResize', scale=[...], keep_ratio=True) for 'range'",
    'ratio_range': "use dict(type='RandomResize', scale=..., ratio_range=..., keep_ratio=True)",
    'flip_ratio': 'write prob',
    'grad_clip': 'write clip_grad=dict(max_norm=...) in optim_wrapper',
    'cumulative_iters': 'write accumulative_counts in optim_wrapper',
    'fp16': "write optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16')",
    'img_prefix': "write data_prefix=dict(img='...')",
    'img_dir': "write data_prefix=dict(img_path='...')",
    'ann_dir': "write data_prefix=dict(seg_map_path='...')",
    'classes': 'write metainfo=dict(classes=...)',
    'CLASSES': 'write classes',
    'PALETTE': 'write palette',
    'policy': 'name a class by type, such as MultiStepLR or PolyLR',
    'step': 'write milestones',
    'min_lr': 'write eta_min',
    'warmup': "put dict(type='LinearLR', start_factor=..., by_epoch=False, begin=0, end=...) before this scheduler",
    'max_num': 'write max_per_img',
    'nms_post': 'write max_per_img',
    'nms_thr': "write nms=dict(type='nms', iou_threshold=...)",
    'iou_thr': 'write iou_threshold',
}

# Old classes.
OLD_TYPES = {
    'DefaultFormatBundle': 'leave it out: PackDetInputs (mmdet) or PackSegInputs (mmseg) ends a pipeline',
    'ImageToTensor': 'leave it out: PackDetInputs (mmdet) or PackSegInputs (mmseg) ends a pipeline',
    'Collect': "end the pipeline with dict(type='PackDetInputs') (mmdet) or dict(type='PackSegInputs') (mmseg)",
    'MultiScaleFlipAug': 'write the transforms themselves; scales and flips are a matter of tta_scales and --tta',
    'EpochBasedRunner': "write train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=...)",
    'IterBasedRunner': "write train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)",
    'TextLoggerHook': 'use LoggerHook',
    'TensorboardLoggerHook': "add dict(type='TensorboardVisBackend') to visualizer.vis_backends",
    'Fp16OptimizerHook': "write optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16')",
    'GradientCumulativeOptimizerHook': 'write optim_wrapper=dict(accumulative_counts=...)',
}

# What the two-stage detectors of mmdet 3.5.1, their RPN, RoI, box and mask heads read from train_cfg and test_cfg
# (mmdet/models: detectors/two_stage.py, dense_heads/{anchor,rpn,base_dense}_head.py, roi_heads/). `debug` is read by
# nobody, but stands in every published config; it does nothing there, either.
_PROPOSALS = {'nms_pre', 'max_per_img', 'nms', 'min_bbox_size', 'score_thr'}
TWO_STAGE = {
    'train_cfg': {
        'rpn': {'assigner', 'sampler', 'allowed_border', 'pos_weight', 'debug'},
        'rpn_proposal': _PROPOSALS,
        'rcnn': {
            'assigner', 'sampler', 'mask_size', 'pos_weight', 'debug', 'mask_thr_binary', 'dynamic_rcnn', 'isr', 'carl',
            'max_num_grid', 'num_points', 'oversample_ratio', 'importance_sample_ratio', 'pos_radius',
        },
    },
    'test_cfg': {
        'rpn': _PROPOSALS,
        'rcnn': {
            'score_thr', 'nms', 'max_per_img', 'mask_thr_binary', 'subdivision_steps', 'subdivision_num_points',
            'scale_factor', 'mask_format', 'mask_memory',
        },
    },
}
# The same of mmseg 1.4.2: models/segmentors/encoder_decoder.py and models/data_preprocessor.py.
TEST_CFG = {'EncoderDecoder': {'mode', 'crop_size', 'stride'}, 'SegDataPreProcessor': {'size', 'size_divisor'}}

# Untyped dicts of data sets, by a base class of the data set: mmdet/datasets/{base_det_dataset,coco}.py,
# mmseg/datasets/basesegdataset.py.
DATASET_DICTS = {
    'CocoDataset': {'data_prefix': {'img', 'seg'}, 'filter_cfg': {'filter_empty_gt', 'min_size'}},
    'BaseSegDataset': {'data_prefix': {'img_path', 'seg_map_path', 'img_path2', 'depth_map_path'}},
}

# Untyped dicts of the Runner: setup_env and scale_lr in mmengine/runner/runner.py.
RUNNER_DICTS = {
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'auto_scale_lr': {'enable', 'base_batch_size'},
}
# What build_dataloader of the Runner takes besides the arguments of torch's DataLoader.
DATALOADER_KEYS = {'dataset', 'num_batch_per_epoch', 'disable_subprocess_warning'}

# Options of optimiser constructors: mmengine/optim/optimizer/default_constructor.py and mmdet/engine/optimizers/.
DEFAULT_PARAMWISE = {
    'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult', 'flat_decay_mult',
    'bypass_duplicate', 'dcn_offset_lr_mult',
}
STOCK_DECAY_PARAMWISE = {'num_layers', 'decay_rate', 'decay_type'}

# Keys that a builder takes out before the class is called, by the key that the dict stands under:
# mmcv/cnn/bricks/norm.py, mmdet fcn_mask_head.py, mmengine/model/weight_init.py, mmdet and mmseg resnet.py.
BUILDER_KEYS = {
    'norm_cfg': {'requires_grad'},
    'upsample_cfg': {'scale_factor', 'upsample_kernel', 'mode', 'align_corners'},
    'init_cfg': {'override'},
    'dcn': {'fallback_on_stride', 'deformable_groups'},
    'loss_cls': {'bg_cls_weight'},  # mmdet detr_head.py
}
# Keys under which `type` names an operator of mmcv.
OPERATORS = {'nms', 'dqs_cfg', 'roi_layer'}
# Dicts whose `type` is a word of the class around them: mmdet cascade_rpn_head.py.
OWN_DICTS = {'adapt_cfg'}
# Hooks that every run has: register_default_hooks in mmengine/runner/runner.py.
DEFAULT_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# mmcv's batched_nms takes these out of the dict `nms` before it calls the function that `type` names.
NMS_KEYS = {'class_agnostic', 'split_thr', 'max_num'}

# Classes that hand further arguments to another one, which the named argument (or its default) tells.
FORWARDS = {
    'RandomResize': ('resize_type', 'Resize'),
    'RandomChoiceResize': ('resize_type', 'Resize'),
    'ResizeShortestEdge': ('resize_type', 'Resize'),
    'EMAHook': ('ema_type', 'ExponentialMovingAverage'),
}
# Classes whose arguments cannot be known: these keys are not checked (nor are those of classes of other packages that
# take **kwargs and give them to something other than a base class).
UNCHECKED = {
    'InferencerLoader': 'passes its arguments on to a loader that it chooses itself',
    'MultiBranch': 'its arguments are the names of the branches',
    'BaseReID': 'passes them to its base classes by position',
}
# Classes whose inner dicts name types of their own, outside of the registries: albumentations, paths of a pyramid.
OWN_TYPES = ('Albu', 'FPG')
