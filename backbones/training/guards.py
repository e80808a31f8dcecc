"""Optimiser wrappers that keep a non-finite loss or gradient from the weights: docs/guards.md.

A step is faulty if the loss of one of its passes, or one of its gradients, is inf or NaN on any rank. Weights,
optimiser state and the running statistics of batch norms are then those before the step, bit by bit.

On a GPU nothing waits: the fused kernels of PyTorch's Adam, AdamW and SGD take a flag on the device (`found_inf`, made
for GradScaler) and write nothing if it is 1; the host reads the flag one step later. Other optimisers, and the first
step of any, which creates the state, read the flag before they step. On a CPU that is free.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn

from backbones.parameter_groups import FUSED, keep_one_layout
from backbones.registry import OPTIM_WRAPPERS
from backbones.training.agreement import Later, agree

STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


class Verdict:
    """What was found in one optimiser step; nothing is read from the device before it is asked for.

    Args:
        flags: (2,) loss faulty, gradient faulty; on all ranks the same.
        losses: one per pass of this rank.
        norms: one per gradient.
        names: of the parameters of `norms`.
    """

    def __init__(self, flags: Tensor, losses: Tensor, norms: Tensor, names: list[str]) -> None:
        self._flags, self._losses, self._norms, self._names = Later(flags), losses, norms, names

    @property
    def faulty(self) -> bool:
        """Whether the step was left out."""
        return any(self._flags.read())

    @property
    def loss_faulty(self) -> bool:
        """Whether the loss of some rank was non-finite."""
        return bool(self._flags.read()[0])

    @property
    def passes(self) -> int:
        """Forward and backward passes of the step on this rank."""
        return self._losses.numel()

    def faulty_passes(self) -> list[int]:
        """Which forward passes of this rank had a non-finite loss."""
        return (~self._losses.isfinite()).nonzero().flatten().tolist()

    def faulty_parameters(self) -> list[str]:
        """The parameters with a non-finite gradient, last of the model first: the order of the backward pass."""
        return [self._names[i] for i in (~self._norms.isfinite()).nonzero().flatten().tolist()][::-1]


class RunningStatistics:
    """What a forward pass in training mode changes: the buffers of a model's batch norms."""

    def __init__(self, model: nn.Module) -> None:
        found = [
            module._buffers[name] for module in model.modules() for name in STATISTICS
            if module._buffers.get(name) is not None
        ]
        kinds = dict.fromkeys((buffer.dtype, buffer.device) for buffer in found)
        self._groups = [[buffer for buffer in found if (buffer.dtype, buffer.device) == kind] for kind in kinds]
        self._saved: list[Tensor] = []

    def save(self) -> None:
        """Keep the present values."""
        self._saved = [torch.cat([buffer.detach().flatten() for buffer in group]) for group in self._groups]

    def restore(self, where: Tensor | bool = True) -> None:
        """Go back to the kept values, if `where` (on the device, without a look at it) is not zero."""
        for group, saved in zip(self._groups, self._saved, strict=True):
            if where is not True:
                now = torch.cat([buffer.detach().flatten() for buffer in group])
                saved = torch.where(where.to(saved.device) > 0, saved, now)
            parts = saved.split([buffer.numel() for buffer in group])
            torch._foreach_copy_(group, [part.view_as(buffer) for part, buffer in zip(parts, group, strict=True)])


