"""The learning rate of every iteration of a built run, and when it evaluates and saves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from backbones.findings import Finding, Outcome
from backbones.preflight.drawing import BLUE, GREY, ORANGE, svg_of
from backbones.preflight.recipe import images_per_step
from backbones.recipes.facts import schedule_of, warmup_of
from backbones.recipes.lookup import bare_name
from backbones.recipes.schedule import ZERO_SHARE, lr_factors, schedule_findings, schedulers, warmup_note

POINTS = 2000  # of the curve: more than a screen has columns
END_TOLERANCE = 0.01  # of the training: 7330 * 36 is written 263,880 or 264,000
BEND = 1e-5  # second difference over the highest rate: a corner, which no cosine of more than 2000 iterations has
# Evaluating an image takes a third of training on it, about; beyond three for each trained one, it takes half the time
EVALUATED_PER_TRAINED = 3
HAS_FALLEN, ENDS_HIGH = 0.1, 0.5  # of the highest learning rate
NEGLIGIBLE = 1e-4  # of the highest learning rate; MMEngine's cosine ends at some 1e-6 of it, not at zero
LENGTHS = ('begin', 'end', 'milestones', 'step_size', 'T_max', 'total_iters', 'total_steps')  # counted in epochs
ZERO_RATE = 'learning rate is zero'
# Parts of what `schedule_findings` says -> kind and severity of the finding
KINDS = (
    ('is zero in', ZERO_RATE, 'error'),
    ('rises to', 'learning rate above the base rate', 'warning'),
    ('it never acts', 'scheduler never acts', 'warning'),
    ('milestones', 'milestones after the end', 'warning'),
    ('the schedule ends', 'end of the schedule', 'warning'),
)


def check_schedule(runner: Runner) -> Outcome:
    """Say what the learning rate does from the first to the last iteration, and where that cannot be meant."""
    steps, epoch = int(runner.max_iters), max(len(runner.train_loop.dataloader), 1)
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    base = float((runner.cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('lr', 0.0))
    length = f'{steps:,} iterations' + (f' = {runner.max_epochs} epochs of {epoch:,}' if by_epoch else '')
    outcome = Outcome('schedule', length, figures=dict(iterations=steps, epoch=epoch, base_lr=base))
    if steps <= 0:
        outcome.findings.append(Finding('error', 'no iterations', f'the training has {steps} iterations',
                                        'set train_cfg.max_iters or max_epochs to 1 or more', field='train_cfg'))
        return outcome
    if not schedulers(runner.cfg):
        outcome.summary += f'; the learning rate stays at {base:g}'
        outcome.findings.append(Finding(
            'note', 'no schedule', f'there is no param_scheduler: the learning rate stays at {base:g} to the end',
            field='param_scheduler'))
        factors = np.ones(steps)
    elif 'ReduceOnPlateau' in str(schedulers(runner.cfg)):
        outcome.summary += '; the learning rate follows the scores of the validation'
        return outcome
    else:
        try:
            view = in_iterations(runner.cfg, steps, epoch)
            factors = lr_factors(view)
            outcome.findings += _of_schedule(view, steps)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, AssertionError) as error:
            outcome.findings.append(Finding(
                'warning', 'schedule', f'the learning rate cannot be worked out: {type(error).__name__}: {error}',
                'correct the arguments of param_scheduler', field='param_scheduler'))
            return outcome
        outcome.findings += _after_the_end(factors, {finding.kind for finding in outcome.findings})
        outcome.findings += _rises_again(factors, view)
        outcome.findings += _warmup(runner.cfg, view, steps)
        outcome.summary += f'; {_words(factors, base)}'
    outcome.figures.update(curve(factors, base))
    outcome.figures['zero_iterations'] = max(int((factors == 0).sum()), _idle_tail(factors))
    return outcome


def in_iterations(cfg: Config, steps: int, epoch: int) -> Config:
    """A config whose lengths are those of the built run: iterations in place of epochs of unknown length.

    Args:
        cfg: the config of the run; not changed.
        steps: iterations of the training.
        epoch: iterations of an epoch.
    """
    found = []
    base = float((cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('lr') or 1.0)
    for scheduler in schedulers(cfg):
        own = {key: value for key, value in dict(scheduler).items() if key != 'convert_to_iter_based'}
        if re.search('Momentum|Betas', bare_name(own['type'])):
            continue
        for key in {'eta_min', 'eta_max'} & set(own):  # absolute, and the simulated learning rate is 1
            own[key] = own[key] / base
        if own.get('by_epoch', True):
            for key in LENGTHS:
                value = own.get(key)
                if isinstance(value, list | tuple):
                    own[key] = [mark * epoch for mark in value]
                elif isinstance(value, int) and not isinstance(value, bool):
                    own[key] = value * epoch
            if 'Exponential' in str(own['type']) and 'gamma' in own:
                own['gamma'] = own['gamma'] ** (1 / epoch)
            own['by_epoch'] = False
        end = own.get('end')
        if isinstance(end, int) and end != steps and abs(end - steps) <= END_TOLERANCE * steps:
            own['end'] = steps
        found.append(own)
    return Config(dict(train_cfg=dict(max_iters=steps), param_scheduler=found))


def _of_schedule(view: Config, steps: int) -> Iterator[Finding]:
    """What the recipes' own check says, as findings; of a warm-up beyond the end, `_warmup` speaks."""
    ends = [dict(one, end=min(one['end'], steps)) if bare_name(one['type']) == 'LinearLR' and isinstance(
        one.get('end'), int) else one for one in view.param_scheduler]
    for text in schedule_findings(Config(dict(train_cfg=view.train_cfg, param_scheduler=ends))):
        if 'rises to' in text and any(bare_name(one['type']) == 'OneCycleLR' for one in ends):
            continue  # it is meant to
        kind, severity = next(((kind, severity) for part, kind, severity in KINDS if part in text),
                              ('schedule', 'warning'))
        what, _, remedy = text.rpartition('; ')
        place = re.match(r'param_scheduler\[\d+\]', text)
        yield Finding(severity, kind, what or remedy, remedy if what else '',
                      field=place[0] if place else 'param_scheduler')


