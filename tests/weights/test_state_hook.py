"""A whole model that somebody else loads fills a backbone of ours from any layout, or raises."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn
from weights.toy_files import CONVNEXT as TOY

from backbones.convnext import ConvNeXt
from backbones.weights.convnext_family import CONVNEXT
from backbones.weights.export import export


class Detector(nn.Module):
    """A backbone of ours below a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ConvNeXt(TOY, output_norm=False, layer_scale_init_value=0.5)
        self.head = nn.Linear(4, 4)


@pytest.fixture(params=['timm', 'mmpretrain'])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A detector with its backbone in the names of timm, or of mmpretrain, which shares some of ours."""
    model = Detector()
    inner = export(model.backbone.state_dict(), CONVNEXT, request.param).tensors
    state = {f'backbone.{name.removeprefix("backbone.")}': value for name, value in inner.items()}
    state |= {f'head.{name}': value for name, value in model.head.state_dict().items()}
    torch.save(dict(state_dict=state, native=model.state_dict()), tmp_path / 'w.pth')
    return tmp_path / 'w.pth'


def test_mmengine_fills_the_backbone_from_another_layout(file: Path) -> None:
    model = Detector()
    load_checkpoint(model, str(file))
    native = torch.load(file, weights_only=True)['native']
    assert all(value.equal(native[name]) for name, value in model.state_dict().items())


def test_torch_fills_a_copy_of_the_backbone_from_another_layout(file: Path) -> None:
    model = copy.deepcopy(Detector())
    content = torch.load(file, weights_only=True)
    model.load_state_dict(content['state_dict'])
    assert all(value.equal(content['native'][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('file', ['timm'], indirect=True)
def test_a_layout_that_does_not_fit_is_an_error_and_not_a_warning(file: Path) -> None:
    model = Detector()
    model.backbone = ConvNeXt(dict(depths=(1, 1, 3, 1), dims=TOY['dims']), output_norm=False)
    with pytest.raises(ValueError, match=r'arch=dict\(depths=\(1, 1, 2, 1\)'):
        load_checkpoint(model, str(file))


def test_own_names_and_unknown_names_are_left_alone() -> None:
    model, other = Detector(), Detector()
    model.load_state_dict(other.state_dict())
    assert model.backbone.stages[0][0].gamma.equal(other.backbone.stages[0][0].gamma)
    assert model.load_state_dict({'backbone.some.weight': torch.ones(1)}, strict=False).unexpected_keys
