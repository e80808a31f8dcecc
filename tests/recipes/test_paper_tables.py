"""Every row of the papers' tables: parameters to the printed digits, FLOPs within 1 %, scores as the cards state them.

tests/references/paper_tables.json is a transcription of the tables that is independent of the cards.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.flops import classifier_macs, count_macs, count_params, on_meta
from backbones.recipes.card import read_card

ROWS = json.loads((ROOT / 'tests/references/paper_tables.json').read_text())['entries']
ARCHS = dict(A='atto', F='femto', P='pico', N='nano', T='tiny', S='small', B='base', L='large', XL='xlarge', H='huge')
HEADS = {
    'Mask R-CNN': 'mask-rcnn', 'Cascade Mask R-CNN': 'cascade-mask-rcnn', 'UPerNet': 'upernet',
    'Mask R-CNN (ViTDet simple feature pyramid)': 'mask-rcnn',
    'Cascade Mask R-CNN (ViTDet simple feature pyramid)': 'cascade-mask-rcnn',
    'Mask R-CNN (FPN)': 'mask-rcnn', 'Cascade Mask R-CNN (FPN)': 'cascade-mask-rcnn',
}
WEIGHTS = {'ImageNet-1K': 'in1k', 'ImageNet-22K': 'in22k', 'supervised': 'in1k', 'FCMAE': 'fcmae', 'MAE': 'mae',
           'FCMAE, 22K fine-tuned': 'in22k'}
# V2 weights that were trained with labels from the start were never published: the model is that of FCMAE's row.
NO_WEIGHTS = {('ConvNeXt V2-B', 'supervised'), ('ConvNeXt V2-L', 'supervised')}
# Table 9 prints 662M and 692M where the official code has 661.2M and 691.5M: the tables' own computed_exact_params.
ROUNDED_UP = {'ViT-H'}
# The README prints ConvNeXt-B at 384 with 45.0G in one table and with 47.0G in another; the former is right.
MISPRINTED = {('ConvNeXt-B', 47000000000)}
NEITHER_TOOLBOX = [row for row in ROWS if row['model'].startswith('MViTv2')]  # has that backbone


def label(row: dict[str, Any]) -> str:
    return f'{row["model"]}, {row["pretrain"]}, {row["head"]}, {row["input"][0]}'


def recipe(row: dict[str, Any]) -> str | None:
    """Name of the config of a row of a detector or segmenter."""
    family, _, size = row['model'].rpartition('-')
    name = {'ConvNeXt': 'convnext', 'ConvNeXt V1': 'convnext', 'ConvNeXt V2': 'convnextv2', 'ViT': 'vitdet'}.get(family)
    if name is None:
        return None
    weights, head = WEIGHTS[row['pretrain']], HEADS[row['head']]
    if head == 'upernet':
        weights = 'in1k' if weights == 'fcmae' else weights
        return f'upernet_{name}-{size.lower()}-{weights}_160k_ade20k-{row["crop"]}'
    if (row['model'], row['pretrain']) in NO_WEIGHTS:
        weights = 'fcmae'
    schedule = {'ViT': '75e' if size == 'H' else '100e', 'ConvNeXt': '3x'}.get(family, '3x-lsj')
    return f'{head}_{name}-{size.lower()}-{weights}_{schedule}_coco'


def built(model: dict, scope: str) -> nn.Module:
    with on_meta(), DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def assert_counts(row: dict[str, Any], params: int, macs: int) -> None:
    if row['params'] is not None:
        unit = 1e5 if row['params'] % 1e6 else 1e6  # of the last printed digit
        near = unit if row['model'] in ROUNDED_UP or row['task'] == 'classification' else 0.5 * unit
        assert abs(params - row['params']) <= near
    tolerance = 0.06e12 if 'flops_precision' in row else 0.01 * row['flops']
    assert abs(macs - row['flops']) <= tolerance


CLASSIFIERS = [
    row for row in ROWS if row['task'] == 'classification' and (row['model'], row['flops']) not in MISPRINTED]
RECIPES = [row for row in ROWS if row['task'] != 'classification' and recipe(row)]
SWIN_VITDET = [row for row in ROWS if row['model'] in ('Swin-B', 'Swin-L')]


def test_every_row_of_the_tables_is_compared_but_for_those_of_mvit_and_a_misprint() -> None:
    compared = len(CLASSIFIERS) + len(RECIPES) + len(SWIN_VITDET)
    assert compared + len(NEITHER_TOOLBOX) + len(MISPRINTED) == len(ROWS) == 81


@pytest.mark.parametrize('row', CLASSIFIERS, ids=label)
def test_a_classifier_has_the_printed_counts(row: dict[str, Any]) -> None:
    family, _, size = row['model'].removesuffix(' isotropic').rpartition('-')
    arch = f'isotropic_{ARCHS[size]}' if row['model'].endswith('isotropic') else ARCHS[size]
    with on_meta():
        last = ConvNeXt(arch).out_indices[-1]
        model = ConvNeXt(arch, out_indices=(last,), use_grn=family.endswith('V2'))
    params = sum(value.numel() for value in model.parameters()) + 1000 * (model.out_channels[-1] + 1)
    assert_counts(row, params, classifier_macs(model, tuple(row['input'])).total)


@pytest.mark.parametrize('row', RECIPES, ids=label)
def test_a_recipe_has_the_printed_counts_and_its_card_the_printed_scores(row: dict[str, Any]) -> None:
    cfg = Config.fromfile(next((ROOT / 'configs').glob(f'*/{recipe(row)}.py')))
    model = built(cfg.model, cfg.default_scope)
    assert_counts(row, count_params(model).total, count_macs(model, tuple(row['input'])).total)
    if (row['model'], row['pretrain']) in NO_WEIGHTS or (row['model'], row['head']) == ('ConvNeXt V1-B', 'UPerNet'):
        return
    score = read_card(cfg).score
    printed = {'box_map': 'box', 'mask_map': 'mask', 'miou_ss': 'mIoU', 'miou_ms': 'mIoU_ms'}
    assert score == {name: row[key] for key, name in printed.items() if key in row}


@pytest.mark.parametrize('row', SWIN_VITDET, ids=label)
def test_swin_in_the_detectors_of_vitdet_has_the_printed_counts(row: dict[str, Any]) -> None:
    head = HEADS[row['head']].replace('-', '_')
    model = Config.fromfile(ROOT / f'configs/_base_/models/{head}_vitdet.py').model
    width, heads = {'B': (128, (4, 8, 16, 32)), 'L': (192, (6, 12, 24, 48))}[row['model'][-1]]
    model.backbone = dict(
        type='SwinTransformer', embed_dims=width, depths=(2, 2, 18, 2), num_heads=heads, window_size=7)
    model.neck = dict(
        type='FPN', in_channels=[width * 2**i for i in range(4)], out_channels=256, num_outs=5,
        norm_cfg=dict(type='backbones.LN2d', eps=1e-6))
    model = built(model, 'mmdet')
    assert_counts(row, count_params(model).total, count_macs(model, tuple(row['input'])).total)
