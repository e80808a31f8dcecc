"""Precision, recall, F1 and the confusion matrix of a detector at one score threshold: how it does in use.

A detection counts from the threshold on (score >= threshold). Right: it takes an object of its class (`Matches`). Not
counted: detections that take a crowd, and crowds.

    precision = right / detections        None where nothing is detected
    recall    = right / objects           None where there is no object
    F1        = 2 right / (detections + objects), their harmonic mean
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bootstrap import REPLICATES, Replicates, bootstrap
from .detection_matches import Matches, grouped

STEPS = 100  # of a curve over the thresholds, and 1
DIGITS = 5  # of its numbers, which are drawn
SCORE = 0.3  # what mmdet's DetVisualizationHook shows from, and a usual choice in use


@dataclass(frozen=True)
class Point:
    """Counts and fractions, of one class or of all detections together.

    Attributes:
        right: detections that find an object.
        wrong: those that do not.
        missed: objects not found.
        precision: of the detections, the part that is right.
        recall: of the objects, the part that is found.
        f1: their harmonic mean.
        best_score: the score threshold with the highest F1, the highest one of equals; None where no detection is
            right.
        best_f1: F1 there.
    """

    right: int
    wrong: int
    missed: int
    precision: float | None
    recall: float | None
    f1: float | None
    best_score: float | None
    best_f1: float | None


@dataclass(frozen=True)
class OperatingPoints:
    """Attributes:
        iou: IoU threshold.
        score: score threshold.
        overall: all detections together, whatever their class (micro average).
        mean: of precision, recall and F1, the mean over the classes where each is defined (macro average).
        classes: by class, in the order of the category ids.
        names: of the classes.
        curve: `precision`, `recall` and `f1` of all detections together at the thresholds 0, 0.01 ... 1 (`score`).
    """

    iou: float
    score: float
    overall: Point
    mean: dict[str, float | None]
    classes: list[Point]
    names: tuple[str, ...]
    curve: dict[str, list[float | None]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def operating_points(matches: Matches, *, score: float = SCORE, iou: float = 0.5) -> OperatingPoints:
    """Precision, recall, F1 by class and overall, and the threshold where F1 is best.

    Args:
        matches: of all sizes, at `iou` among others, such as `match(overlaps, (iou,), ('all',))`.
        score: a detection counts from it on.
        iou: threshold.

    Raises:
        ValueError: the matches do not have that size or threshold, or the score is no number.
    """
    right, counts, objects = _counted(matches, iou, score)
    found, number = matches.overlaps.found, len(matches.overlaps.classes)
    there = np.bincount(objects, minlength=number).tolist()
    classes = [_point(right[own], counts[own], found.score[own], there[k], score)
               for k, own in enumerate(grouped(found.label, number))]
    overall = _point(right, counts, found.score, len(objects), score)
    mean = {}
    for name in ('precision', 'recall', 'f1'):
        known = [value for point in classes if (value := getattr(point, name)) is not None]
        mean[name] = float(np.mean(known)) if known else None
    curve = _curve(right[counts], found.score[counts], len(objects))
    return OperatingPoints(iou, score, overall, mean, classes, matches.overlaps.names, curve)


def _curve(right: np.ndarray, scores: np.ndarray, objects: int) -> dict[str, list[float | None]]:
    """What `Point` says, at many thresholds."""
    order = np.argsort(scores, kind='stable')
    thresholds = np.arange(STEPS + 1) / STEPS
    below = np.searchsorted(scores[order], thresholds, side='left')  # that do not count
    detected = len(scores) - below
    hits = np.append(np.cumsum(right[order][::-1])[::-1], 0)[below]
    parts = dict(precision=(hits, detected), recall=(hits, np.full_like(hits, objects)),
                 f1=(2 * hits, detected + objects))
    return dict(score=thresholds.tolist()) | {
        name: [round(some / every, DIGITS) if every else None for some, every in zip(*map(np.ndarray.tolist, part),
                                                                                     strict=True)]
        for name, part in parts.items()}


def _counted(matches: Matches, iou: float, score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which detections are right (N,), which count (N,), and the class of each object that counts."""
    if not np.isfinite(score):
        raise ValueError(f'score={score} must be a number, such as {SCORE}')
    taken, counts = matches.states(*place_of(matches, iou))
    objects = matches.overlaps.objects
    return taken >= 0, counts, objects.label[~objects.crowd]


def place_of(matches: Matches, iou: float) -> tuple[int, int]:
    """Place of all sizes, and of an IoU threshold."""
    close = np.flatnonzero(np.isclose(iou, matches.thresholds))
    if not len(close) or 'all' not in matches.areas:
        raise ValueError(f"the matches have no iou={iou} ({matches.thresholds}), or not 'all' sizes ({matches.areas}); "
                         f'match(overlaps, ({iou},), ("all",)) gives them')
    return matches.areas.index('all'), int(close[0])


