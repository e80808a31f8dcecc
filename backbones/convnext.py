"""ConvNeXt, https://arxiv.org/abs/2201.03545, and ConvNeXt V2, https://arxiv.org/abs/2301.00808.

Parameter names are those of the official checkpoints:

- four stages: `downsample_layers.i.j`, `stages.i.j.{dwconv,norm,pwconv1,pwconv2}`, `stages.i.j.gamma` (layer
  scale) or `stages.i.j.grn.{gamma,beta}` (V2), and the detector's output norms `norm0` to `norm3`;
- isotropic: `stem`, `blocks.j.*`, and an output norm `normJ` for every block J in `out_indices`.

Shapes: N images, C channels, H W rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.convnext_parts import Block, init_layer
from backbones.layers import (
    LayerNorm2d,
    check_number,
    checked_int,
    checked_out_indices,
    drop_path_rates,
    fast_layout,
    is_int,
)
from backbones.registry import MODELS
from backbones.weights.convnext_family import CONVNEXT
from backbones.weights.load import initialise_from_checkpoint
from backbones.weights.state_hook import accept_published

# V1: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
# V2: https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895753323c6fe0b2bf390683f5ea358a42b9/models/convnextv2.py
# isotropic: models/convnext_isotropic.py of V1; by its TRAINING.md only the large one has a layer scale.
ARCHS: dict[str, dict[str, Any]] = {
    'atto': dict(depths=(2, 2, 6, 2), dims=(40, 80, 160, 320)),
    'femto': dict(depths=(2, 2, 6, 2), dims=(48, 96, 192, 384)),
    'pico': dict(depths=(2, 2, 6, 2), dims=(64, 128, 256, 512)),
    'nano': dict(depths=(2, 2, 8, 2), dims=(80, 160, 320, 640)),
    'tiny': dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)),
    'small': dict(depths=(3, 3, 27, 3), dims=(96, 192, 384, 768)),
    'base': dict(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024)),
    'large': dict(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
    'xlarge': dict(depths=(3, 3, 27, 3), dims=(256, 512, 1024, 2048)),
    'huge': dict(depths=(3, 3, 27, 3), dims=(352, 704, 1408, 2816)),
    'isotropic_small': dict(depth=18, dim=384),
    'isotropic_base': dict(depth=18, dim=768),
    'isotropic_large': dict(depth=36, dim=1024),
}

STAGE_STRIDES = (4, 8, 16, 32)
ISOTROPIC_STRIDE = 16

# layer ids of `get_layer_depth` and `get_stage_depth`:
# https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/object_detection/mmcv_custom/layer_decay_optimizer_constructor.py


@MODELS.register_module()
class ConvNeXt(BaseModule):
    """ConvNeXt V1, V2 and isotropic as a feature backbone.

    Any image size at least as large as the last stride works. The strided convolutions have no padding and so
    round down, as the official model does: output i has floor(H / s_i) rows and floor(W / s_i) columns.

    A *level* is a stage (four of them, strides 4, 8, 16, 32) or, in an isotropic model, one block (all of
    stride 16). Levels after the last one in `out_indices` are not built, so every parameter takes part in the
    outputs and DDP needs no `find_unused_parameters`.

    Args:
        arch: a published size, see `ARCHS`, or a dict: `dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))`
            for four stages, `dict(depth=18, dim=384)` for an isotropic model.
        in_channels: channels of the input images.
        out_indices: levels to return, counted from 0, ascending. None returns all four stages, or the last
            block of an isotropic model.
        use_grn: True builds V2.
        drop_path_rate: stochastic depth rate of the last block, from 0 to below 1; it rises linearly from 0
            over the blocks of the whole `arch`, also where `out_indices` leaves the last ones out. Official:
            0.4 to 0.8 on COCO.
        layer_scale_init_value: start of the layer scale `gamma`; 0 builds none. None is the official choice:
            1e-6, and no layer scale in V2 and in the small and base isotropic models. The official detection
            and segmentation configs use 1.0, a value that a loaded checkpoint replaces.
        output_norm: True puts a LayerNorm, `norm0` to `norm3`, on each output, as the official detector does;
            it is new there, so classification checkpoints do not fill it. False returns the raw maps.
        norm_eps: eps of every LayerNorm; all official weights were trained with 1e-6.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k levels with the downsampling
            layer in front of each. Frozen parameters get no gradient, and frozen modules stay in evaluation
            mode (no drop path), also after `train()`. Output norms stay trainable.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads any published ConvNeXt checkpoint in
            `init_weights()`.

    Raises:
        ValueError: if an argument is outside of what is stated here.
    """

    weight_family: ClassVar = CONVNEXT

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        use_grn: bool = False,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        output_norm: bool = True,
        norm_eps: float = 1e-6,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = _parse_arch(arch)
        self.isotropic = 'depth' in self.arch
        num_levels = self.arch['depth'] if self.isotropic else len(self.arch['depths'])
        if out_indices is None:
            out_indices = (num_levels - 1,) if self.isotropic else range(num_levels)
        self.out_indices = checked_out_indices(out_indices, num_levels)
        self.in_channels = checked_int('in_channels', in_channels, 'give the channels of an image, 3 for RGB')
        if layer_scale_init_value is None:
            scaled = not use_grn and (not self.isotropic or self.arch == ARCHS['isotropic_large'])
            layer_scale_init_value = 1e-6 if scaled else 0.0
        check_number(
            'layer_scale_init_value', layer_scale_init_value, '0 for none; None is the official choice', or_zero=True)
        check_number('norm_eps', norm_eps, '1e-6 in all official weights')
        self.with_cp, self.norm_eps = with_cp, norm_eps
        self.output_norm = output_norm

        layer_scale_init_value = float(layer_scale_init_value)
        options = dict(layer_scale_init_value=layer_scale_init_value, use_grn=use_grn, norm_eps=norm_eps)
        if self.isotropic:
            self._build_isotropic(drop_path_rate, options)
        else:
            self._build_stages(drop_path_rate, options)
        if output_norm:
            for i, dim in zip(self.out_indices, self.out_channels, strict=True):
                self.add_module(f'norm{i}', LayerNorm2d(dim, eps=norm_eps))
        self.apply(init_layer)
        self.frozen_stages = self._checked_frozen_stages(frozen_stages)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)
        accept_published(self)

    def _build_stages(self, drop_path_rate: float, options: dict[str, Any]) -> None:
        """Make `downsample_layers` and `stages` up to the last output."""
        depths, dims, eps = self.arch['depths'], self.arch['dims'], options['norm_eps']
        rates = drop_path_rates(drop_path_rate, sum(depths))
        starts = (0, *accumulate(depths))
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            if i == 0:
                conv = nn.Conv2d(self.in_channels, dims[0], kernel_size=4, stride=4)
                reduce = nn.Sequential(conv, LayerNorm2d(dims[0], eps))
            else:
                conv = nn.Conv2d(dims[i - 1], dims[i], kernel_size=2, stride=2)
                reduce = nn.Sequential(LayerNorm2d(dims[i - 1], eps), conv)
            self.downsample_layers.append(reduce)
            stage_rates = rates[starts[i] : starts[i + 1]]
            self.stages.append(nn.Sequential(*(Block(dims[i], rate, **options) for rate in stage_rates)))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(STAGE_STRIDES[i] for i in self.out_indices)

    def _build_isotropic(self, drop_path_rate: float, options: dict[str, Any]) -> None:
        """Make `stem` and `blocks` up to the last output."""
        dim = self.arch['dim']
        rates = drop_path_rates(drop_path_rate, self.arch['depth'])[: self.out_indices[-1] + 1]
        self.stem = nn.Conv2d(self.in_channels, dim, kernel_size=ISOTROPIC_STRIDE, stride=ISOTROPIC_STRIDE)
        self.blocks = nn.Sequential(*(Block(dim, rate, **options) for rate in rates))
        self.out_channels = (dim,) * len(self.out_indices)
        self.out_strides = (ISOTROPIC_STRIDE,) * len(self.out_indices)

    def _levels(self) -> Iterator[tuple[nn.Module | None, Sequence[Block]]]:
        """Yield each level as (the layer that reduces the resolution, or None; the blocks)."""
        if self.isotropic:
            for i, block in enumerate(self.blocks):
                yield (self.stem if i == 0 else None), (block,)
        else:
            yield from zip(self.downsample_layers, self.stages, strict=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to one (N, C_i, H // s_i, W // s_i) map per output.

        Raises:
            ValueError: if the images have another number of channels or are smaller than the last stride.
        """
        self._check_input(x)
        x, laid_out = fast_layout(x, next(self.parameters()))
        outputs = []
        for i, (reduce, blocks) in enumerate(self._levels()):
            if reduce is not None:
                x = reduce(x)  # (N, C_i, H // s_i, W // s_i)
            for block in blocks:
                x = self._run_block(block, x)
            if i in self.out_indices:
                outputs.append(laid_out(getattr(self, f'norm{i}')(x) if self.output_norm else x))
        return tuple(outputs)

    def _run_block(self, block: Block, x: Tensor) -> Tensor:
        """Apply one block, with recomputation if asked for and if a backward pass will reach the block."""
        needs_backward = x.requires_grad or block.dwconv.weight.requires_grad
        if self.with_cp and torch.is_grad_enabled() and needs_backward:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def _check_input(self, x: Tensor) -> None:
        """Refuse what the stem's convolution would report in terms of its weights."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'ConvNeXt got an input of shape {tuple(x.shape)} but was built for (N, '
                f'{self.in_channels}, H, W); give images with {self.in_channels} channels or build it with '
                'in_channels=...'
            )
        stride = ISOTROPIC_STRIDE if self.isotropic else STAGE_STRIDES[self.out_indices[-1]]
        if min(x.shape[2:]) < stride:
            raise ValueError(
                f'ConvNeXt got images of {x.shape[2]} x {x.shape[3]} pixels, but its last output has stride '
                f'{stride}; give images of at least {stride} x {stride} pixels or leave that output out of '
                'out_indices'
            )

    def train(self, mode: bool = True) -> ConvNeXt:
        """Set the mode of all modules but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _checked_frozen_stages(self, frozen_stages: int) -> int:
        """Refuse a number of levels that was not built."""
        built = self.out_indices[-1] + 1
        if not is_int(frozen_stages) or not -1 <= frozen_stages <= built:
            levels = 'blocks' if self.isotropic else 'stages'
            raise ValueError(
                f'frozen_stages={frozen_stages!r} is not possible; give -1 (nothing), 0 (the stem) or 1 to '
                f'{built} (the stem and that many {levels}; out_indices={self.out_indices} builds {built})'
            )
        return frozen_stages

    def _frozen_modules(self) -> list[nn.Module]:
        """Return what `frozen_stages` keeps fixed."""
        count = self.frozen_stages
        if count < 0:
            return []
        if self.isotropic:
            return [self.stem, *list(self.blocks)[:count]]
        return [*list(self.downsample_layers)[: max(count, 1)], *list(self.stages)[:count]]

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, or else do what MMEngine does with `init_cfg`."""
        if not initialise_from_checkpoint(self):
            super().init_weights()

    def weights_may_miss(self) -> tuple[str, ...]:
        """Name what a published checkpoint may lack, as fnmatch patterns: the output norms."""
        return tuple(f'norm{i}.*' for i in self.out_indices) if self.output_norm else ()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Tell how deep a parameter lies, for layer-wise decay: learning-rate scale = rate ** (n - id - 1).

        The ids are the official ones (permalink above) with the official num_layers as it belongs to the
        model, 3 + ceil(depths[2] / 3), that is 6 for tiny and 12 for small to huge:

            downsample_layers.0 -> 0               stages.0 -> 1
            downsample_layers.1 -> 2               stages.1 -> 2
            downsample_layers.2 -> 3               stages.2, block b -> 3 + b // 3
            downsample_layers.3 -> num_layers      stages.3 -> num_layers
            everything else -> num_layers + 1

        Isotropic, with num_layers = depth: stem -> 0, block b -> b + 1, everything else -> num_layers + 1.

        Args:
            param_name: full name of the parameter, for example 'backbone.stages.2.4.gamma'.
            prefix: where the backbone lies in the model, with the dot: 'backbone.'.

        Returns:
            The id, from 0 to n - 1, and n = num_layers + 2. A name without `prefix` gets n - 1, the scale 1.

        Raises:
            ValueError: if the name begins with `prefix` and is no parameter of this backbone.
        """
        num_layers = self.arch['depth'] if self.isotropic else 3 + math.ceil(self.arch['depths'][2] / 3)
        kind, level, block = self._locate(param_name, prefix)
        if kind == 'rest':
            layer_id = num_layers + 1
        elif self.isotropic:
            layer_id = 0 if kind == 'stem' else level + 1
        elif level == 2:
            layer_id = 3 + block // 3
        else:
            first = 0 if kind == 'downsample_layers' else 1
            layer_id = (first, 2, None, num_layers)[level]
        return layer_id, num_layers + 2

    def get_stage_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Tell how deep a parameter lies, for stage-wise learning-rate decay.

        The official ids: downsample_layers.i (stem included) -> 0, stages.i -> i + 1, everything else ->
        num_layers + 1. Arguments, num_layers, result and errors are those of `get_layer_depth`.

        Raises:
            ValueError: also if the model is isotropic, which has no stages.
        """
        if self.isotropic:
            raise ValueError("an isotropic ConvNeXt has no stages; use decay_type='layer_wise' with it")
        num_depths = self.get_layer_depth(param_name, prefix)[1]
        kind, level, _ = self._locate(param_name, prefix)
        stage_id = {'downsample_layers': 0, 'stages': level + 1, 'rest': num_depths - 1}[kind]
        return stage_id, num_depths

    def _locate(self, param_name: str, prefix: str) -> tuple[str, int, int]:
        """Return (first part of the name or 'rest', level, block within the level), 0 where there is none."""
        if not param_name.startswith(prefix):
            return 'rest', 0, 0
        name = param_name[len(prefix) :]
        if name not in dict(self.named_parameters()):
            raise ValueError(
                f'{param_name!r} is no parameter of this ConvNeXt below prefix={prefix!r}; give a name as in '
                "model.named_parameters() and the backbone's place with its dot, as in prefix='backbone.'"
            )
        kind, *path = name.split('.')
        if kind == 'stages':
            return kind, int(path[0]), int(path[1])
        if kind in ('downsample_layers', 'blocks'):
            return kind, int(path[0]), 0
        return (kind, 0, 0) if kind == 'stem' else ('rest', 0, 0)


def _parse_arch(arch: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return dict(depths=4 ints, dims=4 ints) or dict(depth=int, dim=int), checked."""
    remedy = 'pass dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)) or, isotropic, dict(depth=18, dim=384)'
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'arch={arch!r} is unknown; choose one of {list(ARCHS)}, or {remedy}')
        return dict(ARCHS[arch])
    if not isinstance(arch, Mapping) or set(arch) not in ({'depths', 'dims'}, {'depth', 'dim'}):
        raise ValueError(f'arch={arch!r} is no ConvNeXt; choose one of {list(ARCHS)}, or {remedy}')
    if 'depth' in arch:
        return {key: checked_int(f'arch[{key!r}]', arch[key], remedy) for key in ('depth', 'dim')}
    parsed = {}
    for key in ('depths', 'dims'):
        if not isinstance(arch[key], Sequence) or len(arch[key]) != 4:
            raise ValueError(f'arch[{key!r}]={arch[key]!r} is not four whole numbers; {remedy}')
        parsed[key] = tuple(checked_int(f'arch[{key!r}][{i}]', v, remedy) for i, v in enumerate(arch[key]))
    return parsed
