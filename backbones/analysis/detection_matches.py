"""Which detection finds which object, in every image, at every IoU threshold and object size, computed once.

All numbers of detection but the plain average precision (`evaluation/coco_scoring.py`) are counts of these matches:
precision at a threshold, intervals by resampling images, errors by kind. The rule is COCO's, as `evaluateImg` of
pycocotools has it (https://github.com/cocodataset/cocoapi/blob/8c9bcc3cf640524c4c20a9c40e89cb6a2f2fa0e9/PythonAPI/pycocotools/cocoeval.py#L236):
the detections of a class in an image, best score first, each take the object of their class not yet taken that they
overlap most, if by the threshold; crowds, and objects outside the size asked for, only if there is no other, and that
detection does not count. Nor does one without an object that is itself outside that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backbones.evaluation.coco_api import CheckedCoco, check_results, read_entries
from backbones.evaluation.coco_scoring import Detections
from backbones.missing import toolbox_needed

with toolbox_needed():
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import Params

COCO_IOUS = tuple(Params(iouType='bbox').iouThrs.tolist())  # 0.5, 0.55 ... 0.95
RECALLS = Params(iouType='bbox').recThrs  # 0, 0.01 ... 1: where a precision-recall curve is read
AREAS = dict(all=(0.0, 1e10), small=(0.0, 32.0**2), medium=(32.0**2, 96.0**2), large=(96.0**2, 1e10))  # COCO's, pixels
MAX_DETS = 100  # detections of an image and class that count in AP
NEVER = 1 - 1e-10  # pycocotools takes an IoU of almost 1 for 1


# --- input -------------------------------------------------------------------------------------------


def open_truth(file: str | Path, masks: bool = False) -> CheckedCoco:
    """Read and check an annotation file; see `CheckedCoco`."""
    return CheckedCoco(str(file), masks)


def read_results(coco: COCO, file: str | Path, masks: bool = False) -> Detections:
    """Read a file of COCO results: a list of `{image_id, category_id, score, bbox and/or segmentation}`.

    Args:
        coco: checked annotations that they were made for.
        file: such as `results.bbox.json`.
        masks: take the masks, not the boxes.

    Raises:
        ValueError: it cannot be read, belongs to another data set, or holds what cannot be scored.
    """
    where = str(file)
    entries = read_entries(file)
    check_results(entries, coco.imgs, coco.cats, where)
    name = 'segmentation' if masks else 'bbox'
    bare = next((place for place, entry in enumerate(entries) if not entry.get(name)), None)
    if bare is not None:
        raise ValueError(f'entry {bare} of {where} has no {name}; score {"boxes" if masks else "masks"} instead, or '
                         f'write results that have it')
    return Detections(
        images=np.array([entry['image_id'] for entry in entries], np.int64),
        categories=np.array([entry['category_id'] for entry in entries], np.int64),
        scores=np.array([entry['score'] for entry in entries], np.float64),
        boxes=None if masks else np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4),
        masks=[_runs(entry['segmentation'], coco.imgs[entry['image_id']]) for entry in entries] if masks else None)


def _runs(mask: Any, image: dict) -> dict:
    """Compressed run lengths of a checked mask."""
    size = image['height'], image['width']
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    return coco_mask.frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask


def check_detections(coco: COCO, found: Detections) -> None:
    """Refuse detections of another data set, and numbers that are none.

    What is in a mask is taken as it is: `flat_detections` and `read_results` have looked at it.

    Raises:
        ValueError: saying which detection, and what is wrong.
    """
    regions = found.boxes if found.masks is None else found.masks
    if regions is None:
        raise ValueError('detections need boxes or masks; give Detections one of them')
    number = len(regions)
    wanted = dict(images=('iu', (number,)), categories=('iu', (number,)), scores=('fiu', (number,)))
    for name, (kinds, shape) in (wanted | (dict(boxes=('fiu', (number, 4))) if found.masks is None else {})).items():
        part = getattr(found, name)
        if not isinstance(part, np.ndarray) or part.dtype.kind not in kinds or part.shape != shape:
            raise ValueError(
                f'{name} of {number} detections are {getattr(part, "dtype", type(part).__name__)} of shape '
                f'{np.shape(part)}; they must be an array of {"numbers" if "f" in kinds else "whole numbers"} {shape}')
    for place, (mask, image) in enumerate(zip(found.masks or (), found.images.tolist(), strict=bool(found.masks))):
        shape = coco.imgs.get(image)
        if not isinstance(mask, dict) or (shape and list(mask.get('size', ())) != [shape['height'], shape['width']]):
            raise ValueError(f'the mask of detection {place} is {mask!r:.60}; it must be run lengths of its image, '
                             'dict(size=[height, width], counts=...)')
    if not coco.cats or not coco.imgs:
        raise ValueError('the annotations list no categories or no images, so nothing can be scored; give the file '
                         'that the predictions were made for')
    for name, ids, known in (('image', found.images, coco.imgs), ('category', found.categories, coco.cats)):
        foreign = np.flatnonzero(~np.isin(ids, np.array(list(known), np.int64)))
        if len(foreign):
            raise ValueError(
                f'{len(foreign)} of {number} detections have an {name} id that is not in the annotations, such as '
                f'{ids[foreign[0]]} of detection {foreign[0]}; score them against the file they were predicted for')
    finite = np.isfinite(found.scores)
    if found.boxes is not None:
        finite &= np.isfinite(found.boxes).all(axis=1)
    if not finite.all():
        raise ValueError(f'detection {int(np.argmin(finite))} has a box or a score that is no finite number; predict '
                         'with weights that hold no NaN')


# --- overlaps ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objects:
    """Objects of the annotation file, G of them, by image and then as in the file.

    Attributes:
        image: (G,) place of its image in `Overlaps.images`.
        label: (G,) place of its class in `Overlaps.classes`.
        area: (G,) in pixels, as the file has it.
        crowd: (G,) whether it is a region of many: a detection in it does not count.
        place: (G,) place in the list `annotations`.
        id: (G,) in the file.
    """

    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    place: np.ndarray
    id: np.ndarray


@dataclass(frozen=True)
class Found:
    """Detections that count, N of them, by image and falling score; equal scores stay in their order.

    Attributes:
        image: (N,) place of its image in `Overlaps.images`.
        label: (N,) place of its class in `Overlaps.classes`.
        score: (N,)
        area: (N,) of its box or mask in pixels.
        rank: (N,) how many of its image and class have a better score.
        place: (N,) place in `Detections`.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    area: np.ndarray
    rank: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Overlaps:
    """Objects, detections and their overlap.

    Attributes:
        images: (I,) ids, rising.
        classes: (K,) category ids, rising.
        names: K class names.
        objects: what there is.
        found: what was detected.
        object_bounds: (I + 1,) where the objects of each image begin; the last is G.
        found_bounds: (I + 1,) likewise for the detections.
        ious: of each image (d, g): IoU, with a crowd the part of the detection inside. All classes with all.
        masks: whether masks overlap, or boxes.
    """

    images: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    objects: Objects
    found: Found
    object_bounds: np.ndarray
    found_bounds: np.ndarray
    ious: list[np.ndarray]
    masks: bool


