"""Regions of label maps: which are found, missed or invented, by their size.

A region is a connected component (8 neighbours) of one class, cut by what is ignored. One of the label map is missed
where no pixel of it is predicted as its class; one of the prediction is invented where no pixel of it is of its class.

Shapes: C classes, H W rows and columns, R regions, S sizes. Label maps are in the form of `checked_pair`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIZES = ('small', 'medium', 'large')
LIMITS = (32**2, 96**2)  # pixels; COCO's areas of small and medium objects
# https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/PythonAPI/pycocotools/cocoeval.py
SHOWN = 3  # missed and invented regions that are kept of each picture, the largest


@dataclass(frozen=True)
class Region:
    """One region of a picture: name of its class, pixels, and the smallest box around it (x, y, width, height)."""

    class_name: str
    pixels: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Regions:
    """Regions of one map, largest number R: `class_` (R,), `pixels` (R,), `hit` (R,) pixels on which both maps agree,
    `boxes` (R, 4) x, y, width, height; int64 each.
    """

    class_: np.ndarray
    pixels: np.ndarray
    hit: np.ndarray
    boxes: np.ndarray

    def largest(self, chosen: np.ndarray, classes: tuple[str, ...]) -> list[Region]:
        """The largest of the regions that `chosen` (R,) tells."""
        places = np.flatnonzero(chosen)
        places = places[np.argsort(-self.pixels[places], kind='stable')][:SHOWN]
        return [
            Region(classes[self.class_[place]], int(self.pixels[place]), tuple(self.boxes[place].tolist()))
            for place in places
        ]


def regions_of(labels: np.ndarray, other: np.ndarray, number: int) -> Regions:
    """Find the regions of `labels` (H, W), and how many pixels of each bear its class in `other`, too."""
    import cv2

    parts = []
    present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=number + 1)[:number])
    for class_ in present:
        mask = (labels == class_).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        window = (slice(y, y + height), slice(x, x + width))
        mask = np.ascontiguousarray(mask[window])
        many, places, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
        agreed = np.bincount(places[other[window] == class_], minlength=many)  # place 0: outside of the class
        boxes = stats[1:, :4].astype(np.int64) + np.array([x, y, 0, 0])
        parts.append((np.full(many - 1, class_, np.int64), stats[1:, 4].astype(np.int64), agreed[1:many], boxes))
    if not parts:
        parts = [(np.zeros(0, np.int64),) * 3 + (np.zeros((0, 4), np.int64),)]
    return Regions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def sizes_of(pixels: np.ndarray, limits: tuple[int, ...]) -> np.ndarray:
    """Place of each region among the sizes: 0 below the first limit, ..., `len(limits)` from the last on."""
    return np.searchsorted(np.asarray(limits), pixels, side='right')


@dataclass
class RegionTotals:
    """Sums over pictures, (C, S) each.

    Args:
        number: of classes.
        limits: pixels at which the next size begins.
    """

    number: int
    limits: tuple[int, ...] = LIMITS
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, true: Regions, found: Regions) -> None:
        """Count the regions of one picture: those of its label map and those of its prediction."""
        size = sizes_of(true.pixels, self.limits)
        self._add('regions', true.class_, size, 1)
        self._add('pixels', true.class_, size, true.pixels)
        self._add('hit', true.class_, size, true.hit)
        self._add('recall', true.class_, size, true.hit / np.maximum(true.pixels, 1))
        self._add('missed', true.class_, size, true.hit == 0)
        size = sizes_of(found.pixels, self.limits)
        self._add('predicted', found.class_, size, 1)
        self._add('invented', found.class_, size, found.hit == 0)
        self._add('invented_pixels', found.class_, size, found.pixels * (found.hit == 0))

    def _add(self, name: str, class_: np.ndarray, size: np.ndarray, values: np.ndarray | int) -> None:
        kind = np.float64 if name == 'recall' else np.int64
        table = self.sums.setdefault(name, np.zeros((self.number, len(self.limits) + 1), kind))
        np.add.at(table, (class_, size), values)

    def scores(self, classes: tuple[str, ...]) -> RegionScores:
        """Divide."""
        if not self.sums:
            nothing = np.zeros(0, np.int64)
            self.add(*[Regions(nothing, nothing, nothing, np.zeros((0, 4), np.int64))] * 2)
        overall = {name: table.sum(0) for name, table in self.sums.items()}
        return RegionScores(classes, self.limits, _divided(overall), _divided(self.sums))


def _divided(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with np.errstate(divide='ignore', invalid='ignore'):
        return dict(
            regions=sums['regions'],
            pixels=sums['pixels'],
            pixel_recall=100 * sums['hit'] / sums['pixels'],
            region_recall=100 * sums['recall'] / sums['regions'],
            missed=sums['missed'],
            missed_share=100 * sums['missed'] / sums['regions'],
            predicted_regions=sums['predicted'],
            invented=sums['invented'],
            invented_share=100 * sums['invented'] / sums['predicted'],
            invented_pixels=sums['invented_pixels'],
        )


@dataclass(frozen=True)
class RegionScores:
    """How regions fare by size; shares and recalls in percent, NaN where there is no region.

    Args:
        classes: names of the classes.
        limits: pixels at which the next size begins: small regions have fewer than the first.
        overall: (S,) each. Of the label maps: `regions`, `pixels`, `pixel_recall` (share of the pixels that are found),
            `region_recall` (mean of that share over the regions), `missed`, `missed_share`. Of the predictions, by
            their own size: `predicted_regions`, `invented`, `invented_share`, `invented_pixels`.
        per_class: (C, S) each, likewise.
    """

    classes: tuple[str, ...]
    limits: tuple[int, ...]
    overall: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]

    def as_dict(self) -> dict[str, Any]:
        """Plain data: a row for each size, and one for each class and size that occurs."""
        from .segmentation_counts import plain

        many = len(self.limits) + 1
        names = SIZES if many == len(SIZES) else tuple(f'size {place}' for place in range(many))
        ends = [0, *self.limits, None]

        def row(tables: dict[str, np.ndarray], *place: int) -> dict[str, Any]:
            size = place[-1]
            known = dict(size=names[size], from_pixels=ends[size], below_pixels=ends[size + 1])
            return {**known, **{name: plain(table[place]) for name, table in tables.items()}}

        occurs = np.argwhere((self.per_class['regions'] > 0) | (self.per_class['predicted_regions'] > 0))
        return dict(
            limits=list(self.limits),
            overall=[row(self.overall, size) for size in range(many)],
            per_class=[{'class': self.classes[c], **row(self.per_class, int(c), int(size))} for c, size in occurs],
        )
