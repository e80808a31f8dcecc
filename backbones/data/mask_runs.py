"""COCO's polygons and run lengths to the windows of masks, without a bitmap of the picture.

pycocotools rasterises polygons to run lengths; those are cut to each mask's window here, all masks of a picture at a
time. So the pixels are pycocotools' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from .coco_masks import undo_differences
from .mask_crops import Window


def read_windows(masks: Sequence[Any], height: int, width: int) -> list[Window]:
    """Turn the masks of one picture (polygons, run lengths as a list or as a string) into windows.

    Raises:
        ValueError: run lengths are not of the picture's size, or do not fill it; the message names the mask by its
            place in the list.
    """
    encoded = _encoded(masks, height, width)
    windows: list[Window] = [(0, 0, np.zeros((0, 0), np.uint8))] * len(masks)
    for place, runs in enumerate(encoded):
        if list(runs['size']) != [height, width]:
            raise ValueError(
                f'mask {place} is of size {list(runs["size"])} while its picture is {[height, width]} (height, width)'
            )
    if not encoded:
        return windows
    starts, lengths, owner = _foreground([runs['counts'] for runs in encoded], height * width)
    if not len(starts):
        return windows
    corners, sizes, pixels = _cut(starts, lengths, owner, height)
    places = owner[np.flatnonzero(np.diff(owner, prepend=-1))]
    begin = 0
    for place, (x, y), (w, h) in zip(places.tolist(), corners.tolist(), sizes.tolist(), strict=True):
        window = pixels[begin:begin + w * h].reshape(w, h)  # column after column, as COCO's runs
        windows[place] = (x, y, cv2.transpose(window))
        begin += w * h
    return windows


def _encoded(masks: Sequence[Any], height: int, width: int) -> list[dict]:
    """Compressed run lengths of every mask; all polygons are rasterised in one call."""
    polygons = [polygon for mask in masks if isinstance(mask, list) for polygon in mask]
    parts = iter(coco_mask.frPyObjects(polygons, height, width) if polygons else ())
    encoded = []
    for mask in masks:
        if isinstance(mask, list):
            own = [next(parts) for _ in mask]
            encoded.append(own[0] if len(own) == 1 else coco_mask.merge(own))
        elif isinstance(mask['counts'], list):
            encoded.append(coco_mask.frPyObjects(mask, height, width))
        else:
            encoded.append(mask)
    return encoded


def _foreground(counts: Sequence[bytes | str], pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, length and owner of every run of ones, from COCO's strings; the format: `coco_masks.run_totals`."""
    strings = [string.encode() if isinstance(string, str) else string for string in counts]
    stops = np.cumsum([len(string) for string in strings])
    codes = np.frombuffer(b''.join(strings), np.uint8).astype(np.int64) - 48
    strange = [place for place, string in enumerate(strings) if not string or string[-1] - 48 & 32]
    if not strange and (codes.min() < 0 or codes.max() > 63):
        strange = np.searchsorted(stops, np.flatnonzero((codes < 0) | (codes > 63)), 'right').tolist()
    if strange:
        raise ValueError(f"mask {strange[0]} has run lengths that are no string of COCO's kind")
    final = np.flatnonzero(codes & 32 == 0)  # character of each value
    first = np.concatenate([[0], final[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(first, final - first + 1)
    values = np.add.reduceat((codes & 31) << 5 * np.minimum(place, 6), first)
    values -= np.where(codes[final] & 16, np.int64(1) << 5 * np.minimum(final - first + 1, 7), 0)
    owner = np.searchsorted(stops, final, 'right')
    runs, begins = undo_differences(values, owner)
    wrong = owner[(runs < 0) | (final - first > 6)]
    if len(wrong):
        raise ValueError(f"mask {wrong[0]} has run lengths that are no string of COCO's kind")
    totals = np.add.reduceat(runs, begins)
    unfilled = np.flatnonzero(totals != pixels)
    if len(unfilled):
        raise ValueError(
            f'mask {unfilled[0]} has run lengths that add up to {totals[unfilled[0]]} pixels while its picture has '
            f'{pixels}'
        )
    ends = np.cumsum(runs) - pixels * owner
    ones = ((np.arange(len(runs)) - begins[owner]) % 2 == 1) & (runs > 0)
    return (ends - runs)[ones], runs[ones], owner[ones]


def _cut(
    starts: np.ndarray, lengths: np.ndarray, owner: np.ndarray, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (x, y) and sizes (w, h) of the masks that have a pixel, and the pixels of all, in columns."""
    columns, rows = np.divmod(starts, height)
    last_columns, last_rows = np.divmod(starts + lengths - 1, height)
    several = columns != last_columns  # such a run touches the top and the bottom of the picture
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    last = np.append(first[1:], len(owner)) - 1
    x0, x1 = columns[first], last_columns[last] + 1
    y0 = np.minimum.reduceat(np.where(several, 0, rows), first)
    y1 = np.maximum.reduceat(np.where(several, height - 1, last_rows), first) + 1
    sizes = np.stack([x1 - x0, y1 - y0], 1)
    areas = sizes.prod(1)

    mask = np.repeat(np.arange(len(first)), last - first + 1)  # of each run
    begins = (columns - x0[mask]) * sizes[mask, 1] + rows - y0[mask] + (np.cumsum(areas) - areas)[mask]
    changes = np.stack([begins, begins + lengths], 1).ravel()
    spans = np.diff(changes, prepend=0, append=areas.sum())
    pixels = np.repeat((np.arange(len(spans)) & 1).astype(np.uint8), spans)
    return np.stack([x0, y0], 1), sizes, pixels
