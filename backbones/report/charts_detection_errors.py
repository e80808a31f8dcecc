"""Charts of what a detector gets wrong: TIDE's kinds of error, and classes taken for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts_advice import confused_classes, costliest_kind, first_of, half_width, largest_of, small_objects, weakest_of
from .charts_confusion import MOST_PAIRS, confused_pairs, confusion_chart
from .charts_detection import SIZES, TITLES, of_classes
from .charts_figures import (
    BLUE,
    GREEN,
    MOST_ROWS,
    NOT_KNOWN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    bars,
    charts_first,
    count_of,
    decimal,
    escaped,
    facts,
    figure,
    plotted,
    rows_axis,
    rows_height,
    well_known,
)
from .parts import Chart, Note, Part, Section, Table

COLORS = dict(classification=ORANGE, localisation=BLUE, both=PURPLE, duplicate=SKY, background=VERMILION, missed=GREEN)
MEANING = dict(  # {b}: IoU of background, {t}: from which on a detection is right
    classification='right place, wrong class', localisation='right class, IoU {b} to {t}',
    both='wrong class and badly placed', duplicate='of an object that a better detection found',
    background='no object there, IoU below {b}', missed='an object that nothing finds')
TOGETHER = dict(false_positive='all wrong detections', false_negative='all objects not found')


def errors_section(details: Mapping[str, Any], kind: str) -> Section:
    """What to try, the kinds of error by cost, class and size, and the confusion matrix."""
    part = details[kind]
    errors, confusion = part['errors'], part['confusion']
    rows = [('Right from', f'IoU {errors["iou"]:g}'), ('Background up to', f'IoU {errors["background"]:g}'),
            ('Kinds of error', 'TIDE (arXiv 2008.08115), of the best 100 detections of an image, all scores'),
            ('Confusions', f'detections from score {confusion["score"]:.3f} on, IoU {confusion["iou"]:g}'),
            ('Counted by', part['protocol'].get('scorer', NOT_KNOWN))]
    parts: list[Part] = [facts(rows, folded=True)]
    if errors['ap'] is None:
        parts.append(Note('No class has an object, so errors have no cost in AP.'))
    else:
        parts.append(first_of(lambda: confused_classes(part), lambda: costliest_kind(part),
                              lambda: small_objects(part), largest=_largest(part)))
    made = (_costs(errors, kind), _by_size(errors, kind), _error_table(errors), _by_class(part, kind),
            _class_table(errors), *_confusions(confusion, kind))
    return Section(f'{kind}-errors', f'{TITLES[kind]}: errors', parts + charts_first(made))


def _largest(part: Mapping[str, Any]) -> str:
    number, _, classes = of_classes(part)
    return largest_of(list(part['errors']['dap'].items()), 'AP50', 3, half_width(part['intervals'].get('AP50')),
                      weakest_of(number, classes))


def _meaning(errors: Mapping[str, Any], kind: str) -> str:
    return MEANING.get(kind, kind).format(b=f'{errors["background"]:g}', t=f'{errors["iou"]:g}')


def _costs(errors: Mapping[str, Any], kind: str) -> Chart | None:
    if errors['ap'] is None:
        return None
    rows = sorted(((errors['dap'][one], one, _meaning(errors, one), errors['counts'][one]) for one in errors['dap']),
                  key=lambda row: -(row[0] or 0))
    rows += [(errors[name], name.replace('_', ' '), text, None) for name, text in TOGETHER.items()]
    hover = [f'{name}: {escaped(text)}<br>costs {decimal(cost)} AP50' + (
        f'<br>{count_of(number, "error")}' if number is not None else '') for cost, name, text, number in rows]
    names, values, places = [row[1] for row in rows], [row[0] for row in rows], list(range(len(rows)))
    trace = bars('costs', values, VERMILION, hover, places=places, solid=True)
    many = len(rows) - len(TOGETHER)
    trace['marker'] = dict(color=[COLORS.get(name, BLUE) for name in names[:many]] + ['#808080'] * len(TOGETHER))
    trace |= dict(text=[decimal(value) for value in values], textposition='outside', cliponaxis=False)
    most = max((value for value in values if value), default=0.01)
    plot = figure([trace], dict(title=f'AP at IoU {errors["iou"]:g} gained', range=[0, 1.18 * most], fixedrange=True,
                                nticks=5), rows_axis(names, places), showlegend=False)
    caption = (f'AP at IoU {errors["iou"]:g} is {errors["ap"]:.3f}; a bar is what it gains if this kind alone is '
               'mended (these do not add up). Grey: all wrong detections, and all objects not found, together. These '
               'numbers have no intervals.')
    return Chart(f'chart-{kind}-costs', 'What each kind of error costs', plot, caption, None, rows_height(places, 70))


def _error_table(errors: Mapping[str, Any]) -> Table:
    rows = [[name, plotted(cost, 9), errors['counts'][name], _meaning(errors, name)]
            for name, cost in sorted(errors['dap'].items(), key=lambda item: -(item[1] or 0))]
    rows += [[name.replace('_', ' '), plotted(errors[name], 9), None, text] for name, text in TOGETHER.items()]
    return Table('Errors', ['Error', 'Costs AP50', 'Number', 'What'], rows, ['', '.3f', 'd', ''],
                 'Number counts all scores; most of it is detections of low score, which cost little.')


def _stacked(id_: str, title: str, rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, int]]], caption: str,
             **rest: Any) -> Chart:
    """Costs of all kinds of error in one row for each name."""
    places, data = list(range(len(rows))), []
    for kind, color in COLORS.items():
        hover = [f'{escaped(name)}<br>{kind}: {decimal(costs.get(kind))} AP50, '
                 f'{count_of(counts.get(kind, 0), "error")}' for name, costs, counts in rows]
        data.append(bars(kind, [costs.get(kind) for _, costs, _ in rows], color, hover, places=places, solid=True))
    height = rows_height(places, 150)
    plot = figure(data, dict(title='AP50 gained, kind by kind', fixedrange=True, nticks=6),
                  rows_axis([name for name, _, _ in rows], places), barmode='stack')
    return Chart(id_, title, plot, caption, height=height, **rest)


def _by_class(part: Mapping[str, Any], kind: str) -> Chart | None:
    classes = part['errors']['classes']
    order = [k for k, one in enumerate(classes) if one['ap'] is not None]
    if not order:
        return None
    number = len(order)
    known = [classes[k] for k in (well_known(order, part['intervals']['AP/class']) if number > MOST_ROWS else order)]
    known.sort(key=lambda one: -sum(cost or 0 for cost in one['dap'].values()))
    shown = known[:MOST_ROWS]
    caption = ('AP50 of the class gained by mending each kind alone, the costliest class first. Gains overlap: a row '
               'is longer than what all of them would gain together.')
    if len(shown) < number:
        more = ' of those that have an interval' if len(known) < number else ''
        caption += f' Shown: {count_of(len(shown), "class")} of {number:,}, the costliest{more}; the table has all.'
    return _stacked(f'chart-{kind}-class-costs', 'Cost of errors by class',
                    [(one['name'], one['dap'], one['counts']) for one in shown], caption)


def _class_table(errors: Mapping[str, Any]) -> Table:
    kinds = list(errors['dap'])
    rows = [[one['name'], plotted(one['ap']), *(plotted(one['dap'].get(kind)) for kind in kinds),
             sum(one['counts'].values())] for one in errors['classes']]
    rows.sort(key=lambda row: -sum(value or 0 for value in row[2:-1]))
    return Table('Cost of errors by class', ['Class', 'AP50', *kinds, 'Errors'], rows,
                 ['', '.3f', *['.3f'] * len(kinds), 'd'], 'AP50 of the class gained by mending each kind alone.')


def _by_size(errors: Mapping[str, Any], kind: str) -> Chart | None:
    sizes = errors['sizes']
    if errors['ap'] is None:
        return None
    kinds = list(errors['dap'])
    rows = [[SIZES.get(size, size), *(cell for name in kinds for cell in (
        plotted(one['dap'][name]), one['counts'][name]))] for size, one in sizes.items()]
    columns = ['Size', *(title for name in kinds for title in (name, f'{name}, number'))]
    table = Table('Cost of errors by size', columns, rows, ['', *['.3f', 'd'] * len(kinds)])
    empty = [size for size, one in sizes.items() if not any(one['counts'].values())]
    caption = 'AP50 gained by mending the errors of this size alone; of the object, or of the detection without one.'
    caption += f' Without errors: {", ".join(empty)}.' if empty else ''
    return _stacked(f'chart-{kind}-size-costs', 'Cost of errors by size',
                    [(size, one['dap'], one['counts']) for size, one in sizes.items()], caption, table=table)


def _confusions(confusion: Mapping[str, Any], kind: str) -> list[Part | None]:
    names, counts = list(confusion['names'][:-1]), confusion['counts']
    number = len(names)
    found = [sum(row[k] for row in counts) for k in range(number)]
    rows = [[name, sum(row := counts[k]), row[k], sum(row) - row[k] - row[number], row[number],
             found[k] - row[k] - counts[number][k], counts[number][k]] for k, name in enumerate(names)]
    table = Table('What becomes of the objects', [
        'Class', 'Objects', 'Right', 'Taken for another', 'Missed', 'Of another class', 'Of nothing'], rows,
        ['', *['d'] * 6], 'Objects are right, taken for another class, or missed; the last two columns are detections '
        'as this class of other things.')
    chart = confusion_chart(
        f'chart-{kind}-confusion', counts, names, unit='object', verb='detected as', extra=True, table=table,
        caption=f'In percent of the objects of the class, from score {confusion["score"]:.3f} on; blue is right, '
                'orange taken for another class, deeper is more (on a scale of its own); an empty cell: none. Grey: in '
                'the last column missed, in the last row detections where nothing is, in percent of these.')
    if chart is None:
        return [Note('There are neither objects nor detections from this score on, so nothing can be confused.')]
    pairs = confused_pairs(counts, number)
    if not pairs:
        return [chart, Note(f'No class is taken for another from score {confusion["score"]:.3f} on.')]
    lines = [[names[true], names[taken], times, plotted(100 * times / sum(counts[true]), 3)]
             for true, taken, times in pairs[:MOST_PAIRS]]
    more = f' The {MOST_PAIRS} most frequent of {len(pairs):,} pairs.' if len(pairs) > MOST_PAIRS else ''
    return [chart, Table('Classes taken for others', ['Is', 'Detected as', 'Times', '% of its objects'], lines,
                         ['', '', 'd', '.1f'], f'From score {confusion["score"]:.3f} on.{more}')]
