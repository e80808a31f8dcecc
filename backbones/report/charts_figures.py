"""What the charts share: colours, names that are safe to show, rows of classes, bars with intervals.

Figures are plain dicts of plotly (https://plotly.com/javascript/reference/) with JSON values only. They say nothing of
ground, text and grid, which are the page's. What is drawn has the colours of Okabe and Ito
(https://jfly.uni-koeln.de/color/), which colour-blind readers tell apart, without its black and yellow, which are lost
on a dark or a light ground; areas are see-through, so that they suit both.

plotly reads the texts of axes, legends and hovers as markup: whatever comes from a data set goes through `escaped`.
"""

from __future__ import annotations

import html
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .parts import Facts, Part, Table

BLUE, ORANGE, GREEN = '#0072B2', '#E69F00', '#009E73'
VERMILION, PURPLE, SKY = '#D55E00', '#CC79A7', '#56B4E9'
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
DASHES = ('solid', 'dash', 'dot', 'dashdot')  # with six colours, 24 lines that differ
SEE_THROUGH = 0.28  # of areas below intervals
LONGEST_NAME = 18  # letters on an axis: 130 pixels, of the 360 of a phone
LONGEST_HOVER, HOVER_LINE = 80, 32
ENDS = 15  # best, and worst, classes that a chart shows where it cannot show all
MOST_ROWS = 2 * ENDS
ROW = 24  # pixels of one
BESIDE = 0.22  # of a row, that dots lie below the middle, where the interval of the bar is
NOT_KNOWN = '-'


# --- texts -------------------------------------------------------------------------------------------


def escaped(text: Any, most: int = LONGEST_HOVER) -> str:
    """A text that plotly shows as it is; a long one in lines that a phone has the width for."""
    return '<br>'.join(html.escape(line, quote=False) for line in textwrap.wrap(shortened(text, most), HOVER_LINE))


def in_template(text: Any) -> str:
    """A text for a template of a hover, where %{x} would stand for a number."""
    return escaped(text).replace('%{', '%&#123;')


def shortened(text: Any, most: int = LONGEST_NAME) -> str:
    """A text of at most so many letters, without its middle: classes often differ in their last letters."""
    words = ' '.join(str(text).split()) or '(no name)'
    if len(words) <= most:
        return words
    end = (most - 1) // 2
    return f'{words[:most - 1 - end]}…{words[len(words) - end:]}'


def axis_names(names: Iterable[Any], most: int = LONGEST_NAME) -> list[str]:
    """Short names for an axis, escaped, each of them once: those that are alike get a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        label = escaped(name, most)
        while label in seen:
            seen[label] += 1
            label = f'{escaped(name, most - 4)} ({seen[label]})'
        seen[label] = 1
        found.append(label)
    return found


def decimal(value: Any, digits: int = 3) -> str:
    """A number as text; '-' where there is none."""
    value = plotted(value, 9)
    return NOT_KNOWN if value is None else f'{value:,.{digits}f}'


def count_of(number: int, noun: str) -> str:
    """Such as '1 image' and '2,000 images'."""
    plural = f'{noun[:-1]}ies' if noun.endswith('y') else f'{noun}es' if noun.endswith('s') else f'{noun}s'
    return f'{number:,} {noun if number == 1 else plural}'


def span(interval: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Such as '0.561 to 0.609'; '-' where there is no interval."""
    if not interval or plotted(interval.get('low')) is None or plotted(interval.get('high')) is None:
        return NOT_KNOWN
    return f'{decimal(interval["low"], digits)} to {decimal(interval["high"], digits)}'


def with_span(interval: Mapping[str, Any], digits: int = 3) -> str:
    """Such as '0.585 (0.561 to 0.609)'."""
    known = span(interval, digits)
    return decimal(interval['value'], digits) + ('' if known == NOT_KNOWN else f' ({known})')


# --- numbers -----------------------------------------------------------------------------------------


def plotted(value: Any, digits: int = 5) -> float | int | None:
    """A number as a chart has it; None where it is not defined: a gap, never 0."""
    if value is None or isinstance(value, bool | str) or not abs(value) <= sys.float_info.max:
        return None
    return value if isinstance(value, int) else round(float(value), digits)


def error_bars(ranges: Sequence[Mapping[str, Any] | None], color: str) -> dict[str, Any]:
    """Intervals of `value`s, those that are known."""
    upper, lower = [], []
    for one in ranges:
        known = one is not None and None not in (one['value'], one['low'], one['high'])
        upper.append(plotted(max(one['high'] - one['value'], 0)) if known else None)
        lower.append(plotted(max(one['value'] - one['low'], 0)) if known else None)
    return dict(type='data', symmetric=False, array=upper, arrayminus=lower, color=color, thickness=2, width=3)


def see_through(color: str, part: float = SEE_THROUGH) -> str:
    """A colour of which the ground is seen behind."""
    red, green, blue = (int(color[place:place + 2], 16) for place in (1, 3, 5))
    return f'rgba({red},{green},{blue},{part})'


# --- figures -----------------------------------------------------------------------------------------


