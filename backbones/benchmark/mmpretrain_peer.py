"""mmpretrain's backbones with our weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from backbones.benchmark.skipping import Skipped, TokenNorms, depth_rate, exported, loaded, output_norms, vit_kind
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer

PREFIX = 'backbone.'


def backbone(ours: nn.Module) -> nn.Module:
    """Their module for our backbone.

    Raises:
        Skipped: they have none that computes the same.
        ImportError: mmpretrain, or what it needs, cannot be imported.
    """
    theirs = backbones_module()
    if isinstance(ours, ConvNeXt):
        return convnext(ours, theirs)
    if not isinstance(ours, VisionTransformer):
        raise Skipped(f'no counterpart of {type(ours).__name__} is written')
    if vit_kind(ours) not in ('', 'dinov2') or ours.mlp != 'mlp' or ours.act != 'gelu' or ours.num_prefix > 1:
        raise Skipped('its VisionTransformer has no windows, relative positions or registers; its others are not '
                      'carried over')
    return MMPretrainViT(ours, theirs)


def backbones_module() -> Any:
    """The module with mmpretrain's backbones.

    Raises:
        ImportError: also where a package that it needs fails with another error while it is imported.
    """
    try:
        import mmpretrain.models.backbones as theirs
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ImportError(f'mmpretrain cannot be imported: {type(error).__name__}: {error}') from error
    return theirs


def convnext(ours: ConvNeXt, theirs: Any) -> nn.Module:
    """mmpretrain's ConvNeXt as detectors use it: a norm on each output."""
    if ours.isotropic or len(ours.stages) != 4:
        raise Skipped('ConvNeXt with four stages alone is carried over')
    state = ours.state_dict()
    model = theirs.ConvNeXt(
        arch=dict(depths=list(ours.arch['depths']), channels=list(ours.arch['dims'])), in_channels=ours.in_channels,
        norm_cfg=dict(type='LN2d', eps=ours.norm_eps), use_grn='stages.0.0.grn.gamma' in state,
        drop_path_rate=depth_rate(ours), layer_scale_init_value=1.0 if 'stages.0.0.gamma' in state else 0.0,
        out_indices=list(ours.out_indices), gap_before_final_norm=False)
    tensors = {name.removeprefix(PREFIX): value for name, value in exported(ours, 'mmpretrain').items()}
    for index, norm in zip(ours.out_indices, output_norms(ours), strict=True):
        if isinstance(norm, nn.Identity):
            setattr(model, f'norm{index}', norm)
        else:
            tensors |= {f'norm{index}.{name}': value for name, value in norm.state_dict().items()}
    return loaded(model, tensors)


class MMPretrainViT(nn.Module):
    """mmpretrain's VisionTransformer and the norms of our outputs."""

    def __init__(self, ours: VisionTransformer, theirs: Any) -> None:
        super().__init__()
        state = ours.state_dict()
        model = theirs.VisionTransformer(
            arch=dict(embed_dims=ours.embed_dim, num_layers=len(ours.blocks), num_heads=ours.num_heads,
                      feedforward_channels=state['blocks.0.mlp.fc1.weight'].shape[0]),
            img_size=tuple(n * ours.patch_size for n in ours.pos_grid), patch_size=ours.patch_size,
            in_channels=ours.in_channels, out_indices=list(ours.out_indices), drop_path_rate=depth_rate(ours),
            qkv_bias='blocks.0.attn.qkv.bias' in state, norm_cfg=dict(type='LN', eps=ours.norm_eps), final_norm=False,
            out_type='raw', layer_scale_init_value=1.0 if 'blocks.0.ls1.gamma' in state else 0.0)
        tensors = {name.removeprefix(PREFIX): value for name, value in
                   exported(ours, 'mmpretrain', vit_kind(ours)).items()}
        self.model = loaded(model, {name: value for name, value in tensors.items() if not name.startswith('ln1.')})
        self.norms, self.patch = TokenNorms(ours), ours.patch_size

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks in `out_indices`."""
        grid = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        return self.norms([tokens[:, 1:] for tokens in self.model(x)], grid)
