"""Preemption: a signal ends the run after the current step, with everything saved: docs/guards.md."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from backbones.files import write_bytes
from backbones.registry import HOOKS
from backbones.training.agreement import Later, agree, flag_device, world_size
from backbones.training.exits import SAVED, RunEnded, forget_exit, note_exit, process_ends_with_run

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class PreemptedError(RunEnded):
    """The run was ended by a signal and has saved everything; the exit code is 85."""


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM, SIGINT or SIGUSR1 finish the step, save, and exit with code 85: start again with --resume.

    One rank that got the signal is enough. Each step costs one collective of one number where there are several ranks;
    on a GPU the host reads it a step later, hence one more step is done. A validation ends with its next batch.

    A second signal changes nothing; the third one acts as if this hook were not there. After the save, our tools leave
    with 85 whatever comes; in other programs, which may go on after the run, signals act as before it.
    """

    priority = 'LOWEST'  # after schedulers, averages and regular checkpoints of the same step

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._count, self._pid = 0, os.getpid()
        self._old: dict[int, Any] = {}
        self._votes: list[Later] = []
        self._judged_batches = 0  # of a validation: all ranks have that many

    def before_run(self, runner: Runner) -> None:
        """Take over the signals."""
        self.received, self._count, self._votes, self._pid = None, 0, [], os.getpid()
        try:
            for number in SIGNALS:  # an earlier run of this process that an error ended has left its handlers
                holder = getattr(signal.getsignal(number), '__self__', None)
                if isinstance(holder, PreemptionHook):
                    holder.release()
            self._old = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # not in the main thread
            runner.logger.warning('PreemptionHook: signals only reach the main thread; this run will not heed them')

    def before_train(self, runner: Runner) -> None:
        """How an earlier run ended counts no more."""
        if runner.rank == 0:
            forget_exit(runner.work_dir)

    def after_run(self, runner: Runner) -> None:
        """Give the signals back."""
        self.release()

    def release(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._old = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save and end if some rank was told to."""
        if self._told(later=True):
            self._end(runner, f'after iteration {runner.iter + 1}')

    def before_val_epoch(self, runner: Runner) -> None:
        """Find how many batches all ranks have."""
        lengths = all_gather_object(len(runner.val_dataloader)) if world_size() > 1 else [len(runner.val_dataloader)]
        self._judged_batches = min(lengths)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """End a validation; its training iterations are saved if no checkpoint has them yet."""
        training = getattr(runner, '_train_loop', None)
        if batch_idx < self._judged_batches and hasattr(training, 'iter') and self._told(later=False):
            self._end(runner, f'in the validation after iteration {runner.iter}', validating=True)

    def _told(self, later: bool) -> bool:
        """Whether some rank got a signal, in this step or, on a GPU, the one before; all ranks find the same."""
        if world_size() == 1:
            return self.received is not None
        device = flag_device()
        vote = Later(agree(torch.full((1,), float(self.received is not None), device=device)))
        if not later or device.type == 'cpu':
            return bool(vote.read()[0])
        self._votes.append(vote)
        return len(self._votes) > 1 and bool(self._votes.pop(0).read()[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: remember, and say so; outside of a run, act as if it were not there."""
        if os.getpid() != self._pid:
            self._in_a_child(number)
            return
        if not in_a_run(frame) or self._count >= 2:
            self._pass_on(number)
            return
        self._count += 1
        name = signal.Signals(number).name
        if self._count == 1:
            self.received = signal.Signals(number)
            _say(f'{name}: the run ends after this step and saves; a third signal ends it at once')
        else:
            _say(f'{name}: the run is already ending; one more ends it at once')

    def _in_a_child(self, number: int) -> None:
        """A forked data-loader worker has this handler, too: Ctrl-C must not take the data from the last step."""
        if number == signal.SIGTERM:  # how a parent ends its child
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _pass_on(self, number: int) -> None:
        self.release()
        os.kill(os.getpid(), number)

    def _end(self, runner: Runner, when: str, validating: bool = False) -> None:
        """Save and raise, on all ranks."""
        names = [name for name in all_gather_object(self.received and self.received.name) if name]
        reason = f'{names[0]} {when}'
        # Gathering is also the barrier: no rank leaves, and makes the launcher end the others, before all is written.
        if all_gather_object(save(runner, reason, validating))[0]:
            if process_ends_with_run():
                self._ignore()
            code, message = SAVED, f'{reason}: everything is saved; exit code {SAVED}, go on with --resume'
        else:
            code = 128 + signal.Signals[names[0]]
            message = f'{reason}: nothing could be saved (see above); exit code {code}'
        if runner.rank == 0:
            runner.logger.info(message)
            note_exit(runner.work_dir, code, message)
        self.release()
        raise PreemptedError(code, message)

    def _ignore(self) -> None:
        """Heed no signal any more, where only the end of the process is left.

        Leaving takes seconds (workers, process group, interpreter), and Slurm and torchrun send SIGTERM once more: by
        the old handlers it would turn the 85, which says that all is saved, into 143. Only a tool of ours is known to
        end with its run: a notebook, which catches the error, must keep its Ctrl-C. The system itself ignores them,
        as handlers written in Python go while the interpreter ends.
        """
        for number in self._old:
            signal.signal(number, signal.SIG_IGN)
        self._old = {}


def save(runner: Runner, reason: str, validating: bool = False) -> bool:
    """Save everything now: by the hook that has `save_now(runner, reason)`, else as MMEngine's CheckpointHook does.

    Args:
        runner: the run, in a hook after a training iteration or in a validation.
        reason: for the log.
        validating: whether a validation runs: the counters of the loop have already moved on.

    Returns:
        On rank 0, whether it is on the disk.
    """
    done = runner.iter if validating else runner.iter + 1
    hook = next((hook for hook in runner.hooks if hasattr(hook, 'save_now')), None)
    if hook is not None:
        return hook.save_now(runner, reason, iteration=done) is not None
    loop, epoch = runner.train_loop, runner.epoch
    if isinstance(loop, EpochBasedTrainLoop) and not validating:
        size = len(loop.dataloader)
        epoch += done % size == 0
        if done % size:
            runner.logger.warning(
                f'{reason}: MMEngine resumes whole epochs only, so the epoch that is cut here will be done again from '
                'its start; backbones.SafeCheckpointHook goes on in the middle')
    file = Path(runner.work_dir) / f'iter_{done}.pth'
    try:
        runner.save_checkpoint(str(file.parent), file.name, meta=dict(epoch=epoch, iter=done), by_epoch=False)
        if runner.rank == 0:
            write_bytes(file.parent / 'last_checkpoint', str(file).encode())
    except OSError as error:
        runner.logger.error(f'{file} could not be saved: {error}')
        return False
    return True


def in_a_run(frame: FrameType | None) -> bool:
    """Whether the main thread is inside Runner.train, where something ends what the signal asks to end."""
    while frame is not None:
        if frame.f_code.co_name == 'train' and isinstance(frame.f_locals.get('self'), Runner):
            return True
        frame = frame.f_back
    return False


def _say(text: str) -> None:
    """Write past Python's buffers, which a signal handler must not enter."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f'{text}\n'.encode())
