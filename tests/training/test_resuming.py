"""Where a run that saves by SafeCheckpointHook goes on from, and that it goes on exactly."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_helpers import publish, same
from conftest import ROOT
from mmengine.config import Config

from backbones.checkpoints import list_checkpoints, read_checkpoint
from backbones.data.demo import generate_demo
from backbones.training.batch import BatchPlan
from backbones.training.launch import run_training
from backbones.training.resuming import go_on_from, resume_place


def config(folder: Path, **checkpoint: object) -> Config:
    return Config(dict(work_dir=str(folder), default_hooks=dict(checkpoint=checkpoint)))


def runner() -> SimpleNamespace:
    hooks = []
    return SimpleNamespace(
        logger=logging.getLogger('resuming'), hooks=hooks,
        register_hook=hooks.append)


def test_a_fresh_folder_starts_anew_unless_there_must_be_a_run(tmp_path: Path) -> None:
    cfg = config(tmp_path / 'new')
    assert resume_place(cfg, None) is None and resume_place(cfg, 'auto') is None
    with pytest.raises(ValueError, match=r'--resume: .*new holds no checkpoint to go on from; use --resume auto'):
        resume_place(cfg, 'latest')


def test_a_run_is_not_overwritten_and_is_gone_on_with(tmp_path: Path) -> None:
    publish(tmp_path, 3)
    with pytest.raises(ValueError, match=r'already holds a run \(iter_000003\); go on with it by --resume'):
        resume_place(config(tmp_path), None)
    assert resume_place(config(tmp_path), 'latest') == resume_place(config(tmp_path), 'auto') == tmp_path


def test_one_checkpoint_or_a_work_folder_may_be_named(tmp_path: Path) -> None:
    saved, cfg = publish(tmp_path / 'old', 3), config(tmp_path / 'new')
    assert resume_place(cfg, str(saved)) == saved
    assert resume_place(cfg, str(tmp_path / 'old')) == tmp_path / 'old'
    publish(tmp_path / 'new', 1)
    with pytest.raises(ValueError, match=r'already holds another run \(iter_000001\); choose a new --work-dir'):
        resume_place(cfg, str(saved))


def test_what_holds_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').write_bytes(b'weights')
    with pytest.raises(ValueError, match='a file of weights holds no place in the data'):
        resume_place(config(tmp_path / 'w'), str(tmp_path / 'epoch_1.pth'))
    with pytest.raises(ValueError, match='there is no checkpoint; give the folder of one'):
        resume_place(config(tmp_path / 'w'), str(tmp_path))


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, 3, keep=2)
    newest = publish(tmp_path, 5, keep=2)
    (newest / 'model.safetensors').write_bytes(b'gone')
    run = runner()
    with caplog.at_level('INFO'):
        go_on_from(run, tmp_path, BatchPlan(4, 1, 4, 1), stated=False)
    assert 'iter_000005' in caplog.text and f'going on from {tmp_path}/iter_000003' in caplog.text
    assert run.hooks[0].tree['progress']['iter'] == 3 and run.hooks[0].path == f'{tmp_path}/iter_000003'


def test_a_folder_without_a_whole_checkpoint_ends_with_what_is_wrong(tmp_path: Path) -> None:
    (publish(tmp_path, 3) / 'state.json').write_text('{}')
    with pytest.raises(ValueError, match=r'--resume: no checkpoint in .* is whole: .*iter_000003'):
        go_on_from(runner(), tmp_path, BatchPlan(4, 1, 4, 1), stated=False)


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter trained for four steps at once, and for two and two."""
    folder = tmp_path_factory.mktemp('runs')
    generate_demo(folder / 'data', num_train=6, num_val=2, size=(64, 96), progress=False)
    options = {
        'data_root': f'{folder}/data/', 'default_hooks.checkpoint.interval': 2,
        'train_cfg.val_interval': 4, 'param_scheduler.0.end': 2,
        'param_scheduler.1.begin': 2, 'param_scheduler.1.end': 4, 'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
    }
    for name, steps, resume in (('whole', 4, None), ('parts', 2, None), ('parts', 4, 'latest')):
        run_training(ROOT / 'configs/small/upernet_vit_demo.py', str(folder / name), resume,
                     {**options, 'train_cfg.max_iters': steps})
    return folder


@pytest.mark.parametrize('part', ['model', 'optimizers', 'schedulers', 'random'])
def test_a_run_of_our_tools_that_goes_on_ends_as_one_that_was_not_interrupted(runs: Path, part: str) -> None:
    whole, parts = (read_checkpoint(list_checkpoints(runs / name)[0]) for name in ('whole', 'parts'))
    assert same(parts[part], whole[part])


def test_another_total_batch_must_be_said(runs: Path) -> None:
    with pytest.raises(ValueError, match=r'with a total batch of 4, and this one has 8; go on with --total-batch 4'):
        go_on_from(runner(), runs / 'whole', BatchPlan(8, 2, 4, 1), stated=False)
    go_on_from(runner(), runs / 'whole', BatchPlan(8, 2, 4, 1), stated=True)
