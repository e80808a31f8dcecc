"""Rules for objects whose numbers and masks can be read: boxes against pictures and masks, areas, missing parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.coco_checks import name_of
from ..data.files import some
from ..findings import Finding
from .mask_facts import polygon_facts, run_facts

BEYOND = 1.0  # pixels that a box may reach beyond its picture: rounding, and tools that count pixels from 1
FIT_PIXELS, FIT_SHARE = 3.0, 0.1  # a box and its mask may differ on each side by either, of the box's side
# COCO's area is the mask's, many tools write the box's; anything from half the largest polygon to the box is either
LEAST_AREA, MOST_AREA, AREA_SLACK = 0.5, 1.1, 4.0
# https://github.com/cocodataset/cocoapi/issues/355 and https://github.com/visionml/pytracking/issues/18: the two
# objects of 860,001 in COCO's instances_train2017.json that have no height; picture and box by annotation id
COCO_ERRATA = {918: (200365, [296.65, 388.33, 1.03, 0.0]), 2206849: (550395, [9.98, 188.56, 5.54, 0.0])}


@dataclass
class Objects:
    """Annotations that strict reading passed, as columns; M objects.

    Attributes:
        entries: the annotations.
        pictures: their entries of 'images'.
        image, category: (M,) places in the lists of pictures and of categories by id.
        boxes: (M, 4) x, y, width, height.
        sizes: (M, 2) width, height of the picture.
        areas: (M,) the file's, or the box's.
        crowd, has_mask: (M,) bool.
    """

    entries: list[dict]
    pictures: list[dict]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    has_mask: np.ndarray

    @classmethod
    @np.errstate(over='ignore')  # boxes may be of any finite size
    def of(cls, entries: list[dict], images: dict, categories: dict) -> Objects:
        """Make columns of `entries`; `images` and `categories` are by id, in the order of their places."""
        places = {number: place for place, number in enumerate(images)}
        labels = {number: place for place, number in enumerate(categories)}
        count = len(entries)
        sizes = np.array([(image['width'], image['height']) for image in images.values()], np.float64).reshape(-1, 2)
        image = np.fromiter((places[entry['image_id']] for entry in entries), np.int64, count)
        boxes = np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4)
        missing = float('nan')
        areas = np.fromiter((entry.get('area', missing) for entry in entries), np.float64, count)
        return cls(
            entries, [images[entry['image_id']] for entry in entries], image,
            np.fromiter((labels[entry['category_id']] for entry in entries), np.int64, count),
            boxes, sizes[image], np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
            np.fromiter((bool(entry.get('iscrowd', 0)) for entry in entries), bool, count),
            np.fromiter((bool(entry.get('segmentation')) for entry in entries), bool, count),
        )

    def columns(self, used: np.ndarray) -> dict[str, Any]:
        """Give the columns of `Annotations` for those objects that are `used` (M,)."""
        places = np.flatnonzero(used)
        return dict(
            ids=[self.entries[place]['id'] for place in places], image=self.image[used], category=self.category[used],
            boxes=self.boxes[used], areas=self.areas[used], crowd=self.crowd[used], has_mask=self.has_mask[used],
        )


class _Notes:
    """Collects findings about objects, and which objects have an error."""

    def __init__(self, objects: Objects, file: str) -> None:
        self.objects, self.file = objects, file
        self.findings: list[Finding] = []
        self.wrong = np.zeros(len(objects.entries), bool)
        self.errata = np.zeros(len(objects.entries), bool)

    def name(self, place: int) -> str:
        return name_of(self.objects.entries[place], self.objects.pictures[place], self.file).replace(
            f' in {self.file}', '')

    def add(self, severity: str, kind: str, place: int, field: str, value: Any, said: str, remedy: str = '') -> None:
        if self.errata[place]:
            return
        self.findings.append(Finding(
            severity, kind, f'{self.name(place)} {said}', remedy, self.file, self.objects.entries[place]['id'], field,
            value))
        if severity == 'error':
            self.wrong[place] = True


@np.errstate(over='ignore')
def object_findings(objects: Objects, entries: Sequence[dict], file: str) -> tuple[list[Finding], np.ndarray]:
    """Check sound objects against their pictures and each other.

    Args:
        objects: what strict reading passed.
        entries: all annotations of the file with their keys and ids in order.
        file: name of the file.

    Returns:
        The findings, and which objects training uses (M,).
    """
    notes = _Notes(objects, file)
    _errata(objects, notes)
    _boxes(objects, notes)
    extents, least = _masks(objects, notes)
    fine = ~notes.wrong & ~notes.errata
    _areas(objects, fine, np.where(_beyond(objects, extents), 0, least), notes)
    _fits(objects, fine, extents, notes)
    notes.findings += _left_to_defaults(entries, file)
    ignored = np.fromiter((bool(entry.get('ignore', 0)) for entry in objects.entries), bool, len(objects.entries))
    large = (objects.boxes[:, 2:] >= 1).all(1)
    return notes.findings, ~notes.wrong & ~notes.errata & ~ignored & large


def _errata(objects: Objects, notes: _Notes) -> None:
    for place, entry in enumerate(objects.entries):
        if entry['id'] in COCO_ERRATA and COCO_ERRATA[entry['id']] == (entry['image_id'], entry['bbox']):
            notes.add('note', 'box empty', place, 'bbox', entry['bbox'],
                      f"has the bbox {entry['bbox']} without height; it is a known slip of COCO's, and left out")
            notes.errata[place] = True


def _boxes(objects: Objects, notes: _Notes) -> None:
    x, y, width, height = objects.boxes.T
    for place in np.flatnonzero((width <= 0) | (height <= 0)).tolist():
        box = objects.entries[place]['bbox']
        side = 'width' if box[2] <= 0 else 'height'
        how = 'negative' if min(box[2:]) < 0 else 'empty'
        notes.add('error', f'box {how}', place, 'bbox', box, f'has the bbox {box}, whose {side} is '
                  + (f'negative ({box[2] if box[2] < 0 else box[3]})' if how == 'negative' else '0'),
                  'correct it (x, y, width, height) or remove the annotation: training leaves it out')
    beyond = np.stack([-x, -y, x + width - objects.sizes[:, 0], y + height - objects.sizes[:, 1]], 1)
    outside = (beyond.max(1) > BEYOND) & ~notes.wrong
    for place in np.flatnonzero(outside).tolist():
        _outside(objects, place, beyond[place], notes)
    small = (np.minimum(width, height) < 1) & ~notes.wrong
    for place in np.flatnonzero(small).tolist():
        box = objects.entries[place]['bbox']
        notes.add('note', 'box below a pixel', place, 'bbox', box,
                  f'has the bbox {box}, less than a pixel wide or high: training leaves it out')


def _outside(objects: Objects, place: int, beyond: np.ndarray, notes: _Notes) -> None:
    box, (width, height) = objects.entries[place]['bbox'], objects.sizes[place].astype(int)
    edge = ('left', 'top', 'right', 'bottom')[int(beyond.argmax())]
    inner = np.minimum(objects.boxes[place, :2] + objects.boxes[place, 2:], objects.sizes[place]) - np.maximum(
        objects.boxes[place, :2], 0)
    if inner.min() <= 0:
        said, remedy = 'lies outside its picture', 'correct it or remove the annotation: training leaves it out'
    else:
        said = f'reaches {beyond.max():g} pixels beyond the {edge} edge of its picture'
        remedy = 'clip it to the picture, or correct the size of the picture in the file'
    notes.add('error', 'box outside', place, 'bbox', box, f'has the bbox {box}, which {said} of {width}x{height} '
              '(width x height)', remedy)


def _masks(objects: Objects, notes: _Notes) -> tuple[np.ndarray, np.ndarray]:
    """Check masks; return their extents (M, 4), NaN without one, and the pixels that they cover at least (M,)."""
    count = len(objects.entries)
    extents, least = np.full((count, 4), np.nan), np.zeros(count)
    masks = [entry.get('segmentation') for entry in objects.entries]
    if objects.has_mask.any():
        for place in np.flatnonzero(~objects.has_mask).tolist():
            there = 'segmentation' in objects.entries[place]
            notes.add(
                'error', 'mask missing', place, 'segmentation', masks[place] if there else None,
                f'has {"an empty" if there else "no"} segmentation, while {int(objects.has_mask.sum())} objects of the '
                'file have one', 'add the mask or remove the annotation: it counts as ignored where masks are trained')
    polygons = [place for place in range(count) if masks[place] and isinstance(masks[place], list)]
    facts = polygon_facts([masks[place] for place in polygons])
    extents[polygons], least[polygons] = facts.extents, facts.areas
    for number, part in facts.short:
        _short(polygons[number], part, masks[polygons[number]][part], notes)
    for number, part in facts.flat:
        _flat(polygons[number], part, masks[polygons[number]][part], bool(facts.areas[number]), notes)
    for place in polygons:
        if objects.crowd[place]:
            notes.add('warning', 'crowd polygons', place, 'iscrowd', 1, "is a crowd (iscrowd 1) with polygons, while "
                      "COCO's crowds are run lengths",
                      'set iscrowd to 0 if it is one object: training leaves crowds out, and scoring ignores them')
    runs = [place for place in range(count) if isinstance(masks[place], dict) and masks[place]]
    facts = run_facts([masks[place] for place in runs])
    extents[runs], least[runs] = facts.extents, facts.areas
    for place in runs:
        if least[place] == 0:
            notes.add('error', 'mask empty', place, 'segmentation', 'run lengths of background only',
                      'has a mask without a pixel', 'draw the mask again, or remove the annotation')
    return extents, least


def _short(place: int, part: int, polygon: list, notes: _Notes) -> None:
    how = f'{len(polygon) // 2} points' if len(polygon) % 2 == 0 else f'half a point ({len(polygon)} numbers)'
    how = {'0 points': 'no points', '1 points': '1 point'}.get(how, how)
    notes.add(
        'error', 'polygon short', place, f'segmentation[{part}]', polygon, f'has a polygon of {how}, which encloses '
        'nothing', 'a polygon takes three points or more (x, y, x, y, ...): draw the mask again or remove the polygon')


def _flat(place: int, part: int, polygon: list, others: bool, notes: _Notes) -> None:
    said = 'has a polygon whose points all lie on one line'
    if others:
        notes.add('note', 'polygon flat', place, f'segmentation[{part}]', polygon, f'{said}: it is left out, the '
                  'other polygons of the object count')
    else:
        notes.add('error', 'polygon flat', place, f'segmentation[{part}]', polygon, f'{said}: its mask has no pixel',
                  'draw the mask again, or remove the annotation')


def _beyond(objects: Objects, extents: np.ndarray) -> np.ndarray:
    """Tell masks that reach beyond their picture (M,): not all of their area counts."""
    return (extents[:, :2] < -BEYOND).any(1) | (extents[:, 2:] > objects.sizes + BEYOND).any(1)


def _areas(objects: Objects, fine: np.ndarray, least: np.ndarray, notes: _Notes) -> None:
    for place in np.flatnonzero(fine & (objects.areas <= 0)).tolist():
        area = objects.entries[place]['area']
        notes.add('error', 'area', place, 'area', area, f'has the area {area}',
                  'write the number of pixels of its mask, or remove the key: training leaves the object out')
    box = objects.boxes[:, 2] * objects.boxes[:, 3]
    too_small = objects.areas < LEAST_AREA * np.nan_to_num(least) - AREA_SLACK
    too_large = objects.areas > MOST_AREA * box + AREA_SLACK
    for place in np.flatnonzero(fine & (objects.areas > 0) & (too_small | too_large)).tolist():
        area = objects.entries[place]['area']
        said = (
            f'less than half of its mask of {least[place]:.0f} pixels' if too_small[place]
            else f'more than its box of {box[place]:.0f} pixels')
        notes.add('warning', 'area', place, 'area', area, f'has the area {area:g}, {said}',
                  'write the number of pixels of its mask: the scores of small, medium and large objects go by it')


def _fits(objects: Objects, fine: np.ndarray, extents: np.ndarray, notes: _Notes) -> None:
    """Compare boxes with the extents of masks, both clipped to the picture."""
    limits = np.tile(objects.sizes, 2)
    corners = np.concatenate([objects.boxes[:, :2], objects.boxes[:, :2] + objects.boxes[:, 2:]], 1)
    apart = np.abs(np.clip(corners, 0, limits) - np.clip(extents, 0, limits))  # (M, 4), NaN without a mask
    allowed = np.maximum(FIT_PIXELS, FIT_SHARE * np.tile(objects.boxes[:, 2:], 2))
    for place in np.flatnonzero(fine & (apart > allowed).any(1)).tolist():
        box, (x0, y0, x1, y1) = objects.entries[place]['bbox'], np.round(extents[place], 2).tolist()
        tight = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        notes.add('warning', 'box and mask', place, 'bbox', box, f'has the bbox {box}, while its mask lies in {tight} '
                  '(x, y, width, height)', 'correct whichever is wrong: they may belong to different objects')


def _left_to_defaults(entries: Sequence[dict], file: str) -> Iterator[Finding]:
    """Say once per file what is missing or set aside in annotations, and how it is read."""
    for key, read_as in (('area', 'the area of the box is taken'), ('iscrowd', '0 is taken')):
        ids = [entry['id'] for entry in entries if key not in entry]
        if ids:
            yield Finding('note', f'{key} missing', f'{len(ids)} of {len(entries)} annotations have no {key}, ids '
                          f'{some(ids, 5)}: {read_as}', '', file, ids[0], key)
    ids = [entry['id'] for entry in entries if entry.get('ignore') == 1]
    if ids:
        yield Finding('note', 'ignore', f'{len(ids)} of {len(entries)} annotations have ignore 1, ids {some(ids, 5)}: '
                      "training leaves them out, and COCO's score does not look at the key", '', file, ids[0],
                      'ignore', 1)
    if any(entry['id'] == 0 for entry in entries):
        yield Finding('note', 'annotation id 0', "an annotation has the id 0, which is read correctly here; COCO's own "
                      'scoring counts an object of that id as never found', '', file, 0, 'id', 0)
