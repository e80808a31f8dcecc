"""Necks that make a pyramid of the single-scale maps of a plain Vision Transformer.

`SimpleFPN`: ViTDet's simple feature pyramid, https://arxiv.org/abs/2203.16527, from the last map, for detectors.
`Feature2Pyramid`: BEiT's maps at 4, 2, 1 and 1/2 times the resolution, one per tapped block, for UperNet.

State-dict names are those of detectron2 (`simfp_2.0` ...) and of mmsegmentation (`upsample_4x.0` ...).

Shapes: N images, C channels, H W rows and columns of the backbone's map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from backbones.layers import LayerNorm2d, check_number, checked_int
from backbones.registry import MODELS
from backbones.weights.family import Family
from backbones.weights.load import initialise_from_checkpoint
from backbones.weights.pyramid_family import SIMPLE_FPN

SCALES = (4, 2, 1, 0.5)
SCALE_NAMES = {4: 'upsample_4x', 2: 'upsample_2x', 1: 'identity', 0.5: 'downsample_2x'}  # mmsegmentation
# MMEngine names; torch's own SyncBatchNorm, because a backbone package must not need mmcv.
NORMS = {
    'LN2d': LayerNorm2d,
    'backbones.LN2d': LayerNorm2d,
    'BN': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
}


def resampling(scale: float, dim: int, middle: int, out: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    """Make the layers that change the resolution of a map by `scale`.

    Args:
        scale: one of `SCALES`.
        dim: channels in.
        middle: channels after the first step up.
        out: channels after the second step up; only scale 4 has one.
        norm: makes the norm between the two steps.
    """
    if scale == 4:
        first = nn.ConvTranspose2d(dim, middle, 2, stride=2)
        second = nn.ConvTranspose2d(middle, out, 2, stride=2)
        return [first, norm(middle), nn.GELU(), second]
    if scale == 2:
        return [nn.ConvTranspose2d(dim, middle, 2, stride=2)]
    return [] if scale == 1 else [nn.MaxPool2d(2, stride=2)]


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the scales of a pyramid as a tuple.

    Raises:
        ValueError: if they are not some of `SCALES`, from fine to coarse.
    """
    known = isinstance(scales, Sequence) and len(scales) > 0 and all(scale in SCALES for scale in scales)
    if not known or sorted(set(scales), reverse=True) != list(scales):
        raise ValueError(f'scales={scales!r} is not possible; give some of {SCALES}, from fine to coarse')
    return tuple(scales)


def check_map(neck: nn.Module, x: Tensor, in_channels: int) -> None:
    """Refuse a map that the neck was not built for.

    Raises:
        ValueError: naming both numbers of channels.
    """
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f'{type(neck).__name__} got a map of shape {tuple(x.shape)} but was built for '
            f'(N, {in_channels}, H, W); set in_channels={x.shape[1] if x.ndim == 4 else "..."}, the width of the '
            'backbone'
        )


