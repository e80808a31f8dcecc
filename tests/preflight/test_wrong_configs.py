"""Deliberately wrong configs, data and weights, each through the whole quick preflight: finding and exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from preflight_runs import demo_data
from recipe_configs import DETECTOR, SEGMENTER, compose

from backbones.findings import Finding
from backbones.preflight.run import Settings, preflight

TRAINING = 'annotations/instances_train.json'
VALIDATION = 'annotations/instances_val.json'
# A warm-up as short as eight pictures are few.
SHORT = {DETECTOR: {'param_scheduler.0.end': 2}, SEGMENTER: {}}


def found(path: Path, options: dict[str, Any] | None = None, **settings: Any) -> tuple[list[Finding], int]:
    """The errors and warnings of the quick part on the small demo data, and the exit code."""
    options = {'data_root': demo_data(), **SHORT[path], **(options or {})}
    report, _ = preflight(path, Settings(options=options, quick=True, **settings))
    return [finding for finding in report.findings if finding.severity != 'note'], report.exit_code()


@pytest.mark.parametrize('path', [DETECTOR, SEGMENTER])
def test_the_small_recipes_are_free_of_errors_and_warnings(path):
    assert found(path) == ([], 0)


# What is wrong in the config alone, by the severity and a part of what is said.
WRONG_DETECTORS = {
    'neck for another backbone': ({'model.neck.in_channels': [96, 192, 384, 768]}, 'error', 'cannot take the maps'),
    'strides of the RPN': ({'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128]}, 'error', 'strides'),
    'strides of the RoI heads': (
        {'model.roi_head.mask_roi_extractor.featmap_strides': [8, 16, 32, 64]}, 'error', 'featmap_strides'),
    'channels of a head': ({'model.roi_head.bbox_head.in_channels': 256}, 'error', 'in_channels'),
    'classes of one head': ({'model.roi_head.mask_head.num_classes': 80}, 'error', 'num_classes'),
    'classes setting against the file': ({'classes': ['box', 'disk']}, 'error', "'disk'"),
    'evaluator of another split': (
        {'val_evaluator.ann_file': 'TRAINING'}, 'error', 'other pictures'),
    'missing data': ({'train_dataloader.dataset.ann_file': 'annotations/none.json'}, 'error', 'none.json'),
    'key of the older API': ({'optim_wrapper.grad_clip': dict(max_norm=1.0)}, 'error', 'grad_clip'),
    'unknown class': ({'model.backbone.type': 'backbones.ConvNext'}, 'error', 'ConvNext'),
    'learning rate of zero': (
        {'param_scheduler': [dict(type='ConstantLR', factor=0.0, by_epoch=True, begin=0, end=100)]}, 'error', 'zero'),
    'schedule of half the training': ({'train_cfg.max_epochs': 20}, 'warning', 'ends before'),
    'warm-up longer than the training': ({'train_cfg.max_epochs': 1}, 'warning', 'warm-up'),
    'one checkpoint': ({'default_hooks.checkpoint.interval': 1000}, 'warning', 'interval'),
    'autocast on a CPU': ({'optim_wrapper.type': 'AmpOptimWrapper'}, 'error', 'needs a GPU'),
    'unknown precision': ({'precision': 'bf8'}, 'error', 'bf8'),
    'all frozen': ({'model.backbone.frozen_stages': 4}, 'error', 'frozen_stages'),
    'no weights': ({'card': None}, 'warning', 'random values'),
    'another batch than the card': ({'total_batch': 8}, 'error', 'batch'),
}


@pytest.mark.parametrize('case', WRONG_DETECTORS)
def test_a_wrong_detector_config_is_found(case):
    if case == 'autocast on a CPU' and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    changes, severity, part = WRONG_DETECTORS[case]
    changes = {key: f'{demo_data()}/{TRAINING}' if value == 'TRAINING' else value for key, value in changes.items()}
    findings, code = found(DETECTOR, changes)
    assert [one for one in findings if one.severity == severity and part in f'{one.message} {one.field}'], findings
    assert code == (2 if any(one.severity == 'error' for one in findings) else 0)


WRONG_SEGMENTERS = {
    'classes of the auxiliary head': ({'model.auxiliary_head.num_classes': 150}, 'error', 'num_classes'),
    'zero is a class': (
        {'train_dataloader.dataset.reduce_zero_label': False, 'val_dataloader.dataset.reduce_zero_label': False},
        'error', 'reduce_zero_label'),
    'channels of the decode head': ({'model.decode_head.in_channels': [1, 2, 3, 4]}, 'error', 'in_channels'),
    'map that is not there': ({'model.auxiliary_head.in_index': 7}, 'error', 'in_index'),
    'weight per class': (
        {'model.decode_head.loss_decode.class_weight': [1.0, 2.0]}, 'error', 'class_weight'),
}


@pytest.mark.parametrize('case', WRONG_SEGMENTERS)
def test_a_wrong_segmenter_config_is_found(case):
    changes, severity, part = WRONG_SEGMENTERS[case]
    findings, code = found(SEGMENTER, changes)
    assert [one for one in findings if one.severity == severity and part in f'{one.message} {one.field}'], findings
    assert code == 2


# --- weight files -----------------------------------------------------------------------------------


def backbone_state() -> dict[str, torch.Tensor]:
    cfg = compose(DETECTOR)
    return MODELS.build(cfg.model.backbone).state_dict()


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace('stages', 'layers'): value for key, value in state.items()}


def transposed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    key = next(key for key, value in state.items() if value.ndim == 2 and value.shape[0] != value.shape[1])
    return {**state, key: state[key].t().contiguous()}


def half_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if 'stages.2' not in key}


WEIGHTS = {'renamed': renamed, 'transposed': transposed, 'a stage is missing': half_of}


@pytest.mark.parametrize('case', [*WEIGHTS, 'cut off', 'not there', 'no tensors'])
def test_weights_that_would_be_lost_are_an_error(case, tmp_path):
    file = tmp_path / 'weights.pth'
    if case in WEIGHTS:
        torch.save(WEIGHTS[case](backbone_state()), file)
    elif case == 'cut off':
        torch.save(backbone_state(), file)
        file.write_bytes(file.read_bytes()[:20000])
    elif case == 'no tensors':
        file.write_text('{"a": 1}')
    init = {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': str(file)}
    findings, code = found(DETECTOR, init)
    assert code == 2 and any(one.severity == 'error' for one in findings)
    assert any('weights.pth' in f'{one.message} {one.file} {one.value}' for one in findings), findings


def test_weights_that_fit_are_said_to_be_whole(tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(backbone_state(), file)
    init = {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': str(file)}
    findings, code = found(DETECTOR, init)
    assert code == 0 and not [one for one in findings if one.severity == 'error']


# --- data -------------------------------------------------------------------------------------------


def changed_data(tmp_path: Path, file: str, change) -> dict[str, Any]:
    """A copy of the demo data with one annotation file changed."""
    root = tmp_path / 'data'
    shutil.copytree(demo_data(), root)
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))
    return {'data_root': str(root)}


def misspell(content: dict) -> None:
    content['categories'][0]['name'] += 'x'


def order_ids(content: dict) -> None:
    ids = [category['id'] for category in content['categories']]
    for category, other in zip(content['categories'], ids[::-1], strict=True):
        category['id'] = other


def lose_a_box(content: dict) -> None:
    content['annotations'][0]['bbox'] = [1.0, 2.0, -3.0, 4.0]


@pytest.mark.parametrize(('file', 'change', 'part'), [
    (VALIDATION, misspell, 'misspelt'), (VALIDATION, order_ids, ''), (TRAINING, lose_a_box, '-3.0')])
def test_wrong_annotations_are_an_error(file, change, part, tmp_path):
    findings, code = found(DETECTOR, changed_data(tmp_path, file, change))
    errors = [one for one in findings if one.severity == 'error']
    assert code == 2 and errors
    assert any(part in f'{one.kind} {one.message} {one.value}' for one in errors), findings


def test_a_check_that_fails_is_a_finding_and_no_traceback(monkeypatch):
    import backbones.preflight.quick as quick

    def broken(runner):
        raise KeyError('unforeseen')

    monkeypatch.setattr(quick, 'QUICK', (('strides and channels', broken),))
    findings, code = found(DETECTOR)
    assert code == 2 and 'unforeseen' in findings[0].message
