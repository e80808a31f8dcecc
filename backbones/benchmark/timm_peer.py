"""timm's backbones with our weights."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from backbones.benchmark.skipping import (
    Skipped,
    TokenNorms,
    depth_rate,
    exported,
    loaded,
    output_norms,
    vit_kind,
)
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer


def backbone(ours: nn.Module) -> nn.Module:
    """Their module for our backbone.

    Raises:
        Skipped: they have none that computes the same.
        ImportError: timm, or torchvision, which it needs, cannot be imported.
    """
    _import()
    if isinstance(ours, ConvNeXt):
        return TimmConvNeXt(ours)
    if not isinstance(ours, VisionTransformer):
        raise Skipped(f'no counterpart of {type(ours).__name__} is written')
    kind = vit_kind(ours)
    if kind not in ('', 'dinov2') or ours.mlp != 'mlp' or ours.act != 'gelu':
        raise Skipped('its VisionTransformer has no windows and no relative positions; its others are not carried over')
    return TimmViT(ours)


def _import() -> Any:
    """Import timm.

    Raises:
        ImportError: also where torchvision is built for another torch, which raises RuntimeError.
    """
    try:
        import timm
    except RuntimeError as error:
        raise ImportError(f'timm cannot be imported: {error}') from error
    return timm


class TimmConvNeXt(nn.Module):
    """`timm.models.ConvNeXt`, its stages' outputs and the norms of ours."""

    def __init__(self, ours: ConvNeXt) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXt as Theirs

        if ours.isotropic or len(ours.stages) != 4:
            raise Skipped('ConvNeXt with four stages alone is carried over')
        state = ours.state_dict()
        model = Theirs(
            in_chans=ours.in_channels, num_classes=0, depths=tuple(ours.arch['depths']), dims=tuple(ours.arch['dims']),
            ls_init_value=1.0 if 'stages.0.0.gamma' in state else None, use_grn='stages.0.0.grn.gamma' in state,
            norm_eps=ours.norm_eps, drop_path_rate=depth_rate(ours))
        model.head = nn.Identity()  # its norm would get no gradient
        self.model = loaded(model, exported(ours, 'timm'))
        self.norms, self.outputs = output_norms(ours), ours.out_indices

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the stages in `out_indices`."""
        x, maps = self.model.stem(x), []
        for i, stage in enumerate(self.model.stages):
            x = stage(x)
            if i in self.outputs:
                maps.append(self.norms[len(maps)](x))
        return tuple(maps)


class TimmViT(nn.Module):
    """`timm.models.VisionTransformer`, its intermediate outputs and the norms of ours."""

    def __init__(self, ours: VisionTransformer) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer as Theirs

        state = ours.state_dict()
        registers = ours.num_prefix - 1
        tensors = exported(ours, 'timm', vit_kind(ours))
        tensors = {name: value for name, value in tensors.items() if not name.startswith('norm.')}
        patches = ours.pos_grid[0] * ours.pos_grid[1]
        model = Theirs(
            img_size=tuple(n * ours.patch_size for n in ours.pos_grid), patch_size=ours.patch_size,
            in_chans=ours.in_channels, num_classes=0, global_pool='', embed_dim=ours.embed_dim,
            depth=len(ours.blocks), num_heads=ours.num_heads,
            mlp_ratio=state['blocks.0.mlp.fc1.weight'].shape[0] / ours.embed_dim,
            qkv_bias='blocks.0.attn.qkv.bias' in state, init_values=1.0 if 'blocks.0.ls1.gamma' in state else None,
            reg_tokens=registers, no_embed_class=tensors['pos_embed'].shape[1] == patches, final_norm=False,
            dynamic_img_size=True, drop_path_rate=depth_rate(ours),
            norm_layer=functools.partial(nn.LayerNorm, eps=ours.norm_eps))
        self.model = loaded(model, tensors)
        self.norms, self.outputs, self.patch = TokenNorms(ours), list(ours.out_indices), ours.patch_size

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks in `out_indices`."""
        grid = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        tokens = self.model.forward_intermediates(
            x, indices=self.outputs, norm=False, output_fmt='NLC', intermediates_only=True)
        return self.norms(tokens, grid)
