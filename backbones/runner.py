"""Build MMEngine's Runner so that a mistake in the config is one ValueError before the first step."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner


def build_runner(cfg: Config, splits: tuple[str, ...] = ('train', 'val')) -> Runner:
    """Build the Runner, the model and the data sets of `splits`; a mistake in the config becomes one ValueError."""
    try:
        runner = Runner.from_cfg(cfg)
        for split in splits:
            getattr(runner, f'{split}_loop')  # a property that builds the loop with its data set
        if 'train' in splits:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            _check_schedulers(cfg)
    except (KeyError, TypeError, AssertionError, OSError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error) or f'an assertion failed ({_place(error)})'
        raise ValueError(f'config {cfg.filename} cannot be built: {text}') from error
    return runner


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
