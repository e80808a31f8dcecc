#!/usr/bin/env python
"""Time of scoring: COCO boxes and masks against pycocotools, mIoU against mmseg, with the difference of the numbers.

    OMP_NUM_THREADS=1 python tools/benchmark_evaluation.py [--only boxes masks labels] [--out docs/evaluation.json]

Made-up data, one process, theirs and ours in turn. COCO: 5,000 pictures with 100 detections each in memory, 80 classes
and 7.3 objects a picture, as COCO has; reading, checking (as if the file was never seen before) and indexing the
annotation file is included, and so is `loadRes`; the lists of entries that pycocotools wants are made before its clock
starts, while the arrays that a model gives are turned into ours after. Labels: 2,000 pairs of maps of 512 x 683 pixels
with 150 classes and ignored pixels, through `process`, in blocks. With `--only`, the other parts of `--out` stay.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.cli import ToolParser, run_tool
from backbones.files import write_json

HEIGHT, WIDTH, CLASSES, OBJECTS = 480, 640, 80, 7.3
MAP, LABELS, DISTINCT = (512, 683), 150, 20
PARTS = ('boxes', 'masks', 'labels')


# --- made-up data ---------------------------------------------------------------------------------


def polygons(boxes: np.ndarray, draw: np.random.Generator, corners: int = 20) -> list[list[float]]:
    """A dented ellipse in each box (n, 4) x y width height."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (corners, 2)
    radius = boxes[:, None, 2:] / 2 * draw.uniform(0.6, 1, (len(boxes), corners, 1))
    return (boxes[:, None, :2] + boxes[:, None, 2:] / 2 + radius * circle).round(2).reshape(len(boxes), -1).tolist()


def random_boxes(number: int, draw: np.random.Generator) -> np.ndarray:
    """(n, 4) x y width height, of 8 to 300 pixels, within the picture."""
    sides = np.exp(draw.uniform(np.log(8), np.log(300), (number, 2)))
    return np.concatenate([draw.uniform(0, 1, (number, 2)) * ((WIDTH, HEIGHT) - sides), sides], axis=1).round(2)


def make_truth(images: int, draw: np.random.Generator) -> dict:
    """A COCO annotation file; one object in 86 is a crowd."""
    owners = np.repeat(np.arange(1, images + 1), draw.poisson(OBJECTS, images)).tolist()
    boxes = random_boxes(len(owners), draw)
    annotations = [
        dict(id=n, image_id=image, category_id=category, bbox=box, area=box[2] * box[3] * 0.6, iscrowd=int(n % 86 == 0),
             segmentation=[polygon])
        for n, (image, category, box, polygon) in enumerate(zip(
            owners, draw.integers(1, CLASSES + 1, len(owners)).tolist(), boxes.tolist(), polygons(boxes, draw),
            strict=True), start=1)]
    return dict(
        images=[dict(id=n, file_name=f'{n}.jpg', height=HEIGHT, width=WIDTH) for n in range(1, images + 1)],
        categories=[dict(id=n, name=f'class {n}') for n in range(1, CLASSES + 1)], annotations=annotations)


def make_predictions(truth: dict, number: int, masks: bool, draw: np.random.Generator) -> list[dict]:
    """As `CocoMetric.process` keeps them: the objects, a little off, and boxes anywhere, `number` a picture in all."""
    from pycocotools import mask as coco_mask

    objects: dict[int, list[dict]] = {}
    for entry in truth['annotations']:
        objects.setdefault(entry['image_id'], []).append(entry)
    found = []
    for image in truth['images']:
        own = objects.get(image['id'], [])[:number]
        near = np.array([entry['bbox'] for entry in own]).reshape(-1, 4)
        near = near + draw.normal(0, 0.06, near.shape) * np.tile(near[:, 2:], 2)
        boxes = np.concatenate([near, random_boxes(number - len(own), draw)])
        boxes = np.maximum(boxes, (0, 0, 1, 1))
        labels = [entry['category_id'] - 1 for entry in own], draw.integers(0, CLASSES, number - len(own))
        scores = draw.uniform(0.3, 1, len(own)), draw.uniform(0.05, 0.6, number - len(own))
        one = dict(img_id=image['id'], labels=np.concatenate(labels).astype(np.int64),
                   scores=np.concatenate(scores).astype(np.float32))
        if masks:
            one['masks'] = coco_mask.frPyObjects(polygons(boxes, draw), HEIGHT, WIDTH)
        boxes[:, 2:] += boxes[:, :2]
        found.append(dict(one, bboxes=boxes.astype(np.float32)))
    return found


