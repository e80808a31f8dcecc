"""Which boxes a head learns from: mmdet's MaxIoUAssigner and RandomSampler with shapes that do not depend on the data.

mmdet picks boxes with index lists, whose lengths the host has to ask the device for. Here every image fills a fixed
number of slots, positives first, and slots that stay empty count for nothing. Numbers of objects and of proposals are
known to the host anyway.

Shapes: N images, A boxes to choose from, G objects of an image, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.task_modules.assigners import BboxOverlaps2D, MaxIoUAssigner
from mmdet.models.task_modules.samplers import PseudoSampler, RandomSampler
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor


class Drawn(NamedTuple):
    """What was drawn for a batch: slots of all images."""

    places: Tensor  # (N, S) among the boxes of the image
    boxes: Tensor  # (N, S, 4)
    objects: Tensor  # (N, S) the object of a positive; any other number elsewhere
    truth: Tensor  # (N, S, 4) its box
    labels: Tensor  # (N, S) its class; the number of classes elsewhere
    positive: Tensor  # (N, S) bool
    valid: Tensor  # (N, S) bool: positive or negative, not empty
    is_truth: Tensor  # (N, S) bool: the box is that of an object
    reach: int  # positives are among the first `reach` slots


def check_choice(assigner: Any, sampler: Any, place: str) -> None:
    """Refuse what cannot be done with fixed shapes.

    Raises:
        ValueError: assigner or sampler are others than those below, or match on the host.
    """
    if type(assigner) is not MaxIoUAssigner or type(sampler) not in (RandomSampler, PseudoSampler):
        raise ValueError(
            f'{place} has {type(assigner).__name__} and {type(sampler).__name__}, but this head matches with '
            "MaxIoUAssigner and draws with RandomSampler or PseudoSampler; set those, or use mmdet's head")
    measure = assigner.iou_calculator
    if type(measure) is not BboxOverlaps2D or measure.scale != 1.0 or measure.dtype is not None:
        raise ValueError(
            f"{place}.assigner.iou_calculator is {measure}, but this head measures overlaps as BboxOverlaps2D in fp32 "
            "does; leave it out, or use mmdet's head")
    if assigner.gpu_assign_thr > 0 or assigner.perm_repeat_gt_cfg is not None:
        raise ValueError(
            f'{place}.assigner has gpu_assign_thr or perm_repeat_gt_cfg, with which matching waits for the host; leave '
            "them out, or use mmdet's head")


@torch.no_grad()
def match(assigner: MaxIoUAssigner, boxes: Tensor, truth: Tensor, ignored: Tensor | None = None,
          usable: Tensor | None = None) -> Tensor:
    """Match boxes with objects as mmdet's assigner does.

    Args:
        assigner: its thresholds.
        boxes: (A, 4).
        truth: (G, 4) boxes of objects.
        ignored: (I, 4) boxes of crowds.
        usable: (A,) bool, boxes that may be matched; None: all.

    Returns:
        (A,): 1 + the number of the object, 0 negative, -1 neither.
    """
    if not len(truth) or not len(boxes):
        matched = boxes.new_zeros(len(boxes), dtype=torch.long)
        return matched if usable is None else matched.masked_fill(~usable, -1)
    overlaps = overlaps_of(truth, boxes)  # (G, A)
    if assigner.ignore_iof_thr > 0 and ignored is not None and len(ignored):
        first, second = (boxes, ignored) if assigner.ignore_wrt_candidates else (ignored, boxes)
        inside = overlaps_of(first, second, of_first=True)
        inside = inside.amax(dim=1 if assigner.ignore_wrt_candidates else 0)
        overlaps = overlaps.masked_fill(inside > assigner.ignore_iof_thr, -1)
    if usable is not None:
        overlaps = overlaps.masked_fill(~usable, -1)
    best, nearest = overlaps.max(dim=0)  # (A,)
    low, high = assigner.neg_iou_thr if isinstance(assigner.neg_iou_thr, tuple) else (0, assigner.neg_iou_thr)
    # masks are filled rather than chosen by torch.where, which sends a number of the host to the device
    matched = torch.full_like(nearest, -1).masked_fill((best >= low) & (best < high), 0)
    matched = torch.where(best >= assigner.pos_iou_thr, nearest + 1, matched)
    if assigner.match_low_quality:
        claimed = _claimed(assigner, overlaps)
        matched = torch.where(claimed > 0, claimed, matched)
    return matched


def overlaps_of(first: Tensor, second: Tensor, of_first: bool = False) -> Tensor:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4), or over the first box: mmdet's `bbox_overlaps`."""
    first, second = first[:, None], second[None]
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    both = width.clamp_(min=0) * height.clamp_(min=0)
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (first, second)]
    whole = areas[0] if of_first else areas[0] + areas[1] - both
    return both / whole.clamp(min=1e-6)


def _claimed(assigner: MaxIoUAssigner, overlaps: Tensor) -> Tensor:
    """1 + the last object to which a box (A,) is nearest of all boxes, and near enough; else 0."""
    best, nearest = overlaps.max(dim=1, keepdim=True)  # (G, 1)
    if assigner.gt_max_assign_all:
        claims = overlaps == best
    else:
        claims = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(1, nearest, True)
    number = torch.arange(1, len(overlaps) + 1, device=overlaps.device, dtype=torch.int32)[:, None]
    return (claims * number.masked_fill(best < assigner.min_pos_iou, 0)).amax(dim=0).long()


