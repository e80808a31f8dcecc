"""What a training by our tools logs besides its log file: docs/logging.md."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from backbones.registry import HOOKS
from backbones.training.log_files import spare_the_run
from backbones.training.progress import progress_shown
from backbones.training.resuming import ResumeHook
from backbones.training.run_folder import held_checkpoints
from backbones.training.sample_predictions import SamplePredictionsHook
from backbones.training.trackers import Place, Tracker


@HOOKS.register_module()
class TrackersHook(Hook):
    """Open the trackers before the first step, where the run goes on from."""

    priority = 'VERY_HIGH'  # after ResumeHook

    def __init__(self) -> None:
        self.newest: Path | None = None  # checkpoint of the work folder, before this start writes its own

    def before_train(self, runner: Runner) -> None:
        """Weights and counters are loaded.

        Raises:
            ValueError: a tracker that was asked for cannot be used.
        """
        if runner.rank != 0:
            return
        source = next((Path(hook.path) for hook in runner.hooks if isinstance(hook, ResumeHook) and hook.path), None)
        branch = source is not None and self.newest is not None and source.resolve() != self.newest.resolve()
        place = Place(
            Path(runner.work_dir), runner.iter, bool(getattr(runner.train_loop, '_validation_due', False)), branch,
            lambda: runner.iter)
        for tracker in trackers_of(runner):
            tracker.begin(place)


def trackers_of(runner: Runner) -> list[Tracker]:
    """The trackers of a run."""
    backends = getattr(runner.visualizer, '_vis_backends', {}).values()
    return [backend for backend in backends if isinstance(backend, Tracker)]


@contextlib.contextmanager
def logged(runner: Runner, plain: bool, named: bool) -> Iterator[None]:
    """Let a built run log to its trackers, draw samples and show how far it is; around the training.

    Args:
        runner: built, not trained.
        plain: no bar.
        named: the run goes on from a checkpoint that the user named, maybe not the newest.
    """
    trackers = TrackersHook()
    spare_the_run(runner.logger)
    if named:
        with contextlib.suppress(ValueError):
            trackers.newest = next(iter(held_checkpoints(Path(runner.work_dir))), None)
    present = {type(hook) for hook in runner.hooks}
    for hook in (trackers, SamplePredictionsHook()):
        if type(hook) not in present:
            runner.register_hook(hook)
    try:
        with progress_shown(runner, plain):
            yield
    finally:
        error = sys.exc_info()[1]
        code = 0 if error is None else getattr(error, 'code', 1)
        for tracker in trackers_of(runner) if runner.rank == 0 else ():
            tracker.end(code if isinstance(code, int) else 1)
