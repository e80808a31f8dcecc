"""Which error each detection and each object has; the kinds are told in `detection_errors.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .detection_matches import AREAS, Matches, Overlaps

KINDS = ('classification', 'localisation', 'both', 'duplicate', 'background', 'missed')
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
SIZES = ('small', 'medium', 'large')


@dataclass(frozen=True)
class ErrorTable:
    """All errors of a data set, E of them, by image.

    Attributes:
        overlaps: of what.
        kind: (E,) place in `KINDS`.
        image: (E,) place in `overlaps.images`.
        label: (E,) class detected, or missed: place in `overlaps.classes`.
        found: (E,) place in `overlaps.found`; -1 for what was missed.
        object: (E,) place in `overlaps.objects` of the object missed, badly placed, taken for another, or taken twice;
            -1 where there is none.
        iou: (E,) with that object, or the highest with any.
        size: (E,) place in `SIZES`: of the object, or where there is none or another has taken it, of the detection.
        gains: (E,) whether mending makes a right detection of it, and does not only take it out.
        counts: (E,) whether it is a wrong detection, or in a crowd, where only mending counts; missed: True.
        cost: (E,) mean AP gained if this error alone were mended; of an object missed, if the best of all detections
            found it (its dAP takes it out of the count instead, which for a class never found gains nothing).
    """

    overlaps: Overlaps
    kind: np.ndarray
    image: np.ndarray
    label: np.ndarray
    found: np.ndarray
    object: np.ndarray
    iou: np.ndarray
    size: np.ndarray
    gains: np.ndarray
    counts: np.ndarray
    cost: np.ndarray

    def entry(self, row: int) -> dict[str, Any]:
        """One error as plain data.

        Returns:
            `image` id, `kind`, `category` id; `object`: place in the list `annotations` of the file, and `object_id`;
            `detection`: place in `Detections`, and its `score`; None where there is none; `iou`, `size`, `cost`.
        """
        overlaps, found, thing = self.overlaps, int(self.found[row]), int(self.object[row])
        return dict(
            image=int(overlaps.images[self.image[row]]), kind=KINDS[self.kind[row]],
            category=int(overlaps.classes[self.label[row]]),
            object=int(overlaps.objects.place[thing]) if thing >= 0 else None,
            object_id=int(overlaps.objects.id[thing]) if thing >= 0 else None,
            detection=int(overlaps.found.place[found]) if found >= 0 else None,
            score=float(overlaps.found.score[found]) if found >= 0 else None,
            iou=float(self.iou[row]), size=SIZES[self.size[row]], cost=float(self.cost[row]))

    def of_image(self, image: int) -> list[dict[str, Any]]:
        """Errors of the image with this id, the costliest first."""
        place = int(np.searchsorted(self.overlaps.images, image))
        if place == len(self.overlaps.images) or self.overlaps.images[place] != image:
            raise ValueError(f'there is no image with the id {image}; the ids are those of the annotation file')
        rows = np.flatnonzero(self.image == place)
        return [self.entry(row) for row in rows[np.argsort(-self.cost[rows], kind='stable')].tolist()]

    def worst(self, kind: str | None = None, number: int = 20) -> list[dict[str, Any]]:
        """The costliest errors, of a kind or of all."""
        rows = self._rows(kind)
        return [self.entry(row) for row in rows[np.argsort(-self.cost[rows], kind='stable')][:number].tolist()]

    def worst_images(self, kind: str | None = None, number: int = 20) -> list[dict[str, Any]]:
        """Images whose errors of a kind, or of all, cost most: `image` id, `cost` added up, `errors`."""
        rows, many = self._rows(kind), len(self.overlaps.images)
        cost = np.bincount(self.image[rows], self.cost[rows], many)
        errors = np.bincount(self.image[rows], minlength=many)
        order = np.lexsort((-errors, -cost))[:number]
        return [dict(image=int(self.overlaps.images[n]), cost=float(cost[n]), errors=int(errors[n]))
                for n in order.tolist() if errors[n]]

    def _rows(self, kind: str | None) -> np.ndarray:
        if kind is not None and kind not in KINDS:
            raise ValueError(f'kind={kind!r} is not a kind of error; choose one of {", ".join(KINDS)}')
        return np.arange(len(self.kind)) if kind is None else np.flatnonzero(self.kind == KINDS.index(kind))


def error_table(matches: Matches, background: float) -> ErrorTable:
    """Name all errors, of `matches` at one threshold and of all sizes; `cost` is left 0."""
    overlaps = matches.overlaps
    objects, found = overlaps.objects, overlaps.found
    taken, counted = matches.states()
    used = np.zeros(len(objects.image), bool)
    used[taken[taken >= 0]] = True
    kind, row, thing, value = _wrong(matches, taken, used, background)
    own = kind <= LOCALISATION  # with an object that they might have found
    some = counted[row] | own  # what is in a crowd is not wrong, but may be mended
    kind, row, thing, value, own = (part[some] for part in (kind, row, thing, value, own))
    free = np.flatnonzero(own)[~used[thing[own]]]
    gains = np.zeros(len(kind), bool)  # the best of each object: the first, as scores fall within an image
    gains[free[np.unique(thing[free], return_index=True)[1]]] = True
    missed = ~objects.crowd & ~used
    missed[thing[free]] = False
    lost = np.flatnonzero(missed)
    area = found.area[row]
    area[own] = objects.area[thing[own]]
    columns = dict(
        kind=(kind, np.full(len(lost), MISSED)), image=(found.image[row], objects.image[lost]),
        label=(found.label[row], objects.label[lost]), found=(row, np.full(len(lost), -1)), object=(thing, lost),
        iou=(value, _nearest(overlaps, lost)), gains=(gains, np.zeros(len(lost), bool)),
        size=(_size(area), _size(objects.area[lost])), counts=(counted[row], np.ones(len(lost), bool)))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.argsort(joined['image'], kind='stable')
    return ErrorTable(overlaps, **{name: one[order] for name, one in joined.items()}, cost=np.zeros(len(order)))


def _size(area: np.ndarray) -> np.ndarray:
    """Place in `SIZES`; an area on the bound is of the smaller one."""
    return np.searchsorted([AREAS[name][1] for name in SIZES[:2]], area, 'left')


def _nearest(overlaps: Overlaps, lost: np.ndarray) -> np.ndarray:
    """Highest IoU of each of these objects with any detection."""
    values = np.zeros(len(lost))
    for place, thing in enumerate(lost.tolist()):
        image = overlaps.objects.image[thing]
        values[place] = overlaps.ious[image][:, thing - overlaps.object_bounds[image]].max(initial=0)
    return values


def _wrong(
    matches: Matches, taken: np.ndarray, used: np.ndarray, background: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Kind, detection, object (-1 for none) and IoU of all detections that find nothing, by image and score."""
    overlaps, (right,) = matches.overlaps, matches.thresholds
    columns: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for image, ious in enumerate(overlaps.ious):
        start, first = overlaps.found_bounds[image], overlaps.object_bounds[image]
        rows = np.flatnonzero(taken[start:start + len(ious)] < 0)
        things = np.flatnonzero(~overlaps.objects.crowd[first:first + ious.shape[1]])
        if not len(rows):
            continue
        kind, thing, value = np.full(len(rows), BACKGROUND), np.full(len(rows), -1), np.zeros(len(rows))
        if len(things):
            own = ious[np.ix_(rows, things)]
            same = overlaps.found.label[start + rows, None] == overlaps.objects.label[first + things]
            kind, place, value = _kinds(own, same, used[first + things], right, background)
            thing = np.where(place < 0, -1, first + things[place])
        for column, part in zip(columns, (kind, start + rows, thing, value), strict=True):
            column.append(part)
    whole = np.zeros(0, np.int64)
    kind, row, thing, value = (np.concatenate([whole, *parts]) for parts in columns)
    return kind.astype(int), row.astype(int), thing.astype(int), value


def _kinds(
    ious: np.ndarray, same: np.ndarray, used: np.ndarray, right: float, background: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind (d,), object (-1 for none) and IoU, from overlaps (d, g) with objects of the `same` class, `used` or not."""
    parts = np.stack([ious * same, ious * ~same, ious * same * used])  # (3, d, g)
    places, (its, other, double) = parts.argmax(axis=2), parts.max(axis=2)
    highest = ious.max(axis=1)
    rules = [(its >= background) & (its <= right), other >= right, double >= right, highest <= background]
    kind = np.select(rules, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
    thing = np.select(rules[:3], places, -1)
    return kind, thing, np.select(rules[:3], [its, other, double], highest)
