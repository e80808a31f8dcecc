"""Where a run that saves by `SafeCheckpointHook` goes on from."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner

from backbones.checkpoints import is_checkpoint, list_checkpoints, newest_valid, read_checkpoint
from backbones.training.batch import BatchPlan
from backbones.training.run_state import ResumeHook


def saves_safely(cfg: Config) -> bool:
    """Whether the checkpoints of a config are ours: whole or not there, with all that an exact resume needs."""
    kind = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('type')
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2] == 'SafeCheckpointHook'


def resume_place(cfg: Config, resume: str | None) -> Path | None:
    """The checkpoint, or the folder of checkpoints, to go on from; None starts anew.

    Args:
        cfg: a config with its `work_dir`.
        resume: as `run_training` takes it.

    Raises:
        ValueError: there is nothing to go on from, or a new run would write into the folder of an old one.
    """
    folder = Path(cfg.work_dir)
    saved = list_checkpoints(folder) if folder.is_dir() else []
    if resume is None:
        if saved:
            raise ValueError(
                f'{folder} already holds a run ({saved[-1].name}); go on with it by --resume, or choose another '
                '--work-dir'
            )
        return None
    if resume in ('auto', 'latest'):
        if not saved and resume == 'latest':
            raise ValueError(
                f'--resume: {folder} holds no checkpoint to go on from; use --resume auto to start anew in that case, '
                'or --resume PATH'
            )
        return folder if saved else None
    place = Path(resume)
    if place.is_file():
        raise ValueError(
            f'--resume {resume}: a file of weights holds no optimiser and no place in the data; give the folder of a '
            'checkpoint, such as epoch_000012, or fine-tune from it by --cfg-options load_from=...'
        )
    if not is_checkpoint(place) and not (place.is_dir() and list_checkpoints(place)):
        raise ValueError(f'--resume {resume}: there is no checkpoint; give the folder of one, or a work folder')
    home = place.parent if is_checkpoint(place) else place
    if saved and home.resolve() != folder.resolve():
        raise ValueError(
            f'--resume {resume}: {folder} already holds another run ({saved[-1].name}); choose a new --work-dir'
        )
    return place


def go_on_from(runner: Runner, place: Path, plan: BatchPlan, stated: bool) -> None:
    """Let a built run go on from `place`; of a folder, from its newest checkpoint that is whole.

    Args:
        runner: built, not trained.
        place: what `resume_place` gave.
        plan: the batch of this run.
        stated: whether `--total-batch` said so.

    Raises:
        ValueError: no checkpoint there is whole, or the total batch is another one and nobody said so.
    """
    found: list = [None, []]
    if is_main_process():
        if is_checkpoint(place):
            found = [str(place), []]
        else:
            newest = newest_valid(place)
            found = [None if newest.path is None else str(newest.path), list(newest.problems)]
    broadcast_object_list(found)
    path, problems = found
    for problem in problems:
        runner.logger.warning(problem)
    if path is None:
        raise ValueError(f'--resume: no checkpoint in {place} is whole: {"; ".join(problems)}')
    tree = read_checkpoint(path)
    before = (tree.get('batch') or {}).get('total')
    if before is not None and before != plan.total and not stated:
        raise ValueError(
            f'{path} comes from a run with a total batch of {before}, and this one has {plan.total}; go on with '
            f'--total-batch {before}, or say --total-batch {plan.total} if it shall change from here on'
        )
    runner.logger.info(f'going on from {path}')
    runner.register_hook(ResumeHook(tree), priority='HIGHEST')
