"""Faults on purpose while a run trains, to rehearse what docs/guards.md promises: `nan@120`, `sigterm@200`, ..."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.registry import HOOKS
from backbones.training import inject
from backbones.training.agreement import world_size

SIGNALS = dict(
    sigterm=signal.SIGTERM, sigint=signal.SIGINT, sigusr1=signal.SIGUSR1)  # to the process itself
WORKER_SIGNALS = {
    'worker-segv': signal.SIGSEGV, 'worker-kill': signal.SIGKILL, 'worker-stop': signal.SIGSTOP}
NO_WORKER = 'there is no data-loader worker to kill; set train_dataloader.num_workers to 1 or more'
KINDS = ('nan', *SIGNALS, *WORKER_SIGNALS, 'hang', 'error')
FORM = re.compile(r'(?P<kind>[a-z0-9-]+)@(?P<iteration>\d+)(:rank=(?P<rank>\d+))?')


@dataclass(frozen=True)
class Fault:
    """What happens, and when.

    Attributes:
        kind: one of KINDS.
        iteration: the first of a run is 1, as in the log.
        rank: on which rank; None: on every one.
    """

    kind: str
    iteration: int
    rank: int | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f'{self.kind}@{self.iteration}' + (f':rank={self.rank}' if self.rank is not None else '')


def parse_fault(text: str) -> Fault:
    """Read `kind@iteration` or `kind@iteration:rank=r`.

    Raises:
        ValueError: it is something else.
    """
    found = FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None or found['kind'] not in KINDS or int(found['iteration']) < 1:
        raise ValueError(
            f'fault {text!r}: write KIND@ITERATION or KIND@ITERATION:rank=R, as in nan@120 or hang@80:rank=1; KIND is '
            f'one of {", ".join(KINDS)}, the first iteration is 1'
        )
    return Fault(found['kind'], int(found['iteration']), int(found['rank']) if found['rank'] else None)


def set_faults(text: str) -> list[Fault]:
    """Read what `--inject` takes: faults separated by commas.

    Those in the writing of checkpoints are set for this process; see inject.py.

    Returns:
        Those in the training loop, for an `InjectHook`, which tells at the end which of all did not happen.

    Raises:
        ValueError: naming the part that means nothing.
    """
    parts = [part.strip() for part in text.split(',') if part.strip()]
    in_steps = [parse_fault(part) for part in parts if not inject.is_for_files(part)]
    inject.configure(','.join(part for part in parts if inject.is_for_files(part)))
    return in_steps


@HOOKS.register_module()
class InjectHook(Hook):
    """Make faults happen at chosen iterations, each once, and say at the end which did not happen.

    Those in the writing of checkpoints, which `set_faults` has set for this process, are told of, too.

    Args:
        faults: `nan@120`: the loss is NaN; `sigterm@200`, `sigint@200`, `sigusr1@200`: the signal arrives during the
            step; `worker-segv@50`, `worker-kill@50`, `worker-stop@50`: it reaches a data-loader worker; `hang@80`: the
            process stands still; `error@80`: a ValueError. `:rank=1` behind it chooses a rank.
    """

    priority = 'VERY_LOW'  # of the end, too: after the hook that writes the last checkpoint, which is registered before

    def __init__(self, faults: Iterable[str | Fault]) -> None:
        faults = [faults] if isinstance(faults, str) else faults
        self.faults = [fault if isinstance(fault, Fault) else parse_fault(fault) for fault in faults]
        self._happened: set[Fault] = set()
        self._others: set[int] = set()  # children that were there before the run's workers

    def before_train(self, runner: Runner) -> None:
        """Say which faults are of no use to this run: it has gone on from beyond them, ends before, has fewer ranks.

        Raises:
            ValueError: one is for a worker, and there is none.
        """
        self._others = {child.pid for child in multiprocessing.active_children()}
        first, last = runner.iter + 1, runner.max_iters
        workers = getattr(runner.train_loop.dataloader, 'num_workers', 1)
        if not workers and any(fault.kind in WORKER_SIGNALS for fault in self.faults):
            raise ValueError(NO_WORKER)
        for fault in self.faults:
            if not first <= fault.iteration <= last:
                runner.logger.warning(f'{fault} will not happen: this run does the iterations {first} to {last}')
            elif fault.rank is not None and fault.rank >= world_size():
                runner.logger.warning(f'{fault} will not happen: the number of ranks is {world_size()}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Do what is due in this iteration."""
        for fault in self.faults:
            if fault.iteration == runner.iter + 1 and (fault.rank or 0) < world_size():
                self._happened.add(fault)
            if fault.iteration == runner.iter + 1 and fault.rank in (None, runner.rank):
                if runner.rank == 0:
                    runner.logger.warning(f'on purpose: {fault}')
                else:  # MMEngine's logger of other ranks shows errors only
                    print(f'on purpose: {fault}, on rank {runner.rank}', file=sys.stderr, flush=True)
                self._do(fault.kind, runner)

    def after_train(self, runner: Runner) -> None:
        """Nobody shall believe that something was rehearsed which was not."""
        missed = [fault for fault in self.faults if fault not in self._happened]
        missed += inject.not_happened() if runner.rank == 0 else []  # which is the rank that writes
        if missed:
            runner.logger.warning(f'faults on purpose that did not happen: {", ".join(map(str, missed))}')

    def _do(self, kind: str, runner: Runner) -> None:
        if kind == 'nan':
            spoil_next_loss(runner.model.module if is_model_wrapper(runner.model) else runner.model)
        elif kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[kind])
        elif kind in WORKER_SIGNALS:
            os.kill(_a_worker(self._others), WORKER_SIGNALS[kind])
        elif kind == 'hang':
            while True:
                time.sleep(1)
        else:
            raise ValueError('an error on purpose')


def spoil_next_loss(model: nn.Module) -> None:
    """Make the first loss term of the next forward pass NaN."""
    def spoil(_module: nn.Module, _inputs: tuple, losses: Any) -> Any:
        handle.remove()
        name = next(key for key in losses if 'loss' in key)
        value = losses[name]
        return {**losses, name: [v * float('nan') for v in value] if not isinstance(value, Tensor) else
                value * float('nan')}

    handle = model.register_forward_hook(spoil)


def _a_worker(others: set[int]) -> int:
    """The process id of a data-loader worker, which is none of `others`.

    Raises:
        ValueError: there is none.
    """
    workers = sorted({child.pid for child in multiprocessing.active_children()} - others)
    if not workers:
        raise ValueError(NO_WORKER)
    return workers[0]
