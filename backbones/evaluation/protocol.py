"""How a number was measured, read off the config: it stands beside the number in `metrics.json`."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from backbones.config import is_segmenter

from .tiles import tile_protocol

LOSS = 'mean of single whole pictures, eval mode, sampling seeded by the number of the picture'


def _steps(pipeline: list[dict], kind: str) -> list[dict]:
    """All steps of type `kind` (any scope) in `pipeline`, also inside test-time augmentation and tiles."""
    found = []
    for step in pipeline:
        name = str(step.get('type', '')).rsplit('.', 1)[-1]
        if name == kind:
            found.append(step)
        for branch in step.get('transforms', []) if name == 'TestTimeAug' else []:
            found.extend(_steps(branch, kind))
        found.extend(_steps(step.get('steps', []), kind) if name == 'TileViews' else [])
    return found


def evaluation_protocol(cfg: Config, split: str = 'test', tta: bool = False) -> dict[str, Any]:
    """Describe how `cfg` evaluates.

    Args:
        cfg: a composed config of a detector or a segmenter.
        split: 'val' or 'test': whose data loader and evaluator count.
        tta: the run used `tta_pipeline` (`tools/test.py --tta`).

    Returns:
        `scale`: input sizes, (width, height) in pixels, of each view; `keep_ratio`; `flip`; `precision` that the model
        computed in; `unit` of the metrics; and
        for a segmenter `mode` ('whole' or 'slide' with `crop_size` and `stride`), `ignore_label`, `label_0_ignored`;
        for a detector `score_threshold`, `nms`, `max_per_image` (with `tiles`: of each of them).
    """
    dataset, evaluator = cfg[f'{split}_dataloader'].dataset, cfg.get(f'{split}_evaluator')
    pipeline = dataset.pipeline
    resizes = _steps(pipeline, 'Resize')
    flips = _steps(pipeline, 'RandomFlip')
    protocol: dict[str, Any] = dict(
        scale=[step.get('scale', step.get('scale_factor')) for step in resizes],
        keep_ratio=all(step.get('keep_ratio', False) for step in resizes),
        flip=any(step.get('prob', 0) for step in flips),
        tta=tta,
        precision=_precision(cfg, split),
    )
    model = cfg.model.get('module', cfg.model)
    if cfg.model.get('tiles'):
        protocol['tiles'] = tile_protocol(cfg.model.tiles)
    if any(_measures_loss(hook, split) for hook in cfg.get('custom_hooks') or ()):
        protocol['loss'] = f'{LOSS}, fp32' if split == 'test' else LOSS
    protocol['unit'] = 'percent' if is_segmenter(cfg) else 'fraction'  # of the toolboxes' metrics
    if is_segmenter(cfg):
        test_cfg = model.get('test_cfg', {})
        protocol['mode'] = test_cfg.get('mode', 'whole')
        if protocol['mode'] == 'slide':
            protocol.update(crop_size=test_cfg['crop_size'], stride=test_cfg['stride'])
        loads = _steps(pipeline, 'LoadLabelMap') + _steps(pipeline, 'LoadAnnotations')
        stated = [step['reduce_zero_label'] for step in loads if step.get('reduce_zero_label') is not None]
        of_dataset = dataset.get('reduce_zero_label', str(dataset.type).endswith(('LabelMapDataset', 'ADE20KDataset')))
        protocol.update(
            ignore_label=evaluator.get('ignore_index', 255) if isinstance(evaluator, dict) else 255,
            label_0_ignored=bool(stated[0] if stated else of_dataset),
        )
    elif 'test_cfg' in model and 'rcnn' in model.test_cfg:
        rcnn = model.test_cfg.rcnn
        protocol.update(
            score_threshold=rcnn.score_thr, nms=dict(rcnn.nms), max_per_image=rcnn.max_per_img
        )
    return protocol


def _measures_loss(hook: Any, split: str) -> bool:
    return (isinstance(hook, dict) and str(hook.get('type')).endswith('ValidationLossHook')
            and hook.get('split', 'val') == split)


def _precision(cfg: Config, split: str) -> str:
    """What the model computes in: the config's `precision`, else fp32, or autocast where MMEngine's loop does that."""
    if cfg.get('precision'):
        return cfg.precision
    return 'autocast' if (cfg.get(f'{split}_cfg') or {}).get('fp16') else 'fp32'
