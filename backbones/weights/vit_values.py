"""Values of published ViT tensors into native ones and back; pure functions dict -> dict.

Shapes: L tokens, D width, K heads, d = D / K, p side of a patch.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from backbones.weights.layout import State


def merge(state: State) -> State:
    """Everything that one native form needs: positions, tokens, biases, and three matrices of attention in one."""
    state = dict(state)
    _fuse_qkv(state)
    _mask_bias(state)
    _shape_tokens(state)
    _unpack_glu(state)
    _share_bias_table(state)
    return state


def _fuse_qkv(state: State) -> None:
    """Stack `attn.q`, `attn.k`, `attn.v`; a file without a bias for the keys gives `q_bias` and `v_bias`."""
    has_key_bias = any(name.endswith('.attn.k.bias') for name in state)
    for name in [name for name in state if name.endswith('.attn.q.weight')]:
        stem = name.removesuffix('q.weight')
        weights = [state.pop(f'{stem}{part}.weight', None) for part in 'qkv']
        if None in weights:
            continue  # what is left over is told as missing
        state[f'{stem}qkv.weight'] = torch.cat(weights)  # (3D, D)
        if f'{stem}k.bias' not in state and has_key_bias:
            continue  # lost in this block: its other biases are left over, and refused
        q, k, v = (state.pop(f'{stem}{part}.bias', None) for part in 'qkv')
        if k is not None and q is not None and v is not None:
            state[f'{stem}qkv.bias'] = torch.cat([q, k, v])  # (3D,)
        elif q is not None and v is not None:
            state[f'{stem}q_bias'], state[f'{stem}v_bias'] = q, v


def split_qkv(state: State) -> State:
    """Reverse of the stacking."""
    written = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition('.attn.')
        if kind in ('qkv.weight', 'qkv.bias'):
            for part, third in zip('qkv', value.chunk(3), strict=True):
                written[f'{stem}.attn.{part}.{kind[4:]}'] = third.clone()
        elif kind in ('q_bias', 'v_bias'):
            written[f'{stem}.attn.{kind[0]}.bias'] = value
        else:
            written[name] = value
    return written


def _mask_bias(state: State) -> None:
    """Multiply the bias by DINOv3's mask, which is 0 for the keys, and keep the two thirds that remain."""
    for name in [name for name in state if name.endswith('.attn.qkv.bias_mask')]:
        mask, stem = state.pop(name), name.removesuffix('qkv.bias_mask')
        bias = state.pop(f'{stem}qkv.bias', None)
        if bias is not None:
            q, _, v = torch.where(mask == 0, torch.zeros_like(bias), bias).chunk(3)
            state[f'{stem}q_bias'], state[f'{stem}v_bias'] = q.clone(), v.clone()  # (D,)


def dinov3_bias(state: State) -> State:
    """Write the biases of queries and values as DINOv3 does: one bias, and a mask that is 0 for the keys."""
    written = {}
    for name, value in state.items():
        if name.endswith('.attn.v_bias'):
            continue
        if not name.endswith('.attn.q_bias'):
            written[name] = value
            continue
        stem = name.removesuffix('q_bias')
        zero = torch.zeros_like(value)
        written[f'{stem}qkv.bias'] = torch.cat([value, zero, state[f'{stem}v_bias']])  # (3D,)
        written[f'{stem}qkv.bias_mask'] = torch.cat([zero + 1, zero, zero + 1])
    return written


def _shape_tokens(state: State) -> None:
    """Bring tokens to (1, R, D), and positions to three axes; `with_class_row` does the rest when the grid is known."""
    for name in ('cls_token', 'reg_token', 'dist_token'):
        if name in state and state[name].ndim < 3:  # CLIP: (D,)
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    if 'reg_token' in state and state['reg_token'].shape[1] == 0:
        del state['reg_token']  # Hugging Face's DINOv3 without registers
    table = state.get('pos_embed')
    if table is None:
        return
    if table.ndim == 2:  # CLIP: (1 + L, D)
        table = table[None]
    if 'dist_token' in state and 'reg_token' not in state:
        # A second prefix token with a position of its own is a register to which that position has been added.
        state['reg_token'] = state.pop('dist_token') + table[:, 1:2]  # (1, 1, D)
        table = torch.cat([table[:, :1], table[:, 2:]], dim=1)  # (1, 1 + L, D)
    state['pos_embed'] = table


