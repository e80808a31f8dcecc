"""A run that was saved with one parameter group per parameter goes on with merged ones, and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from resume_helpers import Noisy, assert_same_end, toy_runner, train

from backbones.training.optimizer_state import wrappers
from backbones.training.run_state import restore
from backbones.training.saved_groups import regrouped

CUSTOM = dict(custom_keys={'bias': dict(decay_mult=0.0), 'body.4': dict(lr_mult=3.0)})
PLAIN, MERGED = 'DefaultOptimWrapperConstructor', 'backbones.DefaultOptimWrapperConstructor'


class GoOn(Hook):
    """Resume from a state, regrouped."""

    def __init__(self, state: bytes) -> None:
        self.tree = torch.load(io.BytesIO(state), weights_only=True)
        self.notes: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Before the first step."""
        tree, self.notes = regrouped(self.tree, wrappers(runner.optim_wrapper), runner.model)
        restore(runner, tree)


def run(folder: Path, name: str, constructor: str, custom: dict | None = CUSTOM, **kind: Any) -> Runner:
    """A toy run; the kernels are those of both constructors."""
    optimizer = dict(type='AdamW', lr=0.05, weight_decay=0.1, foreach=False)
    optim = dict(constructor=constructor, optimizer=optimizer, paramwise_cfg=custom)
    schedules = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
        dict(type='CosineAnnealingLR', T_max=12, eta_min=0.01, by_epoch=False)]
    runner = toy_runner(folder, name, iters=12, **kind)
    runner.optim_wrapper = runner.build_optim_wrapper(optim)
    runner.param_schedulers = schedules
    return runner


@pytest.mark.parametrize(('before', 'after'), [(PLAIN, MERGED), (MERGED, PLAIN), (MERGED, MERGED)])
def test_a_run_goes_on_bit_by_bit_with_other_groups(tmp_path: Path, before: str, after: str) -> None:
    whole = run(tmp_path, 'whole', after)
    train(whole)
    first = train(run(tmp_path, 'first', before), 7)
    second, go_on = run(tmp_path, 'second', after), GoOn(first.state)
    second.register_hook(go_on, priority='HIGHEST')
    train(second)
    assert_same_end(second, whole)
    assert bool(go_on.notes) == (before != after)


@pytest.mark.parametrize('other', [
    dict(custom_keys={'bias': dict(decay_mult=0.0), 'body.4': dict(lr_mult=3.0), 'body.0': dict(lr_mult=2.0)}),
    dict(custom_keys={'bias': dict(decay_mult=0.0)})], ids=['apart now', 'together now'])
def test_settings_that_mean_something_else_are_refused(tmp_path: Path, other: dict) -> None:
    first = train(run(tmp_path, 'first', PLAIN), 3)
    second, go_on = run(tmp_path, 'second', MERGED, other), GoOn(first.state)
    second.register_hook(go_on, priority='HIGHEST')
    with pytest.raises(ValueError, match=r'not fit this config: the optimiser has \d parameter groups, saved were'):
        second.train()
    assert go_on.notes == []


def test_the_saved_state_is_left_as_it_is(tmp_path: Path) -> None:
    tree = torch.load(io.BytesIO(train(run(tmp_path, 'first', PLAIN), 3).state), weights_only=True)
    before = str(tree)
    merged = run(tmp_path, 'second', MERGED)
    changed, _ = regrouped(tree, wrappers(merged.optim_wrapper), merged.model)
    assert str(tree) == before
    assert len(changed['optimizers']['']['groups']) == 3 < len(tree['optimizers']['']['groups'])


def test_parameters_of_another_model_are_not_sorted_in(tmp_path: Path) -> None:
    tree = torch.load(io.BytesIO(train(run(tmp_path, 'first', PLAIN), 3).state), weights_only=True)
    merged, model = run(tmp_path, 'second', MERGED), Noisy()
    tree['optimizers']['']['groups'][0]['names'] = ['gone']
    assert regrouped(tree, wrappers(merged.optim_wrapper), model) == (tree, [])
