"""The switch: let a model compute in bf16 or fp16, in training and evaluation, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backbones.precision.copies import LowPrecisionCopies
from backbones.precision.islands import float_outputs, nchw_for_mmcv, unknown_heads

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def checked_precision(precision: object) -> torch.dtype:
    """The dtype of a name.

    Raises:
        ValueError: it is none of `PRECISIONS`.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f'precision={precision!r} is unknown; choose one of {", ".join(PRECISIONS)}')
    return PRECISIONS[precision]


class Computing:
    """A model that computes in a precision and a memory order until `stop` is called."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
        self._dtype, self._channels_last = dtype, channels_last
        self._hooks = [getattr(model, 'backbone', model).register_forward_pre_hook(self._enter)]
        self.copies: LowPrecisionCopies | None = None
        if dtype != torch.float32:
            self.copies = LowPrecisionCopies(model, dtype)
            self._hooks.append(model.register_forward_pre_hook(self._before_pass))

    def stop(self) -> None:
        """Go back to what the model does by itself."""
        for hook in self._hooks:
            hook.remove()
        if self.copies is not None:
            self.copies.drop()

    def _before_pass(self, module: nn.Module, args: tuple) -> None:
        self.copies.refresh()

    def _enter(self, module: nn.Module, args: tuple) -> tuple[Any, ...]:
        return tuple(enter(value, self._dtype, self._channels_last) for value in args)


def enter(value: Any, dtype: torch.dtype, channels_last: bool = True) -> Any:
    """Images (N, C, H, W) in `dtype`, in memory channel by channel if so asked; anything that is no image as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    layout = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
    return value.to(dtype, memory_format=layout)


def compute_in(model: nn.Module, precision: str, channels_last: bool = True) -> Computing | None:
    """Let a detector, a segmenter or a backbone compute in `precision`; its parameters stay fp32, and where they are.

    Weights, maps and tokens are of that precision; what the heads return is fp32, and everything behind them
    (`backbones.precision.islands`). No GradScaler is needed for bf16, whose range is that of fp32; fp16 needs
    `backbones.ScaledOptimWrapper`.

    The memory order of maps follows that of the images. The parameters' own is not touched: DDP, which looks at it when
    it is made, gives wrong gradients in the first step after a change, without a word (torch 2.13).

    Args:
        model: changed in place; wrappers (DDP, test-time augmentation) may be around it.
        precision: 'fp32', 'bf16' or 'fp16'.
        channels_last: whether maps lie in NHWC order. LayerNorm then needs no copy, convolutions no reorder; results
            are those of NCHW up to rounding.

    Returns:
        What ends it; None where there is nothing to do.

    Raises:
        ValueError: an unknown precision; one that this machine cannot compute in; a model whose heads are not known.
    """
    dtype = checked_precision(precision)
    model = unwrapped(model)
    if precision == 'fp32':
        if not (channels_last and hasattr(model, 'backbone')):
            return None
        nchw_for_mmcv(model)
        return Computing(model, dtype, channels_last)
    check_machine(precision, next(model.parameters()).device)
    if hasattr(model, 'backbone') and (unknown_heads(model) or not float_outputs(model)):
        odd = ', '.join(unknown_heads(model)) or 'no head'
        raise ValueError(
            f'precision={precision!r}: {type(model).__name__} has {odd}, and only of dense, box and FCN mask heads of '
            "mmdet and decode heads of mmseg is it known what losses need in fp32; train it with optim_wrapper.type="
            "'AmpOptimWrapper' instead"
        )
    return Computing(model, dtype, channels_last)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DDP and test-time augmentation."""
    while not hasattr(model, 'backbone') and isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    return model


def check_machine(precision: str, device: torch.device) -> None:
    """Refuse what a device has no kernels for.

    Raises:
        ValueError: saying what it can do.
    """
    if precision == 'fp16' and device.type == 'cpu' and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise ValueError("precision='fp16': this CPU has no fp16 arithmetic; choose bf16 or fp32, or use a GPU")
    if precision == 'bf16' and device.type == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"precision='bf16': {torch.cuda.get_device_name(device)} has no bf16 arithmetic; choose fp16 or fp32"
        )
