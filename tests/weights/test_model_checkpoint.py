"""A checkpoint of a whole detector or segmenter is held against the model before it is loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.weights.whole_model import check_model_checkpoint


class Head(nn.Module):
    """Last layers with the names of mmdet and mmseg."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(4, classes + 1)
        self.fc_reg = nn.Linear(4, 4 * classes)
        self.conv_logits = nn.Conv2d(4, classes, 1)
        self.conv_seg = nn.Conv2d(4, classes, 1)
        self.bn = nn.BatchNorm2d(4)


def test_a_checkpoint_of_the_same_model_passes() -> None:
    state = {f'module.{name}': value for name, value in Head(3).state_dict().items()}
    check_model_checkpoint(Head(3), state, 'w.pth')


def test_another_number_of_classes_is_named() -> None:
    with pytest.raises(
        ValueError, match=r'w\.pth does not fit Head: .* 80 classes, the config has 3; set num_classes=80'
    ):
        check_model_checkpoint(Head(3), Head(80).state_dict(), 'w.pth')


def test_another_model_is_named() -> None:
    state = Head(3).state_dict()
    del state['fc_cls.bias'], state['bn.running_mean']
    state['extra.weight'] = torch.zeros(1)
    message = (
        r'another model; 2 of 13 .*fc_cls\.bias, bn\.running_mean; 1 are not in the model: extra\.weight'
    )
    with pytest.raises(ValueError, match=message):
        check_model_checkpoint(Head(3), state, 'w.pth')


def test_another_shape_is_named() -> None:
    state = Head(3).state_dict()
    state['bn.weight'] = torch.zeros(8)
    with pytest.raises(ValueError, match=r'1 have another shape: bn\.weight is \(8,\), wanted \(4,\)'):
        check_model_checkpoint(Head(3), state, 'w.pth')
