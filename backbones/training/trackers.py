"""Trackers: where a training logs its numbers and pictures besides its work folder: docs/logging.md.

A tracker that fails costs its points, never the run. A run that goes on after a kill goes on in the same TensorBoard
folder, W&B run or MLflow run; `trackers.json` in the work folder knows which, and up to which step they have points.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import numbers
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.visualization.vis_backend import BaseVisBackend

from backbones.files import write_json
from backbones.registry import SCOPE

STATE_FILE = 'trackers.json'
TYPES = dict(tensorboard='TensorboardVisBackend', wandb='WandbVisBackend', mlflow='MLflowVisBackend')
MODULES = dict(tensorboard='tensorboard', wandb='wandb', mlflow='mlflow')
PACKAGES = dict(tensorboard='tensorboard', wandb='wandb', mlflow='mlflow-skinny')
_state_lock = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where a run is when it begins or goes on.

    Attributes:
        work_dir: the work folder.
        iteration: steps done; 0 for a new run.
        validation_due: the validation after that step will be done, maybe for the second time.
        branch: the run goes on from a checkpoint that was named and is not its newest, so what follows is another story
            than what was logged behind it.
        now: gives the steps done at any later moment; None where nobody knows.
    """

    work_dir: Path
    iteration: int
    validation_due: bool
    branch: bool
    now: Callable[[], int] | None


