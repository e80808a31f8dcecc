"""Ways to merge what a detector finds in overlapping tiles, held against each other by box AP.

Large pictures with known objects are made of small ones: mosaics, where tiles cut small objects, and pictures enlarged
twice, where objects are larger than the overlap. Detections are made once for each way to look, and merged by each way
to merge. NMS and GREEDYNMM are those of SAHI, of boxes, class by class:
https://github.com/obss/sahi/blob/0220c5bdc25718fc941e32b1267183717e9deb46/sahi/postprocess/combine.py
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.evaluation.load_model import Detections, LoadedModel, load_model
from backbones.evaluation.tiles import Tiles, dataset_of
from backbones.evaluation.tiles_merge import Found, merge, overlap, smaller_overlap

SIDE = 4  # pictures along each side of a mosaic
TIMES = 2  # enlarged
SAME = 0.5  # SAHI's default threshold
TOGETHER = 8  # pictures of a batch
Kept = list[tuple[int, np.ndarray]]  # place in `Found`, box


@dataclass
class Large:
    """A large picture and what is there.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        boxes: (N, 4) x y width height.
        sources: N annotations of COCO, whose boxes are of the small picture.
    """

    pixels: np.ndarray
    boxes: list[list[float]]
    sources: list[dict[str, Any]]


def compare_mergings(run: str | Path) -> dict[str, Any]:
    """Measure each way to merge with the detector of a run on its own test split.

    Args:
        run: work folder or checkpoint that knows its config; the test split has COCO annotations, and pictures of one
            size, which becomes that of the tiles.

    Returns:
        `alone`: AP of the pictures of the mosaics one by one; `rows`: AP of each way to merge.

    Raises:
        ValueError: the model or the data do not fit.
    """
    model = load_model(run)
    content, small = _small_pictures(model)
    objects = [[one for one in content['annotations'] if one['image_id'] == image['id']] for image in content['images']]
    numbers = {one['name']: one['id'] for one in content['categories']}
    categories = [numbers[name] for name in model.classes]
    height, width = small[0].shape[:2]
    mosaics, enlarged = mosaics_of(small, objects), enlarged_of(small, objects)
    ways = [('mosaics', mosaics, False), ('mosaics', mosaics, True), ('enlarged', enlarged, True)]
    rows = []
    for name, pictures, whole in ways:
        truth, tiles = _coco(pictures, content['categories']), Tiles(width, height, whole=whole)
        seen = [(picture.pixels.shape[:2], look(model, picture.pixels, tiles)) for picture in pictures]
        scores = {way: _ap(truth, [(make(found, size), found) for size, found in seen], categories)
                  for way, make in WAYS.items()}
        rows.append(dict(pictures=name, number=len(pictures), whole=whole, ap=scores))
    used = [Large(one, [entry['bbox'] for entry in entries], entries)
            for one, entries in zip(small[:len(mosaics) * SIDE**2], objects, strict=False)]
    plain = [_found([((0, 0, width, height), one)]) for one in _predict(model, [one.pixels for one in used])]
    alone = _ap(_coco(used, content['categories']), [
        ([*enumerate(found.boxes)], found) for found in plain], categories)
    return dict(tile=[width, height], overlap=Tiles(width, height).overlap, each=SIDE**2, alone=alone, rows=rows)


def _small_pictures(model: LoadedModel) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Annotations of the test split and its pictures (H, W, 3), of one size."""
    ann_file, folder = _data_of(model)
    content = json.loads(ann_file.read_text(encoding='utf-8'))
    missing = set(model.classes) - {one['name'] for one in content['categories']}
    if missing:
        raise ValueError(f'the model finds {", ".join(sorted(missing))}, and {ann_file} has no such category; give a '
                         'run on these data')
    small = [np.asarray(Image.open(folder / image['file_name']).convert('RGB')) for image in content['images']]
    sizes = {pixels.shape for pixels in small}
    if len(sizes) != 1 or len(small) < SIDE**2:
        raise ValueError(f'{ann_file} has {len(small)} pictures, of {len(sizes)} sizes; at least {SIDE**2} of one size '
                         'make mosaics: give a run of the demo detector')
    return content, small


def _data_of(model: LoadedModel) -> tuple[Path, Path]:
    """Annotation file and image folder of the test split."""
    dataset = dataset_of(model.config)
    root, prefix = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
    if not dataset.get('ann_file') or 'img' not in prefix:
        raise ValueError(f'{model.checkpoint}: its test data are no COCO annotations; give a run of a detector on such')
    ann_file = root / dataset.ann_file
    if not ann_file.is_file():
        raise ValueError(f'{ann_file} is not there; run this where the data of {model.checkpoint} lie')
    return ann_file, root / prefix['img']