def position_grid(table: Tensor, grid: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """Find the patch grid of a published table; None if it is neither `grid` nor square.

    Args:
        table: (1, 1 + L, D), (1, L, D) without a row for the class token (DeiT III, timm's DINOv2, SigLIP), or
            (1, H, W, D) (SAM).
        grid: rows and columns that are expected; they win where 1 + L or L is a square, too.
    """
    if table.ndim == 4:
        return (table.shape[1], table.shape[2])
    rows = table.shape[1]
    if grid is not None and rows - grid[0] * grid[1] in (0, 1):
        return grid
    side = next((math.isqrt(count) for count in (rows - 1, rows) if _is_square(count)), None)
    return None if side is None else (side, side)


def with_class_row(table: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Bring a published table to (1, 1 + L, D): a row of zeros for the class token where it has none."""
    found = position_grid(table, grid)
    if table.ndim == 4:
        table = table.flatten(1, 2)  # (1, L, D)
    if found is None or table.shape[1] != found[0] * found[1]:
        return table
    return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)  # (1, 1 + L, D)


def _is_square(length: int) -> bool:
    return length > 0 and math.isqrt(length) ** 2 == length


def _unpack_glu(state: State) -> None:
    """Name timm's SwiGLU: packed, `fc1` has twice the rows that `fc2` has columns; split, `fc2` is beside a gate."""
    for name in [name for name in state if re.fullmatch(r'blocks\.\d+\.mlp\.fc1\.weight', name)]:
        stem = name.removesuffix('fc1.weight')
        out = state.get(f'{stem}fc2.weight')
        if out is not None and out.ndim == 2 and state[name].shape[0] == 2 * out.shape[1]:
            _rename(state, stem, (('fc1', 'w12'), ('fc2', 'w3')))
    for name in [name for name in state if re.fullmatch(r'blocks\.\d+\.mlp\.w1\.weight', name)]:
        _rename(state, name.removesuffix('w1.weight'), (('fc2', 'w3'),))


def _rename(state: State, stem: str, pairs: tuple[tuple[str, str], ...]) -> None:
    for kind in ('weight', 'bias'):
        for old, new in pairs:
            if f'{stem}{old}.{kind}' in state:
                state[f'{stem}{new}.{kind}'] = state.pop(f'{stem}{old}.{kind}')


def _share_bias_table(state: State) -> None:
    """Give every block the one table of BEiT's pre-training."""
    shared = state.pop('rel_pos_bias.relative_position_bias_table', None)
    if shared is not None:
        blocks = {int(fit[1]) for fit in (re.match(r'blocks\.(\d+)\.', name) for name in state) if fit}
        state.update({f'blocks.{i}.attn.relative_position_bias_table': shared for i in sorted(blocks)})


def clip_tokens(state: State) -> State:
    """Write the class token as (D,) and the positions as (1 + L, D)."""
    return {
        name: value[0, 0] if name == 'cls_token' else value[0] if name == 'pos_embed' else value
        for name, value in state.items()
    }


def hf_clip_tokens(state: State) -> State:
    """Write tokens as CLIP does and attention as three matrices."""
    return clip_tokens(split_qkv(state))


def fold_class_position(state: State) -> State:
    """Add the class token's position to the token, as timm does for models with registers: the sum is what counts."""
    if not {'reg_token', 'cls_token', 'pos_embed'} <= set(state):
        return state
    table = with_class_row(state['pos_embed'])
    if table.shape != state['pos_embed'].shape:
        return state  # it has no row for the class token
    return {**state, 'cls_token': state['cls_token'] + table[:, :1], 'pos_embed': table[:, 1:]}


def timm_glu(state: State) -> State:
    """Name SwiGLU as timm does: packed `fc1` and `fc2`, or `fc2` beside the gate."""
    state = dict(state)
    for name in [name for name in state if re.fullmatch(r'blocks\.\d+\.mlp\.w3\.weight', name)]:
        _rename(state, name.removesuffix('w3.weight'), (('w12', 'fc1'), ('w3', 'fc2')))
    return state


def sam_positions(state: State) -> State:
    """Write positions as (1, H, W, D) without a row for the class token."""
    table = state.get('pos_embed')
    grid = None if table is None or table.ndim == 4 else position_grid(table)
    if grid is None:
        return state
    return {**state, 'pos_embed': with_class_row(table)[:, 1:].unflatten(1, grid)}  # (1, H, W, D)


def class_row(state: State) -> State:
    """Write positions with a row for the class token, for code that adds one to it."""
    return {**state, 'pos_embed': with_class_row(state['pos_embed'])} if 'pos_embed' in state else state


def split_with_class_row(state: State) -> State:
    """Write what Hugging Face's ViT and DINOv2 have: three matrices, and a position for the class token."""
    return split_qkv(class_row(state))


def deit_names(state: State) -> State:
    """Refuse registers, which DeiT and MAE do not have.

    Raises:
        ValueError: if there are some.
    """
    if 'reg_token' in state:
        raise ValueError('DeiT and MAE have no place for reg_token')
    return state


# --- Google's JAX arrays ------------------------------------------------------------------------------------


def merge_jax(state: State) -> State:
    """Transpose the kernels of flax: dense (in, out), convolution (p, p, C, D), heads on axes of their own."""
    return merge({name: _from_jax(name, value) for name, value in state.items()})


def _from_jax(name: str, value: Tensor) -> Tensor:
    if name == 'patch_embed.proj.weight':
        return value.permute(3, 2, 0, 1).contiguous()  # (D, C, p, p)
    if re.fullmatch(r'blocks\.\d+\.attn\.[qkv]\.weight', name):
        return value.flatten(1).t().contiguous()  # (D, K, d) to (D, D)
    if re.fullmatch(r'blocks\.\d+\.attn\.[qkv]\.bias', name):
        return value.flatten()  # (K, d) to (D,)
    if re.fullmatch(r'blocks\.\d+\.attn\.proj\.weight', name):
        return value.flatten(0, 1).t().contiguous()  # (K, d, D) to (D, D)
    if re.fullmatch(r'blocks\.\d+\.mlp\.fc[12]\.weight', name):
        return value.t().contiguous()
    return value


def jax_heads(state: State) -> int | None:
    """Read the number of heads off a query kernel (D, K, d)."""
    kernel = state.get('Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel')
    return kernel.shape[1] if kernel is not None and kernel.ndim == 3 else None
