"""What a detector found, in all detail, as plain data: the part `boxes` and the part `masks` of `details.json`.

The predictions are those that `CocoMetric` scored, taken where they lie in memory; the annotations are its own, without
the categories that the model does not know.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.runner import Runner

from backbones.analysis.bootstrap import Replicates, bootstrap, intervals
from backbones.analysis.detection_compare import images_behind
from backbones.analysis.detection_error_kinds import KINDS, ErrorTable
from backbones.analysis.detection_errors import find_errors
from backbones.analysis.detection_matches import COCO_IOUS, MAX_DETS, Matches, match, overlaps_of
from backbones.analysis.detection_metrics import detection_metrics
from backbones.analysis.detection_points import SCORE, confusion_matrix, operating_points, point_replicates
from backbones.analysis.detection_replicates import LIMITS, WeightedCoco
from backbones.data.coco import category_ids
from backbones.files import write_bytes
from backbones.missing import toolbox_needed

from .coco_api import CheckedCoco
from .coco_detections import flat_detections
from .coco_scoring import Detections, faster_coco_eval, score

with toolbox_needed():
    from mmdet.evaluation import CocoMetric
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import Params

METRICS = dict(boxes='bbox', masks='segm')
WORST = 20  # errors, and images, that are kept of each kind of error
SHOWN = 10  # errors of such an image that are kept, the costliest
MOST_IMAGES = 10_000  # that have a row in `by_image`, the costliest; 10,000 take a megabyte
CURVE_DIGITS = 5  # of precision-recall curves, which are drawn
Tick = Callable[[str], None]


class KeptDetections:
    """The predictions of an evaluation, kept when its metric scores them.

    Raises:
        ValueError: no metric of the evaluator scores boxes or masks as COCO does.
    """

    def __init__(self, runner: Runner) -> None:
        wanted = set(METRICS.values())
        metrics = [one for one in runner.test_loop.evaluator.metrics
                   if isinstance(one, CocoMetric) and wanted & set(one.metrics)]
        if not metrics:
            raise ValueError("--details looks at boxes and masks as COCO scores them: give test_evaluator a "
                             "backbones.CocoMetric with metric='bbox', 'segm' or both, or leave --details out")
        self.metric, self.results = metrics[0], None
        self.dataset = runner.test_loop.dataloader.dataset
        self.kinds = tuple(kind for kind, name in METRICS.items() if name in self.metric.metrics)
        compute = self.metric.compute_metrics

        def keeping(results: list) -> dict[str, float]:
            self.results = results  # of all processes; only the first one comes here
            return compute(results)

        self.metric.compute_metrics = keeping

    def annotations(self) -> COCO:
        """What the metric scored against, checked."""
        coco = self.metric._coco_api
        if not isinstance(coco, CheckedCoco) and getattr(self.dataset, 'ann_file', None):
            coco = CheckedCoco(str(self.dataset.ann_file), 'masks' in self.kinds)
        return only_classes(coco, category_ids(coco, self.dataset.metainfo['classes']))

    def annotation_file(self) -> str | None:
        """Path of the annotation file."""
        return getattr(self.metric._coco_api, 'file', None) or getattr(self.dataset, 'ann_file', None)

    def detections(self, coco: COCO) -> dict[str, Detections]:
        """All detections: `boxes`, and `masks` where the metric scores them."""
        found = [prediction for _, prediction in self.results or ()]
        ids = category_ids(coco, self.dataset.metainfo['classes'])
        kinds = {'boxes', *self.kinds}
        return {kind: flat_detections(found, ids, coco.imgs, kind == 'masks') for kind in METRICS if kind in kinds}


def only_classes(coco: COCO, ids: Sequence[int]) -> COCO:
    """Annotations without the categories that are not among `ids`: these count neither as objects nor as classes."""
    if set(coco.cats) == set(ids):
        return coco
    fewer = COCO()
    fewer.dataset = {**coco.dataset, 'categories': [one for one in coco.dataset['categories'] if one['id'] in ids],
                     'annotations': [one for one in coco.dataset['annotations'] if one['category_id'] in ids]}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says that it does so
        fewer.createIndex()
    return fewer


def write_predictions(folder: Path, found: dict[str, Detections]) -> dict[str, str]:
    """Write COCO results of which `read_results` gives back exactly `found`, and return the file of each kind.

    Unlike those of `--out`, numbers are not rounded: rounded scores fall together, which moves AP in its fourth digit.
    A model that scores its masks apart gets a file for each kind.
    """
    boxes, masks = found['boxes'], found.get('masks')
    columns = boxes.images.tolist(), boxes.categories.tolist(), boxes.scores.tolist()
    common = [dict(zip(('image_id', 'category_id', 'score'), row, strict=True)) for row in zip(*columns, strict=True)]
    entries = [one | dict(bbox=box) for one, box in zip(common, boxes.boxes.tolist(), strict=True)]
    files = dict(boxes='predictions.json')
    if masks is not None:
        apart = not np.array_equal(masks.scores, boxes.scores)
        files['masks'] = 'predictions_masks.json' if apart else files['boxes']
        target = [one | dict(score=score) for one, score in zip(common, masks.scores.tolist(), strict=True)]
        target = target if apart else entries
        for one, mask in zip(target, masks.masks, strict=True):
            text = mask['counts'].decode() if isinstance(mask['counts'], bytes) else mask['counts']
            one['segmentation'] = dict(size=[int(side) for side in mask['size']], counts=text)
        if apart:
            write_bytes(folder / files['masks'], json.dumps(target, allow_nan=False).encode())
    write_bytes(folder / files['boxes'], json.dumps(entries, allow_nan=False).encode())
    return files


def steps_of(kinds: Sequence[str], resamplings: int) -> int:
    """How often `analyse_detections` calls its `tick`."""
    return len(kinds) * (5 + 1 + -(-resamplings // 100))


def analyse_detections(
    coco: COCO, found: dict[str, Detections], kind: str, *, max_dets: Sequence[int] | None = None,
    threshold: float | None = None, resamplings: int = 1000, seed: int = 0, tick: Tick = lambda text: None,
) -> dict[str, Any]:
    """Score one kind in all detail.

    Args:
        coco: checked annotations of the classes that count.
        found: `boxes`, and `masks` where these are asked for, in the same order.
        kind: 'boxes' or 'masks'.
        max_dets: detections an image and class at which AR, and then AP too, is taken; None: AR at COCO's 1, 10, 100.
        threshold: score of precision, recall, F1 and the confusion matrix; None: where F1 of all detections is best.
        resamplings: of the images, for the intervals.
        seed: of them.
        tick: called with the name of each step that is done.

    Returns:
        `metrics`, `intervals`, `points`, `confusion`, `errors`, `images`: see docs/evaluation.md.
    """
    own, limits = found[kind], tuple(max_dets or LIMITS)
    overlaps = overlaps_of(coco, own)
    tick(f'{kind}: overlaps')
    metrics = detection_metrics(coco, own, max_dets=limits).as_dict()
    metrics['curves'] = _rounded(metrics['curves'], CURVE_DIGITS)
    if max_dets:
        metrics['ap_at'] = _ap_at(coco, own, limits)
    tick(f'{kind}: averages')
    matches = match(overlaps)
    threshold_by = 'given' if threshold is not None else 'best F1'
    if threshold is None:
        best = operating_points(matches).overall.best_score
        threshold, threshold_by = (best, threshold_by) if best is not None else (SCORE, 'no detection is right')
    points = operating_points(matches, score=threshold)
    tick(f'{kind}: matches')
    drawn = replicates_of(matches, limits, threshold, resamplings, seed, lambda: tick(f'{kind}: intervals'))
    ranges = intervals(drawn, images_behind(overlaps))
    most = np.bincount(overlaps.found.image, minlength=1).max(initial=0)
    fewer = overlaps_of(coco, own, max_per_image=MAX_DETS) if most > MAX_DETS else overlaps
    errors = find_errors(fewer)
    tick(f'{kind}: errors')
    told = _errors(errors, coco, found['boxes'])
    tick(f'{kind}: images')
    return dict(
        metrics=metrics,
        intervals={name: [each.as_dict() for each in one] if isinstance(one, list) else one.as_dict()
                   for name, one in ranges.items()},
        points=points.as_dict() | dict(chosen_by=threshold_by),
        confusion=confusion_matrix(matches, score=threshold).as_dict(), errors=told,
        images=_gallery(matches, coco, found['boxes'], _named(told)))


def protocol_of(kind: str, part: dict[str, Any]) -> dict[str, Any]:
    """How the numbers of a part were counted."""
    try:
        from importlib.metadata import version

        name = 'pycocotools' if faster_coco_eval() is None else 'faster-coco-eval'
        scorer = f'{name} {version(name)}'
    except ImportError:
        scorer = 'unknown'
    errors = part['errors']
    return dict(
        regions=kind, scorer=scorer, iou_thresholds=list(COCO_IOUS), max_detections=MAX_DETS,
        score_threshold=part['points']['score'], score_threshold_chosen_by=part['points']['chosen_by'],
        iou_of_points=part['points']['iou'], iou_of_errors=errors['iou'], background_of_errors=errors['background'])


def _ap_at(coco: COCO, found: Detections, limits: Sequence[int]) -> dict[int, float | None]:
    """AP at numbers of detections of an image and class."""
    params = Params(iouType='bbox' if found.masks is None else 'segm')
    params.imgIds, params.catIds, params.maxDets = list(coco.imgs), list(coco.cats), sorted(set(limits))
    precision = score(coco, found, params).eval['precision'][:, :, :, 0]  # (T, R, K, M)
    columns = {limit: precision[..., params.maxDets.index(limit)] for limit in limits}
    return {limit: float(own[own > -1].mean()) if (own > -1).any() else None for limit, own in columns.items()}


def replicates_of(
    matches: Matches, limits: Sequence[int], threshold: float, number: int, seed: int, tick: Callable[[], None]
) -> Replicates:
    """As `detection_replicates`, of matches that are there; recall at those of `limits` that resampling can take."""
    weighted = WeightedCoco(matches, tuple(sorted(one for one in limits if one <= MAX_DETS)))

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = weighted(weights)
        tick()
        return values

    images = len(matches.overlaps.images)
    averages = bootstrap(statistic, images, replicates=number, seed=seed, bounds=(0, 1))
    points = point_replicates(matches, score=threshold, replicates=number, seed=seed)
    return replace(averages, values=averages.values | points.values, samples=averages.samples | points.samples)


# --- errors and images -------------------------------------------------------------------------------


def _errors(errors: Any, coco: COCO, boxes: Detections) -> dict[str, Any]:
    """Errors by kind, the costliest of each, the images that they cost most in, and a row for each image."""
    table, found = errors.table, errors.as_dict(0)
    objects = coco.dataset['annotations']

    def entry(one: dict[str, Any]) -> dict[str, Any]:
        place = one.pop('object')
        return one | dict(
            object_box=None if place is None else _rounded(list(objects[place]['bbox']), 2),
            object_category=None if place is None else objects[place]['category_id'],
            box=None if one['detection'] is None else _rounded(boxes.boxes[one['detection']].tolist(), 2))

    def image(one: dict[str, Any], kind: str) -> dict[str, Any]:
        own = [error for error in table.of_image(one['image']) if error['kind'] == kind]
        name = str(coco.imgs[one['image']].get('file_name'))
        return one | dict(file_name=name, shown=[entry(error) for error in own[:SHOWN]])

    found['worst'] = {kind: [entry(one) for one in table.worst(kind, WORST)] for kind in KINDS}
    found['worst_images'] = {
        kind: [image(one, kind) for one in table.worst_images(kind, WORST)] for kind in KINDS}
    found['by_image'], found['best_images'] = _by_image(table, coco)
    return found


def _by_image(table: ErrorTable, coco: COCO) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Columns with an entry for each image, costliest first, and the images with objects that cost least."""
    images, number = table.overlaps.images, len(table.overlaps.images)
    cost = np.bincount(table.image, table.cost, number)
    counts = np.bincount(table.image[table.counts] * len(KINDS) + table.kind[table.counts],
                         minlength=number * len(KINDS)).reshape(number, len(KINDS))
    own = table.overlaps.objects
    objects = np.bincount(own.image[~own.crowd], minlength=number)
    order = np.lexsort((-counts.sum(axis=1), -cost))
    kept = order[:MOST_IMAGES]
    ids = images[kept].tolist()
    columns = dict(
        image=ids, file_name=[str(coco.imgs[one].get('file_name')) for one in ids], objects=objects[kept].tolist(),
        cost=_rounded(cost[kept].tolist(), 8),
        **{kind: counts[kept, place].tolist() for place, kind in enumerate(KINDS)}, left_out=number - len(kept))
    best = np.lexsort((-objects, counts.sum(axis=1), cost))
    best = best[objects[best] > 0][:WORST].tolist()
    return columns, [dict(
        image=int(images[n]), file_name=str(coco.imgs[int(images[n])].get('file_name')), cost=float(cost[n]),
        errors=int(counts[n].sum()), objects=int(objects[n])) for n in best]


