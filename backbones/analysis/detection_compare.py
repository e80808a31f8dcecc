"""Intervals of a detector's numbers, and what tells two detectors apart, for boxes and masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backbones.evaluation.coco_scoring import Detections
from backbones.missing import toolbox_needed

from .bootstrap import CLASS, LEVEL, REPLICATES, Replicates
from .compare import Comparison, compare
from .detection_matches import AREAS, Overlaps, match, overlaps_of
from .detection_points import SCORE, point_replicates
from .detection_replicates import coco_replicates

with toolbox_needed():
    from pycocotools.coco import COCO


def detection_replicates(
    overlaps: Overlaps, *, score: float = SCORE, replicates: int = REPLICATES, seed: int = 0
) -> Replicates:
    """Bootstrap all numbers of a detector: see `coco_replicates`, and `point_replicates` at IoU 0.5.

    COCO's 5,000 validation images take about half a minute for 1,000 replicates.
    """
    matches = match(overlaps)
    averages = coco_replicates(matches, replicates=replicates, seed=seed)
    points = point_replicates(matches, score=score, replicates=replicates, seed=seed)
    return replace(
        averages, values=averages.values | points.values, samples=averages.samples | points.samples)


def images_behind(overlaps: Overlaps) -> dict[str, int | np.ndarray]:
    """How many images each number of `detection_replicates` comes from: those with an object of its class and size.

    For `intervals` and `compare`: 'AP_small' and the like, and all numbers by class, such as 'AP/class' (K,).
    """
    objects, number = overlaps.objects, len(overlaps.classes)
    result: dict[str, int | np.ndarray] = {}
    for size, (least, most) in AREAS.items():
        own = ~objects.crowd & (objects.area >= least) & (objects.area <= most)
        pairs = np.unique(objects.image[own] * number + objects.label[own])
        by_class = np.bincount(pairs % number, minlength=number)
        if size == 'all':
            result[CLASS] = by_class
            continue
        for name in ('AP', 'AR'):
            result |= {f'{name}_{size}': len(np.unique(objects.image[own])), f'{name}_{size}{CLASS}': by_class}
    return result


def compare_detections(
    coco: COCO, first: Detections, second: Detections, *, score: float = SCORE, replicates: int = REPLICATES,
    seed: int = 0, level: float = LEVEL,
) -> Comparison:
    """Compare two detectors on the same images.

    Args:
        coco: checked annotations.
        first: predictions of one.
        second: of the other.
        score: threshold for precision, recall and F1.
        replicates: data sets to draw.
        seed: of the draws.
        level: of the intervals.

    Raises:
        ValueError: the predictions are of another data set, or one has boxes and the other masks.
    """
    if (first.masks is None) != (second.masks is None):
        raise ValueError('one of the two sets of predictions has boxes and the other masks; compare boxes with boxes, '
                         'or masks with masks')
    drawn, overlaps = [], None
    for found in (first, second):
        overlaps = overlaps_of(coco, found)
        drawn.append(detection_replicates(overlaps, score=score, replicates=replicates, seed=seed))
    return compare(*drawn, overlaps.names, images_behind(overlaps), level=level)
