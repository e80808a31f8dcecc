"""Where a run that saves by SafeCheckpointHook goes on from, and that it goes on exactly."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoint_helpers import publish, same
from conftest import ROOT
from mmengine.config import Config

from backbones.checkpoints import list_checkpoints, read_checkpoint, read_manifest, write_checkpoint
from backbones.checkpoints.store import _manifest_text
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


def test_weights_without_a_state_are_no_reason_for_advice_that_would_be_refused(tmp_path: Path) -> None:
    (tmp_path / 'iter_5.pth').write_bytes(b'weights')
    with pytest.raises(ValueError, match=r'only files of weights \(iter_5\.pth\); give --resume PATH$'):
        resume_place(config(tmp_path), 'latest')
    with pytest.raises(ValueError, match='would be overwritten'):
        resume_place(config(tmp_path), 'auto')


def test_weights_under_the_names_that_the_run_would_use_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'model_12.pth').write_bytes(b'weights')
    assert resume_place(config(tmp_path), None) is None
    with pytest.raises(ValueError, match=r'weights of another run \(model_12\.pth\), which would be overwritten'):
        resume_place(config(tmp_path, filename_tmpl='model_{}.pth'), None)


@pytest.mark.parametrize('resume', [None, 'auto', 'latest'])
@pytest.mark.parametrize('damage', ['missing', 'cut', 'link'])
def test_checkpoints_that_cannot_be_used_are_not_passed_over(tmp_path: Path, resume: str | None, damage: str) -> None:
    for count in (3, 5):
        path = publish(tmp_path, count, keep=0)
        if damage == 'link':
            path.symlink_to(path.rename(tmp_path / f'moved_{count}'))
        elif damage == 'cut':
            (path / 'manifest.json').write_text('{')
        else:
            (path / 'manifest.json').unlink()
    text = r'iter_000003 .*iter_000005 .*; mend them, or choose another work folder'
    with pytest.raises(ValueError, match=f'no checkpoint can be used: .*{text}'):
        resume_place(config(tmp_path), resume)


def test_a_linked_checkpoint_can_be_given_by_its_path(tmp_path: Path) -> None:
    link = tmp_path / 'run' / 'iter_000012'
    link.parent.mkdir()
    link.symlink_to(publish(tmp_path / 'elsewhere', 12))
    assert resume_place(config(tmp_path / 'run'), str(link)) == link
    run = runner()
    go_on_from(run, link, BatchPlan(4, 1, 4, 1), stated=False)
    assert run.hooks[0].tree['progress']['iter'] == 12


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


def rewrite(path: Path, iteration: int | None = None, **parts: Any) -> None:
    """Put other content into a checkpoint, with sizes and hashes that are right."""
    tree, was = read_checkpoint(path), read_manifest(path)
    shutil.rmtree(path)
    write_checkpoint(path.parent, path.name, {**tree, **parts},
                     iteration=was.iteration if iteration is None else iteration)


@pytest.mark.parametrize('iteration', [-5, 4, 10**18, 'abc', 5.0, None, [5]], ids=str)
def test_a_state_of_another_iteration_than_its_manifest_says_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, iteration: object
) -> None:
    publish(tmp_path, 3, keep=0)
    rewrite(publish(tmp_path, 5, keep=0), progress=dict(iter=iteration))
    run = runner()
    with caplog.at_level('INFO'):
        go_on_from(run, tmp_path, BatchPlan(4, 1, 4, 1), stated=False)
    assert 'iter_000005 cannot be used: its state says iteration' in caplog.text
    assert run.hooks[0].path.endswith('iter_000003')
    with pytest.raises(ValueError, match='its manifest 5; take another checkpoint of the run'):
        go_on_from(runner(), tmp_path / 'iter_000005', BatchPlan(4, 1, 4, 1), stated=False)


def test_content_that_cannot_be_read_although_its_hashes_are_right_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, 3, keep=0)
    newest = publish(tmp_path, 5, keep=0)
    manifest, text = read_manifest(newest), b'{"format": "other"}'
    (newest / 'state.json').write_bytes(text)
    manifest.files['state.json'] = (len(text), hashlib.sha256(text).hexdigest())
    (newest / 'manifest.json').write_bytes(_manifest_text(manifest))
    run = runner()
    with caplog.at_level('INFO'):
        go_on_from(run, tmp_path, BatchPlan(4, 1, 4, 1), stated=False)
    assert 'iter_000005 cannot be used: state.json is not of format' in caplog.text
    assert run.hooks[0].path.endswith('iter_000003')


def test_a_batch_that_is_no_batch_is_left_to_the_check_of_the_state(tmp_path: Path) -> None:
    rewrite(publish(tmp_path, 5), batch='many')
    go_on_from(runner(), tmp_path, BatchPlan(4, 1, 4, 1), stated=False)


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
