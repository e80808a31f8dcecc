"""tools/weights.py: what a file holds, whether a config takes it, and the same weights for another code base."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from weights.test_layouts import ALL

from backbones import inspection
from backbones.convnext import ConvNeXt

CONFIG = ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ConvNeXt-T in the official layout."""
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save({'model': ConvNeXt('tiny', output_norm=False).state_dict()}, path)
    return path


def test_a_report_names_size_layout_and_dtypes(tiny: Path) -> None:
    report = inspection.inspect_file(tiny)
    assert (report['arch'], report['layout'], report['parameters']) == ('tiny', 'official V1', 27_818_592)
    assert report['dtypes'] == {'float32': 27_818_592}
    assert "arch 'tiny'" in inspection.format_report(report)


def test_a_report_of_a_vit_has_patch_and_position_grid(reference) -> None:
    report = json.loads(inspection.to_json(inspection.inspect_file(reference('vit_timm').checkpoint)))
    assert (report['patch_size'], report['position_grid']) == (16, [4, 4])
    assert 'num_heads' in report['note']


@pytest.mark.parametrize('name', ALL)
def test_every_reference_is_named_with_its_architecture(name: str, reference) -> None:
    source = reference(name)
    report = inspection.inspect_file(source.checkpoint)
    layout, _, prefix = ALL[name][0].partition(' under ')
    assert (report['layout'], report['prefix']) == (layout, prefix.strip("'"))
    assert report['family'] == ('VisionTransformer' if name.startswith('vit') else 'ConvNeXt')
    for key in {'depths', 'dims', 'depth', 'dim', 'embed_dim'} & set(source.meta['arch']):
        given = source.meta['arch'][key]
        assert report['arguments']['arch'][key] == (tuple(given) if isinstance(given, list) else given)


@pytest.mark.parametrize(('name', 'grid'), [('vit_deit3_official', [4, 4]), ('vit_sam_official', [6, 6])])
def test_the_position_grid_is_read_off_tables_without_a_row_for_the_class_token(
    name: str, grid: list[int], reference
) -> None:
    assert inspection.inspect_file(reference(name).checkpoint)['position_grid'] == grid


def test_a_check_goes_by_the_config_beside_the_file_as_a_load_does(reference, tmp_path: Path) -> None:
    source = reference('vit_hf_clip')
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(
        "model = dict(type='EncoderDecoder', backbone=dict(type='backbones.VisionTransformer', norm_eps=1e-5, "
        "act='quick_gelu', pre_norm=True, patch_bias=False, pretrain_img_size=64, "
        'arch=dict(embed_dim=24, depth=4, num_heads=2)))')
    with pytest.raises(ValueError, match=r'num_heads is \(3,\), wanted \(2,\)'):
        inspection.check_file(leaf, source.checkpoint)


def test_a_config_that_takes_the_file_gets_its_coverage(tiny: Path) -> None:
    text = inspection.check_file(CONFIG, tiny)
    assert 'ConvNeXt-tiny <- official V1: 178/186 parameters, 27.8 M; new: norm0, norm1, norm2, norm3' in text


def test_a_config_of_another_size_is_told_what_fits(tmp_path: Path) -> None:
    torch.save({'model': ConvNeXt('atto', output_norm=False).state_dict()}, tmp_path / 'atto.pth')
    with pytest.raises(ValueError, match="arch='atto' fits"):
        inspection.check_file(CONFIG, tmp_path / 'atto.pth')


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Run tools/weights.py from the checkout's root."""
    command = [sys.executable, str(ROOT / 'tools/weights.py'), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_tool_inspects_converts_and_refuses(tiny: Path, tmp_path: Path) -> None:
    done = run('convert', tiny, tmp_path / 'hf.safetensors', '--to', 'hf')
    assert done.returncode == 0, done.stderr
    assert 'official V1 -> Hugging Face, 178 tensors' in done.stdout
    assert json.loads(run('inspect', tmp_path / 'hf.safetensors', '--json').stdout)['arch'] == 'tiny'
    again = run('convert', tiny, tmp_path / 'hf.safetensors', '--to', 'timm')
    assert again.returncode == 2
    assert 'is there already and is not overwritten' in again.stderr


def test_the_list_names_every_short_name() -> None:
    lines = inspection.format_index().splitlines()
    assert len(lines) > 100
    assert any(line.startswith('convnext-b-in22k ') for line in lines)
    assert any('no commercial use' in line for line in lines)
