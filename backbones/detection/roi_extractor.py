"""RoI features from a pyramid: fp32 coordinates in every precision, all levels in one call on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor

from backbones.missing import toolbox_needed
from backbones.registry import MODELS

from .roi_pooling import Pooling, level_of, roi_align

MMCV_UP_TO = 1 / 16  # bins per pixel below which copying NCHW maps into NHWC takes longer than mmcv's kernel
OUTSIDE = -1e6  # pixels


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """mmdet's `SingleRoIExtractor`, which casts the RoIs to the type of the maps: in bf16, x = 1023.7 becomes 1024.

    Here coordinates are fp32 and the features have the maps' own type, as in mmdet 2.x, with which the published fp16
    recipes were trained. In fp32 the results are mmdet's within rounding.

    - On a CPU, `roi_pooling.roi_align` pools from all levels at once and reads NHWC maps where they lie. RoIs that are
      not finite have features that are not; RoIs that end before they begin raise a ValueError.
    - On a GPU mmcv's kernel pools every RoI from every level, but RoIs of other levels are moved outside the map, where
      they cost next to nothing and are zero. So shapes do not depend on the data, and the host never waits.
    - Layers other than RoIAlign with average pooling go through mmdet's extractor, in fp32.

    Args:
        roi_layer: `dict(type='RoIAlign', output_size=..., sampling_ratio=...)`.
        out_channels: channels of the maps.
        featmap_strides: strides of the maps in pixels, fine to coarse.
        finest_scale: side in pixels from which a RoI is pooled from the second level.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        roi_layer: dict,
        out_channels: int,
        featmap_strides: Sequence[int],
        finest_scale: int = 56,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        with toolbox_needed():
            from mmcv.ops import RoIAlign
            from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MMDetExtractor

        self.extractor = MMDetExtractor(roi_layer, out_channels, list(featmap_strides), finest_scale)
        # what mmdet's RoI heads read off an extractor
        self.out_channels, self.featmap_strides = out_channels, list(featmap_strides)
        self.num_inputs, self.roi_layers = self.extractor.num_inputs, self.extractor.roi_layers
        layer = self.roi_layers[0]
        self.pooling: Pooling | None = None
        if type(layer) is RoIAlign and layer.pool_mode == 'avg' and not layer.use_torchvision:
            scales = tuple(layer.spatial_scale for layer in self.roi_layers)
            self.pooling = Pooling(
                tuple(layer.output_size), scales, finest_scale, int(layer.sampling_ratio), bool(layer.aligned))

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pool RoIs (R, 5: image, x1, y1, x2, y2) from maps (N, C, H_i, W_i) to (R, C, *output_size)."""
        with torch.autocast(feats[0].device.type, enabled=False):
            if self.pooling is None:
                return self._mmdet(feats, rois, roi_scale_factor)
            rois = rois.float()
            if _on_cpu(feats[0]):
                lost = ~rois.isfinite().all(dim=1)
                if lost.any():  # of a step that went wrong: its loss must tell, so that the guard can leave it out
                    pooled = self(feats, rois.masked_fill(lost[:, None], 0), roi_scale_factor)
                    return pooled.masked_fill(lost.view(-1, 1, 1, 1), float('nan'))
                _check_order(rois)
            levels = level_of(rois, len(feats), self.pooling.finest_scale)
            if roi_scale_factor is not None:
                rois = self.extractor.roi_rescale(rois, roi_scale_factor)
            if _on_cpu(feats[0]) and not _few(feats, rois, self.pooling):
                return roi_align(feats, rois, self.pooling, levels)
            return self._every_level(feats, rois, levels)

    def _mmdet(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None) -> Tensor:
        # contiguous: mmcv's layers read NHWC memory as if it were NCHW, without a word
        maps = tuple(x.float().contiguous() for x in feats)
        return self.extractor(maps, rois.float(), roi_scale_factor).to(feats[0].dtype)

    def _every_level(self, feats: tuple[Tensor, ...], rois: Tensor, levels: Tensor) -> Tensor:
        """Pool with mmcv's kernel, without asking the device which RoIs belong to a level."""
        pooled = rois.new_zeros(len(rois), self.out_channels, *self.pooling.bins)
        if not len(rois):  # mmcv's kernel does not take none; the maps still get a gradient
            return (pooled + sum(x.float().sum() for x in feats) * 0).to(feats[0].dtype)
        boxes = rois[:, 1:]
        for level, (layer, x) in enumerate(zip(self.roi_layers, feats, strict=True)):
            here = boxes.masked_fill((levels != level)[:, None], OUTSIDE)
            pooled = pooled + layer(x.float().contiguous(), torch.cat([rois[:, :1], here], dim=1))
        return pooled.to(feats[0].dtype)


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == 'cpu'


def _check_order(rois: Tensor) -> None:
    if not (rois[:, 3:] >= rois[:, 1:3]).all():
        raise ValueError(
            'RoIs have edges in the wrong order, for which there are no features; give x1, y1, x2, y2 with x1 <= x2 '
            'and y1 <= y2')


def _few(feats: tuple[Tensor, ...], rois: Tensor, pooling: Pooling) -> bool:
    """Whether there are so few RoIs that maps in NCHW memory had better stay there."""
    if any(x.is_contiguous(memory_format=torch.channels_last) for x in feats):
        return False
    bins = len(rois) * pooling.bins[0] * pooling.bins[1]
    return bins < MMCV_UP_TO * sum(x[:, 0].numel() for x in feats)
