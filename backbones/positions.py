"""Position tables of Vision Transformers and how each source resizes them; pure functions.

Absolute: a learned row per patch, added to the tokens. Relative: a bias on the attention logits, either
decomposed into rows and columns (ViTDet, SAM) or one entry per offset and head (BEiT). Rotary: angles that
turn queries and keys (DINOv3).

Shapes: N images, H W rows and columns of the patch grid, L = H * W tokens, P prefix tokens, D width, K heads,
d = D / K.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar('T')

# Keyword arguments of F.interpolate; they belong to the weights, because each source trained or evaluated
# with its own. torch uses another cubic kernel when antialias is on (a = -0.5 instead of -0.75), so the rules
# differ for growing grids too. 'bicubic_offset' passes a scale factor instead of a size, 0.1 patches too large:
# https://github.com/facebookresearch/dinov2/blob/b8931f7bf91576930313be2c6d6af376033b35f0/dinov2/models/vision_transformer.py
INTERPOLATIONS = {
    # ViTDet, MAE, DeiT, mmseg, mmpretrain, Hugging Face ViT
    'bicubic': dict(mode='bicubic', align_corners=False),
    # timm, DINOv2 with registers
    'bicubic_antialias': dict(mode='bicubic', align_corners=False, antialias=True),
    # DINO, DINOv2
    'bicubic_offset': dict(mode='bicubic', align_corners=False),
    # torchvision
    'bicubic_corners': dict(mode='bicubic', align_corners=True),
    # Google's JAX code (scipy zoom of order 1)
    'bilinear_corners': dict(mode='bilinear', align_corners=True),
}


def check_interpolation(rule: str) -> None:
    """Refuse an unknown rule.

    Raises:
        ValueError: if `rule` is not a key of `INTERPOLATIONS`.
    """
    if rule not in INTERPOLATIONS:
        raise ValueError(
            f'pos_interpolation={rule!r} is unknown; choose one of {sorted(INTERPOLATIONS)}, the one the '
            "weights were trained with ('bicubic' for ViTDet and MAE, 'bicubic_antialias' for timm, "
            "'bicubic_offset' for DINOv2)"
        )


def kept(tables: dict[str, tuple] | None, name: str, grid: tuple[int, int], make: Callable[[tuple[int, int]], T]) -> T:
    """Make what a model derives from its weights for a grid, or take the last one made, if it is for the same grid.

    Args:
        tables: where the last ones lie; None where weights may change, which makes anew.
        name: of this one in `tables`.
        grid: (H, W).
        make: makes it for a grid.
    """
    # a compiled graph holds its tables as constants, and a changing dict would be compiled again
    if tables is None or torch.compiler.is_compiling():
        return make(grid)
    if name not in tables or tables[name][0] != grid:
        tables[name] = grid, make(grid)
    return tables[name][1]


# --- absolute -------------------------------------------------------------------------------------


def resize_absolute(
    table: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    rule: str = 'bicubic',
    num_prefix: int = 1,
) -> Tensor:
    """Resize a table of absolute positions to another patch grid; an equal grid returns `table` itself.

    Args:
        table: (1, P + H_old * W_old, D), grid rows in row-major order.
        old_grid: (H_old, W_old) the table was made for.
        new_grid: (H_new, W_new) wanted.
        rule: key of `INTERPOLATIONS`.
        num_prefix: P, leading rows that belong to prefix tokens; they are kept as they are.

    Returns:
        (1, P + H_new * W_new, D), dtype of `table`.

    Raises:
        ValueError: for an unknown rule, or a table whose length is not that of `old_grid`.
    """
    check_interpolation(rule)
    (h_old, w_old), (h_new, w_new) = old_grid, new_grid
    if table.ndim != 3 or table.shape[1] != num_prefix + h_old * w_old:
        raise ValueError(
            f'a position table of shape {tuple(table.shape)} does not hold {num_prefix} prefix rows and a '
            f'grid of {h_old} x {w_old}; give the grid the table was trained with (image size / patch size)'
        )
    if (h_old, w_old) == (h_new, w_new):
        return table
    prefix, grid = table[:, :num_prefix], table[:, num_prefix:]
    # In float32 also for half-precision tables: the cubic weights are not exact in 8 or 11 bits.
    grid = grid.float().reshape(1, h_old, w_old, -1).permute(0, 3, 1, 2)  # (1, D, H_old, W_old)
    if rule == 'bicubic_offset':
        scale = ((h_new + 0.1) / h_old, (w_new + 0.1) / w_old)
        grid = F.interpolate(grid, scale_factor=scale, **INTERPOLATIONS[rule])  # (1, D, H_new, W_new)
    else:
        grid = F.interpolate(grid, size=(h_new, w_new), **INTERPOLATIONS[rule])  # (1, D, H_new, W_new)
    grid = grid.flatten(2).transpose(1, 2).to(table.dtype)  # (1, L, D)
    return torch.cat([prefix, grid], dim=1)  # (1, P + L, D)


# --- relative, decomposed (ViTDet, SAM) -----------------------------------------------------------


def resize_relative(table: Tensor, size: int) -> Tensor:
    """Resize (2 n - 1, d) rows of relative positions linearly to (2 size - 1, d); an equal size returns `table`.

    https://github.com/facebookresearch/detectron2/blob/02b5c4e295e990042a714712c21dc79b731e8833/detectron2/modeling/backbone/utils.py
    """
    if table.shape[0] == 2 * size - 1:
        return table
    rows = F.interpolate(table.float().t()[None], size=2 * size - 1, mode='linear')  # (1, d, 2 size - 1)
    return rows[0].t().to(table.dtype)  # (2 size - 1, d)


def relative_rows(table: Tensor, size: int) -> Tensor:
    """Take one row per pair of query and key index along an axis.

    Args:
        table: (2 n - 1, d), row n - 1 + q - k for query index q and key index k; resized when n is not `size`.
        size: tokens along the axis.

    Returns:
        (size, size, d): [query, key].
    """
    index = torch.arange(size, device=table.device)
    offset = index[:, None] - index[None, :] + size - 1  # (q, k)
    return resize_relative(table, size)[offset]  # (q, k, d)


# --- relative, one bias per offset and head (BEiT) ------------------------------------------------


def bias_table_length(grid: tuple[int, int]) -> int:
    """Count the rows of a BEiT table: one per offset, and class->patch, patch->class, class->class."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def bias_index(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Give the table row for each pair of tokens, class token first.

    Returns:
        (1 + L, 1 + L) int64: [query, key].
    """
    h, w = grid
    rows = torch.arange(h, device=device).repeat_interleave(w)  # (L,)
    columns = torch.arange(w, device=device).repeat(h)  # (L,)
    row_offset = rows[:, None] - rows[None, :] + h - 1  # (L, L)
    column_offset = columns[:, None] - columns[None, :] + w - 1  # (L, L)
    offsets = (2 * h - 1) * (2 * w - 1)
    index = torch.empty(1 + h * w, 1 + h * w, dtype=torch.long, device=device)
    index[1:, 1:] = row_offset * (2 * w - 1) + column_offset
    index[0, :], index[:, 0], index[0, 0] = offsets, offsets + 1, offsets + 2
    return index  # (1 + L, 1 + L)


def resize_bias_table(table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resize a BEiT table to another patch grid by the published method; an equal grid returns `table` itself.

    The official code interpolates with a bicubic spline over source offsets that it spreads in a geometric progression,
    dense near zero: https://github.com/microsoft/unilm/blob/768a3c873f598bb9b4d4dfb9267b099e35f8fe56/beit/run_class_finetuning.py
    It calls scipy.interpolate.interp2d, which SciPy 1.14 removed. The spline is linear in the table and
    separable, hence one matrix per axis here; unlike the original this also serves grids that are not square,
    and gradients pass.

    Args:
        table: (rows, K) with rows = bias_table_length(old_grid).
        old_grid: (H_old, W_old) the table was made for.
        new_grid: (H_new, W_new) wanted.

    Returns:
        (bias_table_length(new_grid), K), dtype of `table`.

    Raises:
        ValueError: if the table has another length than `old_grid` asks for.
    """
    if table.shape[0] != bias_table_length(old_grid):
        raise ValueError(
            f'a relative position table of shape {tuple(table.shape)} does not belong to a grid of '
            f'{old_grid[0]} x {old_grid[1]}, which has {bias_table_length(old_grid)} rows; give the grid '
            'the table was trained with'
        )
    if tuple(old_grid) == tuple(new_grid):
        return table
    offsets = table[:-3].double()
    offsets = offsets.reshape(2 * old_grid[0] - 1, 2 * old_grid[1] - 1, -1)  # (2 H - 1, 2 W - 1, K)
    rows, columns = (
        _geometric_spline(old, new).to(table.device)
        for old, new in zip(old_grid, new_grid, strict=True)
    )
    resized = torch.einsum('ap,pqk,bq->abk', rows, offsets, columns)  # (2 H_new - 1, 2 W_new - 1, K)
    return torch.cat([resized.flatten(0, 1).to(table.dtype), table[-3:]])  # (rows_new, K)


