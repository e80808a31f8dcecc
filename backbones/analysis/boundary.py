"""Boundaries of label maps: boundary IoU, and bands of pixels by their distance to a boundary.

Boundary IoU, https://arxiv.org/abs/2103.16562: IoU of those pixels of two masks that lie within `dilation` pixels of
their own mask's boundary. The official `mask_to_boundary` erodes one binary mask `dilation` times with a square of 3
pixels, everything outside of the picture being background:
https://github.com/bowenc0221/boundary-iou-api/blob/37d25586a677b043ed585f10e5c42d4e80176ea9/boundary_iou/utils/boundary_utils.py
A pixel survives that where the whole square of 2 * dilation + 1 pixels around it bears its own label, so that one
minimum and one maximum over that square give the boundaries of all classes of a label map at once.

The official repository covers instances and panoptic segments, not semantic segmentation. Taken here for a class: the
masks are "label map equals class" and "prediction equals class"; pixels that are ignored are background of both; and
pixels are added up over the pictures before they are divided, as for IoU. (detectron2's SemSegEvaluator erodes the map
of numbers instead of one mask per class, which depends on how the classes are numbered.)

Shapes: N pictures, C classes, H W rows and columns. Label maps are in the form of `checked_pair`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DILATION_RATIO = 0.02  # of the diagonal of the picture, the official value


@dataclass(frozen=True)
class BoundaryAreas:
    """Pixels near boundaries of each picture and class, (N, C) int64 each: 7 MB for 2,000 pictures and 150 classes.

    Args:
        both: in both boundary masks of the class.
        found: in that of the prediction.
        true: in that of the label map.
        dilation_ratio: width of the boundaries over the diagonal of the picture.
    """

    both: np.ndarray
    found: np.ndarray
    true: np.ndarray
    dilation_ratio: float = DILATION_RATIO


def dilation_of(shape: tuple[int, int], ratio: float = DILATION_RATIO) -> int:
    """Width of the boundary in pixels of a picture of `shape` (H, W), at least 1."""
    return max(1, round(ratio * float(np.hypot(*shape))))


def near_boundary(labels: np.ndarray, dilation: int, void: int) -> np.ndarray:
    """Tell which pixels of classes lie within `dilation` pixels of the boundary of their class.

    Args:
        labels: (H, W), 8 or 16 bits, classes below `void`.
        dilation: distance, counted in steps to any of 8 neighbours.
        void: larger than all classes; pixels of this value are no class, and their answer means nothing.

    Returns:
        (H, W) bool.
    """
    import cv2

    if not labels.size:
        return np.zeros(labels.shape, bool)
    reach = min(dilation, max(labels.shape))  # a square larger than the picture sees no more of it
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    border = dict(borderType=cv2.BORDER_CONSTANT, borderValue=void)
    return cv2.erode(labels, square, **border) != cv2.dilate(labels, square, **border)


def boundary_areas(
    truth: np.ndarray, predicted: np.ndarray, number: int, ratio: float = DILATION_RATIO
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (C,) int64 of one picture in both boundary masks of a class, in the prediction's, in the label map's."""
    dilation = dilation_of(truth.shape, ratio)
    true, found = (np.where(near_boundary(labels, dilation, number), labels, number) for labels in (truth, predicted))
    both = true[true == found]
    return tuple(np.bincount(labels.reshape(-1), minlength=number + 1)[:number] for labels in (both, found, true))


def bands_around_boundaries(truth: np.ndarray, limits: tuple[int, ...]) -> np.ndarray:
    """Sort pixels by their distance to a boundary of the label map: a trimap of several widths.

    The band of width d are the pixels nearer than d pixels (Euclidean) to a boundary pixel: one that has a pixel of
    another label, or an ignored one, as a direct neighbour. The edge of the picture is no boundary.

    Args:
        truth: (H, W).
        limits: widths, ascending.

    Returns:
        (H, W) uint8: 0 for pixels within the first width, ..., `len(limits)` for the interior.
    """
    import cv2

    away = np.ones(truth.shape, np.uint8)
    if not truth.size:
        return away
    for axis in (0, 1):
        first, second = (truth[:-1], truth[1:]) if axis == 0 else (truth[:, :-1], truth[:, 1:])
        inside = first == second
        for part in (away[:-1], away[1:]) if axis == 0 else (away[:, :-1], away[:, 1:]):
            part &= inside
    if away.all():
        return np.full(truth.shape, len(limits), np.uint8)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    bands = np.zeros(truth.shape, np.uint8)
    for limit in limits:
        bands += distance >= limit
    return bands
