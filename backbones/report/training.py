"""The chapter of the training: curves of one run, or of two over each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .curves import Curve, Logs, best_of, epoch_at, rounded, thinned
from .parts import Chart, Facts, Note, Part, Section, Table
from .run_folder import Run

NUMBERS = 60  # rows of the table behind a chart
VALIDATED = re.compile(r'(^|[/_.])(mAP|mIoU|aAcc|mAcc|mDice|mFscore|PQ)(_50|_75)?$|val_loss|^loss')
MARKED = re.compile(r'(^|[/_.])(mAP|mIoU)$|(bbox|segm)_mAP$')  # whose best value gets a star
OTHERS = 'Other logged numbers'
MOST_CURVES = 12  # of one chart; the others are in its table's caption


@dataclass(frozen=True)
class Curves(Chart):
    """A chart over the iterations with a slider that smooths, a switch for the axis and a choice of the curves.

    Attributes:
        names: of the curves, to choose from.
    """

    names: Sequence[str] = ()


@dataclass(frozen=True)
class Trained:
    """A run with its curves, and what it is called where there are two."""

    run: Run
    logs: Logs
    label: str = ''


def training_section(runs: Sequence[Trained]) -> Section:
    """The curves of one run, or of two."""
    parts: list[Part] = []
    for one in runs:
        parts += _remarks(one)
    parts += [_facts(one) for one in runs if one.logs.training]
    charts = [chart for make in (_losses, _validation, _rate, _norms, _speed, _memory, _others)
              if (chart := make(runs))]
    parts += charts
    return Section('training', 'Training', parts)


def _remarks(one: Trained) -> Iterator[Note]:
    logs, who = one.logs, f'{one.label}: ' if one.label else ''
    if not logs.training and not logs.validation:
        yield Note(f'{who}There is no training log here (TIMESTAMP/vis_data/*.json), so there are no curves.')
    if logs.torn:
        lines = 'line of the log is' if logs.torn == 1 else 'lines of the log are'
        yield Note(f'{who}{logs.torn:,} {lines} torn, as a kill leaves them, and left out.')
    if logs.non_finite:
        names = ', '.join(f'{name} ({count:,})' for name, count in list(logs.non_finite.items())[:6])
        yield Note(f'{who}The log holds numbers that are NaN or infinite: {names}. They are gaps in the curves.',
                   'warning')


def _facts(one: Trained) -> Facts:
    logs = one.logs
    last = logs.last_step
    epoch = epoch_at(logs, last)
    rows = [('Last logged', f'iteration {last:,.0f}' + (f', epoch {epoch}' if epoch else ''))]
    if logs.starts:
        rows.append(('Went on from', ', '.join(f'{step:,.0f}' for step in logs.starts)))
    for name, curve in logs.validation.items():
        if MARKED.search(name) and (best := best_of(name, curve)):
            epoch = epoch_at(logs, best[0])
            where = f'iteration {best[0]:,.0f}' + (f', epoch {epoch}' if epoch else '')
            rows.append((f'Best {name.split("/")[-1]} while training', f'{best[1]:.4g} at {where}'))
    return Facts(rows, one.label)


# --- charts -------------------------------------------------------------------------------------------------------


def _chart(
    runs: Sequence[Trained], id_: str, title: str, wanted: Callable[[str], bool], *, caption: str, axis: str,
    validation: bool = False, controls: bool = False, wide: bool = False, log: bool = False,
    shift: Callable[[Trained, str, Curve], Curve] | None = None, name_of: Callable[[str], str] = lambda name: name,
) -> Chart | None:
    """One chart of the curves whose names are wanted; None where there are none."""
    names: list[str] = []
    for one in runs:
        curves = one.logs.validation if validation else one.logs.training
        names += [name for name in curves if wanted(name) and name not in names and curves[name].finite()]
    left_out = names[MOST_CURVES:]
    names = names[:MOST_CURVES]
    if not names:
        return None
    traces, columns = [], []
    for place, name in enumerate(names):
        for number, one in enumerate(runs):
            curve = (one.logs.validation if validation else one.logs.training).get(name)
            if curve is None or not curve.finite():
                continue
            curve = shift(one, name, curve) if shift else curve
            label = name_of(name) + (f' · {one.label}' if one.label else '')
            traces.append(_trace(one, label, name_of(name), place, number, thinned(curve), validation))
            columns.append((label, curve))
            if validation and MARKED.search(name) and (best := best_of(name, curve)):
                traces.append(_star(label, name_of(name), place, best))
    layout = dict(xaxis=dict(title='Iteration'),
                  yaxis=dict(title=axis, type='log' if log else 'linear', exponentformat='e'),
                  hovermode='x unified', showlegend=len(traces) > 1)
    if left_out:
        caption += f' Not drawn: {", ".join(left_out[:8])}{", ..." if len(left_out) > 8 else ""}.'
    if len(names) == 1 and title == OTHERS:
        title = f'{title}: {name_of(names[0])}'
    figure = dict(data=traces, layout=layout)
    given = dict(id=id_, title=title, figure=figure, caption=caption, table=_table(title, columns), wide=wide)
    return Curves(**given, names=[name_of(name) for name in names]) if controls else Chart(**given)


def _trace(
    one: Trained, label: str, group: str, place: int, number: int, curve: Curve, markers: bool
) -> dict[str, Any]:
    epochs = [epoch_at(one.logs, step) for step in curve.steps] if one.logs.epochs else []
    several = any(epoch is not None for epoch in epochs)
    hover = '%{y:.5g}' + (' (epoch %{customdata})' if several else '')
    trace = dict(
        type='scatter', mode='lines+markers' if markers or len(curve.steps) < 3 else 'lines', name=label,
        legendgroup=group, x=curve.steps, y=rounded(curve.values), hovertemplate=hover, connectgaps=False,
        line=dict(width=1.6, dash='dot' if number else 'solid'), marker=dict(size=6), meta=dict(color=place))
    if several:
        trace['customdata'] = epochs
    return trace


def _star(label: str, group: str, place: int, best: tuple[float, float]) -> dict[str, Any]:
    return dict(
        type='scatter', mode='markers', name=f'best {label}', legendgroup=group, x=[best[0]], y=rounded([best[1]]),
        marker=dict(symbol='star', size=14), hoverinfo='skip', showlegend=False, meta=dict(color=place))


def _table(title: str, columns: Sequence[tuple[str, Curve]]) -> Table:
    """Every so many-th step of the curves; the last one always."""
    steps = sorted({step for _, curve in columns for step in curve.steps})
    number = len(steps)
    if number > NUMBERS:
        steps = [steps[round(place * (number - 1) / (NUMBERS - 1))] for place in range(NUMBERS)]
    known = [dict(zip(curve.steps, curve.values, strict=True)) for _, curve in columns]
    rows = [[int(step) if step == int(step) else step, *(values.get(step) for values in known)] for step in steps]
    caption = f'{len(steps)} of {number:,} logged steps.' if number > len(steps) else ''
    return Table(title, ['Iteration', *(label for label, _ in columns)], rows, ['d', *['.4g'] * len(columns)], caption,
                 NUMBERS)


def _losses(runs: Sequence[Trained]) -> Chart | None:
    return _chart(runs, 'losses', 'Losses', lambda name: 'loss' in name.lower(), axis='Loss', controls=True, wide=True,
                  caption='As logged. The slider smooths with an exponential mean; the thin line is what was logged.'
                  + (f' Solid: {runs[0].label}; dotted: {runs[1].label}.' if len(runs) > 1 else ''))


def _validation(runs: Sequence[Trained]) -> Chart | Table | None:
    several = any(len(curve.finite()) > 1 for one in runs for curve in one.logs.validation.values())
    if not several:
        return _validated_once(runs)
    return _chart(runs, 'validation', 'Validation while training', lambda name: bool(VALIDATED.search(name)),
                  axis='Value', validation=True, wide=True, name_of=lambda name: name.split('/')[-1],
                  caption='On the validation data, at each validation; a star marks the best.')


def _validated_once(runs: Sequence[Trained]) -> Table | None:
    names = list(dict.fromkeys(name for one in runs for name, curve in one.logs.validation.items() if curve.finite()))
    if not names:
        return None
    rows = [[name.split('/')[-1], *(_only(one, name) for one in runs)] for name in names]
    steps = {curve.finite()[0][0] for one in runs for curve in one.logs.validation.values() if curve.finite()}
    where = f' at iteration {min(steps):,.0f}' if len(steps) == 1 else ''
    return Table('Validation while training', ['Number', *(one.label or 'Value' for one in runs)], rows,
                 ['', *['.4g'] * len(runs)], f'There was one validation{where}.')


def _only(one: Trained, name: str) -> float | None:
    curve = one.logs.validation.get(name)
    return curve.finite()[0][1] if curve and curve.finite() else None


def _rate(runs: Sequence[Trained]) -> Chart | None:
    same = all(one.logs.training.get('base_lr') is None or one.logs.training['base_lr'].values
               == getattr(one.logs.training.get('lr'), 'values', None) for one in runs)
    wanted = ('lr',) if same else ('lr', 'base_lr')
    return _chart(runs, 'learning-rate', 'Learning rate', lambda name: name in wanted, axis='Learning rate',
                  caption='Of the first parameter group.' if same else 'lr is of the first parameter group.')


def _norms(runs: Sequence[Trained]) -> Chart | None:
    return _chart(runs, 'gradient', 'Gradient norm', lambda name: name == 'grad_norm', axis='Norm', log=_spread(runs),
                  caption='Before clipping. A rise that stays is a sign of a learning rate that is too high.')


def _spread(runs: Sequence[Trained]) -> bool:
    """Whether the gradient norms span so much that a linear axis would hide most of them."""
    values = [value for one in runs if (curve := one.logs.training.get('grad_norm')) for _, value in curve.finite()]
    return bool(values) and min(values) > 0 and max(values) > 100 * sorted(values)[len(values) // 2]


def _speed(runs: Sequence[Trained]) -> Chart | None:
    per_step = [images_per_step(one.run) for one in runs]
    words = [f'{one.label + ": " if one.label else ""}{_mean_speed(one, images)}'
             for one, images in zip(runs, per_step, strict=True) if one.logs.training.get('time')]
    caption = 'Seconds an iteration, and how much of it waits for data. ' + ' '.join(word for word in words if word)
    return _chart(runs, 'speed', 'Time of an iteration', lambda name: name in ('time', 'data_time'), axis='Seconds',
                  caption=caption.strip(),
                  name_of=lambda name: dict(time='iteration', data_time='waiting for data')[name])


def _mean_speed(one: Trained, images: int | None) -> str:
    times = sorted(value for _, value in one.logs.training['time'].finite() if value > 0)
    if not times:
        return ''
    median = times[len(times) // 2]
    rate = f', {images / median:.4g} images a second' if images else ''
    return f'Median: {median:.3g} s{rate}.'


def images_per_step(run: Run) -> int | None:
    """Images that all processes together take in one iteration; None where it is not known."""
    loader = (run.config or {}).get('train_dataloader')
    batch = loader.get('batch_size') if isinstance(loader, Mapping) else None
    world = run.record.get('world_size', 1)
    return batch * world if isinstance(batch, int) and isinstance(world, int) and batch > 0 else None


def _memory(runs: Sequence[Trained]) -> Chart | None:
    return _chart(runs, 'memory', 'GPU memory', lambda name: name == 'memory', axis='MB',
                  caption='The most that tensors took so far.')


def _others(runs: Sequence[Trained]) -> Chart | None:
    known = {'lr', 'base_lr', 'grad_norm', 'time', 'data_time', 'memory'}
    return _chart(runs, 'other-numbers', OTHERS,
                  lambda name: name not in known and 'loss' not in name.lower() and not name.startswith('lr'),
                  axis='Value', caption='Such as the accuracy of a head on the batches of the training.')
