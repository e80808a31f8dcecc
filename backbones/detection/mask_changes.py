"""Where a pasted mask begins and ends in each image column, without painting the image.

A mask head gives M x M probabilities for a box. mmdet samples them at the centre of every pixel of a window round the
box (bilinear, zero outside the mask) and compares with a threshold:
https://github.com/open-mmlab/mmdetection/blob/cfd5d3a/mmdet/models/roi_heads/mask_heads/fcn_mask_head.py

Along an image column the sampled value is linear between two mask rows, so it crosses the threshold at most once there:
M + 1 cells per column say where, instead of H pixels. Pixels so near to the threshold that rounding decides are sampled
with the very operations of mmdet, and so are all pixels of the boxes that are no proper boxes. The bits are mmdet's.

A mask is a sorted array of changes q = x * (h + 1) + y: from window column x, row y on, downwards, pixels are of the
other kind. Each column starts outside the mask and has a row h below the window, in which an open run ends.

Shapes: N instances, M side of a mask (rows and columns may differ), h w rows and columns of a window, L image columns
of several instances.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# fp32 sampling, mmdet's coordinates included, errs by less than 2.5e-6 * M * (largest absolute value); three times that
TOLERANCE = 8e-6
SIDES = (1e-3, 1e6)  # pixels: boxes with sides and corners in this range are traced, all others sampled
CELLS = 1 << 17  # cells traced at a time: what fits in the cache
PIXELS = 1 << 19  # pixels sampled at a time: 20 MB
SINGLE = 1 << 16  # pixels of a mask that are sampled one by one, at most


def mask_windows(boxes: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels that mmdet looks at on a CPU: the box, rounded outwards, and one pixel more on each side.

    Args:
        boxes: (N, 4) x0 y0 x1 y1 in pixels of the image.
        size: (H, W) of the image.

    Returns:
        (N, 4) x0 y0 x1 y1 within the image; x1 <= x0 or y1 <= y0: no pixel.
    """
    limits = torch.tensor([size[1], size[0]], dtype=torch.float64)
    first = (boxes[:, :2].floor() - 1).double().clamp(min=0)
    last = (boxes[:, 2:].ceil() + 1).double().clamp(min=0)
    return torch.cat([first.minimum(limits), last.minimum(limits)], dim=1).long().numpy()


