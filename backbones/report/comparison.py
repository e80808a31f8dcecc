"""Two runs beside each other: is the difference beyond noise, overall and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .facts import KeyedHeadline, headlines
from .parts import Chart, Headline, Note, Part, Section, Table
from .run_folder import Run

KIND_TITLES = dict(boxes='Boxes', masks='Masks', labels='Label maps')
VERDICTS = {True: 'beyond noise', False: 'within noise', None: 'no interval'}
MOST_BARS = 40  # classes of the chart


@dataclass(frozen=True)
class ComparedHeadline(KeyedHeadline):
    """A number of the summary beside the other run's.

    Attributes:
        other: the other run's value.
        difference: this one's minus the other's, with its interval.
        verdict: such as 'better, beyond noise'.
        better: True, False, or None where it is not told.
        other_name: what the other run is called.
    """

    other: str = ''
    difference: str = ''
    verdict: str = ''
    better: bool | None = None
    other_name: str = ''


def compare_runs(run: Run, other: Run) -> tuple[dict[str, Any] | None, Note | None]:
    """What `tools/compare.py OTHER THIS` finds, or why the two cannot be compared."""
    for one in (other, run):
        if one.details is None:
            command = next((note.command for note in one.notes if note.command), '')
            return None, Note(f'The two runs are not compared by their predictions: {one.name} has no evaluation in '
                              'detail.', 'warning', command)
    from backbones.evaluation.compare_files import CompareOptions, compare_predictions
    from backbones.missing import MissingToolboxError

    try:
        return compare_predictions(str(other.evaluation), str(run.evaluation), CompareOptions()), None
    except (ValueError, OSError, MissingToolboxError) as error:
        return None, Note(f'The two runs are not compared by their predictions: {" ".join(str(error).split())}.',
                          'warning')


def compared_headlines(run: Run, other: Run, found: Mapping[str, Any] | None) -> Sequence[Headline]:
    """The numbers of the summary with the other run's beside them."""
    theirs = {(one.kind, one.key): one.value for one in headlines(other)}
    result = []
    for one in headlines(run):
        rows = {row['name']: row for row in ((found or {}).get('kinds', {}).get(one.kind) or {}).get('overall', ())}
        row = rows.get(one.key)
        known = ComparedHeadline(one.name, one.value, one.interval, one.note, one.kind, one.key,
                                 theirs.get((one.kind, one.key), ''), other_name=other.name)
        result.append(known if row is None else replace(
            known, other=_value(row['first'], one.kind), difference=_difference(row, _digits(one.kind)),
            verdict=_verdict(row),
            better=row['difference'] > 0 if row['beyond'] else None))
    return result


def comparison_section(run: Run, other: Run, found: Mapping[str, Any] | None, refused: Note | None) -> Section:
    """The chapter: numbers, classes, remarks."""
    parts: list[Part] = [] if refused is None else [refused]
    if found is not None:
        from backbones.evaluation.compare_files import ONE_TRAINING

        parts.append(Note(ONE_TRAINING))
        parts.append(Note(f'A is {other.name} ({other.folder}), B is {run.name}: this run. A difference is B - A; '
                          'above 0, this run is better.'))
        parts += [Note(f'{text[:1].upper()}{text[1:]}.', 'warning') for text in found['remarks']]
        for kind, part in found['kinds'].items():
            parts += _kind_parts(kind, part)
    return Section('comparison', f'Compared with {other.name}', parts)


def _kind_parts(kind: str, part: Mapping[str, Any]) -> list[Part]:
    title, digits = KIND_TITLES.get(kind, kind), _digits(kind)
    images = f'{part["replicates"]} resamplings of {part["images"]} images, both scored on the same draws'
    overall = _table(f'{title}: overall', 'Number', part['overall'], digits,
                     f'Intervals of {part["level"]:.0%}: {images}.')
    classes = sorted(part['classes'], key=lambda row: -abs(row['difference'] or 0))
    table = _table(f'{title}: {part["by"]} by class', 'Class', classes, digits,
                   '"beyond noise, among all": even as one of all classes together.')
    chart = _bars(kind, title, part['by'], classes)
    return [overall, *([chart] if chart else []), table]


