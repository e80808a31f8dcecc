"""Multi-head self-attention for image tokens: global or in windows, with relative positions or RoPE, on fused SDPA.

Shapes: N images, H W rows and columns of the patch grid, L = H * W tokens, P prefix tokens, D width, K heads,
d = D / K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import positions

REL_POS = ('none', 'decomposed', 'bias_table')

# Above this many keys the one-hot form of `decomposed_attention` costs more than a bias on a CPU. One thread,
# float32, d = 64, forward and backward, one-hot against bias: 14 x 14 tokens 91 and 107 ms, 20 x 20 33 and
# 21 ms, 64 x 64 991 and 841 ms. On a GPU the bias of 64 x 64 tokens and 12 heads alone takes 400 MB in half precision.
MAX_ONE_HOT_KEYS_ON_CPU = 256


# --- windows --------------------------------------------------------------------------------------


def window_partition(x: Tensor, window: int, fill: Tensor | None = None) -> Tensor:
    """Cut maps into windows; the bottom and the right are padded up to a multiple of the window.

    Args:
        x: (N, H, W, D)
        window: rows and columns of a window, in tokens.
        fill: (D,) value of a padded token; zeros when None.

    Returns:
        (N * windows, window * window, D), windows of an image in row-major order.
    """
    n, h, w, d = x.shape
    rows, columns = -(-h // window), -(-w // window)
    if (rows * window, columns * window) != (h, w):
        if fill is None:
            x = F.pad(x, (0, 0, 0, columns * window - w, 0, rows * window - h))  # (N, H_pad, W_pad, D)
        else:
            padded = fill.to(x.dtype).expand(n, rows * window, columns * window, d).clone()
            padded[:, :h, :w] = x
            x = padded  # (N, H_pad, W_pad, D)
    x = x.reshape(n, rows, window, columns, window, d)
    x = x.transpose(2, 3)  # (N, rows, columns, window, window, D)
    return x.reshape(n * rows * columns, window * window, d)


def window_merge(x: Tensor, window: int, grid: tuple[int, int]) -> Tensor:
    """Undo `window_partition` and cut the padding off.

    Args:
        x: (N * windows, window * window, D)
        window: rows and columns of a window, in tokens.
        grid: (H, W) without padding.

    Returns:
        (N, H, W, D)
    """
    (h, w), d = grid, x.shape[-1]
    rows, columns = -(-h // window), -(-w // window)
    x = x.reshape(-1, rows, columns, window, window, d)
    x = x.transpose(2, 3)  # (N, rows, window, columns, window, D)
    x = x.reshape(-1, rows * window, columns * window, d)  # (N, H_pad, W_pad, D)
    return x[:, :h, :w]


# --- attention with decomposed relative positions -------------------------------------------------


def decomposed_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, one_hot: bool | None = None
) -> Tensor:
    """Attend with logits q.k / sqrt(d) + q.R_row + q.R_column, as ViTDet does (the unscaled query meets the tables).

    The bias of key (y, x) is a sum of one entry of `q.rows` and one of `q.columns`, hence an inner product
    with the one-hot vectors of y and of x: appended to queries and keys, it needs no (L, L) bias in memory
    and no gradient of one. The alternative hands the bias to the fused kernel. Both are exact.

    Args:
        q: queries (B, K, L, d), L = H * W in row-major order.
        k: keys, same shape.
        v: values, same shape.
        rows: (H, H, d), [query, key] of `positions.relative_rows`.
        columns: (W, W, d), the same for columns.
        one_hot: True takes the one-hot form, False the bias, None the faster one.

    Returns:
        (B, K, L, d)
    """
    h, w = rows.shape[0], columns.shape[0]
    head_dim = q.shape[-1]
    scale = head_dim**-0.5
    q_map = q.unflatten(2, (h, w))  # (B, K, H, W, d)
    row_logits = torch.einsum('bkhwd,hyd->bkhwy', q_map, rows.to(q.dtype))  # (B, K, H, W, H)
    column_logits = torch.einsum('bkhwd,wxd->bkhwx', q_map, columns.to(q.dtype))  # (B, K, H, W, W)
    if one_hot is None:
        # the fused kernels of a GPU stop at a head width of 256
        one_hot = h * w <= MAX_ONE_HOT_KEYS_ON_CPU if q.device.type == 'cpu' else head_dim + h + w <= 256
    if not one_hot:
        bias = row_logits[..., :, None] + column_logits[..., None, :]  # (B, K, H, W, H, W)
        bias = bias.flatten(4).flatten(2, 3)  # (B, K, L, L)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # Fused kernels ask for one head width in q, k and v, and a multiple of 8.
    spare = -(head_dim + h + w) % 8
    logits = torch.cat([row_logits, column_logits], dim=-1).flatten(2, 3)  # (B, K, L, H + W)
    q = F.pad(torch.cat([q * scale, logits.to(q.dtype)], dim=-1), (0, spare))  # (B, K, L, d + H + W + spare)
    key_row = torch.eye(h, dtype=k.dtype, device=k.device).repeat_interleave(w, dim=0)  # (L, H)
    key_column = torch.eye(w, dtype=k.dtype, device=k.device).repeat(h, 1)  # (L, W)
    place = F.pad(torch.cat([key_row, key_column], dim=-1), (0, spare))  # (L, H + W + spare)
    k = torch.cat([k, place.expand(*k.shape[:3], -1)], dim=-1)  # (B, K, L, d + H + W + spare)
    v = F.pad(v, (0, h + w + spare))  # (B, K, L, d + H + W + spare)
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :head_dim]  # (B, K, L, d)


# --- the module -----------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention over the tokens of one image, or of each window of it.

    Args:
        dim: D.
        num_heads: K.
        qkv_bias: True, False, or 'qv' for biases of queries and values only, kept as `q_bias` and `v_bias`
            (BEiT, DINOv3).
        window_size: rows and columns of a window, in tokens; 0 attends globally.
        rel_pos: 'none'; 'decomposed', tables `rel_pos_h` and `rel_pos_w` (ViTDet, SAM); 'bias_table', one
            `relative_position_bias_table` with rows for the class token (BEiT).
        table_grid: (H, W) in tokens that the tables of relative positions are made for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool | str = True,
        window_size: int = 0,
        rel_pos: str = 'none',
        table_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.rel_pos = rel_pos
        self.table_grid = table_grid
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias is True)
        self.proj = nn.Linear(dim, dim)
        self.separate_bias = qkv_bias == 'qv'
        if self.separate_bias:
            self.q_bias = nn.Parameter(torch.zeros(dim))
            self.v_bias = nn.Parameter(torch.zeros(dim))
        if rel_pos == 'decomposed':
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_grid[0] - 1, dim // num_heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_grid[1] - 1, dim // num_heads))
        elif rel_pos == 'bias_table':
            rows = positions.bias_table_length(table_grid)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))

    def forward(
        self, x: Tensor, grid: tuple[int, int], rope: Tensor | None = None, bias_index: Tensor | None = None
    ) -> Tensor:
        """Map tokens to tokens.

        Args:
            x: (N, P + L, D), prefix tokens first; P = 0 with windows and with decomposed relative positions.
            grid: (H, W) of the patches.
            rope: (2, L, d) of `positions.rope_table`, or None.
            bias_index: (P + L, P + L) of `positions.bias_index`, needed for `rel_pos='bias_table'`.

        Returns:
            (N, P + L, D)
        """
        bias = self._qkv_bias()
        # Under autocast qkv comes in half precision; the bias then joins it there, as in nn.Linear.
        qkv = F.linear(x, self.qkv.weight, bias)  # (N, P + L, 3 D)
        if self.window_size:
            # ViTDet pads with zeros before the projection, which turns a padded token into the bias;
            # projecting first is the same and spares the padding (a fifth of the tokens at 64 x 64 with windows of 14).
            qkv = window_partition(qkv.unflatten(1, grid), self.window_size, fill=bias)  # (B, window^2, 3 D)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, K, P + L, d)
        if rope is not None:
            q, k = positions.rotate(q, rope), positions.rotate(k, rope)
        y = self._attend(q, k, v, grid, bias_index)  # (B, K, P + L, d)
        y = y.transpose(1, 2).flatten(2)  # (B, P + L, D)
        if self.window_size:
            y = window_merge(y, self.window_size, grid).flatten(1, 2)  # (N, L, D)
        return self.proj(y)

    def _qkv_bias(self) -> Tensor | None:
        """Give the bias (3 D,) of queries, keys and values, or None."""
        if self.separate_bias:
            return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return self.qkv.bias

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], bias_index: Tensor | None) -> Tensor:
        """Attend with the relative positions of this block: (B, K, P + L, d) each."""
        if self.rel_pos == 'decomposed':
            h, w = (self.window_size, self.window_size) if self.window_size else grid
            rows, columns = positions.relative_rows(self.rel_pos_h, h), positions.relative_rows(self.rel_pos_w, w)
            return decomposed_attention(q, k, v, rows, columns)
        mask = None
        if self.rel_pos == 'bias_table':
            table = positions.resize_bias_table(self.relative_position_bias_table, self.table_grid, grid)
            mask = table[bias_index].permute(2, 0, 1).to(q.dtype)[None]  # (1, K, P + L, P + L)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
