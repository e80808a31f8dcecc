"""mmdet's DetDataPreprocessor in fewer calls, with buckets for compiled training."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


# A function, because a class that inherits from mmdet's cannot be stated without importing mmdet.
@MODELS.register_module(name='DetDataPreprocessor')
def det_data_preprocessor(
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pad_size_divisor: int = 1,
    pad_value: float = 0,
    pad_mask: bool = False,
    mask_pad_value: int = 0,
    pad_seg: bool = False,
    seg_pad_value: int = 255,
    bgr_to_rgb: bool = False,
    rgb_to_bgr: bool = False,
    boxtype2tensor: bool = True,
    non_blocking: bool = True,
    batch_augments: list[dict] | None = None,
    buckets: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """Build mmdet's `DetDataPreprocessor`: its arguments and, bit by bit, its batches.

    Args:
        mean: of the channels.
        std: of the channels.
        pad_size_divisor: height and width of a batch are multiples of it.
        pad_value: of the padding, after normalisation.
        pad_mask: whether masks are padded to the size of the batch.
        mask_pad_value: of their padding.
        pad_seg: whether semantic label maps are padded, too.
        seg_pad_value: of their padding.
        bgr_to_rgb: whether the channels come in the other order.
        rgb_to_bgr: the same.
        boxtype2tensor: whether boxes become plain tensors.
        non_blocking: whether the copy to a GPU is not waited for; mmdet's default is to wait.
        batch_augments: mmdet's.
        buckets: sizes (height, width); a training batch is padded to the smallest that holds it.
    """
    from backbones.data.buckets import checked_buckets

    preprocessor = _kind()(
        mean=mean, std=std, pad_size_divisor=pad_size_divisor, pad_value=pad_value, pad_mask=pad_mask,
        mask_pad_value=mask_pad_value, pad_seg=pad_seg, seg_pad_value=seg_pad_value, bgr_to_rgb=bgr_to_rgb,
        rgb_to_bgr=rgb_to_bgr, boxtype2tensor=boxtype2tensor, non_blocking=non_blocking, batch_augments=batch_augments)
    preprocessor.buckets = checked_buckets(buckets, pad_size_divisor)
    return preprocessor


@functools.cache
def _kind() -> type[nn.Module]:
    with toolbox_needed():
        from mmdet.models.data_preprocessors import DetDataPreprocessor as Plain

        from backbones.data.buckets import ImageBatches

    class DetDataPreprocessor(Plain, ImageBatches):
        """mmdet's, which asks the next class for the batch and pads masks to its size."""

    return DetDataPreprocessor
