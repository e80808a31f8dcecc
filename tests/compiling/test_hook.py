"""Compiled training in a run and in a config."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from conftest import ROOT
from mmengine.config import Config, ConfigDict
from torch import nn

from backbones.compiling import hook as hooks
from backbones.compiling.hook import CompileHook
from backbones.compiling.regions import Counts
from backbones.compiling.switch import compile_training


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hook logs."""
    lines: list[str] = []
    monkeypatch.setattr(hooks, 'print_log', lambda text, **_: lines.append(text))
    return lines


def test_counts_are_looked_at_after_the_warm_up_and_a_change_is_said_once(said: list[str]) -> None:
    hook, region = CompileHook(warmup=3, interval=2), SimpleNamespace(name='neck', counts=Counts())
    hook.regions = [region]
    for step in range(9):
        region.counts.recompiles = int(step >= 3)  # the third iteration after the warm-up and later
        hook.after_train_iter(None, step)
    assert said == [
        '--compile: neck had 1 recompilations and 0 graph breaks so far, where there should be none, and is slower for '
        'it; TORCH_LOGS=recompiles,graph_breaks says why']


def test_a_run_compiles_its_model_and_gives_it_back(said: list[str]) -> None:
    model = nn.ModuleDict(dict(backbone=nn.Conv2d(3, 4, 1)))
    model.__dict__['backbone'] = model['backbone']
    hook, runner = CompileHook(backend='eager'), SimpleNamespace(model=model)
    hook.before_train(runner)
    assert 'forward' in vars(model['backbone'])
    hook.after_train(runner)
    assert 'forward' not in vars(model['backbone'])
    assert said[-1] == '--compile: backbone: 0 sizes, 0 recompilations, 0 graph breaks, 0 passes uncompiled'


def test_the_multi_scale_recipe_gets_buckets() -> None:
    cfg = Config.fromfile(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py')
    (note,) = compile_training(cfg)
    assert cfg.model.data_preprocessor.type == 'backbones.DetDataPreprocessor'
    assert len(cfg.model.data_preprocessor.buckets) == 56
    assert all(size in cfg.model.data_preprocessor.buckets for size in ([416, 416], [1344, 800], [1344, 1344]))
    assert cfg.custom_hooks[-1] == dict(type='backbones.CompileHook', most=112)
    assert 'training batches are padded to 56 sizes, up to 1344 x 1344' in note


@pytest.mark.parametrize(
    'name', ['vit/mask-rcnn_vitdet-b-mae_100e_coco', 'convnext/upernet_convnext-t-in1k_160k_ade20k-512'])
def test_a_recipe_of_one_size_keeps_it(name: str) -> None:
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    assert compile_training(cfg) == []
    buckets = cfg.model.data_preprocessor.get('buckets')
    assert buckets in (None, [[1024, 1024]]) and cfg.custom_hooks[-1].type == 'backbones.CompileHook'


def test_an_unknown_preprocessor_is_said() -> None:
    cfg = ConfigDict(model=dict(data_preprocessor=dict(type='ImgDataPreprocessor')))
    assert 'ImgDataPreprocessor knows no buckets' in compile_training(cfg)[0]


@pytest.mark.parametrize('wrong', [dict(most=0), dict(warmup=1.5), dict(interval=True)], ids=str)
def test_wrong_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match='give a number, 1 or more'):
        CompileHook(**wrong)
