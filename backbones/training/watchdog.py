"""A thread that ends a run which stands still, and says where; and one sentence for a data-loader worker that died."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from backbones.registry import HOOKS
from backbones.training.agreement import world_size
from backbones.training.exits import HUNG, WORKER_DIED, RunEnded, note_exit
from backbones.training.signals import in_a_run
from backbones.training.worker_notes import WorkerNotes, explain_worker_death

LEFT_SECONDS = 30  # a rank that failed but does not end keeps the others waiting
COLLECTIVE = ('distributed_c10d', 'torch/nn/parallel/distributed', '_engine_run_backward', 'mmengine/dist/')


class WorkerDiedError(RunEnded):
    """A data-loader worker was killed; the exit code is 88."""


@HOOKS.register_module()
class WatchdogHook(Hook):
    """End a run in which no iteration finished for `timeout_s`, with exit code 86 and the reason on the screen.

    Told are the rank, whether it waits for data (with each worker's process, state and sample), for other ranks, or for
    something else, and the Python stacks of all threads, which also go to `hang_rank<r>.txt` in the work folder. The
    launcher then ends the other ranks. A worker that was killed by a signal ends the run at once, with exit code 88 and
    one sentence that names the signal and the sample.

    Args:
        timeout_s: longer than the longest iteration, start of workers, evaluation and checkpoint of the run.
        end: what ends the process; a parameter for tests.
    """

    priority = 'VERY_HIGH'  # an iteration that hangs in another hook has begun

    def __init__(self, timeout_s: float = 1800, end: Callable[[int], Any] = os._exit) -> None:
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s <= 0:
            raise ValueError(f'WatchdogHook: timeout_s={timeout_s!r}; give seconds, more than 0')
        self.timeout_s, self._exit = timeout_s, end
        self.notes: list[WorkerNotes] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._beat, self._where = time.monotonic(), 'before the first iteration'
        self._file: Any = None
        self._old_hook: Callable | None = None

    # --- signs of life --------------------------------------------------------------------------------------

    def before_train(self, runner: Runner) -> None:
        """Start to watch."""
        self._attach(runner.train_loop.dataloader)
        self._seen('before the first iteration')
        self._stop.clear()
        self._folder, self._rank, self._trainer = Path(runner.work_dir), runner.rank, threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)
        self._thread.start()
        self._old_hook, sys.excepthook = sys.excepthook, self._uncaught

    def before_val(self, runner: Runner) -> None:
        """Watch the workers of the validation, too."""
        self._attach(runner.val_loop.dataloader)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The data are there."""
        self._seen(f'in iteration {runner.iter + 1}')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """An iteration is done."""
        self._seen(f'after iteration {runner.iter + 1}')

    def before_val_epoch(self, runner: Runner) -> None:
        """A validation begins."""
        self._seen('at the start of the validation')

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The data are there."""
        self._seen(f'in batch {batch_idx + 1} of the validation')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """A batch is done."""
        self._seen(f'after batch {batch_idx + 1} of the validation')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """A validation is done."""
        self._seen('after the validation')

    def after_run(self, runner: Runner) -> None:
        """Stop watching."""
        self.release()

    def release(self) -> None:
        """Stop watching; also called when an error leaves the run."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self._thread = None
        if sys.excepthook == self._uncaught:
            sys.excepthook = self._old_hook
        for notes in self.notes:
            notes.close()

    def _attach(self, loader: DataLoader) -> None:
        if not any(notes.loader is loader for notes in self.notes):
            self.notes.append(WorkerNotes(loader))

    def _seen(self, where: str) -> None:
        self._beat, self._where = time.monotonic(), where

    # --- the thread -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look from time to time; a second alarm in C ends a process whose interpreter is held, exit code 1."""
        left, step = None, min(self.timeout_s / 10, 5.0)
        deadline = self.timeout_s + 30
        while not self._stop.wait(step):
            faulthandler.dump_traceback_later(deadline, exit=True, file=sys.__stderr__)
            if time.monotonic() - self._beat > self.timeout_s:
                self._end_hang()
                break
            inside = in_a_run(sys._current_frames().get(self._trainer))
            left = None if inside else left or time.monotonic()
            if left and world_size() == 1:  # whoever caught the error may go on
                break
            if left and time.monotonic() - left > LEFT_SECONDS:
                self._tell(f'rank {self._rank}: the run was left by an error, but the process did not end; it is ended '
                           f'now, so that the other ranks do not wait (exit code {HUNG})')
                self._exit(HUNG)
                break
        faulthandler.cancel_dump_traceback_later()

    def _end_hang(self) -> None:
        frame = sys._current_frames().get(self._trainer)
        stack = traceback.extract_stack(frame) if frame else []
        reason = (
            f'rank {self._rank}: nothing went on for {self.timeout_s:.0f} s {self._where}: {self._diagnosis(stack)}; '
            f'the run ends with exit code {HUNG}')
        place = f' (stacks: {self._folder}/hang_rank{self._rank}.txt)'
        with contextlib.suppress(OSError), open(self._folder / f'hang_rank{self._rank}.txt', 'w') as file:
            file.write(f'{reason}\n')
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        with contextlib.suppress(Exception):  # whatever stderr is now
            faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        self._tell(reason + place)
        note_exit(self._folder, HUNG, reason)
        for worker in multiprocessing.active_children():  # a stopped one would outlive this process, and hold its pipes
            with contextlib.suppress(OSError):
                os.kill(worker.pid, signal.SIGKILL)
        self._exit(HUNG)

    def _diagnosis(self, stack: list[traceback.FrameSummary]) -> str:
        here = f'{stack[-1].filename}:{stack[-1].lineno} in {stack[-1].name}' if stack else 'an unknown place'
        if any('torch/utils/data/' in frame.filename for frame in stack):
            workers = [notes.describe(note) for notes in self.notes for note in notes.read() if _is_child(note.pid)]
            return f'it waits for data at {here}' + (f'; {"; ".join(workers)}' if workers else '')
        if world_size() > 1 and any(part in f'{f.filename} {f.name}' for f in stack for part in COLLECTIVE):
            return (f'it waits at {here}, most likely for another of the {world_size()} ranks; the rank whose message '
                    'names another place is the cause')
        return f'it is at {here}'

    def _tell(self, text: str) -> None:
        with contextlib.suppress(Exception):
            sys.__stderr__.write(f'error: {text}\n')
            sys.__stderr__.flush()

    # --- workers that die -----------------------------------------------------------------------------------

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """sys.excepthook: one sentence instead of a traceback for a dead worker."""
        text = explain_worker_death(error, self.notes)
        if text is None or os.environ.get('MMBACKBONES_TRACEBACK') == '1':
            (self._old_hook or sys.__excepthook__)(kind, error, trace)
            return
        self._tell(text)

    def explain(self, error: BaseException) -> str | None:
        """One sentence for an error that a dead worker caused, else None."""
        return explain_worker_death(error, self.notes)


@contextlib.contextmanager
def watched(runner: Runner) -> Iterator[None]:
    """Around `runner.train()`: a dead worker becomes a WorkerDiedError, and the watchdog ends with the run.

    Raises:
        WorkerDiedError: in place of PyTorch's RuntimeError, or of the error of a socket that the worker left open.
    """
    hooks = [hook for hook in runner.hooks if isinstance(hook, WatchdogHook)]
    try:
        yield
    except Exception as error:
        text = next((text for hook in hooks if (text := hook.explain(error))), None)
        if text is None:
            raise
        rank = f'rank {runner.rank}: ' if world_size() > 1 else ''
        message = f'{rank}{text}; the run ends with exit code {WORKER_DIED}'
        note_exit(runner.work_dir, WORKER_DIED, message)
        if os.environ.get('MMBACKBONES_TRACEBACK') == '1':
            raise
        print(f'error: {message}', file=sys.stderr, flush=True)
        raise WorkerDiedError(WORKER_DIED, message) from error
    finally:
        if world_size() == 1:  # of several ranks, it sees that this one ends
            for hook in hooks:
                hook.release()


def _is_child(pid: int) -> bool:
    """Whether `pid` is a child of this process: notes of workers that ended stay until others begin."""
    try:
        return int(Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1]) == os.getpid()
    except (OSError, IndexError, ValueError):
        return False
