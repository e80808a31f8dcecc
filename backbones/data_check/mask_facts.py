"""Where the masks of a COCO file reach and how large they are, without drawing them; for masks that passed the checks.

All polygons of many objects are looked at in one go: 20 million points of COCO take a few seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, starmap

import numpy as np
from pycocotools import mask as coco_mask

from backbones.data.coco_masks import is_flat

AT_ONCE = 1 << 15  # masks; 25 points each are 13 MB
LARGEST = 2**31  # pixels of a picture that pycocotools counts right: its run lengths have 32 bits
NEARLY_FLAT = 1e-6  # area of a polygon over the square of its extent, below which `is_flat` looks closely


@dataclass
class MaskFacts:
    """Facts of M masks.

    Attributes:
        extents: (M, 4) lowest x, lowest y, highest x, highest y in pixels; NaN without a usable part.
        areas: (M,) pixels that the mask covers at least: those of its largest polygon, or all of its run lengths.
        short: numbers of mask and polygon where a polygon has fewer than three points, or half a point.
        flat: likewise, where all points of a polygon lie on one line.
    """

    extents: np.ndarray
    areas: np.ndarray
    short: list[tuple[int, int]]
    flat: list[tuple[int, int]]


def polygon_facts(masks: Sequence[list[list[float]]]) -> MaskFacts:
    """Look at masks made of polygons that passed `check_polygons`."""
    facts = MaskFacts(np.full((len(masks), 4), np.nan), np.zeros(len(masks)), [], [])
    for begin in range(0, len(masks), AT_ONCE):
        _some_polygons(masks[begin:begin + AT_ONCE], begin, facts)
    return facts


def _some_polygons(masks: Sequence[list[list[float]]], begin: int, facts: MaskFacts) -> None:
    counts = np.fromiter(map(len, masks), np.int64, len(masks))
    owners = np.repeat(np.arange(len(masks)), counts)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    polygons = list(chain.from_iterable(masks))
    lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
    right = np.flatnonzero((lengths >= 6) & (lengths % 2 == 0))
    if len(right) < len(polygons):
        wrong = np.setdiff1d(np.arange(len(polygons)), right)
        facts.short += zip((begin + owners[wrong]).tolist(), numbers[wrong].tolist(), strict=True)
        polygons = [polygons[place] for place in right]
        owners, numbers, lengths = owners[right], numbers[right], lengths[right]
    if not polygons:
        return
    low, high, areas = _extents(polygons, lengths)
    flat = np.array([
        place for place in np.flatnonzero(areas <= NEARLY_FLAT * (high - low).sum(1) ** 2) if is_flat(polygons[place])
    ], np.int64)
    if len(flat):
        facts.flat += zip((begin + owners[flat]).tolist(), numbers[flat].tolist(), strict=True)
        kept = np.ones(len(polygons), bool)
        kept[flat] = False
        low, high, areas, owners = low[kept], high[kept], areas[kept], owners[kept]
    if len(owners):
        first = np.flatnonzero(np.diff(owners, prepend=-1))  # polygon of each mask
        places = begin + owners[first]
        facts.extents[places, :2] = np.minimum.reduceat(low, first)
        facts.extents[places, 2:] = np.maximum.reduceat(high, first)
        facts.areas[places] = np.maximum.reduceat(areas, first)


def _extents(polygons: Sequence[list[float]], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest corner (P, 2) and area (P,) of each polygon."""
    values = np.fromiter(chain.from_iterable(polygons), np.float64, lengths.sum())
    x, y = values[::2].copy(), values[1::2].copy()
    last = np.cumsum(lengths // 2) - 1
    first = np.concatenate([[0], last[:-1] + 1])
    low, high = (
        np.stack([reduce.reduceat(x, first), reduce.reduceat(y, first)], 1) for reduce in (np.minimum, np.maximum)
    )
    x -= np.repeat(low[:, 0], lengths // 2)  # no digits are lost far from the corner
    y -= np.repeat(low[:, 1], lengths // 2)
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    next_x[last], next_y[last] = x[first], y[first]
    return low, high, np.abs(np.add.reduceat(x * next_y - next_x * y, first)) / 2


def run_facts(masks: Sequence[dict]) -> MaskFacts:
    """Look at masks made of run lengths that passed `check_mask` and `check_total`."""
    facts = MaskFacts(np.full((len(masks), 4), np.nan), np.zeros(len(masks)), [], [])
    strings = []
    for place, mask in enumerate(masks):
        height, width = mask['size']
        if isinstance(mask['counts'], list):
            facts.extents[place], facts.areas[place] = _run_extent(mask['counts'], height)
        elif height * width < LARGEST:
            strings.append(place)
        else:
            facts.areas[place] = np.nan  # unknown
    if strings:
        there = [masks[place] for place in strings]
        boxes = coco_mask.toBbox(there).astype(np.float64)
        boxes[:, 2:] += boxes[:, :2]
        facts.extents[strings], facts.areas[strings] = boxes, coco_mask.area(there)
    facts.extents[facts.areas == 0] = np.nan
    return facts


def _run_extent(counts: list[int], height: int) -> tuple[list[float], int]:
    """Extent of run lengths 0, 1, 0, ... down the columns, and their number of ones."""
    ends, ones = 0, []
    for number, run in enumerate(counts):
        ends += run
        if number % 2 and run:
            ones.append((ends - run, ends - 1))
    if not ones:
        return [np.nan] * 4, 0
    rows = [
        (0, height - 1) if begin // height != end // height else (begin % height, end % height) for begin, end in ones
    ]
    area = sum(starmap(lambda begin, end: end - begin + 1, ones))
    return [
        ones[0][0] // height, min(low for low, _ in rows), ones[-1][1] // height + 1, max(high for _, high in rows) + 1
    ], area
