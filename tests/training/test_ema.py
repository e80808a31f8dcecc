"""The averages are MMEngine's, bit by bit; so are their states."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine.model
import pytest
import torch
from mmengine.hooks import EMAHook as PlainHook
from mmengine.runner import Runner
from resume_helpers import assert_same_end, final, toy_runner, train
from torch import nn

from backbones.training import ema
from backbones.training.ema import AVERAGES, EMAHook

OPTIONS = [dict(), dict(interval=2), dict(update_buffers=True)]


class Tiny(nn.Module):
    """Parameters of two dtypes, a batch norm with its counter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.half = nn.Linear(5, 3), nn.Linear(3, 2, dtype=torch.bfloat16)
        self.norm = nn.BatchNorm1d(3)


def moved(model: nn.Module, number: int) -> None:
    """As a step would."""
    numbers = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value += (torch.randn(value.shape, generator=numbers) * 9).to(value.dtype)


@pytest.mark.parametrize('name', AVERAGES)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_an_average_is_that_of_mmengine_bit_by_bit(name: str, options: dict) -> None:
    model = Tiny()
    options = options | (dict(momentum=0.01) if name != 'StochasticWeightAverage' else {})
    plain, ours = getattr(mmengine.model, name)(model, **options), AVERAGES[name](model, **options)
    for number in range(7):
        moved(model, number)
        plain.update_parameters(model)
        ours.update_parameters(model)
    expected, found = plain.state_dict(), ours.state_dict()
    assert list(expected) == list(found)
    assert all(found[key].equal(value) for key, value in expected.items())


def test_a_loaded_state_goes_on_with_its_number_of_steps() -> None:
    model = Tiny()
    plain, ours = mmengine.model.MomentumAnnealingEMA(model), AVERAGES['MomentumAnnealingEMA'](model)
    ours.update_parameters(model)
    for number in range(3):
        moved(model, number)
        plain.update_parameters(model)
    ours.load_state_dict(plain.state_dict())
    assert ours.count == 3
    for average in (plain, ours, again := copy.deepcopy(ours)):
        moved(model, 4)
        average.update_parameters(model)
    assert again.count == ours.count == int(ours.steps) == 4


def test_the_number_of_steps_is_not_read_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tiny()
    average = AVERAGES['ExponentialMovingAverage'](model)
    average.update_parameters(model)

    def read(self: torch.Tensor) -> Any:
        raise AssertionError('the host asks the device')

    for name in ('__bool__', '__int__', 'item', 'tolist', '__eq__', '__mod__'):
        monkeypatch.setattr(torch.Tensor, name, read)
    average.update_parameters(model)
    assert average.count == 2


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('begin', [dict(), dict(begin_iter=3)], ids=str)
def test_the_hook_does_what_that_of_mmengine_does(options: dict, begin: dict) -> None:
    states = []
    for kind in (PlainHook, EMAHook):
        model, hook = Tiny(), kind(momentum=0.1, **options, **begin)
        runner = SimpleNamespace(model=model, iter=0, epoch=0)
        hook.before_run(runner)
        for number in range(5):
            runner.iter = number
            moved(model, number)
            hook.after_train_iter(runner, number)
        before = {key: value.clone() for key, value in hook.ema_model.module.state_dict().items()}
        hook.before_val_epoch(runner)
        states.append([dict(model.state_dict()), dict(hook.ema_model.state_dict()), before])
        assert all(model.state_dict()[name].equal(before[name]) for name, _ in model.named_parameters())
    for expected, found in zip(*states, strict=True):
        assert all(found[key].equal(value) for key, value in expected.items())


def test_two_exchanges_restore_the_weights_and_are_seen_by_who_watches_versions() -> None:
    model, hook = Tiny(), EMAHook(momentum=0.1)
    hook.before_run(SimpleNamespace(model=model))
    moved(model, 0)
    before, version = copy.deepcopy(model.state_dict()), model.layer.weight._version
    hook._swap_ema_parameters()
    assert model.layer.weight._version > version
    assert not model.layer.weight.equal(before['layer.weight'])
    hook._swap_ema_parameters()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('name', [*AVERAGES, 'mmengine.ExponentialMovingAverage', None])
def test_the_names_of_mmengine_mean_the_classes_here(name: str | None) -> None:
    hook = EMAHook(**({} if name is None else dict(ema_type=name)))
    hook.before_run(SimpleNamespace(model=Tiny()))
    assert type(hook.ema_model).__module__ == ema.__name__


def averaging(folder: Path, name: str, kind: type) -> Runner:
    """A toy run with this hook in the place of MMEngine's."""
    runner = toy_runner(folder, name, iters=12, validate=True)
    hooks = runner._hooks
    (place,) = [place for place, hook in enumerate(hooks) if isinstance(hook, PlainHook)]
    hooks[place] = kind(momentum=0.1)
    return runner


@pytest.mark.parametrize('hooks', [(EMAHook, EMAHook), (PlainHook, EMAHook), (EMAHook, PlainHook)])
def test_a_run_resumes_bit_by_bit_also_with_the_hook_of_mmengine(tmp_path: Path, hooks: tuple[type, type]) -> None:
    whole = averaging(tmp_path, 'whole', PlainHook)
    train(whole)
    first = train(averaging(tmp_path, 'first', hooks[0]), 7)
    second = averaging(tmp_path, 'second', hooks[1])
    train(second, state=first.state)
    assert_same_end(second, whole)
    assert int(final(second)['ema.steps']) == 12
