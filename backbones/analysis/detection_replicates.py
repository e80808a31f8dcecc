"""COCO's AP and AR of many weighted data sets at once: what the bootstrap over images asks of detection.

A data set in which image i counts w_i times scores as one that holds its copies: the precision-recall curve counts each
detection w_i times. Only detections that find an object can be the first to reach a recall, and the highest precision
from there on is that of such a one, too; so the curve is read at these alone, and what is wrong between them is one
cumulative sum for all IoU thresholds. With all weights 1 the result is pycocotools' own. Equal to scoring actual copies
but for one case: detections of one class and image that have the same score, one right and one wrong, take turns in
copies and do not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .bootstrap import REPLICATES, Replicates, bootstrap
from .detection_matches import AREAS, COCO_IOUS, MAX_DETS, RECALLS, Matches, grouped

LIMITS = (1, 10, 100)  # detections of an image and class, for recall
SMALL = 1 << 21  # numbers in a block of weights: 8 MB, few enough for the cache, enough to be worth a call


@dataclass(frozen=True)
class _Curve:
    """One class, size and threshold: places among the detections of the class by falling score.

    Attributes:
        right: (R,) those that find an object.
        wrong: (R,) how many of `counted` come before each.
        taken: (Q,) those of `counted` that take an object, counted or ignored.
        before: (R,) how many of `taken` come before each, itself included.
        rank: (R,) of each in its image.
    """

    right: np.ndarray
    wrong: np.ndarray
    taken: np.ndarray
    before: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True)
class _Plan:
    """One class: images of its detections by falling score, of its objects, and its curves."""

    images: np.ndarray
    counted: list[np.ndarray | None]  # of each size, which detections; None for all
    objects: list[np.ndarray]  # of each size, the images of the objects that count
    curves: list[list[_Curve]]


def coco_replicates(
    matches: Matches, *, replicates: int = REPLICATES, seed: int = 0, limits: tuple[int, ...] = LIMITS
) -> Replicates:
    """Bootstrap COCO's averages over images.

    Returns:
        `AP`, `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, `AR@<limit>` and, at 100 detections, `AR_small`,
        `AR_medium`, `AR_large`; and each of them by class, such as `AP/class` (K,): NaN where there is no object.

    Raises:
        ValueError: the matches are not those of COCO's sizes and thresholds.
    """
    weighted = WeightedCoco(matches, limits)
    return bootstrap(weighted, len(matches.overlaps.images), replicates=replicates, seed=seed, bounds=(0, 1))


class WeightedCoco:
    """The statistic: maps weights (b, I) of images to COCO's averages; see `coco_replicates`."""

    def __init__(self, matches: Matches, limits: tuple[int, ...] = LIMITS) -> None:
        if matches.thresholds != COCO_IOUS or matches.areas != tuple(AREAS):
            raise ValueError(f'matches have the thresholds {matches.thresholds} and sizes {matches.areas}; match with '
                             'the default ones, which are those of COCO')
        if not all(1 <= limit <= MAX_DETS for limit in limits):
            raise ValueError(f'limits={limits} must be numbers of detections from 1 to {MAX_DETS}')
        self.limits, self.wanted = tuple(sorted({*limits, MAX_DETS})), tuple(limits)
        found, classes = matches.overlaps.found, np.arange(len(matches.overlaps.classes) + 1)
        order = np.lexsort((-found.score, found.label))  # stable: by class, falling score, image
        order = order[found.rank[order] < MAX_DETS]
        place = np.full(len(found.label), -1)
        place[order] = np.arange(len(order))
        rows = np.flatnonzero(place[matches.rows] >= 0)
        rows = rows[np.argsort(place[matches.rows[rows]])]  # of `matches.rows`, likewise
        states = [[tuple(part[rows] for part in matches.right(area, threshold))
                   for threshold in range(len(COCO_IOUS))] for area in range(len(AREAS))]
        spots = place[matches.rows[rows]]
        bounds = np.searchsorted(found.label[order], classes)
        spans = np.searchsorted(spots, bounds)
        owned = grouped(matches.overlaps.objects.label, len(matches.overlaps.classes))
        self.plans = [
            _plan(matches, owned[k], order[start:stop], spots[first:last] - start,
                  [[(right[first:last], ignored[first:last]) for right, ignored in row] for row in states])
            for k, ((start, stop), (first, last)) in enumerate(zip(pairwise(bounds), pairwise(spans), strict=True))]

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        precision, recall = self.score(weights)
        parts = {'AP': precision[:, 0], 'AP50': precision[:, 0, :1], 'AP75': precision[:, 0, 5:6]}
        parts |= {f'AP_{name}': precision[:, n] for n, name in enumerate(AREAS) if n}
        parts |= {f'AR@{limit}': recall[:, 0, ..., self.limits.index(limit)] for limit in self.wanted}
        parts |= {f'AR_{name}': recall[:, n, ..., self.limits.index(MAX_DETS)] for n, name in enumerate(AREAS) if n}
        result = {}
        for name, values in parts.items():  # (b, T, K); a class has no number or all
            own = values.mean(axis=1)
            known = ~np.isnan(own)
            number = known.sum(axis=1)
            result[name] = np.where(number, np.where(known, own, 0).sum(axis=1) / np.maximum(number, 1), np.nan)
            result[f'{name}/class'] = own
        return result

    def score(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision (b, A, T, K) at 100 detections, and recall (b, A, T, K, L) at `limits`."""
        columns = np.ascontiguousarray(weights.T, np.int32)  # (I, b)
        shape = (len(weights), len(AREAS), len(COCO_IOUS), len(self.plans))
        precision, recall = np.full(shape, np.nan), np.full((*shape, len(self.limits)), np.nan)
        for k, plan in enumerate(self.plans):
            step = max(1, SMALL // max(1, len(plan.images)))
            for start in range(0, len(weights), step):
                some = slice(start, start + step)
                _score_class(plan, columns[:, some], self.limits, precision[some, ..., k], recall[some, ..., k, :])
        return precision, recall


def _plan(
    matches: Matches, own: np.ndarray, order: np.ndarray, spots: np.ndarray,
    states: list[list[tuple[np.ndarray, np.ndarray]]],
) -> _Plan:
    """Places of one class.

    Args:
        own: its objects, rising.
        order: its detections by falling score.
        spots: places in `order` of those that take something.
        states: for each size and threshold, which of these take an object that counts, and which one that does not.
    """
    objects, found = matches.overlaps.objects, matches.overlaps.found
    rank = found.rank[order]
    counted, wanted, curves = [], [], []
    for area, row in enumerate(states):
        inside = matches.inside[area][order]
        before = np.cumsum(inside)
        counted.append(None if inside.all() else np.flatnonzero(inside))
        wanted.append(objects.image[own[~matches.ignored[area][own]]])
        curves.append([])
        for right, ignored in row:
            hits, taken = spots[right], spots[(right | ignored) & inside[spots]]
            curves[-1].append(_Curve(hits, before[hits], taken, np.searchsorted(taken, hits, 'right'), rank[hits]))
    return _Plan(found.image[order], counted, wanted, curves)


def _score_class(
    plan: _Plan, columns: np.ndarray, limits: tuple[int, ...], precision: np.ndarray, recall: np.ndarray
) -> None:
    """Fill in precision (b, A, T) and recall (b, A, T, L) of one class for weights (I, b)."""
    weights = columns[plan.images]  # (n, b)
    for area, curves in enumerate(plan.curves):
        positives = columns[plan.objects[area]].sum(axis=0)  # (b,)
        if not positives.any():
            continue
        some = positives > 0
        counted = plan.counted[area]
        wrong = _running(weights if counted is None else weights[counted])
        table, offsets = _reached(positives)
        for threshold, curve in enumerate(curves):
            own = weights[curve.right]
            for n, limit in enumerate(limits):
                total = own.sum(axis=0) if (below := curve.rank < limit).all() else own[below].sum(axis=0)
                recall[some, area, threshold, n] = total[some] / positives[some]
            right = np.cumsum(own, axis=0, dtype=np.int32)  # (r, b)
            precision[some, area, threshold] = 0
            if len(right):
                false = wrong[curve.wrong] - _running(weights[curve.taken])[curve.before]
                height = _envelope(right / (right + false + np.spacing(1)))
                steps = np.diff(table[right + offsets], axis=0, prepend=0)
                precision[some, area, threshold] = ((height * steps).sum(axis=0) / len(RECALLS))[some]


def _running(rows: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ... rows."""
    result = np.zeros((len(rows) + 1, rows.shape[1]), np.int32)
    np.cumsum(rows, axis=0, out=result[1:])
    return result


def _envelope(precision: np.ndarray) -> np.ndarray:
    """Highest precision at this place or later."""
    return np.maximum.accumulate(precision[::-1], axis=0)[::-1]


def _reached(positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of `RECALLS` 0, 1, ... objects found of `positives` (b,) reach, in one table; where each b begins."""
    ends = np.cumsum(positives + 1, dtype=np.int64)
    offsets = ends - positives - 1
    found = np.arange(ends[-1]) - np.repeat(offsets, positives + 1)
    return np.searchsorted(RECALLS, found / np.repeat(np.maximum(positives, 1), positives + 1), 'right'), offsets
