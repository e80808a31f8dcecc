"""A load fills the backbone and counts, or refuses and changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from weights.toy_files import CONVNEXT, VIT, official, same, saved

import backbones
from backbones.convnext import ConvNeXt
from backbones.positions import resize_patches
from backbones.vit import VisionTransformer
from backbones.weights import load
from backbones.weights.load import load_pretrained

# --- coverage -----------------------------------------------------------------------------------------------


def test_a_load_says_what_it_did_in_one_line(convnext_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []
    monkeypatch.setattr(load, 'print_log', lambda text, logger: lines.append(text))
    load_pretrained(ConvNeXt(CONVNEXT), convnext_file)
    assert lines == [
        'ConvNeXt <- official V1: 61/69 parameters, 31,696; '
        'new: norm0, norm1, norm2, norm3; dropped: norm, head'
    ]


def test_coverage_counts_every_parameter(convnext_file: Path) -> None:
    model = ConvNeXt(CONVNEXT)
    coverage = load_pretrained(model, convnext_file)
    assert coverage.complete
    assert coverage.total_elements == sum(value.numel() for value in model.parameters())
    assert coverage.total_elements - coverage.filled_elements == 2 * sum(CONVNEXT['dims'])
    assert len(coverage.filled) + len(coverage.fresh) == len(list(model.parameters()))
    assert sorted(coverage.dropped) == ['head.bias', 'head.weight', 'norm.bias', 'norm.weight']


def test_the_table_has_a_row_for_each_part(convnext_file: Path) -> None:
    text = load_pretrained(ConvNeXt(CONVNEXT), convnext_file).table()
    for row in (
        r'stages\.2 +18/18 +12,000/12,000',
        r'norm0 +0/2 +0/16',
        r'total +61/69',
        r'fresh \(8\): norm0',
    ):
        assert re.search(row, text), row


def test_a_published_size_is_named(tmp_path: Path) -> None:
    path = saved(
        tmp_path / 'w.pth', official(VisionTransformer('tiny', out_indices=(0,), pretrain_img_size=32))
    )
    model = VisionTransformer('tiny', out_indices=(0,), pretrain_img_size=32)
    assert load_pretrained(model, path).summary().startswith('VisionTransformer-tiny <- DeiT or MAE: ')


def test_half_precision_is_cast(convnext_file: Path, tmp_path: Path) -> None:
    half = {name: value.half() for name, value in torch.load(convnext_file)['model'].items()}
    model = ConvNeXt(CONVNEXT)
    load_pretrained(model, saved(tmp_path / 'half.pth', half))
    assert model.stages[0][0].pwconv1.weight.dtype == torch.float32
    assert same(model, {name: value.float() for name, value in half.items()})


def test_a_position_table_of_another_grid_is_resized(vit_file: Path) -> None:
    model = VisionTransformer(VIT, pretrain_img_size=96)
    coverage = load_pretrained(model, vit_file)
    assert coverage.resized == {'pos_embed': ((1, 17, 8), (1, 37, 8))}
    assert 'resized: pos_embed' in coverage.summary()


def test_a_position_table_of_the_same_grid_is_untouched(vit_file: Path) -> None:
    model = VisionTransformer(VIT, pretrain_img_size=64)
    assert not load_pretrained(model, vit_file).resized
    assert torch.equal(model.pos_embed, torch.load(vit_file)['model']['pos_embed'])


def test_mae_weights_fill_a_vitdet_backbone(vit_file: Path) -> None:
    model = VisionTransformer(
        VIT,
        pretrain_img_size=64,
        with_cls_token=False,
        window_size=2,
        global_attn_indexes=(1,),
        rel_pos='decomposed',
        img_size=96,
    )
    coverage = load_pretrained(model, vit_file)
    assert {name.rpartition('.')[2] for name in coverage.fresh} == {'rel_pos_h', 'rel_pos_w'}
    assert 'cls_token' in coverage.dropped


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone', None])
def test_a_backbone_is_found_in_a_whole_detector(
    prefix: str | None, convnext_file: Path, tmp_path: Path
) -> None:
    state = {f'backbone.{name}': value for name, value in torch.load(convnext_file)['model'].items()}
    path = saved(tmp_path / 'det.pth', {**state, 'neck.conv.weight': torch.zeros(1)}, 'state_dict')
    model = ConvNeXt(CONVNEXT)
    coverage = load_pretrained(model, path, prefix=prefix)
    assert same(model, torch.load(convnext_file)['model'])
    assert coverage.outside == ['neck.conv.weight']


# --- refusals -----------------------------------------------------------------------------------------------


def assert_refused(model: nn.Module, path: Path, message: str, **options: Any) -> None:
    """Check that a load raises, names the file, and changes nothing."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf'(?s){re.escape(path.name)}.*{message}'):
        load_pretrained(model, path, **options)
    assert same(model, before)


