"""Mask R-CNN's RoI heads with a training step during which the host does not wait for the device."""

from __future__ import annotations

from typing import Any

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


# A function, because a class that inherits from mmdet's cannot be stated without importing mmdet.
@MODELS.register_module(name='StandardRoIHead')
def standard_roi_head(**settings: Any) -> nn.Module:
    """Build mmdet's `StandardRoIHead`: its arguments, parameters and predictions, but fewer steps on the host.

    - RoIs are matched and drawn without index lists (`backbones.detection.matching`): each image has as many slots as
      its sampler draws, positives first. Losses are fp32 whatever the heads compute in. For equal draws they are
      mmdet's within rounding.
    - On a GPU empty slots go through the heads and count for nothing; on a CPU, and where a head has batch norms, they
      are left out. The attribute `static_slots` (True, False) overrules that.
    - What is left is one wait per step: the boxes of the positives, for the targets of their masks, which are on the
      host.
    - Where no RoI is drawn at all, `loss_cls` is 0; mmdet leaves it out.

    Args:
        settings: arguments of mmdet's `StandardRoIHead`. Box heads are those of mmdet whose losses are `BBoxHead`'s,
            with CrossEntropyLoss (softmax) and DeltaXYWHBBoxCoder; the mask head is an FCNMaskHead; the assigner is
            MaxIoUAssigner, the sampler RandomSampler.

    Raises:
        ValueError: one of these is another.
    """
    with toolbox_needed():
        from .standard_slots import StandardRoIHead
    return StandardRoIHead(**settings)
