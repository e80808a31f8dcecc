"""Instance masks from box-sized probabilities: as COCO run lengths, or as bitmaps, equal to mmdet's bit by bit.

Work and memory follow the boxes, not N x H x W. How: `backbones.detection.mask_changes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backbones.missing import toolbox_needed

from .mask_changes import mask_changes, mask_windows, odd_ones

RLE = dict  # {'size': [H, W], 'counts': bytes}, as pycocotools.mask.encode returns it
FLIPS = dict(horizontal=(1,), vertical=(0,), diagonal=(0, 1))


def encode_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> list[RLE]:
    """Turn probabilities into COCO run lengths without a bitmap of the image.

    Args:
        masks: (N, M, M) probabilities, on any device.
        boxes: (N, 4) x0 y0 x1 y1 in pixels of the image.
        size: (H, W) of the image.
        threshold: probability, above 0, from which a pixel belongs to the mask.

    Returns:
        N times what `pycocotools.mask.encode` gives for the mask that mmdet pastes on a CPU.

    Raises:
        ValueError: shapes do not fit, a box is not finite, or the threshold is negative.
    """
    masks, boxes = _checked(masks, boxes, size, threshold)
    windows = mask_windows(boxes, size)
    return _compressed([
        _run_lengths(changes, window, size)
        for changes, window in zip(mask_changes(masks, boxes, windows, threshold), windows, strict=True)
    ], size)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Turn probabilities into bitmaps (N, H, W) of bool on the CPU, equal to those that mmdet pastes there.

    Arguments and errors are those of `encode_masks`. Besides the bitmaps, little more than one box is held.
    """
    masks, boxes = _checked(masks, boxes, size, threshold)
    windows = mask_windows(boxes, size)
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    images = pasted.numpy()
    for image, changes, (x0, y0, x1, y1) in zip(
            images, mask_changes(masks, boxes, windows, threshold), windows.tolist(), strict=True):
        if len(changes):
            image[y0:y1, x0:x1] = _painted(changes, y1 - y0, x1 - x0).T
    return pasted


def as_rles(masks: Tensor | np.ndarray | Sequence[RLE]) -> list[RLE]:
    """Run lengths of what a mask head predicts, bitmaps (N, H, W) or run lengths already."""
    if isinstance(masks, Tensor | np.ndarray):
        coder = _pycocotools()
        bitmaps = masks.cpu().numpy() if isinstance(masks, Tensor) else masks
        return [coder.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
    return list(masks)


def as_bitmaps(masks: Tensor | Sequence[RLE], size: tuple[int, int]) -> Tensor:
    """Bitmaps (N, H, W) of what a mask head predicts; `size` (H, W) is needed where there is no instance."""
    if isinstance(masks, Tensor):
        return masks
    coder = _pycocotools()
    bitmaps = torch.zeros(len(masks), *size, dtype=torch.bool)
    for bitmap, rle in zip(bitmaps.numpy(), masks, strict=True):
        bitmap[:] = coder.decode(rle)
    return bitmaps


def flip_masks(masks: Tensor | Sequence[RLE], direction: str) -> Tensor | list[RLE]:
    """Flip bitmaps (N, H, W), or run lengths, one bitmap at a time.

    Raises:
        ValueError: the direction is none of horizontal, vertical, diagonal.
    """
    if direction not in FLIPS:
        raise ValueError(f'direction={direction!r} is unknown; choose one of {sorted(FLIPS)}')
    axes = FLIPS[direction]
    if isinstance(masks, Tensor):
        return masks.flip([axis - 2 for axis in axes])
    coder = _pycocotools()
    return [coder.encode(np.asfortranarray(np.flip(coder.decode(rle), axes))) for rle in masks]


def _checked(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
    """Masks and boxes in fp32 on the CPU."""
    if masks.ndim != 3 or tuple(boxes.shape) != (len(masks), 4) or 0 in masks.shape[1:]:
        raise ValueError(
            f'masks are {tuple(masks.shape)} and boxes {tuple(boxes.shape)}; give (N, M, M) and (N, 4): the mask of '
            'the predicted class of each box')
    if not threshold >= 0:
        raise ValueError(f'threshold={threshold} is no probability; give a number from 0 to 1')
    if min(size) < 1:
        raise ValueError(f'size={size} is no image; give (H, W) in pixels, 1 or more')
    masks = masks.detach().to('cpu', torch.float32).contiguous()
    boxes = boxes.detach().to('cpu', torch.float32).contiguous()
    if not boxes.isfinite().all():
        raise ValueError(
            'the model predicts boxes that are no finite numbers, for which there are no masks; its weights may hold '
            'NaN: use an earlier checkpoint')
    return masks, boxes


def _run_lengths(changes: np.ndarray, window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Lengths of the runs of the whole image in column order, outside first."""
    x0, y0, _, y1 = window.tolist()
    pixels = size[0] * size[1]
    if not len(changes):
        return np.array([pixels])
    column, row = np.divmod(changes, y1 - y0 + 1)
    places = (column + x0) * size[0] + row + y0
    # a column that ends inside at the lower edge of the image goes on in the next one that begins inside
    edges = np.concatenate([[0], odd_ones(places), [pixels]])
    if edges[-2] == pixels:
        edges = edges[:-1]
    return edges[1:] - edges[:-1]


def _compressed(lengths: list[np.ndarray], size: tuple[int, int]) -> list[RLE]:
    """COCO's strings of run lengths."""
    coder = _pycocotools()
    return [coder.frPyObjects([dict(size=list(size), counts=runs)], *size)[0] for runs in lengths]


def _painted(changes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The window (w, h) of a mask, of bool."""
    bits = np.zeros(width * (height + 1), dtype=bool)
    bits[changes] = True
    return np.logical_xor.accumulate(bits, out=bits).reshape(width, height + 1)[:, :-1]


def _pycocotools() -> object:
    with toolbox_needed():
        from pycocotools import mask
    return mask
