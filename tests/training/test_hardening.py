"""What our tools put in place of MMEngine's parts, in configs of any origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper

from backbones.config import load_config
from backbones.training import hardening
from backbones.training.hardening import harden_reading, harden_run, name_parts

LEAVES = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if not path.parent.name.startswith('_'))


def config(**more: Any) -> Config:
    """As mmdet and mmseg write theirs."""
    pipeline = [dict(type='LoadImageFromFile', backend_args=None), dict(type='PackSegInputs')]
    return Config(dict(
        dict(
            work_dir='w', train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            train_dataloader=dict(
                sampler=dict(type='DefaultSampler', shuffle=True), batch_sampler=dict(type='AspectRatioBatchSampler'),
                dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='CocoDataset', pipeline=pipeline))),
            val_dataloader=dict(dataset=dict(pipeline=pipeline)), val_evaluator=dict(type='IoUMetric'),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, max_keep_ckpts=1))), **more))


def test_a_config_of_another_project_gets_every_part_with_its_own_arguments() -> None:
    cfg = config()
    (line,) = harden_run(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='backbones.SafeCheckpointHook', interval=2, max_keep_ckpts=1)
    assert {key: hook.type for key, hook in cfg.default_hooks.items() if key != 'checkpoint'} == {
        key: f'backbones.{name}' for key, name in hardening.HOOKS.items()}
    assert cfg.optim_wrapper == dict(type='backbones.GuardedOptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    assert cfg.train_cfg == dict(type='backbones.EpochBasedTrainLoop', max_epochs=2)
    assert cfg.train_dataloader.sampler == dict(type='backbones.ResumableSampler', shuffle=True)
    assert cfg.train_dataloader.batch_sampler.type == 'backbones.AspectRatioBatchSampler'
    for data in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
        assert data.pipeline[0] == dict(type='backbones.LoadImageFromFile', backend_args=None)
    assert cfg.train_dataloader.dataset.dataset.type == 'backbones.CocoDataset'
    assert cfg.val_evaluator.type == 'backbones.IoUMetric'
    assert line.startswith('replaced: EpochBasedTrainLoop by backbones.EpochBasedTrainLoop, DefaultSampler by ')
    assert 'CheckpointHook by backbones.SafeCheckpointHook' in line and 'IoUMetric by backbones.IoUMetric' in line


def test_a_second_time_changes_nothing_more() -> None:
    cfg = config()
    harden_run(cfg)
    once = cfg.to_dict()
    assert harden_run(cfg) == [] and cfg.to_dict() == once


def test_a_part_that_is_set_to_none_is_left_out() -> None:
    cfg = config(default_hooks=dict(watchdog=None, logger=None))
    harden_run(cfg)
    assert 'watchdog' not in cfg.default_hooks and 'preemption' in cfg.default_hooks
    assert cfg.default_hooks.logger is None  # MMEngine knows that one itself


def test_a_part_that_stands_among_the_custom_hooks_is_not_added_again() -> None:
    cfg = config(custom_hooks=[dict(type='backbones.WatchdogHook', timeout_s=7)])
    harden_run(cfg)
    assert 'watchdog' not in cfg.default_hooks and cfg.custom_hooks[0].timeout_s == 7


def test_an_option_of_a_part_that_the_config_does_not_name_reaches_it() -> None:
    cfg = config(default_hooks=dict(watchdog=dict(timeout_s=7)))
    name_parts(cfg)
    harden_run(cfg)
    assert cfg.default_hooks.watchdog == dict(type='backbones.WatchdogHook', timeout_s=7)


def test_without_a_checkpoint_hook_there_is_mmengines_default_in_its_safe_form() -> None:
    cfg = config(default_hooks={})
    harden_run(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='backbones.SafeCheckpointHook', interval=1)


@pytest.mark.parametrize(('kinds', 'safe'), [
    (('mmengine.CheckpointHook', 'mmengine.OptimWrapper'), True), ((CheckpointHook, OptimWrapper), True),
    (('mylab.CheckpointHook', 'ApexOptimWrapper'), False)])
def test_classes_of_other_projects_stay_and_are_named(kinds: tuple, safe: bool) -> None:
    cfg = config()
    cfg.default_hooks.checkpoint['type'], cfg.optim_wrapper['type'] = kinds
    notes = harden_run(cfg)
    assert (cfg.default_hooks.checkpoint.type, cfg.optim_wrapper.type) == (
        ('backbones.SafeCheckpointHook', 'backbones.GuardedOptimWrapper') if safe else kinds)
    assert ('non_finite' in cfg.default_hooks) is safe
    if not safe:
        assert 'optim_wrapper.type=ApexOptimWrapper takes every step' in notes[1]
        assert notes[2].startswith('default_hooks.checkpoint.type=CheckpointHook is none of ours')


def test_no_checkpoints_at_all_is_said() -> None:
    cfg = config(default_hooks=dict(checkpoint=None))
    assert any('nothing is saved' in note for note in harden_run(cfg)) and cfg.default_hooks.checkpoint is None


@pytest.mark.parametrize('more', [dict(imdecode_backend='pillow'), dict(ignore_empty=True)])
def test_a_loader_with_arguments_that_ours_has_not_stays(more: dict) -> None:
    loader = dict(type='LoadImageFromFile', **more)
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[loader]))))
    assert harden_reading(cfg, ('test',)) == [] and cfg.test_dataloader.dataset.pipeline == [loader]


def test_arguments_that_mean_what_ours_does_anyway_go() -> None:
    loader = dict(type='mmcv.LoadImageFromFile', imdecode_backend='cv2', to_float32=True)
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[loader]))))
    assert harden_reading(cfg, ('test',)) == ['mmcv.LoadImageFromFile by backbones.LoadImageFromFile']
    assert cfg.test_dataloader.dataset.pipeline == [dict(type='backbones.LoadImageFromFile', to_float32=True)]


def test_boxes_are_scored_by_the_checking_metric_too() -> None:
    cfg = Config(dict(test_evaluator=[dict(type='mmdet.CocoMetric', metric='bbox'), dict(type='DumpResults')]))
    assert harden_reading(cfg, ('test',)) == ['mmdet.CocoMetric by backbones.CocoMetric']


def test_a_data_set_whose_annotations_nobody_checks_is_named_once() -> None:
    part = dict(type='CityscapesDataset', data_prefix=dict(img_path='a'))
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[part, part]))))
    (line,) = hardening.unchecked_data(cfg, ('train', 'val'))
    assert line.startswith('annotations of CityscapesDataset are not checked')


def test_proposals_from_a_file_that_could_run_code_are_refused() -> None:
    cfg = config()
    cfg.train_dataloader.dataset.dataset.proposal_file = 'proposals.pkl'
    with pytest.raises(ValueError, match=r"train_dataloader: proposal_file='proposals\.pkl' would be read by a loader"):
        harden_run(cfg)


def test_samples_that_are_skipped_are_written_down_in_the_work_folder() -> None:
    cfg = config()
    cfg.train_dataloader.dataset.dataset.on_bad_sample = 'skip'
    harden_run(cfg)
    assert cfg.train_dataloader.dataset.dataset.bad_samples_file == 'w/bad_samples.jsonl'
    assert 'bad_samples_file' not in cfg.train_dataloader.dataset


def test_the_recipes_name_every_part_themselves() -> None:
    hooks = Config.fromfile(ROOT / 'configs/_base_/hooks.py').default_hooks
    assert {key: hooks[key].type for key in hardening.HOOKS} == {
        key: f'backbones.{name}' for key, name in hardening.HOOKS.items()}


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda path: path.stem)
def test_in_a_recipe_only_the_loaders_of_the_test_pipeline_are_replaced(leaf: Path) -> None:
    (line,) = harden_run(load_config(leaf))
    image = 'replaced: LoadImageFromFile by backbones.LoadImageFromFile'
    assert line in (image, f'{image}, LoadAnnotations by backbones.LoadInstanceAnnotations')


@pytest.mark.parametrize('second', ['backbones.SafeCheckpointHook', 'CheckpointHook'])
def test_two_hooks_that_would_delete_each_others_checkpoints_are_refused(second: str) -> None:
    cfg = config(custom_hooks=[dict(type=second, interval=1)])
    with pytest.raises(ValueError, match='2 hooks save checkpoints into the same folder'):
        harden_run(cfg)
    cfg.custom_hooks[0].out_dir = 'elsewhere'
    harden_run(cfg)


def test_the_file_of_logged_numbers_is_one_that_survives_a_full_disk() -> None:
    cfg = config(visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]))
    harden_run(cfg)
    assert cfg.visualizer.vis_backends[0].type == 'backbones.LocalVisBackend'


def test_what_is_left_out_is_said_and_a_part_that_is_none_is_refused() -> None:
    assert 'left out: watchdog' in harden_run(config(default_hooks=dict(watchdog=None)))
    with pytest.raises(ValueError, match=r'wachdog=None: there is no such part .* did you mean watchdog'):
        harden_run(config(default_hooks=dict(wachdog=None)))
