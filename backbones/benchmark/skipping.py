"""Why a peer is left out, and the adapters that two peers share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer
from backbones.weights.export import export


class Skipped(Exception):
    """A peer cannot take part; the message says why, as the end of `peer: `."""


def exported(ours: ConvNeXt | VisionTransformer, target: str, kind: str = '') -> dict[str, Tensor]:
    """The weights of our backbone in another layout, without the norms of its outputs and the layout's prefix."""
    new = tuple(f'norm{i}.' for i in range(max(ours.out_indices) + 1))
    native = {name: value for name, value in ours.state_dict().items() if not name.startswith(new)}
    tensors = export(native, ours.weight_family, target, kind).tensors
    return {name: value.clone() for name, value in tensors.items()}  # transformers keeps what it is given, uncopied


def vit_kind(ours: VisionTransformer) -> str:
    """Whose weights a plain ViT of these options would hold, as `backbones.weights` names them.

    Raises:
        Skipped: no published weights are of this kind.
    """
    if ours.window_size or ours.rel_pos == 'decomposed' or ours.residual_block_indexes:
        return 'vitdet'
    if not ours.with_cls_token:
        raise Skipped('it has no ViT without a class token')
    if ours.position == 'rope':
        return 'dinov3'
    if ours.rel_pos == 'bias_table':
        return 'beit'
    if not isinstance(ours.norm_pre, nn.Identity):
        return 'clip'
    return 'dinov2' if 'blocks.0.ls1.gamma' in ours.state_dict() or ours.num_prefix > 1 else ''


def depth_rate(ours: nn.Module) -> float:
    """The stochastic depth rate of the last block of the whole architecture."""
    blocks = [block for stage in ours.stages for block in stage] if hasattr(ours, 'stages') else list(ours.blocks)
    return float(getattr(getattr(blocks[-1], 'drop_path', None), 'rate', 0.0))


class ChannelsFirstNorm(nn.LayerNorm):
    """LayerNorm over C of (N, C, H, W), which comes out contiguous, as mmpretrain, timm and transformers do it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def output_norms(ours: ConvNeXt) -> nn.ModuleList:
    """The norms of our outputs for code that has none, with our weights."""
    norms = []
    for index, dim in zip(ours.out_indices, ours.out_channels, strict=True):
        if not ours.output_norm:
            norms.append(nn.Identity())
            continue
        norm = ChannelsFirstNorm(dim, eps=ours.norm_eps)
        norm.load_state_dict(getattr(ours, f'norm{index}').state_dict())
        norms.append(norm)
    return nn.ModuleList(norms)


class TokenNorms(nn.Module):
    """The norms of a ViT's outputs, as `out_norm` says, on tokens (N, L, D); then maps (N, D, h, w)."""

    def __init__(self, ours: VisionTransformer) -> None:
        super().__init__()
        last = len(ours.out_indices) - 1
        kinds = dict(none=lambda i: None, all=lambda i: 'norm', last=lambda i: 'norm' if i == last else None,
                     each=lambda i: f'norm{i}')
        names = [kinds[ours.out_norm](i) for i in range(last + 1)]
        self.names = names
        for name in dict.fromkeys(name for name in names if name):
            norm = nn.LayerNorm(ours.embed_dim, eps=ours.norm_eps)
            norm.load_state_dict(getattr(ours, name).state_dict())
            self.add_module(name, norm)

    def forward(self, outputs: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """Maps of the patch tokens of every output."""
        maps = []
        for name, tokens in zip(self.names, outputs, strict=True):
            tokens = tokens if name is None else getattr(self, name)(tokens)
            maps.append(tokens.transpose(1, 2).unflatten(2, grid).contiguous())
        return tuple(maps)


def loaded(module: nn.Module, tensors: dict[str, Tensor], may_miss: tuple[str, ...] = ()) -> nn.Module:
    """Fill a module of another code base.

    Raises:
        Skipped: a tensor has no place there, or one of theirs stays as it was.
    """
    with torch.no_grad():
        fits = module.load_state_dict(tensors, strict=False)
    missing = [name for name in fits.missing_keys if not name.startswith(may_miss)] if may_miss else fits.missing_keys
    if missing or fits.unexpected_keys:
        raise Skipped(f'its backbone does not take our weights: {len(missing)} of its parameters are not ours '
                      f'{missing[:1]}, {len(fits.unexpected_keys)} of ours not its {fits.unexpected_keys[:1]}')
    return module
