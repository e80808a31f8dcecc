"""COCO box and mask AP whose category ids follow the model's classes by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log

from backbones.missing import toolbox_needed
from backbones.registry import METRICS

with toolbox_needed():
    from mmdet.evaluation import CocoMetric as MMDetCocoMetric

    from backbones.data.coco import category_ids

    from .coco_api import CheckedCoco


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's CocoMetric with three differences.

    The label of a prediction is turned into a category id by class *name*: mmdet looks the names up in the order of
    the annotation file, so that a file with another order scores class 0 against category of class 1. And a model
    that detects nothing at all gets AP 0 instead of an `IndexError` or a missing number. And the annotation file,
    like the predictions, is checked before pycocotools' C code sees it.

    Takes the arguments of `mmdet.CocoMetric` (`sort_categories` changes nothing where names decide); the values
    returned are fractions in 0..1 (`bbox_mAP`, `segm_mAP`, ...).

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
        self.ann_file = ann_file
        if ann_file is not None:
            self._coco_api = CheckedCoco(ann_file, 'segm' in self.metrics, self.backend_args)

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
        if self._coco_api is not None:
            self.cat_ids = category_ids(self._coco_api, self.dataset_meta['classes'])
        if not self.format_only and not any(len(prediction['labels']) for _, prediction in results):
            print_log('the model detected no object in any image: every AP is 0', 'current')
            return {
                f'{metric}_{item}': 0.0
                for metric in self.metrics
                for item in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
            }
        return {name: float(np.float64(value)) for name, value in super().compute_metrics(results).items()}
