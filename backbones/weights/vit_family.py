"""Vision Transformer: constructor arguments off its tensors, and its tensors into a backbone of another grid.

Shapes: L tokens, D width, K heads, d = D / K, H W rows and columns of the patch grid.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backbones import positions
from backbones.weights.family import Family, counted
from backbones.weights.layout import State
from backbones.weights.vit_layouts import LAYOUTS
from backbones.weights.vit_values import position_grid, with_class_row

# --- arguments off tensors ----------------------------------------------------------------------------------


def arguments(native: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the constructor arguments off native tensors; {} if they are no ViT.

    The number of heads is in `arch` only where a tensor shows it: relative positions, the periods of RoPE.
    """
    patch = native.get('patch_embed.proj.weight')
    blocks = [int(fit[1]) for fit in (re.match(r'blocks\.(\d+)\.', name) for name in native) if fit]
    if not blocks or patch is None or patch.ndim != 4:
        return {}
    dim, side = patch.shape[0], patch.shape[-1]
    found = dict(
        arch=dict(embed_dim=dim, depth=counted('blocks', blocks)),
        patch_size=side,
        in_channels=patch.shape[1],
        patch_bias='patch_embed.proj.bias' in native,
        with_cls_token='cls_token' in native,
        num_registers=native['reg_token'].shape[-2] if 'reg_token' in native else 0,
        pre_norm='norm_pre.weight' in native,
        layer_scale_init_value=1.0 if 'blocks.0.ls1.gamma' in native else 0.0,
        qkv_bias=_qkv_bias(native),
        **_mlp(native),
        **_positions(native, side),
    )
    found['arch'].update(found.pop('mlp_sizes'))
    heads = _heads(native, dim)
    if heads:
        found['arch']['num_heads'] = heads
    residual = sorted({int(fit[1]) for fit in (re.match(r'blocks\.(\d+)\.residual\.', n) for n in native) if fit})
    return {**found, 'residual_block_indexes': tuple(residual)} if residual else found


def _qkv_bias(native: Mapping[str, Tensor]) -> bool | str:
    return 'qv' if 'blocks.0.attn.q_bias' in native else 'blocks.0.attn.qkv.bias' in native


def _mlp(native: Mapping[str, Tensor]) -> dict[str, Any]:
    for kind, last in (('mlp', 'fc2'), ('swiglu', 'w3'), ('swiglu_split', 'w3')):
        first = {'mlp': 'fc1', 'swiglu': 'w12', 'swiglu_split': 'w1'}[kind]
        out = native.get(f'blocks.0.mlp.{last}.weight')
        if out is not None and f'blocks.0.mlp.{first}.weight' in native:
            return dict(mlp=kind, mlp_sizes=dict(mlp_hidden=out.shape[-1]))
    return dict(mlp_sizes={})


def _positions(native: Mapping[str, Tensor], patch: int) -> dict[str, Any]:
    """The kind of positions, and the image sizes of their tables."""
    found: dict[str, Any] = {}
    if 'pos_embed' in native:
        grid = position_grid(native['pos_embed'])
        size = None if grid is None else tuple(side * patch for side in grid)
        found = dict(position='absolute', **({} if size is None else dict(pretrain_img_size=size)))
    elif 'rope_embed.periods' in native:
        found = dict(position='rope')
    if _has(native, 'relative_position_bias_table'):
        table = next(value for name, value in native.items() if name.endswith('relative_position_bias_table'))
        grid = _table_grid(table)
        found |= dict(rel_pos='bias_table', **(dict(img_size=grid[0] * patch) if grid else {}))
    elif _has(native, 'rel_pos_h'):
        found |= dict(rel_pos='decomposed', **_windows(native, patch))
    return found


