"""What a ConvNeXt is made of: its block, and how its layers start.

Shapes: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.depthwise import DepthwiseConv2d
from backbones.layers import GRN, DropPath


class Block(nn.Module):
    """Depthwise 7x7, norm, linear to 4C, GELU, (GRN,) linear to C, (layer scale,) residual.

    Args:
        dim: C.
        drop_path_rate: stochastic depth rate of this block, from 0 to below 1.
        layer_scale_init_value: start of the layer scale `gamma`; 0 leaves it out.
        use_grn: put global response normalisation between the two linear layers (V2).
        norm_eps: eps of the LayerNorm.
    """

    def __init__(
        self, dim: int, drop_path_rate: float, layer_scale_init_value: float, use_grn: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(dim, kernel_size=7)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.grn = GRN(4 * dim) if use_grn else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        has_gamma = layer_scale_init_value > 0
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale_init_value)) if has_gamma else None
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape and memory format."""
        y = self.dwconv(x).permute(0, 2, 3, 1)  # (N, H, W, C), a view; in channels_last it is contiguous
        y = self.act(self.pwconv1(self.norm(y)))  # (N, H, W, 4C)
        if self.grn is not None:
            y = self.grn(y)
        y = self.pwconv2(y).permute(0, 3, 1, 2)  # (N, C, H, W), a view that lies in memory as channels_last
        # Layer scale and drop path are one small factor, and factor and residual one pass over the map.
        scale = self.drop_path.sample_scale(x)  # (N, 1, 1, 1) or None
        if self.gamma is not None:
            gamma = self.gamma.view(1, -1, 1, 1)
            scale = gamma if scale is None else gamma * scale  # (1 or N, C, 1, 1)
        return x + y if scale is None else torch.addcmul(x, y, scale)


def init_layer(module: nn.Module) -> None:
    """Set weights as the official code does: truncated normal of std 0.02, zero bias."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
