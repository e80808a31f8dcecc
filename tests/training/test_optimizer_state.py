"""Optimisers by the names of their parameters: settings, moments, gradients and the GradScaler come back."""

from __future__ import annotations

import io
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from backbones.training.optimizer_state import capture_optimizer, check_optimizer, restore_optimizer, wrappers


class Scaled(OptimWrapper):
    """What AmpOptimWrapper is, for a CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=512.0, growth_interval=3)


def built(kind: type = OptimWrapper, **kwargs: Any) -> tuple[nn.Module, OptimWrapper]:
    """A model with two parameter groups."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    groups = [dict(params=list(model[0].parameters()), lr=0.1), dict(params=list(model[1].parameters()), lr=0.2)]
    wrapper = kind(torch.optim.AdamW(groups, betas=(0.8, 0.9)), **kwargs)
    wrapper.initialize_count_status(nn.Identity(), 0, 100)
    return model, wrapper


def step(model: nn.Module, wrapper: OptimWrapper, number: int) -> None:
    """One pass."""
    wrapper.update_params(model(torch.randn(2, 3, generator=torch.Generator().manual_seed(number))).square().mean())


def through_a_file(state: dict) -> dict:
    """Written and read, without executing anything."""
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=True)


def test_passes_that_had_not_led_to_a_step_are_not_lost() -> None:
    model, wrapper = built(accumulative_counts=3)
    for number in range(5):
        step(model, wrapper, number)
    state, weights = through_a_file(capture_optimizer(wrapper, model)), model.state_dict()
    other, again = built(accumulative_counts=3)
    other.load_state_dict(weights)
    restore_optimizer(again, other, state)
    for number in range(5, 9):
        step(model, wrapper, number), step(other, again, number)
    assert all(one.equal(two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_settings_that_schedules_changed_come_back() -> None:
    model, wrapper = built()
    step(model, wrapper, 0)
    for group in wrapper.param_groups:
        group.update(lr=group['lr'] / 7, initial_lr=0.3)
    other, again = built()
    restore_optimizer(again, other, through_a_file(capture_optimizer(wrapper, model)))
    assert [group['lr'] for group in again.param_groups] == [group['lr'] for group in wrapper.param_groups]
    assert again.optimizer.param_groups[0]['betas'] == (0.8, 0.9)
    assert again.param_groups[-1]['initial_lr'] == 0.3


def test_the_grad_scaler_goes_on_with_its_scale() -> None:
    model, wrapper = built(Scaled)
    wrapper.loss_scaler.load_state_dict({**wrapper.loss_scaler.state_dict(), 'scale': 2048.0, '_growth_tracker': 2})
    other, again = built(Scaled)
    restore_optimizer(again, other, through_a_file(capture_optimizer(wrapper, model)))
    assert again.loss_scaler.state_dict() == wrapper.loss_scaler.state_dict()
    assert again.loss_scaler.state_dict()['scale'] == 2048.0


def test_what_was_captured_is_not_changed_by_the_run_that_took_it() -> None:
    model, wrapper = built()
    step(model, wrapper, 0)
    state = capture_optimizer(wrapper, model)
    before = through_a_file(state)
    other, again = built()
    restore_optimizer(again, other, state)
    step(other, again, 1)
    assert str(through_a_file(state)) == str(before)


def test_several_optimisers_keep_their_names() -> None:
    _, wrapper = built()
    assert list(wrappers(wrapper)) == ['']
    assert list(wrappers(OptimWrapperDict(first=wrapper, second=wrapper))) == ['first', 'second']


def test_what_does_not_fit_is_said_by_name() -> None:
    model, wrapper = built()
    step(model, wrapper, 0)
    state = capture_optimizer(wrapper, model)
    assert check_optimizer(wrapper, model, state) == []
    state['state']['1.weight']['exp_avg'] = torch.zeros(2, 2)
    state['groups'][0]['names'][0] = 'gone'
    assert check_optimizer(wrapper, model, state) == [
        'parameter group 0 differs in 0.weight, gone', 'exp_avg of 1.weight is (2, 2), the parameter (1, 4)']