def make_maps(draw: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Prediction and labels of blobs, a fifth of the pixels wrong, about one in 150 ignored."""
    maps = []
    for _ in range(DISTINCT):
        blobs = torch.randint(0, LABELS + 1, (1, 1, 16, 21), generator=draw).float()
        labels = torch.nn.functional.interpolate(blobs, size=MAP).long()[0]  # (1, H, W)
        right = torch.rand(labels.shape, generator=draw) < 0.8
        predicted = torch.where(right, labels % LABELS, torch.randint(0, LABELS, labels.shape, generator=draw))
        maps.append((predicted, labels.where(labels < LABELS, torch.tensor(255))))
    return maps


# --- theirs and ours ------------------------------------------------------------------------------


def by_pycocotools(file: str, entries: list[dict], kind: str) -> Any:
    """What its manual says."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO(file)
    evaluation = COCOeval(coco, coco.loadRes(entries), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def by_ours(file: str, found: list[dict], kind: str) -> Any:
    """What `backbones.CocoMetric` does."""
    from pycocotools.cocoeval import Params

    from backbones.evaluation.coco_api import CheckedCoco
    from backbones.evaluation.coco_detections import flat_detections
    from backbones.evaluation.coco_scoring import score

    with tempfile.TemporaryDirectory() as cache:
        os.environ['XDG_CACHE_HOME'] = cache  # where it is remembered that a file was checked
        coco = CheckedCoco(file, masks=kind == 'segm')
    params = Params(iouType=kind)
    params.imgIds, params.catIds = list(coco.imgs), list(coco.cats)
    evaluation = score(coco, flat_detections(found, params.catIds, coco.imgs, kind == 'segm'), params)
    evaluation.summarize()
    return evaluation


def entries_of(found: list[dict], kind: str) -> list[dict]:
    """A list of results as pycocotools' `loadRes` takes it."""
    entries = []
    for one in found:
        boxes = one['bboxes'].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        regions = boxes.tolist() if kind == 'bbox' else [dict(mask) for mask in one['masks']]
        name = 'bbox' if kind == 'bbox' else 'segmentation'
        rows = zip(one['labels'].tolist(), one['scores'].tolist(), regions, strict=True)
        entries += [{'image_id': one['img_id'], 'category_id': label + 1, 'score': value, name: region}
                    for label, value, region in rows]
    return entries


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds, and the result; what was left over from before is cleared away first."""
    gc.collect()
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        result = run(*arguments)
    return time.perf_counter() - start, result


# --- the parts ------------------------------------------------------------------------------------


def benchmark_coco(options: argparse.Namespace, kind: str) -> dict:
    """Score the same detections in turn."""
    from backbones.evaluation import coco_api, coco_detections  # noqa: F401  mmdet is imported before the clock starts
    from backbones.evaluation.coco_scoring import faster_coco_eval

    draw = np.random.default_rng(0)
    truth = make_truth(options.images, draw)
    found = make_predictions(truth, options.detections, kind == 'segm', draw)
    engine = 'faster-coco-eval' if faster_coco_eval() else 'pycocotools'
    seconds, difference = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'truth.json'
        file.write_text(json.dumps(truth))
        for number in range(options.pairs):
            theirs_s, theirs = timed(by_pycocotools, str(file), entries_of(found, kind), kind)
            ours_s, ours = timed(by_ours, str(file), found, kind)
            seconds.append((theirs_s, ours_s))
            print(f'pair {number + 1}: {theirs_s:.2f} s, {ours_s:.2f} s', flush=True)
            for name in ('precision', 'recall', 'scores'):
                difference = max(difference, float(np.abs(theirs.eval[name] - ours.eval[name]).max()))
    return dict(
        images=options.images, detections=options.detections, objects=len(truth['annotations']), engine=engine,
        against=f'pycocotools {version("pycocotools")}', ap=round(float(ours.stats[0]), 4),
        difference=difference, **summary(seconds))


def benchmark_labels(options: argparse.Namespace) -> dict:
    """Count the same maps in turn, a block at a time."""
    from mmseg.evaluation import IoUMetric as Theirs

    from backbones.evaluation.iou_metric import IoUMetric as Ours

    maps = make_maps(torch.Generator().manual_seed(0))
    samples = [dict(pred_sem_seg=dict(data=predicted), gt_sem_seg=dict(data=labels), img_path='made up')
               for predicted, labels in maps]
    block = max(1, options.maps // options.blocks)
    chosen = [samples[n % len(samples)] for n in range(block)]
    metrics = Theirs(), Ours()
    for metric in metrics:
        metric.dataset_meta = dict(classes=tuple(map(str, range(LABELS))))
        metric.process({}, chosen[:1])
        metric.results.clear()
    seconds = [tuple(timed(metric.process, {}, chosen)[0] for metric in metrics) for _ in range(options.blocks)]
    theirs, ours = ([sum(part.double() for part in parts) for parts in zip(*metric.results, strict=True)]
                    for metric in metrics)
    return dict(
        maps=block * options.blocks, size=list(MAP), classes=LABELS, against=f'mmseg {mmseg_version()}',
        miou=round(float((ours[0] / ours[1]).mean()) * 100, 4),
        difference=float(max((a - b).abs().max() for a, b in zip(theirs, ours, strict=True))),
        **summary(seconds, options.blocks))


def mmseg_version() -> str:
    """Of whichever distribution brings it."""
    import mmseg

    return mmseg.__version__


def summary(seconds: list[tuple[float, float]], times: int = 1) -> dict:
    """Medians over the pairs (`times`: of the whole, where a pair is a part), and the ratios' median and range."""
    ratios = sorted(theirs / ours for theirs, ours in seconds)
    theirs, ours = (statistics.median(column) * times for column in zip(*seconds, strict=True))
    return dict(pairs=len(seconds), theirs_s=round(theirs, 2), ours_s=round(ours, 2),
                ratio=round(statistics.median(ratios), 2), lowest=round(ratios[0], 2), highest=round(ratios[-1], 2))


def show(name: str, row: dict) -> None:
    """One line of the table."""
    print(f'{name:8}{row["against"]:20}{row["theirs_s"]:9.2f} s{row["ours_s"]:9.2f} s{row["ratio"]:8.2f} x '
          f'({row["lowest"]:.2f} to {row["highest"]:.2f}, {row["pairs"]} pairs)   difference {row["difference"]:.1e}')


def main() -> None:
    """Measure the parts, print the table, and write it where asked."""
    parser = ToolParser(description=__doc__)
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS, help='parts to measure')
    parser.add_argument('--images', type=int, default=5000, help='pictures of boxes and masks')
    parser.add_argument('--detections', type=int, default=100, help='of a picture')
    parser.add_argument('--pairs', type=int, default=3, help='runs of each of theirs and ours, boxes and masks')
    parser.add_argument('--maps', type=int, default=2000, help='label maps')
    parser.add_argument('--blocks', type=int, default=20, help='parts of the label maps that alternate')
    parser.add_argument('--out', help='JSON file to write')
    options = parser.parse_args()
    if min(options.images, options.detections, options.pairs, options.maps, options.blocks) < 1:
        raise ValueError('--images, --detections, --pairs, --maps and --blocks must be 1 or more')
    if options.out and not Path(options.out).parent.is_dir():
        raise ValueError(f'the folder of --out {options.out} does not exist')
    rows = {}
    for part in options.only:
        kind = dict(boxes='bbox', masks='segm').get(part)
        rows[part] = benchmark_coco(options, kind) if kind else benchmark_labels(options)
        show(part, rows[part])
    if options.out:
        before = json.loads(Path(options.out).read_text()) if Path(options.out).is_file() else {}
        machine = f'{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch'
        write_json(options.out, {**before, **rows, 'device': machine}, indent=1)


if __name__ == '__main__':
    run_tool(main)
