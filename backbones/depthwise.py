"""Depthwise convolution by the fastest kernels at hand, one place for all of them.

Forward and input gradient are PyTorch's. The weight gradient on a CPU is not: oneDNN's kernels reach a few GFLOP/s
there, so that a third of a ConvNeXt training step was spent in 1 % of its arithmetic. `weight_gradient` is the same sum
as matrix products.

Shapes: N images, C channels, H W rows and columns, K side of the kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 16  # columns of a tile; of 8, 16, 32 the fastest for maps of 16 to 300 columns


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve every channel with its own kernel, stride 1, padded to the same size.

    Args:
        x: (N, C, H, W)
        weight: (C, 1, K, K), K odd.
        bias: (C,) or None.

    Returns:
        (N, C, H, W) in the memory format of `x`; the results are those of F.conv2d, gradients within rounding.
    """
    if x.device.type == 'cpu' and torch.is_grad_enabled() and weight.requires_grad:
        return _DepthwiseOnCpu.apply(x, weight, bias)
    return _convolve(x, weight, bias)


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one kernel per channel, stride 1 and the size kept, by `depthwise_conv2d`.

    Args:
        dim: C.
        kernel_size: K, odd.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return depthwise_conv2d(x, self.weight, self.bias)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


class _DepthwiseOnCpu(torch.autograd.Function):
    """The convolution with `weight_gradient`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        channels, padding = weight.shape[0], weight.shape[-1] // 2
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], channels,
                [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient, weight.shape[-1]).to(weight.dtype)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def weight_gradient(x: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Sum over all pixels p of x[p + offset] * gradient[p], for each channel and each offset of the kernel.

    One row of a tile of T columns and the T + K - 1 columns of `x` that it meets have an outer product, whose diagonals
    are the K horizontal offsets. The products of all rows and tiles are summed by one matrix product for each channel
    and vertical offset; it does T + K - 1 times the arithmetic of the K wanted diagonals over T columns, by kernels
    that are more than that much faster.

    Args:
        x: (N, C, H, W), input of the convolution.
        gradient: (N, C, H, W), of its output.
        size: K.

    Returns:
        (C, 1, K, K), in fp32 for lower precisions.
    """
    n, c, h, w = x.shape
    kept = torch.promote_types(x.dtype, torch.float32)
    tiles = -(-w // TILE)
    wide, reach = tiles * TILE, TILE + size - 1
    padded = x.new_zeros(c, h + size - 1, n, wide + size - 1)
    border = size // 2
    padded[:, border : border + h, :, border : border + w] = x.permute(1, 2, 0, 3)
    strides = padded.stride()
    # (C, rows, N, tiles, T + K - 1): rows before images, so that a vertical offset is a slice
    windows = padded.as_strided(
        (c, h + size - 1, n, tiles, reach), (*strides[:3], TILE * strides[3], strides[3]))
    windows = windows.reshape(c, -1, reach)
    cut = gradient.new_zeros(c, h, n, wide) if wide != w else gradient.new_empty(c, h, n, wide)
    cut[..., :w] = gradient.permute(1, 2, 0, 3)
    cut = cut.view(c, -1, TILE)  # (C, rows * N * tiles, T)
    rows = []
    for offset in range(size):
        start = offset * n * tiles
        product = windows[:, start : start + cut.shape[1]].transpose(1, 2) @ cut  # (C, T + K - 1, T)
        strides = product.stride()
        diagonals = product.as_strided((c, size, TILE), (strides[0], strides[1], strides[1] + strides[2]))
        rows.append(diagonals.sum(-1, dtype=kept))  # (C, K)
    return torch.stack(rows, dim=1).unsqueeze(1)
