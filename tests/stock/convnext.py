"""ConvNeXt in plain torch, written from the formulas of https://arxiv.org/abs/2201.03545 with the official names.

A second implementation to compare with: nothing here comes from the package.
"""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (N, C, H, W): the mean and the variance over C are taken out."""

    _abbr_ = 'ln'  # name of a norm in mmcv's ConvModule

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = ((x - mean) ** 2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Block(nn.Module):
    """x + gamma * W2 gelu(W1 norm(depthwise 7x7 x)), the pointwise layers on (N, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


@MODELS.register_module(force=True)
class StockConvNeXt(nn.Module):
    """Four stages with a norm on each output; mmdet's constructor knows it by the name of its class."""

    def __init__(self, depths: tuple[int, ...], dims: tuple[int, ...]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), ChannelNorm(dims[0]))
        steps = [
            nn.Sequential(ChannelNorm(dims[i]), nn.Conv2d(dims[i], dims[i + 1], 2, stride=2)) for i in range(3)]
        self.downsample_layers = nn.ModuleList([stem, *steps])
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(dim) for _ in range(depth)]) for depth, dim in zip(depths, dims, strict=True))
        for i, dim in enumerate(dims):
            self.add_module(f'norm{i}', ChannelNorm(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for i in range(4):
            x = self.stages[i](self.downsample_layers[i](x))
            outputs.append(getattr(self, f'norm{i}')(x))
        return tuple(outputs)
