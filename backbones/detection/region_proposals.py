"""The class behind `backbones.RPNHead`, whose builder in rpn_head.py states what it does.

Shapes: N images, A anchors of all levels, S drawn anchors per image, K proposals before NMS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import batched_nms, nms
from mmdet.models.dense_heads import RPNHead as MMDetRPNHead
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .box_losses import box_loss, check_class_loss, check_coder, class_weights, decode, encode
from .matching import check_choice, draw, match, padded


class RPNHead(MMDetRPNHead):
    """Proposals without waiting for the device; see `backbones.detection.rpn_head`. Arguments are mmdet's."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        check_coder(self.bbox_coder, 'rpn_head')
        check_class_loss(self.loss_cls, True, 'rpn_head')
        if self.train_cfg:
            check_choice(self.assigner, self.sampler, 'train_cfg.rpn')
        self._known: tuple[Any, list[Tensor]] = (None, [])  # maps' sizes and device, anchors of each level

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors (A_i, 4) of each level, kept until the maps have other sizes."""
        device = maps[0].device
        key = [m.shape[-2:] for m in maps], device
        if self._known[0] != key:
            generator = self.prior_generator
            with torch.inference_mode(False):  # what a prediction keeps may be needed in training
                generator.base_anchors = [anchors.to(device) for anchors in generator.base_anchors]  # crosses once
                self._known = key, generator.grid_priors(key[0], dtype=torch.float32, device=device)
        return self._known[1]

    # ---- training

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Compute the losses on anchors drawn from scores (N, a, H_i, W_i) and deltas (N, 4 a, H_i, W_i)."""
        anchors = self.anchors(cls_scores)
        sizes = [tuple(scores.shape[-2:]) for scores in cls_scores]
        matched = self._matched(anchors, sizes, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        places, positives, negatives, reach = draw(matched, self.sampler)  # (N, S)
        slot = torch.arange(places.shape[1], device=places.device)
        positive, valid = slot < positives, slot < positives + negatives
        # as many as mmdet counts: at least one of each kind per image
        divisor = (positives.clamp(min=1) + negatives.clamp(min=1)).sum()
        weights = class_weights(positive, valid, self.train_cfg['pos_weight'])
        scores = _picked(cls_scores, self.cls_out_channels, places).flatten(0, 1)  # (N S, 1 or 2)
        labels = positive.flatten().long()
        if self.use_sigmoid_cls:
            scores = scores[:, 0]
        else:
            labels = 1 - labels  # class 0 is an object, class 1 is none
        loss_cls = self.loss_cls(scores, labels, weights.flatten(), avg_factor=divisor)
        # positives are among the first slots
        places, positive = places[:, :reach], positive[:, :reach]
        boxes = torch.cat(anchors)[places].flatten(0, 1)
        truth = padded([get_box_tensor(one.bboxes).to(boxes) for one in batch_gt_instances], 0)
        owner = (matched.gather(1, places) - 1).clamp(min=0)
        truth = truth.gather(1, owner[..., None].expand(-1, -1, 4)).flatten(0, 1)
        deltas = _picked(bbox_preds, self.bbox_coder.encode_size, places).flatten(0, 1)
        if self.reg_decoded_bbox:
            predicted, target = decode(self.bbox_coder, boxes, deltas), truth
        else:
            predicted, target = deltas, encode(self.bbox_coder, boxes, truth)
        loss_bbox = box_loss(self.loss_bbox, predicted, target, positive.flatten(), divisor)
        return dict(loss_rpn_cls=loss_cls, loss_rpn_bbox=loss_bbox)

    @torch.no_grad()
    def _matched(self, anchors: list[Tensor], sizes: list[tuple[int, int]], truth: InstanceList, metas: list[dict],
                 ignored: OptInstanceList) -> Tensor:
        """What each anchor (N, A) is matched with; see `matching.match`."""
        boxes, border = torch.cat(anchors), self.train_cfg['allowed_border']
        matched = []
        for i, meta in enumerate(metas):
            inside = self._on_image(sizes, meta['pad_shape'], boxes.device)
            inside = anchor_inside_flags(boxes, inside, meta['img_shape'][:2], border)
            crowd = None if ignored is None or ignored[i] is None else get_box_tensor(ignored[i].bboxes).to(boxes)
            own = get_box_tensor(truth[i].bboxes).to(boxes)
            matched.append(match(self.assigner, boxes, own, crowd, inside))
        return torch.stack(matched)

    def _on_image(self, sizes: list[tuple[int, int]], shape: Sequence[int], device: torch.device) -> Tensor:
        """Whether anchors (A,) stand on an image (H, W) and not on what was padded for the sake of others."""
        flags = []
        for (height, width), (x, y), number in zip(
                sizes, self.prior_generator.strides, self.prior_generator.num_base_priors, strict=True):
            rows = torch.arange(height, device=device) < math.ceil(shape[0] / y)
            columns = torch.arange(width, device=device) < math.ceil(shape[1] / x)
            flags.append((rows[:, None] & columns).flatten()[:, None].expand(-1, number).flatten())
        return torch.cat(flags)

    # ---- proposals

    @torch.no_grad()
    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: list[dict] | None = None,
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceList:
        """Propose boxes for each image: `bboxes` (n, 4), `scores` and `labels` (n,), best first."""
        cfg = self.test_cfg if cfg is None else cfg
        if not with_nms:
            raise ValueError('with_nms=False is not possible: proposals are what NMS leaves; leave it out')
        scores, deltas, anchors, levels = self._best(cls_scores, bbox_preds, cfg.get('nms_pre', -1))
        results = []
        for i, meta in enumerate(batch_img_metas):
            boxes = decode(self.bbox_coder, anchors[i], deltas[i], meta['img_shape'])
            if rescale:
                x_scale, y_scale = meta['scale_factor'][:2]
                boxes = torch.stack([boxes[:, 0] / x_scale, boxes[:, 1] / y_scale,
                                     boxes[:, 2] / x_scale, boxes[:, 3] / y_scale], dim=1)
            results.append(_after_nms(boxes, scores[i], levels, cfg))
        return results

    def _best(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],
              number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best anchors of each level: scores (N, K), deltas (N, K, 4), anchors (N, K, 4) and levels (K,)."""
        best = []
        for level, anchors in enumerate(self.anchors(cls_scores)):
            scores = _last(cls_scores[level].detach(), self.cls_out_channels).float()
            scores = scores[..., 0] if self.use_sigmoid_cls else scores.softmax(-1)[..., 0]  # (N, A_i)
            deltas = _last(bbox_preds[level].detach(), self.bbox_coder.encode_size)
            if 0 < number < scores.shape[1]:
                scores, chosen = scores.topk(number, dim=1)
                deltas = deltas.gather(1, chosen[..., None].expand(-1, -1, deltas.shape[2]))
                anchors = anchors[chosen]
            else:
                anchors = anchors.expand(len(scores), -1, -1)
            ids = torch.full((scores.shape[1],), level, device=scores.device)
            best.append((scores.sigmoid() if self.use_sigmoid_cls else scores, deltas.float(), anchors, ids))
        *parts, levels = zip(*best, strict=True)
        return *(torch.cat(part, dim=1) for part in parts), torch.cat(levels)


def _after_nms(boxes: Tensor, scores: Tensor, levels: Tensor, cfg: ConfigDict) -> InstanceData:
    """Drop boxes (K, 4) that are too small, and those that overlap a better one of their level."""
    least = cfg.get('min_bbox_size', -1)
    if least >= 0:
        # Counting the small ones would make the host wait. Instead each becomes a copy of the best other box, which
        # NMS then drops; were all too small, one would be left.
        large = (boxes[:, 2:] - boxes[:, :2] > least).all(dim=1)
        best = scores.masked_fill(~large, -1.0).argmax(keepdim=True)
        boxes = torch.where(large[:, None], boxes, boxes[best])
        levels, scores = torch.where(large, levels, levels[best]), scores.masked_fill(~large, -1.0)
    options = dict(cfg.nms)
    if options.pop('type', 'nms') == 'nms' and len(boxes) < options.pop('split_thr', 10000):
        # mmcv's batched_nms sends a constant to the device at every call; NMS waits, to know how many boxes are left
        apart = boxes + (levels * (boxes.max() + 1))[:, None]
        kept = nms(apart, scores, **{k: v for k, v in options.items() if k != 'class_agnostic'})[1]
        scores = scores[kept]
    else:
        found, kept = batched_nms(boxes, scores, levels, cfg.nms)
        scores = found[:, -1]
    kept, scores = kept[: cfg.max_per_img], scores[: cfg.max_per_img]
    return InstanceData(bboxes=boxes[kept], scores=scores, labels=torch.zeros_like(kept))


def _last(maps: Tensor, channels: int) -> Tensor:
    """Predictions (N, A_i, channels) of maps (N, a channels, H, W), in the order of the anchors."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, channels)


def _picked(maps: Sequence[Tensor], channels: int, places: Tensor) -> Tensor:
    """Predictions (N, S, channels) at places (N, S) among the anchors of all levels, in fp32."""
    flat = torch.cat([_last(m, channels) for m in maps], dim=1)  # (N, A, channels)
    return flat.gather(1, places[..., None].expand(-1, -1, channels)).float()
