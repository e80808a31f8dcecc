"""Interrupted after any step and resumed, a run ends bit by bit as the uninterrupted one."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.hooks import Hook
from resume_helpers import Interrupted, Noisy, Watch, assert_same_end, both_kinds, final, toy_runner, train
from torch import multiprocessing

from backbones.checkpoints.store import read_checkpoint, write_checkpoint
from backbones.config import fit_to_machine, load_config
from backbones.data.demo import generate_demo
from backbones.runner import build_runner
from backbones.training.loops import EpochBasedTrainLoop, IterBasedTrainLoop, make_resumable
from backbones.training.plain import from_plain, to_plain
from backbones.training.resuming import ResumeHook
from backbones.training.run_state import capture

KINDS = {
    'epochs': dict(),
    'epochs, 2 workers': dict(workers=2),
    'epochs, 4 workers': dict(workers=4),
    'iterations': dict(iters=12),
    'iterations, 2 workers': dict(iters=12, workers=2),
    'iterations, 4 workers': dict(iters=12, workers=4),
    'iterations over epochs': dict(iters=12, sampler='backbones.ResumableSampler'),
    'epochs, accumulating': dict(images=22, accumulate=2),
    'iterations, accumulating': dict(iters=12, accumulate=2),
    'orientations': dict(ratio=True, images=13, workers=2),
    'orientations, accumulating': dict(ratio=True, accumulate=2, images=23),
    'iterations by orientation': dict(ratio=True, iters=12),
    'validating epochs': dict(validate=True),
    'validating iterations': dict(validate=True, iters=12),
    "mmengine's sampler": dict(sampler='DefaultSampler'),
    "mmengine's optimiser steps of two batches": dict(optim=dict(accumulative_counts=2)),
}


def resume_at(folder: Path, kind: dict, stop: int, whole: Any, seen: Watch, at: str = 'after_train_iter') -> Watch:
    """Interrupt a new run, resume it in another, compare with the uninterrupted one."""
    first = train(toy_runner(folder, f'first_{stop}_{at}', **kind), stop, at=at)
    runner = toy_runner(folder, f'second_{stop}_{at}', **kind)
    second = train(runner, state=first.state)
    assert_same_end(runner, whole)
    assert first.seen + second.seen == seen.seen
    assert (runner.iter, runner.epoch) == (whole.iter, whole.epoch)
    return second


def check(folder: Path, kind: dict, stops: Any) -> int:
    """Interrupt after each of these steps, or after every one; returns their number."""
    whole = toy_runner(folder, 'whole', **kind)
    seen = train(whole)
    steps = stops or range(1, whole.iter + 1)
    for stop in steps:
        resume_at(folder, kind, stop, whole, seen)
    return len(steps)


@pytest.mark.parametrize('name', [name for name in KINDS if 'workers' not in name and name != 'orientations'])
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    check(tmp_path, KINDS[name], (1, 3, 5, 6, 7, 11))


@pytest.mark.parametrize('name', [name for name in KINDS if 'workers' in name or name == 'orientations'])
def test_what_workers_had_loaded_ahead_does_not_count(tmp_path: Path, name: str) -> None:
    check(tmp_path, KINDS[name], (4,) if 'workers' in name else (4, 9))


@pytest.mark.soak
@pytest.mark.parametrize('name', KINDS)
def test_a_resumed_run_ends_as_the_uninterrupted_one_whatever_the_step(
    tmp_path: Path, name: str, figure: Callable
) -> None:
    figure('resumes', equal=check(tmp_path, KINDS[name], None))


def test_a_run_interrupted_many_times_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    kind = dict(ratio=True, images=13, validate=True)
    whole, state, seen = toy_runner(tmp_path, 'whole', **kind), None, []
    all_seen = train(whole)
    for stop in (2, 3, 7, 8, 12):
        part = train(toy_runner(tmp_path, f'until_{stop}', **kind), stop, state)
        state, seen = part.state, seen + part.seen
    last = toy_runner(tmp_path, 'last', **kind)
    assert seen + train(last, state=state).seen == all_seen.seen
    assert_same_end(last, whole)


@pytest.mark.parametrize('kind', [dict(), dict(iters=12)], ids=['epochs', 'iterations'])
@pytest.mark.parametrize('at', ['after_train_iter', 'after_val_iter', 'after_val_epoch'])
def test_a_validation_that_was_due_is_made_up_for_and_one_that_was_done_is_not(
    tmp_path: Path, kind: dict, at: str
) -> None:
    kind = dict(kind, validate=True)
    whole = toy_runner(tmp_path, 'whole', **kind)
    seen = train(whole)
    second = resume_at(tmp_path, kind, 6, whole, seen, at)
    assert seen.validated == ([6, 12] if 'iters' not in kind else [3, 6, 9, 12])
    assert second.validated == [step for step in seen.validated if step > 6 or (step == 6 and at != 'after_val_epoch')]


def test_a_run_saved_at_the_end_of_an_epoch_validates_before_the_next(tmp_path: Path) -> None:
    kind = dict(validate=True)
    whole = toy_runner(tmp_path, 'whole', **kind)
    assert resume_at(tmp_path, kind, 6, whole, train(whole), 'after_train_epoch').validated == [6, 12]


def test_validation_takes_no_random_numbers_from_the_training(tmp_path: Path) -> None:
    with_it = toy_runner(tmp_path, 'with', validate=True)
    train(with_it)
    without = toy_runner(tmp_path, 'without')
    train(without)
    assert_same_end(with_it, without)


def test_augmentation_is_the_same_for_any_number_of_workers_and_new_in_every_epoch(tmp_path: Path) -> None:
    logs = [train(toy_runner(tmp_path, f'workers_{count}', workers=count)).seen for count in (0, 2, 4)]
    assert logs[0] == logs[1] == logs[2]
    first, second = (sorted(text for epoch, text in logs[0] if epoch == wanted) for wanted in (0, 1))
    assert len(first) == 12 and not set(first) & set(second)


TWO = {'plain': dict(images=24), 'orientations': dict(images=16, ratio=True)}


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in two processes, interrupted and resumed."""
    folder = tmp_path_factory.mktemp('two')
    multiprocessing.spawn(both_kinds, (folder, TWO), nprocs=2)
    return folder


