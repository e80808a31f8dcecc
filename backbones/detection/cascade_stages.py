"""The stages of `backbones.CascadeRoIHead`, whose builder in cascade_roi_head.py states what they do.

Shapes: n RoIs of all images together, M side of a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead as MMDetCascadeRoIHead
from mmdet.models.utils import empty_instances, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from torch import Tensor

from .box_losses import decode
from .slots import Slots, fixed_slots, mask_head_loss
from .staged_slots import StagedSlots


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


class CascadeRoIHead(StagedSlots, MMDetCascadeRoIHead):
    """Box heads in a row, one mask head; see `backbones.detection.cascade_roi_head`. Arguments are mmdet's."""

    def init_mask_head(self, mask_roi_extractor: dict | None, mask_head: dict) -> None:
        """Build the one mask head, under the names that it has in a Mask R-CNN."""
        self.share_roi_extractor = mask_roi_extractor is None
        if mask_roi_extractor is not None:
            self.mask_roi_extractor = MODELS.build(mask_roi_extractor)
        else:
            self.mask_roi_extractor = self.bbox_roi_extractor[0]
        self.mask_head = MODELS.build(mask_head)

    # ---- training

    def loss(self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Compute the losses of all stages and of the mask head."""
        truth, ignored, metas = unpack_gt_instances(batch_data_samples)
        losses = {}
        proposals, usable = [found.bboxes for found in rpn_results_list], None
        fixed = fixed_slots(self.static_slots, self, x[0].device)
        for stage in range(self.num_stages):
            slots = self._draw(stage, proposals, usable, truth, ignored, fixed)
            results = self._bbox_forward(stage, x, slots.rois)
            losses.update(self._stage_losses(stage, results, slots))
            if stage == 0:
                first = slots
            if stage < self.num_stages - 1:
                proposals, usable = self._refined(stage, slots, results, metas)
        if self.with_mask:
            predicted = self._mask_forward(x, first.rois[first.among])
            losses['loss_mask'] = (
                mask_head_loss(self.mask_head, predicted, first, truth, self.train_cfg[0])
                if len(predicted) else predicted.sum())
        return losses

    @torch.no_grad()
    def _refined(self, stage: int, slots: Slots, results: dict, metas: list[dict]) -> tuple[list[Tensor], list[Tensor]]:
        """Move the boxes (P_i, 4) of a stage as its head says; those that became empty are no longer usable (P_i,)."""
        coder, refined = self.bbox_head[stage].bbox_coder, []
        images = map(slots.images, (slots.rois[:, 1:], results['bbox_pred'].detach().float()))
        for boxes, deltas, meta in zip(*images, metas, strict=True):
            refined.append(decode(coder, boxes, deltas, meta['img_shape']))
        full = [(boxes[:, 2:] > boxes[:, :2]).all(dim=1) for boxes in refined]
        return refined, [valid & good for valid, good in zip(slots.images(slots.valid), full, strict=True)]

    def _bbox_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict:
        """Apply the box head of a stage to RoIs (n, 5), in training and at test."""
        extractor = self.bbox_roi_extractor[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        features = _ScaleGradient.apply(features, 1.0 / self.num_stages)
        scores, deltas = self.bbox_head[stage](features)  # (n, classes + 1), (n, 4)
        return dict(cls_score=scores, bbox_pred=deltas, bbox_feats=features)

    def _mask_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Predict masks (n, classes, M, M) for RoIs (n, 5)."""
        return self.mask_head(self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois))

    # ---- test

    def _refine_roi(self, x: tuple[Tensor, ...], rois: Tensor, batch_img_metas: list[dict],
                    num_proposals_per_img: tuple[int, ...]) -> tuple[tuple[Tensor, ...], ...]:
        """Take the RoIs through all stages.

        Returns:
            RoIs of the last stage, scores and deltas, each one tensor per image. The scores are logarithms of the
            mean probabilities, of which mmdet's softmax makes the mean probabilities again.
        """
        probabilities = 0
        for stage in range(self.num_stages):
            results = self._bbox_forward(stage, x, rois)
            probabilities = probabilities + results['cls_score'].float().softmax(dim=-1)
            if stage < self.num_stages - 1:
                images = zip(
                    rois.split(num_proposals_per_img), results['bbox_pred'].split(num_proposals_per_img),
                    batch_img_metas, strict=True)
                coder = self.bbox_head[stage].bbox_coder
                boxes = [coder.decode(roi[:, 1:], delta, max_shape=meta['img_shape']) for roi, delta, meta in images]
                rois = torch.cat([rois[:, :1], torch.cat(boxes)], dim=1)  # (n, 5)
        scores = (probabilities / self.num_stages).log()  # (n, classes + 1)
        return tuple(part.split(num_proposals_per_img) for part in (rois, scores, results['bbox_pred']))

    def predict_mask(self, x: tuple[Tensor, ...], batch_img_metas: list[dict], results_list: InstanceList,
                     rescale: bool = False) -> InstanceList:
        """Add masks to the final boxes."""
        rois = bbox2roi([found.bboxes for found in results_list])
        if len(rois) == 0:
            return empty_instances(
                batch_img_metas, rois.device, task_type='mask', instance_results=results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary)
        masks = self._mask_forward(x, rois).split([len(found) for found in results_list])
        return self.mask_head.predict_by_feat(
            mask_preds=masks, results_list=results_list, batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg, rescale=rescale)

    def forward(self, x: tuple[Tensor, ...], rpn_results_list: InstanceList,
                batch_data_samples: SampleList) -> tuple:
        """Run all heads without post-processing, to export a model or count its operations."""
        counts = tuple(len(found) for found in rpn_results_list)
        rois = bbox2roi([found.bboxes for found in rpn_results_list])
        metas = [sample.metainfo for sample in batch_data_samples]
        rois, scores, deltas = self._refine_roi(x, rois, metas, counts)
        masks = (self._mask_forward(x, torch.cat(rois)[:100]),) if self.with_mask else ()
        return scores, deltas, *masks
