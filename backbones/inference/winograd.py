"""Wide 3x3 convolutions in low precision on a CPU as sixteen matrix products, 4 instead of 9 per output pixel.

Winograd's F(2x2, 3x3) (Lavin and Gray, https://arxiv.org/abs/1509.09308, section 4.1): tiles of 4 x 4 input pixels, 2
pixels apart, and the kernel are transformed so that sixteen element-wise products, summed over the channels by matrix
products, give the 2 x 2 output pixels. oneDNN has no such kernel in bf16. With B, G, A of the paper the transforms are
sums and differences of few terms, so that the result differs from the direct convolution by its roundings only:
in bf16 their error is about twice that of the direct one (tests/inference/test_winograd.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.inference.packed import PackedLinear, can_pack

# The transform of the kernel, paper's G.
KERNEL_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
# Transforms cost memory traffic in proportion to the channels, products their product: below this the gain is small.
MIN_CHANNELS = 512
# Tiles that are transformed at a time: their matrices stay in the cache between transform and product.
TILES = 1024


def winograd_pays(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Tell whether this layer may and should run as `WinogradConv2d` in a dtype, on the device it lies on."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return (
        shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, 'zeros')
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        and dtype != torch.float32
        and can_pack(dtype, conv.weight.device))


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1 with final weights, by Winograd's products.

    Args:
        conv: one of which `winograd_pays`.
        dtype: what to compute in.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        transform = torch.tensor(KERNEL_TRANSFORM, dtype=torch.float64, device=conv.weight.device)
        kernels = torch.einsum('ak,oikl,bl->aboi', transform, conv.weight.detach().double(), transform).flatten(0, 1)
        # The product (1, 1) is in each of the four output pixels with the factor 1, and so is its bias.
        bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.products = nn.ModuleList(
            PackedLinear(kernel.to(dtype), bias if place == 5 else None) for place, kernel in enumerate(kernels))
        self.out_channels = conv.out_channels
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), in channels_last."""
        n, _, height, width = x.shape
        rows, columns = -(-height // 2), -(-width // 2)
        x = x.to(self.dtype).permute(0, 2, 3, 1).contiguous()
        x = F.pad(x, (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
        out = x.new_empty(n, rows, 2, columns, 2, self.out_channels)
        step = max(1, TILES // max(1, n * columns))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            self._tiles(x[:, 2 * start:2 * stop + 2], out[:, start:stop])
        return out.view(n, 2 * rows, 2 * columns, self.out_channels)[:, :height, :width].permute(0, 3, 1, 2)

    def _tiles(self, x: Tensor, out: Tensor) -> None:
        """Fill rows of tiles, (N, R, 2, T, 2, C_out), from their input pixels, (N, 2 R + 2, 2 T + 2, C_in)."""
        products = iter(self.products)
        summed = []
        for band in _differences(x, 1):
            m = [next(products)(tile) for tile in _differences(band, 2)]
            summed.append(_sums(m))
        for right in range(2):
            for below, pixels in enumerate(_sums([row[right] for row in summed])):
                out[:, :, below, :, right] = pixels


def _differences(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply the paper's B^T along a dimension: of every four entries, two apart, the four transformed ones."""
    size = x.shape[dim]
    first, second = _every_other(x, dim, 0, size - 2), _every_other(x, dim, 1, size - 2)
    third, fourth = _every_other(x, dim, 2, size), _every_other(x, dim, 3, size)
    return first - third, second + third, third - second, second - fourth


def _every_other(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    return x[(slice(None),) * dim + (slice(start, stop, 2),)]


def _sums(m: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Apply the paper's A^T: of four products the two outputs."""
    middle, difference = m[1] + m[2], m[1] - m[2]
    return middle.add_(m[0]), difference.sub_(m[3])