def _named(errors: dict[str, Any]) -> list[int]:
    """Ids of all images that the lists name."""
    lists = [errors['best_images'], *errors['worst'].values(), *errors['worst_images'].values()]
    return sorted({one['image'] for part in lists for one in part})


def _gallery(matches: Matches, coco: COCO, boxes: Detections, images: Sequence[int]) -> list[dict[str, Any]]:
    """Objects and detections of some images; whether an object is found and a detection right, at IoU 0.5."""
    overlaps = matches.overlaps
    objects, found = overlaps.objects, overlaps.found
    taken, counts = matches.states()
    used = np.zeros(len(objects.image), bool)
    used[taken[taken >= 0]] = True
    annotations, result = coco.dataset['annotations'], []
    for image in images:
        place = int(np.searchsorted(overlaps.images, image))
        there = range(*overlaps.object_bounds[place:place + 2].tolist())
        rows = range(*overlaps.found_bounds[place:place + 2].tolist())[:MAX_DETS]  # best scores first
        picture = coco.imgs[image]
        result.append(dict(
            id=image, file_name=str(picture.get('file_name')), width=picture['width'], height=picture['height'],
            objects=[dict(
                id=int(objects.id[n]), category=int(overlaps.classes[objects.label[n]]), crowd=bool(objects.crowd[n]),
                box=_rounded(list(annotations[objects.place[n]]['bbox']), 2), found=bool(used[n])) for n in there],
            detections=[dict(
                place=int(found.place[n]), category=int(overlaps.classes[found.label[n]]),
                score=round(float(found.score[n]), 5), box=_rounded(boxes.boxes[found.place[n]].tolist(), 2),
                right=bool(taken[n] >= 0), counts=bool(counts[n])) for n in rows]))
    return result


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one, digits) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value
