"""Backbones of Hugging Face's transformers with our weights.

The modules are what `AutoBackbone` and `AutoModel` give for the published files, with the attention that they choose
by themselves. Weights go through `from_pretrained`, which knows how the names in files differ from those of modules.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from backbones.benchmark.skipping import Skipped, TokenNorms, depth_rate, exported, loaded, output_norms, vit_kind
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer


def backbone(ours: nn.Module) -> nn.Module:
    """Their module for our backbone.

    Raises:
        Skipped: they have none that computes the same.
        ImportError: transformers is not installed.
    """
    import transformers

    if isinstance(ours, ConvNeXt):
        return HFConvNeXt(ours, transformers)
    if not isinstance(ours, VisionTransformer):
        raise Skipped(f'no counterpart of {type(ours).__name__} is written')
    kind = vit_kind(ours)
    if kind == 'vitdet':
        return HFVitDet(ours, transformers)
    if kind not in CLASSES:
        raise Skipped(f'no counterpart of a ViT as of {kind} is written')
    return HFTokens(ours, transformers, kind)


def _pretrained(
    kind: Any, config: Any, tensors: dict[str, Tensor], may_miss: tuple[str, ...], **arguments: Any
) -> nn.Module:
    """Build their class and fill it.

    Raises:
        Skipped: a tensor has no place there, or one of theirs stays as it was.
    """
    import transformers

    says = transformers.logging
    level, bars = says.get_verbosity(), says.is_progress_bar_enabled()
    says.set_verbosity_error()
    says.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=torch.float32, **arguments)
    finally:
        says.set_verbosity(level)
        if bars:
            says.enable_progress_bar()
    missing = [name for name in found['missing_keys'] if not name.startswith(may_miss)]
    wrong = [*found['unexpected_keys'], *found['mismatched_keys']]
    if missing or wrong:
        raise Skipped(f'its {kind.__name__} does not take our weights ({(missing + wrong)[0]} and '
                      f'{len(missing + wrong) - 1} more)')
    return model


class HFConvNeXt(nn.Module):
    """ConvNextBackbone or ConvNextV2Backbone."""

    def __init__(self, ours: ConvNeXt, transformers: Any) -> None:
        super().__init__()
        if ours.isotropic or len(ours.stages) != 4:
            raise Skipped('it has ConvNeXt with four stages only')
        if ours.norm_eps != 1e-6:
            raise Skipped(f'its norms have eps 1e-6, ours {ours.norm_eps}')
        grn = 'stages.0.0.grn.gamma' in ours.state_dict()
        scaled = 'stages.0.0.gamma' in ours.state_dict()
        if grn == scaled:
            raise Skipped('it has layer scale in V1 and GRN in V2, ours here has both or neither')
        version = 'V2' if grn else ''
        config = getattr(transformers, f'ConvNext{version}Config')(
            num_channels=ours.in_channels, hidden_sizes=list(ours.arch['dims']), depths=list(ours.arch['depths']),
            layer_norm_eps=ours.norm_eps, drop_path_rate=depth_rate(ours),
            out_features=[f'stage{i + 1}' for i in ours.out_indices])
        model = _pretrained(getattr(transformers, f'ConvNext{version}Backbone'), config, exported(ours, 'hf'),
                            ('hidden_states_norms.',))
        for (stage, theirs), mine in zip(list(model.hidden_states_norms.items()), output_norms(ours), strict=True):
            if isinstance(mine, nn.Identity):
                model.hidden_states_norms[stage] = mine
            else:
                theirs.load_state_dict(mine.state_dict())
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the stages in `out_indices`."""
        return tuple(self.model(x).feature_maps)