class Tracker(BaseVisBackend):
    """What the trackers share. Until `begin` nothing is imported, opened or written.

    Args:
        save_dir: MMEngine's; used where no `begin` says what the work folder is.
        required: refuse to train without it; else a warning, and the run goes on.
    """

    name: ClassVar[str]
    again = False  # after a failure, try to write the next points

    def __init__(self, save_dir: str, required: bool = False) -> None:
        super().__init__(save_dir)
        self.required = required
        self.place: Place | None = None
        self._config: Config | None = None
        self._open = self._failed = self._warned = False
        self._marks: dict[str, int] = {}  # by kind of numbers: the last step that the tracker has
        self._pictures: dict[str, int] = {}  # by name: the same

    # --- what a tracker does

    def start(self, place: Place, state: dict[str, Any]) -> None:
        """Open it; `state` is what `remember` kept of an earlier start, empty for a new run."""
        raise NotImplementedError

    def write_config(self, config: Config) -> None:
        """Log the config as data."""

    def write_scalars(self, values: dict[str, float], step: int, kind: str) -> None:
        """Log numbers; `kind` is 'train', 'val' or ''."""
        raise NotImplementedError

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log an RGB picture (H, W, 3)."""
        raise NotImplementedError

    def finish(self, code: int) -> None:
        """End it; `code` is the exit code of the run."""

    # --- what the run calls

    def begin(self, place: Place) -> None:
        """Open the tracker before the first step.

        Raises:
            ValueError: it is required and cannot be opened.
        """
        self.place = place
        try:
            goes_on = place.iteration > 0 and not place.branch
            state = read_state(place.work_dir).get(self.name, {}) if goes_on else {}
            self._marks = _counts(state, ('train', 'val'))
            self._pictures = _counts(pictures, pictures) if isinstance(pictures := state.get('pictures'), dict) else {}
            self.start(place, state)
            self._open = True
            if self._config is not None:
                self.write_config(self._config)
        except Exception as error:  # whatever a tracker's library raises
            if self.required and not self._open:
                raise ValueError(f'--log {self.name}: it cannot be used ({one_line(error)}); mend that, or leave it '
                                 'out') from error
            self._failed = not self._open and not self.again
            self._warn(error)

    def _init_env(self) -> None:
        """In a project that does not train by our tools: log into MMEngine's folder."""
        if self.place is None:
            folder = Path(self._save_dir)
            self.begin(Place(folder, 0, False, False, None))

    @property
    def experiment(self) -> Any:
        """What the library itself calls the run."""
        self._init_env()
        return self

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Keep the config until the run begins."""
        self._config = config

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Log what LoggerHook gathered: of a training step, or of a validation."""
        trains = 'iter' in scalar_dict  # LogProcessor puts it into the numbers of steps only
        kind = 'train' if trains else 'val'
        if not trains and self.place is not None and self.place.now is not None:
            step = self.place.now()  # where LoggerHook counts epochs, too
        values = {
            _named(key, kind): number for key, value in scalar_dict.items()
            if key not in ('iter', 'step') and (number := as_number(value)) is not None}
        self._log(values, int(step), kind)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Log one number."""
        number = as_number(value)
        if number is not None:
            self._log({name: number}, int(step), '')

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Log an RGB picture."""
        def write() -> None:
            if int(step) > self._pictures.get(name, -1):
                self.write_image(name, np.asarray(image, np.uint8), int(step))
                self._pictures[name] = int(step)
                self.remember(pictures=self._pictures)

        self._do(write)

    def close(self) -> None:
        """End the tracker of a run that is done."""
        self.end(0)

    def end(self, code: int) -> None:
        """End the tracker, once; nothing is raised."""
        if self._open:
            self._open, self._failed = False, True
            try:
                self.finish(code)
            except Exception as error:
                self._warn(error)

    # --- how

    def _log(self, values: dict[str, float], step: int, kind: str) -> None:
        if values and step > self._marks.get(kind, -1):
            self._do(lambda: self.write_scalars(values, step, kind))

    def _do(self, action: Callable[[], None]) -> None:
        self._init_env()
        if self._failed:
            return
        try:
            action()
            self._warned = False
        except Exception as error:  # whatever a tracker's library raises
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Once until it works again."""
        if not self._warned:
            rest = ', points are lost until it works again' if self.again or self._open else ' without it'
            print_log(f'{self.name}: {one_line(error)}; the run goes on{rest}', logger='current',
                      level=logging.WARNING)
        self._warned = True

    def mark(self, kind: str, step: int) -> None:
        """The tracker has the numbers of that step."""
        if kind:
            self._marks[kind] = step
            self.remember(**{kind: step})

    def remember(self, **facts: Any) -> None:
        """Keep facts for a start that goes on."""
        if self.place is None:
            return
        with _state_lock:
            state = read_state(self.place.work_dir)
            known = state.get(self.name)
            state[self.name] = {**(known if isinstance(known, dict) else {}), **facts}
            write_json(self.place.work_dir / STATE_FILE, state, indent=1)

    def forget(self) -> None:
        """A new run begins: what an earlier one left counts no more."""
        with _state_lock:
            state = read_state(self.place.work_dir)
            if state.pop(self.name, None) is not None:
                write_json(self.place.work_dir / STATE_FILE, state, indent=1)


def read_state(work_dir: Path) -> dict[str, dict]:
    """What `trackers.json` says; nothing if it is not there or damaged."""
    try:
        state = json.loads((work_dir / STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in state.items() if isinstance(value, dict)} if isinstance(state, dict) else {}


def choose_trackers(cfg: Config, log: Sequence[str] | None) -> list[str]:
    """Put the trackers that `--log` names into a config, in place; without it, those of the config stay.

    A backend of another project is left as it is, whatever `--log` says.

    Args:
        cfg: a composed config.
        log: names of `TYPES`, or 'none' alone, or None.

    Returns:
        Lines for the log.

    Raises:
        ValueError: an unknown name, or one whose package is not installed.
    """
    names = _checked_names(log)
    visualizer = cfg.get('visualizer')
    if visualizer is None and names:
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type=f'{SCOPE}.LocalVisBackend')])
        visualizer = cfg.visualizer
    if not isinstance(visualizer, dict):
        return []
    given = visualizer.get('vis_backends') or []
    kept, notes = [], []
    for backend in [given] if isinstance(given, dict) else list(given):
        name = _tracker_name(backend)
        if name is None:
            kept.append(backend)
        elif names is not None and name in names:
            kept.append(ConfigDict(backend, required=True))
        elif names is None and not backend.get('required') and not installed(name):
            notes.append(f'no {_spoken(name)}: pip install {PACKAGES[name]}; the run goes on without it')
        elif names is None:
            kept.append(backend)
    there = {_tracker_name(backend) or _foreign_name(backend) for backend in kept}
    kept += [dict(type=f'{SCOPE}.{TYPES[name]}', required=True) for name in names or () if name not in there]
    if names is not None or notes:
        visualizer['vis_backends'] = kept
    return notes


def installed(name: str) -> bool:
    """Whether the package of a tracker is there; it is not imported."""
    try:
        return importlib.util.find_spec(MODULES[name]) is not None
    except (ImportError, ValueError):
        return False


def _counts(state: dict[str, Any], names: Iterable[str]) -> dict[str, int]:
    return {name: step for name in names if isinstance(step := state.get(name), int)}


def _checked_names(log: Sequence[str] | None) -> list[str] | None:
    if log is None:
        return None
    names = list(dict.fromkeys(log))
    for name in names:
        if name not in (*TYPES, 'none'):
            near = difflib.get_close_matches(name, [*TYPES, 'none'], 1)
            hint = f'; did you mean {near[0]}?' if near else f'; choose among {", ".join(TYPES)}, or none'
            place = '; give the config before --log' if name.endswith('.py') else ''
            raise ValueError(f'--log {name}: there is no such tracker{place or hint}')
    if 'none' in names and len(names) > 1:
        raise ValueError(f'--log {" ".join(names)}: none means no tracker at all; leave it out, or the others')
    names = [name for name in names if name != 'none']
    for name in names:
        if not installed(name):
            raise ValueError(f'--log {name}: {MODULES[name]} is not installed; pip install {PACKAGES[name]}, or leave '
                             f'{name} out')
    return names


def _tracker_name(backend: Any) -> str | None:
    kind = backend.get('type') if isinstance(backend, dict) else None
    return next((name for name, known in TYPES.items() if kind == f'{SCOPE}.{known}'), None)


def _foreign_name(backend: Any) -> str | None:
    kind = backend.get('type') if isinstance(backend, dict) else None
    bare = kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
    return next((name for name, known in TYPES.items() if bare == known), None)


def _spoken(name: str) -> str:
    return dict(tensorboard='TensorBoard', wandb='W&B', mlflow='MLflow')[name]


def _named(key: str, kind: str) -> str:
    """Names by kind: MMEngine calls the time of a step and that of a validation batch alike."""
    return key if key.split('/')[0] in ('train', 'val', 'test') else f'{kind}/{key.removeprefix("coco/")}'


def as_number(value: Any) -> float | None:
    """A scalar of any library as a float; None for anything else."""
    if hasattr(value, 'item') and (getattr(value, 'ndim', 0) == 0 or tuple(getattr(value, 'shape', ())) == (1,)):
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) else None


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f'{text[:197]}...'
