"""COCO's averages in all detail: by class, by size, at any number of detections, and the curves behind them.

AP, AR and the sizes are those of https://cocodataset.org/#detection-eval, counted by `evaluation/coco_scoring.py`, so
that they are what training logs, to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backbones.evaluation.coco_scoring import Detections, score
from backbones.missing import toolbox_needed

from .bootstrap import plain
from .detection_matches import AREAS, COCO_IOUS, MAX_DETS, check_detections
from .detection_replicates import LIMITS

with toolbox_needed():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import Params


@dataclass(frozen=True)
class Averages:
    """Average precision and recall, fractions from 0 to 1; None where there is no object of the class or size.

    Attributes:
        ap: mean of the precisions at recall 0, 0.01 ... 1, at IoU 0.5, 0.55 ... 0.95, at 100 detections an image and
            class; over all classes, the mean of those that have objects.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of objects up to 32 x 32 pixels; an object's area is what the annotation file says.
        ap_medium: up to 96 x 96.
        ap_large: above.
        ar: by number of detections an image and class, the recall, mean over the IoU thresholds.
        ar_small: at 100 detections.
        ar_medium: likewise.
        ar_large: likewise.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: dict[int, float | None]
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ClassAverages:
    """What was found of one class.

    Attributes:
        id: category id.
        name: of the class.
        objects: how many there are, without crowds.
        images: how many have one.
        detections: how many were predicted.
        averages: of this class.
    """

    id: int
    name: str
    objects: int
    images: int
    detections: int
    averages: Averages

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DetectionMetrics:
    """All averages of a data set.

    Attributes:
        masks: of masks, or of boxes.
        images: number of images.
        images_with_detections: in how many something was detected: far fewer hint at a run that was cut off.
        averages: over all classes.
        classes: by class, in the order of the category ids.
        precision: (T, 101, K) at the IoU thresholds and at recall 0, 0.01 ... 1, all sizes, 100 detections; NaN for a
            class without objects.
        scores: (T, 101, K) score of the detection that reaches the recall; 0 where none does.
    """

    masks: bool
    images: int
    images_with_detections: int
    averages: Averages
    classes: list[ClassAverages]
    precision: np.ndarray
    scores: np.ndarray

    def curve(self, iou: float = 0.5, label: int | None = None) -> list[float | None]:
        """Precision at 101 recalls of one class, or the mean over those that have objects.

        Raises:
            ValueError: the IoU is not one of COCO's.
        """
        close = np.flatnonzero(np.isclose(iou, COCO_IOUS))
        if not len(close):
            raise ValueError(f'iou={iou} has no curve; choose one of {", ".join(f"{one:.2f}" for one in COCO_IOUS)}')
        part = self.precision[close[0]]  # (101, K)
        if label is None:
            known = part[:, ~np.isnan(part[0])]
            part = known.mean(axis=1) if known.shape[1] else part[:, 0]
        else:
            part = part[:, label]
        return [plain(value) for value in part]

    def as_dict(self, curves: Sequence[float] = (0.5, 0.75)) -> dict[str, Any]:
        """Plain data; precision-recall curves at the IoU thresholds of `curves` only."""
        return dict(
            masks=self.masks, images=self.images, images_with_detections=self.images_with_detections,
            averages=self.averages.as_dict(), classes=[one.as_dict() for one in self.classes],
            curves={f'{iou:.2f}': dict(
                all=self.curve(iou), classes=[self.curve(iou, label) for label in range(len(self.classes))])
                for iou in curves})


def detection_metrics(coco: COCO, found: Detections, *, max_dets: Sequence[int] = LIMITS) -> DetectionMetrics:
    """Score detections in all detail.

    Args:
        coco: checked annotations (`open_truth`).
        found: detections of their images (`flat_detections`, `read_results`).
        max_dets: numbers of detections of an image and class at which recall is taken. AP is always taken at 100.

    Raises:
        ValueError: the detections are not of these annotations, or `max_dets` no numbers of detections.
    """
    check_detections(coco, found)
    if not max_dets or not all(isinstance(number, int) and number > 0 for number in max_dets):
        raise ValueError(f'max_dets={max_dets!r} must be whole numbers above 0, such as {LIMITS}')
    params = Params(iouType='bbox' if found.masks is None else 'segm')
    params.imgIds, params.catIds, params.maxDets = list(coco.imgs), list(coco.cats), sorted({*max_dets, MAX_DETS})
    evaluation = score(coco, found, params)
    limits, ids = list(params.maxDets), list(params.catIds)
    precision, recall = (np.where(part < 0, np.nan, part)  # (T, R, K, A, M) and (T, K, A, M)
                         for part in (evaluation.eval['precision'], evaluation.eval['recall']))
    precision = precision[..., limits.index(MAX_DETS)]  # (T, R, K, A)

    def averages(*classes: int) -> Averages:
        own, wanted = precision[:, :, list(classes)], recall[:, list(classes)]
        sizes = range(1, len(AREAS))
        values = [own[..., 0], own[:1, ..., 0], own[5:6, ..., 0], *(own[..., size] for size in sizes)]
        return Averages(
            *map(_mean, values), {number: _mean(wanted[..., 0, limits.index(number)]) for number in max_dets},
            *(_mean(wanted[..., size, limits.index(MAX_DETS)]) for size in sizes))

    classes, counts = [], _counts(coco, found)
    for place, number in enumerate(ids):
        classes.append(ClassAverages(number, str(coco.cats[number]['name']), *counts[number], averages(place)))
    return DetectionMetrics(
        found.masks is not None, len(coco.imgs), len(np.unique(found.images)), averages(*range(len(ids))), classes,
        precision[..., 0], evaluation.eval['scores'][:, :, :, 0, limits.index(MAX_DETS)])


def _mean(values: np.ndarray) -> float | None:
    """Mean of what is defined, as pycocotools' `summarize` takes it."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _counts(coco: COCO, found: Detections) -> dict[int, tuple[int, int, int]]:
    """Objects, images that have one, and detections, by category id."""
    objects: dict[int, list[int]] = {number: [] for number in coco.cats}
    for entry in coco.dataset['annotations']:
        if not entry.get('iscrowd', 0):
            objects[entry['category_id']].append(entry['image_id'])
    ids, numbers = np.unique(found.categories, return_counts=True)
    detections = dict(zip(ids.tolist(), numbers.tolist(), strict=True))
    return {number: (len(images), len(set(images)), detections.get(number, 0)) for number, images in objects.items()}