def overlaps_of(
    coco: COCO, found: Detections, *, max_dets: int = MAX_DETS, max_per_image: int | None = None
) -> Overlaps:
    """Sort objects and detections, and overlap those of an image.

    Args:
        coco: checked annotations.
        found: detections of their images, in any order.
        max_dets: how many of an image and class count, best first.
        max_per_image: how many of an image count, whatever their class; None: all.

    Raises:
        ValueError: the detections are not of these annotations, or not finite.
    """
    check_detections(coco, found)
    images, classes = np.array(sorted(coco.imgs), np.int64), np.array(sorted(coco.cats), np.int64)
    entries, objects = _objects(coco, images, classes)
    detected = _found(found, images, classes, max_dets, max_per_image)
    numbers = np.arange(len(images) + 1)
    bounds = [np.searchsorted(part.image, numbers) for part in (objects, detected)]
    ious = []
    for first, last, start, stop in zip(*(edges for one in bounds for edges in (one[:-1], one[1:])), strict=True):
        here, chosen = entries[first:last], detected.place[start:stop]
        if not len(here) or not len(chosen):
            ious.append(np.zeros((len(chosen), len(here))))
            continue
        if found.masks is None:
            regions = found.boxes[chosen], np.array([entry['bbox'] for entry in here], np.float64).reshape(-1, 4)
        else:
            regions = [found.masks[n] for n in chosen], [coco.annToRLE(entry) for entry in here]
        ious.append(coco_mask.iou(*regions, objects.crowd[first:last].astype(int).tolist()))
    names = tuple(str(coco.cats[number]['name']) for number in classes.tolist())
    return Overlaps(images, classes, names, objects, detected, *bounds, ious, found.masks is not None)


