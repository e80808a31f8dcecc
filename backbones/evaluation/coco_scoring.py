"""COCO's precision and recall of detections in memory: matched by faster-coco-eval's C++, or by pycocotools.

Both count the same; faster-coco-eval (https://github.com/MiXaiLL76/faster_coco_eval, Apache-2.0) is fed one category
at a time, and only with the pictures in which something is to be found (see `_one_category`).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from mmengine.logging import print_log

from backbones.missing import toolbox_needed

with toolbox_needed():
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval, Params


AT_ONCE = 128  # masks: pycocotools 2.0.11 cannot tell the areas of more than 255


@dataclass(frozen=True)
class Detections:
    """All detections of a data set, N of them, those of a picture in any order.

    Attributes:
        images: (N,) id of the picture of each.
        categories: (N,) its category id.
        scores: (N,) float64.
        boxes: (N, 4) float64: x, y, width, height in pixels; None where masks are scored.
        masks: N run lengths, {'size': [height, width], 'counts': ...}; None where boxes are scored.
    """

    images: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None = None
    masks: list[dict] | None = None

    def areas(self) -> np.ndarray:
        """Area (N,) of each in pixels: of its box, or of its mask, as pycocotools' `loadRes` has it."""
        if self.masks is None:
            return self.boxes[:, 2] * self.boxes[:, 3]
        parts = [self.masks[start:start + AT_ONCE] for start in range(0, len(self.masks), AT_ONCE)]
        return np.concatenate([np.zeros(0), *(coco_mask.area(part) for part in parts)])


def score(coco: COCO, found: Detections, params: Params, engine: str | None = None) -> COCOeval:
    """Score detections.

    Args:
        coco: checked annotations.
        found: checked detections: what reaches this function is given to C code as it is.
        params: pycocotools' parameters, of `iouType` 'bbox' or 'segm'.
        engine: 'faster-coco-eval' or 'pycocotools'; None takes the former where it works.

    Returns:
        pycocotools' `COCOeval` with `eval` (`precision` (T, R, K, A, M), `recall` (T, K, A, M), `scores`) filled in, so
        that `summarize()` gives `stats`.
    """
    params.imgIds = np.unique(params.imgIds).tolist()
    params.catIds = np.unique(params.catIds).tolist() if params.useCats else list(params.catIds)
    params.maxDets = sorted(params.maxDets)
    module = None if engine == 'pycocotools' else faster_coco_eval()
    if module is None and engine == 'faster-coco-eval':
        raise ValueError("engine='faster-coco-eval' does not work: `pip install faster-coco-eval`, or leave it out")
    if module is None:
        return _by_pycocotools(coco, found, params)
    evaluation = COCOeval(iouType=params.iouType)
    evaluation.params = params
    evaluation.eval = _by_category(module, coco, found, params)
    return evaluation


# --- faster-coco-eval --------------------------------------------------------------------------------


@cache
def faster_coco_eval() -> ModuleType | None:
    """The C++ module of faster-coco-eval, or None where it is missing or does not give the known answer."""
    try:
        from faster_coco_eval import faster_eval_api_cpp as module
    except ImportError as error:
        print_log(f'COCO is scored by pycocotools, which takes about ten times as long: {error}; run '
                  '`pip install faster-coco-eval`', 'current')
        return None
    try:
        answer = str(_half_right(module))
    except Exception as error:  # another version may have other arguments; pybind11 has no kind of its own for that
        answer = repr(error)
    if answer != '0.5':
        print_log(f'COCO is scored by pycocotools, which takes about ten times as long: the installed faster-coco-eval '
                  f'answers a known question by {answer:.200} instead of 0.5; install the version of '
                  'requirements/runtime.txt', 'current', logging.WARNING)
        return None
    return module


def _half_right(module: ModuleType) -> float:
    """Recall of one object of two, found once: 0.5."""
    truth = [dict(id=n, area=100.0, iscrowd=0, ignore=0) for n in (1, 2)]
    found = [dict(id=n, area=100.0, score=3.0 - n) for n in (1, 2)]
    result = _match(module, Params(iouType='bbox'), 1, _dataset(module, [(0, truth)]), [(0, found)],
                    {0: [[0.9, 0.1], [0.6, 0.2]]})
    return float(result['recall'][0, 0, 0, 0])


