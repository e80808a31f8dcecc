"""The region proposal network with a training step during which the host does not wait for the device."""

from __future__ import annotations

from typing import Any

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


# A function, because a class that inherits from mmdet's cannot be stated without importing mmdet.
@MODELS.register_module(name='RPNHead')
def rpn_head(**settings: Any) -> nn.Module:
    """Build mmdet's `RPNHead`: its arguments, parameters, losses and proposals, but fewer steps on the host.

    - Anchors are matched and drawn without index lists (`backbones.detection.matching`), and losses are computed on
      the drawn anchors of all levels and images at once, in fp32 whatever the maps are. For equal draws they are
      mmdet's within rounding. Draws follow the same distribution as mmdet's, but not from the same random numbers.
    - `loss_rpn_cls` and `loss_rpn_bbox` are single values, the sums of mmdet's lists over levels, as the log has them.
    - What is left is one wait per image: mmcv's NMS, whose number of boxes the host must know.
    - An image without a single anchor inside counts for nothing, where mmdet raises.

    Args:
        settings: arguments of mmdet's `RPNHead`. `loss_cls` must be CrossEntropyLoss, the coder DeltaXYWHBBoxCoder,
            the assigner MaxIoUAssigner, the sampler RandomSampler.

    Raises:
        ValueError: one of these is another.
    """
    with toolbox_needed():
        from .region_proposals import RPNHead
    return RPNHead(**settings)
