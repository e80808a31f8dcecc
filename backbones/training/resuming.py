"""Where a run goes on from: the newest whole checkpoint of its work folder, or the one that was named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from backbones.checkpoints import is_checkpoint, newest_valid, read_checkpoint, read_manifest
from backbones.registry import HOOKS
from backbones.training.batch import BatchPlan
from backbones.training.run_folder import checkpoint_folder, held_checkpoints, refuse_second_run, weight_files
from backbones.training.run_state import restore
from backbones.training.safe_checkpoint import SafeCheckpointHook


def resume_place(cfg: Config, resume: str | None) -> Path | None:
    """The checkpoint, or the folder of checkpoints, to go on from; None starts anew.

    Args:
        cfg: a config with its `work_dir`.
        resume: as `run_training` takes it.

    Raises:
        ValueError: there is nothing to go on from, or a new run would write into the folder of an old one.
    """
    options = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder = checkpoint_folder(cfg.work_dir, options.get('out_dir'))
    files = weight_files(folder, options.get('filename_tmpl'))
    if resume is None:
        refuse_second_run(folder, '--resume')
        _refuse_weights(folder, files)
        return None
    if resume in ('auto', 'latest'):
        if held_checkpoints(folder):
            return folder
        if resume == 'auto':
            _refuse_weights(folder, files)
            return None
        only = f', only files of weights ({files[-1].name})' if files else ''
        advice = 'give --resume PATH' if files else 'use --resume auto to start anew in that case, or --resume PATH'
        raise ValueError(f'--resume: {folder} holds no checkpoint to go on from{only}; {advice}')
    return _named_place(folder, files, resume)


def _named_place(folder: Path, files: list[Path], resume: str) -> Path:
    place = Path(resume)
    if place.is_file():
        raise ValueError(
            f'--resume {resume}: a file of weights holds no place in the data and no random state; give the folder of '
            'a checkpoint, such as epoch_000012, or fine-tune from it by --cfg-options load_from=...'
        )
    if not is_checkpoint(place) and not held_checkpoints(place):
        raise ValueError(f'--resume {resume}: there is no checkpoint; give the folder of one, or a work folder')
    home = place.absolute().parent if is_checkpoint(place) else place
    if home.resolve() != folder.resolve() and (held := [*held_checkpoints(folder), *reversed(files)]):
        raise ValueError(
            f'--resume {resume}: {folder} already holds another run ({held[0].name}); choose a new --work-dir')
    return place


def _refuse_weights(folder: Path, files: list[Path]) -> None:
    if files:
        raise ValueError(
            f'{folder} already holds weights of another run ({files[-1].name}), which would be overwritten; choose '
            f'another --work-dir, and start from these by --cfg-options load_from={files[-1]} if you like'
        )


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
    path, tree = read_newest(runner, place)
    batch = tree.get('batch')
    before = batch.get('total') if isinstance(batch, dict) else None
    if before is not None and before != plan.total and not stated:
        raise ValueError(
            f'{path} comes from a run with a total batch of {before}, and this one has {plan.total}; go on with '
            f'--total-batch {before}, or say --total-batch {plan.total} if it shall change from here on'
        )
    hook = next((hook for hook in runner.hooks if isinstance(hook, ResumeHook)), None)
    if hook is None:
        hook = ResumeHook()
        runner.register_hook(hook)
    hook.tree, hook.path = tree, path


def read_newest(runner: Runner, place: Path) -> tuple[str, dict[str, Any]]:
    """Path and state of a checkpoint, or of the newest whole one of a folder; what is wrong with newer ones is logged.

    Raises:
        ValueError: on all ranks, if none is whole.
    """
    found: list = [None, []]
    if is_main_process():
        if is_checkpoint(place):
            found = [str(place), []]
        else:
            newest = newest_valid(place, check=read_state)
            found = [None if newest.path is None else str(newest.path), list(newest.problems)]
    broadcast_object_list(found)
    path, problems = found
    for problem in problems:
        runner.logger.warning(problem)
    if path is None:
        raise ValueError(f'--resume: no checkpoint in {place} is whole: {"; ".join(problems)}')
    tree = read_state(path)
    runner.logger.info(f'going on from {path}')
    return path, tree


def read_state(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint of a run.

    Raises:
        ValueError: a file is not what the manifest says, cannot be read, or says another iteration than the manifest.
    """
    tree, stated = read_checkpoint(path), read_manifest(path).iteration
    progress = tree.get('progress')
    found = progress.get('iter') if isinstance(progress, dict) else None
    if type(found) is not int or found != stated:
        raise ValueError(
            f'checkpoint {path} cannot be used: its state says iteration {str(found)[:40]!r}, its manifest {stated}; '
            'take another checkpoint of the run'
        )
    return tree


@HOOKS.register_module()
class ResumeHook(Hook):
    """Go on exactly where a run that saved by `SafeCheckpointHook` ended: docs/resume.md.

    In any project's config, `resume=True` then goes on from the newest whole checkpoint of the work folder.

    Args:
        tree: a state to go on from, as `run_state.capture` gives it.
    """

    priority = 'HIGHEST'

    def __init__(self, tree: dict[str, Any] | None = None) -> None:
        self.tree = tree
        self.path: str | None = None  # where it came from

    def before_train(self, runner: Runner) -> None:
        """All is built, and no hook has looked at the counters yet.

        Raises:
            ValueError: `resume=True`, and there is nothing whole to go on from; or it does not fit the config.
        """
        if self.tree is None and runner._resume and not runner._has_loaded:
            folders = [hook.folder_in(runner) for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
            folder = next(iter(folders), Path(runner.work_dir))
            if not held_checkpoints(folder):
                raise ValueError(f'resume=True: {folder} holds no checkpoint to go on from; start anew without it')
            runner.logger.info(
                f"resume=True: ResumeHook goes on from a checkpoint of {folder}; MMEngine's own line about the latest "
                'checkpoint is about its .pth files'
            )
            self.path, self.tree = read_newest(runner, folder)
        if self.tree is not None:
            restore(runner, self.tree)
            for hook in runner.hooks:
                if isinstance(hook, SafeCheckpointHook):
                    hook.goes_on(self.path, self.tree)
            self.tree = None  # memory
