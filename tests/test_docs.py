"""The configs that the pages show work as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope

from backbones.preflight.model import check_model
from backbones.training.inject_run import set_faults


def blocks(page: str, word: str) -> list[str]:
    """The Python blocks of a page that hold `word`."""
    found = re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), flags=re.S)
    return [block for block in found if word in block]


def compose(text: str, folder: Path) -> Config:
    """Read `text` as a config file."""
    path = folder / 'config.py'
    path.write_text(text)
    return Config.fromfile(path)


INHERITED = blocks('docs/plugin.md', '_base_')


@pytest.mark.parametrize('text', INHERITED, ids=lambda text: re.search(r"'backbones\.(\w+)'", text)[1])
def test_a_config_inherited_from_mmdet_builds_with_fitting_maps_and_optimiser(text: str, tmp_path: Path) -> None:
    pytest.importorskip('mmdet')
    cfg = compose(text, tmp_path)
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__module__.startswith('backbones.')
    check_model(model)
    settings = cfg.optim_wrapper.to_dict()
    kind = settings.pop('constructor', 'DefaultOptimWrapperConstructor')
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type=kind, paramwise_cfg=settings.pop('paramwise_cfg', None), optim_wrapper_cfg=settings))
    assert constructor(model).optimizer.param_groups


def test_both_kinds_of_backbone_are_shown_in_a_whole_config() -> None:
    assert len(INHERITED) == 2


@pytest.mark.parametrize(
    ('word', 'leaf'),
    [('CocoDataset', 'convnext/mask-rcnn_convnext-t-in1k_3x_coco.py'),
     ('LabelMapDataset', 'convnext/upernet_convnext-b-in22k_160k_ade20k-640.py')])
def test_your_own_data_at_the_end_of_a_leaf_replaces_all_data_of_the_leaf(word: str, leaf: str, tmp_path: Path) -> None:
    (text,) = blocks('data/README.md', word)
    cfg = compose(f"_base_ = {str(ROOT / 'configs' / leaf)!r}\n{text}", tmp_path)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert (dataset.type, dataset.data_root) == (f'backbones.{word}', 'my_data')
        assert 'pipeline' in dataset and dataset.get('test_mode', False) == (split != 'train')
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.test_evaluator.get('ann_file', 'my_data/val.json') == 'my_data/val.json'


def test_every_test_that_the_page_of_promises_names_is_there() -> None:
    named = set(re.findall(r'`(test_\w+)`', (ROOT / 'docs/survival.md').read_text()))
    files = (ROOT / 'tests').rglob('test_*.py')
    there = {name for file in files for name in re.findall(r'def (test_\w+)', file.read_text())}
    assert len(named) > 40 and sorted(named - there) == []


def test_the_faults_that_the_page_lists_are_understood() -> None:
    rows = (ROOT / 'docs/survival.md').read_text().split('| fault |')[1].split('Several')[0].splitlines()[2:]
    faults = [fault for row in rows if row.startswith('|') for fault in re.findall(r'`([a-z-]+@[^`]*)`', row)]
    assert len(faults) > 8
    for fault in faults:
        set_faults(fault)
    set_faults('')
