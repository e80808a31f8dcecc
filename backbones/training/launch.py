"""Start a training run: compose, check, build, train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from backbones.data.classes import check_same_classes
from backbones.preflight.model import check_classes, check_evaluator, check_model
from backbones.preflight.quick import check_before_training
from backbones.recipes.schedule import warmup_note
from backbones.runner import build_runner
from backbones.training.batch import BatchPlan, check_built
from backbones.training.compose import compose_training
from backbones.training.exits import EXIT_FILE, launched_rank, note_exit
from backbones.training.hooks import FineTuneHook, PretrainedWeightsHook
from backbones.training.inject_run import InjectHook, set_faults
from backbones.training.lock import WorkFolderLock
from backbones.training.resuming import go_on_from, resume_place
from backbones.training.run_logging import logged
from backbones.training.safe_checkpoint import checkpoint_folder, saving_to_the_end
from backbones.training.watchdog import watched
from backbones.weights.load import local_file
from backbones.weights.sources import is_url


def run_training(
    config: str | Path,
    work_dir: str | None = None,
    resume: str | None = None,
    options: dict[str, Any] | None = None,
    launcher: str = 'none',
    total_batch: int | None = None,
    faults: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    preflight: bool = False,
    log: Sequence[str] | None = None,
    plain: bool = False,
) -> Path:
    """Train `config` and return its work folder.

    Args:
        config: path of the config.
        work_dir: default `work_dirs/<config name>`.
        resume: None starts anew; 'latest' goes on from the newest checkpoint of the work folder and needs one; 'auto'
            does so if there is one and starts anew otherwise; anything else is the path of a checkpoint.
        options: dotted config keys to override.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        total_batch: images per optimiser step where they shall be others than the config's `total_batch`, which is
            otherwise kept on any number of processes.
        faults: what shall go wrong on purpose, such as 'kill@save:0.37,nan@120': docs/survival.md.
        precision: 'fp32', 'bf16' or 'fp16' in place of the config's: docs/precision.md.
        compile: whether torch.compile makes the dense parts of the model: docs/performance.md.
        preflight: whether the quick part of the preflight comes before the first step, as tools/train.py does it:
            docs/preflight.md. What would make a training wrong is refused without it, too.
        log: 'tensorboard', 'wandb', 'mlflow', or 'none' alone, in place of the config's trackers: docs/logging.md.
        plain: no bar in a terminal.

    Raises:
        ValueError: anything that can be known wrong before the first step.
        RunEnded: the run ended early in an orderly way; the exception is a SystemExit with the code of docs/guards.md.
    """
    in_steps = set_faults(faults or '')
    composed = compose_training(config, work_dir, options, launcher, total_batch, precision, compile, log)
    cfg, plan, notes = composed.cfg, composed.plan, composed.notes
    if cfg.get('load_from') and not is_url(cfg.load_from):  # a download comes after everything that is free to check
        local_file(cfg.load_from)
    resume_place(cfg, resume)  # before a folder is made
    with _locked(cfg, launched_rank(launcher)):
        place = resume_place(cfg, resume)
        if resume == 'auto' and place is None:
            notes.append(f'{cfg.work_dir} holds no checkpoint to go on from: the run starts anew')
        runner = build_runner(cfg)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for note in notes + check_built(plan, model, runner.train_loop.dataloader, composed.keeps_total):
            runner.logger.info(note)
        if preflight:
            check_before_training(runner, resumes=place is not None)
        else:
            for note in warmup_note(cfg, runner.max_iters):
                runner.logger.warning(note)
            _check_runner(runner, model)  # which the preflight does, too
        _choose_weights(runner, place, plan, stated=total_batch is not None)
        if faults:
            runner.register_hook(InjectHook(in_steps))
        named = resume not in (None, 'auto', 'latest')
        with (_noting_the_end(cfg.work_dir, runner.rank), saving_to_the_end(runner), watched(runner),
              logged(runner, plain, named)):
            runner.train()
    return Path(cfg.work_dir)


@contextlib.contextmanager
def _locked(cfg: Config, rank: int) -> Iterator[None]:
    """Hold the work folder, and that of the checkpoints where it is another one."""
    work = Path(cfg.work_dir)
    saved = checkpoint_folder(work, (cfg.default_hooks.get('checkpoint') or {}).get('out_dir'))
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys((work, saved)):
            stack.enter_context(WorkFolderLock(folder, rank))
        yield


@contextlib.contextmanager
def _noting_the_end(work_dir: str, rank: int) -> Iterator[None]:
    """Leave `last_exit.json` for an error, too: launchers hide the exit codes of their processes."""
    try:
        yield
    except Exception as error:
        said = isinstance(error, ValueError | OSError | ImportError)  # those that backbones.cli ends with code 2
        # The other ranks then lose their connections to this one, which is no cause.
        if said or (rank == 0 and not (Path(work_dir) / EXIT_FILE).exists()):
            note_exit(work_dir, 2 if said else 1, str(error) or type(error).__name__)
        raise


def _choose_weights(runner: Runner, place: Path | None, plan: BatchPlan, stated: bool) -> None:
    """Let the run start from a checkpoint of itself, of a whole model, or of the backbone."""
    fine_tunes = place is None and runner._load_from is not None
    if place is not None:
        go_on_from(runner, place, plan, stated)
    elif fine_tunes:  # our own reader, after the weights are initialised
        runner.register_hook(FineTuneHook(str(local_file(runner._load_from))), priority='VERY_HIGH')
    runner._load_from = None
    runner.register_hook(PretrainedWeightsHook(against_file=place is None and not fine_tunes))


def _check_runner(runner: Runner, model: BaseModel) -> None:
    """Hold model, data sets and evaluator of a built run against each other."""
    loops = {split: getattr(runner, f'{split}_loop') for split in ('train', 'val')}
    classes = {
        f'the {split} data set': loop.dataloader.dataset.metainfo['classes'] for split, loop in loops.items() if loop
    }
    for where, names in classes.items():
        check_classes(model, tuple(names), where)
    check_same_classes(**classes)
    if loops['val']:
        check_evaluator(loops['val'])
    check_model(model)