@torch.no_grad()
def draw(matched: Tensor, sampler: RandomSampler | PseudoSampler) -> tuple[Tensor, Tensor, Tensor, int]:
    """Draw slots from matched boxes (N, A), at random and without repetition, positives first.

    Returns:
        Places (N, S), the numbers of positives (N, 1) and of negatives (N, 1), and the most positives there can be.
        A `PseudoSampler` takes every box, so S = A, in the order given; there the numbers say nothing of the order.
    """
    number = matched.shape[1]
    positive, negative = matched > 0, matched == 0
    if isinstance(sampler, PseudoSampler):
        places = torch.arange(number, device=matched.device).expand(len(matched), -1)
        return places, positive.sum(1, keepdim=True), negative.sum(1, keepdim=True), number
    most = int(sampler.num * sampler.pos_fraction)
    keys = torch.rand(matched.shape, device=matched.device)
    positives = positive.sum(1, keepdim=True).clamp(max=most)
    negatives = torch.minimum(negative.sum(1, keepdim=True), sampler.num - positives)
    if sampler.neg_pos_ub >= 0:
        negatives = torch.minimum(negatives, (sampler.neg_pos_ub * positives.clamp(min=1)).long())
    chosen = [
        _of_kind(keys, kind, min(limit, number), wanted)
        for kind, limit, wanted in ((positive, most, positives), (negative, sampler.num, negatives))
    ]
    slot = torch.arange(sampler.num, device=matched.device)
    after = chosen[0].shape[1]
    source = torch.where(slot < positives, slot, slot - positives + after)  # positives, then negatives
    both = torch.cat(chosen, dim=1)
    return both.gather(1, source.clamp(max=both.shape[1] - 1)), positives, negatives, most


def _of_kind(keys: Tensor, kind: Tensor, limit: int, wanted: Tensor) -> Tensor:
    """Places (N, limit) of the `wanted` (N, 1) highest keys (N, A) of a kind, in the order of the boxes, then any.

    In that order, sums over all boxes of a kind are rounded in the same way in every run.
    """
    number = keys.shape[1]
    places = keys.masked_fill(~kind, -1.0).topk(limit, dim=1).indices
    spare = torch.arange(limit, device=keys.device) >= wanted
    return places.masked_fill(spare, number).sort(dim=1).values.clamp(max=number - 1)


@torch.no_grad()
def draw_rois(assigner: MaxIoUAssigner, sampler: RandomSampler | PseudoSampler, proposals: Sequence[Tensor],
              truth: InstanceList, ignored: OptInstanceList, classes: int,
              usable: Sequence[Tensor] | None = None) -> Drawn:
    """Match the proposals of each image with its objects and draw from them, objects included if the sampler says so.

    Args:
        assigner: of the stage.
        sampler: of the stage.
        proposals: (P_i, 4) of each image.
        truth: objects of each image, with `bboxes` and `labels`.
        ignored: crowds of each image, or None.
        classes: label of what is no object.
        usable: (P_i,) bool of each image, proposals that exist; None: all.
    """
    matched, boxes, objects = [], [], []
    add = getattr(sampler, 'add_gt_as_proposals', False)
    for i, found in enumerate(proposals):
        own = get_box_tensor(truth[i].bboxes).to(found)
        crowd = None if ignored is None or ignored[i] is None else get_box_tensor(ignored[i].bboxes).to(found)
        links = match(assigner, found, own, crowd, None if usable is None else usable[i])
        if add and len(own):
            links = torch.cat([torch.arange(1, len(own) + 1, device=links.device), links])
            found = torch.cat([own, found])
        matched.append(links)
        boxes.append(found)
        objects.append(own)
    matched, boxes = padded(matched, -1), padded(boxes, 0)
    labels = padded([one.labels for one in truth], classes)
    places, positives, negatives, reach = draw(matched, sampler)
    links = matched.gather(1, places)
    if isinstance(sampler, PseudoSampler):
        positive, valid = links > 0, links >= 0
    else:
        slot = torch.arange(places.shape[1], device=places.device)
        positive, valid = slot < positives, slot < positives + negatives
    owner = (links - 1).clamp(min=0)
    own = padded([one.new_full((len(one) if add else 0,), True, dtype=torch.bool) for one in objects], False)
    return Drawn(
        places=places, boxes=_rows(boxes, places).masked_fill(~valid[..., None], 0), objects=owner,
        truth=_rows(padded(objects, 0), owner), labels=labels.gather(1, owner).masked_fill(~positive, classes),
        positive=positive, valid=valid, is_truth=valid & _at(own, places), reach=reach)


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Stack tensors (n_i, ...) to (N, max n_i, ...), at least one row, filled up with `value`."""
    most = max(1, *(len(one) for one in rows)) if rows else 1
    stacked = rows[0].new_full((len(rows), most, *rows[0].shape[1:]), value)
    for target, one in zip(stacked, rows, strict=True):
        target[: len(one)] = one
    return stacked


def _at(flags: Tensor, places: Tensor) -> Tensor:
    """Flags (N, S) of flags (N, n), false beyond n."""
    return flags.gather(1, places.clamp(max=flags.shape[1] - 1)) & (places < flags.shape[1])


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """Rows (N, S, 4) of values (N, A, 4)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))
