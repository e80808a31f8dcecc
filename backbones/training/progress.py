"""How far a run is: a bar with the time that is left in a terminal, and one line of metrics after each evaluation."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor

from backbones.registry import HOOKS
from backbones.training.screen import Screen, is_terminal
from backbones.training.trackers import as_number

MAIN_METRICS = ('bbox_mAP', 'segm_mAP', 'mAP', 'mIoU', 'mDice', 'mFscore', 'mAcc', 'aAcc', 'accuracy/top1')
LOOKS_AT_LOSS = 2.0  # seconds between two looks at a loss on a GPU, each of which waits for what is queued there


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show how far a training or a test is.

    In a terminal a bar says what is going on (training, evaluating, saving), how far it is and how long it will take,
    evaluations included. Elsewhere, and for `plain` or the environment variables `CI` or `TERM=dumb`, there is none,
    and the log's lines are as MMEngine prints them. After each evaluation one line has the main metrics with the best
    so far.

    Args:
        plain: no bar.
    """

    priority = 'LOW'  # after LoggerHook, before what saves

    def __init__(self, plain: bool = False) -> None:
        self.plain = plain
        self.screen: Screen | None = None
        self._best: dict[str, tuple[float, int]] = {}
        self._pace = Pace()
        self._loss, self._looked = math.nan, 0.0

    # --- training

    def before_train(self, runner: Runner) -> None:
        """Draw the bar; look up the best metrics of what went before."""
        if not is_main_process():
            return
        self._pace = Pace()
        self._best = best_before(Path(runner.work_dir), runner.iter) if runner.iter else {}
        if is_terminal(self.plain):
            self.screen = Screen(runner.max_iters, runner.logger)
            self._draw(runner, runner.iter, now=True)

    def before_train_epoch(self, runner: Runner) -> None:
        """The time between two epochs belongs to no step."""
        self._pace.pause()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the bar."""
        if self.screen is None:
            return
        self._pace.step()
        self._look(outputs)
        if saves_now(runner):
            self._draw(runner, runner.iter + 1, 'saving', now=True)
            self._pace.pause()
        else:
            self._draw(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Epochs save when they end."""
        if self.screen is not None:
            self._draw(runner, runner.iter, 'saving', now=True)

    def after_train(self, runner: Runner) -> None:
        """The last checkpoint is waited for."""
        if self.screen is not None:
            self._draw(runner, runner.iter, 'saving', now=True)

    # --- evaluation

    def before_val_epoch(self, runner: Runner) -> None:
        """Take the time."""
        self._pace.begin_evaluation(len(runner.val_dataloader))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Say how far it is."""
        self._pace.evaluated = batch_idx + 1
        if self.screen is not None and isinstance(runner._train_loop, BaseLoop):
            number = len(runner.val_dataloader)
            last = batch_idx + 1 >= number
            self._draw(runner, runner.iter, 'scoring' if last else f'evaluating {batch_idx + 1}/{number}', now=last)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """One line of the main metrics."""
        self._pace.end_evaluation()
        if not is_main_process() or not isinstance(runner._train_loop, BaseLoop):
            return
        line = self.metrics_line(metrics or {}, runner.iter, runner.max_iters)
        if line:
            runner.logger.info(line)
        if self.screen is not None:
            self._draw(runner, runner.iter, now=True)

    def metrics_line(self, metrics: dict[str, float], step: int, last: int) -> str:
        """`step 480  bbox_mAP  0.5970 (best)                segm_mAP  0.6010 (best 0.6110 at 400)`."""
        width, parts = len(str(last)), []
        for name, value in main_metrics(metrics).items():
            best, at = self._best.get(name, (value, step))
            if is_better(name, value, best) or not math.isfinite(best):
                best, at = value, step
            self._best[name] = (best, at)
            beside = 'best' if at == step else f'best {_shown(best).strip()} at {at:>{width}}'
            longest = len('(best 0.0000 at )') + width
            parts.append(f'{name} {_shown(value)} {f"({beside})":<{longest}}')
        return f'step {step:>{width}}  {"  ".join(parts)}'.rstrip() if parts else ''

    # --- test

    def before_test_epoch(self, runner: Runner) -> None:
        """A test has a bar of its own."""
        if is_main_process() and is_terminal(self.plain):
            self.screen = Screen(len(runner.test_dataloader), runner.logger)
            self._pace.begin_evaluation(len(runner.test_dataloader))
            self.screen.show('evaluating', 0, now=True)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move it."""
        if self.screen is None:
            return
        number, self._pace.evaluated = len(runner.test_dataloader), batch_idx + 1
        last = batch_idx + 1 >= number
        facts = [f'{batch_idx + 1}/{number}', f'ETA {clock(self._pace.evaluation_left())}', *_memory()]
        self.screen.show('scoring' if last else 'evaluating', batch_idx + 1, facts, now=last)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Take it away."""
        self.close()

    def after_run(self, runner: Runner) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Also for a run that an error ends."""
        if self.screen is not None:
            self.screen.close()
        self.screen = None

    # --- how

    def _draw(self, runner: Runner, done: int, state: str | None = None, now: bool = False) -> None:
        if self.screen is None:
            return
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        where = f'epoch {min(runner.epoch + 1, runner.max_epochs)}/{runner.max_epochs}' if by_epoch else ''
        left = self._pace.left(runner.max_iters - done, evaluations_left(runner, done))
        facts = [f'{done}/{runner.max_iters}', f'ETA {clock(left)}']
        if state is not None and where:
            facts.append(where)
        if math.isfinite(self._loss):
            facts.append(f'loss {self._loss:.4g}')
        facts += [*([f'{self._pace.seconds:.3g} s/step'] if self._pace.seconds else []), *_memory()]
        self.screen.show(state or (f'training {where}' if where else 'training'), done, facts, now=now)

    def _look(self, outputs: Any) -> None:
        """A loss on a GPU is looked at now and then only."""
        loss = outputs.get('loss') if isinstance(outputs, dict) else None
        if isinstance(loss, Tensor) and loss.is_cuda and time.monotonic() - self._looked < LOOKS_AT_LOSS:
            return
        self._looked = time.monotonic()
        number = as_number(loss)
        self._loss = math.nan if number is None else number


