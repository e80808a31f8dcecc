"""The switch: let a model compute in bf16 or fp16, in training and evaluation, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backbones.precision.copies import LowPrecisionCopies
from backbones.precision.islands import float_outputs, to_float

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
    """A model that computes in low precision until `stop` is called."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.copies = LowPrecisionCopies(model, dtype)
        self._dtype = dtype
        backbone = getattr(model, 'backbone', model)
        self._hooks = [
            model.register_forward_pre_hook(self._before_pass),
            backbone.register_forward_pre_hook(self._enter),
        ]

    def stop(self) -> None:
        """Go back to fp32."""
        for hook in self._hooks:
            hook.remove()
        self.copies.drop()

    def _before_pass(self, module: nn.Module, args: tuple) -> None:
        self.copies.refresh()

    def _enter(self, module: nn.Module, args: tuple) -> tuple[Any, ...]:
        """Images (N, C, H, W) in the dtype and, in memory, channel by channel; tokens and the rest as they are."""
        return tuple(enter(value, self._dtype) for value in args)


def enter(value: Any, dtype: torch.dtype) -> Any:
    """An fp32 tensor in `dtype`, maps in channels_last; anything else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(dtype, memory_format=layout)


def compute_in(model: nn.Module, precision: str) -> Computing | None:
    """Let a detector, a segmenter or a backbone compute in `precision`; its parameters stay fp32.

    Weights, maps and tokens are of that precision; what the heads return is fp32, and everything behind them
    (`backbones.precision.islands`). No GradScaler is needed for bf16, whose range is that of fp32; fp16 needs
    `backbones.ScaledOptimWrapper`.

    Args:
        model: changed in place; wrappers (DDP, test-time augmentation) may be around it.
        precision: 'bf16' or 'fp16'; 'fp32' changes nothing.

    Returns:
        What ends it, or None for fp32.

    Raises:
        ValueError: an unknown precision; one that this machine cannot compute in; a model whose heads are not known.
    """
    dtype = checked_precision(precision)
    if precision == 'fp32':
        return None
    model = unwrapped(model)
    check_machine(precision, next(model.parameters()).device)
    if hasattr(model, 'backbone') and not float_outputs(model):
        raise ValueError(
            f'precision={precision!r}: {type(model).__name__} has no head that is known to return what losses need in '
            "fp32 (mmdet's dense, box and mask heads, mmseg's decode heads); train it with optim_wrapper.type="
            "'AmpOptimWrapper' instead"
        )
    return Computing(model, dtype)


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


__all__ = ['PRECISIONS', 'Computing', 'check_machine', 'checked_precision', 'compute_in', 'to_float', 'unwrapped']
