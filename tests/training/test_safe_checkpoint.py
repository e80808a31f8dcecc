"""The checkpoint hook in small runs: when it saves, what it keeps, and what an error does."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mmengine.registry
import pytest
import torch
from checkpoint_helpers import bits, in_child, killed, same
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from saving_helpers import Line, build, folders, train
from torch import nn

from backbones.checkpoints import newest_valid, read_best, read_checkpoint, verify_checkpoint
from backbones.training import inject
from backbones.training.resuming import ResumeHook
from backbones.training.safe_checkpoint import SafeCheckpointHook, SaveFailed, saving_to_the_end
from backbones.weights.whole_model import load_model_checkpoint


@pytest.mark.parametrize('asynchronous', [True, False])
def test_a_run_saves_at_its_interval_and_keeps_so_many(tmp_path: Path, asynchronous: bool) -> None:
    train(tmp_path, 7, max_keep_ckpts=2, asynchronous=asynchronous)
    assert folders(tmp_path) == ['iter_000006', 'iter_000007'] and (tmp_path / 'last').read_text() == 'iter_000007\n'
    for name in folders(tmp_path):
        verify_checkpoint(tmp_path / name)


def test_the_saved_weights_are_those_of_the_moment_although_training_goes_on(tmp_path: Path) -> None:
    seen: dict[int, bytes] = {}

    class Watch(Hook):
        priority = 'VERY_LOW'

        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            seen[runner.iter + 1] = bits(runner.model.fit.weight.detach())

    train(tmp_path, 8, hooks=[Watch()])
    for count in (2, 4, 6, 8):
        tree = read_checkpoint(tmp_path / f'iter_{count:06d}')
        assert bits(tree['model']['fit.weight']) == seen[count] and tree['progress']['iter'] == count
    assert len(set(seen.values())) == 8


def test_epochs_name_the_checkpoints_of_a_run_by_epoch(tmp_path: Path) -> None:
    train(tmp_path, by_epoch=True, interval=1, train_cfg=dict(by_epoch=True, max_epochs=3))
    assert folders(tmp_path) == [f'epoch_00000{number}' for number in (1, 2, 3)]
    assert read_checkpoint(tmp_path / 'epoch_000003')['meta']['iter'] == 12 and (tmp_path / 'epoch_3.pth').is_file()


def test_the_best_checkpoint_survives_rotation(tmp_path: Path) -> None:
    train(tmp_path, 10, scores=[0.1, 0.5, 0.2, 0.3, 0.4], max_keep_ckpts=1, save_best='mAP', interval=2)
    assert folders(tmp_path) == ['iter_000004', 'iter_000010']
    best = read_best(tmp_path)['mAP']
    assert (best.checkpoint, best.score) == ('iter_000004', 0.5)
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['best_mAP_iter_4.pth', 'iter_10.pth']


def test_a_better_one_takes_the_place_of_the_best(tmp_path: Path) -> None:
    train(tmp_path, 8, scores=[0.1, 0.5, 0.2, 0.7], max_keep_ckpts=1, save_best='auto')
    assert folders(tmp_path) == ['iter_000008'] and read_best(tmp_path)['mAP'].checkpoint == 'iter_000008'
    assert sorted(file.name for file in tmp_path.glob('best*')) == ['best.json', 'best_mAP_iter_8.pth']


def test_a_best_moment_between_two_saves_is_saved(tmp_path: Path) -> None:
    train(tmp_path, 6, scores=[0.1, 0.9, 0.2], interval=100, save_best='mAP', save_last=False)
    assert folders(tmp_path) == ['iter_000002', 'iter_000004']


def test_the_old_best_stays_when_the_new_one_cannot_be_written(tmp_path: Path, warnings: list[str]) -> None:
    inject.configure('enospc@save:0.5:2')
    train(tmp_path, 6, scores=[0.5, 0.9, 0.7], interval=100, save_best='mAP', save_last=False, max_keep_ckpts=1)
    assert read_best(tmp_path)['mAP'].checkpoint == 'iter_000006'  # 0.9 was lost, so 0.7 is better than 0.5
    assert [text for text in warnings if 'NOT saved: No space left on device' in text]
    verify_checkpoint(tmp_path / 'iter_000006')


@pytest.mark.parametrize('kind', ['enospc', 'edquot', 'efbig', 'erofs', 'eacces'])
def test_a_save_that_fails_is_a_warning_and_the_run_goes_on(tmp_path: Path, warnings: list[str], kind: str) -> None:
    inject.configure(f'{kind}@save:0.3:2')
    runner = train(tmp_path, 8)
    assert runner.iter == 8 and folders(tmp_path) == ['iter_000002', 'iter_000006', 'iter_000008']
    assert len([text for text in warnings if 'a checkpoint was NOT saved' in text and 'older ones' in text]) == 1
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith('.tmp')]


@pytest.mark.parametrize('asynchronous', [True, False])
def test_on_error_stop_ends_the_run_soon_after(tmp_path: Path, asynchronous: bool) -> None:
    inject.configure('enospc@save:0.3:2')
    runner = build(tmp_path, 100, interval=4, on_error='stop', asynchronous=asynchronous)
    with pytest.raises(SaveFailed, match='No space left on device'):
        runner.train()
    assert 7 <= runner.iter <= 12 and folders(tmp_path) == ['iter_000004']


def test_a_state_that_cannot_be_saved_is_an_error_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('backbones.training.safe_checkpoint.capture', lambda runner: {'model': {'x': object()}})
    with pytest.raises(ValueError, match=r'model\.x is object, which a checkpoint cannot hold'):
        train(tmp_path, 8)


def test_a_folder_that_cannot_be_written_to_is_an_error_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, 'Permission denied')

    runner = build(tmp_path, 8)
    monkeypatch.setattr('backbones.training.run_folder.clean_up', refuse)
    with pytest.raises(ValueError, match=r'cannot be written to .* \(Permission denied\)'):
        runner.train()
    assert runner.iter == 0


def test_save_now_saves_at_once_and_once(tmp_path: Path) -> None:
    found: list[Path | None] = []

    class Stop(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter + 1 in (3, 4):
                hook = next(hook for hook in runner.hooks if hasattr(hook, 'save_now'))
                found.append(hook.save_now(runner, 'SIGTERM'))
                verify_checkpoint(found[-1])

    train(tmp_path, 6, hooks=[Stop()])
    assert [path.name for path in found] == ['iter_000003', 'iter_000004']
    assert folders(tmp_path) == ['iter_000002', 'iter_000003', 'iter_000004', 'iter_000006']


def test_save_now_says_when_nothing_could_be_written(tmp_path: Path) -> None:
    class Stop(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            hook = next(hook for hook in runner.hooks if hasattr(hook, 'save_now'))
            assert hook.save_now(runner, 'SIGTERM') is None

    inject.configure('erofs@save:mkdir')
    with pytest.raises(SaveFailed, match='the run is done, but its last checkpoint could not be saved'):
        train(tmp_path, 2, hooks=[Stop()])
    assert folders(tmp_path) == []


def test_what_failed_at_the_end_is_saved_by_a_second_attempt(tmp_path: Path) -> None:
    inject.configure('enospc@save:write:2')
    train(tmp_path, 4)
    assert read_checkpoint(tmp_path / 'iter_000004')['meta']['iter'] == 4 and (tmp_path / 'iter_4.pth').is_file()


def test_exported_weights_are_what_mm_tools_read(tmp_path: Path) -> None:
    runner = train(tmp_path, 4)
    found = torch.load(tmp_path / 'iter_4.pth', weights_only=True)
    assert found['meta']['dataset_meta'] == dict(classes=['cat', 'dog'], palette=[[1, 2, 3], [4, 5, 6]])
    assert found['meta']['iter'] == 4 and 'cfg' not in found['meta']
    model = Line()
    model.load_state_dict(found['state_dict'], strict=True)
    assert bits(model.fit.weight.detach()) == bits(runner.model.fit.weight.detach())


@pytest.mark.parametrize('name', ['iter_000004', 'iter_000004/model.safetensors', 'iter_4.pth'])
def test_our_tools_read_folder_weights_and_export(tmp_path: Path, name: str) -> None:
    runner, model = train(tmp_path, 4), Line()
    nn.init.zeros_(model.fit.weight)
    meta = load_model_checkpoint(model, tmp_path / name)
    assert bits(model.fit.weight.detach()) == bits(runner.model.fit.weight.detach())
    assert name.endswith('safetensors') or meta['dataset_meta']['classes'] == ['cat', 'dog']


def test_our_tools_refuse_a_damaged_folder(tmp_path: Path) -> None:
    runner = train(tmp_path, 4)
    (tmp_path / 'iter_000004' / 'manifest.json').unlink()
    with pytest.raises(ValueError, match=r'iter_000004 cannot be used: manifest\.json is missing'):
        load_model_checkpoint(runner.model, tmp_path / 'iter_000004')


def test_averaged_weights_are_the_exported_ones(tmp_path: Path) -> None:
    runner = train(tmp_path, 4, hooks=[EMAHook()])
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
    tree = read_checkpoint(tmp_path / 'iter_000004')
    exported = torch.load(tmp_path / 'iter_4.pth', weights_only=True)['state_dict']['fit.weight']
    assert bits(exported) == bits(average.fit.weight.detach())
    assert bits(tree['model']['fit.weight']) == bits(runner.model.fit.weight.detach()) != bits(exported)


def test_published_files_bear_their_sha256(tmp_path: Path) -> None:
    train(tmp_path, 4, published_keys=['meta', 'state_dict'])
    file, = tmp_path.glob('iter_4-????????.pth')
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:8] == file.stem[-8:]


def test_all_checkpoints_are_exported_on_request_and_go_with_them(tmp_path: Path) -> None:
    train(tmp_path, 6, export='all', max_keep_ckpts=2)
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['iter_4.pth', 'iter_6.pth']


@pytest.mark.parametrize('options, text', [
    (dict(export='some'), 'export'), (dict(on_error='hope'), 'on_error'),
    (dict(published_keys='optimizer'), 'published'), (dict(backend_args=dict(backend='petrel')), 'mounted'),
    (dict(filename_tmpl='../x'), 'filename_tmpl'), (dict(filename_tmpl='a_{}_{}.pth'), 'one {}'),
    (dict(save_best=['a', 'a']), 'save_best'), (dict(save_best=['auto', 'a']), 'alone'),
    (dict(save_best=3), 'save_best'),
    (dict(save_best='mAP', rule='more'), "'greater' or 'less'"), (dict(save_begin=-1), 'save_begin')], ids=str)
def test_what_the_hook_cannot_do_is_refused_in_one_sentence(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SafeCheckpointHook(**options)


def test_the_hook_is_found_by_name_from_any_scope() -> None:
    hook = mmengine.registry.HOOKS.build(dict(type='backbones.SafeCheckpointHook', interval=3, save_best='mAP'))
    assert isinstance(hook, SafeCheckpointHook) and hook.interval == 3


def test_a_run_that_goes_on_remembers_its_best(tmp_path: Path) -> None:
    train(tmp_path, 4, scores=[0.5, 0.9], save_best='mAP', max_keep_ckpts=1)
    runner = build(tmp_path, 8, scores=[0.6, 0.7], save_best='mAP', max_keep_ckpts=1)
    runner.train_loop._iter = 4
    runner.train()
    assert read_best(tmp_path)['mAP'].checkpoint == 'iter_000004'
    assert folders(tmp_path) == ['iter_000004', 'iter_000008']


@pytest.mark.parametrize('spec', ['kill@save:0.5:3', 'kill@save:rename:3', 'kill@rotate:remove', 'kill@best:rename:2',
                                  'kill@export:0.5:2', 'kill@last:open:3'])
def test_a_run_that_is_killed_while_it_saves_leaves_a_checkpoint_to_go_on_from(tmp_path: Path, spec: str) -> None:
    assert killed(spec, lambda: train(tmp_path, 10, scores=[0.1, 0.2, 0.3, 0.4, 0.5], save_best='mAP',
                                      max_keep_ckpts=1))
    found = newest_valid(tmp_path)
    assert found.path is not None and read_checkpoint(found.path)['progress']['iter'] >= 2
    best = read_best(tmp_path).get('mAP')
    assert best is None or verify_checkpoint(tmp_path / best.checkpoint)


def train_two_ranks(folder: Path, **options: Any) -> list[int]:
    """Train in two forked processes; the first save but one fails on rank 0. 3: SaveFailed, 0: the run ended well."""
    def work(rank: int) -> None:
        torch.distributed.init_process_group('gloo', init_method=f'file://{folder}.meet', rank=rank, world_size=2)
        if rank == 0:
            inject.configure('enospc@save:0.5:2')
        try:
            train(folder, 40, interval=4, **options)
        except SaveFailed as error:
            assert 'No space left on device' in str(error)
            os._exit(3)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: in_child(lambda: work(rank)), (0, 1)))


def test_all_ranks_stop_when_rank_0_cannot_save(tmp_path: Path) -> None:
    assert train_two_ranks(tmp_path / 'run', on_error='stop') == [3, 3]
    assert folders(tmp_path / 'run') == ['iter_000004']


def test_all_ranks_go_on_when_rank_0_cannot_save_and_that_is_allowed(tmp_path: Path) -> None:
    assert train_two_ranks(tmp_path / 'run') == [0, 0]
    assert 'iter_000008' not in folders(tmp_path / 'run') and 'iter_000040' in folders(tmp_path / 'run')


@pytest.mark.parametrize('spec', ['kill@save:0.4:2', 'kill@save:rename:3', 'kill@rotate:remove'])
def test_a_run_killed_while_it_saved_ends_as_one_that_was_not(tmp_path: Path, spec: str) -> None:
    loop = dict(type='backbones.IterBasedTrainLoop', max_iters=9, val_interval=100)
    whole = train(tmp_path / 'whole', train_cfg=loop, max_keep_ckpts=1)
    assert killed(spec, lambda: train(tmp_path / 'cut', train_cfg=loop, max_keep_ckpts=1))
    found = newest_valid(tmp_path / 'cut').path
    runner = build(tmp_path / 'cut', train_cfg=loop, max_keep_ckpts=1, hooks=[ResumeHook(read_checkpoint(found))])
    runner.train()
    trees = [read_checkpoint(tmp_path / name / 'iter_000009') for name in ('whole', 'cut')]
    assert bits(runner.model.fit.weight.detach()) == bits(whole.model.fit.weight.detach())
    assert same(*(dict(model=tree['model'], optimizers=tree['optimizers']) for tree in trees))


@pytest.mark.parametrize('fault', ['', 'enospc@save:write'])
def test_a_save_that_goes_on_when_an_error_ends_the_run_is_brought_to_its_end(
    fault: str, tmp_path: Path, warnings: list[str]
) -> None:
    class Fail(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            raise RuntimeError('on purpose')

    inject.configure(fault)
    runner = build(tmp_path, 4, interval=1, hooks=[Fail()])
    with pytest.raises(RuntimeError, match='on purpose'), saving_to_the_end(runner):
        runner.train()
    assert folders(tmp_path) == ([] if fault else ['iter_000001'])
    assert bool([text for text in warnings if 'NOT saved: No space left' in text]) is bool(fault)
