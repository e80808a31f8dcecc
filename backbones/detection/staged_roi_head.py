"""Cascade R-CNN's heads as mmdet, Swin and ConvNeXt train them, without index lists in the training step."""

from __future__ import annotations

from typing import Any

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


# A function, because a class that inherits from mmdet's cannot be stated without importing mmdet.
@MODELS.register_module(name='StagedRoIHead')
def staged_roi_head(**settings: Any) -> nn.Module:
    """Build mmdet's `CascadeRoIHead`: its arguments, parameters and predictions, but fewer steps on the host.

    Not to be confused with `backbones.CascadeRoIHead`, which trains as detectron2 does. What
    `backbones.StandardRoIHead` states of its slots holds here for each stage: one wait per stage, for the targets of
    its masks. Box heads with batch norms (the SyncBN of the ConvNeXt recipes) take no empty slots, and the host waits
    for the numbers of drawn boxes in each stage.

    Args:
        settings: arguments of mmdet's `CascadeRoIHead`, with the limits of `backbones.StandardRoIHead`.

    Raises:
        ValueError: a head, loss, coder, assigner or sampler is another.
    """
    with toolbox_needed():
        from .staged_slots import StagedRoIHead
    return StagedRoIHead(**settings)
