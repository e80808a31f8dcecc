"""Masks cut out by boxes and resized to one shape (the targets of a mask head), from windows of masks.

mmdet pools a bitmap of the whole picture per box by mmcv's RoIAlign (aligned, average, as many samples per bin as the
bin has pixels). Those averages are separable: one matrix per axis, applied to the window only, gives them but for
rounding. Where rounding could decide on which side of 0.5 a value lies, mmcv's own kernel is asked.
https://github.com/open-mmlab/mmcv/blob/0606103/mmcv/ops/csrc/pytorch/cpu/roi_align.cpp#L20-L220
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.ops import roi_align

Window = tuple[int, int, np.ndarray]  # x and y of the upper left pixel, and the pixels (h, w); the rest is 0
AT_ONCE = 16  # boxes; bounds what their matrices take
HALF_UNIT = np.float64(2.0**-24)  # relative rounding error of one float32 operation


def crop_and_resize(
    windows: Sequence[Window],
    size: tuple[int, int],
    boxes: np.ndarray,
    indices: np.ndarray,
    out_shape: tuple[int, int],
    binarize: bool = True,
) -> np.ndarray:
    """Return what mmdet's `BitmapMasks.crop_and_resize` computes on a CPU, bit by bit.

    Args:
        windows: one per mask.
        size: (H, W) of the picture.
        boxes: (N, 4) x0 y0 x1 y1, floating point.
        indices: (N,) the mask of each box.
        out_shape: rows and columns of the result.
        binarize: whether to give bool, true from 0.5, instead of averages in the type of the boxes.
    """
    result = np.zeros((len(boxes), *out_shape), bool if binarize else boxes.dtype)
    unsure = np.ones(len(boxes), bool)
    if binarize and boxes.dtype == np.float32:
        unsure = _averaged(result, windows, size, boxes, indices)
    _aligned(result, windows, size, boxes, indices, np.flatnonzero(unsure))
    return result


def _aligned(
    result: np.ndarray, windows: Sequence[Window], size: tuple[int, int], boxes: np.ndarray, indices: np.ndarray,
    chosen: np.ndarray,
) -> None:
    """Fill the `chosen` places of `result` by mmcv's kernel.

    The kernel reads one canvas of the picture's size that all masks share one after the other: moving box and mask
    instead would round the positions of the samples otherwise. It is all zeros but for the mask at hand, and what no
    mask has touched takes no memory where the system hands out zeroed pages on first use.
    """
    if not len(chosen):
        return
    rois = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1), boxes.dtype), boxes], 1))  # (N, 5)
    canvas = torch.zeros(1, 1, *size, dtype=rois.dtype)
    picture = canvas[0, 0].numpy()
    for index in np.unique(indices[chosen]):
        places = chosen[indices[chosen] == index]
        x, y, pixels = windows[index]
        below = picture[y:y + pixels.shape[0], x:x + pixels.shape[1]]
        below[:] = pixels
        values = roi_align(canvas, rois[places], result.shape[1:], 1.0, 0, 'avg', True)[:, 0]  # (n, h, w)
        result[places] = (values >= 0.5) if result.dtype == bool else values
        below[:] = 0


def _averaged(
    result: np.ndarray, windows: Sequence[Window], size: tuple[int, int], boxes: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """Fill `result` by one matrix per axis; tell (N,) which places must be computed by the kernel instead."""
    height, width = size
    low, high = boxes.T[:2], boxes.T[2:]  # (2, N): x, y
    inside = (low >= 0) & (low <= high) & (high <= np.array([[width], [height]]))  # false for NaN as well
    unsure = ~inside.all(0)
    positions = 3 * np.spacing(np.float32(max(size)))  # a kernel with fused multiply-add rounds them otherwise
    for index in np.unique(indices[~unsure]):
        x, y, pixels = windows[index]
        places = np.flatnonzero((indices == index) & ~unsure)
        if not pixels.size:
            continue
        if pixels.max() > 1 or pixels.min() < 0:  # the bound on rounding errors is that of values from 0 to 1
            unsure[places] = True
            continue
        for some in np.split(places, range(AT_ONCE, len(places), AT_ONCE)):
            down, y0, y1, tall = _axis_matrices(boxes[some, 1::2], result.shape[1], height, y, pixels.shape[0])
            across, x0, x1, wide = _axis_matrices(boxes[some, 0::2], result.shape[2], width, x, pixels.shape[1])
            values = down @ pixels[y0:y1, x0:x1].astype(np.float32)  # (n, h, x1 - x0)
            values = values @ across.transpose(0, 2, 1)  # (n, h, w)
            rounding = (tall * wide + (y1 - y0 + x1 - x0 + 16)) * HALF_UNIT + positions  # (n,)
            result[some] = values >= 0.5
            unsure[some] = (np.abs(values - 0.5) <= rounding[:, None, None]).any((1, 2))
    return unsure


def _axis_matrices(
    ends: np.ndarray, bins: int, length: int, offset: int, window: int
) -> tuple[np.ndarray, int, int, np.ndarray]:
    """Weights by which the pixels of a window along one axis enter the averages of `bins` bins.

    All positions are computed as the kernel does, operation by operation in float32.

    Args:
        ends: (n, 2) where each box begins and ends.
        bins: number of bins.
        length: of the picture.
        offset: where in the picture the window begins.
        window: length of the window.

    Returns:
        A matrix (n, bins, stop - start); start and stop, in the window; (n,) samples per bin.
    """
    half = np.float32(0.5)
    begins = ends[:, :1] - half
    steps = ((ends[:, 1:] - half) - begins) / np.float32(bins)  # (n, 1)
    samples = np.ceil(steps).astype(np.int64)
    number = np.arange(samples.max())
    within = (number.astype(np.float32) + half) * steps / np.maximum(samples, 1).astype(np.float32)  # (n, most)
    at = (begins + np.arange(bins, dtype=np.float32) * steps)[:, :, None] + within[:, None]  # (n, bins, most)
    at = np.clip(at, 0, np.float32(length - 1))
    lower = at.astype(np.int64)
    upper_weights = at - lower.astype(np.float32)
    lower -= offset
    used = (number < samples)[:, None] / np.maximum(samples, 1)[:, None]  # (n, 1, most)

    start = min(max(int(lower.min(initial=window)), 0), window)
    span = max(min(int(lower.max(initial=0)) + 2, window) - start, 0)
    row = span + 4  # two columns of margin on each side take what lies outside
    lower = np.clip(lower - start, -2, span) + 2
    lower += np.arange(len(ends) * bins).reshape(len(ends), bins, 1) * row
    columns = np.stack([lower, lower + 1])  # the upper pixel is next to the lower one; 0 is its weight at the border
    weights = np.stack([(np.float32(1) - upper_weights) * used, upper_weights * used])
    matrix = np.bincount(columns.ravel(), weights.ravel(), len(ends) * bins * row)
    matrix = matrix.reshape(len(ends), bins, row)[:, :, 2:span + 2]
    return matrix.astype(np.float32), start, start + span, samples[:, 0]