def test_a_dropped_layer_scale_is_refused(convnext_file: Path, tmp_path: Path) -> None:
    state = {name: value for name, value in torch.load(convnext_file)['model'].items() if 'gamma' not in name}
    path = saved(tmp_path / 'w.pth', state)
    assert_refused(
        ConvNeXt(CONVNEXT), path, r'5 parameters are missing in the file: stages\.0\.0\.gamma.*no layer scale'
    )


def test_a_layer_scale_that_the_backbone_lacks_is_refused(convnext_file: Path) -> None:
    model = ConvNeXt(CONVNEXT, layer_scale_init_value=0)
    assert_refused(
        model,
        convnext_file,
        r'5 are not in the backbone: stages\.0\.0\.gamma.*layer_scale_init_value above 0',
    )


def test_v2_weights_for_v1_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = saved(tmp_path / 'v2.pth', official(ConvNeXt(CONVNEXT, use_grn=True)))
    assert_refused(ConvNeXt(CONVNEXT, layer_scale_init_value=0), path, 'build the backbone with use_grn=True')


def test_v1_weights_for_v2_are_refused_with_the_remedy(convnext_file: Path) -> None:
    assert_refused(ConvNeXt(CONVNEXT, use_grn=True), convnext_file, 'build the backbone with use_grn=False')


def test_another_size_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    path = saved(tmp_path / 'atto.pth', official(ConvNeXt('atto')))
    assert_refused(ConvNeXt('femto'), path, r"dims is \(40, 80, 160, 320\) in the file .*: arch='atto' fits")


def test_another_depth_is_refused_with_the_one_that_fits(convnext_file: Path) -> None:
    model = ConvNeXt(dict(depths=(1, 1, 3, 1), dims=CONVNEXT['dims']))
    assert_refused(model, convnext_file, r'arch=dict\(depths=\(1, 1, 2, 1\), dims=\(8, 16, 24, 32\)\) fits')


def test_patches_of_another_size_are_resized_and_said_so(vit_file: Path) -> None:
    model = VisionTransformer(VIT, patch_size=8, pretrain_img_size=64)
    coverage = load_pretrained(model, vit_file)
    assert coverage.resized['patch_embed.proj.weight'] == ((8, 3, 16, 16), (8, 3, 8, 8))
    wanted = resize_patches(torch.load(vit_file)['model']['patch_embed.proj.weight'], 8)
    assert model.patch_embed.proj.weight.equal(wanted)


def test_the_rule_for_patches_can_be_chosen_in_the_config(vit_file: Path) -> None:
    cfg = dict(type='Pretrained', checkpoint=str(vit_file), patch_resize='bicubic')
    model = VisionTransformer(VIT, patch_size=8, pretrain_img_size=64, init_cfg=cfg)
    model.init_weights()
    wanted = resize_patches(torch.load(vit_file)['model']['patch_embed.proj.weight'], 8, 'bicubic')
    assert model.patch_embed.proj.weight.equal(wanted)


def test_patches_of_another_size_can_be_refused_with_the_one_that_fits(vit_file: Path) -> None:
    model = VisionTransformer(VIT, patch_size=8, pretrain_img_size=64)
    with pytest.raises(ValueError, match=r': patch_size=16 fits'):
        load_pretrained(model, vit_file, patch_resize='none')
    with pytest.raises(ValueError, match=r"patch_resize='linear' is unknown; choose 'flexivit'"):
        load_pretrained(model, vit_file, patch_resize='linear')


