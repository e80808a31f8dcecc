"""mmseg's SegDataPreProcessor in fewer calls, with buckets for compiled training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


# A function, because a class that inherits from mmseg's cannot be stated without importing mmseg.
@MODELS.register_module(name='SegDataPreProcessor')
def seg_data_preprocessor(
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    size_divisor: int | None = None,
    pad_val: float = 0,
    seg_pad_val: int = 255,
    bgr_to_rgb: bool = False,
    rgb_to_bgr: bool = False,
    batch_augments: list[dict] | None = None,
    test_cfg: dict | None = None,
    non_blocking: bool = True,
    buckets: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """Build mmseg's `SegDataPreProcessor`: its arguments and, bit by bit, its batches and label maps.

    Args:
        mean: of the channels.
        std: of the channels.
        size: training batches are padded to it.
        size_divisor: or to multiples of it.
        pad_val: of the padding, after normalisation.
        seg_pad_val: of the padding of label maps.
        bgr_to_rgb: whether the channels come in the other order.
        rgb_to_bgr: the same.
        batch_augments: mmseg's.
        test_cfg: `size` or `size_divisor` in evaluation.
        non_blocking: whether the copy to a GPU is not waited for; mmseg's has no such argument, and waits.
        buckets: sizes (height, width); a training batch is padded to the smallest that holds it. Needs `size_divisor`.
    """
    from backbones.data.buckets import checked_buckets

    if buckets is not None and size is not None:
        raise ValueError(
            f'data_preprocessor: size={size!r} pads every training batch to one size, so buckets={buckets!r} have no '
            'effect; leave one of them out'
        )
    preprocessor = _kind()(
        mean=mean, std=std, size=size, size_divisor=size_divisor, pad_val=pad_val, seg_pad_val=seg_pad_val,
        bgr_to_rgb=bgr_to_rgb, rgb_to_bgr=rgb_to_bgr, batch_augments=batch_augments, test_cfg=test_cfg)
    preprocessor._non_blocking = non_blocking
    preprocessor.buckets = checked_buckets(buckets, size_divisor or 1)
    return preprocessor


@functools.cache
def _kind() -> type[nn.Module]:
    with toolbox_needed():
        from mmseg.models import SegDataPreProcessor as Plain
        from mmseg.utils import stack_batch

        from backbones.data.buckets import ImageBatches

    class SegDataPreProcessor(Plain, ImageBatches):
        """mmseg's; in training, the images of a batch are normalised and padded together."""

        def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
            """Cast, normalise, pad and stack; pad the label maps with them."""
            images, samples = data['inputs'], data.get('data_samples')
            plain = self.batch_augments is not None or any(len(image) != 3 for image in images)
            if not training or samples is None or plain:
                return Plain.forward(self, data, training)
            data = self.cast_data(data)
            images, samples = data['inputs'], data['data_samples']
            # mmseg pads the label maps and notes the sizes; for the images themselves it gets tensors without memory
            shapes = [torch.empty(image.shape, device='meta') for image in images]
            size, divisor = self.size, self.size_divisor
            if self.buckets:
                each = self.pad_size_divisor
                largest = (max(image.shape[axis] for image in images) for axis in (1, 2))
                size, divisor = self.padded_size(tuple(-(-side // each) * each for side in largest)), None
            stacked, samples = stack_batch(
                shapes, samples, size=size, size_divisor=divisor, pad_val=self.pad_val, seg_pad_val=self.seg_pad_val)
            return dict(inputs=self.normalised(images, tuple(stacked.shape[-2:])), data_samples=samples)

    return SegDataPreProcessor
