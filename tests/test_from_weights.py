"""`load_backbone` reads an architecture off a file, and what it cannot read it asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import backbones
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer


def saved(path: Path, model: torch.nn.Module) -> Path:
    """Save a model as the publishers do and return the path."""
    torch.save({'model': model.state_dict()}, path)
    return path


@pytest.mark.parametrize('size', ['atto', 'tiny'])
def test_a_published_convnext_is_built_by_its_name(size: str, tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', ConvNeXt(size, output_norm=False))
    assert backbones.load_backbone(path).arch == ConvNeXt(size).arch


def test_the_heads_of_a_published_vit_are_those_of_the_paper(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', VisionTransformer('tiny', out_norm='last'))
    assert backbones.load_backbone(path).num_heads == 3


def test_heads_that_cannot_be_known_are_asked_for(reference) -> None:
    with pytest.raises(ValueError, match=r'width 24 is no multiple of 64 channels a head; give .*num_heads='):
        backbones.load_backbone(reference('vit_timm').checkpoint)


def test_a_config_of_another_model_beside_the_file_is_ignored(reference, tmp_path: Path) -> None:
    source = reference('vit_hf_vit')
    shutil.copy(source.checkpoint, tmp_path / 'model.safetensors')
    config = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=1)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='num_heads'):
        backbones.load_backbone(tmp_path / 'model.safetensors')


def test_the_first_blocks_alone_are_built_on_request(reference) -> None:
    source = reference('vit_timm')
    model = backbones.load_backbone(source.checkpoint, num_heads=3, out_indices=(0, 1))
    assert len(model.blocks) == 2
    with torch.no_grad():
        source.assert_close(model(source.tensors['input'])[1], 'out1')


def test_an_argument_that_the_backbone_lacks_is_refused(reference) -> None:
    with pytest.raises(ValueError, match="got 'depth_rate', which is no argument of ConvNeXt; allowed are"):
        backbones.load_backbone(reference('convnext_official').checkpoint, depth_rate=0.1)


def test_a_runner_leaves_the_loaded_weights_alone(reference) -> None:
    model = backbones.load_backbone(reference('convnext_official').checkpoint)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_the_package_offers_it_without_importing_anything_first(run_python) -> None:
    done = run_python(
        "import sys, backbones\n"
        "assert 'torch' not in sys.modules\n"
        "print(backbones.load_backbone.__name__)\n"
        'try:\n    backbones.load\nexcept AttributeError as error:\n    print(error)\n')
    assert done.stdout.splitlines() == ['load_backbone', "module 'backbones' has no attribute 'load'"], done.stderr
