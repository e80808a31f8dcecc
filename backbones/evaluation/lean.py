"""Leave out of an evaluation what nothing in it looks at: bitmaps of masks, masks of the ground truth, scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mmengine.hooks
from mmengine.config import Config, ConfigDict

from backbones.config import dicts_in
from backbones.registry import SCOPE

MASK_HEAD = f'{SCOPE}.FCNMaskHead'
LOADERS = ('LoadAnnotations', 'LoadInstanceAnnotations')
TAKE_LABELS = ('IoUMetric', 'CityscapesMetric')  # of mmseg or ours: metrics that look at no scores


def spare_masks(cfg: Config, split: str, draws: bool = False) -> list[str]:
    """Let masks of a split be run lengths where its metrics and hooks take such, in place.

    The model's masks then never are bitmaps of the picture's size (`backbones.FCNMaskHead`), and masks of the ground
    truth, which COCO metrics read from the annotation file themselves, are not made. The numbers stay the same. A
    config that states `test_cfg.rcnn.mask_format` keeps it. The split's evaluator must be `CocoMetric`, ours or
    mmdet's, and nothing but hooks of MMEngine and of this package may see the predictions: foreign ones, such as
    mmdet's `DetVisualizationHook`, want bitmaps. That is also why a config's masks are bitmaps unless a tool of ours
    asks for run lengths here: mmdet's `DetInferencer` and visualizers know nothing else.

    Args:
        cfg: a composed config, without test-time augmentation yet.
        split: 'val' or 'test'.
        draws: the masks of the ground truth will be drawn, so they are loaded.

    Returns:
        What was changed.
    """
    if not _only_coco(cfg.get(f'{split}_evaluator')) or any(_is_foreign(hook) for hook in _hooks(cfg)):
        return []
    changed = ['masks are predicted as run lengths'] if use_run_lengths(cfg) else []
    if not draws and all(metric.get('ann_file') for metric in _metrics(cfg[f'{split}_evaluator'])):
        for step in dicts_in((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if str(step.get('type')).rpartition('.')[2] in LOADERS and step.get('with_mask'):
                step['with_mask'] = False
                changed.append("the data set's masks are not loaded, the metric reads them from the annotation file")
    return changed


def use_run_lengths(cfg: Config) -> bool:
    """Let the model of a config predict masks as run lengths, where its mask head can; tell whether it does.

    A config that states `test_cfg.rcnn.mask_format` keeps it.
    """
    rcnn = (cfg.model.get('test_cfg') or {}).get('rcnn')
    heads = (cfg.model.get('roi_head') or {}).get('mask_head')
    kinds = [head.get('type') for head in (heads if isinstance(heads, list | tuple) else [heads]) if head]
    if not isinstance(rcnn, dict) or set(kinds) != {MASK_HEAD} or rcnn.get('mask_thr_binary', -1) < 0:
        return False
    rcnn.setdefault('mask_format', 'rle')
    return rcnn['mask_format'] == 'rle'


def merges_masks(cfg: Config) -> bool:
    """Whether the test-time augmentation of a config merges run lengths."""
    return (cfg.get('tta_model') or {}).get('type') == f'{SCOPE}.InstanceTTAModel'


def needs_labels_only(cfg: Config, split: str) -> bool:
    """Whether metrics and hooks of a segmenter are known to look at no scores: `backbones.evaluation.labels`."""
    metrics = _metrics(cfg.get(f'{split}_evaluator'))
    return (
        bool(metrics) and all(str(metric.get('type')).rpartition('.')[2] in TAKE_LABELS for metric in metrics)
        and not any(_is_foreign(hook) for hook in _hooks(cfg)))


def _only_coco(evaluator: Any) -> bool:
    metrics = _metrics(evaluator)
    return bool(metrics) and all(
        metric.get('type') in ('CocoMetric', 'mmdet.CocoMetric', f'{SCOPE}.CocoMetric') for metric in metrics)


def _metrics(evaluator: Any) -> list[dict]:
    """The metrics of an evaluator; none if it is something else."""
    found = list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator]
    if not all(isinstance(metric, dict) for metric in found):
        return []
    return [one for metric in found for one in (_metrics(metric['metrics']) if 'metrics' in metric else [metric])]


def _hooks(cfg: Config) -> Iterator[Any]:
    yield from (hook for hook in (cfg.get('default_hooks') or {}).values() if hook is not None)
    yield from cfg.get('custom_hooks') or ()


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is neither of MMEngine nor ours."""
    kind = hook.get('type') if isinstance(hook, dict | ConfigDict) else None
    return not isinstance(kind, str) or not (
        kind.startswith(f'{SCOPE}.') or hasattr(mmengine.hooks, kind.removeprefix('mmengine.')))