@contextlib.contextmanager
def progress_shown(runner: Runner, plain: bool = False) -> Iterator[None]:
    """Show how far a built run is, around its training or test; an error leaves no bar behind.

    Args:
        runner: built; a `ProgressHook` of its config takes the place of ours.
        plain: no bar.
    """
    if not any(isinstance(hook, ProgressHook) for hook in runner.hooks):
        runner.register_hook(ProgressHook(plain))
    try:
        yield
    finally:
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.close()


class Pace:
    """How fast steps and evaluations go."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=50)
        self._last: float | None = None
        self._began: float | None = None  # the evaluation that is going on
        self._number, self.evaluated = 0, 0
        self._evaluation: float | None = None  # seconds of the last one

    @property
    def seconds(self) -> float | None:
        """Of a step, lately."""
        return sum(self._steps) / len(self._steps) if self._steps else None

    def step(self) -> None:
        """A step has ended."""
        moment = time.monotonic()
        if self._last is not None:
            self._steps.append(moment - self._last)
        self._last = moment

    def pause(self) -> None:
        """What comes until the next step is none of it."""
        self._last = None

    def begin_evaluation(self, number: int) -> None:
        """Of so many batches."""
        self.pause()
        self._began, self._number, self.evaluated = time.monotonic(), number, 0

    def end_evaluation(self) -> None:
        """Its time counts for the next ones."""
        if self._began is not None:
            self._evaluation = time.monotonic() - self._began
        self._began = None
        self.pause()

    def evaluation_left(self) -> float | None:
        """Seconds of the evaluation that is going on."""
        if self._began is None or not self.evaluated:
            return None
        spent = time.monotonic() - self._began
        return spent / self.evaluated * (self._number - self.evaluated)

    def left(self, steps: int, evaluations: int) -> float | None:
        """Seconds of the run; evaluations count as soon as there was one."""
        if self.seconds is None and steps:
            return None
        going = self.evaluation_left() or 0.0
        known = self._evaluation
        if known is None and self._began is not None and self.evaluated:
            known = time.monotonic() - self._began + going
        return (self.seconds or 0.0) * steps + (known or 0.0) * evaluations + going


def evaluations_left(runner: Runner, done: int) -> int:
    """How many evaluations are still to begin after that step."""
    loop = runner.train_loop
    interval = getattr(loop, 'val_interval', 0)
    if runner.val_loop is None or not isinstance(interval, int) or interval < 1:
        return 0
    if isinstance(loop, EpochBasedTrainLoop):
        now, last = runner.epoch, runner.max_epochs
    else:
        now, last = done, runner.max_iters
    first = max(getattr(loop, 'val_begin', 1), now + 1)
    inside = last // interval - (first - 1) // interval
    return max(0, inside) + (1 if last % interval and last >= first else 0)


def saves_now(runner: Runner) -> bool:
    """Whether a checkpoint follows this step."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and not hook.by_epoch and isinstance(hook.interval, int):
            if hook.interval > 0 and hook.every_n_train_iters(runner, hook.interval, hook.save_begin):
                return True
            if hook.save_last and hook.is_last_train_iter(runner):
                return True
    return False


