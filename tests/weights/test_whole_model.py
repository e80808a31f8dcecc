"""A whole detector or segmenter is filled from its own checkpoint, and from one with other classes only on request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

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
