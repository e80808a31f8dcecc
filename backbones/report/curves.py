"""Training curves out of the logs of a run: `TIMESTAMP/vis_data/*.json`, one JSON object a line.

A line may be torn by a kill, and a resumed run does some steps again: then the newer numbers count.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .run_folder import Run

MOST_POINTS = 2000  # of a curve on the page; lowest and highest of each stretch stay
TIMES = ('time', 'data_time')
COUNTERS = ('step', 'iter', 'epoch')


@dataclass
class Curve:
    """One number over the steps.

    Attributes:
        steps: iterations, ascending.
        values: as many; None where the number is not finite.
    """

    steps: list[float] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    def add(self, step: float, value: float | None) -> None:
        """Append a point."""
        self.steps.append(step)
        self.values.append(value)

    def cut(self, last: float) -> None:
        """Forget what comes after step `last`."""
        while self.steps and self.steps[-1] > last:
            self.steps.pop()
            self.values.pop()

    def finite(self) -> list[tuple[float, float]]:
        """Points that are numbers."""
        return [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None]


@dataclass
class Logs:
    """All curves of a run.

    Attributes:
        training: by name, of the lines of the training.
        validation: by name, of the lines of the validations.
        epochs: (first step, epoch), ascending.
        torn: lines that cannot be read.
        non_finite: numbers that are NaN or infinite, by name.
        starts: steps at which a later start went on.
    """

    training: dict[str, Curve] = field(default_factory=dict)
    validation: dict[str, Curve] = field(default_factory=dict)
    epochs: list[tuple[float, int]] = field(default_factory=list)
    torn: int = 0
    non_finite: dict[str, int] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)

    @property
    def last_step(self) -> float:
        """The last iteration that was logged."""
        return max((curve.steps[-1] for curve in self.training.values() if curve.steps), default=0)


def read_logs(run: Run) -> Logs:
    """Read the logs of all starts of a run, the oldest first."""
    logs = Logs()
    for start, following in zip_longest(run.starts, run.starts[1:]):
        lines, torn = _lines(start / 'vis_data')
        logs.torn += torn
        if lines:
            _append(logs, lines, _went_on_at(run, start, following))
    return logs


def _lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of the log, and how many lines are none; MMEngine writes the same lines into two files."""
    names = sorted(folder.glob('*.json'), key=lambda path: (path.name != 'scalars.json', path.name))
    for path in names:
        found, torn = [], 0
        try:
            with path.open('rb') as file:
                for line in file:
                    if not line.strip():
                        continue
                    try:
                        one = json.loads(line)
                    except (ValueError, RecursionError):
                        one = None
                    if isinstance(one, dict):
                        found.append(one)
                    else:
                        torn += 1
        except OSError:
            continue
        if found or torn:
            return found, torn
    return [], 0


def _went_on_at(run: Run, start: Path, following: Path | None) -> float | None:
    """The iteration at which a start went on, of its record; None where it left none."""
    before = following.name if following else '~'
    for record in run.records:
        stamp = ''.join(sign for sign in str(record.get('time', ''))[:19] if sign.isdigit())
        stamp = f'{stamp[:8]}_{stamp[8:]}'
        if start.name <= stamp < before and isinstance(record.get('iteration'), int):
            return record['iteration']
    return None


def _append(logs: Logs, lines: Sequence[Mapping[str, Any]], went_on_at: float | None) -> None:
    """Add the lines of one start; what an earlier one did beyond its beginning is forgotten."""
    steps = [step for line in lines if _is_training(line) and (step := _number(line.get('step'))) is not None]
    begins = went_on_at if went_on_at is not None else steps[0] - 1 if steps else None
    if begins is not None and (logs.training or logs.validation):
        for curve in (*logs.training.values(), *logs.validation.values()):
            curve.cut(begins)
        logs.epochs = [(step, epoch) for step, epoch in logs.epochs if step <= begins]
        if begins > 0:
            logs.starts.append(begins)
    last = begins if went_on_at else None
    for line in lines:
        training = _is_training(line)
        step = _number(line.get('step', line.get('iter')))
        if training and step is None:
            continue
        if not training:  # of a validation, whose step may be an epoch
            step = last if last is not None else step
        _add_line(logs, line, training, step or 0)
        last = step if training else last


def _add_line(logs: Logs, line: Mapping[str, Any], training: bool, step: float) -> None:
    curves = logs.training if training else logs.validation
    epoch = line.get('epoch')
    if training and isinstance(epoch, int) and (not logs.epochs or logs.epochs[-1][1] != epoch):
        logs.epochs.append((step, epoch))
    for name, value in line.items():
        if name in COUNTERS or (name in TIMES and not training):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        finite = math.isfinite(value)
        if not finite:
            logs.non_finite[name] = logs.non_finite.get(name, 0) + 1
        if not training and value == -1:  # COCO's word for "not defined"
            continue
        curve = curves.setdefault(name, Curve())
        if curve.steps and step <= curve.steps[-1]:  # done again within one log
            curve.cut(step - 1e-9)
        curve.add(step, float(value) if finite else None)


def _is_training(line: Mapping[str, Any]) -> bool:
    return 'lr' in line or 'base_lr' in line or ('loss' in line and 'iter' in line)


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """A curve of about `most` points: of each stretch the lowest and the highest, in their order; gaps stay gaps."""
    number = len(curve.steps)
    if number <= most:
        return curve
    kept = {0, number - 1}
    stretches = max(1, most // 2)
    for index in range(stretches):
        places = range(index * number // stretches, (index + 1) * number // stretches)
        known = [place for place in places if curve.values[place] is not None]
        if known:
            kept.add(min(known, key=curve.values.__getitem__))
            kept.add(max(known, key=curve.values.__getitem__))
        elif places:
            kept.add(places[0])  # a gap stays one
    order = sorted(kept)
    return Curve([curve.steps[place] for place in order], [curve.values[place] for place in order])


def best_of(name: str, curve: Curve) -> tuple[float, float] | None:
    """The step and value at which a number of the validation is best; the first of several."""
    points = curve.finite()
    if not points:
        return None
    lower = 'loss' in name.lower() or 'error' in name.lower()
    return (min if lower else max)(points, key=lambda point: point[1])


def epoch_at(logs: Logs, step: float) -> int | None:
    """The epoch that a step lies in."""
    place = bisect.bisect_right(logs.epochs, (step, math.inf))
    return logs.epochs[place - 1][1] if place else None


def rounded(values: Iterable[float | None], digits: int = 6) -> list[float | None]:
    """With so many digits that a curve looks the same, for a smaller page."""
    return [None if value is None else float(f'{value:.{digits}g}') for value in values]
