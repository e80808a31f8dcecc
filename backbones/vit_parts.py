"""What a plain Vision Transformer is made of (patches, blocks, MLPs), and the checks of its arguments.

Shapes: N images, C channels, H W rows and columns, h w of the patch grid, L = h * w patch tokens, P prefix
tokens, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import positions
from backbones.attention import Attention
from backbones.layers import DropPath, LayerNorm2d, LayerScale, Mlp, SwiGLU, checked_int, is_int


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {
    'gelu': nn.GELU,
    'gelu_tanh': functools.partial(nn.GELU, approximate='tanh'),  # SigLIP
    'quick_gelu': QuickGELU,
}
MLPS = ('mlp', 'swiglu', 'swiglu_split')


class PatchEmbed(nn.Module):
    """Cut images into patches and project each; the bottom and the right are padded with zeros to whole patches."""

    def __init__(self, patch_size: int, in_channels: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, D, ceil(H / patch), ceil(W / patch))."""
        patch = self.proj.stride[0]
        pad_h, pad_w = -x.shape[2] % patch, -x.shape[3] % patch
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))  # (N, C, h * patch, w * patch)
        return self.proj(x)  # (N, D, h, w)


class RopeEmbed(nn.Module):
    """Hold the periods of the rotary positions; files of DINOv3 store them rounded to bfloat16, and that matters."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer('periods', positions.rope_periods(head_dim))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Give (2, L, d) for `positions.rotate`."""
        return positions.rope_table(self.periods, grid)


class ResidualConv(nn.Module):
    """Bottleneck of 1x1, 3x3, 1x1 convolutions that passes information between windows (ViTDet, section 3)."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        hidden = dim // 2
        self.conv1 = nn.Conv2d(dim, hidden, 1, bias=False)
        self.norm1 = LayerNorm2d(hidden, eps=norm_eps)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = LayerNorm2d(hidden, eps=norm_eps)
        self.act2 = nn.GELU()
        self.conv3 = nn.Conv2d(hidden, dim, 1, bias=False)
        self.norm3 = LayerNorm2d(dim, eps=norm_eps)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (N, L, D) to the same shape."""
        y = x.transpose(1, 2).unflatten(2, grid)  # (N, D, h, w)
        for layer in self.children():
            y = layer(y)
        return x + y.flatten(2).transpose(1, 2)  # (N, L, D)


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to the stream, and perhaps a convolutional bottleneck."""

    def __init__(
        self,
        attn: Attention,
        mlp: nn.Module,
        dim: int,
        *,
        norm_eps: float,
        drop_path_rate: float,
        layer_scale_init_value: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        scaled = layer_scale_init_value > 0
        self.ls1 = LayerScale(dim, layer_scale_init_value) if scaled else nn.Identity()
        self.ls2 = LayerScale(dim, layer_scale_init_value) if scaled else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)
        self.residual = ResidualConv(dim, norm_eps) if residual else None

    def forward(self, x: Tensor, grid: tuple[int, int], rope: Tensor | None, bias_index: Tensor | None) -> Tensor:
        """Map tokens (N, P + L, D) to the same shape."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), grid, rope, bias_index)))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x if self.residual is None else self.residual(x, grid)


def make_mlp(kind: str, dim: int, hidden_dim: int, act: str) -> nn.Module:
    """Build the MLP of a block: a key of `MLPS`, with `act` for the plain one."""
    if kind == 'mlp':
        return Mlp(dim, hidden_dim, activation=ACTIVATIONS[act])
    return SwiGLU(dim, hidden_dim, packed=kind == 'swiglu')


def init_layer(module: nn.Module) -> None:
    """Start linear and patch layers from a truncated normal of std 0.02 and zero bias, as ViTDet, MAE and BEiT do."""
    if isinstance(module, nn.Linear | PatchEmbed):
        layer = module.proj if isinstance(module, PatchEmbed) else module
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(module, ResidualConv):
        nn.init.zeros_(module.norm3.weight)  # the bottleneck starts as the identity


# --- arguments ------------------------------------------------------------------------------------


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is not one of `allowed` (1 is not True).

    Raises:
        ValueError: naming the value and the choices.
    """
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise ValueError(f'{name}={value!r} is unknown; choose one of {list(allowed)}')


def checked_count(name: str, value: int, example: str) -> int:
    """Return a whole number of at least 0.

    Raises:
        ValueError: if `value` is none.
    """
    if not is_int(value) or value < 0:
        raise ValueError(f'{name}={value!r} is not possible; give 0 (none) or more, {example}')
    return value


def checked_blocks(name: str, indexes: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return numbers of blocks as a sorted tuple.

    Raises:
        ValueError: if one is no number of a block.
    """
    is_list = isinstance(indexes, Sequence) and all(is_int(i) and 0 <= i < depth for i in indexes)
    if not is_list or len(set(indexes)) != len(indexes):
        raise ValueError(f'{name}={indexes!r} is not possible; give different numbers of blocks, 0 to {depth - 1}')
    return tuple(sorted(indexes))


