"""Drawn objects and detections, and pycocotools' own answer about them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.evaluation.coco_scoring import Detections

HEIGHT, WIDTH = 160, 200
CATEGORIES = (3, 9, 5, 40, 41)  # 40 has no objects, 41 neither objects nor detections
STATS = ('AP', 'AP50', 'AP75', 'AP_small', 'AP_medium', 'AP_large', 'AR@1', 'AR@10', 'AR@100', 'AR_small', 'AR_medium',
         'AR_large')


def draw_truth(draw: np.random.Generator, images: int = 12, crowds: float = 0.15) -> dict:
    """Pictures, the last without objects; crowds, areas on the bounds, ids out of order."""
    pictures = [dict(id=int(n), file_name=f'{n}.jpg', height=HEIGHT, width=WIDTH)
                for n in draw.permutation(images * 3)[:images] + 1]
    annotations = []
    for picture in pictures[:-1]:
        for _ in range(int(draw.integers(1, 9))):
            box = [*draw.uniform(0, 90, 2).round(1).tolist(), *np.exp(draw.uniform(2, 4.7, 2)).round(1).tolist()]
            entry = dict(id=5000 - len(annotations), image_id=picture['id'], bbox=box, segmentation=[polygon(box)],
                         category_id=int(draw.choice(CATEGORIES[:3])), iscrowd=int(draw.random() < crowds))
            entry['area'] = float(draw.choice([32**2, 96**2, 32**2 - 0.5, *[box[2] * box[3] * 0.8] * 5]))
            annotations.append(entry)
    categories = [dict(id=number, name=f'class {number}') for number in CATEGORIES]
    return dict(info={}, images=pictures, categories=categories, annotations=annotations)


def polygon(box: Sequence[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h]


def draw_entries(truth: dict, draw: np.random.Generator, most: int = 130, ties: bool = True) -> list[dict]:
    """COCO results near the objects and elsewhere: one picture with `most` of a class, one with none, equal scores."""
    entries = []
    for place, picture in enumerate(truth['images']):
        own = [entry for entry in truth['annotations'] if entry['image_id'] == picture['id']]
        for _ in range((most, 0)[place] if place < 2 else int(draw.integers(2, 30))):
            box = [*draw.uniform(0, 100, 2), *np.exp(draw.uniform(2, 4.5, 2))]
            category = int(draw.choice(CATEGORIES[:4]))
            if own and draw.random() < 0.7:
                near = own[int(draw.integers(len(own)))]
                size = np.array(near['bbox'])[[2, 3, 2, 3]]
                box = np.abs(near['bbox'] + draw.normal(0, draw.choice([0.03, 0.1, 0.3]), 4) * size).tolist()
                category = near['category_id'] if draw.random() < 0.8 else category
            category = CATEGORIES[0] if place == 0 else category
            entries.append(dict(image_id=picture['id'], category_id=category, bbox=[float(side) for side in box],
                                score=float(round(draw.random(), 1) if ties else draw.random())))
    return entries


def flat(entries: list[dict], masks: bool = False) -> Detections:
    columns = [np.array([entry[name] for entry in entries], kind) for name, kind in (
        ('image_id', np.int64), ('category_id', np.int64), ('score', np.float64))]
    boxes = np.array([entry['bbox'] for entry in entries], np.float64).reshape(-1, 4)
    if not masks:
        return Detections(*columns, boxes=boxes)
    return Detections(*columns, masks=[runs(box) for box in boxes.tolist()])


def runs(box: Sequence[float]) -> dict:
    return coco_mask.frPyObjects([polygon(box)], HEIGHT, WIDTH)[0]


def index(truth: dict) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
    return coco


def reference(truth: dict, entries: list[dict], masks: bool = False, limits: Sequence[int] = (1, 10, 100)) -> COCOeval:
    """pycocotools as its manual has it."""
    coco = index(truth)
    if masks:
        entries = [{name: entry[name] for name in ('image_id', 'category_id', 'score')} | dict(
            segmentation=runs(entry['bbox'])) for entry in entries]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(entries, default=bytes.decode))),
                              'segm' if masks else 'bbox')
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
        if len(limits) == 3:
            evaluation.summarize()
    return evaluation
