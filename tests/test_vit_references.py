"""VisionTransformer and SimpleFPN against the features of the official implementations, layout by layout.

The tensors come by way of `load_native` below and not by way of `backbones.weights`, which has its own tests.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from backbones.pyramid import SimpleFPN
from backbones.vit import VisionTransformer

RENAMES = (
    (r'gamma_([12])$', r'ls\1.gamma'),
    (r'(register|storage)_tokens', 'reg_token'),
    (r'mlp\.lin', 'mlp.fc'),
)
UNUSED = re.compile(
    r'head\.|fc_norm|lm_head|mask_token|neck\.|local_cls_norm|.*relative_position_index|.*bias_mask|simfp|decoder'
)
BEIT = dict(position='none', rel_pos='bias_table', img_size=64, qkv_bias='qv', layer_scale_init_value=0.1)
DINO = dict(layer_scale_init_value=1.0, out_norm='all', patch_size=14, pretrain_img_size=56)
DINO3 = dict(
    layer_scale_init_value=1.0, out_norm='all', norm_eps=1e-5, position='rope', num_registers=4, qkv_bias='qv'
)
VITDET = dict(
    with_cls_token=False, window_size=4, global_attn_indexes=(1, 3), rel_pos='decomposed', img_size=96
)
CLIP = dict(norm_eps=1e-5, pre_norm=True, patch_bias=False, act='quick_gelu')
LAYOUTS = {
    'vit_timm': dict(pos_interpolation='bicubic_antialias', out_norm='last'),
    'vit_timm_clip': dict(pos_interpolation='bicubic_antialias', out_norm='last', **CLIP),
    'vit_mae_official': dict(out_norm='last'),
    'vit_deit_official': dict(out_norm='last'),
    'vit_detectron2_vitdet_pth': dict(residual_block_indexes=(1, 3), **VITDET),
    'vit_sam_official': dict(**{**VITDET, 'pretrain_img_size': 96}),
    'vit_beit_official_ft': BEIT,
    'vit_beit_official_pt': dict(out_norm='last', **BEIT),
    'vit_dinov2_official': dict(pos_interpolation='bicubic_offset', **DINO),
    'vit_dinov2_reg_official': dict(pos_interpolation='bicubic_antialias', num_registers=4, **DINO),
    'vit_dinov2_giant_official': dict(pos_interpolation='bicubic_offset', mlp='swiglu', **DINO),
    'vit_dinov3_official': DINO3,
    'vit_dinov3_plus_official': dict(mlp='swiglu_split', **DINO3),
    'vit_dinov3_7b_official': dict(mlp='swiglu_split', **{**DINO3, 'qkv_bias': False}),
}


def load_native(model: VisionTransformer, state: dict[str, Tensor]) -> None:
    """Fill every parameter of the model, with the few renames that native names need."""
    native = {}
    for name, value in state.items():
        if UNUSED.match(name) or (name.startswith('norm.') and model.out_norm == 'none'):
            continue
        for pattern, new in RENAMES:
            name = re.sub(pattern, new, name)
        if name == 'pos_embed' and value.ndim == 4:  # SAM keeps (1, h, w, D), without a class row
            value = torch.cat([value.new_zeros(1, 1, value.shape[-1]), value.flatten(1, 2)], dim=1)
        if (
            name.endswith('qkv.bias') and f'{name[:-8]}q_bias' in model.state_dict()
        ):  # DINOv3 masks the keys' part
            q, _, v = value.chunk(3)
            native |= {f'{name[:-8]}q_bias': q, f'{name[:-8]}v_bias': v}
        elif name.startswith('rel_pos_bias.'):  # BEiT's pre-training shares one table
            native |= {f'blocks.{i}.attn.{name[13:]}': value for i in range(len(model.blocks))}
        else:
            native[name] = value.float()
    model.load_state_dict(native)


def read_state(loaded) -> dict[str, Tensor]:
    """Read the names of the backbone; detectron2's file holds a whole detector."""
    if 'detectron2' not in loaded.meta['layout']:
        return loaded.state_dict()
    state = torch.load(loaded.checkpoint, weights_only=True)['model']
    return {
        name.removeprefix('backbone.net.'): value for name, value in state.items() if 'backbone.net.' in name
    }


def build(loaded, options: dict) -> VisionTransformer:
    """Build the toy model of a reference, in evaluation mode, with its weights."""
    arch, patch = loaded.meta['arch'], loaded.meta['arch']['patch_size']
    model = VisionTransformer(
        dict(
            embed_dim=arch['embed_dim'],
            depth=arch['depth'],
            num_heads=arch['num_heads'],
            mlp_hidden=arch.get('mlp_hidden', 4 * arch['embed_dim']),
        ),
        **{
            'patch_size': patch,
            'pretrain_img_size': 64,
            'out_indices': loaded.meta['block_indexes'],
            **options,
        },
    )
    load_native(model, read_state(loaded))
    return model.eval()


def run(model: VisionTransformer, loaded, prefix: str) -> tuple[Tensor, ...]:
    """Run a case; DINOv3 cuts off the rows and columns that do not fill a patch, so they are cut off here."""
    images = loaded.tensors[f'{prefix}input']
    if 'dinov3' in loaded.meta['layout']:
        height, width = (side // model.patch_size * model.patch_size for side in images.shape[2:])
        images = images[:, :, :height, :width]
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_block_gives_the_features_of_the_source_at_every_size(layout, reference):
    loaded = reference(layout)
    model = build(loaded, {**LAYOUTS[layout], 'out_norm': 'none'})
    for case in loaded.meta['cases'].values():
        outputs = run(model, loaded, case['tensor_prefix'])
        for i, output in enumerate(outputs):
            loaded.assert_close(output, f'{case["tensor_prefix"]}out{i}')


@pytest.mark.parametrize('layout', [name for name, options in LAYOUTS.items() if 'out_norm' in options])
def test_the_final_norm_gives_the_normed_features_of_the_source(layout, reference):
    loaded = reference(layout)
    options = LAYOUTS[layout]
    model = build(loaded, options)
    for case in loaded.meta['cases'].values():
        prefix = case['tensor_prefix']
        outputs = run(model, loaded, prefix)
        loaded.assert_close(outputs[-1], f'{prefix}final')
        name = 'normed' if options['out_norm'] == 'all' else 'out'
        for i, output in enumerate(outputs[:-1]):
            loaded.assert_close(output, f'{prefix}{name}{i}')


def test_the_pyramid_equals_that_of_detectron2_and_its_file_loads_without_renaming(reference):
    loaded = reference('vit_detectron2_vitdet_pth')
    model = build(loaded, LAYOUTS['vit_detectron2_vitdet_pth'])
    neck = SimpleFPN(in_channels=24, out_channels=8)
    state = torch.load(loaded.checkpoint, weights_only=True)['model']
    neck.load_state_dict(
        {name[9:]: value for name, value in state.items() if name.startswith('backbone.simfp')}
    )
    for case in loaded.meta['cases'].values():
        with torch.no_grad():
            levels = neck(run(model, loaded, case['tensor_prefix']))
        for i, level in enumerate(levels):
            loaded.assert_close(level, f'{case["tensor_prefix"]}p{i + 2}')
