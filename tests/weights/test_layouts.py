"""Published layouts, loaded from the files as their sources write them, give the features of the sources."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones.convnext import ConvNeXt
from backbones.pyramid import SimpleFPN
from backbones.weights import convnext_layouts, vit_layouts
from backbones.weights.layout import Layout, recognise
from backbones.weights.load import load_pretrained
from backbones.weights.recognition import read_tensors

THREE = dict(num_heads=3)  # toy widths are no multiple of 64
TWO = dict(num_heads=2)
# layout folder -> (what the report calls it, what cannot be read off the file)
CONVNEXT: dict[str, tuple[str, dict[str, Any]]] = {
    'convnext_official': ('official V1', {}),
    'convnext_official_training': ('official V1', {}),
    'convnext_official_mmdet': ("official detector under 'backbone.'", {}),
    'convnext_isotropic_official': ('official isotropic', {}),
    'convnext_dinov3_official': ('DINOv3', {}),
    'convnext_dinov3_hf': ('DINOv3, Hugging Face', {}),
    'convnext_hf': ("Hugging Face under 'convnext.'", {}),
    'convnext_hf_upernet': ("Hugging Face under 'backbone.'", {}),
    'convnext_mmpretrain': ("mmpretrain under 'backbone.'", {}),
    'convnext_timm': ('timm', {}),
    'convnext_timm_convmlp': ('timm', {}),
    'convnext_torchvision': ('torchvision', {}),
    'convnextv2_official': ('official V2', {}),
    'convnextv2_fcmae_published': ('official V2 FCMAE', {}),
    'convnextv2_fcmae_sparse': ("official V2 FCMAE, sparse under 'encoder.'", {}),
    'convnextv2_hf': ("Hugging Face V2 under 'convnextv2.'", {}),
    'convnextv2_mmpretrain': ("mmpretrain under 'backbone.'", {}),
    'convnextv2_timm': ('timm', {}),
    'convnextv2_timm_convmlp': ('timm', {}),
}
VIT: dict[str, tuple[str, dict[str, Any]]] = {
    'vit_beit_official_ft': ('BEiT', {}),
    'vit_beit_official_pt': ('BEiT', {}),
    'vit_beitv2_official_ft': ('BEiT', {}),
    'vit_beitv2_official_pt': ('BEiT', {}),
    'vit_deit3_official': ('DeiT or MAE', THREE),
    'vit_deit_distilled_official': ('DeiT distilled', THREE),
    'vit_deit_official': ('DeiT or MAE', THREE),
    'vit_detectron2_vitdet_pkl': ("detectron2 ViTDet under 'backbone.net.'", {}),
    'vit_detectron2_vitdet_pth': ("detectron2 ViTDet under 'backbone.net.'", {}),
    'vit_dino_official_full': ("DINO under 'backbone.'", THREE),
    'vit_dinov2_giant_official': ('DINOv2', THREE),
    'vit_dinov2_official': ('DINOv2', THREE),
    'vit_dinov2_reg_official': ('DINOv2 with registers', THREE),
    'vit_dinov2_training_teacher': ("DINOv2 under 'backbone.'", THREE),
    'vit_dinov3_7b_official': ('DINOv3', {}),
    'vit_dinov3_hf': ('Hugging Face DINOv3', {}),
    'vit_dinov3_hf_gated': ('Hugging Face DINOv3, gated', {}),
    'vit_dinov3_official': ('DINOv3', {}),
    'vit_dinov3_plus_official': ('DINOv3', {}),
    'vit_google_augreg_npz': ('Google JAX', THREE),
    'vit_google_augreg_npz_opt': ("Google JAX under 'opt/target/'", THREE),
    'vit_hf_beit': ("Hugging Face BEiT under 'beit.'", {}),
    'vit_hf_clip': ("Hugging Face CLIP under 'vision_model.'", {}),
    'vit_hf_dinov2': ('Hugging Face DINOv2', {}),
    'vit_hf_dinov2_reg': ('Hugging Face DINOv2 with registers', {}),
    'vit_hf_dinov2_swiglu': ('Hugging Face DINOv2', {}),
    'vit_hf_vit': ("Hugging Face ViT under 'vit.'", {}),
    'vit_hf_vitmae': ("Hugging Face ViT under 'vit.'", {}),
    'vit_mae_official': ('DeiT or MAE', THREE),
    'vit_mae_official_full': ('MAE with decoder', THREE),
    'vit_mmpretrain': ("mmpretrain under 'backbone.'", THREE),
    'vit_mmseg': ("mmseg under 'backbone.'", THREE),
    'vit_open_clip': ("open_clip under 'visual.'", THREE),
    'vit_openai_clip': ('OpenAI CLIP', TWO),
    'vit_sam_official': ("SAM under 'image_encoder.'", {}),
    'vit_timm': ('timm', THREE),
    'vit_timm_clip': ('timm CLIP', dict(**THREE, act='quick_gelu')),
    'vit_timm_dinov2_reg': ('timm', THREE),
    'vit_timm_dinov3': ('timm DINOv3', TWO),
    'vit_torchvision': ('torchvision', THREE),
}
ALL = CONVNEXT | VIT
# Hugging Face resizes BEiT's table bilinearly, we as BEiT does; the rest is that of the teacher and of `model`.
OTHER_CASES = {('vit_hf_beit', 'b'), ('vit_dino_official_full', 'student'), ('convnext_official_training', 'ema')}


def build(reference: Any, overrides: dict[str, Any]) -> nn.Module:
    """Build the toy model of a reference from its file alone, returning the maps that the reference has."""
    levels = reference.meta.get('block_indexes')
    return backbones.load_backbone(reference.checkpoint, **(dict(out_indices=levels) if levels else {}), **overrides)


def images_of(reference: Any, name: str, prefix: str) -> Tensor:
    """The input of a case; the official DINOv3 cuts off what its patches do not divide, where we pad."""
    images = reference.tensors[f'{prefix}input']
    if 'dinov3' in name and name.startswith('vit'):
        height, width = (side // 16 * 16 for side in images.shape[2:])
        images = images[:, :, :height, :width]
    return images


@pytest.mark.parametrize('name', ALL)
def test_the_features_are_those_of_the_source_in_every_case(name: str, reference) -> None:
    source = reference(name)
    model = build(source, dict(ALL[name][1], **(dict(output_norm=False) if name in CONVNEXT else {})))
    for case, facts in source.meta['cases'].items():
        if (name, case) not in OTHER_CASES:
            prefix = facts['tensor_prefix']
            with torch.no_grad():
                outputs = model(images_of(source, name, prefix))
            for i, output in enumerate(outputs):
                source.assert_close(output, f'{prefix}out{i}')


@pytest.mark.parametrize('name', ALL)
def test_every_file_fills_the_whole_backbone_and_names_its_layout(name: str, reference) -> None:
    source = reference(name)
    model = build(source, ALL[name][1])
    coverage = load_pretrained(model, source.checkpoint)
    assert coverage.layout == ALL[name][0]
    assert coverage.complete
    assert not coverage.resized
    assert coverage.fresh in ([], ['rope_embed.periods'])
    assert not [name for name in coverage.differs if 'act=' not in name]


@pytest.mark.parametrize('name', ALL)
def test_what_is_left_out_is_what_a_backbone_does_not_need(name: str, reference) -> None:
    source = reference(name)
    coverage = load_pretrained(build(source, ALL[name][1]), source.checkpoint)
    beside = ('relative_position_index', 'mask_token', 'norm.weight', 'norm.bias')  # recomputed, unused, of raw maps
    allowed = source.meta['not_part_of_a_feature_backbone']
    prefix = source.meta['checkpoint']['prefix'].split(' ')[0]
    for dropped in coverage.dropped:
        full = (dropped, prefix + dropped)
        is_listed = any(fnmatchcase(each, pattern) for each in full for pattern in allowed)
        assert is_listed or any(each in dropped for each in beside) or 'norm' in dropped, dropped


@pytest.mark.parametrize('name', VIT)
def test_the_final_norm_gives_the_normed_map_of_the_source(name: str, reference) -> None:
    source = reference(name)
    if 'final' not in source.tensors:
        pytest.skip(f'{name} has no final norm of tokens')
    model = backbones.load_backbone(source.checkpoint, **VIT[name][1])
    assert model.out_norm == 'last'
    with torch.no_grad():
        source.assert_close(model(images_of(source, name, ''))[-1], 'final')


@pytest.mark.parametrize('name', ALL)
def test_a_file_is_recognised_as_its_own_family_only(name: str, reference) -> None:
    state, wrappers = read_tensors(reference(name).checkpoint)
    ours, other = convnext_layouts.LAYOUTS, vit_layouts.LAYOUTS
    if name.startswith('vit'):
        ours, other = other, ours
    assert recognise(state, ours, None, wrappers) is not None
    assert recognise(state, other, None, wrappers) is None


@pytest.mark.parametrize('name', ['convnext_dinov3_official', 'convnext_dinov3_hf', 'convnext_mmpretrain'])
def test_the_norm_of_the_last_map_is_loaded_where_it_is_built(name: str, reference) -> None:
    source = reference(name)
    model = backbones.load_backbone(source.checkpoint, out_indices=(3,), output_norm=True)
    with torch.no_grad():
        source.assert_close(model(source.tensors['input'])[0], 'normed3')


@pytest.mark.parametrize('name', ['convnext_official_mmdet', 'convnext_hf_upernet'])
def test_output_norms_of_a_detector_or_segmenter_are_loaded(name: str, reference) -> None:
    source = reference(name)
    model = backbones.load_backbone(source.checkpoint)
    with torch.no_grad():
        outputs = model(source.tensors['input'])
    for i, output in enumerate(outputs):
        source.assert_close(output, f'normed{i}')


@pytest.mark.parametrize('name', ['vit_detectron2_vitdet_pth', 'vit_detectron2_vitdet_pkl'])
def test_the_pyramid_of_a_detector_fills_the_neck(name: str, reference) -> None:
    source = reference(name)
    vit = backbones.load_backbone(source.checkpoint)
    neck = SimpleFPN(24, 8, init_cfg=dict(type='Pretrained', checkpoint=str(source.checkpoint)))
    neck.init_weights()
    for prefix in ('', 'b.'):
        with torch.no_grad():
            levels = neck(vit(source.tensors[f'{prefix}input']))
        for i, level in enumerate(levels):
            source.assert_close(level, f'{prefix}p{i + 2}')


def test_separate_biases_fill_a_fused_layer(reference) -> None:
    source = reference('vit_beit_official_ft')
    model = backbones.load_backbone(source.checkpoint, qkv_bias=True, out_indices=source.meta['block_indexes'])
    with torch.no_grad():
        outputs = model(source.tensors['input'])
    source.assert_close(outputs[-1], 'out3')


def test_a_relative_table_of_another_grid_is_resized(reference) -> None:
    source = reference('vit_beit_official_ft')
    model = backbones.load_backbone(source.checkpoint, img_size=96)
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
        'toy', 'Toy', has=('a.*',), lacks=('b',), table=(('a.{i}', 'layer{i}'), ('head', None))
    )
    state = {'a.0': torch.zeros(1), 'head': torch.zeros(1), 'norm': torch.zeros(1)}
    assert layout.matches(state)
    assert not layout.matches({**state, 'b': torch.zeros(1)})
    converted = layout.convert(state)
    assert list(converted.native) == ['layer0', 'norm']
    assert converted.dropped == ['head']
    assert converted.renamed == 1
    assert list(state) == ['a.0', 'head', 'norm']
