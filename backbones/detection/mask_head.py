"""mmdet's FCNMaskHead with masks pasted inside their boxes, as bitmaps or straight as run lengths."""

from __future__ import annotations

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


# A function, because a class that inherits from mmdet's cannot be stated without importing mmdet.
@MODELS.register_module(name='FCNMaskHead')
def fcn_mask_head(
    num_convs: int = 4,
    roi_feat_size: int = 14,
    in_channels: int = 256,
    conv_kernel_size: int = 3,
    conv_out_channels: int = 256,
    num_classes: int = 80,
    class_agnostic: bool = False,
    upsample_cfg: dict | None = None,
    conv_cfg: dict | None = None,
    norm_cfg: dict | None = None,
    predictor_cfg: dict | None = None,
    loss_mask: dict | None = None,
    init_cfg: dict | None = None,
) -> nn.Module:
    """Build mmdet's `FCNMaskHead`: its arguments, parameters, losses and masks, but less work for the masks.

    What it predicts follows two more keys of `test_cfg.rcnn`:

    - `mask_format='bitmap'` (default): `masks` is a tensor (n, H, W) of bool, as mmdet's.
    - `mask_format='rle'`: a list of COCO run lengths, `{'size': [H, W], 'counts': bytes}`. No bitmap of the image is
      ever made, and `CocoMetric` takes them as they are; whoever draws or flips masks wants
      `backbones.detection.mask_paste.as_bitmaps`. They are the run lengths of the masks that mmdet pastes on a CPU, on
      a GPU too. (Where no image of a batch has a box, mmdet's RoI head answers instead: a tensor (0, H, W).)
    - `mask_memory=3 * 2**30`: bytes that the bitmaps of one image may take.

    On a GPU, and for the grey masks of `mask_thr_binary < 0`, bitmaps are pasted by mmdet's own code.

    Args:
        num_convs: convolutions before the upsampling; 4 in the paper.
        roi_feat_size: side of the RoI features.
        in_channels: channels of the RoI features.
        conv_kernel_size: of the convolutions.
        conv_out_channels: of the convolutions.
        num_classes: masks per RoI.
        class_agnostic: one mask for all classes.
        upsample_cfg: None: mmdet's, a transposed convolution with stride 2.
        conv_cfg: of the convolutions; None: nn.Conv2d.
        norm_cfg: of the convolutions; None: no norm.
        predictor_cfg: of the last layer; None: a convolution.
        loss_mask: None: binary cross-entropy.
        init_cfg: must be None, as in mmdet.
    """
    with toolbox_needed():
        from .mask_prediction import FCNMaskHead
    if init_cfg is not None:
        raise ValueError(f'init_cfg={init_cfg!r} is not possible: FCNMaskHead draws its own weights; leave it out')
    defaults = dict(upsample_cfg=upsample_cfg, predictor_cfg=predictor_cfg, loss_mask=loss_mask)
    given = {name: value for name, value in defaults.items() if value is not None}
    return FCNMaskHead(
        num_convs=num_convs, roi_feat_size=roi_feat_size, in_channels=in_channels, conv_kernel_size=conv_kernel_size,
        conv_out_channels=conv_out_channels, num_classes=num_classes, class_agnostic=class_agnostic, conv_cfg=conv_cfg,
        norm_cfg=norm_cfg, **given)
