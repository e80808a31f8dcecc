"""Runs for the tests of preflight: a real one on a few demo pictures, and what a check needs of one, without data."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from recipe_configs import changed

from backbones.data.demo import generate_demo
from backbones.findings import Outcome
from backbones.runner import build_runner
from backbones.training.compose import compose_training


class Loader:
    """A data loader of so many images."""

    def __init__(self, images: int, batch_size: int) -> None:
        self.dataset, self.batch_size, self.batch_sampler = range(images), batch_size, None

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)


def loop_of(cfg: Config, loader: Loader) -> EpochBasedTrainLoop | IterBasedTrainLoop:
    """A training loop that knows its length and nothing else."""
    epochs = cfg.train_cfg.get('max_epochs')
    loop = (EpochBasedTrainLoop if epochs else IterBasedTrainLoop).__new__(
        EpochBasedTrainLoop if epochs else IterBasedTrainLoop)
    loop.__dict__.update(
        dataloader=loader, val_interval=cfg.train_cfg.get('val_interval', 1),
        val_begin=cfg.train_cfg.get('val_begin', 1), _max_epochs=epochs,
        _max_iters=epochs * len(loader) if epochs else cfg.train_cfg.max_iters)
    return loop


def fake_run(path: Path, changes: dict[str, Any] | None = None, images: int = 320, val_images: int = 80) -> Any:
    """What the checks of model and schedule need of a Runner: config, model, optimiser, loops."""
    cfg = changed(path, changes or {})
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    loader = Loader(images, cfg.train_dataloader.batch_size)
    loop = loop_of(cfg, loader)
    hook = cfg.default_hooks.get('checkpoint')
    return SimpleNamespace(
        cfg=cfg, model=model, optim_wrapper=build_optim_wrapper(model, cfg.optim_wrapper), train_loop=loop,
        val_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=range(val_images))) if val_images else None,
        max_iters=loop.max_iters, max_epochs=loop.max_epochs, hooks=[HOOKS.build(hook)] if hook else [])


@functools.cache
def demo_data() -> str:
    """A demo data set of eight and four pictures, made once."""
    return str(generate_demo(Path(tempfile.mkdtemp()) / 'demo', num_train=8, num_val=4, progress=False))


def real_run(path: Path, options: dict[str, Any] | None = None) -> Runner:
    """The Runner of a small config on that data set, composed as training does."""
    composed = compose_training(path, tempfile.mkdtemp(), {'data_root': demo_data(), **(options or {})})
    composed.cfg.log_level = 'ERROR'
    return build_runner(composed.cfg)


def kinds(outcome: Outcome) -> list[tuple[str, str]]:
    """Severity and kind of every finding, each once."""
    return list(dict.fromkeys((finding.severity, finding.kind) for finding in outcome.findings))


def only(outcome: Outcome, severity: str, kind: str) -> str:
    """The text of the one finding, which is of this kind."""
    assert kinds(outcome) == [(severity, kind)], outcome.findings
    return f'{outcome.findings[0].message}; {outcome.findings[0].remedy}'
