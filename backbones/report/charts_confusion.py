"""The confusion matrix, of objects or of pixels.

What is right, what is taken for another class, and what is missed or invented have a colour each, each with its own
scale: of a detector, what is missed would else outshine all confusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .charts_figures import BLUE, VERMILION, axis_names, escaped, figure, plotted, see_through
from .parts import Chart

MOST_CLASSES = 40  # in a matrix; of more, those that are confused most
CONFUSED_CLASSES = 25
MOST_NUMBERS = 12  # classes up to which the numbers stand in the cells
MOST_PAIRS = 50
CELL = 26  # pixels of a row
SLIGHT, DEEPEST = 0.08, 0.75  # parts of its colour that the smallest and the largest number have; text stays legible
LEAST_DEEPEST = 10  # percent: a few confusions are not drawn as if they were many
GREY = '#808080'


def confused_pairs(counts: Sequence[Sequence[int]], classes: int) -> list[tuple[int, int, int]]:
    """True class, class it was taken for, how often: the most frequent first; only of the first `classes`."""
    found = [(true, taken, number) for true, row in enumerate(counts[:classes])
             for taken, number in enumerate(row[:classes]) if number and taken != true]
    return sorted(found, key=lambda one: -one[2])


def chosen_classes(counts: Sequence[Sequence[int]], classes: int) -> list[int]:
    """Classes of the matrix: all, or those of the most frequent confusions, in their own order."""
    if classes <= MOST_CLASSES:
        return list(range(classes))
    chosen: set[int] = set()
    for true, taken, _ in confused_pairs(counts, classes):
        if len(chosen | {true, taken}) > CONFUSED_CLASSES:
            break
        chosen |= {true, taken}
    if not chosen:  # nothing is confused: the classes with the most objects
        chosen |= set(sorted(range(classes), key=lambda k: -sum(counts[k]))[:CONFUSED_CLASSES])
    return sorted(chosen)


def confusion_chart(
    id_: str, counts: Sequence[Sequence[int]], names: Sequence[str], *, unit: str, verb: str, extra: bool, caption: str,
    **rest: Any,
) -> Chart | None:
    """The matrix in percent of what is there.

    Args:
        id_: of the chart.
        counts: (K, K), or with `extra` (K + 1, K + 1): row: what is there, column: what was found.
        names: of the K classes.
        unit: that is counted: 'object'.
        verb: 'detected as'.
        extra: the last row and column are background: what was found where nothing is, and what was missed.
        caption: what it is of.
        **rest: of `Chart`.

    Returns:
        None where there is nothing to show.
    """
    number = len(names)
    rows = chosen_classes(counts, number)
    if not any(map(any, counts)) or not rows:
        return None
    columns = rows + [number] * extra
    labels = axis_names(names[k] for k in rows)
    x, y = labels + ['missed'] * extra, labels + ['background'] * extra
    while len(set(x)) < len(x) or len(set(y)) < len(y):  # a class may be called so
        x, y = [*x[:-1], f'({x[-1]})'], [*y[:-1], f'({y[-1]})']
    shares, hover = [], []
    for true in columns:
        total = sum(counts[true])
        parts = [100 * counts[true][taken] / total if counts[true][taken] else None for taken in columns]
        shares.append(parts)
        hover.append([None if part is None else _hover(counts, names, true, taken, part, unit, verb)
                      for part, taken in zip(parts, columns, strict=True)])
    kinds = [[GREY if number in (true, taken) else BLUE if true == taken else VERMILION for taken in columns]
             for true in columns]
    data = [_cells(name, shares, kinds, x, y, hover, color, most) for name, color, most in (
        ('right', BLUE, 100), ('taken for another', VERMILION, None), ('missed, or of nothing', GREY, 100))]
    if len(columns) <= MOST_NUMBERS:
        data.append(_numbers(shares, x, y))
    axis = dict(type='category', showgrid=False, zeroline=False, ticks='', fixedrange=True)
    plot = figure(data, axis | dict(title=verb.capitalize(), tickangle=-90, categoryarray=x, range=[-.5, len(x) - .5]),
                  axis | dict(title='Is', dtick=1, categoryarray=y, range=[len(y) - .5, -.5]), showlegend=False)
    if len(rows) < number:
        what = 'most frequent confusions' if confused_pairs(counts, number) else 'most counts'
        caption += (f' Of {number:,} classes the {len(rows)} with the {what}; percent are of all '
                    'that is there, so that rows need not add up to 100.')
    height = max(300, CELL * len(columns) + 190)
    return Chart(id_, 'Confusion matrix', plot, caption, height=height, wide=len(columns) > MOST_NUMBERS, **rest)


def _hover(
    counts: Sequence[Sequence[int]], names: Sequence[str], true: int, taken: int, part: float, unit: str, verb: str
) -> str:
    times = f'{counts[true][taken]:,} {unit}{"" if counts[true][taken] == 1 else "s"}'
    if true == len(names):
        return f'nothing is there<br>{verb} {escaped(names[taken])}<br>{times}, {part:.1f} % of all such'
    share = f'{times}, {part:.1f} % of the class'
    if taken == len(names):
        return f'{escaped(names[true])}<br>missed<br>{share}'
    return f'{escaped(names[true])}<br>{"right" if taken == true else f"{verb} {escaped(names[taken])}"}<br>{share}'


def _cells(
    name: str, shares: list[list[float | None]], kinds: list[list[str]], x: list[str], y: list[str],
    hover: list[list[str | None]], color: str, most: float | None,
) -> dict[str, Any]:
    """The cells of one colour; all others are empty. `most`: of the scale; None: the highest of them."""
    z = [[plotted(value, 2) if kind == color else None for value, kind in zip(row, own, strict=True)]
         for row, own in zip(shares, kinds, strict=True)]
    text = [[word if value is not None else None for word, value in zip(words, row, strict=True)]
            for words, row in zip(hover, z, strict=True)]
    most = most or max([LEAST_DEEPEST, *(value for row in z for value in row if value is not None)])
    return dict(
        type='heatmap', name=name, z=z, x=x, y=y, text=text, hoverinfo='text', hoverongaps=False, showscale=False,
        zmin=0, zmax=most, xgap=1, ygap=1,
        colorscale=[[0, see_through(color, SLIGHT)], [1, see_through(color, DEEPEST)]])


def _numbers(shares: list[list[float | None]], x: list[str], y: list[str]) -> dict[str, Any]:
    """Percent in the cells, in the page's own colour of text."""
    places, rows, words = [], [], []
    for place, row in enumerate(shares):
        for column, value in enumerate(row):
            if value is not None:
                places.append(x[column])
                rows.append(y[place])
                words.append('<1' if value < 0.5 else f'{value:.0f}')
    return dict(type='scatter', mode='text', x=places, y=rows, text=[escaped(word) for word in words], hoverinfo='skip',
                textfont=dict(size=11))
