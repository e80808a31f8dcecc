"""mmseg's decode heads of UperNet with a loss that needs no upsampled scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS

# Functions, because classes that inherit from mmseg's cannot be stated without importing mmseg. What is None here is
# left to mmseg.


@MODELS.register_module(name='UPerHead')
def uper_head(
    *,
    in_channels: Sequence[int],
    in_index: Sequence[int],
    channels: int,
    num_classes: int,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    out_channels: int | None = None,
    threshold: float | None = None,
    dropout_ratio: float = 0.1,
    conv_cfg: dict | None = None,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
    loss_decode: dict | Sequence[dict] | None = None,
    ignore_index: int = 255,
    sampler: dict | None = None,
    align_corners: bool = False,
    init_cfg: dict | None = None,
) -> nn.Module:
    """Build mmseg's `UPerHead`: its arguments, parameters, scores, and its losses within rounding.

    Cross entropy and accuracy in training are made of a few rows of upsampled scores at a time
    (`backbones.segmentation.upsampled_loss`): faster on a CPU, and without the four tensors of
    (N, classes, H, W) that need most of the memory of a training step. Other losses and samplers are mmseg's.

    Args:
        in_channels: of the maps of `in_index`.
        in_index: which of the backbone's maps.
        channels: of the head's own maps.
        num_classes: number of classes.
        pool_scales: of the pyramid pooling.
        out_channels: None: as many as classes.
        threshold: for a binary head with one channel.
        dropout_ratio: of channels, before the classifier.
        conv_cfg: None: nn.Conv2d.
        norm_cfg: None: no norm.
        act_cfg: None: ReLU.
        loss_decode: None: cross entropy.
        ignore_index: label that counts for nothing.
        sampler: of pixels (OHEM); None: all.
        align_corners: F.interpolate's.
        init_cfg: None: the classifier is drawn with deviation 0.01.
    """
    given = _given(dict(act_cfg=act_cfg, loss_decode=loss_decode, init_cfg=init_cfg))
    with toolbox_needed():
        from .decode_heads import UPerHead
    return UPerHead(
        pool_scales=tuple(pool_scales), in_channels=list(in_channels), in_index=list(in_index), channels=channels,
        num_classes=num_classes, out_channels=out_channels, threshold=threshold, dropout_ratio=dropout_ratio,
        conv_cfg=conv_cfg, norm_cfg=norm_cfg, ignore_index=ignore_index, sampler=sampler, align_corners=align_corners,
        **given)


@MODELS.register_module(name='FCNHead')
def fcn_head(
    *,
    in_channels: int | Sequence[int],
    channels: int,
    num_classes: int,
    in_index: int | Sequence[int] = -1,
    num_convs: int = 2,
    kernel_size: int = 3,
    concat_input: bool = True,
    dilation: int = 1,
    input_transform: str | None = None,
    out_channels: int | None = None,
    threshold: float | None = None,
    dropout_ratio: float = 0.1,
    conv_cfg: dict | None = None,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
    loss_decode: dict | Sequence[dict] | None = None,
    ignore_index: int = 255,
    sampler: dict | None = None,
    align_corners: bool = False,
    init_cfg: dict | None = None,
) -> nn.Module:
    """Build mmseg's `FCNHead` with the loss of `uper_head`.

    Args:
        in_channels: of the map of `in_index`, or of each of them.
        channels: of the head's own maps.
        num_classes: number of classes.
        in_index: which of the backbone's maps.
        num_convs: convolutions before the classifier.
        kernel_size: of the convolutions.
        concat_input: whether the classifier's last convolution sees the input, too.
        dilation: of the convolutions.
        input_transform: mmseg's; how several maps are joined.
        out_channels: None: as many as classes.
        threshold: for a binary head with one channel.
        dropout_ratio: of channels, before the classifier.
        conv_cfg: None: nn.Conv2d.
        norm_cfg: None: no norm.
        act_cfg: None: ReLU.
        loss_decode: None: cross entropy.
        ignore_index: label that counts for nothing.
        sampler: of pixels (OHEM); None: all.
        align_corners: F.interpolate's.
        init_cfg: None: the classifier is drawn with deviation 0.01.
    """
    given = _given(dict(act_cfg=act_cfg, loss_decode=loss_decode, init_cfg=init_cfg))
    with toolbox_needed():
        from .decode_heads import FCNHead
    return FCNHead(
        num_convs=num_convs, kernel_size=kernel_size, concat_input=concat_input, dilation=dilation,
        in_channels=in_channels, in_index=in_index, input_transform=input_transform, channels=channels,
        num_classes=num_classes, out_channels=out_channels, threshold=threshold, dropout_ratio=dropout_ratio,
        conv_cfg=conv_cfg, norm_cfg=norm_cfg, ignore_index=ignore_index, sampler=sampler, align_corners=align_corners,
        **given)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
