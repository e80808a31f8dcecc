"""What the heads of a cascade do in each stage, with fixed slots in place of index lists.

Shapes: n slots of all images, P_i proposals of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead as MMDetCascadeRoIHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor, nn

from .box_losses import decode
from .matching import check_choice, draw_rois
from .slots import Slots, box_losses_of, check_box_head, check_mask_head, fixed_slots, mask_head_loss, slots_of


class StagedSlots:
    """A part of cascades: checks, draws and losses of a stage."""

    static_slots: bool | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for stage, head in enumerate(self.bbox_head):
            check_box_head(head, f'bbox_head[{stage}]')
        if self.with_mask:
            for head in self.mask_head if isinstance(self.mask_head, nn.ModuleList) else [self.mask_head]:
                check_mask_head(head, 'mask_head')
        for stage, (assigner, sampler) in enumerate(zip(self.bbox_assigner, self.bbox_sampler, strict=True)):
            check_choice(assigner, sampler, f'train_cfg.rcnn[{stage}]')

    def _draw(self, stage: int, proposals: Sequence[Tensor], usable: Sequence[Tensor] | None, truth: InstanceList,
              ignored: InstanceList, fixed: bool) -> Slots:
        """Match proposals (P_i, 4) of each image with its objects, and draw from them as the stage's sampler does."""
        classes = self.bbox_head[stage].num_classes
        drawn = draw_rois(
            self.bbox_assigner[stage], self.bbox_sampler[stage], proposals, truth, ignored, classes, usable)
        return slots_of(drawn, fixed)

    def _stage_losses(self, stage: int, results: dict[str, Tensor], slots: Slots) -> dict[str, Tensor]:
        """Weighted losses of a stage's box head, under the names `s0.loss_cls` ..."""
        losses = box_losses_of(
            self.bbox_head[stage], results['cls_score'], results['bbox_pred'], slots, self.train_cfg[stage])
        weight = self.stage_loss_weights[stage]
        return {f's{stage}.{name}': value * weight if 'loss' in name else value for name, value in losses.items()}


class StagedRoIHead(StagedSlots, MMDetCascadeRoIHead):
    """mmdet's cascade with fixed slots; see `backbones.detection.staged_roi_head`. Arguments are mmdet's."""

    def loss(self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Compute the losses of the box heads and mask heads of all stages."""
        truth, ignored, metas = unpack_gt_instances(batch_data_samples)
        losses = {}
        proposals, usable = [found.bboxes for found in rpn_results_list], None
        fixed = fixed_slots(self.static_slots, self, x[0].device)
        for stage in range(self.num_stages):
            slots = self._draw(stage, proposals, usable, truth, ignored, fixed)
            results = self._bbox_forward(stage, x, slots.rois)
            losses.update(self._stage_losses(stage, results, slots))
            if self.with_mask:
                masks = self._mask_forward(stage, x, slots.rois[slots.among])['mask_preds']
                loss = masks.sum()
                if len(masks):
                    loss = mask_head_loss(self.mask_head[stage], masks, slots, truth, self.train_cfg[stage])
                losses[f's{stage}.loss_mask'] = loss * self.stage_loss_weights[stage]
            if stage < self.num_stages - 1:
                proposals, usable = self._refined(stage, slots, results, metas)
        return losses

    @torch.no_grad()
    def _refined(self, stage: int, slots: Slots, results: dict, metas: list[dict]) -> tuple[list[Tensor], list[Tensor]]:
        """Move boxes (P_i, 4) to where the stage sees their class; objects themselves are no longer usable (P_i,)."""
        head = self.bbox_head[stage]
        best = results['cls_score'].detach()[:, :-1].argmax(dim=1)
        labels = torch.where(slots.labels == head.num_classes, best, slots.labels)
        size = head.bbox_coder.encode_size
        deltas = results['bbox_pred'].detach().unflatten(1, (-1, size))
        own = torch.zeros_like(labels) if head.reg_class_agnostic else labels
        deltas = deltas[torch.arange(len(labels), device=labels.device), own].float()  # (n, 4)
        images = zip(slots.images(slots.rois[:, 1:]), slots.images(deltas), metas, strict=True)
        refined = [decode(head.bbox_coder, boxes, moves, meta['img_shape']) for boxes, moves, meta in images]
        return refined, list(slots.images(slots.valid & ~slots.is_truth))