class _Guarded:
    """What both wrappers share; stands before an OptimWrapper in the order of bases.

    Args:
        deferred: whether the host reads one step later what was found; by default on a GPU, if the optimiser has fused
            kernels.
    """

    def __init__(self, *args: Any, deferred: bool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if deferred not in (True, False, None):
            raise ValueError(f'optim_wrapper.deferred={deferred!r}: give True, False or None, which is True on a GPU')
        self._asked, self._model = deferred, None
        self._statistics: RunningStatistics | None = None
        self._names: dict[int, str] = {}
        self._losses: list[Tensor] = []  # of the passes since the last step
        self._verdict: Verdict | None = None
        self._use_fused_kernels(say=True)

    @property
    def deferred(self) -> bool:
        """Whether what was found is read one step later."""
        on_gpu = all(parameter.is_cuda for parameter in self._parameters())
        wanted = on_gpu if self._asked is None else self._asked
        return wanted and all(group.get('fused') for group in self.optimizer.param_groups)

    def read_at_once(self) -> None:
        """Let every step be read before it is taken, which makes the host wait for the GPU."""
        self._asked = False

    def take_verdict(self) -> Verdict | None:
        """What was found in the step since the last call; None without a step."""
        verdict, self._verdict = self._verdict, None
        return verdict

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """MMEngine's context of a forward pass; keeps the running statistics before the first one of a step."""
        if self._model is not model:
            self._model, self._statistics = model, RunningStatistics(model)
            self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        if not self._losses:
            self._statistics.save()
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Back-propagate and remember the loss."""
        self._losses.append(loss.detach().float())
        super().backward(loss, **kwargs)

    def load_state_dict(self, state_dict: dict) -> None:
        """Load, and go on with fused kernels whatever the checkpoint was written with."""
        super().load_state_dict(state_dict)
        self._use_fused_kernels()

    def step(self, **kwargs: Any) -> None:
        """Take the step unless it is faulty."""
        norms, names = self._gradient_norms()
        losses = torch.stack(self._losses) if self._losses else norms.new_zeros(0)
        self._losses = []
        flags = torch.stack([~losses.isfinite().all(), ~norms.isfinite().all().to(losses.device)]).float()
        self._take_or_leave(agree(flags), Verdict, (losses, norms, names), kwargs)

    def _take_or_leave(self, flags: Tensor, verdict: type[Verdict], found: tuple, kwargs: dict) -> None:
        """Step, on the device or after a look at the flags."""
        self._report_unread()
        self._verdict = verdict(flags, *found)
        if self.deferred and self._has_state():
            bad = flags.max()
            self.optimizer.found_inf = bad
            try:
                super().step(**kwargs)
            finally:
                del self.optimizer.found_inf
            self._restore_statistics(bad)
        elif self._verdict.faulty:
            self._restore_statistics(True)
        else:
            super().step(**kwargs)

    def _restore_statistics(self, where: Tensor | bool) -> None:
        if self._statistics is not None:
            self._statistics.restore(where)

    def _report_unread(self) -> None:
        """Without a hook that asks, a step that was left out is logged from here."""
        if self._verdict is not None and self._verdict.faulty:
            print_log(
                'a step was left out, as its loss or a gradient was not finite; '
                "dict(type='backbones.NonFiniteHook') in custom_hooks would name the iteration and the images",
                logger='current', level=logging.WARNING)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group['params']]

    def _gradient_norms(self) -> tuple[Tensor, list[str]]:
        """Norm and name of each gradient; not finite if one of its values is not, or is too large to be squared."""
        there = [parameter for parameter in self._parameters() if parameter.grad is not None]
        gradients = [p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in there]
        if not gradients:
            return torch.zeros(0), []
        norms = torch.stack([norm.to(gradients[0].device) for norm in foreach_norms(gradients)])
        return norms, [self._names.get(id(parameter), 'a parameter') for parameter in there]

    def _has_state(self) -> bool:
        """Whether the optimiser has the state of all parameters that it will move."""
        if isinstance(self.optimizer, torch.optim.SGD):
            groups = [group for group in self.optimizer.param_groups if group['momentum']]
        else:
            groups = self.optimizer.param_groups
        state = self.optimizer.state
        return all(p in state for group in groups for p in group['params'] if p.grad is not None)

    def _use_fused_kernels(self, say: bool = False) -> None:
        """Switch an optimiser on the GPU to its fused kernels unless the config chose others."""
        groups, parameters = self.optimizer.param_groups, self._parameters()
        free = all(not group.get('foreach') and group.get('fused') is not False for group in groups)
        known = type(self.optimizer) in FUSED and not any(group.get('differentiable') for group in groups)
        if self._asked is False or not all(parameter.is_cuda for parameter in parameters):
            return
        if not (known and free):
            if say:
                print_log(
                    f'{type(self.optimizer).__name__} runs without fused kernels; so the guard against non-finite '
                    'steps waits for the GPU once per step', logger='current')
            return
        for group in groups:
            group.update(fused=True, foreach=False)
        keep_one_layout(self.optimizer)
        self.optimizer._step_supports_amp_scaling = True  # what its constructor does for fused=True
        for parameter in parameters:
            step = self.optimizer.state.get(parameter, {}).get('step')
            if isinstance(step, Tensor) and not step.is_cuda:  # fused kernels count on the device
                self.optimizer.state[parameter]['step'] = step.to(parameter.device, torch.float32)


def foreach_norms(tensors: list[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor in fp32, in one call per dtype and device; on a CPU the fastest norm."""
    norms: dict[int, Tensor] = {}
    kinds: dict[tuple, list[int]] = {}
    for i, tensor in enumerate(tensors):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(i)
    for which in kinds.values():
        found = torch._foreach_norm([tensors[i].detach() for i in which], 2, dtype=torch.float32)
        norms.update(zip(which, found, strict=True))
    return [norms[i] for i in range(len(tensors))]


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(_Guarded, OptimWrapper):
    """MMEngine's OptimWrapper that leaves out faulty steps; same arguments, and `deferred` (see the module)."""


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(_Guarded, AmpOptimWrapper):
    """MMEngine's AmpOptimWrapper that leaves out faulty steps; same arguments, and `deferred`.

    GradScaler looks for its scale by overflowing gradients now and then and leaves those steps out itself; they are no
    fault. One is a fault if the scale is 1 or less, or fixed: then the scale is not the cause. A non-finite loss is one
    always, and does not lower the scale.
    """

    def step(self, **kwargs: Any) -> None:
        """Take the step unless the scaler or the guard leaves it out."""
        scaler = self.loss_scaler
        if not scaler.is_enabled():
            super().step(**kwargs)
            return
        losses = torch.stack(self._losses) if self._losses else torch.zeros(0)
        self._losses = []
        scaler.unscale_(self.optimizer)
        found = scaler._found_inf_per_device(self.optimizer)  # device -> 1.0 if a gradient there is not finite
        overflow = torch.stack([flag.to(losses.device) for flag in found.values()]).max()
        own_doing = (scaler._scale.to(losses.device) > 1) if self._scale_update_param is None else False
        faulty = overflow * (1 - own_doing.float()) if isinstance(own_doing, Tensor) else overflow
        flags = agree(torch.stack([(~losses.isfinite().all()).float(), faulty]))
        self._report_unread()
        self._verdict = Verdict(flags, losses, *self._gradient_norms())
        for flag in found.values():
            flag.copy_(torch.maximum(flag, flags.max().to(flag.device)))
        self._step_and_rescale(flags, list(found.values()), kwargs)

    def _step_and_rescale(self, flags: Tensor, found: list[Tensor], kwargs: dict) -> None:
        """Step where `found` is zero on all devices; keep the scale where the loss was the fault."""
        scaler = self.loss_scaler
        kept = [value.clone() for value in (scaler._scale, scaler._growth_tracker)]
        if self.clip_grad_kwargs:
            self._clip_grad()
        # A step that is left out on the device would leave a fused SGD with a momentum that was never written.
        if self._has_state() or not any(flag.item() for flag in found):
            scaler.step(self.optimizer, **kwargs)
        scaler.update(self._scale_update_param)
        for value, before in zip((scaler._scale, scaler._growth_tracker), kept, strict=True):
            value.copy_(torch.where(flags[0].to(value.device) > 0, before, value))
        self._restore_statistics(flags.max())