@pytest.mark.parametrize('kind', TWO)
def test_with_other_numbers_of_processes_each_epoch_consumes_exactly_the_data_set(
    two_processes: Path, kind: str
) -> None:
    seen = [torch.load(two_processes / kind / f'seen_{rank}', weights_only=True) for rank in range(2)]
    parts = [one[name] for one in seen for name in ('first', 'last')] + [seen[0]['middle']]
    assert all(parts)
    consumed = Counter((epoch, int(text.split(':')[0])) for part in parts for epoch, text in part)
    assert consumed == Counter((epoch, index) for epoch in range(2) for index in range(TWO[kind]['images']))


@pytest.mark.parametrize('kind', TWO)
def test_two_processes_end_as_the_two_uninterrupted_ones(two_processes: Path, kind: str) -> None:
    seen = [torch.load(two_processes / kind / f'seen_{rank}', weights_only=True) for rank in range(2)]
    assert [one['different'] for one in seen] == [[], []]
    assert all(one['whole'] == one['again'] and one['whole'] for one in seen)
    assert seen[0]['whole'] != seen[1]['whole']


def state_of(folder: Path, stop: int = 3, **kind: Any) -> bytes:
    """A captured state."""
    return train(toy_runner(folder, 'saved', **kind), stop).state


def loaded(content: bytes) -> dict[str, Any]:
    """As it comes from a file."""
    return torch.load(io.BytesIO(content), weights_only=True)


def test_a_state_is_tensors_and_plain_values_only(tmp_path: Path) -> None:
    def look(value: Any) -> None:
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                look(item)
        else:
            assert value is None or type(value) in (bool, int, float, str, torch.Tensor), type(value)

    look(loaded(state_of(tmp_path)))


def test_a_state_does_not_change_when_the_training_goes_on(tmp_path: Path) -> None:
    runner, kept = toy_runner(tmp_path, 'run'), {}

    class Both(Watch):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 3:
                kept['tree'], content = capture(runner), io.BytesIO()
                torch.save(kept['tree'], content)
                kept['then'] = content.getvalue()

    runner.register_hook(Both(None), priority='VERY_LOW')
    runner.train()
    later = io.BytesIO()
    torch.save(kept['tree'], later)
    assert str(loaded(later.getvalue())) == str(loaded(kept['then']))


def test_the_order_of_the_data_goes_on_under_another_seed_and_the_log_says_so(tmp_path: Path) -> None:
    whole = toy_runner(tmp_path, 'whole')
    train(whole)
    runner, said = toy_runner(tmp_path, 'other', randomness=dict(seed=77)), []
    runner.logger.info = said.append
    train(runner, state=state_of(tmp_path))
    assert_same_end(runner, whole)
    assert 'the seed stays 5, as the run has it, not 77' in said
    assert any(line.startswith('resumed after 3 iterations, in epoch 1') for line in said)


