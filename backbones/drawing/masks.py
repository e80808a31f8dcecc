"""Masks cut out around their pixels: bitmaps, or run lengths that are decoded inside of their box only."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def cut_out(mask: Any, size: tuple[int, int]) -> tuple[int, int, np.ndarray] | None:
    """The box of a mask's pixels, and what is in it.

    Args:
        mask: (H, W) array or tensor, or run lengths as COCO has them.
        size: (H, W) that it must have.

    Returns:
        Left, top, and (h, w) uint8 of 0 and 1; None where no pixel is in the mask.

    Raises:
        ValueError: it is of another size.
    """
    given = mask_size(mask)
    if given != tuple(size):
        raise ValueError(
            f'a mask of {" x ".join(map(str, given))} pixels cannot be drawn over a picture of {size[0]} x {size[1]}; '
            'give masks of the whole picture')
    if isinstance(mask, dict):
        return _decoded(_counts(mask['counts']), *size)
    bitmap = np.ascontiguousarray(mask.cpu() if hasattr(mask, 'cpu') else mask)
    bitmap = bitmap.view(np.uint8) if bitmap.dtype == bool else (bitmap != 0).view(np.uint8)
    left, top, width, height = cv2.boundingRect(bitmap)
    return (left, top, bitmap[top:top + height, left:left + width]) if width else None


def mask_size(mask: Any) -> tuple[int, ...]:
    """Height and width of a mask of any form."""
    return tuple(mask['size'] if isinstance(mask, dict) else mask.shape)


def _decoded(counts: np.ndarray, height: int, width: int) -> tuple[int, int, np.ndarray] | None:
    """Runs down the columns: pixels without and with the mask by turns."""
    ends = np.cumsum(counts)
    if (counts < 0).any() or (ends[-1] if len(ends) else 0) != height * width:
        raise ValueError(f'run lengths of a mask do not fill its {height} x {width} pixels; they are damaged')
    starts, stops = ends[0::2][:len(ends) // 2], ends[1::2]
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    if not len(starts):
        return None
    first, last = starts // height, (stops - 1) // height  # columns
    left, right = int(first.min()), int(last.max()) + 1
    if (first == last).all():
        top, bottom = int((starts % height).min()), int(((stops - 1) % height).max()) + 1
    else:
        top, bottom = 0, height
    columns = np.zeros((right - left, height), np.uint8)
    flat, before = columns.reshape(-1), left * height
    for start, stop in zip((starts - before).tolist(), (stops - before).tolist(), strict=True):
        flat[start:stop] = 1
    return left, top, cv2.transpose(columns[:, top:bottom])


def _counts(given: Any) -> np.ndarray:
    """Lengths of the runs, (r,), of COCO's text or list.

    In the text a number is written in groups of 5 bits, the lowest first, and from the fourth on as the difference to
    the one before the last.
    https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/common/maskApi.c#L204
    """
    if isinstance(given, list):
        return np.array(given, np.int64)
    text = given.encode() if isinstance(given, str) else given
    signs = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((signs & 0x20) == 0)
    if not len(ends):
        return np.zeros(0, np.int64)
    signs = signs[:ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    place = np.arange(len(signs)) - np.repeat(starts, groups)
    values = np.add.reduceat((signs & 0x1F) << (5 * place), starts)
    values -= np.where(signs[ends] & 0x10, 1 << (5 * groups), 0)
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return values