@torch.compiler.assume_constant_result
def _geometric_spline(old: int, new: int) -> Tensor:
    """Give `_geometric_spline_matrix` as a tensor, which a compiled graph takes as a constant."""
    return torch.from_numpy(_geometric_spline_matrix(old, new))


@functools.lru_cache(maxsize=64)
def _geometric_spline_matrix(old: int, new: int) -> np.ndarray:
    """Matrix (2 new - 1, 2 old - 1) that maps values at the source offsets to values at the wanted ones."""
    if old == new:
        return np.eye(2 * old - 1)
    source = _geometric_offsets(2 * old - 1, 2 * new - 1)
    wanted = np.arange(-(new - 1), new, dtype=np.float64)
    # FITPACK evaluates at the nearest end outside the source interval.
    wanted = wanted.clip(source[0], source[-1])
    degree = min(3, len(source) - 1)
    if degree == 0:
        return np.ones((len(wanted), 1))
    # Knots of the interpolating spline in FITPACK: for degree 3 'not a knot' at the second point from either end.
    drop = (degree + 1) // 2
    inner = source[drop:-drop] if degree % 2 else source[:0]
    knots = np.concatenate([[source[0]] * (degree + 1), inner, [source[-1]] * (degree + 1)])
    at_source, at_wanted = (_spline_basis(points, knots, degree) for points in (source, wanted))
    return np.linalg.solve(at_source.T, at_wanted.T).T


