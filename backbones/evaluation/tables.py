"""What `details.json` says, and what tells two prediction sets apart, as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backbones.data.files import shown

from .tiles import tiles_in_words

MOST_ROWS = 160  # of a table by class: all of ADE20K's; of more the first and the last are shown
CONFUSIONS = 10  # that are shown
NAME = 20  # columns of a class name
KIND_TITLES = dict(boxes='Boxes', masks='Masks', labels='Label maps')
FIXES = dict(  # what is wrong, and what would mend it
    classification='right place, wrong class', localisation='right class, IoU 0.1 to 0.5',
    both='wrong class, IoU 0.1 to 0.5', duplicate='object was found before', background='no object there',
    missed='object not found')
UNKNOWN = '-'


def print_details(details: Mapping[str, Any], console: Console) -> None:
    """Print the tables of an evaluation.

    Args:
        details: what `details.json` holds.
        console: where.
    """
    for kind in details['kinds']:
        console.print()
        _heading(console, KIND_TITLES[kind], details)
        if kind == 'labels':
            _print_labels(details[kind], console)
        else:
            _print_detections(details[kind], details, console)
    for remark in details['remarks']:
        console.print(_words(f'note: {remark}', 'yellow'), soft_wrap=False)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number in a table; `-` where it is not defined."""
    return UNKNOWN if value is None else f'{value:{"+" if sign else ""}.{digits}f}'


def with_interval(name: str, interval: Mapping[str, Any], digits: int = 3) -> str:
    """Such as `AP 0.585 (0.561 to 0.609, 1000 resamplings of 80 images)`."""
    text = f'{name} {number(interval["value"], digits)}'
    if interval['low'] is None:
        if interval['value'] is None:
            return f'{text} (not defined)'
        return f'{text} (no interval, from {_count(interval["images"], "image")} only)'
    return (f'{text} ({interval["low"]:.{digits}f} to {interval["high"]:.{digits}f}, {interval["replicates"]} '
            f'resamplings of {_count(interval["images"], "image")})')


def _heading(console: Console, title: str, details: Mapping[str, Any]) -> None:
    protocol = details['protocol']
    views = ', '.join('x'.join(map(str, scale)) if isinstance(scale, list) else str(scale)
                      for scale in protocol.get('scale', []))
    parts = [_count(details['data']['images'], 'image'), f'size {views or "as it is"}', _windows(protocol),
             *(name.upper() if name == 'tta' else name for name in ('flip', 'tta') if protocol.get(name)),
             protocol.get('precision', '')]
    console.print(Text.assemble((title, 'bold'), '  ', (', '.join(part for part in parts if part), 'dim')))


def _windows(protocol: Mapping[str, Any]) -> str:
    """In which parts large pictures were looked at."""
    if protocol.get('tiles'):
        return tiles_in_words(protocol['tiles'])
    if protocol.get('mode') != 'slide':
        return str(protocol.get('mode', ''))
    crop, stride = ('x'.join(map(str, reversed(protocol[name]))) for name in ('crop_size', 'stride'))
    return f'windows {crop}, stride {stride}'


# --- boxes and masks ---------------------------------------------------------------------------------


def _print_detections(part: Mapping[str, Any], details: Mapping[str, Any], console: Console) -> None:
    metrics, ranges, points = part['metrics'], part['intervals'], part['points']
    known = ['AP', 'AP50', 'AP75', 'AP_small', 'AP_medium', 'AP_large']
    for name in [*known, *(one for one in ranges if one.startswith('AR') and not one.endswith('/class'))]:
        console.print(_words(f'  {with_interval(name, ranges[name])}'))
    limits = {int(limit): value for limit, value in metrics['averages']['ar'].items()}
    for limit, value in sorted({int(one): two for one, two in metrics.get('ap_at', {}).items()}.items()):
        console.print(_words(f'  at {limit} detections an image and class: AP {number(value)}, '
                             f'AR {number(limits[limit])}'))
    console.print(_words(f'  At score {points["score"]:.3f} ({points["chosen_by"]}), IoU 0.5:'))
    for name in ('precision', 'recall', 'f1'):
        console.print(_words(f'  {with_interval(name.capitalize(), ranges[name])}'))
    _show(console, _detection_classes(metrics, points, max(limits)))
    _show(console, _errors(part['errors']))
    _print_confusions(part['confusion'], console)


