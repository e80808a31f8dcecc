"""How far two results lie apart: feature maps, class maps, detections, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SAME_BOX = 1.0  # pixels by which the sides of a box may differ to be the same detection


@dataclass(frozen=True)
class Difference:
    """Of one result of ours from one of a peer.

    Attributes:
        absolute: the largest difference of two values.
        relative: the same divided by the peer's largest value (of the same map); the worst map counts.
        detail: what the numbers do not say, or ''.
    """

    absolute: float
    relative: float
    detail: str = ''


def of_tensors(ours: Sequence[Tensor], peer: Sequence[Tensor], detail: str = '') -> Difference:
    """Compare maps one by one.

    Raises:
        ValueError: their number or their shapes differ.
    """
    shapes = [[tuple(value.shape) for value in values] for values in (ours, peer)]
    if shapes[0] != shapes[1]:
        raise ValueError(f'ours returns maps of the shapes {shapes[0]}, the peer {shapes[1]}; these cannot be compared')
    worst = Difference(0.0, 0.0, detail)
    for mine, theirs in zip(ours, peer, strict=True):
        if not theirs.numel():
            continue
        mine, theirs = mine.detach().float().cpu(), theirs.detach().float().cpu()
        apart = float((mine - theirs).abs().max())
        largest = float(theirs.abs().max())
        relative = apart / largest if largest else float(apart > 0)
        worst = Difference(_larger(worst.absolute, apart), _larger(worst.relative, relative), detail)
    return worst


def _larger(a: float, b: float) -> float:
    """The maximum, where NaN is more than anything: Python's max() may lose it."""
    return b if b != b or b > a else a


def of_losses(ours: Mapping[str, float], peer: Mapping[str, float]) -> Difference:
    """Compare the losses of one training step by name.

    Raises:
        ValueError: their names differ.
    """
    if set(ours) != set(peer):
        raise ValueError(f'ours has the losses {sorted(ours)}, the peer {sorted(peer)}; these cannot be compared')
    names = sorted(peer)
    pairs = [(torch.tensor([ours[name]]), torch.tensor([peer[name]])) for name in names]
    worst = [of_tensors([mine], [theirs]) for mine, theirs in pairs]
    most = max(range(len(names)), key=lambda i: worst[i].relative if worst[i].relative == worst[i].relative else 1e9)
    return Difference(
        max(item.absolute for item in worst), worst[most].relative, f'most in {names[most]}')


def of_samples(ours: Sequence[Any], peer: Sequence[Any]) -> Difference:
    """Compare the results of `test_step`: class scores or labels of every pixel, or detections."""
    if 'pred_sem_seg' in ours[0]:
        equal = torch.cat([(a.pred_sem_seg.data == b.pred_sem_seg.data).flatten()
                           for a, b in zip(ours, peer, strict=True)]).float().mean()
        detail = f'{100 * float(equal):.3f} % of the pixels get the same class'
        if 'seg_logits' not in ours[0]:  # labels only: the share that differs
            return Difference(1 - float(equal), 1 - float(equal), detail)
        return of_tensors([a.seg_logits.data for a in ours], [b.seg_logits.data for b in peer], detail)
    if 'pred_instances' in ours[0]:
        return _of_detections(ours, peer)
    raise ValueError(f'the model predicts {ours[0].keys()}, which no comparison is written for; leave out '
                     "'inference' from --what")


def _of_detections(ours: Sequence[Any], peer: Sequence[Any]) -> Difference:
    """Scores of the detections that both found: same class, sides within a pixel, each taken once.

    The rest is counted: where two scores are nearly equal, rounding decides which box non-maximum suppression keeps.
    """
    mine, theirs, total, apart = [], [], 0, 0.0
    for a, b in zip(ours, peer, strict=True):
        a, b = a.pred_instances, b.pred_instances
        total += max(len(a.scores), len(b.scores))
        if not len(a.scores) or not len(b.scores):
            continue
        distance = (b.bboxes[:, None].float().cpu() - a.bboxes[None].float().cpu()).abs().amax(-1)  # (theirs, mine)
        distance[b.labels[:, None].cpu() != a.labels[None].cpu()] = float('inf')
        for i in range(len(b.scores)):
            nearest = int(distance[i].argmin())
            if not distance[i, nearest] <= SAME_BOX:
                continue
            apart = max(apart, float(distance[i, nearest]))
            mine.append(float(a.scores[nearest]))
            theirs.append(float(b.scores[i]))
            distance[:, nearest] = float('inf')
    detail = f'{len(mine)} of {total} detections found by both, boxes within {apart:.2g} px'
    return of_tensors([torch.tensor(mine)], [torch.tensor(theirs)], detail)
