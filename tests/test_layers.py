"""The shared layers against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.layers import (
    GRN,
    DropPath,
    LayerNorm2d,
    LayerScale,
    Mlp,
    SwiGLU,
    checked_out_indices,
    drop_path_rates,
)

FORMATS = [torch.contiguous_format, torch.channels_last]


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that none is a silent 0 or 1."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize('memory_format', FORMATS)
def test_layer_norm_2d_normalises_the_channels_of_each_position(memory_format):
    norm = randomise(LayerNorm2d(6, eps=0.1))
    x = torch.randn(2, 6, 5, 7).contiguous(memory_format=memory_format)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    weight, bias = norm.weight.view(1, 6, 1, 1), norm.bias.view(1, 6, 1, 1)
    expected = (x - mean) / (variance + 0.1).sqrt() * weight + bias
    torch.testing.assert_close(norm(x), expected, check_stride=False)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_layer_norm_2d_keeps_the_memory_format_of_its_input(memory_format):
    x = torch.randn(2, 6, 5, 7).contiguous(memory_format=memory_format)
    assert LayerNorm2d(6)(x).is_contiguous(memory_format=memory_format)


def test_layer_norm_2d_on_channels_last_calls_nothing_that_copies():
    x = torch.randn(2, 6, 5, 7).contiguous(memory_format=torch.channels_last)
    with torch.profiler.profile() as profile:
        LayerNorm2d(6)(x)
    assert {event.key for event in profile.key_averages()}.isdisjoint({'aten::copy_', 'aten::clone'})


def test_layer_norm_2d_is_a_layer_norm_to_rules_that_ask_for_norms():
    assert isinstance(LayerNorm2d(4), nn.LayerNorm)


def test_layer_norm_2d_works_in_a_norm_cfg():
    build_norm_layer = pytest.importorskip('mmcv.cnn', reason='mmcv is not installed').build_norm_layer
    _, norm = build_norm_layer(dict(type='backbones.LN2d', eps=1e-6, requires_grad=False), 4)
    assert (type(norm), norm.eps, norm.weight.requires_grad) == (LayerNorm2d, 1e-6, False)


def test_grn_follows_its_definition():
    grn = randomise(GRN(6))
    x = torch.randn(2, 5, 7, 6)
    norm = x.square().sum((1, 2), keepdim=True).sqrt()
    expected = grn.gamma * (x * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + grn.beta + x
    torch.testing.assert_close(grn(x), expected)


def test_grn_starts_as_the_identity():
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(GRN(6)(x), x)


def test_grn_has_a_finite_gradient_on_an_empty_map():
    grn, x = randomise(GRN(6)), torch.zeros(1, 3, 3, 6, requires_grad=True)
    grn(x).sum().backward()
    assert x.grad.isfinite().all()


def test_grn_keeps_the_dtype_and_does_not_overflow_in_half_precision():
    grn, x = randomise(GRN(4)), torch.full((1, 128, 128, 4), 600.0, dtype=torch.float16)
    output = grn.half()(x)  # the norm is 76800, above the largest float16
    assert output.dtype == torch.float16
    expected = 600 * (1 + grn.gamma.float()) + grn.beta.float()
    torch.testing.assert_close(output[0, :1, :1].float(), expected[0], rtol=5e-3, atol=1.0)


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_0():
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_drop_path_drops_whole_samples_and_scales_the_others():
    torch.manual_seed(0)
    output = DropPath(0.25)(torch.ones(64, 3, 2))
    assert output.flatten(1).std(dim=1).max() == 0
    assert set(output[:, 0, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}


def test_drop_path_keeps_the_expected_value():
    torch.manual_seed(0)
    assert abs(DropPath(0.3)(torch.ones(20000, 1)).mean() - 1) < 0.02


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5, '0.1', True, float('nan')])
def test_a_drop_path_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ValueError, match=r'drop_path_rate=.* is not a rate; give a number from 0'):
        DropPath(rate)


def test_drop_path_rates_rise_linearly_as_in_the_official_code():
    expected = torch.linspace(0, 0.7, 18).tolist()
    assert drop_path_rates(0.7, 18) == pytest.approx(expected, abs=1e-7)
    assert drop_path_rates(0.7, 1) == [0.0]


@pytest.mark.parametrize('out_indices', [(), (-1,), (4,), (1, 0), (1, 1), (0, True), 3, '012', (0.0,), None])
def test_impossible_out_indices_are_refused_with_the_range(out_indices):
    with pytest.raises(ValueError, match=r'out_indices=.* from 0 to 3 in ascending order'):
        checked_out_indices(out_indices, 4)


def test_out_indices_may_be_a_list():
    assert checked_out_indices([0, 3], 4) == (0, 3)


def test_layer_scale_multiplies_the_last_axis():
    scale = LayerScale(3, init_value=0.5)
    torch.testing.assert_close(scale(torch.ones(2, 4, 3)), torch.full((2, 4, 3), 0.5))


def test_mlp_is_linear_gelu_linear():
    mlp, x = randomise(Mlp(4, 8)), torch.randn(2, 3, 4)
    hidden = nn.functional.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias)
    torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


def test_packed_and_separate_swiglu_are_the_same_function():
    packed, separate = randomise(SwiGLU(4, 6, packed=True)), randomise(SwiGLU(4, 6))
    with torch.no_grad():
        separate.w1.weight.copy_(packed.w12.weight[:6])  # the gate comes first
        separate.w1.bias.copy_(packed.w12.bias[:6])
        separate.w2.weight.copy_(packed.w12.weight[6:])
        separate.w2.bias.copy_(packed.w12.bias[6:])
        separate.w3.load_state_dict(packed.w3.state_dict())
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(packed(x), separate(x))
    gate, value = separate.w1(x), separate.w2(x)
    torch.testing.assert_close(separate(x), separate.w3(gate * gate.sigmoid() * value))
