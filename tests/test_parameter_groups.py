"""Parameters of equal settings share a group: the same bits, fewer calls."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper, build_optim_wrapper
from torch import nn

import backbones.parameter_groups as parameter_groups
from backbones.parameter_groups import merge_groups, use_fused_kernels

CUSTOM = dict(custom_keys={'norm': dict(decay_mult=0.0), 'head': dict(lr_mult=10.0)}, bias_lr_mult=2.0)
ADAMW, SGD = dict(type='AdamW', lr=1e-2, weight_decay=0.1), dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=0.1)


class Small(nn.Module):
    """Three kinds of parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3))
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(x))).square().mean()


def built(model: nn.Module, optimizer: dict, paramwise_cfg: dict | None = CUSTOM, merged: bool = True) -> OptimWrapper:
    """By the name a config uses."""
    name = 'backbones.DefaultOptimWrapperConstructor' if merged else 'DefaultOptimWrapperConstructor'
    cfg = dict(type='OptimWrapper', optimizer=optimizer, constructor=name)
    return build_optim_wrapper(model, cfg if paramwise_cfg is None else dict(cfg, paramwise_cfg=paramwise_cfg))


def settings(model: nn.Module, wrapper: OptimWrapper) -> dict[str, dict]:
    """All settings but the choice of kernels, by the name of the parameter."""
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)]: {key: item for key, item in group.items() if key not in ('params', 'fused', 'foreach')}
        for group in wrapper.optimizer.param_groups for value in group['params']}


def trained(model: nn.Module, wrapper: OptimWrapper, steps: int = 6) -> list[torch.Tensor]:
    """Under two schedules, each of which multiplies the rate of every group."""
    schedules = [
        LinearLR(wrapper, start_factor=0.1, by_epoch=False, end=3),
        MultiStepLR(wrapper, milestones=[2, 4], gamma=0.5, by_epoch=False)]
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        wrapper.update_params(model(images))
        for schedule in schedules:
            schedule.step()
    return list(model.parameters())


@pytest.mark.parametrize('optimizer', [ADAMW, SGD], ids=['AdamW', 'SGD'])
def test_every_parameter_keeps_its_settings_in_fewer_groups(optimizer: dict) -> None:
    model = Small()
    plain, merged = built(model, optimizer, merged=False), built(model, optimizer)
    assert settings(model, merged) == settings(model, plain)
    assert (len(plain.optimizer.param_groups), len(merged.optimizer.param_groups)) == (8, 4)


@pytest.mark.parametrize('optimizer', [ADAMW, SGD], ids=['AdamW', 'SGD'])
@pytest.mark.parametrize('kernels', [dict(fused=True), dict(foreach=True), dict(foreach=False)], ids=str)
def test_the_steps_are_the_same_bits_under_schedules(optimizer: dict, kernels: dict) -> None:
    one, two = Small(), Small()
    plain = trained(one, built(one, optimizer | kernels, merged=False))
    merged = trained(two, built(two, optimizer | kernels))
    assert not plain[0].equal(Small().body[0].weight)
    assert all(a.equal(b) for a, b in zip(plain, merged, strict=True))


@pytest.mark.parametrize('optimizer', [ADAMW, SGD], ids=['AdamW', 'SGD'])
def test_fused_kernels_on_the_cpu_give_the_plain_results_within_rounding(optimizer: dict) -> None:
    one, two = Small(), Small()
    plain = trained(one, built(one, optimizer | dict(foreach=False)))
    wrapper = built(two, optimizer)
    assert all(group['fused'] for group in wrapper.optimizer.param_groups)
    for a, b in zip(plain, trained(two, wrapper), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-4 * optimizer['lr'])


def test_groups_are_in_the_order_of_their_first_parameters() -> None:
    model = Small()
    groups = built(model, ADAMW).optimizer.param_groups
    order = [next(name for name, value in model.named_parameters() if value is group['params'][0]) for group in groups]
    assert order == ['body.0.weight', 'body.0.bias', 'norm.weight', 'head.weight']


def test_a_setting_that_the_optimiser_does_not_know_keeps_groups_apart() -> None:
    groups = [dict(params=[1], lr=1.0), dict(params=[2], lr=1.0, note='x'), dict(params=[3])]
    assert merge_groups(groups, dict(lr=1.0)) == [
        dict(params=[1, 3], lr=1.0), dict(params=[2], lr=1.0, note='x')]
    assert groups[0]['params'] == [1]


def test_a_parameter_of_two_modules_is_refused_and_can_be_taken_once() -> None:
    model = Small()
    model.second = nn.Conv2d(8, 2, 1)
    model.second.weight = model.head.weight
    with pytest.raises(ValueError, match=r'head\.weight belongs to two modules.*bypass_duplicate=True'):
        built(model, ADAMW)
    groups = built(model, ADAMW, dict(CUSTOM, bypass_duplicate=True)).optimizer.param_groups
    assert sum(value is model.head.weight for group in groups for value in group['params']) == 1


def test_the_log_says_what_each_group_has(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(parameter_groups, 'print_log', lambda text, logger: said.append(text))
    built(Small(), ADAMW)
    assert '8 tensors in 4 parameter groups' in said[0]
    assert '2: 2 tensors, 16 parameters from norm.weight: lr 0.01, weight_decay 0.0, decay_mult 0.0' in said[0]


def test_a_model_without_own_settings_has_one_group() -> None:
    (group,) = built(Small(), ADAMW, None).optimizer.param_groups
    assert group['fused'] and len(group['params']) == 8


@pytest.mark.parametrize('stated', [dict(foreach=True), dict(fused=False), dict(differentiable=True)], ids=str)
def test_kernels_that_the_config_chose_stay(stated: dict) -> None:
    (group,) = built(Small(), ADAMW | stated, None).optimizer.param_groups
    assert not group['fused']


def test_an_optimiser_of_another_kind_stays_as_it_is() -> None:
    optimizer = torch.optim.RMSprop(Small().parameters())
    before = copy.deepcopy(optimizer.state_dict())
    assert not use_fused_kernels(optimizer)
    assert optimizer.state_dict() == before


def test_layer_decay_steps_by_fused_kernels_too() -> None:
    from layer_decay_helpers import Model, Plain, construct

    assert all(group['fused'] for group in construct(Model(Plain()), decay_rate=0.5).param_groups)


@pytest.mark.parametrize('kind', [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_fused_kernels_move_the_right_elements_whatever_the_memory_order(kind: type) -> None:
    settings = dict(lr=0.1, **(dict(momentum=0.9) if kind is torch.optim.SGD else {}))
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 3, 5, 5), torch.randn(4, 4, 3, 5, 5)
    results = []
    for fused in (False, True):
        weight = nn.Parameter(start.clone())
        optimizer = kind([weight], **settings)
        if fused:
            assert use_fused_kernels(optimizer)
        for number, gradient in enumerate(gradients):
            if number == 2 and fused:  # states in one order, weights in the other
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            weight.grad = gradient.clone()
            optimizer.step()
        results.append(weight.detach())
    torch.testing.assert_close(*results)
