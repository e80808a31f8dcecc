"""COCO box and mask AP whose category ids follow the model's classes by name, scored in memory."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from backbones.missing import toolbox_needed
from backbones.registry import METRICS

with toolbox_needed():
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.evaluation import CocoMetric as MMDetCocoMetric
    from pycocotools.cocoeval import COCOeval, Params
    from terminaltables import AsciiTable

    from backbones.data.coco import category_ids

    from .coco_api import CheckedCoco
    from .coco_detections import flat_detections
    from .coco_scoring import score

AVERAGES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')  # places 0 to 5 of pycocotools' stats
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')  # 6 to 11
PLACES = {name: place for place, name in enumerate(AVERAGES + RECALLS)}


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's CocoMetric with four differences.

    The label of a prediction is turned into a category id by class *name*: mmdet looks the names up in the order of
    the annotation file, so that a file with another order scores class 0 against category of class 1. And a model
    that detects nothing at all gets AP 0 instead of an `IndexError` or a missing number. And the annotation file,
    like the predictions, is checked before C code sees it. And predictions are scored where they are, in memory, by
    faster-coco-eval, or by pycocotools where that is not installed: the numbers are the same (`coco_scoring.py`).

    Takes the arguments of `mmdet.CocoMetric` but for `metric='proposal_fast'` (`sort_categories` changes nothing where
    names decide, `use_mp_eval` nothing at all: one process is faster); the values returned are fractions in 0..1
    (`bbox_mAP`, `segm_mAP`, ...). Files of predictions are written only for an `outfile_prefix`.

    Raises:
        ValueError: a class of the data set is not in the annotation file, or that file or a prediction holds what
            cannot be scored: numbers that are none, masks that do not fit their picture.
    """

    def __init__(self, ann_file: str | None = None, *args, **kwargs) -> None:
        if kwargs.get('format_only') and not kwargs.get('outfile_prefix'):
            raise ValueError(
                "format_only=True writes files: give CocoMetric outfile_prefix=..., such as 'work_dirs/run/results'"
            )
        super().__init__(None, *args, **kwargs)
        self._check_options()
        self.ann_file = ann_file
        if ann_file is not None:
            self._coco_api = CheckedCoco(ann_file, 'segm' in self.metrics, self.backend_args)

    def _check_options(self) -> None:
        """pycocotools' table has three numbers of detections, and takes its first AP at 100 of them."""
        if 'proposal_fast' in self.metrics:
            raise ValueError("metric='proposal_fast' of mmdet fails with numpy >= 1.24 (arrays of unequal length); use "
                             "'proposal', which gives AR at the same numbers")
        numbers = sorted(self.proposal_nums)
        if len(numbers) != 3:
            raise ValueError(f'proposal_nums={self.proposal_nums} must be three numbers, such as 100, 300, 1000')
        if {'bbox', 'segm'} & set(self.metrics) and 100 not in numbers:
            raise ValueError(f'proposal_nums={self.proposal_nums} must hold 100, at which mAP is taken')
        unknown = [item for item in self.metric_items or () if item not in PLACES]
        if unknown:
            raise ValueError(f'metric_items of CocoMetric names {unknown[0]!r}; choose from {", ".join(PLACES)}')

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep predictions and ground truth of one batch; see `mmdet.CocoMetric.process`."""
        done = len(self.results)
        super().process(data_batch, data_samples)
        for truth, found in self.results[done:]:
            if not (np.isfinite(found['bboxes']).all() and np.isfinite(found['scores']).all()):
                raise ValueError(
                    f'the model predicts boxes or scores that are no finite numbers for picture {truth["img_id"]}; its '
                    'weights may hold NaN: score an earlier checkpoint'
                )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score `(ground truth, prediction)` pairs of all processes; see `mmdet.CocoMetric.compute_metrics`."""
        truths, found = [truth for truth, _ in results], [prediction for _, prediction in results]
        if self._coco_api is None:
            self._coco_api = self._from_ground_truth(truths)
        self.cat_ids = category_ids(self._coco_api, self.dataset_meta['classes'])
        self.img_ids = self._coco_api.get_img_ids()
        if self.outfile_prefix is not None and found:
            self.results2json(found, self.outfile_prefix)
            print_log(f'predictions are written to {self.outfile_prefix}.*.json', 'current')
        if self.format_only:
            return {}
        if not any(len(prediction['labels']) for prediction in found):
            print_log('the model detected no object in any image: every AP is 0', 'current')
            return {f'{metric}_{item}': 0.0 for metric in self.metrics for item in AVERAGES}
        values: dict[str, float] = {}
        for metric in self.metrics:
            print_log(f'Evaluating {metric}...', 'current')
            values |= self._score(metric, found)
        return values

    def _from_ground_truth(self, truths: list[dict]) -> COCO:
        """Index what the data set itself gave as ground truth, where there is no annotation file."""
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            return COCO(self.gt_to_coco_json(truths, str(Path(folder) / 'truth')))

    def _score(self, metric: str, found: list[dict]) -> dict[str, float]:
        """Score boxes, masks or, whatever their class, proposals; rounded to three digits as mmdet's."""
        kind = 'bbox' if metric == 'proposal' else metric
        params = Params(iouType=kind)
        params.imgIds, params.catIds, params.maxDets = self.img_ids, self.cat_ids, list(self.proposal_nums)
        params.iouThrs = np.asarray(self.iou_thrs, np.float64).reshape(-1)
        params.useCats = int(metric != 'proposal')
        detections = flat_detections(found, self.cat_ids, self._coco_api.imgs, masks=kind == 'segm')
        evaluation = score(self._coco_api, detections, params)
        with contextlib.redirect_stdout(io.StringIO()) as table:
            evaluation.summarize()
        print_log('\n' + table.getvalue().rstrip(), 'current')
        values = self._by_class(evaluation) if self.classwise and params.useCats else {}
        prefix = '' if metric == 'proposal' else f'{metric}_'
        for item in self.metric_items or (RECALLS if metric == 'proposal' else AVERAGES):
            values[prefix + item] = float(round(float(evaluation.stats[PLACES[item]]), 3))
        return values

    def _by_class(self, evaluation: COCOeval) -> dict[str, float]:
        """AP of each class, which is logged as a table, too; NaN for a class without objects."""
        precision, order = evaluation.eval['precision'], evaluation.params.catIds  # by category id
        thresholds = evaluation.params.iouThrs
        at = [place for place, threshold in enumerate(thresholds) if np.isclose(threshold, (0.5, 0.75)).any()]
        head = ['category', 'mAP', *(f'mAP_{thresholds[place] * 100:.0f}' for place in at), 'mAP_s', 'mAP_m', 'mAP_l']
        values, rows = {}, [head]
        for name, category in zip(self.dataset_meta['classes'], self.cat_ids, strict=True):
            own = precision[:, :, order.index(category), :, -1]  # (T, R, A)
            parts = [own[..., 0], *(own[n, :, 0] for n in at), own[..., 1], own[..., 2], own[..., 3]]
            means = [float(part[part > -1].mean()) if (part > -1).any() else float('nan') for part in parts]
            values[f'{name}_precision'] = round(means[0], 3)
            rows.append([name, *(f'{mean:.3f}' for mean in means)])
        print_log('\n' + AsciiTable(rows).table, 'current')
        return values