def _objects(coco: COCO, images: np.ndarray, classes: np.ndarray) -> tuple[list[dict], Objects]:
    every = coco.dataset['annotations']
    image = np.searchsorted(images, np.array([entry['image_id'] for entry in every], np.int64))
    order = np.argsort(image, kind='stable')
    entries = [every[place] for place in order.tolist()]
    return entries, Objects(
        image=image[order], place=order,
        label=np.searchsorted(classes, np.array([entry['category_id'] for entry in entries], np.int64)),
        area=np.array([entry['area'] for entry in entries], np.float64),
        crowd=np.array([bool(entry.get('iscrowd', 0)) for entry in entries], bool),
        id=np.array([entry['id'] for entry in entries], np.int64))


def _found(
    found: Detections, images: np.ndarray, classes: np.ndarray, max_dets: int, max_per_image: int | None
) -> Found:
    image = np.searchsorted(images, np.asarray(found.images, np.int64))
    label = np.searchsorted(classes, np.asarray(found.categories, np.int64))
    order = np.lexsort((-found.scores, image))  # the last key counts most; stable
    if max_per_image is not None:
        order = order[_ranks(image[order]) < max_per_image]
    ranks = _ranks(image[order] * len(classes) + label[order])
    order, ranks = order[ranks < max_dets], ranks[ranks < max_dets]
    return Found(image[order], label[order], np.asarray(found.scores, np.float64)[order], found.areas()[order], ranks,
                 order)


def grouped(label: np.ndarray, number: int) -> list[np.ndarray]:
    """Places of each label 0 ... number - 1, rising; of other labels none."""
    order = np.argsort(label, kind='stable')
    bounds = np.searchsorted(label[order], np.arange(number + 1))
    return [order[start:stop] for start, stop in pairwise(bounds.tolist())]


def _ranks(group: np.ndarray) -> np.ndarray:
    """How many of the same group come before each."""
    order = np.argsort(group, kind='stable')
    starts = np.searchsorted(group[order], group[order])
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - starts
    return ranks