def main_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Those that a run is judged by; of unknown ones, the first three."""
    short = {key.removeprefix('coco/'): number for key, value in metrics.items()
             if (number := as_number(value)) is not None}
    known = {name: short[name] for name in MAIN_METRICS if name in short}
    return known or dict(list(short.items())[:3])


def is_better(name: str, value: float, best: float) -> bool:
    """Whether a value is better than the best so far; NaN never is."""
    lower = 'loss' in name.lower() or 'error' in name.lower()
    return value < best if lower else value > best


def best_before(work_dir: Path, step: int) -> dict[str, tuple[float, int]]:
    """The best metrics, and their steps, that earlier starts of a run logged up to that step."""
    best: dict[str, tuple[float, int]] = {}
    for numbers in logged_evaluations(sorted(work_dir.glob('*/vis_data/scalars.json'))):
        at = numbers.get('step')
        if not isinstance(at, int) or at > step:
            continue
        for name, value in main_metrics({key: v for key, v in numbers.items() if key != 'step'}).items():
            if name in MAIN_METRICS and math.isfinite(value) and (
                    name not in best or is_better(name, value, best[name][0])):
                best[name] = (value, at)
    return best


def logged_evaluations(files: Sequence[Path]) -> Iterable[dict[str, Any]]:
    """The lines of `scalars.json` that hold metrics; a line that a kill cut off is none."""
    for file in files:
        try:
            lines = file.read_text(errors='replace').splitlines()
        except OSError:
            continue
        for line in lines:
            if '"iter"' in line or not line.startswith('{'):  # of a training step
                continue
            try:
                numbers = json.loads(line)
            except ValueError:
                continue
            if isinstance(numbers, dict):
                yield numbers


def clock(seconds: float | None) -> str:
    """As h:mm:ss."""
    if seconds is None or not math.isfinite(seconds):
        return '--:--'
    return str(datetime.timedelta(seconds=max(0, round(seconds))))


def _shown(value: float) -> str:
    return f'{value:7.4f}' if abs(value) <= 1 or not math.isfinite(value) else f'{value:7.2f}'


def _memory() -> list[str]:
    """The most that the GPU held, or what this process holds."""
    if torch.cuda.is_available():
        return [f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GB']
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return []
    return [f'{pages * 4096 / 2**30:.1f} GB']
