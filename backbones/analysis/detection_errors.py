"""What a detector gets wrong, by kind, and the AP each kind costs: TIDE, https://arxiv.org/abs/2008.08115.

Each detection that finds nothing has one error, by its highest IoU with the objects of its image (t = 0.5 makes it
right, b = 0.1 is background), the first of these that holds, in the order of the authors' code
(`_eval_image` of tidecv 1.0.1, https://github.com/dbolya/tide/blob/master/tidecv/quantify.py):

    localisation    b <= IoU <= t with an object of its class
    classification  IoU >= t with an object of another class
    duplicate       IoU >= t with an object of its class that a better detection took
    background      IoU <= b with every object
    both            the rest: another class, and badly placed

and each object that no detection takes, nor would after mending a localisation or classification error, is missed.
dAP of a kind is the AP gained when this kind alone is mended: detections are moved onto their object or get its class
(the best one of each object; the others are taken out), or are taken out; missed objects are taken out of the count. As
mending overlaps, the dAP of all kinds do not add up to what is missing to 1. `false_positive` takes out all that is
wrong, `false_negative` all objects not found.

Matching is COCO's, so that `ap` is AP at that IoU, to the last digit, of at most 100 detections an image. It differs
from tidecv (1.0.1) where that departs from COCO: here a class without objects has no AP, there AP 0 in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .detection_error_costs import ClassCurve, average_precisions
from .detection_error_kinds import CLASSIFICATION, KINDS, LOCALISATION, MISSED, SIZES, ErrorTable, error_table
from .detection_matches import MAX_DETS, Matches, Overlaps, grouped, match


@dataclass(frozen=True)
class Errors:
    """Errors of a detector by kind.

    Attributes:
        iou: t, from which on a detection is right.
        background: b, up to which it lies on background.
        ap: AP at t, the mean over classes with objects, as a fraction; None where there are none.
        dap: AP gained by mending each kind alone.
        false_positive: AP gained without wrong detections.
        false_negative: AP gained without objects not found.
        counts: number of errors of each kind.
        classes: by class `name`, `id`, `ap`, `dap`, `counts`; None where it has no objects.
        sizes: by size `dap` and `counts` of the errors of this size alone.
        table: each error.
    """

    iou: float
    background: float
    ap: float | None
    dap: dict[str, float | None]
    false_positive: float | None
    false_negative: float | None
    counts: dict[str, int]
    classes: list[dict[str, Any]]
    sizes: dict[str, dict[str, dict[str, Any]]]
    table: ErrorTable

    def as_dict(self, number: int = 20) -> dict[str, Any]:
        """Plain data, with the `number` costliest errors and images of each kind."""
        names = 'iou', 'background', 'ap', 'dap', 'false_positive', 'false_negative', 'counts', 'classes', 'sizes'
        return {name: getattr(self, name) for name in names} | dict(
            worst={kind: self.table.worst(kind, number) for kind in KINDS},
            worst_images={kind: self.table.worst_images(kind, number) for kind in KINDS})


def find_errors(overlaps: Overlaps, *, iou: float = 0.5, background: float = 0.1) -> Errors:
    """Name the errors of all detections and objects, and what they cost.

    Args:
        overlaps: such as `overlaps_of(coco, found, max_per_image=100)`: TIDE counts the best 100 of an image.
        iou: t.
        background: b.

    Raises:
        ValueError: the thresholds are not 0 < b < t <= 1.
    """
    if not 0 < background < iou <= 1:
        raise ValueError(f'background={background} and iou={iou} must be 0 < background < iou <= 1, as 0.1 and 0.5')
    if np.bincount(overlaps.found.image, minlength=1).max(initial=0) > MAX_DETS:
        raise ValueError(f'images have more than {MAX_DETS} detections that count; overlap with '
                         f'overlaps_of(coco, found, max_per_image={MAX_DETS})')
    matches = match(overlaps, (iou,), ('all',))
    mender = _Mender(matches, error_table(matches, background))
    table, base, has = mender.table, mender.base, mender.objects > 0

    def gain(after: tuple[np.ndarray, np.ndarray]) -> float | None:
        # tidecv takes a loss, which only the 101 recalls can bring about, for none
        return max(_mean(*after, has) - _mean(base, has, has), 0.0) if has.any() else None

    after = {kind: mender.mend(table.kind == place) for place, kind in enumerate(KINDS)}
    classes = [dict(
        name=overlaps.names[k], id=int(overlaps.classes[k]), ap=float(base[k]) if has[k] else None,
        dap={kind: max(float(one[0][k] - base[k]), 0.0) if has[k] else None for kind, one in after.items()},
        counts=_counts(table, own)) for k, own in enumerate(grouped(table.label, len(has)))]
    sizes = {size: dict(
        dap={kind: gain(mender.mend((table.kind == place) & (table.size == n))) for place, kind in enumerate(KINDS)},
        counts=_counts(table, np.flatnonzero(table.size == n))) for n, size in enumerate(SIZES)}
    return Errors(
        iou, background, _mean(base, has, has) if has.any() else None, {kind: gain(one) for kind, one in after.items()},
        gain(mender.without_wrong()), gain(mender.without_lost()), _counts(table, np.arange(len(table.kind))),
        classes, sizes, table)


def _mean(values: np.ndarray, stays: np.ndarray, has: np.ndarray) -> float:
    """Mean over the classes with objects; one of which nothing is left is left out, as in tidecv."""
    return float(values[has & stays].mean()) if (has & stays).any() else 0.0


def _counts(table: ErrorTable, chosen: np.ndarray) -> dict[str, int]:
    numbers = np.bincount(table.kind[chosen[table.counts[chosen]]], minlength=len(KINDS))
    return dict(zip(KINDS, numbers.tolist(), strict=True))


class _Mender:
    """AP after mending errors.

    Attributes:
        table: the errors, with their cost.
        base: (K,) AP as it is.
        objects: (K,) objects of each class.
    """

    def __init__(self, matches: Matches, table: ErrorTable) -> None:
        found, objects = matches.overlaps.found, matches.overlaps.objects
        taken, self.counted = matches.states()
        self.right, self.label = taken >= 0, found.label
        self.falling = np.argsort(-found.score, kind='stable')
        self.truth, number = objects.label, len(matches.overlaps.classes)
        self.objects = np.bincount(objects.label[~objects.crowd], minlength=number)
        self.table, (self.base, _) = table, self._ap(self.label, self.right, self.counted, self.objects)
        self.table = replace(table, cost=np.maximum(self._costs(), 0) / max(1, (self.objects > 0).sum()))

    def _ap(
        self, label: np.ndarray, right: np.ndarray, counted: np.ndarray, objects: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """AP (K,), and of which classes anything is there (K,)."""
        order = self.falling[counted[self.falling]]
        stays = (objects > 0) | (np.bincount(label[order], minlength=len(objects)) > 0)
        return average_precisions(label[order], right[order], objects), stays

    def mend(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP after mending the errors `chosen` (E,), as `_ap`."""
        table = self.table
        label, right, counted = self.label.copy(), self.right.copy(), self.counted.copy()
        lost = chosen & (table.kind == MISSED)
        counted[table.found[chosen & ~lost]] = False
        best = chosen & table.gains
        counted[table.found[best]] = right[table.found[best]] = True
        label[table.found[best]] = self.truth[table.object[best]]
        gone = np.bincount(table.label[lost], minlength=len(self.objects))
        return self._ap(label, right, counted, self.objects - gone)

    def without_wrong(self) -> tuple[np.ndarray, np.ndarray]:
        """AP without wrong detections."""
        aps, _ = self._ap(self.label, self.right, self.right, self.objects)
        return aps, np.ones(len(aps), bool)

    def without_lost(self) -> tuple[np.ndarray, np.ndarray]:
        """AP without objects that are not found."""
        return self._ap(self.label, self.right, self.counted,
                        np.bincount(self.label[self.right], minlength=len(self.objects)))

    def _costs(self) -> np.ndarray:
        """AP of its class gained by mending each error alone, (E,); added up where it is of two classes."""
        table, cost = self.table, np.zeros(len(self.table.kind))
        keys = np.empty(len(self.falling), np.int64)
        keys[self.falling] = np.arange(len(keys))
        key = np.where(table.found < 0, -1, keys[table.found] if len(keys) else -1)
        target = np.where(table.object < 0, -1, self.truth[table.object] if len(self.truth) else -1)
        order = self.falling[self.counted[self.falling]]
        moved = table.counts & (table.kind == LOCALISATION)
        out = (table.found >= 0) & table.counts & (~table.gains | (table.kind == CLASSIFICATION))
        put = table.gains | (table.kind == MISSED)
        number = len(self.objects)
        parts = (grouped(self.label[order], number), grouped(np.where(out, table.label, -1), number),
                 grouped(np.where(put, target, -1), number))
        for objects, own, gone, new in zip(self.objects.tolist(), *parts, strict=True):
            curve = ClassCurve(keys[order[own]], self.right[order[own]], objects)
            cost[gone] += curve.gain_without(key[gone])
            cost[new] += curve.gain_with(key[new], moved[new])
        return cost