# --- matches -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matches:
    """Which object each detection takes, for A sizes and T thresholds.

    Attributes:
        overlaps: of what.
        thresholds: T IoU thresholds.
        areas: A names of `AREAS`.
        rows: (M,) the detections that take an object for some size and threshold, rising.
        taken: (A, T, M) int32: place in `overlaps.objects` of what each of them takes; -1: nothing.
        ignored: (A, G) objects that need not be found: crowds, and those outside the size.
        inside: (A, N) detections of the size: only those count where they take nothing.
    """

    overlaps: Overlaps
    thresholds: tuple[float, ...]
    areas: tuple[str, ...]
    rows: np.ndarray
    taken: np.ndarray
    ignored: np.ndarray
    inside: np.ndarray

    def right(self, area: int, threshold: int) -> tuple[np.ndarray, np.ndarray]:
        """Whether each of `rows` takes an object that counts; and one that does not: (M,) and (M,)."""
        taken = self.taken[area, threshold]
        some = taken >= 0
        ignored = np.zeros(len(taken), bool)
        ignored[some] = self.ignored[area][taken[some]]
        return some & ~ignored, ignored

    def states(self, area: int = 0, threshold: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Object that counts which each detection takes (N,), -1 where none; and whether it counts itself (N,)."""
        right, ignored = self.right(area, threshold)
        taken = np.full(len(self.overlaps.found.image), -1)
        taken[self.rows[right]] = self.taken[area, threshold][right]
        counts = self.inside[area].copy()
        counts[self.rows[right]] = True
        counts[self.rows[ignored]] = False
        return taken, counts


def match(
    overlaps: Overlaps, thresholds: Sequence[float] = COCO_IOUS, areas: Sequence[str] = tuple(AREAS)
) -> Matches:
    """Match the detections of all images.

    Raises:
        ValueError: a threshold is not between 0 and 1, or an area not known.
    """
    unknown = [name for name in areas if name not in AREAS]
    if unknown or not all(0 < value <= 1 for value in thresholds):
        raise ValueError(f'thresholds={tuple(thresholds)} must be above 0 and at most 1, and areas={tuple(areas)} of '
                         f'{", ".join(AREAS)}')
    objects, found = overlaps.objects, overlaps.found
    ranges = np.array([AREAS[name] for name in areas]).reshape(-1, 2, 1)
    ignored = objects.crowd | (objects.area < ranges[:, 0]) | (objects.area > ranges[:, 1])  # (A, G)
    inside = (found.area >= ranges[:, 0]) & (found.area <= ranges[:, 1])  # (A, N)
    least = np.minimum(np.array(thresholds, np.float64), NEVER)
    rows, taken = [np.zeros(0, np.int64)], [np.zeros((len(areas), len(least), 0), np.int32)]
    for image, ious in enumerate(overlaps.ious):
        start, first = overlaps.found_bounds[image], overlaps.object_bounds[image]
        mine, its = slice(start, start + ious.shape[0]), slice(first, first + ious.shape[1])
        may = (ious >= least.min(initial=NEVER)) & (found.label[mine, None] == objects.label[its])  # (d, g)
        if may.any():
            some = np.flatnonzero(may.any(axis=1))
            rows.append(start + some)
            chosen = _match_image(ious[some], may[some], objects.crowd[its], ignored[:, its], least)
            taken.append(np.where(chosen < 0, -1, chosen + first).astype(np.int32))
    return Matches(overlaps, tuple(thresholds), tuple(areas), np.concatenate(rows), np.concatenate(taken, axis=2),
                   ignored, inside)


def _match_image(
    ious: np.ndarray, may: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """Match detections, best first, with the objects that they `may` (d, g) take: (A, T, d), -1 for none."""
    result = np.full((len(ignored), len(least), len(ious)), -1)
    gone = np.zeros((len(ignored), len(least), len(crowd)), bool)  # (A, T, g)
    for row in range(len(ious)):
        columns = np.flatnonzero(may[row])
        values = ious[row, columns]
        free = (crowd[columns] | ~gone[:, :, columns]) & (values >= least[:, None])  # (A, T, c)
        if len(columns) > 1:
            counted = free & ~ignored[:, None, columns]
            free = np.where(counted.any(axis=2, keepdims=True), counted, free)
            best = len(columns) - 1 - np.argmax(np.where(free, values, -1)[:, :, ::-1], axis=2)  # of equals the last
            free &= best[..., None] == np.arange(len(columns))
        hit = free.any(axis=2)
        result[:, :, row] = np.where(hit, columns[np.argmax(free, axis=2)], -1)
        gone[:, :, columns] |= free
    return result
