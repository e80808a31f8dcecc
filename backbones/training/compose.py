"""The config of a training as it will run: options, machine, precision, batch and surviving parts put into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbones.classes_setting import apply_classes
from backbones.compiling.switch import compile_training
from backbones.config import fit_to_machine, load_config
from backbones.recipes.keys import check_config
from backbones.training.batch import BatchPlan, apply_batch_plan, batch_notes, count_processes, plan_batch
from backbones.training.hardening import harden_run, name_parts
from backbones.training.precision import apply_precision
from backbones.training.trackers import choose_trackers
from backbones.weights.load import is_pretrained


@dataclass(frozen=True)
class Composed:
    """A config that a Runner can be built from.

    Attributes:
        cfg: the config.
        plan: how the images of one optimiser step are spread.
        keeps_total: whether a total batch was asked for, by the config or by the caller.
        notes: lines for the log: what was changed.
    """

    cfg: Config
    plan: BatchPlan
    keeps_total: bool
    notes: list[str]


def compose_training(
    config: str | Path,
    work_dir: str | None = None,
    options: dict[str, Any] | None = None,
    launcher: str = 'none',
    total_batch: int | None = None,
    precision: str | None = None,
    compile: bool = False,
    log: Sequence[str] | None = None,
) -> Composed:
    """Compose `config` for training; the arguments are those of `backbones.training.launch.run_training`.

    Raises:
        ValueError: anything that the config alone shows to be wrong.
    """
    cfg = load_config(config, _without_total_batch(options), work_dir)
    cfg.launcher = launcher
    name_parts(cfg)
    check_config(cfg)
    notes = choose_trackers(cfg, log) + apply_classes(cfg) + apply_precision(cfg, precision)
    processes = count_processes(launcher)
    fit_to_machine(cfg)
    plan, keeps_total = plan_batch(cfg, processes, total_batch), total_batch is not None or 'total_batch' in cfg
    notes += batch_notes(cfg, plan)
    apply_batch_plan(cfg, plan)
    notes += harden_run(cfg)
    if compile:
        notes += compile_training(cfg)
    _take_model_init(cfg)
    return Composed(cfg, plan, keeps_total, notes)


def _without_total_batch(options: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refuse `--cfg-options total_batch=...`: it would pass for the recipe's own total in everything the run writes."""
    if 'total_batch' in (options or {}):
        raise ValueError(
            f"--cfg-options total_batch={options['total_batch']}: another total batch than the recipe's must be said "
            f"explicitly; use --total-batch {options['total_batch']}"
        )
    return options


def _take_model_init(cfg: Config) -> None:
    """Make `model.init_cfg=dict(type='Pretrained', ...)` of a whole model a `load_from`.

    MMEngine would load it with what fits and go on with a warning; our loader counts, converts and refuses.
    """
    entries = cfg.model.get('init_cfg') or []
    entries = entries if isinstance(entries, list | tuple) else [entries]
    pretrained = [entry for entry in entries if is_pretrained(entry)]
    if not pretrained:
        return
    if len(entries) > 1:
        raise ValueError(f'model.init_cfg has {len(entries)} entries; give the Pretrained one alone, or set load_from')
    given = pretrained[0]
    wrong = sorted(set(given) - {'type', 'checkpoint'})
    if wrong or not given.get('checkpoint'):
        raise ValueError(
            f'model.init_cfg={dict(given)!r}: a whole model takes the keys type and checkpoint only'
            f'{f", not {wrong[0]}" if wrong else ""}; give them, or set load_from'
        )
    if cfg.get('load_from'):
        raise ValueError(
            f'model.init_cfg names {given["checkpoint"]} and load_from names {cfg.load_from}; leave one of them out'
        )
    cfg.load_from = given['checkpoint']
    del cfg.model['init_cfg']
