"""Losses of a split: reproducible, of the right pictures, and without a trace in the training."""

from __future__ import annotations

import copy
import importlib
import json
import math
import random

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmdet', reason='mmdet is not installed')

from backbones.config import load_config
from backbones.evaluation.run import run_test
from backbones.evaluation.validation_loss import ValidationLossHook, loss_data, loss_pipeline, measure_losses

LOAD, RESIZE, PACK = dict(type='LoadImageFromFile'), dict(type='Resize', scale=(9, 9)), dict(type='PackDetInputs')
LABELS = dict(type='LoadAnnotations', with_bbox=True, with_mask=False)


def test_annotations_are_resized_with_the_picture():
    steps = loss_pipeline([LOAD, RESIZE, LABELS, PACK], masks=True)
    assert steps == [LOAD, dict(LABELS, with_mask=True), RESIZE, PACK] and LABELS['with_mask'] is False


@pytest.mark.parametrize('pipeline', [[], [LOAD, RESIZE, PACK], [LABELS, LOAD, PACK], [LOAD, LABELS, LABELS, PACK]])
def test_a_pipeline_without_annotations_is_refused(pipeline):
    with pytest.raises(ValueError, match='loads the picture, then its annotations, once'):
        loss_pipeline(pipeline, masks=False)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"split='train'; choose 'val' or 'test'"):
        ValidationLossHook('train')


@pytest.fixture(scope='module', params=['detector', 'segmenter'])
def ready(request, pictures):
    """A model and its data."""
    config, checkpoint = request.getfixturevalue(request.param)
    cfg = load_config(config, {'data_root': f'{pictures}/'})
    importlib.import_module(f'{cfg.default_scope}.models')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    return model, loss_data(cfg, 'val')


def test_the_same_weights_give_the_same_losses_and_leave_no_trace(ready):
    model, data = ready
    model.train()
    model.backbone.eval()  # as frozen parts are
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = measure_losses(model, data)
    assert random.getstate() == states[0] and np.array_equal(np.random.get_state()[1], states[1])
    assert torch.get_rng_state().equal(states[2]) and [module.training for module in model.modules()] == modes
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.manual_seed(99)
    assert measure_losses(model, data) == first and all(map(math.isfinite, first.values()))
    assert first['loss'] == pytest.approx(sum(value for name, value in first.items() if 'loss_' in name), rel=1e-5)


def test_the_loss_is_the_mean_of_the_pictures(ready):
    model, data = ready
    everything = measure_losses(model, data)['loss']

    class One:
        def __init__(self, number: int) -> None:
            self.number = number

        def __len__(self) -> int:
            return self.number + 1

        def __getitem__(self, number: int) -> dict:
            return data[number]

    sums = [measure_losses(model, One(number))['loss'] * (number + 1) for number in range(len(data))]
    assert everything == pytest.approx(sums[-1] / len(data)) and np.diff([0, *sums]).min() > 0


def test_a_test_writes_losses_beside_its_metrics(detector, pictures, tmp_path):
    metrics = run_test(*detector, str(tmp_path), options={'data_root': f'{pictures}/'}, loss=True)
    report = json.loads((tmp_path / 'metrics.json').read_text())
    assert report['metrics']['loss'] == metrics['loss'] > 0 and report['metrics']['loss_mask'] > 0
    assert 'seeded' in report['protocol']['loss'] and 'bbox_mAP' in report['metrics']


def trained(config, pictures, folder, *hooks: dict) -> tuple[dict, list[dict]]:
    """Weights after two epochs, and the lines of the log of numbers."""
    from backbones.runner import build_runner

    cfg = load_config(config, {'data_root': f'{pictures}/'}, str(folder))
    cfg.launcher, cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs = 'none', 1, 2
    cfg.train_cfg.val_interval, cfg.param_scheduler, cfg.env_cfg.dist_cfg = 1, [], dict(backend='gloo')
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.5), *hooks]
    cfg.default_hooks.checkpoint = cfg.default_hooks.watchdog = cfg.default_hooks.resume = None
    cfg.default_hooks = {name: hook for name, hook in cfg.default_hooks.items() if hook is not None}
    cfg.visualizer.name = cfg.experiment_name = str(folder).replace('/', '-')  # MMEngine keeps them by name
    runner = build_runner(cfg)
    runner.train()
    (scalars,) = folder.rglob('vis_data/scalars.json')
    return runner.model.state_dict(), [json.loads(line) for line in scalars.read_text().splitlines()]


def test_a_training_is_the_same_bit_by_bit_and_logs_the_losses_of_the_averages(detector, pictures, tmp_path):
    plain, _ = trained(detector[0], pictures, tmp_path / 'a')
    weights, lines = trained(detector[0], pictures, tmp_path / 'b', dict(type='backbones.ValidationLossHook'))
    assert all(value.equal(plain[name]) for name, value in weights.items())
    losses = [line['loss'] for line in lines if 'coco/bbox_mAP' in line]
    report = json.loads((tmp_path / 'b/metrics.json').read_text())
    assert len(losses) == 2 and report['metrics']['loss'] == losses[-1]
    assert 'seeded' in report['protocol']['loss']

    cfg = load_config(detector[0], {'data_root': f'{pictures}/'})
    model = MODELS.build(cfg.model)
    model.load_state_dict(weights)
    assert measure_losses(model, loss_data(cfg, 'val'))['loss'] != losses[-1]  # those are of the averages
