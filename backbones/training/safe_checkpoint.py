"""A checkpoint hook that a kill, a full disk or a flipped bit cannot take the run from: docs/checkpoints.md."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from backbones.checkpoints.background import Writer
from backbones.checkpoints.files import said
from backbones.checkpoints.publisher import Done, Publisher
from backbones.checkpoints.store import NAME, check_space, prepare
from backbones.registry import HOOKS
from backbones.training.checkpoint_options import check_options, finite, infer_rules
from backbones.training.run_folder import checkpoint_folder, export_meta, open_folder

POLL = 10  # iterations between two questions of all ranks whether the background write went well


class SaveFailed(ValueError):
    """A checkpoint could not be saved, and `on_error` is 'stop'."""


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Save what a run needs to go on, so that one whole checkpoint is on the disk at every moment after the first.

    Replaces MMEngine's CheckpointHook by name; arguments that are not described here mean what they mean there. A
    checkpoint is a folder `iter_000120` or `epoch_000010`; `last` names the newest, `best.json` the best ones, which
    rotation leaves alone.

    Args:
        interval: 'validation' saves as often as the train loop validates (`val_interval`); a number as in MMEngine.
        by_epoch: count epochs or iterations; None, the default, counts as the train loop does.
        filename_tmpl: name of an exported `.pth`; default 'epoch_{}.pth' or 'iter_{}.pth'. The best ones are called
            `best_<metric>_<that>`.
        published_keys: after the run, give the exported files names with their sha256, as MMEngine does; of the keys
            'meta' and 'state_dict'.
        export: write weights as `.pth` of: 'best' (each time there is a new one), 'last' (when the run ends), 'all'
            (with each checkpoint); a name or a list.
        on_error: what follows when the disk is full, the file system read-only, ...: 'continue' logs a warning and
            the run goes on, 'stop' ends it on all ranks. Older checkpoints stay as they are either way.
        asynchronous: write behind the training, from a copy in memory; an error is reported some iterations later.
    """

    def __init__(
        self,
        interval: int | str = -1,
        by_epoch: bool | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | Path | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        file_client_args: None = None,
        filename_tmpl: str | None = None,
        backend_args: None = None,
        published_keys: str | Sequence[str] | None = None,
        save_begin: int = 0,
        *,
        export: str | Sequence[str] = ('best', 'last'),
        on_error: str = 'continue',
        asynchronous: bool = True,
    ) -> None:
        self.export = (export,) if isinstance(export, str) else tuple(export or ())
        published = [published_keys] if isinstance(published_keys, str) else list(published_keys or ())
        backend = file_client_args if backend_args is None else backend_args
        check_options(
            interval, self.export, on_error, published, filename_tmpl, backend, save_best, rule, max_keep_ckpts,
            out_dir, save_begin)
        self._follows_validation, self._counts_as_loop = interval == 'validation', by_epoch is None
        with infer_rules(save_best):
            super().__init__(
                -1 if self._follows_validation else interval, bool(by_epoch), save_optimizer, save_param_scheduler,
                out_dir, max_keep_ckpts, save_last, list(save_best) if isinstance(save_best, tuple) else save_best,
                rule, greater_keys, less_keys, save_begin=save_begin)
        self._publishes, self._template = bool(published), filename_tmpl
        self._asked_rules = list(getattr(self, 'rules', []))  # MMEngine forgets them when it cannot infer one
        self.on_error, self.asynchronous = on_error, asynchronous
        self._folder, self._given_out_dir = Path(), out_dir
        self._run: str | None = None  # what tells the files of this run, its parts before a resume included
        self._goes_on, self._came_from = False, None
        self._writer: Writer | None = None
        self._pending = False  # the same on all ranks
        self._saved_iteration = -1  # submitted; the same on all ranks
        self._scores: dict[str, float] = {}  # the best ones; the same on all ranks
        self._lost = False  # whether the newest save failed; the same on all ranks

    def folder_in(self, runner: Runner) -> Path:
        """Where the checkpoints of a run go."""
        return checkpoint_folder(runner.work_dir, self._given_out_dir)

    def goes_on(self, path: str | Path | None, tree: dict[str, Any]) -> None:
        """Learn that the run is not a new one; to be called before `before_train`.

        Args:
            path: the checkpoint that it goes on from, if it is one.
            tree: what it held.
        """
        meta = tree.get('meta')
        run = meta.get('run') if isinstance(meta, dict) else None
        self._goes_on, self._came_from = True, Path(path) if path else None
        self._run = run if isinstance(run, str) and run else self._run

    # --- when -----------------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        """Make the folder, clean up after dead runs, and find the best checkpoints so far.

        Raises:
            ValueError: on all ranks, if nothing can be written there, another run or hook saves there, or `save_best`
                asks for a validation that the run has not.
        """
        self._check(runner)
        if self._follows_validation:
            self.interval = runner.train_loop.val_interval
        if self._follows_validation or self._counts_as_loop:
            self.by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        self._unit = 'epoch' if self.by_epoch else 'iter'
        folder, self._run = self.folder_in(runner), self._run or uuid.uuid4().hex
        self._folder, self.out_dir = folder, str(folder)
        self._writer = Writer(self.asynchronous) if is_main_process() else None
        self._publisher = Publisher(
            folder, self.max_keep_ckpts, self.export, self._publishes,
            {self._unit: self._template} if self._template else {}, self._run)
        problem = self._open_folder(runner) if is_main_process() else None
        self._recall_checkpoint(runner)
        found = _from_rank_0((problem, self._publisher.scores(), self._saved_iteration))
        problem, self._scores, self._saved_iteration = found
        if problem:
            raise ValueError(problem)
        runner.logger.info(f'Checkpoints will be saved to {folder}.')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Report on the write behind, then save, if it is time to."""
        if self._pending and (get_world_size() == 1 or runner.iter % POLL == 0):
            self._settle(runner)
        if self.by_epoch:
            return
        if self.every_n_train_iters(runner, self.interval, self.save_begin) or (
            self.save_last and self.is_last_train_iter(runner)
        ):
            self._save(runner, _name('iter', runner.iter + 1), runner.iter + 1, runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save, if it is time to."""
        if self.by_epoch and (
            self.every_n_epochs(runner, self.interval, self.save_begin)
            or (self.save_last and self.is_last_train_epoch(runner))
        ):
            self._save(runner, _name('epoch', runner.epoch + 1), runner.iter, runner.epoch + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the checkpoint of this moment, if it is the best one by a metric."""
        if not self.save_best:
            return
        if not metrics:
            runner.logger.warning('the validation gave no metrics, so there is no best checkpoint to choose')
            return
        if self._pending:  # whether the best one so far is on the disk
            self._settle(runner, wait=True)
        better = self._improved(metrics, runner.logger)
        if not better:
            return
        if self._saved_iteration != runner.iter:
            count = runner.epoch if self.by_epoch else runner.iter
            self._save(runner, _name(self._unit, count), runner.iter, runner.epoch)
        for key, score in better.items():
            self._scores[key] = score
            several = len(self.key_indicators) > 1
            runner.message_hub.update_info(f'best_score_{key}' if several else 'best_score', score)
        if self._writer is not None:
            iteration = runner.iter
            self._writer.submit(lambda: self._publisher.mark_best(better, iteration))
        self._pending = True

    def after_train(self, runner: Runner) -> None:
        """Wait for the last write, and export.

        Raises:
            SaveFailed: on all ranks, if the state at the end could not be saved, a second time either.
        """
        self._settle(runner, wait=True)
        if self._lost:
            count = runner.epoch if self.by_epoch else runner.iter
            self._save(runner, _name(self._unit, count), runner.iter, runner.epoch)
            self._settle(runner, wait=True)
        if self._lost:
            raise SaveFailed(
                f'the run is done, but its last checkpoint could not be saved (see above); make room or correct '
                f'{self._folder}, then do the rest again from the newest older one by --resume'
            )
        if self._writer is not None and self._saved_iteration >= 0:
            wants_last = 'last' in self.export or self._publishes
            self._writer.submit(lambda: self._publisher.export_last(wants_last))
        self._settle(runner, wait=True)
        if self._writer is not None:
            self._writer.close()

    def finish(self, runner: Runner) -> None:
        """Wait until what was begun is on the disk, and log it; for a run that an error ends. No collectives."""
        if self._writer is None:
            return
        for result in self._writer.results(wait=True):
            if isinstance(result, Done):
                result.tell(runner.logger)
            else:
                runner.logger.error(f'a checkpoint was NOT saved: {said(result)}; older ones are as they were')
        self._writer.close()

    def save_now(self, runner: Runner, reason: str, iteration: int | None = None) -> Path | None:
        """Save at once and wait until it is on the disk; for hooks that end a run.

        To be called on all ranks, in `after_train_iter` and after this hook (priority below VERY_LOW).

        Args:
            runner: the run.
            reason: for the log, such as 'SIGTERM'.
            iteration: steps done; default: the step that just ended counts.

        Returns:
            The checkpoint, or None if it could not be written (logged; rank 0 only, other ranks get None).
        """
        done = runner.iter + 1 if iteration is None else iteration
        runner.logger.info(f'{reason}: saving a checkpoint at iteration {done}')
        if self._saved_iteration != done:
            self._save(runner, _name('iter', done), done, runner.epoch)
        self._settle(runner, wait=True)
        return self._publisher.written(done)

    # --- how ------------------------------------------------------------------------------------------------

    def _check(self, runner: Runner) -> None:
        """Refuse what only shows when the run is built."""
        if self.save_best and runner.val_loop is None:
            raise ValueError(
                f'save_best={self.save_best!r} needs a validation, and this run has none; leave it out, or set '
                'val_dataloader, val_cfg and val_evaluator')
        folder = self.folder_in(runner).resolve()
        hooks = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        if sum(hook.folder_in(runner).resolve() == folder for hook in hooks) > 1:
            raise ValueError(
                f'two SafeCheckpointHooks save to {folder}, and each would delete what the other wrote; leave out one, '
                'or give them different out_dir')

    def _recall_checkpoint(self, runner: Runner) -> None:
        """The state that the run goes on from need not be saved once more, if it lies in the folder itself."""
        path = self._came_from
        if path is None or path.is_symlink() or not NAME.fullmatch(path.name):
            return
        if path.absolute().parent.resolve() == self._folder.resolve():
            self._saved_iteration = runner.iter
            self._publisher.recall_written(path.name, runner.iter)

    def _open_folder(self, runner: Runner) -> str | None:
        """Prepare the folder; returns what is wrong with it."""
        begins = not (self._goes_on or runner.iter or runner.epoch)
        try:
            for line in open_folder(self._folder, begins):
                runner.logger.warning(line)
        except ValueError as error:
            return str(error)
        if not begins and self.save_best:
            for problem in self._publisher.recall_best():
                runner.logger.warning(problem)
        return None

    def _save(self, runner: Runner, name: str, iteration: int, epoch: int) -> None:
        """Hand the state of this moment to the writer; all ranks take the same way."""
        tree = capture(runner)
        left_out = {'optimizers': not self.save_optimizer, 'schedulers': not self.save_param_scheduler}
        tree = {key: value for key, value in tree.items() if not left_out.get(key)}
        tree['meta'] = {**export_meta(runner, epoch, iteration), 'run': self._run, **tree.get('meta', {})}
        if not hasattr(runner.train_loop, 'progress'):  # a loop that is not ours does not know what has just ended
            place = dict(epoch=epoch, legs=[])
            tree['progress'] = dict(epoch=epoch, iter=iteration, place=place, validation_due=False)
        self._saved_iteration, self._pending = iteration, True
        runner.message_hub.update_info('last_ckpt', str(self._folder / name))
        self._settle(runner, wait=True, then=lambda: self._submit(name, iteration, tree))
        runner.logger.info(f'Saving checkpoint {name}')

    def _submit(self, name: str, iteration: int, tree: dict[str, Any]) -> None:
        """Queue the writing. Rank 0 only."""
        prepared = prepare(tree)
        check_space(self._folder, prepared.size)
        self._writer.submit(lambda: self._publisher.publish(name, iteration, prepared))

    def _improved(self, metrics: dict[str, float], logger: logging.Logger) -> dict[str, float]:
        """The metrics by which this validation is the best so far, with their scores; warns of what tells nothing."""
        if 'auto' in self.key_indicators:
            first = next(iter(metrics))
            try:
                with infer_rules(f'auto, which is {first} here'):
                    self._init_rule(self._asked_rules, [first])
            except ValueError as error:
                logger.warning(f'{error}; until then there is no best checkpoint')
                return {}
        better = {}
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            score = finite(metrics.get(key))
            if key not in metrics:
                logger.warning(
                    f'save_best={key!r} is not measured, so no checkpoint is the best by it; choose among '
                    f'{", ".join(metrics)}')
            elif score is None:
                logger.warning(f'save_best={key!r}: {metrics[key]!r} is no finite number, so it is not the best')
            elif self.is_better_than[key](score, self._scores.get(key, self.init_value_map[rule])):
                better[key] = score
        return better

    def _settle(self, runner: Runner, wait: bool = False, then: Callable[[], None] | None = None) -> None:
        """Report what the writer did, do `then` on rank 0, and let all ranks take the same decision.

        Raises:
            SaveFailed: on all ranks, if `on_error` is 'stop' and something was not saved.
            ValueError: on all ranks, if the state holds what cannot be saved.
        """
        problems, fatal = [], None
        if self._writer is not None:
            for result in self._writer.results(wait):
                self._lost = self._lost and not result.saved if isinstance(result, Done) else True
                if isinstance(result, Done):
                    result.tell(runner.logger)
                elif isinstance(result, OSError | ValueError):
                    problems.append(said(result))
                else:
                    fatal = f'{type(result).__name__}: {result}'
            try:
                if then is not None and not (problems and self.on_error == 'stop'):
                    then()
            except OSError as error:
                self._lost = True
                problems.append(said(error))
            except Exception as error:  # the other ranks must not wait for this one
                fatal = f'{type(error).__name__}: {error}' if not isinstance(error, ValueError) else str(error)
        busy = self._writer is not None and self._writer.busy
        scores = None if busy else self._publisher.scores()  # what was to be the best one may not have been saved
        found = _from_rank_0((problems, fatal, busy, scores, self._lost))
        problems, fatal, self._pending, scores, self._lost = found
        self._scores = self._scores if scores is None else scores
        if problems:
            self._saved_iteration = -1  # whoever asks for a checkpoint of this moment tries again
        if fatal:
            raise ValueError(f'the state of the run cannot be saved: {fatal}')
        for problem in problems:
            text = f'a checkpoint was NOT saved: {problem}; older ones in {self._folder} are as they were'
            if self.on_error == 'stop':
                raise SaveFailed(f"{text}; make room or correct the folder, then resume (on_error='stop')")
            # MMEngine logs a warning of the same words once: a disk that stays full must be heard of each time
            runner.logger.log(logging.WARNING, f'{text}; the run goes on (iteration {runner.iter})')


@contextlib.contextmanager
def saving_to_the_end(runner: Runner) -> Iterator[None]:
    """Around `runner.train()`: a checkpoint that is being written when an error ends the run is written to its end."""
    try:
        yield
    finally:
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                hook.finish(runner)


def capture(runner: Runner) -> dict[str, Any]:
    """Everything that a run needs to go on, on all ranks; nothing in it shares memory with the run."""
    from backbones.training import run_state

    return run_state.capture(runner)


def _name(unit: str, count: int) -> str:
    return f'{unit}_{count:06d}'


def _from_rank_0(value: Any) -> Any:
    """Give what rank 0 gave."""
    held = [value]
    broadcast_object_list(held)
    return held[0]
