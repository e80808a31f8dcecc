"""The learning rate of every iteration of a config, from MMEngine's own schedulers, and what is wrong with it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import mmengine.optim  # noqa: F401, registers the schedulers
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from backbones.known_images import known_images

ZERO_SHARE = 0.01  # of the iterations, or one, may have a rate of zero: the last of a decay to zero has it


def schedulers(cfg: Config) -> list[dict]:
    """The schedulers of a config, which may state none, one, or a list of them."""
    given = cfg.get('param_scheduler') or []
    return list(given) if isinstance(given, list | tuple) else [given]


def steps_per_epoch(cfg: Config) -> int:
    """Optimiser steps of an epoch; of a data set of unknown size, those of 1000 batches."""
    loader = cfg.get('train_dataloader') or {}
    known = known_images(loader.get('dataset') or {})
    batch = cfg.get('total_batch') or loader.get('batch_size')
    return -(-known[0] // batch) if known else 1000


def total_steps(cfg: Config) -> int:
    """Optimiser steps of the whole training."""
    loop = cfg.train_cfg
    return loop.max_iters if 'max_iters' in loop else loop.max_epochs * steps_per_epoch(cfg)


def lr_factors(cfg: Config) -> np.ndarray:
    """Learning rate over base learning rate of every step, (steps,)."""
    settings = json.dumps([dict(scheduler) for scheduler in schedulers(cfg)], sort_keys=True)
    return _simulated(settings, total_steps(cfg), steps_per_epoch(cfg))


@functools.cache
def _simulated(settings: str, steps: int, epoch: int) -> np.ndarray:
    """Step MMEngine's schedulers as its ParamSchedulerHook does: after every iteration, or after every epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    by_iteration, by_epoch = [], []
    for arguments in json.loads(settings):
        converts = arguments.pop('convert_to_iter_based', False)
        kind = PARAM_SCHEDULERS.get(arguments.pop('type'))
        if converts:
            built = kind.build_iter_from_epoch(optimizer=optimizer, epoch_length=epoch, **arguments)
        else:
            built = kind(optimizer=optimizer, **arguments)
        (by_epoch if built.by_epoch else by_iteration).append(built)
    optimizer.step()  # torch warns of a scheduler that steps first
    factors = np.empty(steps)
    for step in range(steps):
        factors[step] = optimizer.param_groups[0]['lr']
        for scheduler in by_iteration:
            scheduler.step()
        if (step + 1) % epoch == 0:
            for scheduler in by_epoch:
                scheduler.step()
    return factors


def warmup_note(cfg: Config, steps: int) -> list[str]:
    """A line for the log where a warm-up takes more than a tenth of a run of `steps` optimiser steps."""
    ends = [scheduler.get('end') for scheduler in schedulers(cfg)
            if scheduler['type'] == 'LinearLR' and not scheduler.get('by_epoch', True)]
    longest = max((end for end in ends if end), default=0)
    if 10 * longest <= steps:
        return []
    return [
        f'the warm-up takes {longest} steps and the run has {steps}: the learning rate is below what the config says '
        f'for {"all of it" if longest >= steps else f"{longest / steps:.0%} of it"}; train longer, or shorten the '
        'warm-up (param_scheduler.0.end)'
    ]


def schedule_findings(cfg: Config) -> Iterator[str]:
    """Say where the schedule and the training do not fit: ends, stretches of zero, rates above the base rate."""
    steps, epoch = total_steps(cfg), steps_per_epoch(cfg)
    ends = []
    for place, scheduler in enumerate(schedulers(cfg)):
        unit = epoch if scheduler.get('by_epoch', True) else 1
        begin, end = scheduler.get('begin', 0) * unit, scheduler.get('end')
        ends.append(steps if end is None else end * unit)
        if begin >= steps:
            yield (
                f'param_scheduler[{place}] ({scheduler["type"]}) begins at step {begin} and the training ends at '
                f'{steps}: it never acts; correct its begin, or train longer'
            )
        late = [mark for mark in scheduler.get('milestones', []) if mark * unit >= steps]
        if late:
            yield (
                f'param_scheduler[{place}] ({scheduler["type"]}) has the milestones {late} at or after the end of the '
                'training: the learning rate never falls there; correct them'
            )
    if ends and max(ends) != steps:
        when = 'before' if max(ends) < steps else 'after'
        yield (
            f'the schedule ends {when} the training: step {max(ends)} against {steps}; make the end of '
            'param_scheduler and of train_cfg equal'
        )
    factors = lr_factors(cfg)
    zero = int((factors == 0).sum())
    if zero > max(1, ZERO_SHARE * steps):
        yield (
            f'the learning rate is zero in {zero} of {steps} steps ({zero / steps:.0%}), first at step '
            f'{int((factors == 0).argmax())}: nothing is learnt there; let param_scheduler end with the training'
        )
    if factors.max() > 1 + 1e-6:
        yield (
            f'the learning rate rises to {factors.max():g} times optimizer.lr; correct the schedulers, whose factors '
            'multiply'
        )
