"""Test-time augmentation for boxes and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor

from backbones.detection.mask_paste import as_rles, flip_masks
from backbones.registry import MODELS

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Merge the detections of several views (scales, flips) of an image: all boxes through one class-wise NMS.

    Each box keeps the mask of the view it was found in, a bitmap or run lengths as the model gives them. mmdet's
    `DetTTAModel` refuses models with masks.

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

        boxes, scores, labels, flips = [], [], [], []
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
            flips.append(flipped)
        merged = InstanceData(bboxes=torch.cat(boxes), scores=torch.cat(scores), labels=torch.cat(labels))
        order = torch.arange(len(merged), device=merged.bboxes.device)
        if len(merged):
            kept, order = batched_nms(merged.bboxes, merged.scores, merged.labels, self.tta_cfg['nms'])
            order = order[: self.tta_cfg['max_per_img']]
            merged = merged[order]
            merged.scores = kept[: len(order), -1]  # soft-NMS lowers scores
        if all('masks' in view.pred_instances for view in views):
            merged.masks = _masks_of([view.pred_instances.masks for view in views], flips, order)
        result = views[0]
        result.pred_instances = merged
        return result


def _masks_of(views: list[Tensor | list[dict]], flips: list[str | None], order: Tensor) -> Tensor | list[dict]:
    """Masks of the merged objects, flipped back.

    Args:
        views: bitmaps (n, H, W) or n run lengths of each view.
        flips: direction of each view, or None.
        order: (m,) places of the merged objects among those of all views.
    """
    if all(isinstance(masks, Tensor) for masks in views):
        turned = [flip_masks(masks, flip) if flip else masks for masks, flip in zip(views, flips, strict=True)]
        return torch.cat(turned)[order]
    # a view without any object may hold a tensor (0, H, W)
    found = [(mask, flip) for masks, flip in zip(views, flips, strict=True) for mask in as_rles(masks)]
    chosen = [found[place] for place in order.tolist()]
    return [flip_masks([mask], flip)[0] if flip else mask for mask, flip in chosen]
