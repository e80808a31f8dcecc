"""Box deltas and losses on slots, with mmdet's values but without waiting for the device.

Shapes: n slots of all images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.losses import CrossEntropyLoss, GIoULoss
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn

EPSILON = torch.finfo(torch.float32).eps  # what mmdet adds to each divisor
# How far a decoded box may differ in width or height: the default of DeltaXYWHBBoxCoder.decode
LARGEST_RATIO = 16 / 1000


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant that crosses to the device once; mmdet's coder sends its means and deviations at every call."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def check_coder(coder: Any, place: str) -> None:
    """Refuse coders other than mmdet's DeltaXYWHBBoxCoder."""
    if type(coder) is not DeltaXYWHBBoxCoder or coder.add_ctr_clamp or coder.use_box_type:
        raise ValueError(
            f'{place}.bbox_coder is a {type(coder).__name__} whose boxes this head does not know; use a '
            "DeltaXYWHBBoxCoder without add_ctr_clamp and use_box_type, or mmdet's head")


def check_class_loss(loss: nn.Module, sigmoid: bool, place: str) -> None:
    """Refuse classification losses whose value needs the host."""
    if type(loss) is not CrossEntropyLoss or loss.use_mask or (loss.use_sigmoid and not sigmoid):
        raise ValueError(
            f'{place}.loss_cls is a {type(loss).__name__}, which this head does not compute; use CrossEntropyLoss'
            f"{'' if sigmoid else ' with use_sigmoid=False'}, or mmdet's head")


def encode(coder: DeltaXYWHBBoxCoder, boxes: Tensor, truth: Tensor) -> Tensor:
    """Deltas (..., 4) that lead from boxes to objects: mmdet's `bbox2delta`."""
    size, goal = boxes[..., 2:] - boxes[..., :2], truth[..., 2:] - truth[..., :2]
    middle, target = (boxes[..., :2] + boxes[..., 2:]) * 0.5, (truth[..., :2] + truth[..., 2:]) * 0.5
    deltas = torch.cat([(target - middle) / size, torch.log(goal / size)], dim=-1)
    device = boxes.device
    return (deltas - _constant(tuple(coder.means), device)) / _constant(tuple(coder.stds), device)


def decode(coder: DeltaXYWHBBoxCoder, boxes: Tensor, deltas: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Boxes (..., 4) moved by deltas, and clipped to an image (H, W): mmdet's `delta2bbox`."""
    device = boxes.device
    deltas = deltas * _constant(tuple(coder.stds), device) + _constant(tuple(coder.means), device)
    middle, side = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
    largest = abs(math.log(LARGEST_RATIO))
    middle = middle + side * deltas[..., :2]
    half = side * deltas[..., 2:].clamp(-largest, largest).exp() * 0.5
    moved = torch.cat([middle - half, middle + half], dim=-1)
    if coder.clip_border and size is not None:
        return clip(moved, size)
    return moved


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (..., 4) inside an image (H, W)."""
    height, width = size[:2]
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def box_loss(loss: nn.Module, predicted: Tensor, target: Tensor, counts: Tensor, divisor: Tensor) -> Tensor:
    """Sum of a box loss over the slots that count (n,), divided; the others get a gradient of zero."""
    counts = counts[:, None]
    target = target.masked_fill(~counts, 0)  # no object, no finite target
    predicted = torch.where(counts, predicted, target)
    if type(loss) is GIoULoss:  # mmdet's sends its epsilon to the device
        each = loss.loss_weight * (1 - generalised_overlap(predicted, target, loss.eps))
    else:
        each = loss(predicted, target, reduction_override='none')  # (n, 4), or (n,) for losses on whole boxes
    return (each * (counts if each.dim() == 2 else counts[:, 0])).sum() / (divisor + EPSILON)


def generalised_overlap(first: Tensor, second: Tensor, epsilon: float) -> Tensor:
    """Generalised intersection over union (n,) of boxes (n, 4), https://arxiv.org/abs/1902.09630."""
    inner = _area(torch.min(first[:, 2:], second[:, 2:]) - torch.max(first[:, :2], second[:, :2]))
    outer = _area(torch.max(first[:, 2:], second[:, 2:]) - torch.min(first[:, :2], second[:, :2])).clamp(min=epsilon)
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    union = (areas[0] + areas[1] - inner).clamp(min=epsilon)
    return inner / union - (outer - union) / outer


def _area(sides: Tensor) -> Tensor:
    """Areas (n,) of widths and heights (n, 2), zero where one is negative."""
    sides = sides.clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def class_weights(positive: Tensor, valid: Tensor, pos_weight: float) -> Tensor:
    """Weights (n,) of the classification loss: 1, `pos_weight` for positives where it is above 0, 0 if empty."""
    if pos_weight <= 0:
        return valid.float()
    return valid.float().masked_fill(positive, float(pos_weight))


def box_head_losses(
    head: BBoxHead,
    scores: Tensor,
    deltas: Tensor,
    boxes: Tensor,
    truth: Tensor,
    labels: Tensor,
    valid: Tensor,
    among: Tensor,
    pos_weight: float,
) -> dict[str, Tensor]:
    """Compute what mmdet's `BBoxHead.loss_and_target` computes.

    Args:
        head: its losses, coder and number of classes.
        scores: (n, classes + 1).
        deltas: (n, 4), or (n, classes * 4).
        boxes: (n, 4) the RoIs.
        truth: (n, 4) boxes of their objects.
        labels: (n,) class, or the number of classes.
        valid: (n,) bool, slots that are not empty.
        among: (m,) slots among which all positives are.
        pos_weight: weight of positives, if above 0.
    """
    positive = valid & (labels < head.num_classes)
    weights = class_weights(positive, valid, pos_weight)
    drawn = valid.sum()
    scores = scores.float()
    losses = dict(loss_cls=head.loss_cls(scores, labels, weights, avg_factor=(weights > 0).sum().clamp(min=1)))
    right = (scores.detach().argmax(dim=1) == labels) & valid
    losses['acc'] = right.sum(dim=0, keepdim=True) * (100.0 / drawn.clamp(min=1))
    boxes, truth, labels, positive = boxes[among], truth[among], labels[among], positive[among]
    size = head.bbox_coder.encode_size
    deltas = deltas.unflatten(1, (-1, size))
    own = torch.zeros_like(labels) if head.reg_class_agnostic else labels.clamp(max=head.num_classes - 1)
    deltas = deltas[among, own].float()
    if head.reg_decoded_bbox:
        predicted, target = decode(head.bbox_coder, boxes, deltas), truth
    else:
        predicted, target = deltas, encode(head.bbox_coder, boxes, truth)
    losses['loss_bbox'] = box_loss(head.loss_bbox, predicted, target, positive, drawn)
    return losses
