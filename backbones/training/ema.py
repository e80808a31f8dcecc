"""Averages of a model's weights, a few calls per step: MMEngine's, with one call per kind of tensor.

MMEngine asks the device for the number of steps in each iteration, which makes the host wait for a GPU, and launches
one kernel per parameter. Here the host counts along, and `torch._foreach_*` does all tensors of one dtype and device in
one call. The formulas are MMEngine's, and on a CPU the results are the same bits; state-dict keys, arguments and names
are the same, so a run goes on from a state that either has saved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import EMAHook as PlainHook
from mmengine.model import ExponentialMovingAverage as PlainExponential
from mmengine.model import MomentumAnnealingEMA as PlainAnnealing
from mmengine.model import StochasticWeightAverage as PlainStochastic
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.registry import HOOKS, MODELS


def copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Write each source into its target; devices and dtypes may differ."""
    for into, values in by_kind(targets, sources):
        torch._foreach_copy_(into, values)


def by_kind(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pairs of tensors sorted by dtype and device of both."""
    kinds: dict[tuple, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        kind = (target.dtype, target.device, source.dtype, source.device)
        into, values = kinds.setdefault(kind, ([], []))
        into.append(target.detach())  # shares its version, so that whoever watches that sees the change
        values.append(source.detach())
    return list(kinds.values())


class _Average:
    """What the averages share; stands before one of MMEngine's in the order of bases."""

    _counted: tuple[Tensor, int, int] | None = None  # the buffer `steps`, its version, its value

    @property
    def count(self) -> int:
        """The value of `steps`; read from the device only after somebody else has changed it."""
        known = self._counted
        if known is None or known[0] is not self.steps or known[1] != self.steps._version:
            self._counted = known = (self.steps, self.steps._version, int(self.steps))
        return known[2]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the present weights of `model` into the average."""
        sources = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        count = self.count
        if count == 0:
            copy_all(self.avg_parameters.values(), (sources[name] for name in self.avg_parameters))
        elif count % self.interval == 0:
            moved = {name: value for name, value in self.avg_parameters.items() if value.dtype.is_floating_point}
            for averages, values in by_kind(moved.values(), (sources[name] for name in moved)):
                here = [value.to(averages[0].device) for value in values]
                self.average(averages, here, count)
        if not self.update_buffers:
            copy_all(self.module.buffers(), model.buffers())
        self.steps += 1  # on the device, where nobody waits for it
        self._counted = (self.steps, self.steps._version, count + 1)

    def average(self, averages: list[Tensor], sources: list[Tensor], count: int) -> None:
        """Move `averages`, all of one dtype and device, towards `sources` in place after `count` updates."""
        raise NotImplementedError


@MODELS.register_module()
class ExponentialMovingAverage(_Average, PlainExponential):
    """MMEngine's ExponentialMovingAverage: average = (1 - momentum) * average + momentum * weights."""

    def average(self, averages: list[Tensor], sources: list[Tensor], count: int) -> None:
        """One call."""
        torch._foreach_lerp_(averages, sources, self.momentum)


@MODELS.register_module()
class MomentumAnnealingEMA(_Average, PlainAnnealing):
    """MMEngine's MomentumAnnealingEMA: the momentum is max(momentum, gamma / (gamma + steps))."""

    def average(self, averages: list[Tensor], sources: list[Tensor], count: int) -> None:
        """One call."""
        torch._foreach_lerp_(averages, sources, max(self.momentum, self.gamma / (self.gamma + count)))


@MODELS.register_module()
class StochasticWeightAverage(_Average, PlainStochastic):
    """MMEngine's StochasticWeightAverage: the mean of all weights so far."""

    def average(self, averages: list[Tensor], sources: list[Tensor], count: int) -> None:
        """Two calls, and for their time as much memory as the weights."""
        steps = torch._foreach_sub(sources, averages)
        torch._foreach_add_(averages, steps, alpha=1 / float(count // self.interval + 1))


AVERAGES = {cls.__name__: cls for cls in (ExponentialMovingAverage, MomentumAnnealingEMA, StochasticWeightAverage)}


@HOOKS.register_module()
class EMAHook(PlainHook):
    """MMEngine's EMAHook on the averages above.

    Args:
        ema_type: one of MMEngine's three names stands for the class here; any other is taken as it is.
        kwargs: MMEngine's.
    """

    def __init__(self, ema_type: str = 'ExponentialMovingAverage', **kwargs: Any) -> None:
        bare = ema_type.removeprefix('mmengine.').removeprefix('backbones.') if isinstance(ema_type, str) else ema_type
        super().__init__(ema_type=AVERAGES.get(bare, ema_type), **kwargs)

    @torch.no_grad()
    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Update the average; before `begin_iter` or `begin_epoch` it is the present weights."""
        if self._ema_started(runner):
            self.ema_model.update_parameters(self.src_model)
            return
        averages, sources = self.ema_model.module.state_dict(), self.src_model.state_dict()
        copy_all(averages.values(), (sources[name] for name in averages))

    @torch.no_grad()
    def _swap_ema_parameters(self) -> None:
        """Exchange the weights of model and average; all copies are made before the first is overwritten."""
        averages, sources = (list(self._swapped(module)) for module in (self.ema_model.module, self.src_model))
        for one, other in by_kind(averages, sources):
            kept = [value.clone() for value in one]
            torch._foreach_copy_(one, other)
            torch._foreach_copy_(other, kept)

    def _swapped(self, module: nn.Module) -> Iterable[Tensor]:
        return itertools.chain(module.parameters(), module.buffers() if self.ema_model.update_buffers else ())
