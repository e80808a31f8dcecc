"""Hooks change how a run goes, never what it computes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch

from backbones.convnext import ConvNeXt
from backbones.training.hooks import ChannelsLastHook


def test_channels_last_keeps_the_features_and_their_memory_order() -> None:
    torch.manual_seed(0)
    plain = ConvNeXt(arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))).eval()
    changed = copy.deepcopy(plain)
    ChannelsLastHook().before_run(SimpleNamespace(model=changed))
    assert changed.downsample_layers[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 64, 96)
    for expected, given in zip(plain(image), changed(image), strict=True):
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
        assert given.is_contiguous(memory_format=torch.channels_last)
