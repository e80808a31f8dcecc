"""RoIAlign over all levels of a pyramid on the CPU, in one call, on NHWC memory.

What it computes is mmcv's RoIAlign with average pooling. Each bin is a weighted sum of pixels: bilinear weights are
products of a weight per row and one per column, and samples of a bin that touch the same row are merged first, so that
one pixel is read once per bin. Forward: a weighted bag of pixels per bin (`embedding_bag`). Backward: per RoI two small
matrix products that add into the gradient of the map where it lies. RoIs with equal numbers of rows and columns per
bin are taken together; indices and weights are made in chunks.

Shapes: N images, C channels, H W rows and columns of a map, R RoIs, B bins along a side, S samples and K pixels of a
bin along a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

CHUNK = 2**20  # pixel reads, or weights of one axis, that are laid out at a time


class Pooling(NamedTuple):
    """What RoIAlign is asked for, and the rule that gives a RoI its level."""

    bins: tuple[int, int]
    scales: tuple[float, ...]
    finest_scale: float = 56
    sampling_ratio: int = 0
    aligned: bool = True


class _Axis(NamedTuple):
    """Source rows, or columns, of some RoIs."""

    first: Tensor  # (R, B) first row of each bin
    weights: Tensor  # (R, B, K) of the rows from there on
    side: int  # rows of the map

    def taken(self) -> Tensor:
        """Rows (R, B, K); those beyond the map have no weight and are given as its last."""
        rows = self.first[..., None] + torch.arange(self.weights.shape[2], dtype=self.first.dtype)
        return rows.clamp(max=self.side - 1)

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first row of each RoI (R,), the row after its last (R,), and weights (R, B, rows) of all in between."""
        rows = self.taken().long()
        start, end = rows[:, 0, 0], rows[:, -1, -1] + 1
        dense = torch.zeros(*self.first.shape, int((end - start).max()))
        return start, end, dense.scatter_add_(2, rows - start[:, None, None], self.weights)


class _Part(NamedTuple):
    """RoIs of one level with equal numbers of rows and of columns per bin."""

    level: int
    rois: Tensor  # (r,) places among all RoIs
    images: Tensor  # (r,)
    rows: _Axis
    columns: _Axis


def level_of(rois: Tensor, levels: int, finest_scale: float) -> Tensor:
    """The level (R,) from which mmdet pools RoIs (R, 5): one more per doubling of the side from `finest_scale`."""
    side = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
    return torch.floor(torch.log2(side / finest_scale + 1e-6)).clamp(min=0, max=levels - 1).long()


