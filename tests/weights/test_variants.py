"""Files that look like published ones and are not quite: what was lost, moved or guessed wrongly is said or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import backbones
from backbones.vit import VisionTransformer
from backbones.weights.load import load_pretrained
from backbones.weights.read import read_file
from backbones.weights.recognition import read_tensors


def saved(path: Path, state: dict[str, Tensor], wrapper: str = '') -> Path:
    """Save tensors, wrapped if wanted, and return the path."""
    torch.save({wrapper: state} if wrapper else state, path)
    return path


def tensors_of(reference: Any) -> dict[str, Tensor]:
    """The tensors of a reference file by their published names."""
    return dict(read_tensors(reference.checkpoint)[0])


def test_a_grid_that_is_not_square_keeps_its_rows(tmp_path: Path) -> None:
    # 14 x 16 patches and a class token make 225 = 15 x 15 rows
    options = dict(arch=dict(embed_dim=8, depth=1, num_heads=2), pretrain_img_size=(224, 256))
    model, other = (VisionTransformer(**options) for _ in range(2))
    coverage = load_pretrained(other, saved(tmp_path / 'w.pth', model.state_dict()))
    assert other.pos_embed.equal(model.pos_embed)
    assert not coverage.resized


def test_a_table_without_a_row_for_the_class_token_gets_zeros(reference) -> None:
    source = reference('vit_deit3_official')
    model = backbones.load_backbone(source.checkpoint, num_heads=3)
    assert not model.pos_embed[:, :1].any()
    assert model.pos_embed[:, 1:].equal(tensors_of(source)['pos_embed'])


def test_the_teacher_is_taken_where_the_student_lies_beside_it(reference, tmp_path: Path) -> None:
    state = tensors_of(reference('vit_mae_official'))
    both = {f'student.{name}': torch.zeros_like(value) for name, value in state.items()}
    both |= {f'teacher.{name}': value for name, value in state.items()}
    model = backbones.load_backbone(saved(tmp_path / 'w.pth', both), num_heads=3)
    assert model.cls_token.equal(state['cls_token'])


@pytest.mark.parametrize(
    ('name', 'lost', 'message'),
    [
        ('vit_hf_vit', 'vit.encoder.layer.1.attention.attention.key.bias', r'blocks\.1\.attn\.qkv\.bias'),
        ('vit_sam_official', 'image_encoder.blocks.1.attn.rel_pos_h', r'in the file: blocks\.1\.attn\.rel_pos_h'),
        ('convnext_official', 'stages.2.1.gamma', r'missing in the file: stages\.2\.1\.gamma'),
        ('vit_dinov3_official', 'cls_token', 'has lost what every such file has: cls_token'),
    ],
)
def test_one_lost_tensor_is_refused(name: str, lost: str, message: str, reference, tmp_path: Path) -> None:
    source = reference(name)
    state = tensors_of(source)
    del state[lost]
    heads = {} if name.startswith('convnext') else dict(num_heads=source.meta['arch']['num_heads'])
    with pytest.raises(ValueError, match=message) as refusal:
        backbones.load_backbone(saved(tmp_path / 'w.pth', state), **heads)
    assert 'without (layer_scale' not in str(refusal.value)


def test_a_v1_without_any_layer_scale_is_refused(reference, tmp_path: Path) -> None:
    state = {name: value for name, value in tensors_of(reference('convnext_official')).items() if 'gamma' not in name}
    with pytest.raises(ValueError, match=r'has lost what every such file has: stages\.\*\.gamma or stages\.\*\.grn'):
        backbones.load_backbone(saved(tmp_path / 'w.pth', state, 'model'))


def test_the_heads_of_google_arrays_are_read_and_held_against_the_backbone(reference) -> None:
    source = reference('vit_google_augreg_npz')
    assert backbones.load_backbone(source.checkpoint).num_heads == 3
    with pytest.raises(ValueError, match=r'num_heads is \(3,\), wanted \(2,\)'):
        backbones.load_backbone(source.checkpoint, num_heads=2)


def test_the_position_grid_stays_where_the_patches_are_resized(reference) -> None:
    source = reference('vit_dinov2_official')
    model = backbones.load_backbone(source.checkpoint, patch_size=16, num_heads=3)
    assert model.pos_embed.equal(tensors_of(source)['pos_embed'])
    assert model.patch_size == 16


def test_windows_without_global_blocks_are_read_off_their_tables(reference, tmp_path: Path) -> None:
    state = tensors_of(reference('vit_detectron2_vitdet_pth'))
    for name in [name for name in state if 'rel_pos' in name]:
        state[name] = torch.randn(7, 8)
    model = backbones.load_backbone(saved(tmp_path / 'w.pth', state, 'model'))
    assert (model.window_size, model.global_attn_indexes) == (4, ())


def test_a_detector_with_norms_on_some_outputs_keeps_these(reference, tmp_path: Path) -> None:
    state = tensors_of(reference('convnext_official_mmdet'))
    state = {name: value for name, value in state.items() if not name.startswith('backbone.norm0')}
    model = backbones.load_backbone(saved(tmp_path / 'w.pth', state, 'state_dict'))
    assert model.out_indices == (1, 2, 3)
    assert model.norm3.weight.equal(state['backbone.norm3.weight'])


def test_a_gap_in_the_numbers_of_blocks_is_refused_before_memory_is_taken(reference, tmp_path: Path) -> None:
    state = tensors_of(reference('vit_timm'))
    state['blocks.99999999999.norm1.weight'] = torch.ones(24)
    with pytest.raises(ValueError, match=r'w\.pth: blocks has 5 parts, but none with the number 4'):
        backbones.load_backbone(saved(tmp_path / 'w.pth', state), num_heads=3)


@pytest.mark.parametrize(
    ('layout', 'name', 'value'),
    [
        ('vit_timm', 'cls_token', torch.tensor(1.0)),
        ('vit_timm', 'pos_embed', torch.ones(24)),
        ('vit_dinov3_official', 'rope_embed.periods', torch.ones(0)),
        ('vit_dinov3_official', 'blocks.0.attn.qkv.bias_mask', torch.ones(7)),
        ('convnext_official', 'downsample_layers.0.0.weight', torch.ones(16)),
        ('convnext_official', 'stages.0.0.dwconv.weight', torch.tensor(0.0)),
        ('convnextv2_fcmae_sparse', 'encoder.stages.0.0.dwconv.kernel', torch.ones(50, 16)),
        ('vit_timm', 'patch_embed.proj.weight', torch.ones(24, 3, 16, 8)),
        ('vit_timm', 'blocks.0.mlp.fc1.weight', torch.ones(96, 24, dtype=torch.int8)),
    ],
)
def test_odd_shapes_and_types_end_in_a_sentence_that_names_the_file(
    layout: str, name: str, value: Tensor, reference, tmp_path: Path
) -> None:
    state = tensors_of(reference(layout)) | {name: value}
    heads = dict(num_heads=3) if layout == 'vit_timm' else {}
    with pytest.raises(ValueError, match=r'w\.pth'):
        backbones.load_backbone(saved(tmp_path / 'w.pth', state), **heads)


def test_an_empty_register_is_none(reference, tmp_path: Path) -> None:
    source = reference('vit_dinov3_hf')
    state = dict(read_file(source.checkpoint))
    state['embeddings.register_tokens'] = torch.zeros(1, 0, 24)
    model = backbones.load_backbone(saved(tmp_path / 'w.pth', state), num_heads=2)
    assert (model.reg_token, model.position) == (None, 'rope')


def test_counters_of_a_profiler_are_left_out(reference, tmp_path: Path) -> None:
    counters = {'total_ops': torch.zeros(1), 'blocks.0.attn.total_params': torch.zeros(1)}
    state = tensors_of(reference('vit_timm')) | counters
    model = backbones.load_backbone(saved(tmp_path / 'w.pth', state), num_heads=3)
    assert model.cls_token.equal(state['cls_token'])


def test_a_config_beside_the_file_is_the_measure_of_what_differs(reference, tmp_path: Path) -> None:
    source = reference('vit_hf_clip')
    shutil.copy(source.checkpoint, tmp_path / 'model.safetensors')
    config = json.loads((source.folder / 'config.json').read_text()) | dict(hidden_act='gelu')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    model = backbones.load_backbone(tmp_path / 'model.safetensors')
    assert model.act == 'gelu'
    assert not load_pretrained(model, tmp_path / 'model.safetensors').differs
    with pytest.raises(ValueError, match=r'num_heads is \(3,\), wanted \(2,\)'):
        backbones.load_backbone(tmp_path / 'model.safetensors', num_heads=2)


def test_a_vit_with_a_gate_and_absolute_positions_is_not_taken_for_a_plain_one(reference, tmp_path: Path) -> None:
    # timm's EVA-02 has rotary positions as well, and no tensor of the file shows them
    state = tensors_of(reference('vit_timm'))
    for i in range(4):
        for kind in ('weight', 'bias'):
            state[f'blocks.{i}.mlp.fc1_x.{kind}'] = state.pop(f'blocks.{i}.mlp.fc1.{kind}')
            state[f'blocks.{i}.mlp.fc1_g.{kind}'] = state[f'blocks.{i}.mlp.fc1_x.{kind}']
    with pytest.raises(ValueError, match='is in no known layout'):
        backbones.load_backbone(saved(tmp_path / 'w.pth', state), num_heads=3)
