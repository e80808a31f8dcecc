"""Where a segmenter fails: which class is taken for which, at boundaries or inside, and in which pictures.

Shapes: C classes, K widths of boundary bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .segmentation_counts import SegmentationCounts, plain
from .segmentation_metrics import class_scores, intersection_over_union, mean_of_present
from .segmentation_regions import Region

WIDTHS = (2, 5, 10, 20)  # pixels on either side of a boundary
PAIRS_SHOWN = 5  # confused pairs that are kept of each picture, the largest


@dataclass(frozen=True)
class ConfusedPair:
    """Pixels of one class that are given to another.

    Args:
        true: name of the class they are of.
        predicted: name of the class they are given to.
        pixels: how many.
        images: in how many pictures.
        share_of_true: of the pixels of the true class, in percent.
        share_of_predicted: of the pixels that are predicted as the other, in percent.
        iou_points: by how much mIoU (in percent) rises if these pixels alone were right: IoU of the true class rises
            because more is found, that of the other because less is invented. A class that is then neither there nor
            predicted leaves the mean, as in mmseg. The points of several pairs do not simply add up.
        true_iou_points: by how much IoU of the true class rises.
    """

    true: str
    predicted: str
    pixels: int
    images: int
    share_of_true: float
    share_of_predicted: float
    iou_points: float
    true_iou_points: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: plain(value) for name, value in vars(self).items()}


def confused_pairs(counts: SegmentationCounts, most: int | None = None) -> list[ConfusedPair]:
    """All pairs of classes that are confused, those that cost the most mIoU first; `most` keeps as many."""
    table = counts.confusion()
    number, right = len(table), table.diagonal()
    images = np.bincount(counts.pairs, minlength=number * number).reshape(number, number)
    found, true = table.sum(0), table.sum(1)
    union = found + true - right
    iou = intersection_over_union(right, found, true)
    there = ~np.isnan(iou)
    total = np.where(there, iou, 0).sum()
    places = np.argwhere((table > 0) & ~np.eye(number, dtype=bool))
    i, j = places.T
    pixels = table[i, j]
    gained = 100 * pixels / union[i]  # the union of the true class stays
    left = union[j] - pixels  # that of the other shrinks, to nothing where it is not there
    other = np.where(left > 0, 100 * right[j] / np.maximum(left, 1), 0)
    mean = (total + gained - iou[j] + other) / np.maximum(there.sum() - (left == 0), 1)
    points = mean - total / max(there.sum(), 1)
    order = np.lexsort((-pixels, -points))[:most]
    return [
        ConfusedPair(
            counts.classes[i[place]], counts.classes[j[place]], int(pixels[place]), int(images[i[place], j[place]]),
            float(100 * pixels[place] / true[i[place]]), float(100 * pixels[place] / found[j[place]]),
            float(points[place]), float(gained[place]),
        )
        for place in order
    ]


@dataclass(frozen=True)
class BoundaryBand:
    """Pixels nearer than `width` pixels to a boundary of the label map, against the rest (a trimap).

    As in Krähenbühl and Koltun, https://arxiv.org/abs/1210.5644 (section 5), who score inside of the band.

    Args:
        width: in pixels; see `boundary.bands_around_boundaries`.
        pixels: in the band, that count.
        pixel_share: of all pixels that count, in percent.
        wrong: of them.
        error_rate: wrong in percent of the band.
        interior_error_rate: wrong in percent of the rest.
        error_share: how much of all that is wrong lies in the band, in percent.
        miou: of the band alone.
        interior_miou: of the rest alone.
        gained_if_ignored: by how much mIoU rises where the band is left out: interior_miou - mIoU. Thin things (poles)
            may lie in a wide band altogether, so that it can be below 0.
        gained_if_right: by how much mIoU rises if all of the band were right; never below 0.
    """

    width: int
    pixels: int
    pixel_share: float
    wrong: int
    error_rate: float
    interior_error_rate: float
    error_share: float
    miou: float
    interior_miou: float
    gained_if_ignored: float
    gained_if_right: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: plain(value) for name, value in vars(self).items()}


def boundary_bands(tables: np.ndarray, widths: tuple[int, ...]) -> list[BoundaryBand]:
    """Score the bands; `tables` (K + 1, C, C) int64 has the pixels of each ring, those of the interior last."""
    whole = tables.sum(0)
    return [_band(tables[: place + 1].sum(0), whole, width) for place, width in enumerate(widths)]


def _band(inside: np.ndarray, whole: np.ndarray, width: int) -> BoundaryBand:
    rest = whole - inside
    pixels, wrong = (int(inside.sum()), int(inside.sum() - inside.trace()))
    corrected = rest + np.diag(inside.sum(1))
    mean, band, interior, right = (_miou(table) for table in (whole, inside, rest, corrected))
    with np.errstate(divide='ignore', invalid='ignore'):
        shares = [
            float(100 * np.float64(part) / np.float64(total))
            for part, total in (
                (pixels, whole.sum()), (wrong, pixels), (rest.sum() - rest.trace(), rest.sum()),
                (wrong, whole.sum() - whole.trace()),
            )
        ]
    return BoundaryBand(
        width, pixels, shares[0], wrong, *shares[1:], band, interior, interior - mean, right - mean
    )


def _miou(table: np.ndarray) -> float:
    return float(mean_of_present(intersection_over_union(table.diagonal(), table.sum(0), table.sum(1))))


@dataclass(frozen=True)
class ImageErrors:
    """One picture: its scores alone, in percent, and its worst errors, for a gallery.

    Args:
        name: of the picture, its path below the folder of pictures without the suffix.
        height: in pixels.
        width: in pixels.
        pixels: that count.
        wrong: of them.
        aAcc: share of the pixels that are right; NaN where none counts.
        mIoU: mean over the classes in its label map or its prediction; NaN where none counts.
        confused: its largest confusions (name of the true class, of the predicted class, pixels).
        missed: its largest missed regions; None where regions were not looked at, as those below.
        invented: its largest invented regions.
        missed_regions: how many.
        invented_regions: how many.
    """

    name: str
    height: int
    width: int
    pixels: int
    wrong: int
    aAcc: float
    mIoU: float
    confused: list[tuple[str, str, int]]
    missed: list[Region] | None = None
    invented: list[Region] | None = None
    missed_regions: int | None = None
    invented_regions: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: plain(value) for name, value in vars(self).items()}


def image_figures(table: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """`pixels`, `wrong`, `aAcc`, `mIoU` and `confused` of one picture from its confusion matrix (C, C)."""
    present = np.flatnonzero(table.any(0) | table.any(1))  # a picture holds few classes
    small = table[np.ix_(present, present)]
    scores = class_scores(small.diagonal(), small.sum(0), small.sum(1))
    off = small - np.diag(small.diagonal())
    order = np.argsort(-off, axis=None, kind='stable')[:PAIRS_SHOWN]
    confused = [
        (classes[present[true]], classes[present[found]], int(off[true, found]))
        for true, found in zip(*np.unravel_index(order, off.shape), strict=True) if off[true, found]
    ]
    return dict(
        pixels=int(small.sum()), wrong=int(off.sum()), aAcc=float(scores['aAcc']), mIoU=float(scores['mIoU']),
        confused=confused,
    )