def _detection_classes(metrics: Mapping[str, Any], points: Mapping[str, Any], limit: int) -> Table:
    table = _table('By class', ('Class', 'Objects', 'AP', 'AP50', f'AR@{limit}', 'F1 best', 'at score'))
    rows = []
    for one, point in zip(metrics['classes'], points['classes'], strict=True):
        own = one['averages']
        recall = own['ar'].get(limit, own['ar'].get(str(limit)))
        if own['ap'] is None and not one['detections']:
            continue
        rows.append((own['ap'], [
            one['name'], f'{one["objects"]:,}', number(own['ap']), number(own['ap50']), number(recall),
            number(point['best_f1']), number(point['best_score'], 2)]))
    return _filled(table, rows, len(metrics['classes']) - len(rows))


def _errors(errors: Mapping[str, Any]) -> Table:
    table = _table(f'Errors, and the AP at IoU {errors["iou"]:g} gained by mending each kind alone',
                   ('Error', 'Costs', 'Number', 'What'), left=('Error', 'What'))
    for kind, cost in sorted(errors['dap'].items(), key=lambda item: -(item[1] or 0)):
        table.add_row(kind, number(cost), f'{errors["counts"][kind]:,}', FIXES[kind])
    for name, text in (('false_positive', 'all wrong detections'), ('false_negative', 'all objects not found')):
        table.add_row(_words(name.replace('_', ' '), 'dim'), number(errors[name]), '', _words(text, 'dim'))
    return table


def worst_confusions(confusion: Mapping[str, Any], most: int = CONFUSIONS) -> list[tuple[str, str, int, float | None]]:
    """Pairs of classes that a detector takes for each other, the most frequent first.

    Returns:
        True class, detected class, how often, and that as a part of the objects of the true class.
    """
    names, counts = confusion['names'][:-1], confusion['counts']
    pairs = [(names[true], names[found], counts[true][found], counts[true][found] / max(1, sum(counts[true])))
             for true in range(len(names)) for found in range(len(names)) if true != found and counts[true][found]]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:most]


def _print_confusions(confusion: Mapping[str, Any], console: Console) -> None:
    pairs = worst_confusions(confusion)
    if not pairs:
        console.print(_words('No class is taken for another at this score.'))
        return
    title = f'Classes taken for others, at score {confusion["score"]:.3f}'
    table = _table(title, ('Is a', 'Detected as', 'Times', 'Of its objects'), left=('Is a', 'Detected as'))
    for true, found, times, part in pairs:
        table.add_row(_words(true), _words(found), f'{times:,}', f'{100 * part:.1f} %')
    _show(console, table)


# --- label maps --------------------------------------------------------------------------------------


def _print_labels(part: Mapping[str, Any], console: Console) -> None:
    ranges = part['intervals']['summary']
    for name in ('mIoU', 'aAcc', 'mAcc', 'mDice', 'boundary_mIoU'):
        if name in ranges:
            console.print(_words(f'  {with_interval(name.replace("_", " "), ranges[name], 2)}'))
    table = _table('By class, in percent', ('Class', 'Images', 'IoU', '95 % interval', 'Acc', 'Dice', 'Boundary IoU'))
    rows = []
    classes = part['scores']['per_class']
    for one, own in zip(classes, part['intervals']['per_class'], strict=True):
        if one['IoU'] is None:
            continue
        rows.append((one['IoU'], [
            one['class'], f'{one["images"]:,}', number(one['IoU'], 2), span(own['IoU'], 1), number(one['Acc'], 2),
            number(one['Dice'], 2), number(one.get('boundary_IoU'), 2)]))
    _show(console, _filled(table, rows, len(classes) - len(rows)))
    bands = _table('Errors near the boundaries of the label map',
                   ('Within', 'Of all pixels', 'Of all errors', 'Wrong there', 'Wrong elsewhere'), left=())
    for band in part['bands'] or ():
        bands.add_row(f'{band["width"]} pixels', *(f'{number(band[name], 1)} %' for name in (
            'pixel_share', 'error_share', 'error_rate', 'interior_error_rate')))
    _show(console, bands)
    if part['pairs']:
        pairs = _table('Classes taken for others, and the mIoU that costs',
                       ('Is', 'Predicted as', 'Of its pixels', 'mIoU lost'), left=('Is', 'Predicted as'))
        for pair in part['pairs'][:CONFUSIONS]:
            pairs.add_row(_words(pair['true']), _words(pair['predicted']), f'{number(pair["share_of_true"], 1)} %',
                          number(pair['iou_points'], 2))
        _show(console, pairs)


# --- two prediction sets -----------------------------------------------------------------------------

VERDICTS = {True: 'beyond noise', False: 'within noise', None: 'not known'}


