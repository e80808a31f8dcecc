"""What a user of mmdet or mmseg runs without us: their heads, their backbones, mmpretrain's ConvNeXt.

Where mmpretrain cannot be imported, `ConvNeXtStandIn` computes in the same order with the same layouts: convolutions on
(N, C, H, W), norm and linear layers on a permuted view, every norm of a map contiguous again.
https://github.com/open-mmlab/mmpretrain/blob/v1.2.0/mmpretrain/models/backbones/convnext.py
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import Tensor, nn

from backbones.benchmark.mmpretrain_peer import backbones_module, convnext
from backbones.benchmark.skipping import ChannelsFirstNorm, Skipped, depth_rate, output_norms
from backbones.config import dicts_in
from backbones.convnext import ConvNeXt
from backbones.registry import SCOPE
from backbones.vit import VisionTransformer

# Parts of ours that compute what mmdet's or mmseg's of this name do, with the same arguments and parameters.
EQUAL_TO = {'StagedRoIHead': 'CascadeRoIHead'} | {name: name for name in (
    'SingleRoIExtractor', 'FCNMaskHead', 'RPNHead', 'StandardRoIHead', 'UPerHead', 'FCNHead', 'DetDataPreprocessor',
    'SegDataPreProcessor')}


def backbone(ours: nn.Module) -> nn.Module:
    """Stock backbone for ours: mmpretrain's for ConvNeXt; one that is not ours is stock already.

    Raises:
        Skipped: there is none.
    """
    if isinstance(ours, VisionTransformer):
        raise Skipped('mmdet has no plain ViT, and that of mmseg is not carried over; compare with hf, timm or '
                      'mmpretrain')
    if not isinstance(ours, ConvNeXt):
        return copy.deepcopy(ours)
    try:
        return convnext(ours, backbones_module())
    except ImportError:
        return ConvNeXtStandIn(ours)


def remark(ours: nn.Module) -> str:
    """What to say about the stock backbone, or ''."""
    if not isinstance(ours, ConvNeXt):
        return ''
    try:
        backbones_module()
    except ImportError as error:
        return f"mmpretrain cannot be imported ({error}), so a ConvNeXt that computes as mmpretrain's does stands in"
    return "the backbone is mmpretrain's"


def without_ours(model: ConfigDict) -> ConfigDict:
    """The config of a model with mmdet's and mmseg's own parts in place of our equal ones."""
    model = copy.deepcopy(model)
    for node in dicts_in({key: value for key, value in model.items() if key != 'backbone'}):
        scope, _, name = str(node.get('type', '')).rpartition('.')
        if scope == SCOPE and name in EQUAL_TO:
            node['type'] = EQUAL_TO[name]
    return model


def kept(model: dict[str, Any]) -> list[str]:
    """Our parts of a model, the backbone aside, that peers use as well: there is nothing stock that is equal."""
    types = [str(node.get('type', '')) for node in dicts_in(
        {key: value for key, value in without_ours(model).items() if key != 'backbone'})]
    return sorted({name for name in types if name.startswith(f'{SCOPE}.')})


class _DropPath(nn.Module):
    """Stochastic depth, one draw per sample."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x.div(keep) * (keep + torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)).floor()


class _GRN(nn.Module):
    """Global response normalisation of (N, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim)), nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * nx) + self.beta + x


class _Block(nn.Module):
    """As mmpretrain's ConvNeXtBlock with `linear_pw_conv=True`, its default."""

    def __init__(self, dim: int, rate: float, eps: float, scaled: bool, grn: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.grn = _GRN(4 * dim) if grn else None
        self.gamma = nn.Parameter(torch.ones(dim)) if scaled else None
        self.drop_path = _DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (N, H, W, C)
        x = F.gelu(self.pwconv1(x))
        if self.grn is not None:
            x = self.grn(x)
        x = self.pwconv2(x).permute(0, 3, 1, 2)  # (N, C, H, W)
        if self.gamma is not None:
            x = x.mul(self.gamma.view(1, -1, 1, 1))
        return shortcut + self.drop_path(x)


class ConvNeXtStandIn(nn.Module):
    """ConvNeXt with four stages and the parameter names and weights of ours."""

    def __init__(self, ours: ConvNeXt) -> None:
        super().__init__()
        if ours.isotropic:
            raise Skipped('ConvNeXt with four stages alone is carried over')
        state, eps = ours.state_dict(), ours.norm_eps
        dims, depths = ours.arch['dims'], ours.arch['depths']
        options = dict(eps=eps, scaled='stages.0.0.gamma' in state, grn='stages.0.0.grn.gamma' in state)
        rates = torch.linspace(0, depth_rate(ours), sum(depths[: len(ours.stages)])).tolist()
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        for i in range(len(ours.stages)):
            if i == 0:
                reduce = [nn.Conv2d(ours.in_channels, dims[0], 4, stride=4), ChannelsFirstNorm(dims[0], eps=eps)]
            else:
                reduce = [ChannelsFirstNorm(dims[i - 1], eps=eps), nn.Conv2d(dims[i - 1], dims[i], 2, stride=2)]
            self.downsample_layers.append(nn.Sequential(*reduce))
            self.stages.append(nn.Sequential(*(_Block(dims[i], rates.pop(0), **options) for _ in range(depths[i]))))
        self.load_state_dict({name: value for name, value in state.items() if not name.startswith('norm')})
        self.norms, self.outputs = output_norms(ours), ours.out_indices

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the stages in `out_indices`."""
        maps = []
        for i, (reduce, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(reduce(x))
            if i in self.outputs:
                maps.append(self.norms[len(maps)](x))
        return tuple(maps)
