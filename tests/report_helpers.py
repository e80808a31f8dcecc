"""Work folders as a training leaves them, without the training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conftest import ROOT

CONFIG = """model = dict(
    type='MaskRCNN', backbone=dict(type='backbones.ConvNeXt'))
train_cfg = dict(max_epochs=3, type='EpochBasedTrainLoop')
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=0.1))
"""
STARTED = '20260102_030405'


def train_line(step: int, **numbers: Any) -> dict[str, Any]:
    """A line of the training's log."""
    known = dict(lr=0.1, base_lr=0.1, data_time=0.01, grad_norm=1.0, loss=10.0 / step, loss_cls=5.0 / step, time=0.2)
    return {**known, **numbers, 'epoch': (step - 1) // 10 + 1, 'iter': step, 'step': step}


def val_line(step: int, value: float) -> dict[str, Any]:
    """A line of a validation."""
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_l': -1.0, 'time': 0.1, 'data_time': 0.01, 'step': step}


def write_log(run: Path, lines: Iterable[dict | str], start: str = STARTED) -> Path:
    """Write the log of one start, a line for each; texts as they are."""
    folder = run / start / 'vis_data'
    folder.mkdir(parents=True, exist_ok=True)
    text = '\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / 'scalars.json').write_text(text)
    (folder / 'config.py').write_text(CONFIG)
    return folder


def make_run(run: Path, steps: int = 30, **record: Any) -> Path:
    """A finished training of 3 epochs with 10 iterations, validated after each."""
    lines = []
    for step in range(1, steps + 1):
        lines.append(train_line(step))
        if step % 10 == 0:
            lines.append(val_line(step, 0.3 if step == 20 else 0.1))
    write_log(run, lines)
    (run / 'epoch_000003').mkdir()
    (run / 'last').write_text('epoch_000003\n')
    (run / 'metrics.json').write_text(json.dumps(dict(
        metrics={'bbox_mAP': 0.25}, split='val', images=12, checkpoint='epoch_000003', train_seconds=60.0)))
    (run / 'runs').mkdir()
    known = dict(
        time='2026-01-02T03:04:10+0000', command=['python', 'tools/train.py', 'own.py'], folder=str(ROOT), seed=0,
        world_size=2, iteration=0, versions=dict(torch='9.9'), git={}, machine=dict(host='here', gpus=['A', 'A']))
    (run / 'runs' / f'{STARTED}.json').write_text(json.dumps({**known, **record}))
    (run / STARTED / f'{STARTED}.log').write_text(
        '2026/01/02 03:04:11 - mmengine - INFO - preflight took 0.1 s, 0 warnings; `python tools/preflight.py own.py` '
        'shows all, and rehearses a step\n')
    return run
