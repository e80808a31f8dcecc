"""Built runs of the small configs on a few generated pictures, for the checks that run something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import ROOT
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from backbones.data.demo import generate_demo
from backbones.data.randomness import generator_states
from backbones.findings import Outcome
from backbones.runner import build_runner
from backbones.training.compose import compose_training

DETECTOR = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
SEGMENTER = ROOT / 'configs/small/upernet_vit_demo.py'


def make_data(folder: Path) -> Path:
    """Six training and four validation pictures of 64 x 96 pixels."""
    return generate_demo(folder / 'demo', num_train=6, num_val=4, size=(64, 96), progress=False)


def built(config: Path, data: Path, folder: Path, changes: dict[str, Any] | None = None) -> Runner:
    """The Runner of a config on `data`, composed as for training; `changes` are dotted keys, last of all."""
    cfg = compose_training(config, str(folder / 'work'), {'data_root': f'{data}/'}).cfg
    cfg.merge_from_dict(changes or {})
    return build_runner(cfg)


def kinds(outcome: Outcome) -> list[tuple[str, str]]:
    """Severity and kind of each finding."""
    return [(finding.severity, finding.kind) for finding in outcome.findings]


def state(runner: Runner) -> dict[str, Any]:
    """What a check must leave as it is."""
    hub = MessageHub.get_current_instance()
    return dict(
        weights={name: value.clone() for name, value in runner.model.state_dict().items()},
        gradients=[name for name, parameter in runner.model.named_parameters() if parameter.grad is not None],
        optimiser=runner.optim_wrapper.state_dict(), modes=[module.training for module in runner.model.modules()],
        random=generator_states(), hub=(dict(hub.log_scalars), dict(hub.runtime_info)),
        place=runner.train_loop.feed.place(), iterator=getattr(runner.train_loop.dataloader, '_iterator', None),
        metrics=[len(metric.results) for metric in runner.val_loop.evaluator.metrics],
        files=sorted((path, path.stat().st_size) for path in Path(runner.work_dir).rglob('*') if path.is_file()))


def differences(before: Any, after: Any, place: str = '') -> list[str]:
    """Where two states differ."""
    if isinstance(before, torch.Tensor):
        return [] if torch.equal(before, after) else [place]
    if isinstance(before, dict):
        keys = [place] if before.keys() != after.keys() else []
        return keys + [one for key in before.keys() & after.keys()
                       for one in differences(before[key], after[key], f'{place}.{key}')]
    if isinstance(before, list | tuple) and len(before) == len(after):
        return [one for n, pair in enumerate(zip(before, after, strict=True))
                for one in differences(*pair, f'{place}[{n}]')]
    return [] if before == after else [place]