def _by_category(module: ModuleType, coco: COCO, found: Detections, params: Params) -> dict[str, np.ndarray]:
    """Count category by category; with `useCats=0`, all of them as one."""
    rows = len(params.catIds) if params.useCats else 1
    shape = (len(params.iouThrs), len(params.recThrs), rows, len(params.areaRng), len(params.maxDets))
    result = dict(precision=-np.ones(shape), scores=-np.ones(shape), recall=-np.ones((shape[0], *shape[2:])))
    truth, order = _Truth(coco, params), _Order(found, params)
    for row in range(rows):
        counted = _one_category(module, params, truth, order, row)
        for name, values in (counted or {}).items():
            result[name][..., row, :, :] = values
    return dict(result, params=params, counts=list(shape))


class _Truth:
    """Annotations by (row, picture), in the order of the file."""

    def __init__(self, coco: COCO, params: Params) -> None:
        self.coco, self.masks = coco, params.iouType == 'segm'
        places = {category: place for place, category in enumerate(params.catIds)}
        self.by_row: dict[int, dict[int, list[dict]]] = {}
        for picture, image in enumerate(params.imgIds):
            entries = [entry for entry in coco.imgToAnns.get(image, ()) if entry['category_id'] in places]
            if not params.useCats:  # then pycocotools puts them in the order of the categories
                entries.sort(key=lambda entry: places[entry['category_id']])
            for entry in entries:
                row = places[entry['category_id']] if params.useCats else 0
                self.by_row.setdefault(row, {}).setdefault(picture, []).append(entry)

    def regions(self, entries: list[dict]) -> list | np.ndarray:
        """What `iou` of pycocotools takes."""
        if self.masks:
            return [self.coco.annToRLE(entry) for entry in entries]
        return np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4)


class _Order:
    """Detections sorted by row, picture and falling score; at most `maxDets[-1]` of a row and picture."""

    def __init__(self, found: Detections, params: Params) -> None:
        category = np.asarray(params.catIds)
        by_id = np.argsort(category, kind='stable')
        place = np.searchsorted(category[by_id], found.categories)
        place = by_id[np.minimum(place, len(by_id) - 1)]
        picture = np.searchsorted(params.imgIds, found.images)
        picture = np.minimum(picture, len(params.imgIds) - 1)
        used = (category[place] == found.categories) & (np.asarray(params.imgIds)[picture] == found.images)
        row = place if params.useCats else np.zeros_like(place)
        # the last key counts most; equal scores stay in their order, without categories in that of the categories
        order = np.lexsort((place, -found.scores, picture, row))
        order = order[used[order]]
        begins = np.ones(len(order), bool)
        begins[1:] = (np.diff(row[order]) != 0) | (np.diff(picture[order]) != 0)
        starts = np.flatnonzero(begins)
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        kept = rank < params.maxDets[-1]
        self.order, self.rank = order[kept], rank[kept]
        self.picture, self.score, self.area = picture[self.order], found.scores[self.order], found.areas()[self.order]
        self.found = found
        self.ends = np.searchsorted(row[self.order], np.arange(len(params.catIds) if params.useCats else 1), 'right')

    def of_row(self, row: int) -> slice:
        return slice(self.ends[row - 1] if row else 0, self.ends[row])

    def regions(self, part: slice) -> list | np.ndarray:
        """What `iou` of pycocotools takes."""
        chosen = self.order[part]
        return self.found.boxes[chosen] if self.found.masks is None else [self.found.masks[n] for n in chosen]