def test_another_batch_size_in_the_middle_of_an_epoch_deals_what_is_left(tmp_path: Path) -> None:
    first = train(toy_runner(tmp_path, 'first'), 3)
    runner, said = toy_runner(tmp_path, 'second', batch=3), []
    runner.logger.info = said.append
    second = train(runner, state=first.state)
    consumed = Counter((epoch, int(text.split(':')[0])) for epoch, text in first.seen + second.seen)
    assert consumed == Counter((epoch, index) for epoch in range(2) for index in range(12))
    assert 'the total batch is 3, it was 2' in said
    assert any('what is left of this epoch is dealt anew to 1 process x 3 images' in line for line in said)


def test_a_foreign_sampler_cannot_deal_anew_and_says_so(tmp_path: Path) -> None:
    state = state_of(tmp_path, sampler='DefaultSampler')
    with pytest.raises(ValueError, match=r'DefaultSampler with BatchSampler cannot deal the rest of an epoch anew'):
        train(toy_runner(tmp_path, 'other', sampler='DefaultSampler', batch=3), state=state)


def test_a_model_of_another_shape_is_refused_with_names_and_nothing_is_changed(tmp_path: Path) -> None:
    tree, runner = loaded(state_of(tmp_path)), toy_runner(tmp_path, 'other')
    tree['model']['body.0.weight'] = torch.zeros(8, 5)
    tree['model']['new.weight'] = tree['model'].pop('body.4.bias')
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.register_hook(ResumeHook(tree), priority='HIGHEST')
    with pytest.raises(ValueError) as caught:
        runner.train()
    for part in (
        'the model has body.4.bias, which was not saved', 'the model has no new.weight, which was saved',
        r'body.0.weight of the model is (8, 4) torch.float32, saved was (8, 5)', 'use load_from',
    ):
        assert part in str(caught.value)
    assert all(value.equal(before[name]) for name, value in runner.model.state_dict().items())


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda tree: tree['optimizers'][''].update(type='SGD'), 'the optimiser is AdamW, saved was SGD'),
        (lambda tree: tree['optimizers']['']['groups'].pop(), 'has 1 parameter groups, saved were 0'),
        (lambda tree: tree['optimizers']['']['groups'][0]['names'].reverse(), 'group 0 differs in another order'),
        (lambda tree: tree['optimizers'][''].update(loss_scaler={}), 'with and without a GradScaler'),
        (lambda tree: tree['schedulers'][''].pop(), 'param_scheduler makes'),
        (lambda tree: tree['ema'].clear(), 'the run has 1 EMAHooks, saved were 0'),
        (lambda tree: tree['dataset_meta'].update(classes=['b', 'a']), r"\['a', 'b'\], saved were \['b', 'a'\]"),
        (lambda tree: tree.pop('optimizers'), 'lacks optimizers, so it cannot be resumed exactly'),
        (lambda tree: tree.update(format=9), 'has format 9, this version reads 1'),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    tree, runner = loaded(state_of(tmp_path)), toy_runner(tmp_path, 'other')
    change(tree)
    runner.register_hook(ResumeHook(tree), priority='HIGHEST')
    with pytest.raises(ValueError, match=sentence):
        runner.train()


def test_the_batches_that_mmengine_accumulates_are_counted(tmp_path: Path) -> None:
    kinds = dict(theirs=dict(optim=dict(accumulative_counts=3)), ours=dict(accumulate=3, images=18), plain=dict())
    batches = {name: loaded(state_of(tmp_path / name, **kind))['batch']['total'] for name, kind in kinds.items()}
    assert batches == dict(theirs=6, ours=6, plain=2)


def test_the_message_hub_goes_on_with_its_histories(tmp_path: Path) -> None:
    content = state_of(tmp_path)
    saved = loaded(content)['message_hub']
    assert len(saved['scalars']['train/loss']['values']) == 3 and 'cfg' not in saved['info']
    runner = toy_runner(tmp_path, 'second')
    train(runner, state=content)
    assert len(final(runner)['losses']) == 12


def test_plain_data_comes_back_as_it_was() -> None:
    from collections import deque

    value = {'a': (1, [2.5, None, True, 'x']), 3: {4: float('inf')}, 'd': deque([1]), 's': {1}}
    assert from_plain(to_plain(value)) == value
    with pytest.raises(TypeError, match='function is no plain data'):
        to_plain(dict(a=lambda: 0))