def _table(title: str, first: str, rows: Sequence[Mapping[str, Any]], digits: int, caption: str) -> Table:
    cells = [[_title(row['name']) if first == 'Number' else str(row['name']), row['first'], row['second'],
              row['difference'], row['low'], row['high'], _noise(row)] for row in rows]
    plain, signed = f'.{digits}f', f'+.{digits}f'
    return Table(title, [first, 'A', 'B', 'B - A', 'from', 'to', 'Verdict'], cells,
                 ['', plain, plain, signed, signed, signed, ''], caption)


def _title(name: Any) -> str:
    """The name of a number as the other chapters write it: 'AP small', 'F1', 'Boundary mIoU'."""
    words = str(name).replace('_', ' ')
    return words if words[:1].isupper() or words[1:2].isupper() else words[:1].upper() + words[1:]


def _bars(kind: str, title: str, by: str, classes: Sequence[Mapping[str, Any]]) -> Chart | None:
    known = [row for row in classes if row['difference'] is not None][:MOST_BARS]
    if not known:
        return None
    known = sorted(known, key=lambda row: row['difference'])
    error = dict(type='data', symmetric=False,
                 array=[max(0, row['high'] - row['difference']) if row['high'] is not None else 0 for row in known],
                 arrayminus=[max(0, row['difference'] - row['low']) if row['low'] is not None else 0 for row in known])
    names = [str(row['name']) for row in known]
    data = dict(type='scatter', mode='markers', x=[row['difference'] for row in known], y=list(range(len(known))),
                customdata=names, error_x=error, meta=dict(color=0), showlegend=False,
                marker=dict(size=8, symbol=['circle' if row['beyond'] else 'circle-open' for row in known]),
                hovertemplate='%{customdata}: %{x:+.4g}<extra></extra>')
    layout = dict(xaxis=dict(title=f'{by}: B - A', zeroline=True, range=_range(known)),
                  yaxis=dict(tickmode='array', tickvals=list(range(len(known))), ticktext=names, automargin=True,
                             zeroline=False))
    left = f' The {MOST_BARS} largest of {len(classes)} are drawn.' if len(classes) > len(known) else ''
    return Chart(f'differences-{kind}', f'{title}: difference of {by} by class', dict(data=[data], layout=layout),
                 f'With intervals; filled where beyond noise. Right of 0 this run is better.{left}',
                 height=max(260, 24 * len(known) + 90), wide=True)


def _range(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """From the lowest to the highest end, and 0 in any case, with some room."""
    ends = [0.0, *(row[name] for row in rows for name in ('difference', 'low', 'high') if row[name] is not None)]
    room = 0.06 * (max(ends) - min(ends)) or 0.01
    return [min(ends) - room, max(ends) + room]


def _digits(kind: str) -> int:
    return 2 if kind == 'labels' else 3


def _value(value: float | None, kind: str) -> str:
    unit = ' %' if kind == 'labels' else ''
    return 'not defined' if value is None else f'{value:.{_digits(kind)}f}{unit}'


def _difference(row: Mapping[str, Any], digits: int) -> str:
    if row['difference'] is None:
        return ''
    text = f'{row["difference"]:+.{digits}f}'
    return text if row['low'] is None else f'{text} ({row["low"]:+.{digits}f} to {row["high"]:+.{digits}f})'


def _noise(row: Mapping[str, Any]) -> str:
    if row['difference'] is None:
        return 'not defined'
    return f'{_verdict(row)}, among all' if row['beyond'] and row.get('jointly') else _verdict(row)


def _verdict(row: Mapping[str, Any]) -> str:
    if row['difference'] is None or row['beyond'] is None:
        return VERDICTS[None]
    if not row['beyond']:
        return VERDICTS[False]
    return f'{"better" if row["difference"] > 0 else "worse"}, {VERDICTS[True]}'


def same_folder(first: Path, second: Path) -> bool:
    """Whether two paths are one folder."""
    return first.resolve() == second.resolve()
