"""Optimisers as plain data, by the names of the parameters, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from .plain import copied, from_plain, to_plain


def wrappers(optim_wrapper: OptimWrapper | OptimWrapperDict) -> dict[str, OptimWrapper]:
    """Each wrapper by its name; a single one has the name ''."""
    return dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {'': optim_wrapper}


def capture_optimizer(wrapper: OptimWrapper, model: nn.Module) -> dict[str, Any]:
    """State of one optimiser with its settings, its GradScaler, and gradients that have not been applied yet."""
    names, state = _names(wrapper, model), wrapper.optimizer.state
    captured = dict(
        type=type(wrapper.optimizer).__name__,
        groups=[
            dict(names=[names[id(value)] for value in group['params']], settings=to_plain(_settings(group)))
            for group in wrapper.optimizer.param_groups
        ],
        state={names[id(value)]: to_plain(dict(entry)) for value, entry in state.items()},
        inner_count=wrapper._inner_count,
    )
    if getattr(wrapper, 'base_param_settings', None):
        captured['base_settings'] = to_plain(_settings(wrapper.base_param_settings))
    if getattr(wrapper, 'loss_scaler', None) is not None:
        captured['loss_scaler'] = to_plain(wrapper.loss_scaler.state_dict())
    if wrapper._inner_count % wrapper._accumulative_counts:
        captured['gradients'] = {
            names[id(value)]: copied(value.grad) for value in _parameters(wrapper) if value.grad is not None
        }
    return captured


def check_optimizer(wrapper: OptimWrapper, model: nn.Module, saved: dict[str, Any]) -> list[str]:
    """What keeps `saved` from fitting, as phrases."""
    kind, names, groups = type(wrapper.optimizer).__name__, _names(wrapper, model), wrapper.optimizer.param_groups
    if saved['type'] != kind:
        return [f'the optimiser is {kind}, saved was {saved["type"]}']
    if len(groups) != len(saved['groups']):
        return [f'the optimiser has {len(groups)} parameter groups, saved were {len(saved["groups"])}']
    wrong = []
    for number, (group, kept) in enumerate(zip(groups, saved['groups'], strict=True)):
        here = [names[id(value)] for value in group['params']]
        if here != kept['names']:
            other = sorted(set(here) ^ set(kept['names'])) or ['another order of the same']
            wrong.append(f'parameter group {number} differs in {", ".join(other[:3])}')
    shapes = {names[id(value)]: value.shape for value in _parameters(wrapper)}
    for name, entry in saved['state'].items():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.dim() and name in shapes and value.shape != shapes[name]:
                wrong.append(f'{key} of {name} is {tuple(value.shape)}, the parameter {tuple(shapes[name])}')
    if ('loss_scaler' in saved) != (getattr(wrapper, 'loss_scaler', None) is not None):
        wrong.append(f'optim_wrapper is {type(wrapper).__name__}; with and without a GradScaler do not go together')
    return wrong


def restore_optimizer(wrapper: OptimWrapper, model: nn.Module, saved: dict[str, Any]) -> None:
    """Put back what `capture_optimizer` gave and `check_optimizer` found to fit."""
    names, parameters = _names(wrapper, model), list(_parameters(wrapper))
    numbers = {names[id(value)]: number for number, value in enumerate(parameters)}
    groups, count = [], 0
    for kept in saved['groups']:
        numbered = list(range(count, count + len(kept['names'])))
        groups.append(dict(from_plain(kept['settings']), params=numbered))
        count += len(numbered)
    state = {numbers[name]: from_plain(to_plain(entry)) for name, entry in saved['state'].items()}  # its own memory
    wrapper.optimizer.load_state_dict(dict(state=state, param_groups=groups))
    if 'base_settings' in saved and getattr(wrapper, 'base_param_settings', None):
        wrapper.base_param_settings.update(from_plain(saved['base_settings']))
    if 'loss_scaler' in saved:
        wrapper.loss_scaler.load_state_dict(from_plain(saved['loss_scaler']))
    wrapper._inner_count = saved['inner_count']
    for name, gradient in saved.get('gradients', {}).items():
        parameter = parameters[numbers[name]]
        parameter.grad = gradient.to(parameter.device, copy=True)


def _parameters(wrapper: OptimWrapper) -> Iterator[nn.Parameter]:
    for group in wrapper.optimizer.param_groups:
        yield from group['params']


def _names(wrapper: OptimWrapper, model: nn.Module) -> dict[int, str]:
    known = {id(value): name for name, value in model.named_parameters()}
    return {id(value): known.get(id(value), f'#{number}') for number, value in enumerate(_parameters(wrapper))}


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != 'params'}