@pytest.mark.parametrize(
    ('given', 'loop'),
    [
        (dict(by_epoch=True, max_epochs=3), 'EpochBasedTrainLoop'),
        (dict(type='IterBasedTrainLoop', max_iters=3), 'IterBasedTrainLoop'),
        (dict(type='mmengine.EpochBasedTrainLoop', max_epochs=3), 'EpochBasedTrainLoop'),
    ],
)
def test_a_plain_config_is_made_resumable(given: dict, loop: str) -> None:
    sampler = dict(type='DefaultSampler', shuffle=True)
    loader = dict(sampler=sampler, batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))
    cfg = Config(dict(train_cfg=given, train_dataloader=loader))
    make_resumable(cfg)
    assert cfg.train_cfg.type == f'backbones.{loop}' and 'by_epoch' not in cfg.train_cfg
    assert cfg.train_dataloader.sampler == dict(type='backbones.ResumableSampler', shuffle=True)
    assert cfg.train_dataloader.batch_sampler.type == 'backbones.AspectRatioBatchSampler'


def test_foreign_loops_and_samplers_stay(tmp_path: Path) -> None:
    given = dict(train_cfg=dict(type='mmpose.Other'), train_dataloader=dict(sampler=dict(type='mmdet.ClassAware')))
    cfg = Config(given)
    make_resumable(cfg)
    assert cfg.to_dict() == Config(given).to_dict()


def test_older_configs_find_the_loops_by_their_older_names() -> None:
    from backbones.registry import LOOPS

    assert LOOPS.get('backbones.AccumulatingEpochBasedTrainLoop') is EpochBasedTrainLoop
    assert LOOPS.get('backbones.AccumulatingIterBasedTrainLoop') is IterBasedTrainLoop


def test_the_toy_has_randomness_that_a_resumed_run_could_lose() -> None:
    model, inputs = Noisy(), list(torch.randn(2, 4))
    assert float(model(inputs)['loss']) != float(model(inputs)['loss'])


def demo_runner(folder: Path, name: str, recipe: str) -> Any:
    """A narrow detector or segmenter on generated pictures, with all of its pipeline's randomness."""
    data = folder / 'data'
    if not data.exists():
        generate_demo(data, num_train=6, num_val=2, size=(64, 96), progress=False)
    cfg = load_config(next((ROOT / 'configs').rglob(recipe)), {'data_root': f'{data}/'}, str(folder / name))
    fit_to_machine(cfg)
    make_resumable(cfg)
    by_epoch = 'max_epochs' in cfg.train_cfg
    cfg.train_cfg.update({'max_epochs' if by_epoch else 'max_iters': 2 if by_epoch else 6}, val_interval=2)
    cfg.train_dataloader.update(batch_size=2, num_workers=2, persistent_workers=True)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.default_hooks = dict(checkpoint=None)
    cfg.update(randomness=dict(seed=3), experiment_name=f'{folder}_{name}', log_level='ERROR')
    cfg.model.backbone.drop_path_rate = 0.3
    return build_runner(cfg)


class Stop(Hook):
    """Write a checkpoint after some step and end."""

    priority = 'VERY_LOW'

    def __init__(self, stop: int, folder: Path) -> None:
        self.stop, self.folder, self.written = stop, folder, None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """After a step."""
        if runner.iter + 1 == self.stop:
            self.written = write_checkpoint(self.folder, f'iter_{self.stop}', capture(runner))
            raise Interrupted


@pytest.mark.soak
@pytest.mark.parametrize('recipe', ['mask-rcnn_convnext_demo.py', 'upernet_vit_demo.py'])
def test_a_detector_and_a_segmenter_resume_from_a_written_checkpoint_bit_by_bit(
    tmp_path: Path, recipe: str, figure: Callable
) -> None:
    whole = demo_runner(tmp_path, 'whole', recipe)
    whole.train()
    for stop in (2, 4):
        first, hook = demo_runner(tmp_path, f'first{stop}', recipe), Stop(stop, tmp_path / 'kept')
        first.register_hook(hook, priority='VERY_LOW')
        with pytest.raises(Interrupted):
            first.train()
        second = demo_runner(tmp_path, f'second{stop}', recipe)
        second.register_hook(ResumeHook(read_checkpoint(hook.written)), priority='HIGHEST')
        torch.seed()
        second.train()
        assert_same_end(second, whole)
        figure('model_resumes', equal=1)