def mask_changes(masks: Tensor, boxes: Tensor, windows: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Find the changes of every mask.

    Args:
        masks: (N, M, M) probabilities, fp32, on the CPU.
        boxes: (N, 4) x0 y0 x1 y1, fp32, on the CPU.
        windows: (N, 4) of `mask_windows`.
        threshold: pixels that are sampled at this value or above belong to the mask.

    Returns:
        N sorted arrays of changes, of even length.
    """
    found: list[np.ndarray | None] = [None] * len(masks)
    extents = windows[:, 2:] - windows[:, :2]  # (N, 2) w h
    for n in np.flatnonzero((extents <= 0).any(axis=1)):
        found[n] = np.zeros(0, dtype=np.int64)
    peaks = masks.abs().amax(dim=(1, 2)).double().numpy() if len(masks) else np.zeros(0)
    corners = boxes.double().numpy()
    sides = corners[:, 2:] - corners[:, :2]
    tolerances = TOLERANCE * max(masks.shape[1:]) * peaks  # (N,)
    traced = (
        (extents > 0).all(axis=1) & (sides >= SIDES[0]).all(axis=1) & (np.abs(corners) <= SIDES[1]).all(axis=1)
        & np.isfinite(peaks) & (threshold > 2 * tolerances)
    )
    for group in _groups(np.flatnonzero(traced), extents[:, 0] * (masks.shape[1] + 1)):
        results = _traced(masks[group], boxes[group], windows[group], threshold, tolerances[group])
        for n, changes in zip(group, results, strict=True):
            found[n] = changes
    return [
        _sampled(masks[n], boxes[n], windows[n], threshold) if changes is None else changes
        for n, changes in enumerate(found)
    ]


def _groups(numbers: np.ndarray, cells: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a row of instances into groups of about CELLS cells."""
    if len(numbers):
        group = (np.cumsum(cells[numbers]) - 1) // CELLS
        yield from np.split(numbers, np.flatnonzero(np.diff(group)) + 1)


def odd_ones(keys: np.ndarray) -> np.ndarray:
    """Of sorted keys, one each of those that occur an odd number of times: two changes at one place are none."""
    same = keys[1:] == keys[:-1]
    if not same.any():
        return keys
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    return keys[first[np.diff(first, append=len(keys)) % 2 == 1]]


# ---- sampled: mmdet's operations on every pixel


def _coordinates(first: int, last: int, start: Tensor, end: Tensor) -> Tensor:
    """Place the centres of pixels first..last in boxes (N,) from `start` to `end` as mmdet does: (N, last - first)."""
    return _placed(torch.arange(first, last)[None], start[:, None], end[:, None])


def _placed(pixels: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Pixel centres from -1 to 1 across the box; mmdet sends what divides by zero to the middle of the mask."""
    places = (pixels.to(torch.float32) + 0.5 - start) / (end - start) * 2 - 1
    return places.masked_fill_(places.isinf(), 0)


def _sampled(mask: Tensor, box: Tensor, window: np.ndarray, threshold: float) -> np.ndarray:
    """Find the changes of one mask (M, M) from all pixels of its window, some columns at a time."""
    x0, y0, x1, y1 = window.tolist()
    height = y1 - y0
    xs = _coordinates(x0, x1, box[0:1], box[2:3])[0]
    ys = _coordinates(y0, y1, box[1:2], box[3:4])[0]
    step = max(1, PIXELS // height)
    parts = []
    for column in range(0, x1 - x0, step):
        some = xs[column : column + step]
        grid = torch.stack(torch.broadcast_tensors(some[:, None], ys), dim=-1)  # (w', h, 2)
        inside = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= threshold  # (w', h)
        bits = np.zeros((len(some), height + 1), dtype=bool)
        bits[:, :-1] = inside.numpy()
        flat = bits.reshape(-1)
        changed = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        parts += [np.zeros(int(flat[0]), dtype=np.int64), changed]
        parts[-2:] = [part + column * (height + 1) for part in parts[-2:]]
    return np.concatenate(parts)


# ---- traced: where the columns cross the threshold


def _traced(
    masks: Tensor, boxes: Tensor, windows: np.ndarray, threshold: float, tolerances: np.ndarray
) -> list[np.ndarray | None]:
    """Find the changes of some masks; None where too many pixels lie at the threshold to be sampled one by one."""
    widths, heights = (windows[:, 2:] - windows[:, :2]).T
    owner = np.repeat(np.arange(len(masks)), widths)  # (L,)
    start = np.cumsum(widths) - widths
    column = np.arange(len(owner)) - start[owner]  # (L,) within the window
    levels = _levels(masks.numpy(), boxes.double().numpy(), owner, column + windows[owner, 0]) - threshold
    rows = _Rows(boxes.double().numpy(), windows, masks.shape[1])

    stride = int(heights.max()) + 2
    base = (start[owner] + column) * stride  # (L,) keys of all masks together
    candidates, crossing = _cells(levels, tolerances[owner])
    place, cell, above, below = (part[crossing] for part in candidates)
    row = np.ceil(rows.of(cell + above / (above - below), owner[place])).astype(np.int64)
    keys = base[place] + rows.clipped(row, owner[place])

    doubtful, crowded = _doubtful(candidates, owner, rows, tolerances)
    if len(doubtful[0]):
        spots, ys = doubtful
        pixels = np.unique(base[spots] + ys)
        spots, ys = pixels // stride, pixels % stride
        truth = _sampled_pixels(masks, boxes, windows, owner[spots], column[spots], ys, threshold)
        wrong = pixels[truth != (np.searchsorted(keys, pixels, side='right') % 2 == 1)]
        if len(wrong):
            keys = np.sort(np.concatenate([keys, wrong, wrong + 1]))  # a pixel is turned by two changes
    keys = odd_ones(keys)
    parts = np.split(keys, np.searchsorted(keys, start[1:] * stride))
    return [
        None if crowded[n] else (part // stride - start[n]) * (heights[n] + 1) + part % stride
        for n, part in enumerate(parts)
    ]


def _levels(masks: np.ndarray, boxes: np.ndarray, owner: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Interpolate masks (N, M, M) at image columns: (L, M + 2), a row of zeros before the first and after the last."""
    side = masks.shape[2]
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1))).transpose(0, 2, 1).astype(np.float64)  # (N, columns, rows)
    left, right = boxes[owner, 0], boxes[owner, 2]
    at = ((xs + 0.5 - left) / (right - left) * side - 0.5).clip(-1, side)  # as grid_sample, align_corners=False
    before = np.floor(at).clip(-1, side - 1)
    weight = (at - before)[:, None]
    index = before.astype(np.int64) + 1
    return padded[owner, index] * (1 - weight) + padded[owner, index + 1] * weight