def _idle_tail(factors: np.ndarray) -> int:
    """Iterations at the end whose learning rate stays at the same next to nothing."""
    if factors[-1] > NEGLIGIBLE * factors.max():
        return 0
    other = np.flatnonzero(factors != factors[-1])
    idle = len(factors) - 1 - int(other[-1]) if len(other) else len(factors)
    return idle if idle > 1 else 0  # the last of a decay to zero has it


def _after_the_end(factors: np.ndarray, said: set[str]) -> Iterator[Finding]:
    """A rate next to zero that stays when the schedule has ended."""
    steps, idle = len(factors), _idle_tail(factors)
    if idle > max(1, ZERO_SHARE * steps) and ZERO_RATE not in said:
        yield Finding(
            'error', ZERO_RATE,
            f'the learning rate stays at {factors[-1] / factors.max():.1g} of its highest in the last {idle:,} of '
            f'{steps:,} iterations ({idle / steps:.0%}): nothing is learnt there',
            'let param_scheduler end with the training', field='param_scheduler')


def _rises_again(factors: np.ndarray, view: Config) -> Iterator[Finding]:
    """A rate that has fallen and ends high, as a cosine does beyond its T_max; but not where it is meant to."""
    if any(re.search('Restart|OneCycle|Cyclic', bare_name(one['type'])) for one in view.param_scheduler):
        return
    top = int(factors.argmax())
    lowest = top + int(factors[top:].argmin())
    if factors[-1] > ENDS_HIGH * factors[top] and factors[lowest] < HAS_FALLEN * factors[top]:
        yield Finding(
            'warning', 'learning rate rises again',
            f'the learning rate falls to {factors[lowest] / factors[top]:.1g} of its highest at iteration {lowest:,} '
            f'and is back at {factors[-1] / factors[top]:.0%} of it at the end',
            'let T_max be the length of the schedule (end less begin)', field='param_scheduler')


