"""The ground truth given as prediction must score 1.000: through the config's own data set, pipeline and evaluator.

What a perfect model would return is made from the annotations and goes where the predictions of a validation go. Where
points are lost, the stages between annotation file and score are looked at one by one, and the first that loses is
named: truth_coco.py for boxes and masks, truth_labels.py for label maps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from backbones.findings import Outcome, finding_of

from .undisturbed import innermost, spread, undisturbed

FILES = ('outfile_prefix', 'output_dir')  # arguments of metrics that make them write


def check_truth(runner: Runner, *, images: int = 200) -> Outcome:
    """Score the ground truth of the validation against itself.

    Args:
        runner: built by `backbones.runner.build_runner` with the split 'val'.
        images: at most so many, evenly chosen; the evaluator is restricted to them.
    """
    outcome = Outcome('evaluation')
    if runner.val_loop is None:
        outcome.skipped = 'the config has no validation'
        return outcome
    with undisturbed(runner):
        dataset = runner.val_loop.dataloader.dataset
        if not hasattr(innermost(dataset), 'get_data_info') or not len(dataset):
            outcome.skipped = f'{type(innermost(dataset)).__name__} tells nothing about single pictures'
            return outcome
        try:
            metrics = fresh_metrics(runner)
        except Exception as error:
            outcome.findings.append(finding_of(error, 'evaluator fails'))
            return outcome
        chosen = spread(len(dataset), images)
        _check(outcome, runner, metrics, chosen)
    return outcome


def _check(outcome: Outcome, runner: Runner, metrics: list[Any], chosen: list[int]) -> None:
    """Hand each metric to who knows it."""
    checked, said = False, []
    for metric in metrics:
        check = _check_of(metric)
        if check is None:
            said.append(f'left out: {type(metric).__name__} is not known here')
        elif getattr(metric, 'format_only', False):
            said.append(f'left out: {type(metric).__name__} has format_only=True and gives no score')
        else:
            check(outcome, runner, metric, chosen)
            checked = True
    outcome.details += said
    if not checked:
        outcome.skipped = said[0].removeprefix('left out: ') if said else 'the config has no evaluator'


def _check_of(metric: Any) -> Callable[..., None] | None:
    """Who knows a metric; by name, as mmdet or mmseg may not be installed."""
    kinds = {kind.__name__ for kind in type(metric).__mro__}
    if 'CocoMetric' in kinds and hasattr(metric, '_coco_api'):
        from .truth_coco import check_coco_truth

        return check_coco_truth
    if 'IoUMetric' in kinds:
        from .truth_labels import check_label_truth

        return check_label_truth
    return None


def fresh_metrics(runner: Runner) -> list[Any]:
    """The metrics of the config built anew, without the files they would write; the runner's stay as they are."""
    settings = copy.deepcopy(runner.cfg.val_evaluator)
    for one in settings if isinstance(settings, list | tuple) else [settings]:
        for key in FILES:
            if isinstance(one, dict) and not one.get('format_only'):
                one.pop(key, None)
    if hasattr(settings, 'to_dict'):
        settings = settings.to_dict()
    evaluator = Evaluator(settings)
    evaluator.dataset_meta = runner.val_loop.dataloader.dataset.metainfo
    return evaluator.metrics


def score(metric: Any, samples: list[Any]) -> dict[str, float]:
    """What a metric makes of predictions; its results start and end empty."""
    metric.results.clear()
    try:
        for sample in samples:
            metric.process({}, [sample.to_dict()])
        return metric.evaluate(len(samples))
    finally:
        metric.results.clear()
