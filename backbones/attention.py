"""Multi-head self-attention for image tokens: global or in windows, with relative positions or RoPE, on fused SDPA.

Shapes: N images, H W rows and columns of the patch grid, L = H * W tokens, P prefix tokens, D width, K heads,
d = D / K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from backbones import positions

REL_POS = ('none', 'decomposed', 'bias_table')

# Products of bfloat16 matrices have kernels of their own on this CPU.
FAST_BF16_ON_CPU = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()

# Logits that a chunk of `attention_in_chunks` makes at a time: they stay in the cache.
CHUNK_BYTES = 1 << 21

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


# --- attention in chunks that stay in the cache of a CPU -------------------------------------------


@torch.library.custom_op('backbones::attention_in_chunks', mutates_args=())
def attention_in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    row_logits: Tensor | None = None,
    column_logits: Tensor | None = None,
) -> Tensor:
    """Attend chunk by chunk of queries; the bias of relative positions is made per chunk and no (L, L) tensor exists.

    An operator of its own so that torch.compile takes it as it is instead of unrolling the loops. It has no gradient.
    In bfloat16 the logits of a chunk are a product, a softmax and a product, which on a CPU beats the fused kernel
    (12 heads, 64 x 64 tokens with relative positions, one thread: 87 ms for two heads against 154 ms); logits are
    rounded to bfloat16 there, as queries and keys are. Otherwise each chunk goes through the fused kernel.

    Args:
        q: queries (B, K, L, d).
        k: keys, same shape.
        v: values (B, K, L, d_v).
        scale: factor of q.k.
        mask: added to the logits, expandable to (B, K, L, L), or None.
        row_logits: (B, K, H, W, H), added to the logits of all keys of a row, or None.
        column_logits: (B, K, H, W, W), the same for columns.

    Returns:
        (B, L, K, d_v)
    """
    batch, heads, length, _ = q.shape
    out = v.new_empty(batch, length, heads, v.shape[-1])
    if mask is not None:
        mask = mask.expand(batch, heads, length, length)
    per_query = length * q.element_size()
    width = 1 if row_logits is None else row_logits.shape[3]
    step = min(length, max(CHUNK_BYTES // (per_query * width), 1) * width)
    group = min(heads, max(CHUNK_BYTES // (per_query * step), 1))
    for i in range(batch):
        for first in range(0, heads, group):
            part = slice(first, first + group)
            keys, values = k[i, part].contiguous(), v[i, part].contiguous()  # (G, L, d)
            for start in range(0, length, step):
                chunk = slice(start, start + step)
                bias = None if mask is None else mask[i, part, chunk]  # (G, S, L)
                if row_logits is not None:
                    rows = slice(start // width, (start + step) // width)
                    bias = row_logits[i, part, rows, :, :, None], column_logits[i, part, rows, :, None, :]
                y = _attend_chunk(q[i, part, chunk], keys, values, scale, bias)  # (G, S, d_v)
                out[i, chunk, part] = y.transpose(0, 1)
    return out


@attention_in_chunks.register_fake
def _(q, k, v, scale, mask=None, row_logits=None, column_logits=None) -> Tensor:
    return v.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


@register_flop_formula(torch.ops.backbones.attention_in_chunks)
def _(q_shape, k_shape, v_shape, *args, **kwargs) -> int:
    batch, heads, length, head_dim = q_shape
    return 2 * batch * heads * length * length * (head_dim + v_shape[-1])


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attend with some queries (G, S, d) to the keys (G, L, d): (G, S, d_v); two biases: rows, columns."""
    if q.dtype != torch.bfloat16:
        if isinstance(bias, tuple):
            bias = (bias[0] + bias[1]).flatten(3).flatten(1, 2)  # (G, S, L)
        mask = None if bias is None else bias[None]
        return F.scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=scale)[0]
    logits = torch.matmul(q * scale, k.transpose(1, 2))  # (G, S, L)
    if isinstance(bias, tuple):
        places = logits.view(*torch.broadcast_shapes(bias[0].shape, bias[1].shape))  # (G, rows, W, H, W)
        places.add_(bias[0]).add_(bias[1])
    elif bias is not None:
        logits.add_(bias)
    return torch.matmul(logits.softmax(-1), v)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    """Tell whether a backward pass will reach one of the tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _chunks_pay(*tensors: Tensor | None) -> bool:
    """Tell whether `attention_in_chunks` is faster than the fused kernel without relative positions, and possible."""
    q = tensors[0]
    return q.device.type == 'cpu' and q.dtype == torch.bfloat16 and FAST_BF16_ON_CPU and not _needs_gradient(*tensors)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`F.scaled_dot_product_attention`, or what is faster: (B, K, L, d) each, and `mask` expandable to (B, K, L, L)."""
    if _chunks_pay(q, k, v, mask):
        return attention_in_chunks(q, k, v, q.shape[-1] ** -0.5, mask).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


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
        if q.device.type == 'cpu' and not _needs_gradient(q, k, v, rows, columns):
            return attention_in_chunks(q, k, v, scale, None, row_logits, column_logits).transpose(1, 2)
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
    if _chunks_pay(q, k, v):
        return attention_in_chunks(q, k, v, 1.0).transpose(1, 2)
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
        self.tables: dict[str, tuple] | None = None  # what `positions.kept` keeps, once the weights are final
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
        return self.proj(self.attend(qkv, bias, grid, rope, bias_index))

    def attend(
        self, qkv: Tensor, bias: Tensor | None, grid: tuple[int, int], rope: Tensor | None, bias_index: Tensor | None
    ) -> Tensor:
        """Do what lies between the two linear layers: (N, P + L, 3 D), projected with `bias`, to (N, P + L, D)."""
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
        return y

    def _qkv_bias(self) -> Tensor | None:
        """Give the bias (3 D,) of queries, keys and values, or None."""
        if self.separate_bias:
            return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return self.qkv.bias

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], bias_index: Tensor | None) -> Tensor:
        """Attend with the relative positions of this block: (B, K, P + L, d) each."""
        if self.rel_pos == 'decomposed':
            return decomposed_attention(q, k, v, *positions.kept(self.tables, 'rows', grid, self._relative_rows))
        mask = None
        if self.rel_pos == 'bias_table':
            table = positions.kept(self.tables, 'table', grid, self._bias_table)
            mask = table[bias_index].permute(2, 0, 1).to(q.dtype)[None]  # (1, K, P + L, P + L)
        return fused_attention(q, k, v, mask)

    def _relative_rows(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Give the rows (H, H, d) and columns (W, W, d) of `decomposed_attention`."""
        h, w = (self.window_size, self.window_size) if self.window_size else grid
        return positions.relative_rows(self.rel_pos_h, h), positions.relative_rows(self.rel_pos_w, w)

    def _bias_table(self, grid: tuple[int, int]) -> Tensor:
        """Give the table of BEiT for this grid."""
        return positions.resize_bias_table(self.relative_position_bias_table, self.table_grid, grid)

