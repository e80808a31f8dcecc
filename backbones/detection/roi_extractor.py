"""RoI features whose coordinates stay in fp32 under mixed precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor

from backbones.missing import toolbox_needed
from backbones.registry import MODELS


@MODELS.register_module()
class SingleRoIExtractor(BaseModule):
    """mmdet's `SingleRoIExtractor`, which casts the RoIs to the type of the maps: in bf16, x = 1023.7 becomes 1024.

    Here the maps are pooled in fp32 and the features returned in the maps' own type, as mmdet 2.x did and the published
    fp16 recipes were trained. In fp32 the results are mmdet's.

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
            from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MMDetExtractor

        self.extractor = MMDetExtractor(roi_layer, out_channels, list(featmap_strides), finest_scale)
        # what mmdet's RoI heads read off an extractor
        self.out_channels, self.featmap_strides = out_channels, list(featmap_strides)
        self.num_inputs, self.roi_layers = self.extractor.num_inputs, self.extractor.roi_layers

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pool RoIs (n, 5: image, x1, y1, x2, y2) from maps (N, C, H_i, W_i) to (n, C, output_size, output_size)."""
        kind = feats[0].dtype
        with torch.autocast(feats[0].device.type, enabled=False):
            # contiguous: mmcv's RoIAlign reads NHWC memory as if it were NCHW, without a word
            maps = tuple(x.float().contiguous() for x in feats)
            pooled = self.extractor(maps, rois.float(), roi_scale_factor)
        return pooled.to(kind)
