"""Small runs that save by SafeCheckpointHook."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.training.safe_checkpoint import SafeCheckpointHook


class Points(Dataset):
    """Eight inputs (3,) with a target each."""

    metainfo: ClassVar = dict(classes=('cat', 'dog'), palette=[(1, 2, 3), (4, 5, 6)])

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(inputs=torch.full((3,), index / 8), data_samples=index)


class Line(BaseModel):
    """A linear model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fit = nn.Linear(3, 1)

    def forward(self, inputs: list[Tensor], data_samples: list[int], mode: str) -> Any:
        out = self.fit(torch.stack(inputs))[:, 0]
        return dict(loss=out.square().mean()) if mode == 'loss' else [dict(out=value) for value in out]


class Scores(BaseMetric):
    """Gives the next of a list of scores."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(mAP=self.scores.pop(0))


def build(folder: Path, iters: int = 8, scores: list[float] | None = None, hooks: list[Hook] | None = None,
          train_cfg: dict | None = None, **options: Any) -> Runner:
    """A run of `iters` iterations with a validation after every second one."""
    loader = dict(dataset=Points(), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    endless = dict(loader, sampler=dict(type='InfiniteSampler', shuffle=False))
    val = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=Evaluator([Scores(scores)])) if scores else {}
    hook = SafeCheckpointHook(**dict(dict(by_epoch=False, interval=2), **options))
    return Runner(
        Line(), str(folder),
        train_cfg=train_cfg or dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=2),
        train_dataloader=loader if 'by_epoch' in (train_cfg or {}) else endless,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)), default_hooks=dict(checkpoint=hook),
        custom_hooks=hooks, experiment_name=f'{folder.parent.name}_{folder.name}', log_level='WARNING', **val)


def train(folder: Path, *args: Any, **options: Any) -> Runner:
    """Build and train."""
    runner = build(folder, *args, **options)
    runner.train()
    return runner


def folders(path: Path) -> list[str]:
    """Names of the checkpoints in a folder."""
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name.startswith(('iter', 'epoch')))


def record_warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets what is logged as a warning, or worse, from now on."""
    found: list[str] = []
    real = logging.Logger.handle

    def handle(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            found.append(record.getMessage())
        real(self, record)

    monkeypatch.setattr(logging.Logger, 'handle', handle)
    return found
