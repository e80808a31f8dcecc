"""Recipes without layer decay: every parameter learns at the base rate, and the source's parts of names are spared."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from backbones.flops import on_meta

# By the file name, never by the config's own keys: Swin's three keys
# (https://github.com/SwinTransformer/Swin-Transformer-Object-Detection/tree/6a979e2/configs/swin), what mmseg's keys
# match of its ViT (`norm` matches none of its names), and nothing for ResNet-50 and the linear heads.
SPARED = {
    '_swin-': ('absolute_pos_embed', 'relative_position_bias_table', 'norm'),
    '_vit-b-deit_': ('pos_embed', 'cls_token'),
    '_vit-b-in21k-mmseg_': ('pos_embed', 'cls_token'),
    '_r50-': (),
    'linear_': (),
}
LEAVES = [
    path for path in sorted((ROOT / 'configs').glob('*/*.py'))
    if path.parent.name in ('convnext', 'vit', 'baselines')
    and Config.fromfile(path).optim_wrapper.get('constructor') in (None, 'backbones.DefaultOptimWrapperConstructor')]


def test_every_such_recipe_has_a_rule() -> None:
    assert len(LEAVES) == 17
    assert [path.stem for path in LEAVES if sum(part in path.stem for part in SPARED) != 1] == []


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_every_parameter_has_the_rate_and_decay_of_the_source(path: Path) -> None:
    spared = next(keys for part, keys in SPARED.items() if part in path.stem)
    cfg = Config.fromfile(path)
    with on_meta(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    wrapper = cfg.optim_wrapper.to_dict() | {'type': 'OptimWrapper'}
    wrapper.pop('dtype', None)
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    found = {id(value): (group['lr'], group['weight_decay']) for group in groups for value in group['params']}
    base, decay = wrapper['optimizer']['lr'], wrapper['optimizer']['weight_decay']
    wrong = {
        name: found.get(id(value)) for name, value in model.named_parameters() if value.requires_grad
        and found.get(id(value)) != (base, 0.0 if any(key in name for key in spared) else decay)}
    assert wrong == {}