def _geometric_offsets(old: int, new: int) -> np.ndarray:
    """Spread `old` (odd) source offsets so that their geometric progression reaches (new - 1) / 2.

    The bisection is the official one, with its limits: a shrinking table keeps a ratio of 1.01.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2.0
        if (1.0 - ratio ** (old // 2)) / (1.0 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    distances = np.cumsum([ratio**i for i in range(old // 2)])
    return np.concatenate([-distances[::-1], [0.0], distances])


def _spline_basis(points: np.ndarray, knots: np.ndarray, degree: int) -> np.ndarray:
    """Evaluate all B-splines of `degree` on `knots` at `points` (Cox-de Boor): (points, splines)."""
    count = len(knots) - degree - 1
    # The last non-empty interval is closed on the right, so that the end point belongs to it.
    interval = np.searchsorted(knots, points, side='right') - 1
    interval = interval.clip(degree, count - 1)
    basis = np.zeros((len(points), len(knots) - 1))
    basis[np.arange(len(points)), interval] = 1.0
    for p in range(1, degree + 1):
        left = knots[p:-1] - knots[: -p - 1]
        right = knots[p + 1 :] - knots[1:-p]
        rising = (points[:, None] - knots[None, : -p - 1]) / np.where(left > 0, left, 1.0)
        falling = (knots[None, p + 1 :] - points[:, None]) / np.where(right > 0, right, 1.0)
        basis = rising * basis[:, :-1] + falling * basis[:, 1:]
    return basis


# --- patches ------------------------------------------------------------------------------------------------

# How a patch projection is resized: 'flexivit' keeps the product of patch and kernel (pseudo-inverse of the bilinear
# resize, https://arxiv.org/abs/2212.08013, section 3.4), 'bicubic' resizes the kernel as if it were an image.
PATCH_RULES = ('flexivit', 'bicubic', 'none')


def check_patch_rule(rule: str) -> None:
    """Refuse an unknown rule.

    Raises:
        ValueError: if `rule` is not one of `PATCH_RULES`.
    """
    if rule not in PATCH_RULES:
        raise ValueError(
            f"patch_resize={rule!r} is unknown; choose 'flexivit' (keeps the tokens of a resized image, the default), "
            "'bicubic', or 'none' to refuse patches of another size"
        )


def resize_patches(weight: Tensor, size: int, rule: str = 'flexivit') -> Tensor:
    """Resize a patch projection to another patch size; an equal size returns `weight` itself.

    Args:
        weight: (D, C, p, p).
        size: rows and columns of the new patch in pixels.
        rule: 'flexivit' or 'bicubic'.

    Returns:
        (D, C, size, size), dtype of `weight`.

    Raises:
        ValueError: for an unknown rule.
    """
    check_patch_rule(rule)
    old = weight.shape[-1]
    if weight.shape[-2:] == (size, size):
        return weight
    kernel = weight.double()
    if rule == 'bicubic':
        return F.interpolate(kernel, size=(size, size), mode='bicubic', align_corners=False).to(weight.dtype)
    basis = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    enlarge = F.interpolate(basis, size=(size, size), mode='bilinear', antialias=True).reshape(old * old, -1)
    # <resize(patch), new kernel> = <patch, kernel> for every patch, exactly when the patch grows
    kernel = kernel.flatten(2) @ torch.linalg.pinv(enlarge).t()  # (D, C, size * size)
    return kernel.unflatten(2, (size, size)).to(weight.dtype)  # (D, C, size, size)


# --- rotary (DINOv3) ------------------------------------------------------------------------------


def rope_periods(head_dim: int, base: float = 100.0) -> Tensor:
    """Give the d / 4 periods of the axial rotation, in units of half the image: base ** (2 i / (d / 2))."""
    exponents = 2 * torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 2)
    return base**exponents  # (d / 4,)


def rope_table(periods: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute cosine and sine for every patch; patch centres run from -1 to 1 along each axis on its own.

    https://github.com/facebookresearch/dinov3/blob/6876159a11b4df116f30f667f8c9888617df0751/dinov3/layers/rope_position_encoding.py

    Args:
        periods: (d / 4,)
        grid: (H, W)

    Returns:
        (2, L, d) float32: cosine, sine.
    """
    periods = periods.float()
    rows, columns = (
        2 * (torch.arange(size, dtype=torch.float32, device=periods.device) + 0.5) / size - 1 for size in grid
    )
    h, w = grid
    points = torch.stack([rows.repeat_interleave(w), columns.repeat(h)], dim=-1)  # (L, 2)
    angles = 2 * math.pi * points[:, :, None] / periods  # (L, 2, d / 4)
    angles = angles.flatten(1).repeat(1, 2)  # (L, d)
    return torch.stack([angles.cos(), angles.sin()])  # (2, L, d)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the patch tokens of queries or keys; prefix tokens have no position and stay.

    Args:
        x: (N, K, P + L, d), patches last.
        table: (2, L, d) of `rope_table`.

    Returns:
        (N, K, P + L, d), dtype of `x`.
    """
    num_prefix = x.shape[-2] - table.shape[-2]
    patches = x[..., num_prefix:, :].to(table.dtype)  # (N, K, L, d)
    first, second = patches.chunk(2, dim=-1)
    turned = patches * table[0] + torch.cat([-second, first], dim=-1) * table[1]  # (N, K, L, d)
    turned = turned.to(x.dtype)
    return turned if num_prefix == 0 else torch.cat([x[..., :num_prefix, :], turned], dim=-2)
