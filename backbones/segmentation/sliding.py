"""Sliding windows of a segmenter with bounded memory: labels are made of scores as soon as no window adds to them.

mmseg adds the windows of a picture to a map of scores of its size, 19 GB for 150 classes and 8000 x 4000 pixels. Here
only what later windows still touch is kept: a block of one window, and the rows that two rows of windows share. The
additions and their order are mmseg's. Shapes: C classes, H W rows and columns of the network's input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 2**26  # bytes of scores that are resized at once
Span = tuple[int, int]  # first and last + 1


def spans(side: int, crop: int, step: int) -> list[Span]:
    """Where windows lie along one side, as mmseg places them: the last one is moved back inside."""
    number = max(side - crop + step - 1, 0) // step + 1
    ends = [min(place * step + crop, side) for place in range(number)]
    return [(max(end - crop, 0), end) for end in ends]


def check_stride(stride: Sequence[int], crop: Sequence[int]) -> None:
    """Refuse windows with gaps between them.

    Raises:
        ValueError: naming both.
    """
    if any(step > side or step < 1 for step, side in zip(stride, crop, strict=True)):
        raise ValueError(
            f'model.test_cfg: stride={tuple(stride)} is larger than crop_size={tuple(crop)}, so windows would leave '
            'gaps; give a stride from 1 to the crop')


def bytes_held(classes: int, size: tuple[int, int], crop: Sequence[int], stride: Sequence[int], each: int = 4) -> int:
    """About how many bytes of scores `slide_labels` holds for a picture of `size` (H, W)."""
    rows, columns = (min(side, window) for side, window in zip(size, crop, strict=True))
    shared = max(0, rows - stride[0]) if size[0] > rows else 0
    open_windows = 2 * -(-columns // stride[1])  # in two rows
    return each * classes * (shared * size[1] + (2 + open_windows) * rows * columns) + 8 * size[0] * size[1]


@dataclass
class Area:
    """Which part of the scores becomes labels, and of what size.

    Attributes:
        rows: those without padding.
        columns: those without padding.
        size: (H, W) of the labels.
        align_corners: F.interpolate's.
    """

    rows: Span
    columns: Span
    size: tuple[int, int]
    align_corners: bool = False


def slide_labels(
    windows: Callable[[Span, list[Span]], Iterable[Tensor]], area: Area, rows: list[Span], columns: list[Span]
) -> Tensor:
    """Labels (H, W), int64, of a picture.

    Args:
        windows: gives the scores (C, h, w) of windows that have the same rows, in the order of their columns.
        area: of the picture.
        rows: of windows, from above.
        columns: of windows, from the left.
    """
    labels, groups = _Labels(area), _groups(rows)
    shared = max((above[-1][1] - below[0][0] for above, below in itertools.pairwise(groups)), default=0)
    sums: Tensor | None = None  # (C, shared, W) of rows that the next windows touch, too
    across, down = _counts(columns), _counts(rows)
    known = 0  # rows of `sums` that these windows touch
    for number, group in enumerate(groups):
        top, bottom = group[0][0], group[-1][1]
        done = groups[number + 1][0][0] if number + 1 < len(groups) else bottom
        kept: list[list[tuple[Span, Tensor]]] = [[] for _ in group]  # windows of each row that touch what is open
        for place, found in enumerate(zip(*(windows(row, columns) for row in group), strict=True)):
            left, right = columns[place]
            end = columns[place + 1][0] if place + 1 < len(columns) else right
            for row, one in zip(kept, found, strict=True):
                row.append(((left, right), one))
            if sums is None and shared:
                sums = found[0].new_zeros(len(found[0]), shared, columns[-1][1])
            block = found[0].new_zeros(len(found[0]), bottom - top, end - left)
            if known:
                block[:, :known] = sums[:, :known, left:end]
            for (first, last), row in zip(group, kept, strict=True):
                for (start, stop), one in row:
                    stop = min(stop, end)
                    block[:, first - top:last - top, :stop - left] += one[:, :, left - start:stop - start]
            if done < bottom:
                sums[:, :bottom - done, left:end] = block[:, done - top:]
            count = down[top:done, None] * across[None, left:end]
            labels.add(block[:, :done - top].div_(count.to(block)), (top, done), (left, end))
            kept = [[one for one in row if one[0][1] > end] for row in kept]
        known = bottom - done
    return labels.labels


def _groups(rows: list[Span]) -> list[list[Span]]:
    """Rows of windows that are gone through together: the last one, which was moved back, with the one before it.

    They may share nearly all their rows, whose sums would have to be held for all columns.
    """
    groups = [[row] for row in rows]
    if len(rows) > 2 and rows[-1][0] - rows[-2][0] < rows[1][0] - rows[0][0]:
        groups[-2:] = [[rows[-2], rows[-1]]]
    return groups


def _counts(windows: list[Span]) -> Tensor:
    """How many windows cover each row or column."""
    counts = torch.zeros(windows[-1][1])
    for start, end in windows:
        counts[start:end] += 1
    return counts


class _Labels:
    """Labels of blocks of scores that come row by row, resized as F.interpolate would the whole."""

    def __init__(self, area: Area) -> None:
        self.area = area
        self.labels: Tensor | None = None
        height, width = (end - start for start, end in (area.rows, area.columns))
        self._plain = (height, width) == tuple(area.size)
        if not self._plain:
            self._rows = _sources(height, area.size[0], area.align_corners)
            self._columns = _sources(width, area.size[1], area.align_corners)
        self._above: Tensor | None = None  # (C, W), the last row of the blocks above
        self._left: Tensor | None = None  # (C, h, 1), the last column of the block to the left, and what is above

    def add(self, scores: Tensor, rows: Span, columns: Span) -> None:
        """Take the mean scores (C, h, w) of a block."""
        if self.labels is None:
            self.labels = torch.zeros(self.area.size, dtype=torch.int64, device=scores.device)
        (first, last), (start, end) = _within(rows, self.area.rows), _within(columns, self.area.columns)
        if first >= last or start >= end:
            return
        scores = scores[:, first + self.area.rows[0] - rows[0]:, start + self.area.columns[0] - columns[0]:]
        scores = scores[:, :last - first, :end - start]
        if self._plain:
            self.labels[first:last, start:end] = argmax_of_planes(scores.contiguous())
        else:
            self._resize(scores, (first, last), (start, end))

    def _resize(self, scores: Tensor, rows: Span, columns: Span) -> None:
        """Label what lies between the rows and columns of this block and of those before it."""
        if self._above is None:
            self._above = scores.new_zeros(len(scores), self.area.columns[1] - self.area.columns[0])
        if rows[0]:
            scores = torch.cat([self._above[:, None, columns[0]:columns[1]], scores], dim=1)
        if columns[0]:
            scores = torch.cat([self._left, scores], dim=2)
        self._left = scores[:, :, -1:].clone()
        self._above[:, columns[0]:columns[1]] = scores[:, -1, -(columns[1] - columns[0]):]
        across = _between(self._columns, columns)
        wide = _between(self._rows, rows)
        each = max(1, AT_ONCE // (4 * len(scores) * max(1, across[1] - across[0])))
        low, high, share = (values[across[0]:across[1]].to(scores.device) for values in self._columns)
        low, high = low - max(columns[0] - 1, 0), high - max(columns[0] - 1, 0)
        for first in range(wide[0], wide[1], each):
            last = min(first + each, wide[1])
            upper, lower, weight = (values[first:last].to(scores.device) for values in self._rows)
            begin = int(upper[0])
            part = scores[:, begin - max(rows[0] - 1, 0):int(lower[-1]) + 1 - max(rows[0] - 1, 0)]
            part = part[:, :, low] * (1 - share) + part[:, :, high] * share  # (C, h, W)
            weight = weight[:, None]
            part = part[:, upper - begin] * (1 - weight) + part[:, lower - begin] * weight
            self.labels[first:last, across[0]:across[1]] = argmax_of_planes(part)


def argmax_of_planes(scores: Tensor) -> Tensor:
    """Labels (H, W) of scores (C, H, W): argmax, of planes on a CPU by a running maximum."""
    if scores.device.type != 'cpu' or not scores.is_contiguous():
        return scores.argmax(dim=0)
    best = scores[0].clone()
    labels = torch.zeros(best.shape, dtype=torch.int64)
    better = torch.empty(best.shape, dtype=torch.bool)
    for number, plane in enumerate(scores[1:], start=1):
        torch.gt(plane, best, out=better)
        labels.masked_fill_(better, number)
        torch.maximum(best, plane, out=best)
    return scores.argmax(dim=0) if best.isnan().any() else labels


def _within(span: Span, allowed: Span) -> Span:
    """The part of `span` in `allowed`, counted from its start."""
    return max(span[0], allowed[0]) - allowed[0], min(span[1], allowed[1]) - allowed[0]


def _between(sources: tuple[Tensor, Tensor, Tensor], span: Span) -> Span:
    """The outputs whose second source lies in `span`."""
    second = sources[1]
    return int(torch.searchsorted(second, span[0])), int(torch.searchsorted(second, span[1]))


def _sources(side: int, wanted: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `wanted` outputs the two sources of bilinear resizing and the share of the second, as torch's.

    https://github.com/pytorch/pytorch/blob/v2.8.0/aten/src/ATen/native/UpSample.h (area_pixel_compute_source_index)
    """
    places = torch.arange(wanted, dtype=torch.float32)
    if align_corners:
        source = places * torch.tensor((side - 1) / (wanted - 1) if wanted > 1 else 0.0, dtype=torch.float32)
    else:
        source = (torch.tensor(side / wanted, dtype=torch.float32) * (places + 0.5) - 0.5).clamp(min=0)
    first = source.long().clamp(max=side - 1)
    return first, (first + 1).clamp(max=side - 1), (source - first).clamp(0, 1)
