"""ViTDet in plain torch, written from the formulas of https://arxiv.org/abs/2203.16527 with detectron2's names.

A second implementation to compare with: nothing here comes from the package. Attention is an explicit softmax, windows
are cut from a zero-padded map, relative positions are looked up for every pair of rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from .convnext import ChannelNorm

MODELS.register_module(name='StockLayerNorm', module=ChannelNorm, force=True)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d) + q . Rh[i - i'] + q . Rw[j - j']) v for the tokens (i, j) of a square map."""

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, dim = x.shape
        assert h == w == self.side, 'the tables are made for this size; no resizing here'
        q, k, v = self.qkv(x).reshape(n, h, w, 3, self.heads, dim // self.heads).unbind(3)
        logits = torch.einsum('nijkd,nyxkd->nkijyx', q, k) / (dim // self.heads) ** 0.5
        steps = torch.arange(self.side)
        distance = steps[:, None] - steps[None, :] + self.side - 1  # query minus key, from 0
        rows = torch.einsum('nijkd,iyd->nkijy', q, self.rel_pos_h[distance])
        columns = torch.einsum('nijkd,jxd->nkijx', q, self.rel_pos_w[distance])
        logits = logits + rows[..., :, None] + columns[..., None, :]
        weights = logits.flatten(4).softmax(dim=-1).unflatten(4, (h, w))
        return self.proj(torch.einsum('nkijyx,nyxkd->nijkd', weights, v).flatten(3))


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x), on (N, H, W, D); window = 0 attends globally."""

    def __init__(self, dim: int, heads: int, window: int, grid: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, window or grid)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(dim, 4 * dim), fc2=nn.Linear(4 * dim, dim)))
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + (self.in_windows(y) if self.window else self.attn(y))
        return x + self.mlp['fc2'](F.gelu(self.mlp['fc1'](self.norm2(x))))

    def in_windows(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
        out = torch.empty_like(x)
        for top in range(0, x.shape[1], side):
            for left in range(0, x.shape[2], side):
                place = (slice(None), slice(top, top + side), slice(left, left + side))
                out[place] = self.attn(x[place])
        return out[:, :h, :w]


@MODELS.register_module(force=True)
class StockViT(nn.Module):
    """Plain ViT without class token; the last block's map is its output."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, global_blocks: tuple[int, ...], image: int,
                 pretrained_image: int) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(dict(proj=nn.Conv2d(3, dim, 16, stride=16)))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (pretrained_image // 16) ** 2, dim))  # row 0: class token
        self.blocks = nn.ModuleList(
            Block(dim, heads, 0 if i in global_blocks else window, image // 16) for i in range(depth))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.patch_embed['proj'](x)
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        table = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        x = x + F.interpolate(table, size=x.shape[2:], mode='bicubic', align_corners=False)
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return (x.permute(0, 3, 1, 2),)


class ConvNorm(nn.Conv2d):
    """Convolution without bias, then the norm that it holds."""

    def __init__(self, dim: int, out: int, size: int) -> None:
        super().__init__(dim, out, size, padding=size // 2, bias=False)
        self.norm = ChannelNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


@MODELS.register_module(force=True)
class StockPyramid(nn.Module):
    """Maps of strides 4, 8, 16, 32 from the map of stride 16, and a subsampled fifth."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        half, quarter = dim // 2, dim // 4
        up = [nn.ConvTranspose2d(dim, half, 2, stride=2)]
        up_twice = [
            nn.ConvTranspose2d(dim, half, 2, stride=2), ChannelNorm(half), nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2)]
        levels = [(up_twice, quarter), (up, half), ([], dim), ([nn.MaxPool2d(2)], dim)]
        for i, (layers, width) in enumerate(levels):
            self.add_module(f'simfp_{i + 2}', nn.Sequential(*layers, ConvNorm(width, out, 1), ConvNorm(out, out, 3)))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        levels = [getattr(self, f'simfp_{i}')(maps[-1]) for i in (2, 3, 4, 5)]
        return (*levels, levels[-1][:, :, ::2, ::2])
