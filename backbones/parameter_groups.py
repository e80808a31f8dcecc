"""Few parameter groups, so that an optimiser steps in few calls: MMEngine makes one group per parameter.

With any `paramwise_cfg`, MMEngine's constructor gives each parameter a group of its own, and PyTorch's optimisers then
launch their kernels once per tensor. Here parameters of equal settings share a group; the numbers that come out are the
same bits. On a CPU the optimiser then runs PyTorch's fused kernels, whose results are those of the plain ones within
rounding (a millionth of a step's length and a few units in the last place of the weight).
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor as PlainConstructor
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from backbones.registry import OPTIM_WRAPPER_CONSTRUCTORS

# Optimisers with fused kernels, whose `found_inf` the guard relies on and our tests hold them to.
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
MARK = '_keeps_one_layout'


def merge_groups(groups: list[dict[str, Any]], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Join the parameter groups whose settings are equal, in the order of their first parameters.

    Args:
        groups: as optimisers take them; left as they are.
        defaults: the optimiser's own settings, which a group has where it states none.

    Returns:
        New groups. All settings decide, those that the optimiser does not know (`decay_mult`, ...), too.
    """
    merged: list[dict[str, Any]] = []
    effective: list[dict[str, Any]] = []
    for group in groups:
        stated = {name: value for name, value in group.items() if name != 'params'}
        settings = {**defaults, **stated}
        if settings not in effective:
            effective.append(settings)
            merged.append({'params': [], **stated})
        params = group['params']
        merged[effective.index(settings)]['params'] += [params] if isinstance(params, Tensor) else list(params)
    return merged


def use_fused_kernels(optimizer: torch.optim.Optimizer) -> bool:
    """Let an optimiser whose parameters lie on the CPU step by fused kernels, unless its config chose others.

    On a GPU, `backbones.GuardedOptimWrapper` does it.

    Returns:
        Whether it does now.
    """
    groups = optimizer.param_groups
    free = all(
        group.get('fused') is None and group.get('foreach') is None and not group.get('differentiable')
        and not isinstance(group['lr'], Tensor) for group in groups)
    parameters = [parameter for group in groups for parameter in group['params']]
    on_cpu = all(parameter.device.type == 'cpu' and parameter.is_floating_point() for parameter in parameters)
    if type(optimizer) not in FUSED or not free or not on_cpu:
        return False
    for group in groups:
        group.update(fused=True, foreach=False)
    keep_one_layout(optimizer)
    return True


def keep_one_layout(optimizer: torch.optim.Optimizer) -> None:
    """Before each step, give gradients and states the memory order of their parameters.

    Fused kernels walk through the memory of all of them at once and look at no strides: a parameter in channels_last
    would be moved by the gradients of other elements. Autograd keeps to the order, but not DDP, whose buckets have the
    order that the parameters had when it was made, and not a state that comes from a checkpoint.
    """
    if not getattr(optimizer, MARK, False):
        optimizer.register_step_pre_hook(_lay_out)
        setattr(optimizer, MARK, True)


def _lay_out(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    for parameter in (parameter for group in optimizer.param_groups for parameter in group['params']):
        gradient, state = parameter.grad, optimizer.state.get(parameter, {})
        if gradient is not None and not gradient.is_sparse and gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name='DefaultOptimWrapperConstructor')
class MergingOptimWrapperConstructor(PlainConstructor):
    """MMEngine's DefaultOptimWrapperConstructor with one parameter group for all parameters of equal settings.

    Same arguments, same learning rate and weight decay of each parameter, same order of the first parameters. The log
    has a line per parameter from MMEngine, and one per group from here.

    Args:
        optim_wrapper_cfg: optimiser wrapper with its `optimizer`.
        paramwise_cfg: MMEngine's.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser wrapper of `model`, which may be wrapped for distributed training."""
        wrapper = super().__call__(model)
        use_fused_kernels(wrapper.optimizer)
        return wrapper

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: Any = None) -> None:
        """Append the groups of `module` to `params`. Called by the base class, and by itself for the children.

        Raises:
            ValueError: a parameter belongs to two modules.
        """
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        names = {id(value): name for name, value in module.named_parameters()}
        found = [names.get(id(value), 'a parameter') for group in params for value in group['params']]
        twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
        if twice:
            raise ValueError(
                f'{twice[0]} belongs to two modules and would be stepped twice; set paramwise_cfg.bypass_duplicate=True'
            )
        defaults = {name: value for name, value in self.optimizer_cfg.items() if name != 'type'}
        params[:] = merge_groups(params, defaults)
        if is_main_process():
            print_log('\n'.join(_lines(params, names, defaults)), logger='current')


def _lines(groups: list[dict[str, Any]], names: dict[int, str], defaults: dict[str, Any]) -> list[str]:
    """What the log says about the groups."""
    lines = [f'{sum(len(group["params"]) for group in groups)} tensors in {len(groups)} parameter groups']
    for number, group in enumerate(groups):
        settings = {**defaults, **group}
        settings.pop('params')
        elements = sum(value.numel() for value in group['params'])
        told = ', '.join(f'{name} {value}' for name, value in settings.items())
        first = names.get(id(group['params'][0]), 'a parameter')
        lines.append(f'  {number}: {len(group["params"])} tensors, {elements:,} parameters from {first}: {told}')
    return lines
