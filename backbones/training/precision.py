"""The precision of a run: `precision = 'fp32' | 'bf16' | 'fp16'` in a config, `--precision` of the tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import nn

from backbones.config import AMP_KEYS
from backbones.precision.compute import Computing, check_machine, checked_precision, compute_in, unwrapped
from backbones.registry import HOOKS, OPTIM_WRAPPERS, SCOPE
from backbones.training.guards import GuardedAmpOptimWrapper

PLAIN = ('OptimWrapper', 'AmpOptimWrapper')  # MMEngine's, and ours with a prefix


def apply_precision(cfg: Config, precision: str | None = None) -> list[str]:
    """Let the optimiser wrapper of a config fit its precision, in place.

    Without a precision the wrapper stays: fp32, or autocast where a recipe was published with it. With one, a config of
    another project gets `PrecisionHook`, too.

    Args:
        cfg: a composed config.
        precision: in place of the config's own.

    Returns:
        Lines for the log.

    Raises:
        ValueError: an unknown precision, one that this machine cannot compute in, or fp16 with a foreign wrapper.
    """
    if precision is not None:
        cfg.precision = precision
    if cfg.get('precision') is None:
        return []
    checked_precision(cfg.precision)
    check_machine(cfg.precision, torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    cfg.default_hooks = {'precision': dict(type=f'{SCOPE}.PrecisionHook'), **(cfg.get('default_hooks') or {})}
    wrapper = cfg.get('optim_wrapper')
    if not wrapper:
        return []
    kind = wrapper.get('type', 'OptimWrapper')
    kind = kind if isinstance(kind, str) else kind.__name__
    name = kind.rpartition('.')[2].removeprefix('Guarded')
    scaled = cfg.precision == 'fp16'
    if name in PLAIN:
        autocast = name == 'AmpOptimWrapper'
        published = f"autocast to {wrapper.get('dtype') or 'float16'}" if autocast else 'fp32'
        for key in AMP_KEYS:
            if not (scaled and key == 'loss_scale'):
                wrapper.pop(key, None)
        wrapper['type'] = f'{SCOPE}.ScaledOptimWrapper' if scaled else f'{SCOPE}.GuardedOptimWrapper'
        if autocast or cfg.precision != 'fp32':
            return [f'the run computes in {cfg.precision} where the recipe says {published}: docs/precision.md']
    elif scaled != (name == 'ScaledOptimWrapper'):
        raise ValueError(
            f"precision={cfg.precision!r} with optim_wrapper.type={kind!r}: "
            + ("fp16 needs a scaled loss, by 'backbones.ScaledOptimWrapper'" if scaled else
               "a scaled loss is for fp16; leave the type out")
        )
    return []


@HOOKS.register_module()
class PrecisionHook(Hook):
    """Let training, validation and test compute in the config's `precision`, on maps in channels_last.

    Parameters stay fp32 (docs/precision.md). The layers of mmcv.ops (RoIAlign, deformable convolution, ...) get their
    maps in NCHW order: their kernels read the memory as if it were so, whatever the strides say.

    Args:
        channels_last: False leaves the memory order of maps as it is.
    """

    priority = 'LOW'  # after EMAHook has copied the model, before CompileHook

    def __init__(self, channels_last: bool = True) -> None:
        self.channels_last = channels_last
        self._computing: Computing | None = None

    def before_train(self, runner: Runner) -> None:
        """Switch on, when the weights are there: their start draws numbers in the order of their memory."""
        self._switch_on(runner)

    def before_val(self, runner: Runner) -> None:
        """Switch on where nothing is trained."""
        self._switch_on(runner)

    def before_test(self, runner: Runner) -> None:
        """Switch on where nothing is trained."""
        self._switch_on(runner)

    def _switch_on(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        if self._computing is not None or next(model.parameters()).dtype != torch.float32:
            return  # a model whose weights were converted for inference computes as they are
        precision = runner.cfg.get('precision') or 'fp32'
        _check_wrapper(precision, runner.optim_wrapper)
        self._computing = compute_in(model, precision, self.channels_last)

    def after_run(self, runner: Runner) -> None:
        """Leave the model as it was: fp32."""
        if self._computing is not None:
            self._computing.stop()
            self._computing = None


def _check_wrapper(precision: str, wrapper: Any) -> None:
    """Refuse autocast around a model that is in low precision already, and fp16 without a scaled loss."""
    if precision == 'fp32' or not isinstance(wrapper, OptimWrapper):  # none, or still a dict in a test
        return
    scaled = isinstance(wrapper, ScaledOptimWrapper)
    if scaled != (precision == 'fp16') or (isinstance(wrapper, AmpOptimWrapper) and not scaled):
        wanted = 'ScaledOptimWrapper' if precision == 'fp16' else 'GuardedOptimWrapper'
        raise ValueError(
            f'precision={precision!r} with optim_wrapper.type={type(wrapper).__name__!r}: set it to '
            f"'{SCOPE}.{wanted}', or leave precision out and train by autocast"
        )


class _Scaled(AmpOptimWrapper):
    """AmpOptimWrapper less autocast, on any device."""

    def __init__(self, loss_scale: str | float | dict = 'dynamic', **kwargs: Any) -> None:
        OptimWrapper.__init__(self, **kwargs)
        if not (loss_scale == 'dynamic' or isinstance(loss_scale, int | float | dict)):
            raise ValueError(
                f"optim_wrapper.loss_scale={loss_scale!r}: give 'dynamic', a number, or the arguments of GradScaler"
            )
        given = loss_scale if isinstance(loss_scale, dict) else {}
        fixed = float(loss_scale) if isinstance(loss_scale, int | float) else None
        device = self.optimizer.param_groups[0]['params'][0].device.type
        self.loss_scaler = torch.amp.GradScaler(device, **({} if fixed is None else dict(init_scale=fixed)), **given)
        self._scale_update_param, self.cast_dtype = fixed, torch.float16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """MMEngine's context of a plain wrapper: the model itself computes in fp16."""
        with OptimWrapper.optim_context(self, model):
            yield


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(GuardedAmpOptimWrapper, _Scaled):
    """Loss scaling and the guard of `GuardedAmpOptimWrapper` without its autocast, for `precision = 'fp16'`.

    Args:
        loss_scale: 'dynamic', a fixed number, or a dict of torch.amp.GradScaler's arguments.
        kwargs: of MMEngine's OptimWrapper, and `deferred`.
    """
