"""Published plain Vision Transformer checkpoints, by the names of their tensors.

Native names are timm's and those of the official files of MAE, DeiT, DINO and BEiT. Shapes: L tokens, D width, K heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backbones import positions
from backbones.weights.layout import Layout, Rule, State

# What a feature backbone leaves out. `fc_norm` normalises the pooled vector of a classifier, not the tokens.
HEADS: tuple[Rule, ...] = (
    (r'(head|head_dist|fc_norm|pre_logits|lm_head|local_cls_norm)(\..*)?', None),
    (r'(attn_pool|cls_pt_layers)\..*', None),
    (r'(dino|ibot)_head\..*', None),
    (r'mask_token', None),
    (r'decoder_.*', None),
    (r'(.*\.)?relative_position_index', None),  # recomputed
)
RENAMES: tuple[Rule, ...] = (
    (r'(register_tokens|storage_tokens)', r'reg_token'),
    (r'blocks\.(\d+)\.gamma_([12])', r'blocks.\1.ls\2.gamma'),
    # DINOv2's training files group blocks into chunks and keep counting through: blocks.CHUNK.INDEX
    (r'blocks\.\d+\.(\d+\..+)', r'blocks.\1'),
)
CORE = (
    'patch_embed.proj.weight',
    'blocks.*norm1.weight',
    'blocks.*attn.qkv.weight',
    'blocks.*attn.proj.weight',
)


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read width, depth and patch size off native tensors. The number of heads is not in them."""
    blocks = [int(fit[1]) for fit in (re.match(r'blocks\.(\d+)\.', name) for name in state) if fit]
    patch = state.get('patch_embed.proj.weight')
    if not blocks or patch is None:
        return {}
    return dict(embed_dim=patch.shape[0], depth=max(blocks) + 1, patch_size=patch.shape[-1])


def _is_square(length: int) -> bool:
    return length > 0 and math.isqrt(length) ** 2 == length


def _fold_positions(state: State) -> None:
    """Bring `pos_embed` to (1, 1 + L, D), and a distillation token into `reg_token`."""
    table = state.get('pos_embed')
    if table is None:
        return
    if table.ndim == 4:  # (1, H, W, D): SAM
        table = table.flatten(1, 2)  # (1, L, D)
    if 'dist_token' in state and 'reg_token' not in state:
        # A second prefix token with a position of its own is a register to which that position has been added.
        state['reg_token'] = state.pop('dist_token') + table[:, 1:2]  # (1, 1, D)
        table = torch.cat([table[:, :1], table[:, 2:]], dim=1)  # (1, 1 + L, D)
    has_no_prefix_row = _is_square(table.shape[1]) or state['pos_embed'].ndim == 4
    if has_no_prefix_row:  # DeiT III, timm's DINOv2: the class token has no position
        table = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)  # (1, 1 + L, D)
    state['pos_embed'] = table


def _fold_qkv_bias(state: State, own: Mapping[str, Tensor]) -> None:
    """Bring the biases of queries, keys and values to the form that the backbone has."""
    for name in [name for name in state if name.endswith('.attn.qkv.bias_mask')]:
        # DINOv3 multiplies the bias by this mask, which is 0 for the keys
        mask, bias = state.pop(name), name.removesuffix('_mask')
        state[bias] = torch.where(mask == 0, torch.zeros_like(state[bias]), state[bias])
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


def _fit(state: State, module: nn.Module) -> tuple[State, list[str]]:
    """Convert values, and leave out what this backbone does not build on purpose."""
    own = module.state_dict()
    left_out = []
    for name in list(state):
        block = re.match(r'blocks\.(\d+)\.', name)
        beyond = block is not None and len(module.blocks) <= int(block[1]) < module.depth
        # ViTDet leaves the class token out; the final norm belongs to the head of a backbone that returns raw maps.
        unused = re.fullmatch(r'cls_token|norm\.(weight|bias)', name) and name not in own
        if beyond or unused:
            left_out.append(name)
            del state[name]
    _fold_positions(state)
    _fold_qkv_bias(state, own)
    # BEiT pre-training: one table for all blocks
    shared = state.pop('rel_pos_bias.relative_position_bias_table', None)
    if shared is not None:
        for i in range(len(module.blocks)):
            state[f'blocks.{i}.attn.relative_position_bias_table'] = shared
    return state, left_out


def _square_grid(rows: int) -> tuple[int, int] | None:
    side = math.isqrt(rows)
    return (side, side) if side and side * side == rows else None


def _resize(name: str, value: Tensor, module: nn.Module) -> Tensor | None:
    """Resize a position table to the grid of the backbone; None for anything else."""
    leaf = name.rpartition('.')[2]
    if leaf == 'pos_embed' and value.ndim == 3:
        grid = _square_grid(value.shape[1] - 1)
        if grid is not None:
            return positions.resize_absolute(value, grid, module.pos_grid, module.pos_interpolation)
    if leaf in ('rel_pos_h', 'rel_pos_w') and value.ndim == 2:
        return positions.resize_relative(value, (module.state_dict()[name].shape[0] + 1) // 2)
    if leaf == 'relative_position_bias_table' and value.ndim == 2 and value.shape[0] > 3:
        side = _square_grid(value.shape[0] - 3)
        if side is not None and side[0] % 2:
            grid = ((side[0] + 1) // 2,) * 2
            return positions.resize_bias_table(value, grid, module.table_grid)
    return None


def _layout(name: str, has: tuple[str, ...] = (), lacks: tuple[str, ...] = ()) -> Layout:
    table = HEADS + RENAMES
    return Layout(name, 'VisionTransformer', CORE + has, lacks, table, finish=_fit, resize=_resize, describe=describe)


# All share one table; the order only decides which name the report shows.
LAYOUTS = (
    _layout('DINOv3', ('rope_embed.periods', 'storage_tokens')),
    _layout('BEiT', ('blocks.*.attn.q_bias', '*relative_position_bias_table')),
    _layout('detectron2 ViTDet', ('blocks.*.attn.rel_pos_h', 'pos_embed'), ('head.weight',)),
    _layout('DeiT distilled', ('dist_token', 'cls_token')),
    _layout('MAE with decoder', ('decoder_embed.weight', 'decoder_pos_embed')),
    _layout('DINOv2', ('mask_token', 'blocks.*.ls1.gamma')),
    _layout('timm', ('blocks.*.mlp.*',)),  # also DeiT, the MAE encoder, DINO
)
