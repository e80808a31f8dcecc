"""The stages of `backbones.CascadeRoIHead`, whose builder in cascade_roi_head.py states what they do.

Shapes: n RoIs of all images together, M side of a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead as MMDetCascadeRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import empty_instances, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


class CascadeRoIHead(MMDetCascadeRoIHead):
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
        proposals = [found.bboxes for found in rpn_results_list]
        for stage in range(self.num_stages):
            self.current_stage = stage
            drawn = self._draw(stage, x, proposals, truth, ignored)
            results = self.bbox_loss(stage, x, drawn)
            weight = self.stage_loss_weights[stage]
            for name, value in results['loss_bbox'].items():
                losses[f's{stage}.{name}'] = value * weight if 'loss' in name else value
            if stage == 0:
                first = drawn
            if stage < self.num_stages - 1:
                proposals = self._refined(stage, drawn, results, metas)
        if self.with_mask:
            losses.update(self._mask_losses(x, first, truth))
        return losses

    def _draw(self, stage: int, x: tuple[Tensor, ...], proposals: list[Tensor], truth: InstanceList,
              ignored: InstanceList) -> list[SamplingResult]:
        """Match the proposals of each image with its objects, and draw from them as the stage's sampler does."""
        drawn = []
        for i, boxes in enumerate(proposals):
            priors = InstanceData(priors=boxes)
            matched = self.bbox_assigner[stage].assign(priors, truth[i], ignored[i])
            maps = [level[i][None] for level in x]
            drawn.append(self.bbox_sampler[stage].sample(matched, priors, truth[i], feats=maps))
        return drawn

    @torch.no_grad()
    def _refined(self, stage: int, drawn: list[SamplingResult], results: dict, metas: list[dict]) -> list[Tensor]:
        """Move the boxes of a stage as its head says; those that became empty are dropped."""
        deltas = results['bbox_pred'].detach().split([len(result.priors) for result in drawn])
        refined = []
        for result, delta, meta in zip(drawn, deltas, metas, strict=True):
            boxes = self.bbox_head[stage].bbox_coder.decode(result.priors, delta, max_shape=meta['img_shape'])
            refined.append(boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)])
        return refined

    def bbox_loss(self, stage: int, x: tuple[Tensor, ...], sampling_results: list[SamplingResult]) -> dict:
        """Compute the losses of one stage; zero, but with a gradient for every parameter, where there is no box."""
        results = super().bbox_loss(stage, x, sampling_results)
        results['loss_bbox'].setdefault('loss_cls', results['cls_score'].sum() * 0)
        return results

    def _bbox_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict:
        """Apply the box head of a stage to RoIs (n, 5), in training and at test."""
        extractor = self.bbox_roi_extractor[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        features = _ScaleGradient.apply(features, 1.0 / self.num_stages)
        scores, deltas = self.bbox_head[stage](features)  # (n, classes + 1), (n, 4)
        return dict(cls_score=scores, bbox_pred=deltas, bbox_feats=features)

    def _mask_losses(self, x: tuple[Tensor, ...], drawn: list[SamplingResult], truth: InstanceList) -> dict:
        """Compute the loss of the mask head on the positives of the first stage."""
        predicted = self._mask_forward(x, bbox2roi([result.pos_priors for result in drawn]))
        return self.mask_head.loss_and_target(
            mask_preds=predicted, sampling_results=drawn, batch_gt_instances=truth,
            rcnn_train_cfg=self.train_cfg[0])['loss_mask']

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
