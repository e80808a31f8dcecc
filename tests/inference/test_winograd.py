"""Winograd's products against the direct convolution in fp64; which layers they replace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backbones.inference.winograd as winograd
from backbones.convnext import ConvNeXt
from backbones.inference import prepare_for_inference
from backbones.inference.packed import can_pack
from backbones.inference.winograd import WinogradConv2d, winograd_pays

CPU = torch.device('cpu')
needs_bf16 = pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason='this CPU packs no bf16 layers')


def conv(**changes) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(**(dict(in_channels=6, out_channels=5, kernel_size=3, padding=1) | changes))


def direct(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    return F.conv2d(x.double(), layer.weight.double(), bias, padding=1)


@torch.no_grad()
@pytest.mark.parametrize('size', [(8, 8), (7, 9), (1, 1), (2, 1), (13, 4)])
@pytest.mark.parametrize('bias', [True, False])
def test_the_products_are_the_convolution_for_any_size(size, bias):
    layer, x = conv(bias=bias), torch.randn(2, 6, *size)
    outputs = WinogradConv2d(layer, torch.float32)(x)
    assert outputs.shape == (2, 5, *size)
    torch.testing.assert_close(outputs.double(), direct(layer, x), atol=2e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('tiles', [1, 3, 1000])
def test_the_number_of_tiles_at_a_time_changes_nothing(tiles, monkeypatch):
    layer, x = conv(), torch.randn(2, 6, 11, 10)
    monkeypatch.setattr(winograd, 'TILES', tiles)
    torch.testing.assert_close(WinogradConv2d(layer, torch.float32)(x).double(), direct(layer, x), atol=2e-6, rtol=1e-5)


@needs_bf16
@torch.no_grad()
def test_in_bf16_the_error_stays_below_three_times_that_of_the_direct_convolution():
    layer = conv(in_channels=64, out_channels=32)
    x = torch.randn(2, 64, 12, 12).relu()
    expected = direct(layer, x)
    errors = [
        float((outputs.double() - expected).norm() / expected.norm())
        for outputs in (WinogradConv2d(layer, torch.bfloat16)(x), copy.deepcopy(layer).bfloat16()(x.bfloat16()))]
    assert errors[0] < 3 * errors[1] < 0.02


@torch.no_grad()
@pytest.mark.parametrize('x', [torch.randn(0, 6, 4, 4), torch.randn(1, 6, 4, 6).to(memory_format=torch.channels_last)])
def test_nothing_and_channels_last_maps_come_out_as_they_should(x):
    outputs = WinogradConv2d(conv(), torch.float32)(x)
    assert outputs.shape == (len(x), 5, *x.shape[2:])
    assert outputs.is_contiguous(memory_format=torch.channels_last)


@needs_bf16
@pytest.mark.parametrize('changes', [
    dict(kernel_size=5, padding=2), dict(stride=2), dict(padding=0), dict(dilation=2, padding=2), dict(groups=2),
    dict(padding_mode='reflect'), dict(in_channels=256)])
def test_it_pays_for_wide_plain_layers_in_low_precision_only(changes):
    wide = dict(in_channels=512, out_channels=512)
    assert winograd_pays(conv(**wide), torch.bfloat16)
    assert not winograd_pays(conv(**wide), torch.float32)
    assert not winograd_pays(conv(**(wide | changes)), torch.bfloat16)


@needs_bf16
@torch.no_grad()
def test_a_prepared_model_runs_its_wide_convolutions_so_and_its_copy_too(monkeypatch):
    monkeypatch.setattr(winograd, 'MIN_CHANNELS', 8)
    torch.manual_seed(0)
    backbone = ConvNeXt(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), out_indices=(0,))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = backbone, nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x)[0])

    model, x = Model().eval(), torch.randn(1, 3, 64, 64)
    expected = model(x)
    prepared = copy.deepcopy(prepare_for_inference(model, 'bf16'))
    assert isinstance(prepared.head[0], WinogradConv2d)
    assert (prepared(x).float() - expected).norm() < 0.03 * expected.norm()
