"""Batches of images in few calls and, in training, of few sizes: what a compiled model needs.

A training batch is padded, as always, at its right and bottom, up to the smallest of a small set of sizes (buckets)
that holds it. A model that is compiled for each size by itself then has a few dozen of them to meet, not thousands.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import ImgDataPreprocessor
from mmengine.utils import is_seq_of
from torch import Tensor

Size = tuple[int, int]  # (H, W) in pixels


def bucket_sizes(largest: Size, step: int = 128, divisor: int = 32, *, mixed: bool = False) -> tuple[Size, ...]:
    """The sizes that training batches are padded to, the smallest area first.

    Down from `largest`, each side in steps of `step` to half its length, lying and standing. On the multi-scale recipe
    of COCO (480 to 800 by at most 1333 pixels; drawn from the usual shapes of its images, in groups of orientation)
    batches have 11 % more pixels with a step of 128 than without buckets, and some 13 sizes per orientation make up all
    but a few per cent of them; with 64, 3 % and 34; with 192, 17 % and 8.

    Args:
        largest: to which a batch may be padded at most (`backbones.image_sizes`).
        step: pixels between two lengths.
        divisor: every length is a multiple of it.
        mixed: whether lying and standing images may meet in a batch: then there are square buckets up to the longest
            side, too.

    Raises:
        ValueError: `step` is no multiple of `divisor`, or a length is below 1.
    """
    if min(*largest, step, divisor) < 1 or step % divisor:
        raise ValueError(
            f'buckets: largest={largest}, step={step}, divisor={divisor}; lengths are 1 or more, and the step is a '
            f'multiple of the divisor, such as {4 * max(divisor, 1)}'
        )
    short, long = (_lengths(side, step, divisor) for side in (min(largest), max(largest)))
    lying = {(h, w) for h in short for w in long if h <= w} | {(h, h) for h in (*short, *(long if mixed else ()))}
    return tuple(sorted(lying | {(w, h) for h, w in lying}, key=lambda size: (size[0] * size[1], size)))


def _lengths(longest: int, step: int, divisor: int) -> list[int]:
    longest = -(-longest // divisor) * divisor
    return list(range(longest, (longest - 1) // 2, -step))


def checked_buckets(buckets: Sequence[Sequence[int]] | None, divisor: int) -> tuple[Size, ...] | None:
    """The buckets of a config, the smallest area first.

    Raises:
        ValueError: they are no sizes, or no multiples of the divisor.
    """
    if buckets is None:
        return None
    sizes = [tuple(size) if isinstance(size, list | tuple) else () for size in buckets]
    wrong = [
        size for size in sizes
        if len(size) != 2 or any(type(side) is not int or side < 1 or side % divisor for side in size)]
    if wrong or not sizes:
        raise ValueError(
            f'data_preprocessor.buckets={buckets!r}: give sizes (height, width) in pixels, multiples of {divisor} '
            '(pad_size_divisor), or leave it out'
        )
    return tuple(sorted(sizes, key=lambda size: (size[0] * size[1], size)))


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size | None:
    """The first bucket that holds `size`; None if it is larger than all."""
    return next((bucket for bucket in buckets if bucket[0] >= size[0] and bucket[1] >= size[1]), None)


def image_batch(
    images: Sequence[Tensor], size: Size, mean: Tensor | None, std: Tensor | None, flip: bool, pad_value: float
) -> Tensor:
    """Stack images (C, h, w), as bytes or floats, to one batch (N, C, H, W) in fp32: the same bits as one by one.

    Args:
        images: of one device, none larger than `size`.
        size: (H, W).
        mean: (C, 1, 1) or (1, 1, 1), subtracted; None: neither it nor `std` is used.
        std: of the same shape, which the difference is divided by.
        flip: whether the channels come in the other order.
        pad_value: right of and below each image, after normalisation.
    """
    shapes = {tuple(image.shape) for image in images}
    full = shapes == {(len(images[0]), *size)}
    shape = (len(images), len(images[0]), *size)
    batch = images[0].new_empty(shape, dtype=torch.float32)
    if not full:
        batch.fill_(pad_value)
    if len(shapes) == 1:  # all in one call
        _, h, w = images[0].shape
        parts = [(batch[:, :, :h, :w], torch.stack(list(images)))]
    else:
        parts = [(batch[i, :, : image.shape[1], : image.shape[2]], image) for i, image in enumerate(images)]
    for place, image in parts:
        place.copy_(image.flip(-3) if flip else image)
        if mean is not None:
            place.sub_(mean).div_(std)
    return batch


class ImageBatches(ImgDataPreprocessor):
    """MMEngine's ImgDataPreprocessor that makes a batch by `image_batch`, in training of a bucket's size.

    Attributes:
        buckets: sizes in the order in which they are tried; None: only `pad_size_divisor` decides.
    """

    buckets: tuple[Size, ...] | None = None
    _said = False

    def forward(self, data: dict, training: bool = False) -> dict | list:
        """Cast, normalise, pad and stack."""
        images = data['inputs']
        if not (is_seq_of(images, Tensor) and all(image.ndim == 3 and len(image) == 3 for image in images)):
            return super().forward(data, training)
        data = self.cast_data(data)
        images = data['inputs']
        divisor = self.pad_size_divisor
        size = tuple(-(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2))
        data['inputs'] = self.normalised(images, self.padded_size(size) if training else size)
        data.setdefault('data_samples', None)
        return data

    def normalised(self, images: Sequence[Tensor], size: Size) -> Tensor:
        """The batch (N, 3, H, W) of these images."""
        mean, std = (self.mean, self.std) if self._enable_normalize else (None, None)
        return image_batch(images, size, mean, std, self._channel_conversion, self.pad_value)

    def padded_size(self, size: Size) -> Size:
        """The bucket of a training batch, or `size` where it is larger than all of them, which is said once."""
        found = bucket_of(size, self.buckets) if self.buckets else size
        if found is None and not self._said:
            self._said = True
            print_log(
                f'a training batch of {size[0]} x {size[1]} is larger than all buckets (the largest has '
                f'{self.buckets[-1][0]} x {self.buckets[-1][1]}); such batches keep their size', logger='current',
                level=logging.WARNING)
        return found or size
