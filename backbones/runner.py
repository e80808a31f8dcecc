"""Build MMEngine's Runner so that a mistake in the config is one ValueError before the first step."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, Registry
from mmengine.runner import Runner

from backbones import registry
from backbones.registry import SCOPE
from backbones.signatures import argument_names
from backbones.training.hooks import NothingLeftHook


def build_runner(cfg: Config, splits: tuple[str, ...] = ('train', 'val'), *, records: bool = True) -> Runner:
    """Build the Runner, the model and the data sets of `splits`; a mistake in the config becomes one ValueError.

    Args:
        cfg: as composed for training or testing.
        splits: whose data sets are built.
        records: whether config and environment are written to the work folder and the log, which takes seconds.
    """
    with config_mistakes(cfg):
        kind = (Runner if 'train' in splits else _TestRunner) if records else _SilentRunner
        runner = kind.from_cfg(cfg)
        for split in splits:
            try:
                getattr(runner, f'{split}_loop')  # a property that builds the loop with its data set
            except FileNotFoundError:  # after the data set, which explains what it misses
                _check_annotation_file(cfg, f'{split}_evaluator')
                raise
        if 'train' in splits:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            _check_schedulers(cfg)
            runner.register_hook(NothingLeftHook())
    return runner


class _TestRunner(Runner):
    """A Runner that leaves the config of a training in its work folder as it is."""

    def dump_config(self) -> None:
        """Write the config unless one of its name is there; `<time>/vis_data/config.py` holds that of every run."""
        if self.cfg.filename is None or not (Path(self.work_dir) / Path(self.cfg.filename).name).exists():
            super().dump_config()


class _SilentRunner(Runner):
    """A Runner that is looked at, and does not run."""

    def dump_config(self) -> None:
        """Write nothing."""

    def _log_env(self, env_cfg: dict) -> None:
        """Log nothing."""


@contextlib.contextmanager
def config_mistakes(cfg: Config) -> Iterator[None]:
    """Turn what MMEngine raises about a config into one ValueError that names the config and what is near.

    Raises:
        ValueError: in place of a KeyError, TypeError, AssertionError or OSError.
    """
    try:
        yield
    except (KeyError, TypeError, AssertionError, OSError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error) or f'an assertion failed ({_place(error)})'
        hint = _near_name(text) or _near_argument(text, error.__traceback__)
        raise ValueError(f'config {cfg.filename} cannot be built: {text}{hint}') from error


def _check_annotation_file(cfg: Config, name: str) -> None:
    """Refuse an evaluator whose local annotation file is not there."""
    evaluators = cfg.get(name) or []
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        file = evaluator.get('ann_file')
        if file and '://' not in file and not Path(file).is_file():
            raise ValueError(
                f'{name}.ann_file={file!r} does not exist; name the annotation file of the data set it scores '
                '(data/README.md shows the layouts)'
            )


def _near_name(text: str) -> str:
    """For MMEngine's message about a misspelt type of our scope, the nearest name and all that there are."""
    found = re.match(rf'{SCOPE}\.(\w+) is not in the \S+::([\w ]+) registry', text)
    registries = {kind.name: kind for kind in vars(registry).values() if isinstance(kind, Registry)}
    if found is None or found[2] not in registries:
        return ''
    names = sorted(registries[found[2]].module_dict)
    near = difflib.get_close_matches(found[1], names, 1)
    hint = f' Did you mean {SCOPE}.{near[0]}?' if near else ''
    return f'{hint} {SCOPE} has {", ".join(names)}.'


def _near_argument(text: str, trace: TracebackType | None) -> str:
    """For Python's message about an unexpected keyword argument, the nearest arguments of the class, or all of them."""
    found = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", text)
    if found is None:
        return ''
    names: set[str] = set()
    while trace is not None:  # the class that the config names is a local of MMEngine's builder; the innermost counts
        built = trace.tb_frame.f_locals.get('obj_cls')
        if callable(built) and found[1] in (cls.__name__ for cls in getattr(built, '__mro__', (built,))):
            names = set(argument_names(built))
        trace = trace.tb_next
    near = difflib.get_close_matches(found[2], names, 3)
    if near:
        return f'. Did you mean {" or ".join(near)}?'
    return f'. Allowed are {", ".join(sorted(names))}.' if names else ''


def _place(error: BaseException) -> str:
    """File and line where `error` was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f'{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}' if trace else 'unknown place'


def _check_schedulers(cfg: Config) -> None:
    """Refuse an unknown scheduler here: the Runner builds them only when training starts."""
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list | tuple) else [schedulers]:
        if PARAM_SCHEDULERS.get(scheduler['type']) is None:
            raise KeyError(f"param_scheduler type={scheduler['type']!r} is unknown to MMEngine")
