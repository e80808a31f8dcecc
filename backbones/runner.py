"""Build MMEngine's Runner so that a mistake in the config is one ValueError before the first step."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, Registry
from mmengine.runner import Runner

from backbones import registry
from backbones.registry import SCOPE


def build_runner(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> Runner:
    """Build the Runner, the model and the data sets of `splits`; a mistake in the config becomes one ValueError."""
    for split in {*splits} & {'val', 'test'}:
        _check_annotation_file(cfg, f'{split}_evaluator')
    try:
        runner = Runner.from_cfg(cfg)
        for split in splits:
            getattr(runner, f'{split}_loop')  # a property that builds the loop with its data set
        if 'train' in splits:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            _check_schedulers(cfg)
    except (KeyError, TypeError, AssertionError, OSError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error) or f'an assertion failed ({_place(error)})'
        raise ValueError(f'config {cfg.filename} cannot be built: {text}{_near_name(text)}') from error
    return runner


def _check_annotation_file(cfg: Config, name: str) -> None:
    """Refuse an evaluator whose local annotation file is not there."""
    evaluators = cfg.get(name) or []
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        file = evaluator.get('ann_file')
        if file and '://' not in file and not Path(file).is_file():
            raise ValueError(
                f'{name}.ann_file={file!r} does not exist; name the annotation file of the data set it scores'
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
