"""Published layouts, loaded from the files as their sources write them, give the features of the sources."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer
from backbones.weights import convnext_layouts, vit_layouts
from backbones.weights.layout import Layout, recognise
from backbones.weights.load import load_pretrained
from backbones.weights.read import read_state

REGISTERS = dict(layer_scale_init_value=1.0, num_registers=4)
ROPE = dict(**REGISTERS, position='rope', qkv_bias='qv')
BEIT = dict(position='none', rel_pos='bias_table', qkv_bias='qv', layer_scale_init_value=0.1, img_size=64)
VITDET = dict(
    with_cls_token=False,
    window_size=4,
    global_attn_indexes=(1, 3),
    residual_block_indexes=(1, 3),
    rel_pos='decomposed',
    img_size=96,
)

CONVNEXT = {
    'convnext_official': ('official V1', {}),
    'convnext_official_mmdet': ("official detector under 'backbone.'", {}),
    'convnext_official_training': ('official V1', {}),
    'convnext_isotropic_official': ('official isotropic', {}),
    'convnext_dinov3_official': ('DINOv3', {}),
    'convnextv2_official': ('official V2', dict(use_grn=True)),
    'convnextv2_fcmae_published': ('official V2 FCMAE', dict(use_grn=True)),
}
VIT = {
    'vit_timm': ('timm', dict(pos_interpolation='bicubic_antialias')),
    'vit_timm_dinov2_reg': ('timm', dict(**REGISTERS, pos_interpolation='bicubic_antialias')),
    'vit_timm_dinov3': ('timm', dict(**REGISTERS, position='rope', qkv_bias=False)),
    'vit_mae_official': ('timm', {}),
    'vit_mae_official_full': ('MAE with decoder', {}),
    'vit_deit_official': ('timm', {}),
    'vit_deit_distilled_official': ('DeiT distilled', dict(num_registers=1)),
    'vit_deit3_official': ('timm', dict(layer_scale_init_value=1.0)),
    'vit_detectron2_vitdet_pth': ("detectron2 ViTDet under 'backbone.net.'", VITDET),
    'vit_dino_official_full': ("timm under 'backbone.'", dict(pos_interpolation='bicubic_offset')),
    'vit_dinov2_official': ('DINOv2', dict(layer_scale_init_value=1.0, pos_interpolation='bicubic_offset')),
    'vit_dinov2_giant_official': (
        'DINOv2',
        dict(layer_scale_init_value=1.0, pos_interpolation='bicubic_offset', mlp='swiglu'),
    ),
    'vit_dinov2_reg_official': ('DINOv2', dict(**REGISTERS, pos_interpolation='bicubic_antialias')),
    'vit_dinov2_training_teacher': (
        "DINOv2 under 'backbone.'",
        dict(layer_scale_init_value=1.0, pos_interpolation='bicubic_offset'),
    ),
    'vit_dinov3_official': ('DINOv3', ROPE),
    'vit_dinov3_plus_official': ('DINOv3', dict(**ROPE, mlp='swiglu_split', mlp_hidden=96)),
    'vit_dinov3_7b_official': (
        'DINOv3',
        dict(ROPE, qkv_bias=False, mlp='swiglu_split', mlp_hidden=64),
    ),
    'vit_beit_official_ft': ('BEiT', BEIT),
    'vit_beit_official_pt': ('BEiT', BEIT),
    'vit_beitv2_official_ft': ('BEiT', BEIT),
    'vit_beitv2_official_pt': ('BEiT', BEIT),
}


def build_convnext(meta: dict[str, Any], options: dict[str, Any]) -> ConvNeXt:
    """Build the toy model of a reference, without output norms."""
    arch = meta['arch']
    if arch.get('isotropic'):
        return ConvNeXt(
            dict(depth=arch['depth'], dim=arch['dim']), out_indices=meta['block_indexes'], output_norm=False
        )
    return ConvNeXt(dict(depths=arch['depths'], dims=arch['dims']), output_norm=False, **options)


def build_vit(meta: dict[str, Any], options: dict[str, Any]) -> VisionTransformer:
    """Build the toy model of a reference, returning raw maps."""
    arch = {key: meta['arch'][key] for key in ('embed_dim', 'depth', 'num_heads')}
    options = dict(options)
    if 'mlp_hidden' in options:
        arch['mlp_hidden'] = options.pop('mlp_hidden')
    size = meta['arch'].get('pretrain_image_size')
    return VisionTransformer(
        arch,
        patch_size=meta['arch']['patch_size'],
        out_indices=meta['block_indexes'],
        pretrain_img_size=size if isinstance(size, list) else 64,
        norm_eps=meta['arch']['norm_eps'],
        **options,
    )


def check(reference: Any, model: nn.Module, layout: str, prefix: str) -> None:
    """Load through the loader, then hold every map of one case against the source's."""
    coverage = load_pretrained(model, reference.checkpoint)
    assert coverage.complete
    assert coverage.layout == layout
    assert coverage.filled_elements == coverage.total_elements or coverage.fresh == ['rope_embed.periods']
    with torch.no_grad():
        outputs = model.eval()(reference.tensors[f'{prefix}input'])
    for i, output in enumerate(outputs):
        reference.assert_close(output, f'{prefix}out{i}')