def grid_of(name: str, size: int | Sequence[int], patch_size: int, padded: bool = False) -> tuple[int, int]:
    """Count the patches of an image size, rounded down as published tables are, or up (`padded`) as images are padded.

    Raises:
        ValueError: if `size` is not one or two whole numbers of at least a patch.
    """
    pair = (size, size) if is_int(size) else size
    fits = isinstance(pair, Sequence) and len(pair) == 2 and all(is_int(i) and i >= patch_size for i in pair)
    if not fits:
        raise ValueError(
            f'{name}={size!r} is not possible; give pixels as one number or (rows, columns), at least '
            f'patch_size={patch_size}, for example {14 * patch_size}'
        )
    return tuple(-(-side // patch_size) if padded else side // patch_size for side in pair)


def read_arch(
    arch: str | Mapping[str, Any], archs: Mapping[str, Mapping[str, Any]], mlp: str
) -> tuple[int, int, int, int]:
    """Resolve `arch` to (embed_dim, depth, num_heads, mlp_hidden).

    Raises:
        ValueError: for an unknown name, unknown or missing keys, or a width that the heads do not divide.
    """
    remedy = (
        f'choose one of {list(archs)}, or pass dict(embed_dim=..., depth=..., num_heads=...) with at most '
        'one of mlp_ratio (4 when left out) and mlp_hidden'
    )
    sizes = archs.get(arch) if isinstance(arch, str) else arch
    required, optional = {'embed_dim', 'depth', 'num_heads'}, {'mlp_ratio', 'mlp_hidden'}
    if not isinstance(sizes, Mapping) or not required <= set(sizes) <= required | optional or optional <= set(sizes):
        raise ValueError(f'arch={arch!r} is unknown; {remedy}')
    embed_dim, depth, num_heads = (
        checked_int(f'arch[{key!r}]', sizes[key], remedy) for key in ('embed_dim', 'depth', 'num_heads')
    )
    if embed_dim % num_heads:
        fitting = [k for k in range(1, embed_dim + 1) if embed_dim % k == 0]
        raise ValueError(
            f'num_heads={num_heads} does not divide embed_dim={embed_dim} in arch={arch!r}; choose one of {fitting}'
        )
    if 'mlp_hidden' in sizes:
        return embed_dim, depth, num_heads, checked_int("arch['mlp_hidden']", sizes['mlp_hidden'], remedy)
    ratio = sizes.get('mlp_ratio', 4)
    if not isinstance(ratio, int | float) or ratio <= 0:
        raise ValueError(f"arch['mlp_ratio']={ratio!r} is not a positive number; {remedy}")
    hidden = int(embed_dim * ratio)
    if mlp != 'mlp':
        # the third matrix is paid for by narrower layers, rounded up to 8: DINOv2 and DINOv3 alike
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
    return embed_dim, depth, num_heads, hidden


def check_combinations(vit: nn.Module, mlp: str, act: str, img_size: object) -> None:
    """Refuse arguments of a `VisionTransformer` that are fine one by one and not together, or would have no effect.

    Raises:
        ValueError: for the first such pair, with the remedy.
    """
    depth, windowed = vit.depth, vit.window_size > 0
    some_global = not windowed or any(i in vit.global_attn_indexes for i in range(vit.out_indices[-1] + 1))
    no_prefix = 'give with_cls_token=False and num_registers=0, as ViTDet and SAM do'
    problems = (
        (
            windowed and vit.num_prefix,
            f'a window has no room for {vit.num_prefix} prefix token(s); {no_prefix}',
        ),
        (
            vit.rel_pos == 'decomposed' and vit.num_prefix,
            f"rel_pos='decomposed' has no rows for {vit.num_prefix} prefix token(s); {no_prefix}",
        ),
        (
            vit.residual_block_indexes and vit.num_prefix,
            f'residual_block_indexes convolves a map, which {vit.num_prefix} prefix token(s) are not; {no_prefix}',
        ),
        (
            vit.rel_pos == 'bias_table' and (windowed or not vit.with_cls_token or vit.num_prefix != 1),
            "rel_pos='bias_table' has rows for one class token and none for registers or windows; give "
            'with_cls_token=True, num_registers=0 and window_size=0, as BEiT does',
        ),
        (
            vit.rel_pos != 'none' and some_global and img_size is None,
            f'rel_pos={vit.rel_pos!r} needs img_size, the image size its tables are made for; give the size '
            'of the training images, for example img_size=1024 in ViTDet or 640 in BEiT',
        ),
        (
            vit.rel_pos == 'none' and img_size is not None,
            f"img_size={img_size!r} has no effect without relative positions; set rel_pos='decomposed' "
            '(ViTDet) or leave it out: images may have any size (pretrain_img_size is that of the '
            'absolute table)',
        ),
        (
            vit.global_attn_indexes and not windowed,
            f'global_attn_indexes={vit.global_attn_indexes} has no effect with window_size=0, where every '
            'block is global; set window_size (14 in ViTDet) or leave it out',
        ),
        (
            vit.position == 'rope' and (windowed or vit.embed_dim // vit.num_heads % 4),
            "position='rope' needs window_size=0 and a head width that is a multiple of 4 (here "
            f'{vit.embed_dim} / {vit.num_heads}); change these, or position',
        ),
        (
            vit.out_norm == 'last' and vit.out_indices[-1] != depth - 1,
            f"out_norm='last' is the norm after block {depth - 1}, which out_indices={vit.out_indices} "
            "leaves out; choose 'all' (the same norm on every output), 'each' or 'none'",
        ),
        (mlp != 'mlp' and act != 'gelu', f'act={act!r} has no effect with mlp={mlp!r}; leave it out'),
    )
    for wrong, sentence in problems:
        if wrong:
            raise ValueError(sentence)
