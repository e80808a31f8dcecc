"""Average precision at one IoU threshold after some errors are mended, and what each error costs alone.

Numbers are fractions of AP at 101 recalls, as everywhere here. In one class, let n detections be right, f_i wrong ones
come before the i-th of them, and P objects be there: AP is the sum over i of the highest precision from i on, times the
recalls read first at i. Mending one error changes f by one after a place, or adds one right detection: so all errors of
a class are rows of one table (errors, n).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .detection_matches import RECALLS

BLOCK = 1 << 21  # numbers in a table


def average_precisions(label: np.ndarray, right: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP (K,) of classes with `objects` (K,), from the class of all detections by falling score; 0 for none."""
    order = np.argsort(label.astype(np.int32), kind='stable')
    bounds = np.searchsorted(label[order], np.arange(len(objects) + 1))
    result = np.zeros(len(objects))
    for k, number in enumerate(objects.tolist()):
        places = np.flatnonzero(right[order[bounds[k]:bounds[k + 1]]])
        if number and len(places):
            result[k] = _area(np.arange(1, len(places) + 1) / (places + 1 + np.spacing(1)), number)
    return result


def _area(precision: np.ndarray, objects: int) -> np.ndarray:
    """AP (...) from the precision at each right detection (..., n)."""
    found = np.arange(1, precision.shape[-1] + 1)
    steps = np.diff(np.searchsorted(RECALLS, found / objects, 'right'), prepend=0)
    highest = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return (highest * steps).sum(axis=-1) / len(RECALLS)


@dataclass(frozen=True)
class ClassCurve:
    """Detections of one class.

    Attributes:
        keys: (D,) their places among all detections by falling score, rising.
        right: (D,) whether each is right.
        objects: P.
    """

    keys: np.ndarray
    right: np.ndarray
    objects: int

    def ap(self) -> float:
        return float(self._without(np.array([len(self.keys)]))[0]) if self.objects else 0.0

    def _spots(self) -> np.ndarray:
        """f: wrong ones before each right one, (n,)."""
        places = np.flatnonzero(self.right)
        return places - np.arange(len(places))

    def _without(self, behind: np.ndarray) -> np.ndarray:
        """AP where the right ones from place `behind` on have one wrong one less before them."""
        wrong = self._spots()
        count = np.arange(1, len(wrong) + 1)
        rows = max(1, BLOCK // max(1, len(wrong)))
        parts = [np.zeros(0)]
        for start in range(0, len(behind), rows):
            fewer = np.arange(len(wrong)) >= behind[start:start + rows, None]
            parts.append(_area(count / (count + wrong - fewer + np.spacing(1)), self.objects))
        return np.concatenate(parts)

    def gain_without(self, keys: np.ndarray) -> np.ndarray:
        """AP gained (e,) where one of the wrong detections `keys` (e,) is taken out."""
        if not self.objects or not self.right.any():
            return np.zeros(len(keys))
        behind = np.searchsorted(self.keys[self.right], keys)
        places, back = np.unique(behind, return_inverse=True)
        return (self._without(places) - self.ap())[back]

    def gain_with(self, keys: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """AP gained (e,) where one more detection, placed as `keys` (e,), is right.

        Args:
            keys: place among all detections; -1: before all.
            moved: (e,) whether it was a wrong one of this class before.
        """
        if not self.objects:
            return np.zeros(len(keys))
        before = np.searchsorted(self.keys[self.right], keys)  # right ones
        others = np.searchsorted(self.keys[~self.right], keys)  # wrong ones
        wrong, base = np.append(self._spots(), 0), self.ap()
        place = np.arange(len(wrong))
        rows = max(1, BLOCK // len(wrong))
        parts = [np.zeros(0)]
        for start in range(0, len(keys), rows):
            own = slice(start, start + rows)
            here, after = place == before[own, None], place > before[own, None]  # (e, n + 1)
            false = np.where(here, others[own, None], wrong[place - after] - (after & moved[own, None]))
            parts.append(_area((place + 1) / (place + 1 + false + np.spacing(1)), self.objects) - base)
        return np.concatenate(parts)
