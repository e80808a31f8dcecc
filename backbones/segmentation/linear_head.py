"""The linear evaluation of DINOv2 and DINOv3 on dense labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from backbones.layers import checked_int
from backbones.missing import toolbox_needed
from backbones.registry import MODELS

NORM_CFG = {'type': 'SyncBN', 'eps': 1e-5}


# A function, because a class that inherits from mmseg's cannot be stated without importing mmseg.
@MODELS.register_module(name='LinearHead')
def linear_head(
    *,
    in_channels: int | Sequence[int],
    num_classes: int,
    in_index: int | Sequence[int] = -1,
    dropout_ratio: float = 0.0,
    norm_cfg: dict | None = None,
    align_corners: bool = False,
    ignore_index: int = 255,
    loss_decode: dict | Sequence[dict] | None = None,
    init_cfg: dict | None = None,
) -> nn.Module:
    """Build a `LinearHead`: batch norm of the features and one 1x1 convolution.

    The maps are resized to the first one chosen and joined. Parameters are named as in DINOv2's head files (`bn`,
    `conv_seg`). Dropout comes before the norm, as in DINOv3; DINOv2 has none.
    https://github.com/facebookresearch/dinov2/blob/7c503b3/dinov2/eval/segmentation/models/decode_heads/linear_head.py
    https://github.com/facebookresearch/dinov3/blob/6876159/dinov3/eval/segmentation/models/heads/linear_head.py

    Args:
        in_channels: channels of the chosen map, or of each of them.
        num_classes: number of classes.
        in_index: which of the backbone's maps; one (the last: both papers) or several.
        dropout_ratio: share of channels dropped in training; 0 in DINOv2, 0.1 in DINOv3.
        norm_cfg: `dict(type='SyncBN' | 'BN', eps=...)`; None: SyncBN with eps 1e-5, as both. BN where one process
            trains, and on a CPU.
        align_corners: how the maps and scores are resized.
        ignore_index: label that counts for nothing.
        loss_decode: mmseg's losses; None: cross entropy.
        init_cfg: MMEngine's; None: the classifier's weights are drawn with deviation 0.01, as in both.

    Raises:
        ValueError: if the numbers do not fit each other or the norm is none of these.
    """
    channels = _tuple('in_channels', in_channels)
    for number in channels:
        checked_int('in_channels', number, 'give the width of each chosen map, 768 for ViT-B')
    checked_int('num_classes', num_classes, 'give the number of classes, 150 for ADE20K')
    chosen = _tuple('in_index', in_index)
    if len(channels) != len(chosen):
        raise ValueError(
            f'in_channels={in_channels!r} names {len(channels)} maps and in_index={in_index!r} {len(chosen)}; give '
            'one number of channels per chosen map')
    norm = dict(NORM_CFG if norm_cfg is None else norm_cfg)
    if norm.get('type') not in ('SyncBN', 'BN') or 'eps' not in norm:
        raise ValueError(f"norm_cfg={norm_cfg!r} is not possible; give dict(type='SyncBN' or 'BN', eps=1e-5)")
    if not 0 <= dropout_ratio < 1:
        raise ValueError(f'dropout_ratio={dropout_ratio!r} is not possible; give a share of the channels in [0, 1)')
    settings = {} if init_cfg is None else {'init_cfg': init_cfg}
    if loss_decode is not None:
        settings['loss_decode'] = loss_decode
    with toolbox_needed():
        from backbones.segmentation.linear_decode_head import LinearHead
    return LinearHead(
        in_channels=list(channels), in_index=list(chosen), channels=sum(channels), num_classes=num_classes,
        dropout_ratio=dropout_ratio, norm_cfg=norm, align_corners=align_corners, ignore_index=ignore_index,
        input_transform='resize_concat', **settings)


def _tuple(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """Turn one whole number or several into a tuple."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(isinstance(one, int) and not isinstance(one, bool) for one in values):
        raise ValueError(f'{name}={value!r} is not possible; give a whole number, or a list of them')
    return values
