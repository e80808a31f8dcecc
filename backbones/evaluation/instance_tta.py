"""Test-time augmentation for boxes and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor

from backbones.registry import MODELS

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample


def _unflip_masks(masks: Tensor, direction: str) -> Tensor:
    """Flip masks (N, H, W) back."""
    axes = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}[direction]
    return masks.flip(axes)


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Merge the detections of several views (scales, flips) of an image: all boxes through one class-wise NMS.

    Each box keeps the mask of the view it was found in. mmdet's `DetTTAModel` refuses models with masks.

    Args:
        tta_cfg: `dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)`.
    """

    def __init__(self, tta_cfg: dict, **kwargs) -> None:
        super().__init__(**kwargs)
        self.tta_cfg = tta_cfg

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        """Merge, for each image, the predictions of its views; boxes are in pixels of the original image."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: list[DetDataSample]) -> DetDataSample:
        from mmcv.ops import batched_nms
        from mmdet.structures.bbox import bbox_flip

        boxes, scores, labels, masks = [], [], [], []
        for view in views:
            found, meta = view.pred_instances, view.metainfo
            if 'flip' not in meta:
                raise ValueError(
                    "a view does not tell whether it is flipped: leave meta_keys of PackDetInputs out, or add 'flip' "
                    "and 'flip_direction'")
            flipped = meta['flip_direction'] if meta['flip'] else None
            boxes.append(bbox_flip(found.bboxes, meta['ori_shape'], flipped) if flipped else found.bboxes)
            scores.append(found.scores)
            labels.append(found.labels)
            if 'masks' in found:
                masks.append(_unflip_masks(found.masks, flipped) if flipped else found.masks)
        merged = InstanceData(bboxes=torch.cat(boxes), scores=torch.cat(scores), labels=torch.cat(labels))
        if masks:
            merged.masks = torch.cat(masks)
        if len(merged):
            kept, order = batched_nms(merged.bboxes, merged.scores, merged.labels, self.tta_cfg['nms'])
            limit = self.tta_cfg['max_per_img']
            merged = merged[order[:limit]]
            merged.scores = kept[:limit, -1]  # soft-NMS lowers scores
        result = views[0]
        result.pred_instances = merged
        return result
