"""Floating-point operations of what was timed: those of the model, counted; not those that a kernel happens to do."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from backbones.flops import count_macs, on_meta, split

TRAINING = 3  # forward passes' worth of work: the backward pass multiplies twice where the forward does once


@contextlib.contextmanager
def counted_rois(model: nn.Module) -> Iterator[dict[str, float]]:
    """Count the RoIs that reach the heads: `box` and `mask`, of one head on average, of all images together."""
    seen: dict[str, list[int]] = {'box': [], 'mask': []}
    found: dict[str, float] = {}
    hooks = []
    parts = split(model)
    for kind, heads in (('box', parts.box_heads), ('mask', parts.mask_heads)):
        for head, _ in heads:
            hooks.append(head.register_forward_pre_hook(
                lambda module, given, counts=seen[kind]: counts.append(len(given[0]))))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for kind, heads in (('box', parts.box_heads), ('mask', parts.mask_heads)):
            if heads:
                found[kind] = sum(seen[kind]) / len(heads)


def backbone_flops(cfg: Config, size: tuple[int, int], batch: int) -> int:
    """Of a forward pass of the backbone; a multiply-add is two."""
    return 2 * batch * count_macs(_shapes(cfg).backbone, size).total


def model_flops(cfg: Config, size: tuple[int, int], batch: int, rois: dict[str, float], *, training: bool) -> int:
    """Of an inference or a training step of the whole model; a multiply-add is two.

    Args:
        cfg: its config.
        size: (H, W) of the images.
        batch: images.
        rois: of `counted_rois`.
        training: a segmenter's auxiliary head, which works in training only, is left out, as in `backbones.flops`.
    """
    model = _shapes(cfg)
    per_image = {kind: round(count / batch) for kind, count in rois.items()}
    crops, size = (1, size) if training else _crops(model, size)
    counts = count_macs(model, size, box_rois=per_image.get('box', 0), mask_rois=per_image.get('mask', 0))
    return 2 * batch * crops * counts.total * (TRAINING if training else 1)


def _shapes(cfg: Config) -> nn.Module:
    with on_meta():
        return MODELS.build(copy.deepcopy(cfg.model))


def _crops(model: nn.Module, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many crops a segmenter's sliding window cuts from an image, and their size.

    https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/models/segmentors/encoder_decoder.py#L246-L285
    """
    settings = getattr(model, 'test_cfg', None) or {}
    if settings.get('mode') != 'slide':
        return 1, size
    crop, stride = settings['crop_size'], settings['stride']
    steps = [max(math.ceil((side - c) / s), 0) + 1 for side, c, s in zip(size, crop, stride, strict=True)]
    return math.prod(steps), (min(size[0], crop[0]), min(size[1], crop[1]))
