"""Every published recipe gives every parameter the learning rate and weight decay of the official code."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from layer_decay_helpers import settings
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from stock import rules
from torch import nn

CONSTRUCTOR = 'backbones.LayerDecayOptimWrapperConstructor'
# small/ has models of our own, which no rule was published for
LEAVES = [path for path in sorted((ROOT / 'configs').glob('*/*.py')) if path.parent.name not in ('_base_', 'small')]
# The `num_layers` of the official configs; where a size has no official config, that of its number of blocks.
CONVNEXT_LAYERS = {'t': 6, 's': 12, 'b': 12, 'l': 12, 'xl': 12, 'h': 12}
VIT_LAYERS = {'b': 12, 'l': 24, 'h': 32}
# Published decay rates by the beginning of a leaf's name; other leaves are variants of our own and state theirs.
RATES = {
    'mask-rcnn_convnext-t-in1k': 0.95, 'cascade-mask-rcnn_convnext-t-in1k': 0.7,
    'cascade-mask-rcnn_convnext-s-in1k': 0.7, 'cascade-mask-rcnn_convnext-b-in': 0.8,
    'cascade-mask-rcnn_convnext-l-in22k': 0.7, 'cascade-mask-rcnn_convnext-xl-in22k': 0.7, 'upernet_convnext-': 0.9,
    'mask-rcnn_vitdet-b-mae': 0.7, 'mask-rcnn_vitdet-l-mae': 0.8, 'mask-rcnn_vitdet-h-mae': 0.9,
    'cascade-mask-rcnn_vitdet-b-mae': 0.7, 'cascade-mask-rcnn_vitdet-l-mae': 0.8,
    'cascade-mask-rcnn_vitdet-h-mae': 0.9, 'upernet_beit-b': 0.9, 'upernet_beit-l': 0.95, 'upernet_vit-b-mae': 0.65,
}
_BUILT: dict[str, nn.Module] = {}


def leaves_with_decay() -> list[Path]:
    return [path for path in LEAVES if Config.fromfile(path).optim_wrapper.get('constructor') == CONSTRUCTOR]


def official(name: str, rate: float) -> Callable[[str, int], tuple[float, bool]]:
    """The rule of a recipe, by its file name."""
    if found := re.search(r'_convnext(?:v2)?-([a-z]+)-', name):
        kind = 'stage_wise' if name.startswith('upernet') else 'layer_wise'
        return partial(rules.convnext, rate=rate, layers=CONVNEXT_LAYERS[found[1]], decay_type=kind)
    family, size = re.search(r'_(vitdet|beit|vit)-([blh])-', name).groups()
    if family == 'vitdet':
        return partial(rules.vitdet, rate=rate, layers=VIT_LAYERS[size], huge=size == 'h')
    return partial(rules.beit, rate=rate, layers=VIT_LAYERS[size])


def build_on_meta(cfg: Config) -> nn.Module:
    """Build the model, or take that of an earlier leaf whose parameters have the same names and shapes."""
    backbone = {key: value for key, value in cfg.model.backbone.items() if key not in ('init_cfg', 'drop_path_rate')}
    parts = ('type', 'neck', 'rpn_head', 'roi_head', 'decode_head', 'auxiliary_head')
    key = repr((backbone, {part: cfg.model.get(part) for part in parts}))
    if key not in _BUILT:
        init_default_scope(cfg.default_scope)
        with torch.device('meta'):
            _BUILT[key] = MODELS.build(cfg.model)
    return _BUILT[key]


@pytest.mark.parametrize('path', leaves_with_decay(), ids=lambda path: path.stem)
def test_every_parameter_has_the_official_learning_rate_and_weight_decay(path: Path) -> None:
    cfg = Config.fromfile(path)
    base = cfg.optim_wrapper.optimizer
    model = build_on_meta(cfg)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')  # mixed precision needs a GPU and changes no rate
    wrapper.pop('dtype', None)
    found = settings(model, build_optim_wrapper(model, wrapper).optimizer)
    published = [rate for beginning, rate in RATES.items() if path.stem.startswith(beginning)]
    rule = official(path.stem, published[0] if published else cfg.optim_wrapper.paramwise_cfg.decay_rate)
    expected = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            factor, decayed = rule(name, value.ndim)
            expected[name] = (base.lr * factor, base.weight_decay if decayed else 0.0)
    assert set(found) == set(expected)
    wrong = {name: (found[name], expected[name]) for name in expected if found[name] != pytest.approx(expected[name])}
    assert wrong == {}