def _one_category(module: ModuleType, params: Params, truth: _Truth, order: _Order, row: int) -> dict | None:
    """Count one category; None where nothing of it is to be found: precision and recall stay -1.

    Only pictures with an object of the category stay what they are. The other detections match nothing wherever they
    are, so they are put together into made-up pictures of `maxDets[-1]`: a tenth of the pictures, and of the time. What
    pictures still decide is done before: the first `maxDets` of each, and the order of equal scores. For the latter,
    each detection gets as its score its place in the order of all, which is undone in the result.
    """
    entries = truth.by_row.get(row)
    if not entries:
        return None
    part = order.of_row(row)
    picture, rank, scores = order.picture[part], order.rank[part], order.score[part]
    falling = np.argsort(-scores, kind='stable')
    code = np.empty(len(scores))
    code[falling] = np.arange(len(scores), 0, -1)
    found = [dict(id=n, score=value, area=area)
             for n, (value, area) in enumerate(zip(code.tolist(), order.area[part].tolist(), strict=True), start=1)]
    pictures = np.fromiter(sorted(entries), np.int64, len(entries))
    bounds = [np.searchsorted(picture, pictures, side).tolist() for side in ('left', 'right')]
    objects, overlaps = _overlaps(truth, order, part.start, [entries[n] for n in pictures.tolist()], bounds)
    truths, spans = _dataset(module, enumerate(objects)), list(zip(*bounds, strict=True))
    alone = np.flatnonzero(~np.isin(picture, pictures))
    columns: dict[str, list[np.ndarray]] = dict(precision=[], recall=[], scores=[])
    count, counted = -1, {}
    for limit in params.maxDets:
        if (kept := int((rank < limit).sum())) != count:  # often no picture has more than the limit before
            count = kept
            lists = [(n, found[start:min(stop, start + limit)]) for n, (start, stop) in enumerate(spans)]
            rest = alone[rank[alone] < limit].tolist()
            for n, start in enumerate(range(0, len(rest), params.maxDets[-1]), start=len(lists)):
                lists.append((n, [found[i] for i in rest[start:start + params.maxDets[-1]]]))
            rows = {n: values[:limit] for n, values in overlaps.items()}
            counted = _match(module, params, len(lists), truths, lists, rows)
        for name, values in columns.items():
            values.append(counted[name][..., 0, :, 0])
    result = {name: np.stack(values, axis=-1) for name, values in columns.items()}
    reached = result['scores'] > 0
    result['scores'][reached] = scores[falling][len(scores) - result['scores'][reached].astype(np.int64)]
    return result


def _overlaps(
    truth: _Truth, order: _Order, begin: int, entries: list[list[dict]], bounds: list[list[int]]
) -> tuple[list[list[dict]], dict[int, list[list[float]]]]:
    """Objects of each picture as the C++ code takes them, and their overlap with the detections by falling score.

    Ids count from 1: 0 means "no match" there as it does in pycocotools.
    """
    objects, overlaps, number = [], {}, 0
    for place, (here, start, stop) in enumerate(zip(entries, *bounds, strict=True)):
        crowd = [int(entry.get('iscrowd', 0)) for entry in here]
        if stop > start:
            regions = order.regions(slice(begin + start, begin + stop))
            overlaps[place] = coco_mask.iou(regions, truth.regions(here), crowd).tolist()
        objects.append([dict(id=number + n, area=entry['area'], iscrowd=flag, ignore=flag)
                        for n, (entry, flag) in enumerate(zip(here, crowd, strict=True), start=1)])
        number += len(here)
    return objects, overlaps


def _dataset(module: ModuleType, lists: Iterable[tuple[int, list[dict]]]) -> Any:
    """A C++ data set of one category, 0, from lists of objects or detections by picture."""
    dataset, entries = module.Dataset(), [(picture, 0, entries) for picture, entries in lists]
    dataset.load_tuple((len(entries), entries))  # one call; `append_ref` takes one for each
    return dataset


def _match(
    module: ModuleType, params: Params, pictures: int, truths: Any, found: list[tuple[int, list[dict]]],
    overlaps: dict[int, list[list[float]]],
) -> dict[str, np.ndarray]:
    """Hand one category to the C++ code; the result has one category and one number of detections."""
    numbers, none = list(range(pictures)), []
    chosen = SimpleNamespace(
        iouThrs=params.iouThrs, recThrs=params.recThrs, areaRng=params.areaRng, maxDets=params.maxDets[-1:], useCats=1,
        catIds=[0], imgIds=numbers)
    ious = [[overlaps.get(number, none)] for number in numbers]
    return module.COCOevalEvaluateAccumulate(
        chosen, ious, truths, _dataset(module, found), numbers, [0], True)


# --- pycocotools -------------------------------------------------------------------------------------


def _by_pycocotools(coco: COCO, found: Detections, params: Params) -> COCOeval:
    regions, name = (found.masks, 'segmentation') if found.masks is not None else (found.boxes.tolist(), 'bbox')
    entries = [
        {'image_id': image, 'category_id': category, 'score': value, name: region}
        for image, category, value, region in zip(
            found.images.tolist(), found.categories.tolist(), found.scores.tolist(), regions, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        results = COCO.loadRes(coco, entries) if entries else _no_results(coco)
        evaluation = COCOeval(coco, results, params.iouType)
        evaluation.params = params
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _no_results(coco: COCO) -> COCO:
    """pycocotools' own `loadRes` fails on an empty list."""
    results = COCO()
    results.dataset = dict(images=coco.dataset['images'], categories=coco.dataset['categories'], annotations=[])
    results.createIndex()
    return results
