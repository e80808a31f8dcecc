"""Scores of a segmenter from its counts: mmseg's definitions, divided once, in 64 bits.

A class with a zero below the line has no score (NaN) and no part in the mean, as in mmseg:
https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/evaluation/metrics/iou_metric.py
Hence a class that is never there and never predicted drops out of mIoU, one that is predicted without being there
counts as 0 in mIoU and drops out of mAcc, and F of a class that is never found is NaN where its Dice is 0.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .boundary import BoundaryAreas
from .segmentation_counts import SegmentationCounts, plain

PER_CLASS = ('IoU', 'Acc', 'Dice', 'Fscore', 'Precision', 'Recall')


def class_scores(both: np.ndarray, found: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """Scores in percent from areas (..., C): `PER_CLASS` as (..., C), `aAcc` and `mIoU`, `mAcc`, ... as (...).

    Args:
        both: pixels of each class that are predicted as it.
        found: pixels predicted as it.
        true: pixels of it.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        precision, recall = both / found, both / true
        scores = dict(
            IoU=both / (found + true - both),
            Acc=recall,
            Dice=2 * both / (found + true),
            Fscore=2 * precision * recall / (precision + recall),
            Precision=precision,
            Recall=recall,
        )
        scores = {name: 100 * value for name, value in scores.items()}
        scores['aAcc'] = 100 * (both.sum(-1) / true.sum(-1))
    for name in PER_CLASS:
        scores[f'm{name}'] = mean_of_present(scores[name])
    return scores


def boundary_scores(areas: BoundaryAreas) -> np.ndarray:
    """Boundary IoU (C,) in percent over all pictures: pixels are added up before they are divided, as for IoU."""
    return intersection_over_union(*(area.sum(0) for area in (areas.both, areas.found, areas.true)))


def intersection_over_union(both: np.ndarray, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """In percent, of any shape."""
    with np.errstate(divide='ignore', invalid='ignore'):
        return 100 * (both / (found + true - both))


def mean_of_present(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over a whole set of pictures, in percent, not rounded.

    Args:
        classes: names of the C classes.
        images: number of pictures.
        pixels: that count.
        summary: `aAcc`, `mIoU`, `mAcc`, `mDice`, `mFscore`, `mPrecision`, `mRecall`, and `boundary_mIoU` where
            boundaries were counted.
        per_class: (C,) arrays: the same without the m; `pixels` and `predicted_pixels`; `images` that hold the class;
            `lost_to_missing` and `lost_to_inventing`, the parts of 100 - IoU: pixels of the class that were given to
            others, and pixels of others that were given to it, over the union.
    """

    classes: tuple[str, ...]
    images: int
    pixels: int
    summary: dict[str, float]
    per_class: dict[str, np.ndarray]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `per_class` has a row for each class."""
        rows = [
            {'class': name, **{key: plain(values[place]) for key, values in self.per_class.items()}}
            for place, name in enumerate(self.classes)
        ]
        return dict(unit='percent', images=self.images, pixels=self.pixels, summary=plain(self.summary), per_class=rows)


def segmentation_scores(counts: SegmentationCounts, boundary: BoundaryAreas | None = None) -> SegmentationScores:
    """Score all pictures together.

    Raises:
        ValueError: There is no picture, or no pixel that counts.
    """
    by_image = counts.areas()
    both, found, true = (area.sum(0) for area in by_image)
    if not true.sum():
        raise ValueError(
            f'no label map of the {len(counts)} pictures holds a pixel that counts, and there is nothing to score; '
            'correct the folders, the ignored label, or reduce_zero_label'
        )
    scores = class_scores(both, found, true)
    per_class = {name: scores[name] for name in PER_CLASS}
    summary = {name: float(scores[name]) for name in ('aAcc', *(f'm{name}' for name in PER_CLASS))}
    if boundary is not None:
        per_class['boundary_IoU'] = boundary_scores(boundary)
        summary['boundary_mIoU'] = float(mean_of_present(per_class['boundary_IoU']))
    with np.errstate(divide='ignore', invalid='ignore'):
        union = found + true - both
        per_class.update(lost_to_missing=100 * (true - both) / union, lost_to_inventing=100 * (found - both) / union)
    per_class.update(pixels=true, predicted_pixels=found, images=(by_image[2] > 0).sum(0))
    return SegmentationScores(counts.classes, len(counts), int(true.sum()), summary, per_class)


@dataclass(frozen=True)
class ImageScores:
    """Scores of each picture alone, in percent, (N,) each; NaN for a picture without a pixel that counts.

    Args:
        names: of the pictures.
        pixels: that count.
        wrong: of them, given to another class.
        aAcc: share of the pixels that are right.
        mIoU: mean over the classes that are in the label map or the prediction of this picture.
    """

    names: tuple[str, ...]
    pixels: np.ndarray
    wrong: np.ndarray
    aAcc: np.ndarray
    mIoU: np.ndarray

    def order(self, by: str = 'mIoU') -> list[int]:
        """Places of the pictures from the worst to the best; pictures without a score are left out."""
        if by not in ('mIoU', 'aAcc'):
            raise ValueError(f"by={by!r} is unknown; choose 'mIoU' or 'aAcc'")
        values = getattr(self, by)
        return [int(place) for place in np.argsort(values, kind='stable') if not np.isnan(values[place])]


def image_scores(counts: SegmentationCounts) -> ImageScores:
    """Score each picture alone."""
    both, found, true = counts.areas()
    scores = class_scores(both, found, true)
    pixels = true.sum(1)
    return ImageScores(counts.names, pixels, pixels - both.sum(1), scores['aAcc'], scores['mIoU'])
