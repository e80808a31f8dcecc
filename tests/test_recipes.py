"""Five recipes say what paper and official code say, number by number, heads and augmentation included.

The cards state the rest for every recipe (tests/recipes).

Sources: https://github.com/facebookresearch/ConvNeXt/tree/048efce (`object_detection/configs/convnext`,
`semantic_segmentation/configs/convnext`), https://github.com/facebookresearch/detectron2/tree/02b5c4e
(`projects/ViTDet/configs/COCO`, `configs/common/models/mask_rcnn_vitdet.py`) and
https://github.com/open-mmlab/mmsegmentation/tree/main/configs/vit.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS

CONVNEXT_FILES = 'https://dl.fbaipublicfiles.com/convnext'
IMAGENET = {
    'model.data_preprocessor.mean': [123.675, 116.28, 103.53],
    'model.data_preprocessor.std': [58.395, 57.12, 57.375],
    'model.data_preprocessor.bgr_to_rgb': True,
}
ADAMW = {
    'optim_wrapper.optimizer.type': 'AdamW',
    'optim_wrapper.optimizer.betas': [0.9, 0.999],
}
FP16 = {'optim_wrapper.type': 'backbones.GuardedAmpOptimWrapper', 'optim_wrapper.dtype': 'float16'}
LAYER_DECAY = {'optim_wrapper.constructor': 'backbones.LayerDecayOptimWrapperConstructor'}
CONVNEXT = {'model.backbone.type': 'backbones.ConvNeXt', 'model.backbone.layer_scale_init_value': 1.0}

FPN = {'model.neck.type': 'FPN', 'model.neck.out_channels': 256, 'model.neck.num_outs': 5}
RPN_AND_TEST = {
    'model.rpn_head.anchor_generator.scales': [8],
    'model.rpn_head.anchor_generator.ratios': [0.5, 1.0, 2.0],
    'model.rpn_head.anchor_generator.strides': [4, 8, 16, 32, 64],
    'model.train_cfg.rpn.sampler.num': 256,
    'model.train_cfg.rpn_proposal.nms_pre': 2000,
    'model.test_cfg.rpn.nms_pre': 1000,
    'model.test_cfg.rpn.max_per_img': 1000,
    'model.test_cfg.rcnn.score_thr': 0.05,
    'model.test_cfg.rcnn.nms.iou_threshold': 0.5,
    'model.test_cfg.rcnn.max_per_img': 100,
}
MASK_RCNN = RPN_AND_TEST | {
    'model.type': 'MaskRCNN',
    'model.rpn_head.loss_bbox.type': 'L1Loss',
    'model.roi_head.bbox_head.reg_class_agnostic': False,
    'model.roi_head.bbox_head.fc_out_channels': 1024,
    'model.roi_head.bbox_head.loss_bbox.type': 'L1Loss',
    'model.roi_head.bbox_head.bbox_coder.target_stds': [0.1, 0.1, 0.2, 0.2],
    'model.roi_head.mask_head.num_convs': 4,
    'model.train_cfg.rpn_proposal.max_per_img': 1000,
    'model.train_cfg.rcnn.sampler.num': 512,
    'model.train_cfg.rcnn.sampler.pos_fraction': 0.25,
    'model.train_cfg.rcnn.assigner.pos_iou_thr': 0.5,
}
CASCADE = RPN_AND_TEST | {
    'model.type': 'CascadeRCNN',
    'model.rpn_head.loss_bbox.type': 'SmoothL1Loss',
    'model.roi_head.num_stages': 3,
    'model.roi_head.stage_loss_weights': [1, 0.5, 0.25],
    'model.roi_head.mask_head.num_convs': 4,
    'model.train_cfg.rpn_proposal.max_per_img': 2000,
}
for stage, (iou, std) in enumerate([(0.5, 0.1), (0.6, 0.05), (0.7, 0.033)]):
    head, rcnn = f'model.roi_head.bbox_head.{stage}', f'model.train_cfg.rcnn.{stage}'
    CASCADE |= {
        f'{head}.type': 'ConvFCBBoxHead',
        f'{head}.num_shared_convs': 4,
        f'{head}.num_shared_fcs': 1,
        f'{head}.conv_out_channels': 256,
        f'{head}.fc_out_channels': 1024,
        f'{head}.norm_cfg.type': 'SyncBN',
        f'{head}.reg_class_agnostic': False,
        f'{head}.reg_decoded_bbox': True,
        f'{head}.loss_bbox.type': 'GIoULoss',
        f'{head}.loss_bbox.loss_weight': 10.0,
        f'{head}.bbox_coder.target_stds.0': std,
        f'{rcnn}.assigner.pos_iou_thr': iou,
        f'{rcnn}.assigner.neg_iou_thr': iou,
        f'{rcnn}.assigner.match_low_quality': False,
        f'{rcnn}.sampler.num': 512,
    }
UPERNET = {
    'model.decode_head.type': 'backbones.UPerHead',
    'model.decode_head.channels': 512,
    'model.decode_head.pool_scales': [1, 2, 3, 6],
    'model.decode_head.norm_cfg.type': 'SyncBN',
    'model.decode_head.dropout_ratio': 0.1,
    'model.decode_head.num_classes': 150,
    'model.auxiliary_head.type': 'backbones.FCNHead',
    'model.auxiliary_head.num_convs': 1,
    'model.auxiliary_head.norm_cfg.type': 'SyncBN',
    'model.auxiliary_head.num_classes': 150,
    'model.auxiliary_head.loss_decode.loss_weight': 0.4,
}

COCO_3X = ADAMW | FP16 | LAYER_DECAY | {
    'optim_wrapper.optimizer.weight_decay': 0.05,
    'optim_wrapper.paramwise_cfg.decay_type': 'layer_wise',
    'optim_wrapper.paramwise_cfg.weight_decay_rule': 'convnext',
    'train_cfg.max_epochs': 36,
    'param_scheduler.0.type': 'LinearLR',
    'param_scheduler.0.start_factor': 0.001,
    'param_scheduler.0.by_epoch': False,
    'param_scheduler.0.end': 500,
    'param_scheduler.1.type': 'MultiStepLR',
    'param_scheduler.1.by_epoch': True,
    'param_scheduler.1.milestones': [27, 33],
    'param_scheduler.1.gamma': 0.1,
    'train_dataloader.batch_size': 2,
    'total_batch': 16,
}  # fmt: skip
SHORT_SIDES = [[side, 1333] for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
COCO_MULTI_SCALE = IMAGENET | {
    'model.data_preprocessor.pad_size_divisor': 32,
    'train.RandomFlip.prob': 0.5,
    'train.RandomChoice.transforms.0.0.scales': SHORT_SIDES,
    'train.RandomChoice.transforms.1.0.scales': [[400, 1333], [500, 1333], [600, 1333]],
    'train.RandomChoice.transforms.1.1.crop_type': 'absolute_range',
    'train.RandomChoice.transforms.1.1.crop_size': [384, 600],
    'train.RandomChoice.transforms.1.1.allow_negative_crop': True,
    'train.RandomChoice.transforms.1.2.scales': SHORT_SIDES,
    'test.Resize.scale': [1333, 800],
}
ADE20K_160K = ADAMW | UPERNET | {
    'train_cfg.max_iters': 160000,
    'param_scheduler.0.type': 'LinearLR',
    'param_scheduler.0.start_factor': 1e-6,
    'param_scheduler.0.by_epoch': False,
    'param_scheduler.0.end': 1500,
    'param_scheduler.1.type': 'PolyLR',
    'param_scheduler.1.by_epoch': False,
    'param_scheduler.1.power': 1.0,
    'param_scheduler.1.eta_min': 0.0,
    'param_scheduler.1.begin': 0,
    'param_scheduler.1.end': 160000,
    'train_dataloader.batch_size': 2,
    'total_batch': 16,
    'train.RandomResize.ratio_range': [0.5, 2.0],
    'train.RandomCrop.cat_max_ratio': 0.75,
    'train.RandomFlip.prob': 0.5,
}  # fmt: skip

RECIPES: dict[str, dict[str, Any]] = {
    'mask-rcnn_convnext-t-in1k_3x_coco': CONVNEXT | FPN | MASK_RCNN | COCO_3X | COCO_MULTI_SCALE | {
        'model.backbone.arch': 'tiny',
        'model.backbone.drop_path_rate': 0.4,
        'model.backbone.init_cfg.checkpoint': f'{CONVNEXT_FILES}/convnext_tiny_1k_224.pth',
        'model.neck.in_channels': [96, 192, 384, 768],
        'model.roi_head.bbox_head.type': 'Shared2FCBBoxHead',
        'model.train_cfg.rcnn.assigner.match_low_quality': True,
        'optim_wrapper.optimizer.lr': 1e-4,
        'optim_wrapper.paramwise_cfg.decay_rate': 0.95,
    },
    'cascade-mask-rcnn_convnext-b-in22k_3x_coco': CONVNEXT | FPN | CASCADE | COCO_3X | COCO_MULTI_SCALE | {
        'model.backbone.arch': 'base',
        'model.backbone.drop_path_rate': 0.6,
        'model.backbone.init_cfg.checkpoint': 'convnext-b-in22k',
        'model.neck.in_channels': [128, 256, 512, 1024],
        'optim_wrapper.optimizer.lr': 1e-4,
        'optim_wrapper.paramwise_cfg.decay_rate': 0.8,
    },
    'upernet_convnext-b-in22k_160k_ade20k-640': CONVNEXT | ADE20K_160K | FP16 | LAYER_DECAY | IMAGENET | {
        'model.backbone.arch': 'base',
        'model.backbone.drop_path_rate': 0.4,
        'model.backbone.init_cfg.checkpoint': 'convnext-b-in22k',
        'model.data_preprocessor.size': [640, 640],
        'model.decode_head.in_channels': [128, 256, 512, 1024],
        'model.auxiliary_head.in_channels': 512,
        'model.auxiliary_head.in_index': 2,
        'model.test_cfg': {'mode': 'slide', 'crop_size': [640, 640], 'stride': [426, 426]},
        'optim_wrapper.optimizer.lr': 1e-4,
        'optim_wrapper.optimizer.weight_decay': 0.05,
        'optim_wrapper.paramwise_cfg.decay_type': 'stage_wise',
        'optim_wrapper.paramwise_cfg.decay_rate': 0.9,
        'optim_wrapper.paramwise_cfg.weight_decay_rule': 'convnext',
        'train.RandomResize.scale': [2560, 640],
        'train.RandomCrop.crop_size': [640, 640],
        'test.Resize.scale': [2560, 640],
    },
    'mask-rcnn_vitdet-b-mae_100e_coco': MASK_RCNN | ADAMW | FP16 | LAYER_DECAY | IMAGENET | {
        'model.backbone.type': 'backbones.VisionTransformer',
        'model.backbone.arch': 'base',
        'model.backbone.with_cls_token': False,
        'model.backbone.window_size': 14,
        'model.backbone.global_attn_indexes': [2, 5, 8, 11],
        'model.backbone.rel_pos': 'decomposed',
        'model.backbone.img_size': 1024,
        'model.backbone.norm_eps': 1e-6,
        'model.backbone.drop_path_rate': 0.1,
        'model.backbone.init_cfg.checkpoint': 'vit-b-mae',
        'model.neck.type': 'backbones.SimpleFPN',
        'model.neck.out_channels': 256,
        'model.neck.num_outs': 5,
        'model.rpn_head.num_convs': 2,
        'model.roi_head.bbox_head.type': 'Shared4Conv1FCBBoxHead',
        'model.roi_head.bbox_head.conv_out_channels': 256,
        'model.roi_head.bbox_head.norm_cfg': {'type': 'backbones.LN2d', 'eps': 1e-6},
        'model.roi_head.mask_head.norm_cfg': {'type': 'backbones.LN2d', 'eps': 1e-6},
        # detectron2's matcher of RoIs: allow_low_quality_matches=False, unlike mmdet's Mask R-CNN
        'model.train_cfg.rcnn.assigner.match_low_quality': False,
        'model.train_cfg.rpn.assigner.match_low_quality': True,
        'model.data_preprocessor.pad_size_divisor': 1024,
        'optim_wrapper.optimizer.lr': 1e-4,
        'optim_wrapper.optimizer.weight_decay': 0.1,
        'optim_wrapper.paramwise_cfg.decay_type': 'layer_wise',
        'optim_wrapper.paramwise_cfg.decay_rate': 0.7,
        'optim_wrapper.paramwise_cfg.weight_decay_rule': 'vitdet',
        'train_cfg.max_iters': 184375,
        'param_scheduler.0.type': 'LinearLR',
        'param_scheduler.0.start_factor': 0.001,
        'param_scheduler.0.by_epoch': False,
        'param_scheduler.0.end': 250,
        'param_scheduler.1.type': 'MultiStepLR',
        'param_scheduler.1.by_epoch': False,
        'param_scheduler.1.milestones': [163889, 177546],
        'param_scheduler.1.gamma': 0.1,
        'train_dataloader.batch_size': 1,
        'total_batch': 64,
        'train.RandomFlip.prob': 0.5,
        'train.RandomResize.scale': [1024, 1024],
        'train.RandomResize.ratio_range': [0.1, 2.0],
        'train.RandomCrop.crop_size': [1024, 1024],
        'train.RandomCrop.recompute_bbox': True,
        'test.Resize.scale': [1024, 1024],
    },
    'upernet_vit-b-in21k-mmseg_160k_ade20k-512': ADE20K_160K | {
        'model.backbone.type': 'backbones.VisionTransformer',
        'model.backbone.arch': 'base',
        'model.backbone.out_norm': 'last',
        'model.backbone.norm_eps': 1e-6,
        'model.backbone.drop_path_rate': 0.1,
        # our own choice: weights of ImageNet-21k alone, with the normalisation that they were trained with
        'model.backbone.init_cfg.checkpoint': 'vit-b-augreg-in21k',
        'model.data_preprocessor.mean': [127.5, 127.5, 127.5],
        'model.data_preprocessor.std': [127.5, 127.5, 127.5],
        'model.data_preprocessor.size': [512, 512],
        'model.neck.type': 'MultiLevelNeck',
        'model.neck.out_channels': 768,
        'model.neck.scales': [4, 2, 1, 0.5],
        'model.decode_head.in_channels': [768, 768, 768, 768],
        'model.auxiliary_head.in_channels': 768,
        'model.auxiliary_head.in_index': 3,
        'model.test_cfg': {'mode': 'whole'},
        'optim_wrapper.type': 'backbones.GuardedOptimWrapper',
        'optim_wrapper.optimizer.lr': 6e-5,
        'optim_wrapper.optimizer.weight_decay': 0.01,
        'optim_wrapper.paramwise_cfg.custom_keys': {
            name: {'decay_mult': 0.0} for name in ('pos_embed', 'cls_token')
        },
        'train.RandomResize.scale': [2048, 512],
        'train.RandomCrop.crop_size': [512, 512],
        'test.Resize.scale': [2048, 512],
    },
}  # fmt: skip

# Blocks or stages whose outputs the neck or the head reads.
TAPS = {
    'mask-rcnn_convnext-t-in1k_3x_coco': (0, 1, 2, 3),
    'cascade-mask-rcnn_convnext-b-in22k_3x_coco': (0, 1, 2, 3),
    'upernet_convnext-b-in22k_160k_ade20k-640': (0, 1, 2, 3),
    'mask-rcnn_vitdet-b-mae_100e_coco': (11,),
    'upernet_vit-b-in21k-mmseg_160k_ade20k-512': (2, 5, 8, 11),
}


@functools.cache
def composed(name: str) -> dict[str, Any]:
    """Read a config; the steps of its pipelines lie by name under `train` and `test`."""
    cfg = Config.fromfile(next((ROOT / 'configs').glob(f'*/{name}.py'))).to_dict()
    for phase in ('train', 'test'):
        steps = cfg[f'{phase}_dataloader']['dataset']['pipeline']
        cfg[phase] = {step['type']: step for step in steps}
        assert len(cfg[phase]) == len(steps), f'{phase}: two steps of one name'
    return cfg


def look_up(node: Any, key: str) -> Any:
    """Follow `model.roi_head.bbox_head.0.type`; tuples are given as lists."""
    for part in key.split('.'):
        if isinstance(node, dict):
            if part not in node:
                return f'no {part!r} in {key}'
            node = node[part]
        else:
            node = node[int(part)]
    return as_lists(node)


def as_lists(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: as_lists(value) for key, value in node.items()}
    return [as_lists(value) for value in node] if isinstance(node, list | tuple) else node


@pytest.mark.parametrize('name', RECIPES)
def test_a_config_has_the_published_values(name: str) -> None:
    expected = RECIPES[name]
    assert {key: look_up(composed(name), key) for key in expected} == expected


@pytest.mark.parametrize('name', TAPS)
def test_a_backbone_is_tapped_where_published(name: str) -> None:
    with torch.device('meta'):
        backbone = MODELS.build(composed(name)['model']['backbone'])
    assert tuple(backbone.out_indices) == TAPS[name]
