"""Start a training run: compose, check, build, train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, find_latest_checkpoint

from backbones.config import fit_to_machine, load_config
from backbones.preflight import check_classes, check_model
from backbones.weights.load import check_model_checkpoint
from backbones.weights.read import read_state


def run_training(
    config: str | Path,
    work_dir: str | None = None,
    resume: str | None = None,
    options: dict[str, Any] | None = None,
    launcher: str = 'none',
) -> Path:
    """Train `config` and return its work folder.

    Args:
        config: path of the config.
        work_dir: default `work_dirs/<config name>`.
        resume: None starts anew; 'latest' goes on from the newest checkpoint of the work folder and needs one; 'auto'
            does so if there is one and starts anew otherwise; anything else is the path of a checkpoint.
        options: dotted config keys to override.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        ValueError: anything that can be known wrong before the first step.
    """
    cfg = load_config(config, options, work_dir)
    cfg.launcher = launcher
    fit_to_machine(cfg)
    _set_resume(cfg, resume)
    runner = build_runner(cfg)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    for split, loop in (('train', runner.train_loop), ('val', runner.val_loop)):
        if loop is not None:
            check_classes(model, tuple(loop.dataloader.dataset.metainfo['classes']), f'the {split} data set')
    check_model(model)
    if runner._load_from is not None:
        check_model_checkpoint(model, read_state(runner._load_from), runner._load_from)
    runner.train()
    return Path(cfg.work_dir)


def build_runner(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> Runner:
    """Build the Runner, the model and the data sets of `splits`; a mistake in the config becomes one ValueError."""
    try:
        runner = Runner.from_cfg(cfg)
        for split in splits:
            getattr(runner, f'{split}_loop')  # a property that builds the loop with its data set
    except (KeyError, TypeError, AssertionError, FileNotFoundError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error) or f'an assertion failed ({_place(error)})'
        raise ValueError(f'config {cfg.filename} cannot be built: {text}') from error
    return runner


def _place(error: BaseException) -> str:
    """File and line where `error` was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f'{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}' if trace else 'unknown place'


def _set_resume(cfg: Config, resume: str | None) -> None:
    """Fill in `cfg.resume` and `cfg.load_from`; never let a new run overwrite an old one."""
    folder = Path(cfg.work_dir)
    latest = find_latest_checkpoint(str(folder)) if folder.is_dir() else None
    found = sorted([*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')])
    if resume in (None, 'auto'):
        if resume == 'auto' and latest:
            cfg.resume, cfg.load_from = True, latest
        elif found:
            raise ValueError(
                f'{folder} already holds a run ({found[-1].name}); go on with it by --resume, or choose another '
                '--work-dir'
            )
    elif resume == 'latest':
        if not latest:
            raise ValueError(
                f'--resume: {folder} holds no checkpoint to go on from; use --resume auto to start anew in that case, '
                'or --resume PATH'
            )
        cfg.resume, cfg.load_from = True, latest
    else:
        if not Path(resume).is_file():
            raise ValueError(f'--resume {resume}: no such file')
        cfg.resume, cfg.load_from = True, resume
