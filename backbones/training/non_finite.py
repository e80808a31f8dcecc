"""The hook that says which step was left out for a non-finite loss or gradient, and ends a run that has too many.

The wrappers of guards.py protect the weights; this names iteration, images and loss term: docs/guards.md.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.registry import HOOKS
from backbones.training.exits import NON_FINITE, RunEnded, note_exit
from backbones.training.guards import RunningStatistics, Verdict, _Guarded
from backbones.training.loops import split_batch

POLICIES = ('skip', 'stop')


class NonFiniteError(RunEnded):
    """The run ended as losses or gradients were not finite; the exit code is 87."""


@dataclass
class _Iteration:
    """What is kept of an iteration until its step is judged.

    Attributes:
        number: the first is 1.
        images: files of the batch.
        outputs: the logged values, unread on the device.
        batch: the batch itself and the state of the random numbers before it, if modules are to be located.
    """

    number: int
    images: list[str]
    outputs: dict[str, Any]
    batch: Any = None
    randomness: tuple | None = None


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Log each step that was left out; end the run at the first one, or after too many in a row.

    Needs `optim_wrapper.type='backbones.GuardedOptimWrapper'` or `'backbones.GuardedAmpOptimWrapper'`.

    Args:
        policy: 'skip' goes on with the next batch, 'stop' ends the run with exit code 87; the weights are protected in
            both cases.
        patience: with 'skip', this many faulty steps in a row end the run, too.
        locate: run a faulty batch again, with the same random numbers, to name the first module whose output is not
            finite. Keeps a copy of every batch and reads every step at once: for finding a fault, not for every day.
    """

    priority = 'VERY_HIGH'  # before hooks that save what the step left

    def __init__(self, policy: str = 'skip', patience: int = 10, locate: bool = False) -> None:
        if policy not in POLICIES:
            raise ValueError(f'NonFiniteHook: policy={policy!r} is unknown; choose one of {POLICIES}')
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise ValueError(f'NonFiniteHook: patience={patience!r}; give the faulty steps in a row, 1 or more')
        self.policy, self.patience, self.locate = policy, patience, locate
        self.in_row, self.total = 0, 0
        self._since_step: list[_Iteration] = []
        self._unread: list[tuple[Verdict, list[_Iteration]]] = []
        self._now: tuple[Any, tuple] = (None, ())

    def before_train(self, runner: Runner) -> None:
        """See that the optimiser wrapper is one that guards.

        Raises:
            ValueError: it is another one.
        """
        if not isinstance(runner.optim_wrapper, _Guarded):
            raise ValueError(
                f'NonFiniteHook: optim_wrapper is {type(runner.optim_wrapper).__name__}, which takes every step; set '
                "optim_wrapper.type to 'backbones.GuardedOptimWrapper', or 'backbones.GuardedAmpOptimWrapper' for "
                'mixed precision'
            )
        if self.locate:
            runner.optim_wrapper.read_at_once()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what a second run of the batch would need."""
        if self.locate:
            self._now = (copy.deepcopy(data_batch), _randomness())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Judge the step of this iteration, or on a GPU the one before."""
        outputs = outputs if isinstance(outputs, dict) else {}
        self._since_step.append(_Iteration(runner.iter + 1, image_files(data_batch), outputs, *self._now))
        verdict = runner.optim_wrapper.take_verdict()
        if verdict is not None:
            self._unread.append((verdict, self._since_step))
            self._since_step = []
        self._judge(runner, keep=1 if runner.optim_wrapper.deferred else 0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Judge what is left."""
        self._judge(runner, keep=0)

    def after_train(self, runner: Runner) -> None:
        """Say how many steps were left out."""
        self._judge(runner, keep=0)
        if self.total:
            runner.logger.warning(f'{self.total} optimiser steps were left out as loss or gradient was not finite')

    def _judge(self, runner: Runner, keep: int) -> None:
        while len(self._unread) > keep:
            verdict, iterations = self._unread.pop(0)
            if not verdict.faulty:
                self.in_row = 0
                continue
            self.in_row, self.total = self.in_row + 1, self.total + 1
            findings = all_gather_object(self._finding(runner, verdict, iterations))  # all ranks are here together
            several = len(findings) > 1
            text = '; '.join(f'rank {rank}: {one}' if several else one for rank, one in enumerate(findings) if one)
            self._act(runner, f'iteration {iterations[-1].number}: {text}')

    def _act(self, runner: Runner, text: str) -> None:
        if self.policy == 'skip' and self.in_row < self.patience:
            runner.logger.warning(
                f'{text}; the step was left out, weights and optimiser are as before it ({self.in_row} in a row, '
                f'{self.patience} would end the run)')
            return
        why = f'{self.in_row} steps in a row' if self.policy == 'skip' else 'policy=stop'
        message = (
            f'{text}; the run ends ({why}) with exit code {NON_FINITE}; no faulty step reached the weights. See the '
            'images, lower the learning rate, or go on from an earlier checkpoint')
        if runner.rank == 0:
            runner.logger.error(message)
            note_exit(runner.work_dir, NON_FINITE, message)
        raise NonFiniteError(NON_FINITE, message)

    def _finding(self, runner: Runner, verdict: Verdict, iterations: list[_Iteration]) -> str:
        """What this rank knows about a faulty step; empty if the fault is another rank's."""
        terms = [term for one in iterations for term in non_finite_terms(one.outputs)]
        module = self._locate(runner, iterations) if self.locate else ''
        if not terms and not verdict.faulty_passes():
            if verdict.loss_faulty:
                return ''
            names = verdict.faulty_parameters()
            more = f' and of {len(names) - 1} more parameters' if len(names) > 1 else ''
            where = f'the gradient of {names[0]}{more}' if names else 'a gradient'
            return f'{where} is not finite while the loss is{module}; images {_listed(_images(iterations, verdict))}'
        term = terms[0] if terms else 'the loss is not finite'
        return f'{term}{module}; images {_listed(_images(iterations, verdict))}'

    def _locate(self, runner: Runner, iterations: list[_Iteration]) -> str:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        loop, found = runner.train_loop, None
        for one in iterations:
            with _random_state(one.randomness):
                accumulates = getattr(loop, 'accumulate', 1) > 1
                chunks = split_batch(one.batch, loop.images_per_pass) if accumulates else [one.batch]
                for chunk in chunks:  # all of them on every rank: a SyncBN waits for the others
                    found = first_non_finite_module(model, chunk, runner.optim_wrapper) or found
        return f', first in the output of {found}' if found else ', and the output of each module is finite'


def first_non_finite_module(model: nn.Module, batch: Any, optim_wrapper: _Guarded) -> str | None:
    """Run the loss of `batch` and name the first module (inner ones first) whose output is not finite."""
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:
        def look(_module: nn.Module, _inputs: tuple, output: Any) -> None:
            if not found and not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
                found.append(f'{name or "the model"} ({type(module).__name__})')

        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in model.named_modules()]
    statistics = RunningStatistics(model)
    statistics.save()
    try:
        with torch.no_grad(), optim_wrapper.optim_context(model):
            model._run_forward(model.data_preprocessor(batch, True), mode='loss')
    finally:
        statistics.restore()
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def non_finite_terms(outputs: dict[str, Any]) -> list[str]:
    """`name is value` of each logged value that is not finite, the total last."""
    found = []
    for name in sorted(outputs, key=lambda name: name == 'loss'):  # stable: the order of the model otherwise
        value = outputs[name]
        value = value.detach() if isinstance(value, Tensor) else value
        value = float(value) if isinstance(value, int | float) or getattr(value, 'numel', lambda: 0)() == 1 else 0.0
        if not np.isfinite(value):
            found.append(f'{name} is {value}')
    return found