class _Rows:
    """From mask rows to rows of the windows.

    Args:
        boxes: (N, 4).
        windows: (N, 4).
        side: M.
    """

    def __init__(self, boxes: np.ndarray, windows: np.ndarray, side: int) -> None:
        self.scale = (boxes[:, 3] - boxes[:, 1]) / side  # pixels per mask row
        self.offset = boxes[:, 1] - 0.5 - windows[:, 1] - 0.5 * self.scale  # of padded row 0, whose centre is at -0.5
        self.heights = windows[:, 3] - windows[:, 1]

    def of(self, position: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Row of the window, a real number, of a position among the padded mask rows."""
        return position * self.scale[owner] + self.offset[owner]

    def clipped(self, rows: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Rows within the window, or the one below it."""
        return np.minimum(np.maximum(rows, 0), self.heights[owner])


def _cells(levels: np.ndarray, tolerances: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Find the cells, pieces of a column between two mask rows, where the level (L, M + 2) is or crosses zero.

    Returns:
        for each cell its column, its place in the column, the levels above and below; and which of them are crossed.
    """
    inside, near = levels >= 0, np.abs(levels) <= tolerances[:, None]
    crossed = inside[:, 1:] != inside[:, :-1]
    wanted = np.flatnonzero(crossed | near[:, 1:] | near[:, :-1])
    place, cell = np.divmod(wanted, crossed.shape[1])
    at = wanted + place  # a column has one level more than cells
    values = levels.reshape(-1)
    return (place, cell, values[at], values[at + 1]), crossed.reshape(-1)[wanted]


def _doubtful(
    cells: tuple[np.ndarray, ...], owner: np.ndarray, rows: _Rows, tolerances: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """List the pixels within the tolerance of the threshold, from the cells of `_cells`.

    Returns:
        their places among the columns and their rows, some of them twice; and which of the N masks have too many,
        whose pixels are left out.
    """
    place, cell, above, below = cells
    mine, slope = owner[place], below - above
    slope[slope == 0] = 1e-300  # both ends are then at infinity, or nowhere
    with np.errstate(over='ignore'):
        ends = np.stack([(-tolerances[mine] - above) / slope, (tolerances[mine] - above) / slope]).clip(0, 1)
    first = np.ceil(rows.of(cell + ends.min(axis=0), mine)).astype(np.int64)
    last = np.floor(rows.of(cell + ends.max(axis=0), mine)).astype(np.int64) + 1
    first, last = rows.clipped(first, mine), rows.clipped(last, mine)
    count = np.maximum(last - first, 0)
    total = np.bincount(mine, weights=count, minlength=len(tolerances))
    area = np.bincount(owner, minlength=len(tolerances)) * rows.heights
    crowded = total > np.minimum(area / 8 + 64, SINGLE)
    count[crowded[mine]] = 0
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return (np.repeat(place, count), np.repeat(first, count) + within), crowded


def _sampled_pixels(
    masks: Tensor, boxes: Tensor, windows: np.ndarray, owner: np.ndarray, xs: np.ndarray, ys: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Decide single pixels of the windows, sorted by owner, with mmdet's operations: (pixels,) of bool."""
    counts = np.bincount(owner, minlength=len(masks))
    slot = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    mine = boxes[torch.from_numpy(owner)]
    across = _placed(torch.from_numpy(xs + windows[owner, 0]), mine[:, 0], mine[:, 2])
    down = _placed(torch.from_numpy(ys + windows[owner, 1]), mine[:, 1], mine[:, 3])
    grid = torch.zeros(len(masks), 1, int(counts.max()), 2)
    grid[owner, 0, slot] = torch.stack([across, down], dim=1)
    values = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0, 0]  # (N, most pixels of a mask)
    return (values >= threshold)[owner, slot].numpy()