def _point(right: np.ndarray, counts: np.ndarray, scores: np.ndarray, objects: int, score: float) -> Point:
    order = np.argsort(-scores[counts], kind='stable')
    falling = scores[counts][order]
    hits = np.cumsum(right[counts][order])
    number = int((falling >= score).sum())
    found = int(hits[number - 1]) if number else 0
    best_score = best_f1 = None
    if len(hits) and hits[-1]:
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
        last = np.append(falling[1:] != falling[:-1], True)  # of equal scores: a threshold takes all or none
        place = int(np.argmax(np.where(last, f1, -1)))
        best_score, best_f1 = float(falling[place]), float(f1[place])
    return Point(found, number - found, objects - found, found / number if number else None,
                 found / objects if objects else None, 2 * found / (number + objects) if number + objects else None,
                 best_score, best_f1)


def point_replicates(
    matches: Matches, *, score: float = SCORE, iou: float = 0.5, replicates: int = REPLICATES, seed: int = 0
) -> Replicates:
    """Bootstrap `precision`, `recall` and `f1` over images, of all detections together and by class (`f1/class`)."""
    right, counts, _ = _counted(matches, iou, score)
    found, objects = matches.overlaps.found, matches.overlaps.objects
    counts = counts & (found.score >= score)
    shape = len(matches.overlaps.images), len(matches.overlaps.classes)
    tables = [_table(found.image[right & counts], found.label[right & counts], shape),
              _table(found.image[counts], found.label[counts], shape),
              _table(objects.image[~objects.crowd], objects.label[~objects.crowd], shape)]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = [weights.astype(np.float64) @ table for table in tables]  # (b, K) each
        values = {}
        for end, (hits, detected, there) in (('/class', sums), ('', [one.sum(axis=1) for one in sums])):
            values |= {f'precision{end}': _part(hits, detected), f'recall{end}': _part(hits, there),
                       f'f1{end}': _part(2 * hits, detected + there)}
        return values

    return bootstrap(statistic, shape[0], replicates=replicates, seed=seed, bounds=(0, 1))


def _table(images: np.ndarray, labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How many of each image and class, (I, K)."""
    return np.bincount(images * shape[1] + labels, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _part(some: np.ndarray, every: np.ndarray) -> np.ndarray:
    return np.where(every > 0, some / np.maximum(every, 1), np.nan)


# --- confusion matrix --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """What was taken for what.

    Attributes:
        iou: IoU threshold.
        score: score threshold.
        names: of the classes, and 'background'.
        counts: (K + 1, K + 1): row: what is there, column: what was detected. The diagonal is what `OperatingPoints`
            counts as right, the last column what was missed, the last row detections of nothing.
    """

    iou: float
    score: float
    names: tuple[str, ...]
    counts: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        return dict(iou=self.iou, score=self.score, names=list(self.names), counts=self.counts.tolist())


def confusion_matrix(matches: Matches, *, score: float = SCORE, iou: float = 0.5) -> Confusion:
    """Count which class was detected where which one is.

    First the detections take objects of their own class, as everywhere here; then, best score first, those left over
    each take the object left over of another class that they overlap most, if by the threshold. So each object and each
    detection counts once: rows sum up to the objects, columns to the detections. (Crowds, and what takes one, do not
    count.)

    Raises:
        ValueError: as `operating_points`.
    """
    right, counts, _ = _counted(matches, iou, score)
    taken, _ = matches.states(*place_of(matches, iou))
    overlaps = matches.overlaps
    found, objects, number = overlaps.found, overlaps.objects, len(overlaps.classes)
    counts &= found.score >= score
    truth, left = np.full(len(counts), number), ~objects.crowd  # class that each detection takes; objects left over
    truth[right & counts] = found.label[right & counts]
    left[taken[right & counts]] = False
    for image in np.unique(found.image[counts & ~right]).tolist():
        start, stop = overlaps.found_bounds[image:image + 2]
        first, last = overlaps.object_bounds[image:image + 2]
        for row in np.flatnonzero((counts & ~right)[start:stop]) if left[first:last].any() else ():
            values = np.where(left[first:last], overlaps.ious[image][row], -1)
            best = int(np.argmax(values))
            if values[best] >= iou:
                truth[start + row], left[first + best] = objects.label[first + best], False
    table = np.zeros((number + 1, number + 1), np.int64)
    np.add.at(table, (truth[counts], found.label[counts]), 1)
    np.add.at(table, (objects.label[left], number), 1)
    return Confusion(iou, score, (*overlaps.names, 'background'), table)