def image_files(data_batch: Any) -> list[str]:
    """The files of a batch, as its data samples name them; `image i of the batch` where they do not."""
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    if not isinstance(samples, list | tuple):
        size = len(data_batch['inputs']) if isinstance(data_batch, dict) and 'inputs' in data_batch else 0
        return [f'image {i} of the batch' for i in range(size)]
    paths = [getattr(sample, 'img_path', None) for sample in samples]
    return [str(path) if path else f'image {i} of the batch' for i, path in enumerate(paths)]


def _images(iterations: list[_Iteration], verdict: Verdict) -> list[str]:
    """Files of the faulty passes, or all; pass p of an accumulating loop has the images p, p + passes, ..."""
    images, faulty = [image for one in iterations for image in one.images], verdict.faulty_passes()
    if len(iterations) > 1 or not faulty:
        return images
    return [image for p in faulty for image in images[p :: verdict.passes]]


def _listed(names: list[str]) -> str:
    return ', '.join(names) if names else 'unknown'


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in nested lists and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _randomness() -> tuple:
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), gpu, random.getstate(), np.random.get_state()


def _set_randomness(state: tuple) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
    random.setstate(state[2])
    np.random.set_state(state[3])


@contextlib.contextmanager
def _random_state(state: tuple) -> Iterator[None]:
    """Random numbers as they were, for a while."""
    now = _randomness()
    _set_randomness(state)
    try:
        yield
    finally:
        _set_randomness(now)
