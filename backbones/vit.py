"""Plain Vision Transformer for dense prediction, https://arxiv.org/abs/2010.11929, as weights need it.

ViTDet (https://arxiv.org/abs/2203.16527: windows, decomposed relative positions), MAE, DeiT, timm, DINO,
DINOv2 (registers, SwiGLU), DINOv3 (RoPE), BEiT (relative position bias), CLIP (norm before the blocks,
QuickGELU), SAM.

State-dict names are those of timm and the official checkpoints:

    cls_token (1, 1, D)                         with_cls_token=True
    reg_token (1, R, D)                         num_registers=R > 0
    pos_embed (1, 1 + h * w, D)                 position='absolute'; row 0 is the class token's, also without one
    rope_embed.periods (d / 4,)                 position='rope'; float32 buffer
    patch_embed.proj.{weight, bias}             no bias with patch_bias=False
    norm_pre.{weight, bias}                     pre_norm=True
    blocks.i.norm1, .norm2                      .{weight, bias}
    blocks.i.attn.qkv.{weight, bias}            fused; no bias with qkv_bias=False or 'qv'
    blocks.i.attn.q_bias, .v_bias (D,)          qkv_bias='qv': BEiT, DINOv3 (the bias of the keys is zero and stays so)
    blocks.i.attn.proj.{weight, bias}
    blocks.i.attn.rel_pos_h, .rel_pos_w         rel_pos='decomposed'; (2 n - 1, d), n: window_size or grid of img_size
    blocks.i.attn.relative_position_bias_table  rel_pos='bias_table'; ((2 h - 1)(2 w - 1) + 3, K), h w of img_size
    blocks.i.ls1.gamma, .ls2.gamma (D,)         layer_scale_init_value set
    blocks.i.mlp.{fc1, fc2}                     mlp='mlp'; .{weight, bias}, as in the next two
    blocks.i.mlp.{w12, w3}                      mlp='swiglu'
    blocks.i.mlp.{w1, w2, w3}                   mlp='swiglu_split'
    blocks.i.residual.{conv1 .. conv3}          i in residual_block_indexes; .weight
    blocks.i.residual.{norm1 .. norm3}          i in residual_block_indexes; .{weight, bias}
    norm.{weight, bias}                         out_norm='last' or 'all'
    norm0 .. norm{n - 1}.{weight, bias}         out_norm='each'; one per entry of out_indices

Shapes: N images, C channels, H W rows and columns, L = h * w patch tokens, P prefix tokens (class token, then
registers), D width, K heads, d = D / K.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones import positions
from backbones.attention import REL_POS, Attention
from backbones.layers import check_number, checked_int, checked_out_indices, drop_path_rates, is_int
from backbones.registry import MODELS
from backbones.vit_parts import (
    ACTIVATIONS,
    MLPS,
    Block,
    PatchEmbed,
    RopeEmbed,
    check_choice,
    check_combinations,
    checked_blocks,
    checked_count,
    grid_of,
    init_layer,
    make_mlp,
    read_arch,
)
from backbones.weights.load import initialise_from_checkpoint
from backbones.weights.state_hook import accept_published
from backbones.weights.vit_family import VIT

# Ti to H, so400m and giant (ViT-g):
# https://github.com/google-research/big_vision/blob/main/big_vision/models/vit.py
# giant2 and the _plus forms: DINOv2 and DINOv3, with SwiGLU (mlp='swiglu' and 'swiglu_split'):
# https://github.com/facebookresearch/dinov2/blob/b8931f7bf91576930313be2c6d6af376033b35f0/dinov2/models/vision_transformer.py
# https://github.com/facebookresearch/dinov3/blob/6876159a11b4df116f30f667f8c9888617df0751/dinov3/hub/backbones.py
ARCHS = {
    'tiny': dict(embed_dim=192, depth=12, num_heads=3),
    'small': dict(embed_dim=384, depth=12, num_heads=6),
    'base': dict(embed_dim=768, depth=12, num_heads=12),
    'large': dict(embed_dim=1024, depth=24, num_heads=16),
    'huge': dict(embed_dim=1280, depth=32, num_heads=16),
    'so400m': dict(embed_dim=1152, depth=27, num_heads=16, mlp_hidden=4304),
    'gigantic': dict(embed_dim=1664, depth=48, num_heads=16, mlp_hidden=8192),
    'giant': dict(embed_dim=1408, depth=40, num_heads=16, mlp_hidden=6144),
    'giant2': dict(embed_dim=1536, depth=40, num_heads=24),
    'small_plus': dict(embed_dim=384, depth=12, num_heads=6, mlp_ratio=6),
    'huge_plus': dict(embed_dim=1280, depth=32, num_heads=20, mlp_ratio=6),
    '7b': dict(embed_dim=4096, depth=40, num_heads=32, mlp_ratio=3),
}

POSITIONS = ('absolute', 'rope', 'none')
BEFORE_BLOCKS = ('cls_token', 'reg_token', 'pos_embed', 'patch_embed', 'norm_pre')
OUT_NORMS = ('none', 'last', 'all', 'each')


@MODELS.register_module()
class VisionTransformer(BaseModule):
    """Plain Vision Transformer: images to maps of patch tokens, all of one stride.

    Only the blocks up to the last of `out_indices` are built, so every parameter gets a gradient. Images may
    have any size; what a patch does not fill is padded with zeros at the bottom and the right, and the
    padding belongs to the last row and column of the output maps.

    As published: ViTDet-B ``arch='base', with_cls_token=False, window_size=14, global_attn_indexes=(2, 5, 8,
    11), rel_pos='decomposed', img_size=1024``; BEiT-B ``position='none', rel_pos='bias_table', qkv_bias='qv',
    layer_scale_init_value=0.1, img_size=640``; DINOv3-B ``position='rope', num_registers=4, qkv_bias='qv',
    layer_scale_init_value=1e-5, norm_eps=1e-5``; DINOv2-g ``arch='giant2', patch_size=14, mlp='swiglu',
    layer_scale_init_value=1e-5, pretrain_img_size=518, pos_interpolation='bicubic_offset'``.

    Args:
        arch: key of `ARCHS`, or dict(embed_dim, depth, num_heads, mlp_ratio=4 | mlp_hidden).
        patch_size: rows and columns of a patch in pixels; the stride of every output.
        in_channels: channels of an image.
        out_indices: blocks, from 0, whose outputs are returned; None is the last block. ViTDet uses the last,
            UperNet four evenly spaced ones (2, 5, 8, 11 for base).
        pretrain_img_size: image size (one number, or rows and columns) that the absolute position table is
            made for. It is resized to the grid of each image, so it belongs to the checkpoint and not to the
            training images.
        img_size: image size that the tables of relative positions are made for: that of training. Other sizes
            are resized, linearly (ViTDet) or by BEiT's geometric spline. Needed with `rel_pos`, except in windows.
        position: 'absolute' (learned table), 'rope' (rotary, DINOv3) or 'none'.
        pos_interpolation: key of `positions.INTERPOLATIONS`, how the source of the weights resizes the absolute table.
        rel_pos: 'none', 'decomposed' (ViTDet, SAM) or 'bias_table' (BEiT).
        with_cls_token: whether a class token attends along. It is not part of the outputs.
        num_registers: register tokens that attend along (4 in DINOv2 "reg" and DINOv3).
        window_size: rows and columns of attention windows in tokens; 0 makes every block global.
        global_attn_indexes: blocks, from 0, that stay global when `window_size` is set (2, 5, 8, 11 in
            ViTDet-B).
        residual_block_indexes: blocks that end with a convolutional bottleneck (a variant of ViTDet without
            global blocks).
        mlp: 'mlp', 'swiglu' (gate and value in one matrix, DINOv2-g) or 'swiglu_split' (DINOv3 "plus" and
            7B).
        act: 'gelu' (exact), 'gelu_tanh' (SigLIP) or 'quick_gelu' (OpenAI's CLIP), for mlp='mlp'.
        qkv_bias: True, False, or 'qv' (no bias on the keys: BEiT, DINOv3).
        patch_bias: whether the patch projection has a bias (not in CLIP).
        layer_scale_init_value: start of the layer scale; 0 for none.
        pre_norm: LayerNorm between positions and first block (CLIP).
        out_norm: 'none'; 'last', the final norm of the checkpoint on the last block's output; 'all', the same
            norm on every output (DINOv2, DINOv3); 'each', a new LayerNorm per output.
        norm_eps: eps of every LayerNorm: 1e-6 in most official weights, 1e-5 in CLIP and DINOv3.
        drop_path_rate: stochastic depth rate of the last block; it grows linearly from 0 at the first.
        frozen_stages: -1 freezes nothing, 0 patches, tokens and positions, k these and the first k blocks, all of
            them the norm of out_norm='last' or 'all', too. What is frozen stays in evaluation mode.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        init_cfg: MMEngine's; ``dict(type='Pretrained', checkpoint=...)`` loads any known layout in
            `init_weights()`.

    Raises:
        ValueError: if an argument, or a combination of arguments, is outside of what is stated here.
    """

    weight_family: ClassVar = VIT

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'base',
        *,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        pretrain_img_size: int | Sequence[int] = 224,
        img_size: int | Sequence[int] | None = None,
        position: str = 'absolute',
        pos_interpolation: str = 'bicubic',
        rel_pos: str = 'none',
        with_cls_token: bool = True,
        num_registers: int = 0,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        residual_block_indexes: Sequence[int] = (),
        mlp: str = 'mlp',
        act: str = 'gelu',
        qkv_bias: bool | str = True,
        patch_bias: bool = True,
        layer_scale_init_value: float = 0.0,
        pre_norm: bool = False,
        out_norm: str = 'none',
        norm_eps: float = 1e-6,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('position', position, POSITIONS)
        check_choice('rel_pos', rel_pos, REL_POS)
        check_choice('mlp', mlp, MLPS)
        check_choice('act', act, tuple(ACTIVATIONS))
        check_choice('qkv_bias', qkv_bias, (True, False, 'qv'))
        check_choice('out_norm', out_norm, OUT_NORMS)
        positions.check_interpolation(pos_interpolation)
        check_number('norm_eps', norm_eps, '1e-6 in most weights')
        check_number('layer_scale_init_value', layer_scale_init_value, '0 for none', or_zero=True)
        self.embed_dim, self.depth, self.num_heads, mlp_hidden = read_arch(arch, ARCHS, mlp)
        self.patch_size = checked_int('patch_size', patch_size, 'give the side of a patch in pixels, 16 mostly')
        self.in_channels = checked_int('in_channels', in_channels, 'give the channels of an image, 3 for RGB')
        self.out_indices = checked_out_indices((self.depth - 1,) if out_indices is None else out_indices, self.depth)
        self.out_channels = (self.embed_dim,) * len(self.out_indices)
        self.out_strides = (self.patch_size,) * len(self.out_indices)
        self.position, self.pos_interpolation, self.rel_pos = position, pos_interpolation, rel_pos
        self.with_cls_token = with_cls_token
        self.num_prefix = int(with_cls_token) + checked_count('num_registers', num_registers, '4 in DINOv3')
        self.window_size = checked_count('window_size', window_size, '14 tokens in ViTDet')
        self.global_attn_indexes = checked_blocks('global_attn_indexes', global_attn_indexes, self.depth)
        self.residual_block_indexes = checked_blocks('residual_block_indexes', residual_block_indexes, self.depth)
        self.out_norm, self.norm_eps, self.mlp, self.act, self.with_cp = out_norm, norm_eps, mlp, act, with_cp
        self.tables: dict[str, tuple] | None = None  # what `positions.kept` keeps, once the weights are final
        check_combinations(self, mlp, act, img_size)

        dim = self.embed_dim
        self.patch_embed = PatchEmbed(self.patch_size, self.in_channels, dim, bias=patch_bias)
        self._build_tokens(num_registers, grid_of('pretrain_img_size', pretrain_img_size, self.patch_size))
        self.norm_pre = nn.LayerNorm(dim, eps=norm_eps) if pre_norm else nn.Identity()
        sized = img_size is not None
        self.table_grid = grid_of('img_size', img_size, self.patch_size, padded=True) if sized else None
        rates = drop_path_rates(drop_path_rate, self.depth)
        self.blocks = nn.ModuleList(
            Block(
                self._build_attention(i, qkv_bias),
                make_mlp(mlp, dim, mlp_hidden, act),
                dim,
                norm_eps=norm_eps,
                drop_path_rate=rates[i],
                layer_scale_init_value=layer_scale_init_value,
                residual=i in self.residual_block_indexes,
            )
            for i in range(self.out_indices[-1] + 1)
        )
        self._build_out_norms(norm_eps)
        self.apply(init_layer)
        self._freeze(frozen_stages)
        accept_published(self)

    # --- building ---

    def _build_tokens(self, num_registers: int, pos_grid: tuple[int, int]) -> None:
        """Make class token, registers and positions."""
        dim = self.embed_dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if self.with_cls_token else None
        self.reg_token = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        self.pos_grid = pos_grid
        length = 1 + pos_grid[0] * pos_grid[1]
        self.pos_embed = nn.Parameter(torch.empty(1, length, dim)) if self.position == 'absolute' else None
        for value in (self.cls_token, self.reg_token, self.pos_embed):
            if value is not None:
                nn.init.trunc_normal_(value, std=0.02)
        if self.position == 'rope':
            self.rope_embed = RopeEmbed(dim // self.num_heads)

    def _build_attention(self, index: int, qkv_bias: bool | str) -> Attention:
        """Make the attention of one block, in windows or global."""
        window = self.window_size if index not in self.global_attn_indexes else 0
        options = dict(window_size=window, table_grid=(window, window) if window else self.table_grid)
        return Attention(self.embed_dim, self.num_heads, qkv_bias=qkv_bias, rel_pos=self.rel_pos, **options)

    def _build_out_norms(self, norm_eps: float) -> None:
        """Make `norm` or `norm0` ..., as `out_norm` says."""
        if self.out_norm == 'each':
            for i in range(len(self.out_indices)):
                self.add_module(f'norm{i}', nn.LayerNorm(self.embed_dim, eps=norm_eps))
        elif self.out_norm != 'none':
            self.norm = nn.LayerNorm(self.embed_dim, eps=norm_eps)

    # --- running ---

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to one (N, D, ceil(H / patch), ceil(W / patch)) map per output.

        Raises:
            ValueError: if the images have another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'VisionTransformer got an input of shape {tuple(x.shape)} but was built for '
                f'(N, {self.in_channels}, H, W); give images with {self.in_channels} channels or build it with '
                'in_channels=...'
            )
        x = self.patch_embed(x)  # (N, D, h, w)
        grid = (x.shape[2], x.shape[3])
        x = self.norm_pre(self._add_positions(x.flatten(2).transpose(1, 2), grid))  # (N, P + L, D)
        rope = self.rope_embed(grid) if self.position == 'rope' else None
        bias_index = positions.bias_index(grid, x.device) if self.rel_pos == 'bias_table' else None
        outputs = []
        for i, block in enumerate(self.blocks):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, grid, rope, bias_index, use_reentrant=False)
            else:
                x = block(x, grid, rope, bias_index)
            if i in self.out_indices:
                y = self._normalise(x[:, self.num_prefix :], len(outputs))  # (N, L, D)
                outputs.append(y.transpose(1, 2).unflatten(2, grid))  # (N, D, h, w)
        return tuple(outputs)

    def _add_positions(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the absolute positions and put the prefix tokens in front: (N, L, D) to (N, P + L, D)."""
        cls_token = self.cls_token
        if self.pos_embed is not None:
            table = positions.kept(self.tables, 'positions', grid, self._position_table)  # (1, 1 + L, D)
            x = x + table[:, 1:]
            if cls_token is not None:
                cls_token = cls_token + table[:, :1]
        prefix = [token.expand(len(x), -1, -1) for token in (cls_token, self.reg_token) if token is not None]
        if not prefix:
            return x
        return torch.cat([*(token.to(x.dtype) for token in prefix), x], dim=1)  # (N, P + L, D)

    def _position_table(self, grid: tuple[int, int]) -> Tensor:
        """Resize the absolute positions to a grid: (1, 1 + L, D)."""
        return positions.resize_absolute(self.pos_embed, self.pos_grid, grid, self.pos_interpolation)

    def _normalise(self, x: Tensor, output: int) -> Tensor:
        """Apply the norm of this output, if it has one."""
        if self.out_norm == 'each':
            return getattr(self, f'norm{output}')(x)
        if self.out_norm == 'all' or (self.out_norm == 'last' and output == len(self.out_indices) - 1):
            return self.norm(x)
        return x

    # --- freezing, weights, depth ---

    def _frozen_modules(self) -> Iterator[nn.Module]:
        """Yield what `frozen_stages` keeps fixed, but for the tokens and positions of this module itself."""
        if self.frozen_stages >= 0:
            yield from (self.patch_embed, self.norm_pre, *self.blocks[: self.frozen_stages])
        if self.frozen_stages == len(self.blocks) and self.out_norm in ('last', 'all'):
            yield self.norm  # the checkpoint's

    def _freeze(self, frozen_stages: int) -> None:
        """Take the gradient from the first blocks and what lies before them."""
        if not is_int(frozen_stages) or not -1 <= frozen_stages <= (built := len(self.blocks)):
            raise ValueError(
                f'frozen_stages={frozen_stages!r} is not possible; give -1 (nothing), 0 (patches, tokens, positions) '
                f'or 1 to {built} (these and that many blocks; out_indices={self.out_indices} builds {built})'
            )
        self.frozen_stages = frozen_stages
        for module in self._frozen_modules():
            module.requires_grad_(False)
        for value in (self.cls_token, self.reg_token, self.pos_embed):
            if value is not None and self.frozen_stages >= 0:
                value.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> VisionTransformer:
        """Set the mode of all modules but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, or else do what MMEngine does with `init_cfg`."""
        if not initialise_from_checkpoint(self):
            super().init_weights()

    def weights_may_miss(self) -> tuple[str, ...]:
        """Name what a published checkpoint may lack, as fnmatch patterns.

        New output norms; the relative positions and bottlenecks that ViTDet adds to MAE; the periods of RoPE,
        which only the official DINOv3 files hold.
        """
        patterns = [f'norm{i}.*' for i in range(len(self.out_indices))] if self.out_norm == 'each' else []
        if self.rel_pos == 'decomposed':
            patterns.append('blocks.*.attn.rel_pos_[hw]')
        if self.residual_block_indexes:
            patterns.append('blocks.*.residual.*')
        if self.position == 'rope':
            patterns.append('rope_embed.periods')
        return tuple(patterns)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Tell how deep a parameter lies, for layer-wise decay: learning-rate scale = rate ** (n - id - 1).

        The ids of ViTDet, MAE and BEiT: patches, tokens, positions and the norm before the blocks 0; block i
        i + 1; everything else depth + 1, the convolutional bottlenecks of ViTDet too:
        https://github.com/facebookresearch/detectron2/blob/02b5c4e295e990042a714712c21dc79b731e8833/detectron2/modeling/backbone/vit.py

        Args:
            param_name: full name of the parameter, for example 'backbone.blocks.3.attn.qkv.weight'.
            prefix: where the backbone lies in the model, with the dot: 'backbone.'.

        Returns:
            The id, from 0 to n - 1, and n = depth + 2, with the depth of `arch`, also where `out_indices`
            builds fewer blocks. A name without `prefix` gets n - 1, the scale 1.

        Raises:
            ValueError: if the name begins with `prefix` and is no parameter of this backbone.
        """
        rest = self.depth + 1
        if not param_name.startswith(prefix):
            return rest, self.depth + 2
        name = param_name[len(prefix) :]
        if name not in dict(self.named_parameters()):
            raise ValueError(
                f'{param_name!r} is no parameter of this VisionTransformer below prefix={prefix!r}; give a '
                "name as in model.named_parameters() and the backbone's place with its dot, as in "
                "prefix='backbone.'"
            )
        first, *path = name.split('.')
        if first == 'blocks':
            layer_id = rest if path[1] == 'residual' else int(path[0]) + 1
        else:
            layer_id = 0 if first in BEFORE_BLOCKS else rest
        return layer_id, self.depth + 2