@pytest.mark.parametrize('name', CONVNEXT)
def test_convnext_gives_the_features_of_its_source(name: str, reference) -> None:
    source = reference(name)
    layout, options = CONVNEXT[name]
    check(source, build_convnext(source.meta, options), layout, '')


@pytest.mark.parametrize('name', VIT)
def test_vit_gives_the_features_of_its_source(name: str, reference) -> None:
    source = reference(name)
    layout, options = VIT[name]
    check(source, build_vit(source.meta, options), layout, '')


@pytest.mark.parametrize('name', [name for name in VIT if 'dinov3' not in name or 'timm' in name])
def test_vit_gives_the_features_of_its_source_at_another_image_size(name: str, reference) -> None:
    # the official DINOv3 cannot be compared: it cuts off what its patches do not divide, and we pad
    source = reference(name)
    layout, options = VIT[name]
    case = 'b.' if 'b.input' in source.tensors else ''
    check(source, build_vit(source.meta, options), layout, case)


def test_output_norms_of_a_detector_are_loaded(reference) -> None:
    source = reference('convnext_official_mmdet')
    arch = source.meta['arch']
    model = ConvNeXt(dict(depths=arch['depths'], dims=arch['dims']))
    coverage = load_pretrained(model, source.checkpoint)
    assert not coverage.fresh
    assert sorted({name.split('.')[0] for name in coverage.outside}) == ['neck', 'roi_head', 'rpn_head']
    with torch.no_grad():
        outputs = model.eval()(source.tensors['input'])
    for i, output in enumerate(outputs):
        source.assert_close(output, f'normed{i}')


def test_the_final_norm_of_a_vit_is_loaded_where_it_is_built(reference) -> None:
    source = reference('vit_timm')
    model = build_vit(source.meta, dict(out_norm='last', pos_interpolation='bicubic_antialias'))
    assert 'norm.weight' in load_pretrained(model, source.checkpoint).filled
    with torch.no_grad():
        source.assert_close(model.eval()(source.tensors['input'])[-1], 'final')


@pytest.mark.parametrize('name', [*CONVNEXT, *VIT])
def test_a_file_is_recognised_as_its_own_family_only(name: str, reference) -> None:
    state = read_state(reference(name).checkpoint)
    ours, other = convnext_layouts.LAYOUTS, vit_layouts.LAYOUTS
    if name.startswith('vit'):
        ours, other = other, ours
    assert recognise(state, ours) is not None
    assert recognise(state, other) is None


def test_separate_biases_fill_a_fused_layer(reference) -> None:
    source = reference('vit_beit_official_ft')
    fused = build_vit(source.meta, dict(BEIT, qkv_bias=True))
    check(source, fused, 'BEiT', '')


def test_a_relative_table_of_another_grid_is_resized(reference) -> None:
    source = reference('vit_beit_official_ft')
    model = build_vit(source.meta, dict(BEIT, img_size=96))
    coverage = load_pretrained(model, source.checkpoint)
    assert coverage.resized['blocks.0.attn.relative_position_bias_table'] == ((52, 3), (124, 3))


def test_levels_that_are_not_built_are_dropped(reference) -> None:
    source = reference('convnext_official')
    arch = source.meta['arch']
    model = ConvNeXt(dict(depths=arch['depths'], dims=arch['dims']), out_indices=(0, 1), output_norm=False)
    coverage = load_pretrained(model, source.checkpoint)
    assert {name.split('.')[0] for name in coverage.dropped} == {
        'downsample_layers',
        'stages',
        'norm',
        'head',
    }
    with torch.no_grad():
        source.assert_close(model.eval()(source.tensors['input'])[1], 'out1')


def test_a_table_renames_drops_and_counts() -> None:
    layout = Layout(
        'toy', 'Toy', has=('a.*',), lacks=('b',), table=((r'a\.(\d)', r'layer\1'), (r'head', None))
    )
    state = {'a.0': torch.zeros(1), 'head': torch.zeros(1), 'norm': torch.zeros(1)}
    assert layout.matches(state)
    assert not layout.matches({**state, 'b': torch.zeros(1)})
    converted = layout.convert(state, nn.Identity())
    assert list(converted.native) == ['layer0', 'norm']
    assert converted.dropped == ['head']
    assert converted.renamed == 1
    assert list(state) == ['a.0', 'head', 'norm']
