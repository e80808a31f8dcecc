"""Masks of COCO files, looked at before pycocotools' C code sees them.

pycocotools 2.0.11 crashes on a polygon with NaN or 1e8, hangs on infinity, and turns run lengths that do not fill their
picture into whatever lay in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .errors import DataError

CHUNK = 1 << 16  # characters of run lengths at a time
FLAT = 1e-9  # how far from a line points may lie, relative to their distances, to be on it: rounding errors


def usable_polygons(polygons: list) -> list:
    """Return the polygons with an area; half points (an odd number of values) are no polygon."""
    return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0 and not is_flat(polygon)]


def is_flat(polygon: Sequence[float]) -> bool:
    """Tell whether all points of a polygon (x, y, x, y, ...) lie on one line: no pixel is inside."""
    x0, y0, x1, y1, x2, y2 = polygon[:6]
    if _apart(x1 - x0, y1 - y0, x2 - x0, y2 - y0):  # so for nearly all: the first three points are enough
        return False
    ways = [(x - x0, y - y0) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
    far = max(ways, key=lambda way: abs(way[0]) + abs(way[1]))
    return not any(_apart(*far, *way) for way in ways)


def _apart(x1: float, y1: float, x2: float, y2: float) -> bool:
    """Tell whether two ways lead in different directions, neither of them back."""
    return abs(x1 * y2 - x2 * y1) > FLAT * (abs(x1) + abs(y1)) * (abs(x2) + abs(y2))


def is_background(runs: dict) -> bool:
    """Tell whether run lengths that passed `check_mask` and `run_totals` cover no pixel."""
    counts = runs['counts']
    if isinstance(counts, str):
        return coco_mask.area(runs) == 0
    return sum(counts[1::2]) == 0


def check_mask(mask: Any, height: int, width: int, name: str) -> str | None:
    """Check polygons, or run lengths; `name` begins the message.

    Returns:
        Run lengths as a string, which are left to `run_totals`: many at a time are faster; None for all else.

    Raises:
        DataError: pycocotools could not read the mask safely.
    """
    if isinstance(mask, list):
        check_polygons(mask, max(height, width), name)
        return None
    counts = mask.get('counts') if isinstance(mask, dict) else None
    if not isinstance(counts, list | str) or 'size' not in mask:
        raise DataError(
            f"{name} has a segmentation that is neither polygons nor {{'size', 'counts'}}", 'correct it',
            kind='mask form', field='segmentation', value=mask,
        )
    size = mask['size']
    if not isinstance(size, list) or size != [height, width] or not all(type(side) is int for side in size):
        raise DataError(
            f'{name} has a run-length mask of size {size} while its picture is {[height, width]} (height, width)',
            'correct whichever is wrong', kind='mask size', field='segmentation.size', value=size,
        )
    if isinstance(counts, str):
        return counts
    if not all(type(run) is int and run >= 0 for run in counts):
        raise DataError(
            f'{name} has a run length that is no whole number of 0 or more', 'write the mask again',
            kind='run lengths', field='segmentation.counts',
            value=next(run for run in counts if not (type(run) is int and run >= 0)),
        )
    check_total(sum(counts), height * width, name)
    return None


def check_total(total: int | None, pixels: int, name: str) -> None:
    """Raise where run lengths do not fill their picture; None is said of a string that is none."""
    if total is None:
        raise DataError(
            f"{name} has run lengths that are no string of COCO's kind", 'write the mask again',
            kind='run lengths', field='segmentation.counts',
        )
    if total != pixels:
        raise DataError(
            f'{name} has run lengths that add up to {total} pixels while its picture has {pixels}',
            'write the mask again', kind='run lengths', field='segmentation.counts', value=total,
        )


def check_polygons(polygons: list, side: int, name: str, first: int = 0) -> None:
    """`sum`, `min` and `max` run in C: 20 million coordinates of COCO take about a second.

    Args:
        polygons: lists of x, y, x, y, ...
        side: the longer one of the picture.
        name: begins the message.
        first: number of the first polygon in its mask.

    Raises:
        DataError: a value is no finite number, or far outside the picture.
    """
    for number, polygon in enumerate(polygons, first):
        try:
            finite = isinstance(polygon, list) and math.isfinite(sum(polygon))
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            raise _no_number(polygon, name, f'segmentation[{number}]')
        if polygon and (min(polygon) < -side or max(polygon) > 2 * side):
            far = min(polygon) if min(polygon) < -side else max(polygon)
            raise DataError(
                f'{name} has a polygon from {min(polygon)} to {max(polygon)}, far outside its picture, whose longer '
                f'side is {side}', 'correct or remove it',
                kind='polygon outside', field=f'segmentation[{number}][{polygon.index(far)}]', value=far,
            )


def _no_number(polygon: Any, name: str, field: str) -> DataError:
    value = polygon
    for place, one in enumerate(polygon if isinstance(polygon, list) else ()):
        try:
            finite = math.isfinite(one)
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            field, value = f'{field}[{place}]', one
            break
    return DataError(
        f'{name} has a polygon with a value that is no finite number', 'correct or remove it',
        kind='polygon value', field=field, value=value,
    )


def run_totals(strings: Sequence[str]) -> list[int | None]:
    """Number of pixels that each of COCO's run-length strings covers; None where it is no such string.

    The format: https://github.com/cocodataset/cocoapi/blob/8c9bcc3/common/maskApi.c#L204-L230 (`rleFrString`). A
    character is 48 plus five bits of a value and, in bit 5, whether more follow; from the fourth on, a value is the
    difference to the one before the last.
    """
    totals: list[int | None] = []
    chunk: list[str] = []
    length = 0
    for string in strings:
        chunk.append(string)
        length += len(string)
        if length >= CHUNK:
            totals += _totals(chunk)
            chunk, length = [], 0
    return totals + (_totals(chunk) if chunk else [])


def _totals(strings: list[str]) -> list[int | None]:
    usable = [i for i, string in enumerate(strings) if string and string.isascii()]
    totals: list[int | None] = [None if string else 0 for string in strings]
    if not usable:
        return totals
    lengths = np.array([len(strings[i]) for i in usable])
    codes = np.frombuffer(''.join(strings[i] for i in usable).encode(), np.uint8).astype(np.int64) - 48
    last = np.cumsum(lengths) - 1  # of each string
    owner = np.repeat(np.arange(len(usable)), lengths)
    wrong = np.zeros(len(usable), bool)
    wrong[owner[(codes < 0) | (codes > 63)]] = True
    wrong[codes[last] & 32 != 0] = True  # ends in the middle of a value
    ends = codes & 32 == 0
    ends[last] = True
    starts = np.concatenate([[True], ends[:-1]])
    first = np.flatnonzero(starts)  # of each value
    place = np.arange(len(codes)) - first[np.cumsum(starts) - 1]
    wrong[owner[place > 6]] = True  # more than 32 bits
    place = np.minimum(place, 6)
    values = np.add.reduceat((codes & 31) << 5 * place, first)
    final = np.flatnonzero(ends)
    values -= np.where(codes[final] & 16, np.int64(1) << 5 * (place[final] + 1), 0)
    runs, begins = undo_differences(values, owner[first])
    np.logical_or.at(wrong, owner[first][runs < 0], True)
    for i, total, bad in zip(usable, np.add.reduceat(runs, begins).tolist(), wrong.tolist(), strict=True):
        totals[i] = None if bad else total
    return totals


def undo_differences(values: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the run lengths, and where those of each string begin."""
    begins = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    number = np.arange(len(values)) - begins[owner]  # of the value in its string
    runs = np.where(number == 0, values, 0)
    for chain in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        kept = np.where(chain, values, 0)
        sums = np.cumsum(kept)
        runs += np.where(chain, sums - (sums - kept)[begins][owner], 0)
    return runs, begins
