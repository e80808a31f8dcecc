"""A whole detector or segmenter is filled from its own checkpoint, and from one with other classes only on request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.weights import whole_model
from backbones.weights.convnext_family import CONVNEXT
from backbones.weights.export import export
from backbones.weights.whole_model import load_model_checkpoint


class Head(nn.Module):
    """The last layers of a box head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(4, classes + 1)
        self.shared = nn.Linear(4, 4)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of three classes, as MMEngine writes it."""
    path = tmp_path / 'epoch_1.pth'
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')))
    torch.save(dict(meta=meta, state_dict=Head(3).state_dict()), path)
    return path


def test_the_weights_are_filled_and_the_class_names_returned(checkpoint: Path) -> None:
    model = Head(3)
    assert load_model_checkpoint(model, checkpoint)['dataset_meta']['classes'] == ('a', 'b', 'c')
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_other_classes_are_refused_and_nothing_is_changed(checkpoint: Path) -> None:
    model = Head(5)
    before = model.shared.weight.clone()
    with pytest.raises(ValueError, match='trained on 3 classes, the config has 5'):
        load_model_checkpoint(model, checkpoint)
    assert torch.equal(model.shared.weight, before)


def test_on_request_only_the_class_layers_start_anew(checkpoint: Path) -> None:
    model = Head(5)
    before = model.fc_cls.weight.clone()
    load_model_checkpoint(model, checkpoint, new_classes=True)
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    assert torch.equal(model.fc_cls.weight, before)
    assert torch.equal(model.shared.weight, saved['shared.weight'])


class Detector(nn.Module):
    """A backbone of ours below a head."""

    def __init__(self) -> None:
        super().__init__()
        arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
        self.backbone = ConvNeXt(arch, layer_scale_init_value=0.5)
        self.head = Head(3)


def test_the_backbone_of_a_whole_model_may_be_in_another_layout(tmp_path: Path) -> None:
    source, model = Detector(), Detector()
    norms = {name: value for name, value in source.backbone.state_dict().items() if name.startswith('norm')}
    inner = {name: value for name, value in source.backbone.state_dict().items() if name not in norms}
    foreign = export(inner, CONVNEXT, 'mmpretrain').tensors  # begins with 'backbone.'
    state = {**foreign, **{f'backbone.{name}': value for name, value in norms.items()}}
    state |= {f'head.{name}': value for name, value in source.head.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'w.pth')
    load_model_checkpoint(model, tmp_path / 'w.pth')
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_number_of_filled_tensors_is_said(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(whole_model, 'print_log', lambda text, *rest: said.append(text))
    load_model_checkpoint(Head(5), checkpoint, new_classes=True)
    assert said[-1] == f'Head <- {checkpoint}: 2/4 tensors'
