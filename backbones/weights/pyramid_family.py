"""ViTDet's pyramid: the part of a detectron2 file that lies beside its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from backbones.weights.family import Family
from backbones.weights.layout import Layout, State

LAYOUTS = (
    Layout('detectron2 ViTDet', 'SimpleFPN', ('simfp_2.0.weight', 'simfp_5.1.weight'), table=(('net.{rest}', None),)),
)


def arguments(native: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the constructor arguments off native tensors; {} if they are no pyramid."""
    first, last = native.get('simfp_2.0.weight'), native.get('simfp_5.1.weight')
    return {} if first is None or last is None else dict(in_channels=first.shape[0], out_channels=last.shape[0])


def _all_fits(native: State, module: nn.Module) -> tuple[State, list[str]]:
    return native, []


def _no_resize(name: str, value: Tensor, module: nn.Module, patch_rule: str) -> Tensor | None:
    return None


SIMPLE_FPN = Family('SimpleFPN', LAYOUTS, arguments, _all_fits, _no_resize, ('in_channels', 'out_channels'))
