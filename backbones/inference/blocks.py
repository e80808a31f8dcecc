"""The blocks of our backbones as inference runs them: final weights, layer scales folded in, linear layers packed.

Shapes: N images, C channels, H W rows and columns, L tokens, P prefix tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import convnext, vit_parts
from backbones.inference.folding import folded
from backbones.inference.packed import PackedLinear
from backbones.layers import LayerScale, Mlp


def packed_layer(
    layer: nn.Linear, dtype: torch.dtype, pack: bool, *, gamma: Tensor | None = None, activation: str = 'none'
) -> PackedLinear:
    """Make the layer of a trained one, with a factor per output channel and an activation."""
    weight, bias = folded(layer, gamma)
    return PackedLinear(
        weight.to(dtype), None if bias is None else bias.to(dtype), activation=activation, pack=pack)


class ConvNeXtBlock(nn.Module):
    """A block of `ConvNeXt`: depthwise convolution, norm, and two linear layers with all else fused to them."""

    def __init__(self, block: convnext.Block, dtype: torch.dtype, pack: bool) -> None:
        super().__init__()
        self.dwconv, self.norm, self.grn = block.dwconv, block.norm, block.grn
        self.pwconv1 = packed_layer(block.pwconv1, dtype, pack, activation='gelu')
        self.pwconv2 = packed_layer(block.pwconv2, dtype, pack, gamma=block.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape, in channels_last."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (N, H, W, C), a view in channels_last
        y = self.pwconv1(y)  # (N, H, W, 4C)
        if self.grn is not None:
            y = self.grn(y)
        y = self.pwconv2(y, residual=x.permute(0, 2, 3, 1))  # (N, H, W, C)
        return y.permute(0, 3, 1, 2)  # (N, C, H, W)


class ViTBlock(nn.Module):
    """A block of `VisionTransformer`: norms, attention and MLP, their linear layers with all else fused to them."""

    def __init__(self, block: vit_parts.Block, dtype: torch.dtype, pack: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.residual = block.residual
        scale1, scale2 = (ls.gamma if isinstance(ls, LayerScale) else None for ls in (block.ls1, block.ls2))
        attn, mlp = self.attn, self.mlp
        bias = attn._qkv_bias()
        attn.qkv = PackedLinear(
            attn.qkv.weight.to(dtype), None if bias is None else bias.detach().to(dtype), pack=pack)
        if attn.separate_bias:
            del attn.q_bias, attn.v_bias
            attn.separate_bias = False
        attn.proj = packed_layer(attn.proj, dtype, pack, gamma=scale1)
        attn.tables = {}
        self.gated = not isinstance(mlp, Mlp)
        if self.gated:
            for name in ('w12',) if mlp.packed else ('w1', 'w2'):
                setattr(mlp, name, packed_layer(getattr(mlp, name), dtype, pack))
            mlp.w3 = packed_layer(mlp.w3, dtype, pack, gamma=scale2)
        else:
            activation = 'none'
            if isinstance(mlp.act, nn.GELU):
                activation = 'gelu_tanh' if mlp.act.approximate == 'tanh' else 'gelu'
                mlp.act = nn.Identity()
            mlp.fc1 = packed_layer(mlp.fc1, dtype, pack, activation=activation)
            mlp.fc2 = packed_layer(mlp.fc2, dtype, pack, gamma=scale2)

    def forward(self, x: Tensor, grid: tuple[int, int], rope: Tensor | None, bias_index: Tensor | None) -> Tensor:
        """Map tokens (N, P + L, D) to the same shape."""
        attn, mlp = self.attn, self.mlp
        y = attn.attend(attn.qkv(self.norm1(x)), attn.qkv.bias, grid, rope, bias_index)  # (N, P + L, D)
        x = attn.proj(y, residual=x)
        y = self.norm2(x)
        if self.gated:
            gate, value = mlp.w12(y).chunk(2, dim=-1) if mlp.packed else (mlp.w1(y), mlp.w2(y))
            x = mlp.w3(F.silu(gate) * value, residual=x)
        else:
            x = mlp.fc2(mlp.act(mlp.fc1(y)), residual=x)
        return x if self.residual is None else self.residual(x, grid)
