"""The class behind `backbones.StandardRoIHead`, whose builder in standard_roi_head.py states what it does."""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads import StandardRoIHead as MMDetStandardRoIHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor

from .matching import check_choice, draw_rois
from .slots import Slots, box_losses_of, check_box_head, check_mask_head, fixed_slots, mask_head_loss, slots_of


class StandardRoIHead(MMDetStandardRoIHead):
    """Fixed slots in place of index lists; see `backbones.detection.standard_roi_head`. Arguments are mmdet's."""

    static_slots: bool | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not self.with_bbox:
            raise ValueError("bbox_head is missing, without which there are no RoIs to learn from; give one")
        check_box_head(self.bbox_head, 'bbox_head')
        if self.with_mask:
            check_mask_head(self.mask_head, 'mask_head')
        if self.train_cfg:
            check_choice(self.bbox_assigner, self.bbox_sampler, 'train_cfg.rcnn')

    def loss(self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Compute the losses of the box head and of the mask head."""
        truth, ignored, _ = unpack_gt_instances(batch_data_samples)
        drawn = draw_rois(
            self.bbox_assigner, self.bbox_sampler, [found.bboxes for found in rpn_results_list], truth, ignored,
            self.bbox_head.num_classes)
        slots = slots_of(drawn, fixed_slots(self.static_slots, self, x[0].device))
        results = self._bbox_forward(x, slots.rois)
        losses = box_losses_of(
            self.bbox_head, results['cls_score'], results['bbox_pred'], slots, self.train_cfg)
        if self.with_mask:
            losses['loss_mask'] = self._mask_loss(x, slots, results['bbox_feats'], truth)
        return losses

    def _mask_loss(self, x: tuple[Tensor, ...], slots: Slots, features: Tensor, truth: InstanceList) -> Tensor:
        """Compute the loss of the mask head, on RoIs of its own size or (one extractor) on features (n, C, B, B)."""
        if self.share_roi_extractor:
            predicted = self.mask_head(features[slots.among])
        else:
            predicted = self._mask_forward(x, slots.rois[slots.among])['mask_preds']
        if not len(predicted):
            return predicted.sum()
        return mask_head_loss(self.mask_head, predicted, slots, truth, self.train_cfg)