def print_comparison(found: Mapping[str, Any], console: Console) -> None:
    """Print what `backbones.evaluation.compare_files.compare_predictions` found."""
    console.print(_words(f'A  {found["first"]}'))
    console.print(_words(f'B  {found["second"]}'))
    for kind, part in found['kinds'].items():
        console.print()
        console.print(Text.assemble((KIND_TITLES[kind], 'bold'), (
            f'  B - A on {part["images"]} images, {part["replicates"]} resamplings, intervals of '
            f'{100 * part["level"]:g} %', 'dim')))
        digits = 2 if kind == 'labels' else 3
        _show(console, _differences(part['overall'], '', digits))
        _show(console, _differences(part['classes'], part['by'], digits))
        console.print()
        console.print(_words(_sentence(part, digits)))
    for remark in found['remarks']:
        console.print(_words(f'note: {remark}', 'yellow'))


def span(interval: Mapping[str, Any], digits: int, sign: bool = False) -> str:
    """Such as `0.561 to 0.609`."""
    if interval['low'] is None:
        return UNKNOWN
    return f'{number(interval["low"], digits, sign)} to {number(interval["high"], digits, sign)}'


def _differences(rows: Sequence[Mapping[str, Any]], by: str, digits: int) -> Table:
    title = f'{by} by class (!: beyond noise even as one of all classes together)' if by else 'Overall'
    table = _table(title, ('Class' if by else 'Number', 'A', 'B', 'B - A', 'Interval', 'Verdict'),
                   left=('Class', 'Number', 'Verdict'))
    every = len(rows)
    if by:  # those beyond noise first, then by size
        rows = [row for row in rows if row['first'] is not None or row['second'] is not None]
        rows = sorted(rows, key=lambda row: (not row['beyond'], -abs(row['difference'] or 0)))
    lines = []
    for row in rows:
        verdict = VERDICTS[row['beyond']] + ('!' if row['jointly'] else '')
        style = 'bold' if row['beyond'] else 'dim' if row['beyond'] is None else ''
        lines.append([_words(row['name'], style), number(row['first'], digits), number(row['second'], digits),
                      number(row['difference'], digits, True), span(row, digits, True), _words(verdict, style)])
    return _filled(table, [(None, line) for line in lines], every - len(rows))


def _sentence(part: Mapping[str, Any], digits: int) -> str:
    main = part['overall'][0]
    if main['beyond'] is None:
        return (f'Whether {main["name"]} differs beyond noise is not known: '
                f'{_count(main["images"], "image")} cannot tell.')
    if not main['beyond']:
        return f'{main["name"]}: no difference beyond noise.'
    better = 'B is better' if main['difference'] > 0 else 'A is better'
    return f'{main["name"]}: {better}, by {abs(main["difference"]):.{digits}f}, beyond noise.'


# --- parts -------------------------------------------------------------------------------------------


def _table(title: str, columns: Sequence[str], left: Iterable[str] = ('Class',)) -> Table:
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1))  # `_show` prints the title
    left = set(left)
    for name in columns:
        names = name in left and name not in ('Verdict', 'What', 'Error')
        table.add_column(name, justify='left' if name in left else 'right', no_wrap=True, overflow='ellipsis',
                         max_width=NAME if names else None)
    return table


def _show(console: Console, table: Table) -> None:
    """Print a table below its title: rich would break the title at the width of the table."""
    title, table.title = table.title, None
    console.print()
    console.print(Text(str(title), 'bold'))
    console.print(table)


def _filled(table: Table, rows: Sequence[tuple[float | None, Sequence[Any]]], empty: int = 0) -> Table:
    """Add rows, those with the highest number first where they have one; of very many the first and the last.

    Args:
        table: to fill.
        rows: number and cells.
        empty: classes that have none, as nothing of them is there.
    """
    if any(value is not None for value, _ in rows):
        rows = sorted(rows, key=lambda row: (row[0] is None, -(row[0] or 0)))
    left_out = len(rows) - MOST_ROWS
    for place, (_, cells) in enumerate(rows):
        if left_out > 0 and MOST_ROWS // 2 <= place < MOST_ROWS // 2 + left_out:
            if place == MOST_ROWS // 2:
                table.add_row(_words(f'... {left_out} more', 'dim'))
            continue
        table.add_row(*(cell if isinstance(cell, Text) else _words(cell) for cell in cells))
    if empty:
        table.add_row(_words(f'{empty} not there', 'dim'))
    return table


def _words(text: str, style: str = '') -> Text:
    """Text as it is: a class may be called `[red]`, or hold a line end."""
    return Text(shown(text), style)


def _count(images: int, what: str) -> str:
    return f'{images} {what}' + ('' if images == 1 else 's')