class ConvNorm(nn.Conv2d):
    """Convolution without bias that keeps its norm inside, as detectron2's files name it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: nn.Module) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        return self.norm(super().forward(x))


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """ViTDet's pyramid: every level is made from the last map of the backbone alone.

    Level: 1 / 2 / 4 steps of transposed convolution or max pooling, a 1x1 and a 3x3 convolution, each
    followed by a LayerNorm over channels. Further levels subsample the last one.
    https://github.com/facebookresearch/detectron2/blob/02b5c4e295e990042a714712c21dc79b731e8833/detectron2/modeling/backbone/vit.py

    Args:
        in_channels: width of the backbone.
        out_channels: channels of every level; 256 in the paper.
        num_outs: number of levels; 5 (p2 to p6) for the RPN of the paper.
        in_stride: stride of the backbone's map in pixels; `out_strides` follow from it.
        eps: eps of the norms; 1e-6 in the official weights.
        init_cfg: `dict(type='Pretrained', checkpoint=...)` takes the pyramid of a ViTDet file of detectron2.

    Raises:
        ValueError: if a number is not whole and positive, `in_channels` is no multiple of 4, or `num_outs` is below 4.
    """

    weight_family: ClassVar[Family] = SIMPLE_FPN

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        *,
        num_outs: int = 5,
        in_stride: int = 16,
        eps: float = 1e-6,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = checked_int('in_channels', in_channels, 'give the width of the backbone, 768 for ViT-B')
        if in_channels % 4:
            raise ValueError(
                f'in_channels={in_channels} is no multiple of 4, and the finest level has a quarter of '
                'the channels; choose an embed_dim that is'
            )
        checked_int('out_channels', out_channels, 'give the channels of every level, 256 in the paper')
        checked_int('in_stride', in_stride, 'give the patch size of the backbone, 16 in ViTDet')
        check_number('eps', eps, '1e-6 in the official weights')
        self.num_outs = checked_int('num_outs', num_outs, 'give the number of levels, 5 in the paper')
        if num_outs < len(SCALES):
            raise ValueError(f'num_outs={num_outs} is below the {len(SCALES)} levels of the pyramid; give 5 (p2 to p6)')
        for i, scale in enumerate(SCALES):
            middle, last = in_channels // 2, in_channels // 4
            width = {4: last, 2: middle}.get(scale, in_channels)
            layers = resampling(scale, in_channels, middle, last, lambda dim: LayerNorm2d(dim, eps=eps))
            layers.append(ConvNorm(width, out_channels, 1, LayerNorm2d(out_channels, eps=eps)))
            layers.append(ConvNorm(out_channels, out_channels, 3, LayerNorm2d(out_channels, eps=eps)))
            self.add_module(f'simfp_{i + 2}', nn.Sequential(*layers))
        self.out_channels = (out_channels,) * num_outs
        strides = [in_stride / scale for scale in SCALES]
        strides += [strides[-1] * 2**i for i in range(1, num_outs - len(SCALES) + 1)]
        self.out_strides = tuple(int(stride) if stride == int(stride) else stride for stride in strides)

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, or else do what MMEngine does with `init_cfg`."""
        if not initialise_from_checkpoint(self):
            super().init_weights()

    def weights_may_miss(self) -> tuple[str, ...]:
        """Name what a published checkpoint may lack: nothing."""
        return ()

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map the last of the backbone's maps (N, C, H, W) to `num_outs` levels, (N, out_channels, 4 H, 4 W) first.

        Raises:
            ValueError: if the map has another number of channels.
        """
        x = inputs if isinstance(inputs, Tensor) else inputs[-1]
        check_map(self, x, self.in_channels)
        levels = [getattr(self, f'simfp_{i + 2}')(x) for i in range(len(SCALES))]
        while len(levels) < self.num_outs:
            # (N, out_channels, ceil(h / 2), ceil(w / 2))
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)


@MODELS.register_module()
class Feature2Pyramid(BaseModule):
    """One resolution per tapped map of a plain ViT, as BEiT feeds UperNet.

    The first map is enlarged 4 times (two transposed convolutions with norm and GELU between them), the
    second 2 times, the third stays, the fourth is max-pooled; the channels stay.
    https://github.com/microsoft/unilm/blob/768a3c873f598bb9b4d4dfb9267b099e35f8fe56/beit/semantic_segmentation/backbone/beit.py

    Args:
        in_channels: width of the backbone.
        scales: resolution of each output relative to its map, some of 4, 2, 1, 0.5 from fine to coarse.
        norm_cfg: norm between the two steps up: dict(type='LN2d' | 'BN' | 'SyncBN', eps=...). BEiT has SyncBN
            with eps 1e-5, which trains on GPUs only; LN2d works everywhere and at any batch size.
        in_stride: stride of the backbone's maps in pixels; `out_strides` follow from it.
        init_cfg: MMEngine's.

    Raises:
        ValueError: if a number is not whole and positive, or a scale or norm is none of these.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        scales: Sequence[float] = SCALES,
        norm_cfg: Mapping[str, object] | None = None,
        in_stride: int = 16,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = checked_int('in_channels', in_channels, 'give the width of the backbone, 768 for ViT-B')
        checked_int('in_stride', in_stride, 'give the patch size of the backbone, 16 in BEiT')
        self.scales = check_scales(scales)
        norm = _read_norm({'type': 'LN2d', 'eps': 1e-6} if norm_cfg is None else norm_cfg)
        for scale in self.scales:
            layers = resampling(scale, in_channels, in_channels, in_channels, norm)
            self.add_module(SCALE_NAMES[scale], nn.Sequential(*layers))
        self.out_channels = (in_channels,) * len(self.scales)
        strides = [in_stride / scale for scale in self.scales]
        self.out_strides = tuple(int(stride) if stride == int(stride) else stride for stride in strides)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map one (N, C, H, W) map per scale to (N, C, scale * H, scale * W).

        Raises:
            ValueError: if there are not as many maps as scales, or they have another number of channels.
        """
        if len(inputs) != len(self.scales):
            raise ValueError(
                f'Feature2Pyramid got {len(inputs)} maps for scales={self.scales}; give the backbone as '
                'many out_indices as there are scales'
            )
        outputs = []
        for scale, x in zip(self.scales, inputs, strict=True):
            check_map(self, x, self.in_channels)
            outputs.append(getattr(self, SCALE_NAMES[scale])(x))  # (N, C, scale * H, scale * W)
        return tuple(outputs)


def _read_norm(norm_cfg: Mapping[str, object]) -> Callable[[int], nn.Module]:
    """Turn an OpenMMLab norm_cfg into a function of the number of channels."""
    if (
        not isinstance(norm_cfg, Mapping)
        or norm_cfg.get('type') not in NORMS
        or set(norm_cfg) - {'type', 'eps', 'requires_grad'}
    ):
        raise ValueError(
            f'norm_cfg={norm_cfg!r} is not possible; give dict(type=..., eps=...) with a type of {sorted(NORMS)}'
        )
    kind, eps = NORMS[norm_cfg['type']], norm_cfg.get('eps', 1e-6 if 'LN2d' in norm_cfg['type'] else 1e-5)
    trainable = bool(norm_cfg.get('requires_grad', True))  # mmcv's word for a norm that is not frozen
    return lambda dim: kind(dim, eps=eps).requires_grad_(trainable)
