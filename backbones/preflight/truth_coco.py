"""Boxes and masks of the annotations, given as predictions, through data set, test pipeline and COCO metric.

The stages, in the order in which they are looked at where points are lost:

pictures   the data set gives those that the evaluator scores
ceiling    the annotation file scored against itself: more than 100 objects of a class in a picture are not counted
boxes      objects as the data set reads them, whatever their class
clipping   their boxes cut off at the border of the picture, beyond which no model predicts
masks      their masks, as run lengths of the picture
classes    the evaluator understands the data set's labels
training   the labels mean the same in training
resize     the boxes through the test pipeline, and back by the `scale_factor` it packs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from backbones.findings import Finding, Outcome

from .truth import score
from .truth_pictures import Picture, boxes_of, clipped_boxes, through_pipeline, true_picture
from .undisturbed import class_names, innermost, shortened

LOST = 5e-4  # of AP: it is rounded to three digits
COUNTED = 100  # detections of a class in a picture that COCO counts
OFF = 0.02  # of a box's longer side: so far from where it was, and a box counts as moved


def check_coco_truth(outcome: Outcome, runner: Runner, metric: Any, chosen: Sequence[int]) -> None:
    """Score what a perfect model would return; name the first stage that loses points."""
    dataset, api = innermost(runner.val_loop.dataloader.dataset), metric._coco_api
    kinds = [kind for kind in metric.metrics if kind in ('bbox', 'segm')]
    if not kinds:
        outcome.details.append(f'left out: metric={metric.metrics} has no AP of boxes or masks')
        return
    pictures = [true_picture(dataset, index, 'segm' in kinds) for index in chosen]
    file = str(getattr(metric, 'ann_file', None) or getattr(api, 'file', None) or 'the annotation file')
    if api is not None:
        outcome.findings += _other_pictures(dataset, api, file)
        pictures = [picture for picture in pictures if picture.id in api.imgs]
        restrict(api, {picture.id for picture in pictures})
    else:
        outcome.details.append('the evaluator has no ann_file: it scores against what the data set itself gives')
    count = sum(len(picture.boxes) for picture in pictures)
    if not count:
        outcome.summary = f'none of the {len(chosen)} pictures that were looked at has an object'
        outcome.skipped = '' if outcome.findings else outcome.summary
        return
    trial = _Trial(outcome, runner, metric, api, pictures, kinds, file)
    trial.run()
    found = ', '.join(f'{name} AP {trial.final[kind]:.3f}' for kind, name in (('bbox', 'box'), ('segm', 'mask'))
                      if kind in trial.final)
    outcome.summary = (f'{count} true objects of {len(pictures)} pictures, given as predictions, score '
                       f'{found or "nothing"}')
    outcome.figures.update(truth_images=len(pictures), truth_objects=count, truth_scores=dict(trial.final))


def restrict(api: Any, ids: set) -> None:
    """Leave only these pictures in a COCO index."""
    for key, name in (('images', 'id'), ('annotations', 'image_id')):
        api.dataset[key] = [entry for entry in api.dataset[key] if entry[name] in ids]
    api.createIndex()
    api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs


def _other_pictures(dataset: Any, api: Any, file: str) -> Iterator[Finding]:
    """The pictures of data set and evaluator, all of them."""
    given = {dataset.get_data_info(index)['img_id'] for index in range(len(dataset))}
    scored = set(api.imgs)
    lost, missed = sorted(given - scored, key=str), sorted(scored - given, key=str)
    remedy = 'give val_evaluator.ann_file and val_dataloader.dataset.ann_file the same file'
    if lost:
        yield Finding(
            'error', 'other pictures', f'{len(lost)} of {len(given)} pictures of the validation are not in the file '
            f'that the evaluator scores with, the first with id {lost[0]}', remedy, file=file, id=lost[0],
            field='val_evaluator.ann_file')
    objects = sum(len(api.imgToAnns.get(one, ())) for one in missed)
    if missed and objects:
        yield Finding(
            'error', 'other pictures', f'the evaluator scores {len(missed)} pictures that the validation never shows '
            f'the model, the first with id {missed[0]}: their {objects} objects count as missed', remedy, file=file,
            id=missed[0], field='val_evaluator.ann_file')


class _Trial:
    """One set of pictures through the stages."""

    def __init__(self, outcome: Outcome, runner: Runner, metric: Any, api: Any, pictures: list[Picture],
                 kinds: list[str], file: str) -> None:
        self.outcome, self.runner, self.metric, self.api = outcome, runner, metric, api
        self.pictures, self.kinds, self.file = pictures, kinds, file
        self.dataset = innermost(runner.val_loop.dataloader.dataset)
        self.classes = class_names(runner.val_loop)
        self.trained = class_names(runner.train_loop) if runner.train_loop is not None else ()
        self.final: dict[str, float] = {}

    def run(self) -> None:
        """The whole way first; stage by stage where it loses."""
        for picture in self.pictures:
            if 'segm' in self.kinds and picture.masks is None:
                self.outcome.findings.append(Finding(
                    'error', 'mask fails', f'a mask of picture {picture.id} cannot be read: {picture.problem}', 'run '
                    'tools/check_data.py, which names the annotation', file=self.file, id=picture.id))
                return
            problem = through_pipeline(self.dataset, picture)
            if problem is not None:
                self.outcome.findings.append(problem)
                return
        labels = self._training_labels()
        error: Exception | None = None
        try:
            self.final = self._score(boxes='returned', labels=labels)
        except Exception as failure:
            error = failure
        if error is None and all(value > 1 - LOST for value in self.final.values()):
            return
        finding = self._first_loss(labels)
        if finding is None and error is not None:
            finding = Finding('error', 'evaluator fails', f'the evaluator fails on true boxes: {shortened(error)}',
                              'correct val_evaluator by what the message says', field='val_evaluator')
        self.outcome.findings += [finding or self._unexplained()]

    def _unexplained(self) -> Finding:
        return Finding('warning', 'truth loses points', f'the ground truth scores {_words(self.final)}, by no stage '
                       'that is known here', 'score a prediction by hand with tools/test.py', field='val_evaluator')

    # --- stages -------------------------------------------------------------------------------------

    def _first_loss(self, labels: dict[int, int]) -> Finding | None:
        ceiling = self._plain(boxes=None)
        best = {kind: ceiling.get(kind, 1.0) for kind in self.kinds}
        stages = (
            ('boxes', lambda: self._plain(boxes='boxes')), ('clipping', lambda: self._plain(boxes='clipped')),
            ('classes', lambda: self._score('clipped', None)), ('training', lambda: self._score('clipped', labels)),
            ('resize', lambda: self._score('returned', labels)))
        for name, stage in stages:
            try:
                found = stage()
            except Exception as error:
                return Finding('error', f'{name} fails', f'the stage {name} fails: {shortened(error)}',
                               'correct val_evaluator or the data set by what the message says')
            lost = [kind for kind in self.kinds if kind in found and found[kind] < best[kind] - LOST]
            if lost:
                return getattr(self, f'_{name}_finding')(_words({kind: found[kind] for kind in lost}), lost)
            best = {kind: min(value, found.get(kind, value)) for kind, value in best.items()}
        if any(value < 1 - LOST for value in ceiling.values()):
            return Finding(
                'note', 'ceiling below 1', f'the annotation file scored against itself reaches {_words(ceiling)} only: '
                'no model can reach more', 'see whether it has more than 100 objects of one class in a picture, or '
                'objects without a mask', file=self.file)
        return None

    def _boxes_finding(self, words: str, kinds: list[str]) -> Finding:
        masks_only = kinds == ['segm']
        for picture in self.pictures:
            wanted = [one for one in self._annotations(picture) if not one.get('iscrowd', 0)]
            if len(wanted) != len(picture.boxes):
                return Finding(
                    'error', 'objects lost', f'the ground truth reaches {words}: of picture {picture.id} the evaluator '
                    f'counts {len(wanted)} objects, the data set gives {len(picture.boxes)}', 'see the log for what '
                    'the data set leaves out, and the evaluator\'s ann_file', file=self.file, id=picture.id)
        what = 'masks' if masks_only else 'boxes'
        return Finding('error', f'{what} differ', f'the ground truth reaches {words}: the data set reads other {what} '
                       'than the evaluator', 'give val_evaluator.ann_file and val_dataloader.dataset.ann_file the same '
                       'file', file=self.file)

    def _clipping_finding(self, words: str, kinds: list[str]) -> Finding:
        for picture in self.pictures:
            h, w = picture.size
            far = np.maximum(-picture.boxes[:, :2].min(1), (picture.boxes[:, 2:] - [w, h]).max(1))
            if len(far) and far.max() > 1:
                return Finding(
                    'warning', 'boxes outside', f'the ground truth reaches {words}: boxes reach outside of their '
                    f'pictures, where no model predicts (picture {picture.id}, {far.max():.0f} pixels)', 'cut them off '
                    'at the border (tools/check_data.py --fix)', file=self.file, id=picture.id)
        return Finding('warning', 'boxes outside', f'the ground truth reaches {words} when boxes are cut off at the '
                       'border', 'cut them off in the file', file=self.file)

    def _classes_finding(self, words: str, kinds: list[str]) -> Finding:
        known = getattr(self.metric, 'cat_ids', None) or []
        names = {key: value['name'] for key, value in self.api.cats.items()} if self.api is not None else {}
        for label, (name, category) in enumerate(zip(self.classes, known, strict=False)):
            if names.get(category) != name:
                return Finding(
                    'error', 'class order', f'the ground truth reaches {words}: the evaluator scores label {label}, '
                    f'{name!r} in the data set, as {names.get(category)!r}', 'use backbones.CocoMetric, which goes by '
                    'name, or list the classes in the order of the annotation file', file=self.file, id=category,
                    field='val_evaluator', value=label)
        for picture in self.pictures:  # the data set itself numbers them otherwise than it names them
            wanted = [one for one in self._annotations(picture) if not one.get('iscrowd', 0)]
            for one, label in zip(wanted, picture.labels, strict=False):
                if names.get(one['category_id']) != self.classes[label]:
                    return Finding(
                        'error', 'class order', f'the ground truth reaches {words}: annotation {one.get("id")} is a '
                        f'{names.get(one["category_id"])!r} in the file, and {self.classes[label]!r} in the data set',
                        'correct metainfo.classes of the validation data set', file=self.file, id=one.get('id'),
                        field='val_dataloader.dataset.metainfo', value=int(label))
        for picture in self.pictures:
            most = int(np.bincount(picture.labels).max()) if len(picture.labels) else 0
            if most > COUNTED:
                return Finding(
                    'note', 'many objects', f'the ground truth reaches {words}: COCO counts {COUNTED} detections of a '
                    f'class in a picture, and picture {picture.id} has {most} objects of one', file=self.file,
                    id=picture.id, value=most)
        return Finding('error', 'class order', f'the ground truth reaches {words} once classes count', 'compare '
                       'metainfo.classes with the categories of the file', file=self.file)

    def _training_finding(self, words: str, kinds: list[str]) -> Finding:
        differs = (n for n, name in enumerate(self.trained) if n >= len(self.classes) or self.classes[n] != name)
        label = next(differs, None)
        if label is None:
            return Finding(
                'error', 'class order', f'the ground truth reaches {words}: class {self.classes[len(self.trained)]!r} '
                'of the validation is not trained', 'give both data sets the same metainfo.classes, or leave it out of '
                'both', field='val_dataloader.dataset.metainfo.classes', value=len(self.trained))
        other = self.classes[label] if label < len(self.classes) else 'no class'
        return Finding(
            'error', 'class order', f'the ground truth reaches {words}: label {label} is {self.trained[label]!r} in '
            f'training and {other!r} in the validation', 'give both data sets the same metainfo.classes, or leave it '
            'out of both', field='val_dataloader.dataset.metainfo.classes', value=label)

    def _resize_finding(self, words: str, kinds: list[str]) -> Finding:
        for picture in self.pictures:
            clipped = clipped_boxes(picture)
            sides = (clipped[:, 2:] - clipped[:, :2]).max(1, initial=1.0)
            moved = np.abs(picture.returned - clipped).max(1, initial=0.0)
            worst = int((moved / sides).argmax()) if len(moved) else 0
            if len(moved) and moved[worst] > OFF * sides[worst]:
                before, after = (np.round(boxes[worst], 1).tolist() for boxes in (clipped, picture.returned))
                return Finding(
                    'error', 'resize and back', f'the ground truth reaches {words}: through the test pipeline and back '
                    f'by its scale_factor, the box {before} of picture {picture.id} becomes {after}', 'look at what '
                    'the test pipeline resizes, flips or crops, and at the scale_factor it packs', file=picture.path,
                    id=picture.id, field='val_dataloader.dataset.pipeline')
        return Finding('error', 'resize and back', f'the ground truth reaches {words} after the test pipeline', 'look '
                       'at what it resizes, flips or crops', field='val_dataloader.dataset.pipeline')

    # --- scores -------------------------------------------------------------------------------------

    def _annotations(self, picture: Picture) -> list[dict]:
        return self.api.imgToAnns.get(picture.id, []) if self.api is not None else []

    def _training_labels(self) -> dict[int, int]:
        """The label in training of each label of the validation; -1 for a class that is not trained."""
        if not self.trained:
            return {label: label for label in range(len(self.classes))}
        return {label: self.trained.index(name) if name in self.trained else -1
                for label, name in enumerate(self.classes)}

    def _score(self, boxes: str, labels: dict[int, int] | None) -> dict[str, float]:
        """The metric's AP of predictions."""
        samples = []
        if self.api is None:
            self.metric._coco_api = None
        for picture in self.pictures:
            given = picture.labels if labels is None else np.array([labels[n] for n in picture.labels], np.int64)
            kept = (given >= 0) & (given < len(self.classes))
            found = InstanceData(
                bboxes=torch.as_tensor(boxes_of(picture, boxes)[kept], dtype=torch.float32),
                labels=torch.as_tensor(given[kept]), scores=torch.ones(int(kept.sum())))
            if 'segm' in self.kinds:
                found.masks = [mask for mask, keep in zip(picture.masks or [], kept, strict=True) if keep]
            meta = dict(img_id=picture.id, ori_shape=picture.size)
            sample = DetDataSample(metainfo=meta, pred_instances=found)
            if self.api is None:
                sample.instances = self.dataset.get_data_info(picture.index)['instances']
            samples.append(sample)
        values = score(self.metric, samples)
        found = {kind: value for kind in self.kinds for name, value in values.items() if name.endswith(f'{kind}_mAP')}
        return {kind: float(value) for kind, value in found.items() if value >= 0}

    def _plain(self, boxes: str | None) -> dict[str, float]:
        """AP whatever the class, by pycocotools' rules and without the metric; None: of the annotations themselves."""
        if self.api is None:
            return {}
        from pycocotools.cocoeval import Params

        from backbones.evaluation.coco_scoring import Detections
        from backbones.evaluation.coco_scoring import score as score_plainly

        values = {}
        for kind in self.kinds:
            params = Params(iouType=kind)
            params.imgIds = [picture.id for picture in self.pictures]
            params.catIds, params.maxDets, params.useCats = list(self.api.cats), [1, 10, 1000], 0
            one = self._detections(kind, boxes)
            precision = score_plainly(self.api, Detections(**one), params).eval['precision'][:, :, :, 0, -1]
            values[kind] = float(precision[precision > -1].mean()) if (precision > -1).any() else 1.0
        return values

    def _detections(self, kind: str, boxes: str | None) -> dict[str, Any]:
        ids, corners, masks = [], [np.zeros((0, 4))], []
        for picture in self.pictures:
            if boxes is None:
                own = [one for one in self._annotations(picture) if not one.get('iscrowd', 0)]
                found = np.array([one['bbox'] for one in own], float).reshape(-1, 4)
                masks += [self.api.annToRLE(one) for one in own] if kind == 'segm' else []
            else:
                found = boxes_of(picture, boxes).copy()
                found[:, 2:] -= found[:, :2]
                masks += (picture.masks or []) if kind == 'segm' else []
            ids += [picture.id] * len(found)
            corners.append(found)
        some = min(self.api.cats)  # whatever the class
        made = dict(
            images=np.array(ids, np.int64), categories=np.full(len(ids), some), scores=np.ones(len(ids)))
        return dict(made, masks=masks) if kind == 'segm' else dict(made, boxes=np.concatenate(corners))


def _words(values: dict[str, float]) -> str:
    names = dict(bbox='box AP', segm='mask AP')
    return ' and '.join(f'{names[kind]} {value:.3f}' for kind, value in values.items()) or 'no score'
