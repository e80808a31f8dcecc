"""Twenty optimiser steps of our detectors equal those of the same models made of mmdet's parts and plain torch.

Ours: the fragments of configs/, our backbones, necks, RoI extractor, optimiser constructor. Theirs: mmdet's own config
and classes, the backbones of tests/stock, mmdet's constructor or detectron2's rule. Equal weights, images and seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from stock import convnext, rules, vitdet
from stock.toy import WIDTH, batch, shrink, toy_fragment
from torch import nn

STEPS = 20
TOLERANCE = 1e-4  # absolute, on every loss of every step
LR, CONVNEXT_DECAY, VIT_DECAY = 3e-4, 0.7, 0.8
DEPTHS, DIMS = (1, 1, 4, 1), (8, 16, 24, 32)
OURS = 'backbones.LayerDecayOptimWrapperConstructor'
Detectors = tuple[nn.Module, torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    init_default_scope('mmdet')


def stock_config() -> ConfigDict:
    """mmdet's own Mask R-CNN, narrow."""
    folder = Path(mmdet.__file__).parent / '.mim' / 'configs' / '_base_' / 'models'
    return shrink(Config.fromfile(folder / 'mask-rcnn_r50_fpn.py').model)


def build(cfg: ConfigDict) -> nn.Module:
    """Build a detector whose losses do not hang on rounding.

    Where two scores differ by less than rounding, or a unit lies on the edge of its ReLU, chance decides and Adam makes
    much of it; so scores are spread and proposals few. All anchors and all that the first stage finds are taken, as the
    two sides draw from them by other random numbers.
    """
    torch.manual_seed(0)
    cfg.train_cfg.rpn_proposal.nms_pre = 4
    cfg.train_cfg.rpn.sampler.num = 4096
    cfg.train_cfg.rcnn.sampler.num = 256
    model = MODELS.build(cfg)
    model.init_weights()
    nn.init.normal_(model.rpn_head.rpn_cls.weight, std=0.5)
    return model.train()


def adamw(model: nn.Module, constructor: str, weight_decay: float, **paramwise: object) -> torch.optim.Optimizer:
    return build_optim_wrapper(model, dict(
        type='OptimWrapper', constructor=constructor, paramwise_cfg=paramwise,
        optimizer=dict(type='AdamW', lr=LR, weight_decay=weight_decay))).optimizer


def our_convnext() -> Detectors:
    cfg = toy_fragment('mask_rcnn')
    cfg.backbone = dict(
        type='backbones.ConvNeXt', arch=dict(depths=DEPTHS, dims=DIMS), layer_scale_init_value=1.0)
    cfg.neck.in_channels = list(DIMS)
    model = build(cfg)
    return model, adamw(model, OURS, 0.05, decay_rate=CONVNEXT_DECAY, decay_type='layer_wise')


def stock_convnext() -> Detectors:
    cfg = stock_config()
    cfg.backbone = dict(type=convnext.StockConvNeXt.__name__, depths=DEPTHS, dims=DIMS)
    cfg.neck.in_channels = list(DIMS)
    model = build(cfg)
    optimizer = adamw(
        model, 'LearningRateDecayOptimizerConstructor', 0.05, decay_rate=CONVNEXT_DECAY, decay_type='layer_wise',
        num_layers=3 + -(-DEPTHS[2] // 3))
    return model, optimizer


def our_vitdet() -> Detectors:
    cfg = toy_fragment('mask_rcnn_vitdet')
    # 4 x 4 tokens in windows of 3, and a table of positions for 2 x 2: padding and interpolation take part
    cfg.backbone = dict(
        type='backbones.VisionTransformer', arch=dict(embed_dim=16, depth=3, num_heads=2), with_cls_token=False,
        window_size=3, global_attn_indexes=(2,), rel_pos='decomposed', img_size=64, pretrain_img_size=32)
    cfg.neck.in_channels = 16
    model = build(cfg)
    for name, value in model.named_parameters():
        if 'rel_pos' in name:
            nn.init.normal_(value, std=0.1)  # they start at zero, which would hide a mistake of sign or order
    return model, adamw(model, OURS, 0.1, decay_rate=VIT_DECAY, weight_decay_rule='vitdet')


def stock_vitdet() -> Detectors:
    cfg = stock_config()
    cfg.backbone = dict(
        type=vitdet.StockViT.__name__, dim=16, depth=3, heads=2, window=3, global_blocks=(2,), image=64,
        pretrained_image=32)
    cfg.neck = dict(type=vitdet.StockPyramid.__name__, dim=16, out=WIDTH)
    norm = dict(type='StockLayerNorm', eps=1e-6)
    cfg.rpn_head.num_convs = 2
    cfg.roi_head.bbox_head.update(type='Shared4Conv1FCBBoxHead', conv_out_channels=WIDTH, norm_cfg=norm)
    cfg.roi_head.mask_head.norm_cfg = norm
    cfg.train_cfg.rpn.assigner.min_pos_iou = 0.0
    cfg.train_cfg.rcnn.assigner.match_low_quality = False
    model = build(cfg)
    return model, torch.optim.AdamW(detectron2_groups(model, 3), lr=LR)


def detectron2_groups(model: nn.Module, blocks: int) -> list[dict]:
    """detectron2's groups, one per parameter."""
    groups = []
    for name, value in model.named_parameters():
        factor, decayed = rules.vitdet(name, value.ndim, VIT_DECAY, blocks)
        groups.append(dict(params=[value], lr=LR * factor, weight_decay=0.1 if decayed else 0.0))
    return groups


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Ours into theirs, every name once; mmdet's extractor has no parameters."""
    theirs.load_state_dict(ours.state_dict(), strict=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Losses of every step."""
    history = []
    for step in range(STEPS):
        torch.manual_seed(step)  # the sampler of the RPN draws from it
        data = model.data_preprocessor(batch(step % 4, images=1), training=True)
        losses = model(**data, mode='loss')
        losses = {name: sum(part) if isinstance(part, list) else part for name, part in losses.items()}
        losses.pop('acc')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    return history


def largest_difference(found: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    return max(abs(step[name] - other[name]) for step, other in zip(found, expected, strict=True) for name in step)


@pytest.mark.parametrize(
    ('ours', 'stock'), [(our_convnext, stock_convnext), (our_vitdet, stock_vitdet)], ids=['convnext', 'vitdet'])
def test_the_first_twenty_losses_are_those_of_stock_parts(
    ours: Callable[[], Detectors], stock: Callable[[], Detectors]
) -> None:
    (model, optimizer), (reference, reference_optimizer) = ours(), stock()
    copy_weights(model, reference)
    found, expected = train(model, optimizer), train(reference, reference_optimizer)
    names = {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'}
    assert [set(step) for step in found] == [names] * STEPS
    assert largest_difference(found, expected) < TOLERANCE
    # the same images come back every fourth step: what they cost has changed by far more than the tolerance
    moved = min(abs(sum(found[i].values()) - sum(found[i + 16].values())) for i in range(4))
    assert moved > 1000 * TOLERANCE


def test_a_wrong_learning_rate_would_show() -> None:
    (model, optimizer), (reference, reference_optimizer) = our_vitdet(), stock_vitdet()
    copy_weights(model, reference)
    for group in optimizer.param_groups:
        group['lr'] *= 1.05
    found, expected = train(model, optimizer), train(reference, reference_optimizer)
    assert largest_difference(found, expected) > 10 * TOLERANCE