def _windows(native: Mapping[str, Tensor], patch: int) -> dict[str, Any]:
    """Tell windows from global blocks by the rows of their tables: 2 n - 1 for n tokens along the axis."""
    tables = {int(fit[1]): value for name, value in native.items()
              if (fit := re.fullmatch(r'blocks\.(\d+)\.attn\.rel_pos_h', name))}
    sizes = {block: (table.shape[0] + 1) // 2 for block, table in tables.items()}
    grid = max(sizes.values())
    if len(set(sizes.values())) == 1:
        # ViTDet's form without global blocks passes information between windows by convolutions
        only_windows = any('.residual.' in name for name in native)
        return dict(window_size=grid) if only_windows else dict(img_size=grid * patch)
    window = Counter(size for size in sizes.values() if size < grid).most_common(1)[0][0]
    return dict(
        img_size=grid * patch, window_size=window,
        global_attn_indexes=tuple(block for block, size in sorted(sizes.items()) if size != window),
    )


def _heads(native: Mapping[str, Tensor], dim: int) -> int | None:
    if 'rope_embed.periods' in native:  # d / 4 of them
        return dim // (4 * native['rope_embed.periods'].shape[0])
    if 'blocks.0.attn.rel_pos_h' in native:  # (2 n - 1, d)
        return dim // native['blocks.0.attn.rel_pos_h'].shape[1]
    table = native.get('blocks.0.attn.relative_position_bias_table')  # (rows, K)
    return None if table is None else table.shape[1]


def _has(native: Mapping[str, Tensor], ending: str) -> bool:
    return any(name.endswith(ending) for name in native)


def _square_grid(rows: int) -> tuple[int, int] | None:
    side = math.isqrt(max(rows, 0))
    return (side, side) if side and side * side == rows else None


def _table_grid(table: Tensor) -> tuple[int, int] | None:
    """The grid of a BEiT table, (2 n - 1)^2 + 3 rows."""
    side = _square_grid(table.shape[0] - 3)
    return ((side[0] + 1) // 2,) * 2 if side and side[0] % 2 else None


# --- tensors into a backbone --------------------------------------------------------------------------------


def fit(native: State, module: nn.Module) -> tuple[State, list[str]]:
    """Leave out what this backbone does not build on purpose, and bring biases to the form that it has."""
    own = module.state_dict()
    fitted, left_out = {}, []
    for name, value in native.items():
        block = re.match(r'blocks\.(\d+)\.', name)
        beyond = block is not None and len(module.blocks) <= int(block[1]) < module.depth
        # ViTDet leaves the class token out; the final norm belongs to the head of a backbone that returns raw maps.
        unused = re.fullmatch(r'cls_token|norm\.(weight|bias)', name) and name not in own
        if beyond or unused:
            left_out.append(name)
        else:
            fitted[name] = value
    if 'pos_embed' in fitted:
        fitted['pos_embed'] = with_class_row(fitted['pos_embed'], module.pos_grid)
    _fit_qkv_bias(fitted, own)
    return fitted, left_out


def _fit_qkv_bias(state: State, own: Mapping[str, Tensor]) -> None:
    for qkv in [name for name in state if name.endswith('.attn.qkv.weight')]:
        stem = qkv.removesuffix('qkv.weight')
        bias, q_bias, v_bias = f'{stem}qkv.bias', f'{stem}q_bias', f'{stem}v_bias'
        if bias in own and q_bias in state and v_bias in state:
            q, v = state.pop(q_bias), state.pop(v_bias)
            state[bias] = torch.cat([q, torch.zeros_like(q), v])  # (3D,)
        elif q_bias in own and bias in state:
            q, k, v = state[bias].chunk(3)
            if not k.any():
                del state[bias]
                state[q_bias], state[v_bias] = q, v


def resize(name: str, value: Tensor, module: nn.Module, patch_rule: str) -> Tensor | None:
    """Resize a position table to the grid of the backbone, or patches to its patch size; None for anything else."""
    leaf = name.rpartition('.')[2]
    if leaf == 'pos_embed' and value.ndim == 3:
        grid = _square_grid(value.shape[1] - 1)
        if grid is not None and value.shape[-1] == module.embed_dim:
            return positions.resize_absolute(value, grid, module.pos_grid, module.pos_interpolation)
    if leaf in ('rel_pos_h', 'rel_pos_w') and value.ndim == 2:
        return positions.resize_relative(value, (module.state_dict()[name].shape[0] + 1) // 2)
    if leaf == 'relative_position_bias_table' and value.ndim == 2:
        grid = _table_grid(value)
        if grid is not None:
            return positions.resize_bias_table(value, grid, module.table_grid)
    if name == 'patch_embed.proj.weight' and value.ndim == 4 and patch_rule != 'none':
        return positions.resize_patches(value, module.patch_size, patch_rule)
    return None


VIT = Family(
    'VisionTransformer', LAYOUTS, arguments, fit, resize,
    ('embed_dim', 'depth', 'mlp_hidden', 'patch_size', 'in_channels'),
)
