"""Charts of boxes and masks: averages, curves, classes. `charts_detection_errors.py` has what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts_advice import worst_class
from .charts_figures import (
    BESIDE,
    BLUE,
    DASHES,
    GREEN,
    NOT_KNOWN,
    ORANGE,
    PALETTE,
    PURPLE,
    VERMILION,
    bars,
    count_of,
    decimal,
    dots,
    ends_of,
    error_bars,
    escaped,
    facts,
    figure,
    in_template,
    left_out,
    plotted,
    resampled,
    rows_axis,
    rows_height,
    span,
    with_span,
)
from .parts import Chart, Headline, Note, Part, Section, Table

TITLES = dict(boxes='Boxes', masks='Masks')
ONE = dict(boxes='Box', masks='Mask')
SIZES = dict(small='small, up to 32 x 32', medium='medium, up to 96 x 96', large='large')
SUMMARY = ('AP', 'AP50', 'AP75', 'AP_small', 'AP_medium', 'AP_large')
AT_POINT = dict(precision='Precision', recall='Recall', f1='F1')
MOST_CURVES = 40  # classes with a curve of their own
CURVES_SHOWN = 6  # of them at first, the worst ones: one for each colour
POINTS = dict(x0=0, dx=0.01)  # a curve has 101 recalls


def detection_headlines(details: Mapping[str, Any]) -> list[Headline]:
    """AP, then AP50, of each kind."""
    found = []
    for name in ('AP', 'AP50'):
        for kind in (one for one in details['kinds'] if one in ONE):
            own = details[kind]['intervals'][name]
            known = span(own)
            note = count_of(own['images'], 'image') if own['value'] is not None else 'not defined: no object is there'
            found.append(Headline(f'{ONE[kind]} {name}', decimal(own['value']), '' if known == NOT_KNOWN else known,
                                  note))
    return found


def overview_section(details: Mapping[str, Any], kind: str) -> Section:
    """Protocol, all averages, the curve over all classes, AP by size and by number of detections."""
    part = details[kind]
    parts: list[Part] = [_protocol(part)]
    parts.append(_numbers(part, kind))
    made = _curve(part, kind), _thresholds(part, kind), _sizes(part, kind), _limits(part, kind)
    return Section(kind, TITLES[kind], parts + [one for one in made if one is not None])


def classes_section(details: Mapping[str, Any], kind: str) -> Section:
    """AP, precision and recall of each class, curves and the table."""
    part, title = details[kind], f'{TITLES[kind]} by class'
    protocol = part['protocol']
    rows = [('Classes', f'{len(part["metrics"]["classes"]):,}'), ('Regions', kind),
            ('Counted by', protocol.get('scorer', NOT_KNOWN)), ('Precision, recall and F1', _threshold(part)),
            ('Intervals', resampled(part['intervals']['AP']))]
    made = (worst_class(*of_classes(part)), _class_bars(part, kind), _class_points(part, kind),
            _class_curves(part, kind), _class_table(part, kind))
    return Section(f'{kind}-classes', title, [facts(rows, folded=True), *(one for one in made if one is not None)])


def of_classes(part: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[tuple[str, Mapping[str, Any], str]]]:
    """AP of all, and of each class its name, its AP and what costs it most."""
    rows = []
    for one, own, errors in zip(part['metrics']['classes'], part['intervals']['AP/class'], part['errors']['classes'],
                                strict=True):
        costs = {kind: cost for kind, cost in errors['dap'].items() if cost}
        kind = max(costs, key=costs.get, default='')
        rows.append((one['name'], own, f'{kind} ({costs[kind]:.3f} AP50)' if kind else ''))
    return 'AP', part['intervals']['AP'], rows


def _threshold(part: Mapping[str, Any]) -> str:
    points = part['points']
    by = {'given': 'as given', 'best F1': 'where F1 is best on these images'}.get(
        points.get('chosen_by'), points.get('chosen_by', ''))
    return f'at score {points["score"]:.3f} ({by}), IoU {points["iou"]:g}'


def _protocol(part: Mapping[str, Any]) -> Part:
    protocol = part['protocol']
    ious = protocol.get('iou_thresholds') or []
    rows = [('Scorer', protocol.get('scorer', NOT_KNOWN)),
            ('IoU of AP', f'{ious[0]:.2f} to {ious[-1]:.2f}, {len(ious)} thresholds' if ious else NOT_KNOWN),
            ('Detections counted', f'the best {protocol.get("max_detections", NOT_KNOWN)} of an image and class'),
            ('Precision, recall and F1', _threshold(part))]
    return facts([*rows, ('Intervals', resampled(part['intervals']['AP']))])


# --- over all classes --------------------------------------------------------------------------------


def _limits_of(ranges: Mapping[str, Any]) -> list[int]:
    return sorted(int(name[3:]) for name in ranges if name.startswith('AR@') and not name.endswith('/class'))


def _numbers(part: Mapping[str, Any], kind: str) -> Table:
    ranges = part['intervals']
    names = [*SUMMARY, *(f'AR@{limit}' for limit in _limits_of(ranges)), *(f'AR_{size}' for size in SIZES)]
    rows = [(name.replace('_', ' '), ranges[name]) for name in names if name in ranges]
    rows += [(title, ranges[name]) for name, title in AT_POINT.items() if name in ranges]
    shown = [[name, plotted(one['value'], 6), plotted(one['low'], 6), plotted(one['high'], 6), one['images']]
             for name, one in rows]
    score = part['points']['score']
    return Table(
        f'{TITLES[kind]}: all numbers', ['Number', 'Value', 'From', 'To', 'Images'], shown,
        ['', '.3f', '.3f', '.3f', 'd'],
        f'From and to: the interval of 95 %, of other images drawn as these were; none from fewer than 10 images. '
        f'Precision, recall and F1 are those of all detections with a score from {score:.3f} on.', len(shown))


def _curve(part: Mapping[str, Any], kind: str) -> Chart | Note:
    curves, ranges, points = part['metrics']['curves'], part['intervals'], part['points']
    data, columns = [], []
    for (iou, curve), color, dash in zip(sorted(curves.items()), PALETTE, DASHES, strict=False):
        values = [plotted(value, 3) for value in curve['all']]
        if any(value is not None for value in values):
            columns.append((f'IoU {float(iou):g}', values))
            data.append(dict(
                type='scatter', mode='lines', name=f'IoU {float(iou):g}', y=values, **POINTS,
                line=dict(color=color, dash=dash, width=2.5), hovertemplate='recall %{x:.2f}, precision %{y:.3f}'))
    if not data:
        return Note('No class has an object, so there is no curve of precision and recall.')
    caption = 'The mean over the classes that have objects.'
    precision, recall = (ranges.get(name) or dict(value=None) for name in ('precision', 'recall'))
    if None not in (precision['value'], recall['value']):
        score = f'score {points["score"]:.3f}'
        caption += (f' The diamond: all detections from {score} on, at IoU {points["iou"]:g}, counted together, '
                    'whatever their class, so that it need not lie on a curve; its bars are the intervals.')
        data.append(dots(
            f'at {score}', [recall['value']], VERMILION,
            [f'{score}<br>precision {with_span(precision)}<br>recall {with_span(recall)}'], places=[precision['value']],
            ranges=[recall]) | dict(error_y=error_bars([precision], VERMILION)))
    table = Table('Precision at recall', ['Recall', *(name for name, _ in columns)],
                  [[n / 100, *(values[n] for _, values in columns)] for n in range(0, 101, 5)],
                  ['.2f', *['.3f'] * len(columns)], shown=21)
    axes = dict(range=[0, 1.02], dtick=0.2)
    plot = figure(data, axes | dict(title='Recall'), axes | dict(title='Precision'))
    return Chart(f'chart-{kind}-curve', 'Precision and recall', plot, caption, table, 380)


def _thresholds(part: Mapping[str, Any], kind: str) -> Chart | None:
    """Precision, recall and F1 by score threshold; None of an evaluation that has no such curve."""
    points = part['points']
    curve = points.get('curve')
    if not curve or all(value is None for value in curve['f1']):
        return None
    data = [dict(type='scatter', mode='lines', name=title, x=curve['score'], y=curve[name],
                 line=dict(color=color, dash=dash, width=2.5),
                 hovertemplate=f'{title} %{{y:.3f}} from score %{{x:.2f}}<extra></extra>')
            for (name, title), color, dash in zip(AT_POINT.items(), (GREEN, PURPLE, BLUE), DASHES, strict=False)]
    line = dict(type='line', x0=points['score'], x1=points['score'], y0=0, y1=1, yref='paper',
                line=dict(color='#808080', width=1, dash='dot'))
    table = Table('By score threshold', ['Score from', *AT_POINT.values()],
                  [[curve['score'][n], *(curve[name][n] for name in AT_POINT)] for n in range(0, 101, 5)],
                  ['.2f', *['.3f'] * len(AT_POINT)], shown=21)
    axes = dict(range=[0, 1.02], dtick=0.2, fixedrange=True)
    plot = figure(data, axes | dict(title='Score threshold'), axes, shapes=[line], hovermode='x unified')
    caption = (f'All detections together, whatever their class, at IoU {points["iou"]:g}. The dotted line is the '
               f'threshold of the other numbers, {points["score"]:.3f}.')
    return Chart(f'chart-{kind}-thresholds', 'Precision, recall and F1 by score threshold', plot, caption, table, 380)


def _sizes(part: Mapping[str, Any], kind: str) -> Chart | None:
    ranges = part['intervals']
    sizes = [size for size in SIZES if f'AP_{size}' in ranges and f'AR_{size}' in ranges]
    if all(ranges[f'AP_{size}']['value'] is None for size in sizes):
        return None
    data, rows = [], []
    for name, color in (('AP', BLUE), ('AR', ORANGE)):
        own = [ranges[f'{name}_{size}'] for size in sizes]
        hover = [f'{name}, {SIZES[size]}<br>{with_span(one)}<br>{count_of(one["images"], "image")} with such objects'
                 for size, one in zip(sizes, own, strict=True)]
        data.append(bars(name, [one['value'] for one in own], color, hover, places=sizes, ranges=own, across=False))
    for size in sizes:
        pair = [ranges[f'{name}_{size}'] for name in ('AP', 'AR')]
        rows.append([SIZES[size], *(cell for one in pair for cell in (plotted(one['value']), span(one))),
                     pair[0]['images']])
    missing = [size for size in sizes if ranges[f'AP_{size}']['value'] is None]
    caption = 'By area of the object: small up to 32 x 32 pixels, medium up to 96 x 96. Lines are intervals.'
    caption += f' Not defined, as there are no such objects: {", ".join(missing)}.' if missing else ''
    table = Table('By size of the object', ['Size', 'AP', 'AP, 95 %', 'AR', 'AR, 95 %', 'Images'], rows,
                  ['', '.3f', '', '.3f', '', 'd'])
    plot = figure(data, dict(type='category', fixedrange=True, showgrid=False),
                  dict(rangemode='tozero', fixedrange=True), barmode='group')
    return Chart(f'chart-{kind}-sizes', 'AP and AR by size', plot, caption, table)


def _limits(part: Mapping[str, Any], kind: str) -> Chart | None:
    """AR, and AP where it was asked for, by number of detections."""
    metrics, ranges = part['metrics'], part['intervals']
    recall = {int(limit): value for limit, value in metrics['averages']['ar'].items()}
    average = {int(limit): value for limit, value in (metrics.get('ap_at') or {}).items()}
    if all(value is None for value in recall.values()):
        return None
    limits = sorted({*recall, *average})
    places = [str(limit) for limit in limits]
    series = [('AR', ORANGE, recall)] + ([('AP', BLUE, average)] if average else [])
    data, rows = [], []
    for name, color, values in series:
        own = [ranges.get(f'{name}@{limit}') for limit in limits]
        hover = [f'{name}, best {limit} of an image and class<br>'
                 f'{with_span(one) if one else decimal(values.get(limit))}'
                 for limit, one in zip(limits, own, strict=True)]
        data.append(bars(name, [values.get(limit) for limit in limits], color, hover, places=places, ranges=own,
                         across=False))
    for limit in limits:
        rows.append([limit, *(cell for name, _, values in series for cell in (
            plotted(values.get(limit)), span(ranges.get(f'{name}@{limit}'))))])
    columns = ['Detections', *(title for name, _, _ in series for title in (name, f'{name}, 95 %'))]
    table = Table('By number of detections', columns, rows, ['d', *['.3f', ''] * len(series)])
    plot = figure(data, dict(type='category', title='Detections', fixedrange=True, showgrid=False),
                  dict(rangemode='tozero', fixedrange=True), barmode='group', showlegend=True)
    return Chart(f'chart-{kind}-limits', f'{" and ".join(sorted(name for name, _, _ in series))} by detections', plot,
                 'By the number of detections that count of each image and class. Lines are intervals.', table)


# --- by class ----------------------------------------------------------------------------------------


def _hovers(names: Sequence[Any], number: str, ranges: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f'{escaped(name)}<br>{number} {with_span(one)}<br>{count_of(one["images"], "image")} with its objects'
            for name, one in zip(names, ranges, strict=True)]


def _class_bars(part: Mapping[str, Any], kind: str) -> Chart | Note:
    classes, ranges = part['metrics']['classes'], part['intervals']
    values = [one['averages']['ap'] for one in classes]
    chosen, places = ends_of(values, ranges['AP/class'])
    if not chosen:
        return Note('No class has an object, so AP is not defined for any.')
    names = [classes[k]['name'] for k in chosen]
    own, fifty = ([ranges[f'{name}/class'][k] for k in chosen] for name in ('AP', 'AP50'))
    data = [
        bars('AP', [values[k] for k in chosen], BLUE, _hovers(names, 'AP', own), places=places, ranges=own),
        dots('AP50', [classes[k]['averages']['ap50'] for k in chosen], ORANGE, _hovers(names, 'AP50', fifty),
             places=[place + BESIDE for place in places], ranges=fifty)]
    few = sum(one['low'] is None for one in own)
    caption = ' '.join(filter(None, (
        'The best first; lines are intervals.',
        f'{count_of(few, "class")} without an interval, as fewer than 10 images have their objects.' if few else '',
        left_out(chosen, values, ranges['AP/class'], 'without objects'))))
    height = rows_height(places)
    plot = figure(data, dict(range=[0, 1.02], dtick=0.2, fixedrange=True), rows_axis(names, places))
    return Chart(f'chart-{kind}-classes', 'AP and AP50 by class', plot, caption, None, height)


def _class_points(part: Mapping[str, Any], kind: str) -> Chart | None:
    """Precision and recall of each class at the score threshold, in the order of F1."""
    classes, ranges, points = part['metrics']['classes'], part['intervals'], part['points']
    if not all(f'{name}/class' in ranges for name in AT_POINT):
        return None
    f1 = [one['f1'] for one in points['classes']]
    chosen, places = ends_of(f1, ranges['f1/class'])
    if not chosen:
        return None
    names, data = [classes[k]['name'] for k in chosen], []
    for name, color, symbol, shift in (('precision', GREEN, 'circle', -BESIDE), ('recall', PURPLE, 'square', BESIDE)):
        own = [ranges[f'{name}/class'][k] for k in chosen]
        data.append(dots(AT_POINT[name], [one['value'] for one in own], color, _hovers(names, AT_POINT[name], own),
                         places=[place + shift for place in places], ranges=own, symbol=symbol))
    rows = [[classes[k]['name'], *(cell for name in AT_POINT for cell in (
        plotted(ranges[f'{name}/class'][k]['value']), span(ranges[f'{name}/class'][k])))] for k in chosen]
    columns = ['Class', *(title for name in AT_POINT.values() for title in (name, f'{name}, 95 %'))]
    height = rows_height(places)
    plot = figure(data, dict(range=[0, 1.02], dtick=0.2, fixedrange=True), rows_axis(names, places))
    rest = left_out(chosen, f1, ranges['f1/class'], 'without objects and detections')
    caption = (f'Taken {_threshold(part)}; ordered by F1, the best first. Precision without a dot: nothing of '
               f'the class is detected from there on. {rest}').strip()
    table = Table('Precision and recall by class', columns, rows, ['', *['.3f', ''] * 3])
    return Chart(f'chart-{kind}-points', 'Precision and recall by class', plot, caption, table, height)


def _class_curves(part: Mapping[str, Any], kind: str) -> Chart | None:
    classes, points = part['metrics']['classes'], part['points']
    curves = part['metrics']['curves'].get(f'{points["iou"]:.2f}')
    known = [k for k, one in enumerate(classes) if one['averages']['ap50'] is not None]
    if curves is None or not known:
        return None
    chosen = sorted(known, key=lambda k: -classes[k]['objects'])[:MOST_CURVES]
    chosen.sort(key=lambda k: classes[k]['averages']['ap50'])
    data = []
    for place, k in enumerate(chosen):
        own, name, color = points['classes'][k], escaped(classes[k]['name']), PALETTE[place % len(PALETTE)]
        style = dict(legendgroup=str(k), visible=True if place < CURVES_SHOWN else 'legendonly')
        fifty = decimal(classes[k]['averages']['ap50'])
        data.append(style | dict(
            type='scatter', mode='lines', name=f'{escaped(classes[k]["name"], 18)} {fifty}', **POINTS,
            y=[plotted(value, 3) for value in curves['classes'][k]],
            hovertemplate=f'{in_template(classes[k]["name"])}<br>recall %{{x:.2f}}, precision %{{y:.3f}}'
                          '<extra></extra>',
            line=dict(color=color, dash=DASHES[place // len(PALETTE) % len(DASHES)], width=2)))
        if None not in (own['precision'], own['recall']):
            hover = (f'{name}, score {points["score"]:.3f}<br>precision {own["precision"]:.3f}, '
                     f'recall {own["recall"]:.3f}')
            data.append(style | dots('', [own['recall']], color, [hover], places=[own['precision']])
                        | dict(showlegend=False))
    more = f' Of {len(known):,} classes the {MOST_CURVES} with the most objects.' if len(known) > MOST_CURVES else ''
    caption = (f'At IoU {points["iou"]:g}; beside each name its AP50, the worst first. Tap a name to show or hide it, '
               f'twice to see it alone. Diamonds: score {points["score"]:.3f}; a curve is the highest precision at '
               f'this recall or above, as COCO takes it, so that they may lie below.{more}')
    axes, height = dict(range=[0, 1.02], dtick=0.2), 400 + 20 * min(len(chosen), 12)
    plot = figure(data, axes | dict(title='Recall'), axes | dict(title='Precision'), showlegend=True)
    return Chart(f'chart-{kind}-class-curves', 'Precision and recall of each class', plot, caption, None, height)


def _class_table(part: Mapping[str, Any], kind: str) -> Table:
    classes, points, ranges = part['metrics']['classes'], part['points']['classes'], part['intervals']['AP/class']
    limits = [int(limit) for limit in part['metrics']['averages']['ar']]
    limit = max(limits, default=100)
    rows = []
    for one, point, own in zip(classes, points, ranges, strict=True):
        mean = one['averages']
        recall = mean['ar'].get(str(limit), mean['ar'].get(limit))
        rows.append([one['name'], one['objects'], one['images'], *map(plotted, (mean['ap'],)), span(own),
                     *map(plotted, (mean['ap50'], mean['ap75'], recall, point['best_f1'], point['best_score'],
                                    point['precision'], point['recall']))])
    rows.sort(key=lambda row: (row[3] is None, -(row[3] or 0)))
    columns = ['Class', 'Objects', 'Images', 'AP', 'AP, 95 %', 'AP50', 'AP75', f'AR@{limit}', 'Best F1', 'at score',
               'Precision', 'Recall']
    return Table(
        'By class', columns, rows, ['', 'd', 'd', '.3f', '', *['.3f'] * 4, '.2f', '.3f', '.3f'],
        f'Precision and recall {_threshold(part)}. A class without objects has no AP and no part in the mean.')