def _warmup(cfg: Config, view: Config, steps: int) -> Iterator[Finding]:
    """A warm-up that takes much of the training, unless the recipe has exactly that."""
    if 'max_iters' in cfg.train_cfg and isinstance(cfg.get('card'), Mapping):
        said = cfg.card.get('warmup'), cfg.card.get('schedule')
        try:
            if said == (warmup_of(cfg), schedule_of(cfg)):
                return
        except (KeyError, TypeError, AttributeError, ValueError):  # a schedule that cards have no words for
            pass
    for text in warmup_note(view, steps):
        what, _, remedy = text.rpartition('; ')
        yield Finding('warning', 'long warm-up', what, remedy, field='param_scheduler.0.end')


def _words(factors: np.ndarray, base: float) -> str:
    top = int(factors.argmax())
    start = f'from {base * factors[0]:.3g} ' if factors[0] < factors[top] else ''
    return f'lr {start}to {base * factors[top]:.3g} at iteration {top:,}, {base * factors[-1]:.3g} at the end'


def curve(factors: np.ndarray, base: float) -> dict[str, Any]:
    """The learning rate at no more than `POINTS` iterations, those where it bends or jumps among them."""
    steps = len(factors)
    if steps <= POINTS:
        kept = np.arange(steps)
    else:
        bends = np.flatnonzero(np.abs(np.diff(factors, 2)) > BEND * max(float(factors.max()), 1e-30)) + 1
        bends = bends[: POINTS // 4]
        marks = [np.linspace(0, steps - 1, POINTS // 2).astype(int), bends, bends + 1]
        kept = np.unique(np.concatenate(marks).clip(0, steps - 1))[:POINTS]
    return dict(iteration=kept.tolist(), lr=[float(f'{base * value:.6g}') for value in factors[kept]])


# --- evaluation and checkpoints -----------------------------------------------------------------------------


def check_intervals(runner: Runner) -> Outcome:
    """Say when the run evaluates and saves: never, and more often than it trains, are findings."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    length, unit = (loop.max_epochs, 'epoch') if by_epoch else (loop.max_iters, 'iteration')
    outcome = Outcome('evaluation and checkpoints', figures=dict(length=length, unit=unit))
    summary = []
    if runner.val_loop is None:
        summary.append('no evaluation')
        outcome.findings.append(Finding(
            'note', 'no evaluation', 'the config has no val_dataloader: the training is not evaluated',
            field='val_cfg'))
    else:
        summary.append(_evaluation(runner, by_epoch, length, unit, outcome))
    summary.append(_saving(runner, length, unit, outcome))
    outcome.summary = '; '.join(summary)
    return outcome


def _evaluation(runner: Runner, by_epoch: bool, length: int, unit: str, outcome: Outcome) -> str:
    loop, field = runner.train_loop, 'train_cfg.val_interval'
    interval, begin = loop.val_interval, loop.val_begin
    if not isinstance(interval, int) or not isinstance(begin, int):
        outcome.findings.append(Finding(
            'error', 'never evaluates', f'train_cfg.val_interval={interval!r} and val_begin={begin!r} must be whole '
            'numbers', f'count {unit}s', field=field, value=interval))
        return 'the interval of the evaluation is no number'
    images = len(runner.val_loop.dataloader.dataset)
    times = sum(1 for at in {*range(interval, length + 1, interval), length} if at >= begin) if interval > 0 else 0
    outcome.figures.update(val_interval=interval, evaluations=times, val_images=images)
    if interval <= 0 or begin > length:
        outcome.findings.append(Finding(
            'warning', 'never evaluates',
            f'train_cfg.val_interval={interval}, val_begin={begin} and a training of {length} {unit}s: the training is '
            'never evaluated', f'set val_interval to 1 to {length} and val_begin below', field=field, value=interval))
        return 'never evaluates'
    between = interval * (len(runner.train_loop.dataloader.dataset) if by_epoch else images_per_step(runner))
    if times > 1 and images > EVALUATED_PER_TRAINED * between:
        better = interval * math.ceil(images / (EVALUATED_PER_TRAINED * between))
        spelled = f'{interval:,} {unit}{"s" if interval > 1 else ""}'
        outcome.findings.append(Finding(
            'warning', 'evaluates often',
            f'{images:,} images are evaluated after every {between:,} trained ones ({spelled}): most of the time goes '
            'into evaluation', f'set {field} to {better} or more', field=field, value=interval))
    elif times == 1 and interval > length:
        outcome.findings.append(Finding(
            'warning', 'evaluates at the end only',
            f'train_cfg.val_interval={interval} is beyond the training of {length} {unit}s: it is evaluated once, at '
            'the end', f'count {unit}s: set it to 1 to {length}', field=field, value=interval))
    if times == 1:
        return 'evaluates once, at the end'
    return f'evaluates {times} times, every {interval:,} {unit}s' if interval > 1 else f'evaluates every {unit}'


def _saving(runner: Runner, length: int, unit: str, outcome: Outcome) -> str:
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    field = 'default_hooks.checkpoint'
    if not hooks:
        outcome.findings.append(Finding(
            'warning', 'nothing is saved', 'no hook saves checkpoints: the training leaves nothing behind',
            "set default_hooks.checkpoint=dict(type='backbones.SafeCheckpointHook', interval='validation')",
            field=field))
        return 'nothing is saved'
    hook = hooks[0]
    if getattr(hook, '_follows_validation', False):
        return f'saves with every evaluation{_best(hook)}'
    interval = hook.interval
    by_epoch = unit == 'epoch' if getattr(hook, '_counts_as_loop', False) else hook.by_epoch
    if by_epoch != (unit == 'epoch'):  # it counts in the other unit
        epoch = max(len(runner.train_loop.dataloader), 1)
        length = runner.max_iters if unit == 'epoch' else max(length // epoch, 1)
        unit = 'iteration' if unit == 'epoch' else 'epoch'
    outcome.figures['save_interval'] = interval
    on_the_way = 0 < interval <= length
    if not on_the_way and not hook.save_last:
        outcome.findings.append(Finding(
            'warning', 'nothing is saved',
            f'{field}.interval={interval} in a training of {length} {unit}s, and save_last=False: no checkpoint is '
            'written', f'set interval to 1 to {length}', field=f'{field}.interval', value=interval))
        return 'nothing is saved'
    if not on_the_way:
        outcome.findings.append(Finding(
            'warning', 'saves at the end only',
            f'{field}.interval={interval} in a training of {length} {unit}s: what is interrupted starts anew',
            f'set interval to 1 to {length}', field=f'{field}.interval', value=interval))
        return 'saves at the end'
    return f'saves every {interval:,} {unit}{"s" if interval > 1 else ""}{_best(hook)}'


def _best(hook: CheckpointHook) -> str:
    best = getattr(hook, 'save_best', None)
    return f', and the best {best if isinstance(best, str) else ", ".join(best)}' if best else ''


# --- picture ------------------------------------------------------------------------------------------------


def draw_schedule(figures: Mapping[str, Any]) -> str:
    """The learning rate over the iterations as SVG text: all of it, and the warm-up enlarged."""
    steps, rates = np.asarray(figures['iteration']), np.asarray(figures['lr'])
    total = int(figures['iterations'])
    first_top = int(steps[int(rates.argmax())]) if len(steps) else 0
    starts = 0 < first_top < 0.1 * total  # a warm-up too short to be seen in the whole

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2, width_ratios=(3, 1)) if starts else [figure.subplots()]
        axes[0].plot(steps, rates, color=BLUE, linewidth=1.6)
        axes[0].fill_between(steps, rates, color=BLUE, alpha=0.12, linewidth=0)
        axes[0].set_title('learning rate by iteration')
        if starts:
            inside = np.arange(len(steps)) <= np.searchsorted(steps, 2 * first_top)
            axes[1].plot(steps[inside], rates[inside], color=ORANGE, linewidth=1.6)
            axes[1].set_title('its start')
            axes[1].tick_params(labelleft=False)
            axes[1].set_xlim(0, 2 * first_top)
        for axis in axes:
            axis.set_ylim(0, max(float(rates.max(initial=0.0)), 1e-12) * 1.08)
            axis.xaxis.set_major_locator(_locator(axis is not axes[0]))
            axis.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
            axis.yaxis.set_major_formatter(lambda value, _: f'{value:.3g}')
            axis.grid(axis='y', color=GREY, alpha=0.3, linewidth=0.6)
        axes[0].set_xlim(0, max(total - 1, 1))

    return svg_of(draw, 9.0 if starts else 7.0, 2.8)


def _locator(small: bool) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=2 if small else 6, integer=True)