def mosaics_of(small: list[np.ndarray], objects: list[list[dict]]) -> list[Large]:
    """Every `SIDE` x `SIDE` pictures as one; what is left over is left out."""
    made, (height, width) = [], small[0].shape[:2]
    for first in range(0, len(small) - SIDE**2 + 1, SIDE**2):
        rows = [np.concatenate(small[start:start + SIDE], axis=1)
                for start in range(first, first + SIDE**2, SIDE)]
        one = Large(np.concatenate(rows), [], [])
        for place in range(SIDE**2):
            down, across = divmod(place, SIDE)
            for entry in objects[first + place]:
                x, y, *sides = entry['bbox']
                one.boxes.append([x + across * width, y + down * height, *sides])
                one.sources.append(entry)
        made.append(one)
    return made


def enlarged_of(small: list[np.ndarray], objects: list[list[dict]]) -> list[Large]:
    """Each picture `TIMES` as wide and high."""
    return [Large(
        np.asarray(Image.fromarray(pixels).resize((TIMES * pixels.shape[1], TIMES * pixels.shape[0]), Image.BILINEAR)),
        [[TIMES * value for value in entry['bbox']] for entry in entries], entries)
        for pixels, entries in zip(small, objects, strict=True)]


def _coco(pictures: list[Large], categories: list[dict]) -> COCO:
    """Annotations of pictures, which are numbered from 0."""
    truth, entries = COCO(), []
    for number, picture in enumerate(pictures):
        for box, source in zip(picture.boxes, picture.sources, strict=True):
            entries.append(dict(
                id=len(entries) + 1, image_id=number, category_id=source['category_id'], bbox=box,
                iscrowd=source['iscrowd'], area=box[2] * box[3]))
    images = [dict(id=number, height=one.pixels.shape[0], width=one.pixels.shape[1])
              for number, one in enumerate(pictures)]
    truth.dataset = dict(images=images, categories=categories, annotations=entries)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _predict(model: LoadedModel, pictures: list[np.ndarray]) -> list[Detections]:
    return model.predict(pictures, score_threshold=0, batch_size=TOGETHER)


def look(model: LoadedModel, pixels: np.ndarray, tiles: Tiles) -> Found:
    """What the detector finds in all views of a picture (H, W, 3)."""
    height, width = pixels.shape[:2]
    frames = ([(0, 0, width, height)] if tiles.whole else []) + tiles.frames((height, width))
    return _found(zip(frames, _predict(model, [pixels[y0:y1, x0:x1] for x0, y0, x1, y1 in frames]), strict=True))


def _found(views: Iterable[tuple[tuple[int, ...], Detections]]) -> Found:
    views = list(views)
    return Found(
        boxes=np.concatenate([one.boxes.astype(np.float64) + np.tile(frame[:2], 2) for frame, one in views]),
        scores=np.concatenate([one.scores.astype(np.float64) for _, one in views]),
        labels=np.concatenate([one.labels for _, one in views]),
        frames=np.repeat(np.array([frame for frame, _ in views], float), [len(one) for _, one in views], axis=0))


def greedy(found: Found, measure: Callable[[np.ndarray, np.ndarray], np.ndarray], grow: bool) -> Kept:
    """The surest of those that match, class by class; with `grow`, its box takes theirs in while they match."""
    kept: Kept = []
    order = np.argsort(-found.scores, kind='stable')
    for label in np.unique(found.labels):
        rest = order[found.labels[order] == label]
        while len(rest):
            first, rest = int(rest[0]), rest[1:]
            box = found.boxes[first].copy()
            matches = measure(box[None], found.boxes[rest]) >= SAME
            for other in found.boxes[rest[matches]] if grow else ():
                if measure(box[None], other[None])[0] >= SAME:
                    box = np.array([*np.minimum(box[:2], other[:2]), *np.maximum(box[2:], other[2:])])
            kept.append((first, box))
            rest = rest[~matches]
    return kept


WAYS: dict[str, Callable[[Found, tuple[int, int]], Kept]] = {
    'nms_iou': lambda found, size: greedy(found, overlap, grow=False),
    'nms_ios': lambda found, size: greedy(found, smaller_overlap, grow=False),
    'greedynmm_ios': lambda found, size: greedy(found, smaller_overlap, grow=True),
    'ours': lambda found, size: [(one.members[0], one.box) for one in merge(found, size)],
}


def _ap(truth: COCO, merged: list[tuple[Kept, Found]], categories: list[int]) -> float:
    """Box AP of what was kept in each picture."""
    results = [
        dict(image_id=number, category_id=categories[found.labels[place]], score=float(found.scores[place]),
             bbox=[float(value) for value in (*box[:2], *(box[2:] - box[:2]))])
        for number, (kept, found) in enumerate(merged) for place, box in kept]
    if not results:
        raise ValueError('the detector finds nothing in these pictures; give a trained one')
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(truth, truth.loadRes(results), 'bbox')
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return round(float(scored.stats[0]), 4)
