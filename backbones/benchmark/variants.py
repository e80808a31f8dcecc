"""The ways in which our own side is run: a name, and a function that prepares the model.

    @register('name', dtype=torch.bfloat16)
    def prepare(model, what): ...

adds one. It gets a copy of the model of the config in fp32 on the device and returns what is run in its place, which
takes the same images in fp32. `what` says what is timed: 'backbone' (the model is the backbone, in evaluation mode),
'inference' (the whole model, `test_step`) or 'train' (`train_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from backbones.benchmark.names import pick
from backbones.compiling.regions import compile_for_training
from backbones.evaluation.labels import spare_scores
from backbones.inference import compile_for_inference, prepare_for_inference
from backbones.precision.compute import compute_in

Prepare = Callable[[nn.Module, str], nn.Module]


@dataclass(frozen=True)
class Variant:
    """One way of running ours.

    Attributes:
        name: as `--variants` takes it.
        prepare: makes it of the plain model.
        dtype: of its matrix products; the share of the peak is that of this dtype.
        optim_wrapper: entries that replace those of the config's `optim_wrapper` in a training step.
    """

    name: str
    prepare: Prepare
    dtype: torch.dtype = torch.float32
    optim_wrapper: Mapping[str, Any] = field(default_factory=dict)


VARIANTS: dict[str, Variant] = {}


def register(name: str, *, dtype: torch.dtype = torch.float32, optim_wrapper: Mapping[str, Any] | None = None
             ) -> Callable[[Prepare], Prepare]:
    """Make the decorated function the variant `name`.

    Raises:
        ValueError: there is one of this name.
    """
    if name in VARIANTS:
        raise ValueError(f'there is a variant {name!r} already; choose another name')

    def keep(prepare: Prepare) -> Prepare:
        VARIANTS[name] = Variant(name, prepare, dtype, dict(optim_wrapper or {}))
        return prepare

    return keep


def chosen(names: list[str]) -> list[Variant]:
    """The variants of these names.

    Raises:
        ValueError: for an unknown one.
    """
    return pick(names, VARIANTS, '--variants', 'variant')


@register('plain')
def plain(model: nn.Module, what: str) -> nn.Module:
    """The model as the config builds it, without anything that our tools do to it."""
    return model


@register('fp32')
def fp32(model: nn.Module, what: str) -> nn.Module:
    """As `--precision fp32` runs it."""
    return _at(model, what, 'fp32')


@register('bf16', dtype=torch.bfloat16)
def bf16(model: nn.Module, what: str) -> nn.Module:
    """As `--precision bf16` runs it."""
    return _at(model, what, 'bf16')


@register('bf16-compiled', dtype=torch.bfloat16)
def bf16_compiled(model: nn.Module, what: str) -> nn.Module:
    """As `--precision bf16 --compile` runs it."""
    if what == 'inference':
        _lean(model)
    if what != 'train':
        return compile_for_inference(model, 'bf16')
    compile_for_training(_at(model, what, 'bf16'))
    return model


def _at(model: nn.Module, what: str, precision: str) -> nn.Module:
    """As the tools do it: `PrecisionHook` in training, `prepare_for_inference` otherwise."""
    if what == 'train':
        compute_in(model, precision)
        return model
    if what == 'inference':
        _lean(model)
    return prepare_for_inference(model, precision)


def _lean(model: nn.Module) -> None:
    """Predict what metrics take and no more: labels without scores, masks as run lengths."""
    if hasattr(model, 'decode_head'):
        spare_scores(model)
    elif getattr(getattr(model, 'roi_head', None), 'with_mask', False):
        model.roi_head.test_cfg.mask_format = 'rle'