def figure(data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> dict[str, Any]:
    """A figure with its legend below, which a phone has the width for."""
    axes = dict(xaxis=dict(automargin=True) | x, yaxis=dict(automargin=True) | y)
    legend = dict(orientation='h', x=0, xanchor='left', y=0, yanchor='bottom', yref='container',
                  traceorder='normal')
    if x.get('title'):
        axes['xaxis']['title'] = dict(text=x['title'], standoff=6)
    if y.get('title'):
        axes['yaxis']['title'] = dict(text=y['title'], standoff=6)
    room = dict(margin=dict(l=8, r=12, t=8, b=8), legend=legend, dragmode=False, hovermode='closest')
    return dict(data=data, layout=room | axes | layout)


def bars(
    name: str, values: Sequence[Any], color: str, hover: Sequence[str], *, places: Sequence[Any],
    ranges: Sequence[Mapping[str, Any] | None] | None = None, across: bool = True, solid: bool = False,
) -> dict[str, Any]:
    """Bars with intervals.

    Args:
        name: in the legend.
        values: lengths; None leaves a gap.
        color: of `PALETTE`.
        hover: text of each, escaped.
        places: along the other axis.
        ranges: of each, with `value`, `low` and `high`.
        across: they lie, one below the other.
        solid: no interval has to be seen on them.
    """
    values = [plotted(value) for value in values]
    fill = color if solid else see_through(color)
    trace = dict(type='bar', name=name, marker=dict(color=fill, line=dict(color=color, width=1)),
                 hoverinfo='text', hovertext=list(hover), textposition='none')
    trace |= dict(x=values, y=list(places), orientation='h') if across else dict(x=list(places), y=values)
    if ranges is not None:
        trace['error_x' if across else 'error_y'] = error_bars(ranges, color)
    return trace


def dots(
    name: str, values: Sequence[Any], color: str, hover: Sequence[str], *, places: Sequence[Any],
    ranges: Sequence[Mapping[str, Any] | None] | None = None, symbol: str = 'diamond',
) -> dict[str, Any]:
    """Dots in rows, with intervals; arguments as those of `bars`."""
    trace = dict(
        type='scatter', mode='markers', name=name, x=[plotted(value) for value in values], y=list(places),
        marker=dict(color=color, symbol=symbol, size=8), cliponaxis=False, hoverinfo='text', hovertext=list(hover))
    return trace | (dict(error_x=error_bars(ranges, color)) if ranges is not None else {})


def charts_first(parts: Iterable[Part | None]) -> list[Part]:
    """Parts that there are, tables last: charts stand side by side, a wide table has a row of its own."""
    return sorted((one for one in parts if one is not None), key=lambda one: isinstance(one, Table))


# --- rows of classes ---------------------------------------------------------------------------------


def ends_of(
    values: Sequence[Any], ranges: Sequence[Mapping[str, Any] | None], ends: int = ENDS
) -> tuple[list[int], list[float]]:
    """Which classes a chart shows, the best first, and the row of each.

    A class without a value is in none. Of many the best and the worst are shown, with a gap; then those without an
    interval are left out, unless too few are left: the best and the worst of many are else those with one object.
    """
    order = sorted((k for k, value in enumerate(values) if plotted(value) is not None), key=lambda k: -values[k])
    if len(order) > 2 * ends:
        order = well_known(order, ranges, ends)
    if len(order) <= 2 * ends:
        return order, list(range(len(order)))
    return order[:ends] + order[-ends:], [*range(ends), *range(ends + 1, 2 * ends + 1)]


def well_known(order: list[int], ranges: Sequence[Mapping[str, Any] | None], least: int = ENDS) -> list[int]:
    """Classes with an interval; all where these are fewer than `least`."""
    known = [k for k in order if ranges[k] and ranges[k].get('low') is not None]
    return known if len(known) >= least else order


def rows_axis(names: Sequence[Any], places: Sequence[float]) -> dict[str, Any]:
    """An axis with a name for each row, from the top down."""
    last = max(places, default=0)
    labels, places = axis_names(names), list(places)
    gaps = [place for place in range(int(last)) if place not in set(places)]
    return dict(tickmode='array', tickvals=places + gaps, ticktext=labels + ['…'] * len(gaps),
                range=[last + 0.6, -0.6], fixedrange=True, showgrid=False, zeroline=False)


def rows_height(places: Sequence[float], beside: int = 110) -> int:
    """Height of a chart of rows."""
    return int(max(places, default=0) + 1) * ROW + beside


def left_out(
    chosen: Sequence[int], values: Sequence[Any], ranges: Sequence[Mapping[str, Any] | None], why: str
) -> str:
    """Sentences on the classes that a chart does not show; empty where it shows all."""
    missing = sum(plotted(value) is None for value in values)
    parts = []
    if len(chosen) < len(values) - missing:
        some = all(ranges[k] and ranges[k].get('low') is not None for k in chosen)
        which = ' that have an interval' if some else ''
        what = f'the {ENDS} best and the {ENDS} worst' if len(chosen) == 2 * ENDS else f'the {len(chosen)}'
        parts.append(f'Of {len(values) - missing:,} classes {what}{which}; the table has all.')
    if missing:
        parts.append(f'{count_of(missing, "class")} {why}: not defined, and not shown.')
    return ' '.join(parts)


# --- how it was counted ------------------------------------------------------------------------------


def facts(rows: Iterable[tuple[str, str]], folded: bool = False) -> Facts:
    """How a chapter's numbers were counted; how the model was run stands in the summary."""
    return Facts([(name, str(value)) for name, value in rows], 'How it was counted', folded)


def resampled(interval: Mapping[str, Any]) -> str:
    """How the intervals of all numbers were taken."""
    if interval.get('replicates') is None:
        return NOT_KNOWN
    return (f'{100 * interval.get("level", 0.95):g} %, {interval["replicates"]:,} resamplings of '
            f'{count_of(interval["images"], "image")}; none from fewer than 10 images')