class HFVitDet(nn.Module):
    """VitDetBackbone: windows, relative positions."""

    def __init__(self, ours: VisionTransformer, transformers: Any) -> None:
        super().__init__()
        plain = (
            not ours.with_cls_token and not ours.num_prefix and ours.mlp == 'mlp' and ours.act == 'gelu'
            and ours.out_norm == 'none' and ours.rel_pos != 'bias_table' and ours.position == 'absolute'
            and not ours.residual_block_indexes and isinstance(ours.norm_pre, nn.Identity)
            and 'blocks.0.ls1.gamma' not in ours.state_dict())
        if not plain:
            raise Skipped('its VitDet has no class token, registers, layer scale, gates or output norm, and residual '
                          'blocks are not carried over')
        grid = ours.table_grid or ours.pos_grid
        if grid[0] != grid[1] or ours.pos_grid[0] != ours.pos_grid[1]:
            raise Skipped('its tables of positions are square')
        side, blocks = ours.patch_size, range(len(ours.blocks))
        config = transformers.VitDetConfig(
            hidden_size=ours.embed_dim, num_hidden_layers=len(ours.blocks), num_attention_heads=ours.num_heads,
            mlp_ratio=_ratio(ours), layer_norm_eps=ours.norm_eps, image_size=grid[0] * side,
            pretrain_image_size=ours.pos_grid[0] * side, patch_size=side, num_channels=ours.in_channels,
            qkv_bias=ours.blocks[0].attn.qkv.bias is not None, drop_path_rate=depth_rate(ours),
            window_block_indices=[i for i in blocks if ours.window_size and i not in ours.global_attn_indexes],
            use_relative_position_embeddings=ours.rel_pos == 'decomposed', window_size=ours.window_size,
            out_features=[f'stage{i + 1}' for i in ours.out_indices])
        self.model = loaded(transformers.VitDetBackbone(config), {
            _vitdet_name(name): value for name, value in ours.state_dict().items()})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks in `out_indices`."""
        return tuple(self.model(x).feature_maps)


def _vitdet_name(name: str) -> str:
    for ours, theirs in (('pos_embed', 'embeddings.position_embeddings'), ('patch_embed.proj', 'embeddings.projection'),
                         ('blocks.', 'encoder.layer.'), ('.attn.', '.attention.')):
        name = name.replace(ours, theirs)
    return name


def _ratio(ours: VisionTransformer) -> float:
    ratio = ours.blocks[0].mlp.fc1.weight.shape[0] / ours.embed_dim
    return int(ratio) if ratio == int(ratio) else ratio


# kind of weights: the name of their classes
CLASSES = {'': 'ViT', 'dinov2': 'Dinov2', 'dinov3': 'DINOv3ViT', 'beit': 'Beit'}


class HFTokens(nn.Module):
    """ViTModel, Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel or BeitModel, and the norms of our outputs."""

    def __init__(self, ours: VisionTransformer, transformers: Any, kind: str) -> None:
        super().__init__()
        if ours.mlp != 'mlp' or ours.act != 'gelu':
            raise Skipped('a ViT with gated MLPs or another activation than the exact GELU is not carried over')
        name = CLASSES[kind]
        registers = ours.num_prefix - int(ours.with_cls_token)
        if kind == 'dinov2' and registers:
            name += 'WithRegisters'
        config = getattr(transformers, f'{name}Config')(**_vit_options(ours, kind, registers))
        # a pooling layer would get no gradient
        arguments = dict(add_pooling_layer=False) if kind in ('', 'beit') else {}
        self.model = _pretrained(getattr(transformers, f'{name}Model'), config, exported(ours, 'hf', kind),
                                 ('layernorm.', 'norm.', 'embeddings.mask_token', 'rope_embeddings.'), **arguments)
        self.norms = TokenNorms(ours)
        self.outputs, self.prefix, self.patch = ours.out_indices, ours.num_prefix, ours.patch_size
        self.options = dict(interpolate_pos_encoding=True) if kind in ('', 'beit') else {}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks in `out_indices`."""
        grid = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        hidden = self.model(x, output_hidden_states=True, **self.options).hidden_states
        return self.norms([hidden[i + 1][:, self.prefix :] for i in self.outputs], grid)


def _vit_options(ours: VisionTransformer, kind: str, registers: int) -> dict[str, Any]:
    """Arguments of their config."""
    side = math.prod(ours.pos_grid) ** 0.5
    if ours.position == 'absolute' and ours.pos_grid[0] != ours.pos_grid[1]:
        raise Skipped('its tables of positions are square')
    options = dict(
        hidden_size=ours.embed_dim, num_hidden_layers=len(ours.blocks), num_attention_heads=ours.num_heads,
        layer_norm_eps=ours.norm_eps, image_size=int(side) * ours.patch_size, patch_size=ours.patch_size,
        num_channels=ours.in_channels)
    if kind == 'dinov2':
        options.update(mlp_ratio=_ratio(ours), drop_path_rate=depth_rate(ours))
    else:
        options.update(intermediate_size=ours.blocks[0].mlp.fc1.weight.shape[0])
    if kind == 'dinov3':
        options.update(drop_path_rate=depth_rate(ours), key_bias=False)
    if kind == 'beit':
        grid = ours.table_grid
        if ours.position != 'none' or grid[0] != grid[1]:
            raise Skipped('its BEiT has square tables of relative positions and no absolute ones')
        options.update(use_relative_position_bias=True, image_size=grid[0] * ours.patch_size,
                       drop_path_rate=depth_rate(ours))
    if registers:
        options['num_register_tokens'] = registers
    return options
