"""Whether a run may begin in a folder, and how it goes on with what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from saving_helpers import build, folders, train

from backbones.checkpoints import newest_valid, read_best, read_checkpoint
from backbones.training import inject
from backbones.training.resuming import ResumeHook
from backbones.training.run_folder import weight_files
from backbones.training.safe_checkpoint import SafeCheckpointHook

OURS = dict(type='backbones.IterBasedTrainLoop', max_iters=8, val_interval=2)


def going_on(folder: Path, **options: Any) -> Runner:
    """A run that `resume=True` lets go on."""
    runner = build(folder, hooks=[ResumeHook()], **options)
    runner._resume = True
    return runner


class Stop(Hook):
    """End the run after a step, as a kill would, but with what was begun written."""

    priority = 'LOWEST'

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.step:
            next(hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)).finish(runner)
            raise KeyboardInterrupt


def stopped(folder: Path, step: int, **options: Any) -> None:
    """Train and stop after a step."""
    with pytest.raises(KeyboardInterrupt):
        train(folder, hooks=[Stop(step)], **options)


def test_a_run_that_forgot_to_resume_touches_nothing_of_the_earlier_one(tmp_path: Path) -> None:
    train(tmp_path, 8, scores=[0.1, 0.9, 0.2, 0.3], save_best='mAP', max_keep_ckpts=1)
    before = sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith('iter'))
    with pytest.raises(ValueError, match=r'already holds a run \(iter_000008\); go on with it by resume=True or --res'):
        train(tmp_path, 8, scores=[0.1, 0.2, 0.3, 0.4], save_best='mAP', max_keep_ckpts=1)
    assert folders(tmp_path) == before == ['iter_000004', 'iter_000008']
    assert read_best(tmp_path)['mAP'].score == 0.9


def test_a_folder_whose_checkpoints_are_all_damaged_is_no_empty_one(tmp_path: Path) -> None:
    train(tmp_path, 4)
    for name in folders(tmp_path):
        (tmp_path / name / 'manifest.json').unlink()
    for runner in (build(tmp_path, 4), going_on(tmp_path)):
        with pytest.raises(ValueError, match=r'no checkpoint can be used: .*iter_000004.*manifest\.json is missing'):
            runner.train()


def test_what_goes_on_is_no_second_run(tmp_path: Path) -> None:
    stopped(tmp_path, 3, train_cfg=OURS)
    runner = going_on(tmp_path, train_cfg=OURS)
    runner.train()
    assert runner.iter == 8 and folders(tmp_path) == [f'iter_00000{step}' for step in (2, 4, 6, 8)]


def test_foreign_files_of_our_names_are_kept(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / 'last').write_text('my notes')
    (tmp_path / 'best.json').write_text('[1]')
    train(tmp_path, 2, scores=[0.5], save_best='mAP')
    assert (tmp_path / 'last.1').read_text() == 'my notes' and (tmp_path / 'best.1.json').read_text() == '[1]'
    assert (tmp_path / 'last').read_text() == 'iter_000002\n'
    assert len([text for text in warnings if 'kept as' in text]) == 2


def test_two_hooks_that_save_to_one_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'two SafeCheckpointHooks save to .* leave out one, or give'):
        train(tmp_path, 2, hooks=[SafeCheckpointHook(interval=1)])


def test_two_hooks_with_folders_of_their_own_both_save(tmp_path: Path) -> None:
    train(tmp_path / 'run', 2, hooks=[SafeCheckpointHook(interval=1, out_dir=tmp_path / 'more')])
    assert folders(tmp_path / 'run') == ['iter_000002'] and 'iter_000002' in folders(tmp_path / 'more' / 'run')


def test_the_checkpoint_that_a_run_goes_on_from_is_not_saved_again_when_it_is_the_best(tmp_path: Path) -> None:
    options = dict(train_cfg=OURS, save_best='mAP')
    stopped(tmp_path, 4, scores=[0.1], **options)
    runner = going_on(tmp_path, scores=[0.9, 0.2, 0.3], **options)
    runner.train()
    assert folders(tmp_path) == [f'iter_00000{step}' for step in (2, 4, 6, 8)]
    assert read_best(tmp_path)['mAP'].checkpoint == 'iter_000004' and (tmp_path / 'best_mAP_iter_4.pth').is_file()


def test_a_checkpoint_of_another_folder_is_saved_in_the_new_one(tmp_path: Path) -> None:
    options = dict(train_cfg=OURS, save_best='mAP')
    stopped(tmp_path / 'old', 4, scores=[0.1], **options)
    path = newest_valid(tmp_path / 'old').path
    hook = ResumeHook(read_checkpoint(path))
    hook.path = str(path)
    build(tmp_path / 'new', hooks=[hook], scores=[0.9, 0.2, 0.3], **options).train()
    assert folders(tmp_path / 'new') == [f'iter_00000{step}' for step in (4, 6, 8)]


@pytest.mark.parametrize('on_error', ['continue', 'stop'])
@pytest.mark.parametrize('fault', ['enospc@last', 'eio@rotate', 'enospc@export', 'enospc@best'])
def test_what_fails_beside_the_checkpoint_ends_no_run_and_saves_nothing_twice(
    tmp_path: Path, warnings: list[str], fault: str, on_error: str
) -> None:
    inject.configure(fault)
    runner = train(tmp_path, 6, scores=[0.1, 0.2, 0.3], save_best='mAP', on_error=on_error, max_keep_ckpts=2)
    assert runner.iter == 6 and warnings and not [text for text in warnings if 'NOT saved' in text]
    assert not [name for name in folders(tmp_path) if '-' in name] and newest_valid(tmp_path).path.name == 'iter_000006'


def test_a_foreign_file_of_the_name_of_an_export_stays(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / 'model_4.pth').write_bytes(b'mine')
    train(tmp_path, 4, filename_tmpl='model_{}.pth')
    assert (tmp_path / 'model_4.pth').read_bytes() == b'mine'
    assert [text for text in warnings if 'model_4.pth is there already and is not of this run' in text]


def test_a_finished_run_that_is_resumed_exports_over_its_own_files(tmp_path: Path, warnings: list[str]) -> None:
    train(tmp_path, train_cfg=OURS)
    going_on(tmp_path, train_cfg=OURS).train()
    assert warnings == [] and (tmp_path / 'iter_8.pth').is_file()


@pytest.mark.parametrize(('template', 'found'), [
    (None, ['iter_3.pth']), ('model_{}.pth', ['iter_3.pth', 'model_12.pth']),
    ('a{:06d}', ['a000012', 'iter_3.pth']), ('{', ['iter_3.pth']), (3, ['iter_3.pth'])], ids=str)
def test_files_of_weights_are_those_that_the_run_would_write(tmp_path: Path, template: Any, found: list[str]) -> None:
    for name in ('iter_3.pth', 'model_12.pth', 'model_final.pth', 'a000012', 'swin.pth'):
        (tmp_path / name).write_bytes(b'')
    assert sorted(path.name for path in weight_files(tmp_path, template)) == found