def test_register_tokens_that_the_backbone_lacks_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', official(VisionTransformer(VIT, num_registers=4)))
    assert_refused(VisionTransformer(VIT), path, 'num_registers=4')


def test_another_architecture_is_named(convnext_file: Path, vit_file: Path) -> None:
    assert_refused(
        ConvNeXt(CONVNEXT),
        vit_file,
        r"is not for ConvNeXt: it looks like VisionTransformer.*'DeiT or MAE'.*embed_dim=8",
    )
    assert_refused(VisionTransformer(VIT), convnext_file, r"it looks like ConvNeXt.*type='backbones\.ConvNeXt'")


@pytest.mark.parametrize(
    ('names', 'finding'),
    [
        (['model.embed_tokens.weight', 'model.layers.0.q_proj.weight'], 'looks like a language model, .*: it has 2'),
        (['head.weight', 'head.bias'], 'holds a classification head only: it has 2 tensors, head.weight, head.bias'),
        ([f'layers.{i}.weight' for i in range(9)], 'is in no known layout: it has 9 .*and 5 more; give a ConvNeXt'),
    ],
)
def test_a_file_of_something_else_is_named(names: list[str], finding: str, tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {name: torch.zeros(2, 2) for name in names})
    assert_refused(ConvNeXt(CONVNEXT), path, finding)
    with pytest.raises(ValueError, match=finding):
        backbones.load_backbone(path)


def test_a_file_with_nan_is_refused(convnext_file: Path, tmp_path: Path) -> None:
    state = torch.load(convnext_file)['model']
    state['stages.1.0.pwconv1.bias'][3] = torch.nan
    path = saved(tmp_path / 'w.pth', state)
    with pytest.raises(ValueError, match=r'1 hold NaN or infinity: stages\.1\.0\.pwconv1\.bias'):
        load_pretrained(ConvNeXt(CONVNEXT), path)


def test_a_setting_that_is_not_the_publishers_is_said(reference) -> None:
    source = reference('vit_hf_vit')
    model = backbones.load_backbone(source.checkpoint, norm_eps=1e-6)
    coverage = load_pretrained(model, source.checkpoint)
    assert coverage.complete
    assert 'differs from the source: norm_eps=1e-06 (source 1e-12)' in coverage.summary()


def test_an_unknown_parameter_is_refused(convnext_file: Path, tmp_path: Path) -> None:
    state = {**torch.load(convnext_file)['model'], 'stages.0.0.attention.weight': torch.zeros(8)}
    path = saved(tmp_path / 'w.pth', state)
    assert_refused(ConvNeXt(CONVNEXT), path, r'1 are not in the backbone: stages\.0\.0\.attention\.weight')


def test_a_transposed_matrix_is_refused(vit_file: Path, tmp_path: Path) -> None:
    state = torch.load(vit_file)['model']
    state['blocks.0.attn.qkv.weight'] = state['blocks.0.attn.qkv.weight'].t().contiguous()
    path = saved(tmp_path / 'w.pth', state)
    model = VisionTransformer(VIT, pretrain_img_size=64)
    assert_refused(model, path, r'blocks\.0\.attn\.qkv\.weight is \(8, 24\), wanted \(24, 8\)')


def test_a_wrong_prefix_is_refused(convnext_file: Path) -> None:
    message = r"no name begins with prefix='backbone\.'; it has the parts downsample_layers, stages"
    assert_refused(ConvNeXt(CONVNEXT), convnext_file, message, prefix='backbone.')


def test_what_fits_is_loaded_on_request(
    convnext_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    monkeypatch.setattr(load, 'print_log', lambda text, logger, level: lines.append(text))
    state = torch.load(convnext_file)['model']
    del state['stages.0.0.gamma']
    model = ConvNeXt(CONVNEXT)
    coverage = load_pretrained(model, saved(tmp_path / 'w.pth', state), strict=False)
    assert coverage.missing == ['stages.0.0.gamma']
    assert same(model, state)
    assert 'missing (1): stages.0.0.gamma' in lines[0]
