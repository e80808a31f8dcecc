"""The depthwise convolution equals PyTorch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.depthwise import TILE, depthwise_conv2d, weight_gradient

SHAPES = [(1, 3, 7, 16), (2, 5, 9, 33), (3, 4, 1, 1), (2, 2, 20, 3), (1, 6, 16, 2 * TILE)]


def draw(shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Input, weight, bias and the gradient of the output."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(shape[1], 1, 7, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return tuple(
        value.to(dtype).contiguous(memory_format=layout if value.ndim == 4 else torch.contiguous_format)
        for value in (x, weight, bias, gradient))


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('shape', SHAPES)
def test_output_and_all_gradients_are_those_of_conv2d(shape: tuple[int, ...], channels_last: bool) -> None:
    x, weight, bias, gradient = draw(shape, channels_last)
    found, expected = [], []
    for convolve, results in ((depthwise_conv2d, found), (_plain, expected)):
        leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
        out = convolve(*leaves)
        out.backward(gradient)
        results += [out.detach(), *(leaf.grad for leaf in leaves)]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_weight_gradient_in_bf16_is_as_close_to_the_exact_one_as_that_of_pytorch() -> None:
    x, weight, _, gradient = draw((2, 8, 24, 40), True, torch.bfloat16)
    weight.requires_grad_()
    _plain(x, weight, None).backward(gradient)
    wide = weight.detach().double().requires_grad_()
    _plain(x.double(), wide, None).backward(gradient.double())
    own = weight_gradient(x, gradient, 7)
    assert (own - wide.grad).norm() <= 1.2 * (weight.grad - wide.grad).norm()


def test_the_output_keeps_the_memory_format() -> None:
    x, weight, bias, _ = draw((1, 4, 8, 8), True)
    assert depthwise_conv2d(x, weight, bias).is_contiguous(memory_format=torch.channels_last)


def test_without_a_bias_and_with_a_frozen_input_only_the_weight_gets_a_gradient() -> None:
    x, weight, _, gradient = draw((1, 4, 8, 8), False)
    weight.requires_grad_()
    depthwise_conv2d(x, weight, None).backward(gradient)
    assert x.grad is None and weight.grad.abs().sum() > 0


def test_a_frozen_weight_passes_the_gradient_on() -> None:
    x, weight, bias, gradient = draw((1, 4, 8, 8), False)
    x.requires_grad_()
    depthwise_conv2d(x, weight, bias).backward(gradient)
    assert x.grad.abs().sum() > 0


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=3, groups=len(weight))