def roi_align(maps: Sequence[Tensor], rois: Tensor, pooling: Pooling, levels: Tensor | None = None) -> Tensor:
    """Pool RoIs from the maps of their levels, on the CPU.

    Coordinates and sums are fp32. Maps and result keep their type; in bf16 and fp16 the weights are rounded to it as
    the result is. Gradients are summed in fp32.

    Args:
        maps: (N, C, H_i, W_i), fine to coarse, in channels_last memory (others are copied into it).
        rois: (R, 5) image, x1, y1, x2, y2 in pixels of the input.
        pooling: bins, scales of the maps, and so on.
        levels: (R,) level of each RoI; None: `level_of`.

    Returns:
        (R, C, *bins) in channels_last memory.
    """
    rois = rois.float()
    if levels is None:
        levels = level_of(rois, len(maps), pooling.finest_scale)
    return _RoIAlign.apply(rois, levels, pooling, *maps)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rois: Tensor, levels: Tensor, pooling: Pooling, *maps: Tensor) -> Tensor:
        ctx.save_for_backward(rois, levels)
        ctx.pooling, ctx.shapes, ctx.kind = pooling, [tuple(m.shape) for m in maps], maps[0].dtype
        channels = maps[0].shape[1]
        tables = [m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps]  # (N H W, C), without a copy if NHWC
        pooled = maps[0].new_empty(len(rois), pooling.bins[0] * pooling.bins[1] * channels)
        for part in _parts(rois, levels, pooling, ctx.shapes):
            pooled.index_copy_(0, part.rois, _pooled(part, tables[part.level]).view(len(part.rois), -1))
        return pooled.view(len(rois), *pooling.bins, channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rois, levels = ctx.saved_tensors
        exact = torch.promote_types(gradient.dtype, torch.float32)
        gradient = gradient.permute(0, 2, 3, 1).to(exact).contiguous()  # (R, B, B, C)
        sums = [gradient.new_zeros(n * h, w * c) for n, c, h, w in ctx.shapes]
        for part in _parts(rois, levels, ctx.pooling, ctx.shapes):
            _add_gradients(part, gradient, sums[part.level], ctx.shapes[part.level][2])
        maps = [
            total.to(ctx.kind).view(n, h, w, c).permute(0, 3, 1, 2)
            for total, (n, c, h, w) in zip(sums, ctx.shapes, strict=True)
        ]
        return None, None, None, *maps


def _parts(rois: Tensor, levels: Tensor, pooling: Pooling, shapes: list[tuple[int, ...]]) -> Iterator[_Part]:
    """Split the RoIs by level and pixels per bin."""
    if not len(rois):
        return
    scales = torch.tensor(pooling.scales)[levels][:, None]
    boxes = rois[:, 1:] * scales - (0.5 if pooling.aligned else 0.0)
    sizes = boxes[:, 2:] - boxes[:, :2]  # (R, 2) width, height
    if not pooling.aligned:
        sizes = sizes.clamp(min=1)
    bins = torch.tensor(pooling.bins[::-1])
    if pooling.sampling_ratio > 0:
        samples = torch.full(sizes.shape, pooling.sampling_ratio)
    else:
        samples = torch.ceil(sizes / bins).long()  # 0 where the RoI is empty
    spread = (samples - 1).clamp(min=0) * (sizes / bins) / samples.clamp(min=1)  # from the first sample to the last
    sides = torch.tensor([shape[:1:-1] for shape in shapes])[levels]  # (R, 2) W, H of the RoI's map
    pixels = torch.minimum(spread.ceil().long() + 2, sides)
    keys = (levels * (int(sides.max()) + 1) + pixels[:, 1]) * (int(sides.max()) + 1) + pixels[:, 0]
    _, counts = keys.unique(return_counts=True)
    places = keys.argsort(stable=True).split(counts.tolist())
    images = rois[:, 0].long()
    for i in places:
        level, (across, down) = int(levels[i[0]]), pixels[i[0]].tolist()
        each = max(int(samples[i].max()), across, down) * max(pooling.bins)
        most = max(1, CHUNK // max(each, pooling.bins[0] * pooling.bins[1] * across * down))
        for chosen in i.split(most):
            columns, rows = (
                _axis(boxes[chosen, k], sizes[chosen, k], samples[chosen, k], bins[k], (across, down)[k],
                      shapes[level][3 - k]) for k in (0, 1))
            yield _Part(level, chosen, images[chosen], rows, columns)


def _axis(start: Tensor, length: Tensor, samples: Tensor, bins: Tensor, pixels: int, side: int) -> _Axis:
    """Weights of the rows (or columns) of each bin: the mean of its samples' bilinear weights.

    A sample more than one pixel outside the map counts as zero, as in
    https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/pytorch/cpu/roi_align.cpp
    """
    size, grid = (length / bins)[:, None, None], samples[:, None, None].clamp(min=1)
    number = torch.arange(max(1, int(samples.max())))
    y = start[:, None, None] + torch.arange(int(bins))[:, None] * size + (number + 0.5) * size / grid  # (R, B, S)
    counts = (y >= -1) & (y <= side) & (number < samples[:, None, None])
    y = y.clamp(min=0, max=side - 1)
    low = y.floor()
    upper = (y - low) * counts / grid  # weight of the next row
    lower = counts / grid - upper
    first = low[..., :1]
    place = (low - first).long().clamp(max=pixels - 1)
    weights = torch.zeros(*y.shape[:2], pixels)
    weights.scatter_add_(2, place, lower)
    # a sample in the last row has no next one, and its weight is 0
    weights.scatter_add_(2, (place + 1).clamp(max=pixels - 1), upper)
    return _Axis(first[..., 0].int(), weights, side)


def _pooled(part: _Part, table: Tensor) -> Tensor:
    """Features (R B B, C) of a part from the pixels (N H W, C) of its map."""
    rows = part.rows.taken() + (part.images * part.rows.side).int()[:, None, None]
    places = (rows * part.columns.side)[:, :, None, :, None] + part.columns.taken()[:, None, :, None, :]
    weights = part.rows.weights[:, :, None, :, None] * part.columns.weights[:, None, :, None, :]  # (R, B, B, K, K)
    bag = weights.shape[3] * weights.shape[4]
    return embedding_bag(
        places.view(-1, bag), table, mode='sum', per_sample_weights=weights.view(-1, bag).to(table.dtype))


def _add_gradients(part: _Part, gradient: Tensor, total: Tensor, height: int) -> None:
    """Add a part's gradients (R, B, B, C) to that of its map (N H, W C)."""
    channels = gradient.shape[3]
    top, bottom, down = part.rows.dense()
    left, right, across = part.columns.dense()
    down, across = down.to(gradient.dtype), across.to(gradient.dtype).transpose(1, 2)
    edges = torch.stack([top + part.images * height, bottom + part.images * height, left, right, part.rois], 1)
    for (y0, y1, x0, x1, i), rows, columns in zip(edges.tolist(), down, across, strict=True):
        spread = torch.matmul(columns[: x1 - x0], gradient[i])  # (B, columns, C)
        total[y0:y1, x0 * channels:x1 * channels].addmm_(rows[:, : y1 - y0].t(), spread.flatten(1))
