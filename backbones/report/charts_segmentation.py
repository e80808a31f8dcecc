"""Charts of label maps: scores, classes, and where the errors lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .charts_advice import (
    confused_labels,
    first_of,
    half_width,
    largest_of,
    missed_regions,
    rough_boundaries,
    weakest_of,
    worst_class,
)
from .charts_confusion import confusion_chart
from .charts_figures import (
    BESIDE,
    BLUE,
    GREEN,
    NOT_KNOWN,
    ORANGE,
    VERMILION,
    bars,
    charts_first,
    count_of,
    decimal,
    dots,
    ends_of,
    escaped,
    facts,
    figure,
    left_out,
    plotted,
    resampled,
    rows_axis,
    rows_height,
    shortened,
    span,
    with_span,
)
from .parts import Chart, Headline, Note, Part, Section, Table

HEADLINES = dict(mIoU='mIoU', mAcc='mAcc', aAcc='aAcc', boundary_mIoU='Boundary mIoU')
SUMMARY = ('mIoU', 'aAcc', 'mAcc', 'mDice', 'mFscore', 'mPrecision', 'mRecall', 'boundary_mIoU')
PERCENT = dict(range=[0, 102], dtick=20, fixedrange=True)
PAIRS_SHOWN = 15
BIN = 5  # percent of mIoU


def segmentation_headlines(details: Mapping[str, Any]) -> list[Headline]:
    """mIoU, mAcc, aAcc and boundary mIoU, in percent."""
    ranges = details['labels']['intervals']['summary']
    found = []
    for name, title in HEADLINES.items():
        if name in ranges:
            own, known = ranges[name], span(ranges[name], 2)
            value = decimal(own['value'], 2)
            found.append(Headline(title, value if value == NOT_KNOWN else f'{value} %',
                                  '' if known == NOT_KNOWN else known, count_of(own['images'], 'image')))
    return found


# --- all classes -------------------------------------------------------------------------------------


def labels_section(details: Mapping[str, Any]) -> Section:
    """Protocol, remarks, all scores, and how they spread over the images."""
    part = details['labels']
    ranges = part['intervals']['summary']
    remarks = [Note(remark, 'warning') for remark in dict.fromkeys([*(details.get('remarks') or ()), *part['remarks']])]
    remarks += [Note(remark) for remark in part['intervals'].get('remarks') or ()]
    shown = [(name.replace('_', ' '), ranges[name]) for name in SUMMARY if name in ranges]
    rows = [[name, *(plotted(one[end], 4) for end in ('value', 'low', 'high')), one['images']] for name, one in shown]
    table = Table(
        'All numbers, in percent', ['Number', 'Value', 'From', 'To', 'Images'], rows, ['', '.2f', '.2f', '.2f', 'd'],
        'From and to: the interval of 95 %, of other images drawn as these were; none from fewer than 10 images.',
        len(rows))
    spread = _images(part)
    return Section('labels', 'Label maps', [_protocol(details), *remarks, table, *([spread] if spread else [])])


def _protocol(details: Mapping[str, Any]) -> Any:
    part, protocol = details['labels'], details.get('protocol') or {}
    own, scores = part['protocol'], part['scores']
    version = (details.get('versions') or {}).get('backbones')
    zero = protocol.get('label_0_ignored', (details.get('data') or {}).get('zero_is_ignored'))
    counted = f'the definitions of mmseg, in whole pixels{f", backbones {version}" if version else ""}'
    rows = [('Counted by', counted),
            ('Pixels that count', f'{scores["pixels"]:,}'),
            ('Ignored label', f'{own.get("ignore_index", NOT_KNOWN)}{", and label 0 of the files" if zero else ""}')]
    if own.get('dilation_ratio') is not None:
        rows.append(('Boundary IoU', f'within {100 * own["dilation_ratio"]:g} % of the diagonal'))
    return facts([*rows, ('Intervals', resampled(part['intervals']['summary']['mIoU']))])


def _images(part: Mapping[str, Any]) -> Chart | None:
    """mIoU of each image alone, in bins."""
    values = [value for one in part['images'] if (value := plotted(one['mIoU'])) is not None]
    if not values:
        return None
    many = 100 // BIN
    counts = [0] * many
    for value in values:
        counts[min(int(value // BIN), many - 1)] += 1
    hover = [f'mIoU {n * BIN} to {(n + 1) * BIN} %<br>{count_of(number, "image")}' for n, number in enumerate(counts)]
    trace = bars('images', counts, BLUE, hover, places=[(n + 0.5) * BIN for n in range(many)], across=False, solid=True)
    plot = figure([trace | dict(width=BIN)], dict(range=[0, 100], dtick=20, title='mIoU of the image, %',
                                                  fixedrange=True),
                  dict(title='Images', rangemode='tozero', fixedrange=True), showlegend=False, bargap=0)
    gone = part.get('images_left_out') or 0
    caption = ('The mean over the classes of one image; it differs from mIoU, which adds up pixels first.'
               + (f' Of the {len(values):,} worst; {gone:,} better ones are not in the file.' if gone else ''))
    table = Table('Images by their mIoU', ['From', 'To', 'Images'],
                  [[n * BIN, (n + 1) * BIN, number] for n, number in enumerate(counts)], ['d', 'd', 'd'])
    return Chart('chart-labels-images', 'mIoU by image', plot, caption, table)


# --- by class ----------------------------------------------------------------------------------------


def label_classes_section(details: Mapping[str, Any]) -> Section:
    """IoU and boundary IoU of each class, what takes it from 100, and the table."""
    part = details['labels']
    classes, ranges, summary = part['scores']['per_class'], part['intervals']['per_class'], part['intervals']['summary']
    costly: dict[str, str] = {}
    for pair in part['pairs']:
        costly.setdefault(pair['true'], f'taken for {pair["predicted"]} ({pair["share_of_true"]:.0f} % of its pixels)')
    rows = [(one['class'], own['IoU'], costly.get(one['class'], '')) for one, own in zip(classes, ranges, strict=True)]
    told = [('Classes', f'{len(classes):,}'), ('Ignored label', part['protocol'].get('ignore_index', NOT_KNOWN)),
            ('Unit', 'percent, of all pixels of the class together'), ('Intervals', resampled(summary['mIoU']))]
    worst = worst_class('IoU', summary['mIoU'], rows, digits=1, whole=100)
    made = [one for one in (worst, _class_bars(part), _lost(part), _class_table(part)) if one is not None]
    return Section('labels-classes', 'Label maps by class', [facts(told, folded=True), *made])


def _class_bars(part: Mapping[str, Any]) -> Chart | Note:
    classes, ranges = part['scores']['per_class'], part['intervals']['per_class']
    values = [one['IoU'] for one in classes]
    chosen, places = ends_of(values, [one['IoU'] for one in ranges])
    if not chosen:
        return Note('No class is there or predicted, so IoU is not defined for any.')
    names, data = [classes[k]['class'] for k in chosen], []
    for name, title, color in (('IoU', 'IoU', BLUE), ('boundary_IoU', 'Boundary IoU', ORANGE)):
        if not any(classes[k].get(name) is not None for k in chosen):
            continue
        own = [ranges[k].get(name) for k in chosen]
        hover = [f'{escaped(classes[k]["class"])}<br>{title} '
                 f'{with_span(one, 2) if one else decimal(classes[k].get(name), 2)}<br>'
                 f'{count_of(classes[k]["images"], "image")} hold it' for k, one in zip(chosen, own, strict=True)]
        draw = bars if name == 'IoU' else dots
        rows = places if name == 'IoU' else [place + BESIDE for place in places]
        data.append(draw(title, [classes[k].get(name) for k in chosen], color, hover, places=rows, ranges=own))
    few = sum(ranges[k]['IoU']['low'] is None for k in chosen)
    caption = ' '.join(filter(None, (
        'In percent, the best first; lines are intervals.',
        f'{count_of(few, "class")} without an interval, as fewer than 10 images hold them.' if few else '',
        left_out(chosen, values, [one['IoU'] for one in ranges], 'neither there nor predicted'))))
    height = rows_height(places)
    plot = figure(data, PERCENT, rows_axis(names, places))
    return Chart('chart-labels-classes', 'IoU and boundary IoU by class', plot, caption, None, height)


def _lost(part: Mapping[str, Any]) -> Chart | None:
    """What takes each class from 100: IoU and both kinds of loss add up to it."""
    classes = part['scores']['per_class']
    values, ranges = [one['IoU'] for one in classes], [one['IoU'] for one in part['intervals']['per_class']]
    chosen, places = ends_of(values, ranges)
    if not chosen:
        return None
    series = (('IoU', 'IoU', BLUE), ('lost_to_missing', 'given to other classes', ORANGE),
              ('lost_to_inventing', 'taken from other classes', VERMILION))
    data = []
    for name, title, color in series:
        hover = [f'{escaped(classes[k]["class"])}<br>{title}: {decimal(classes[k][name], 2)}' for k in chosen]
        data.append(bars(title, [classes[k][name] for k in chosen], color, hover, places=places, solid=True))
    height = rows_height(places, 130)
    plot = figure(data, PERCENT | dict(range=[0, 100]), rows_axis([classes[k]['class'] for k in chosen], places),
                  barmode='stack')
    caption = ('Over all pixels that are of the class or predicted as it: those that are both (IoU), its own given to '
               'other classes, and those of others given to it; they add up to 100. '
               + left_out(chosen, values, ranges, 'neither there nor predicted')).strip()
    table = Table('What takes IoU from 100', ['Class', *(title for _, title, _ in series)], [
        [one['class'], *(plotted(one[name], 3) for name, _, _ in series)] for one in classes], ['', *['.2f'] * 3])
    return Chart('chart-labels-lost', 'What takes IoU from 100', plot, caption, table, height)


def _class_table(part: Mapping[str, Any]) -> Table:
    total, rows = part['scores']['pixels'], []
    for one, own in zip(part['scores']['per_class'], part['intervals']['per_class'], strict=True):
        rows.append([
            one['class'], one['images'], plotted(100 * one['pixels'] / total, 4) if total else None,
            plotted(one['IoU'], 4), span(own['IoU'], 1), plotted(one['Acc'], 4), span(own.get('Acc'), 1),
            plotted(one['Dice'], 4), plotted(one.get('boundary_IoU'), 4), span(own.get('boundary_IoU'), 1),
            plotted(one['Precision'], 4), plotted(one['Recall'], 4)])
    rows.sort(key=lambda row: (row[3] is None, -(row[3] or 0)))
    columns = ['Class', 'Images', '% of pixels', 'IoU', 'IoU, 95 %', 'Acc', 'Acc, 95 %', 'Dice', 'Boundary IoU',
               'Boundary, 95 %', 'Precision', 'Recall']
    return Table('By class, in percent', columns, rows, ['', 'd', *['.2f'] * 2, '', '.2f', '', *['.2f'] * 2, '',
                                                         *['.2f'] * 2],
                 'Acc is recall: of the pixels of the class. A class that is neither there nor predicted has no IoU '
                 'and no part in the mean; one that is predicted without being there has IoU 0.')


# --- errors ------------------------------------------------------------------------------------------


def label_errors_section(details: Mapping[str, Any]) -> Section:
    """What to try, confused classes, boundaries and regions."""
    part = details['labels']
    own, table = part['protocol'], part['confusion']
    wrong = sum(map(sum, table)) - sum(row[n] for n, row in enumerate(table))
    limits = own.get('region_limits') or []
    told = [('Wrong pixels', f'{wrong:,} of {part["scores"]["pixels"]:,}'),
            ('Ignored label', own.get('ignore_index', NOT_KNOWN)),
            ('Bands', ', '.join(map(str, own.get('band_widths') or [])) + ' pixels on either side of a boundary')]
    if limits:
        told.append(('Regions', f'connected pixels of a class, 8 neighbours; larger ones from '
                                f'{", ".join(f"{limit:,}" for limit in limits)} pixels on'))
    parts: list[Part] = [facts(told, folded=True)]
    parts.append(first_of(lambda: confused_labels(part), lambda: missed_regions(part), lambda: rough_boundaries(part),
                          largest=_largest(part)))
    names = [one['class'] for one in part['scores']['per_class']]
    caption = ('In percent of the pixels of the class; blue is right, orange is not, deeper is more (on a scale of '
               'its own); an empty cell: none.')
    made = (confusion_chart('chart-labels-confusion', table, names, unit='pixel', verb='predicted as', extra=False,
                            caption=caption), *_pairs(part), _bands(part), *_regions(part))
    return Section('labels-errors', 'Label maps: errors', parts + charts_first(made))


def _largest(part: Mapping[str, Any]) -> str:
    costs = [(f'{shortened(pair["true"], 60)} taken for {shortened(pair["predicted"], 60)}', pair['iou_points'])
             for pair in part['pairs']]
    classes = [(one['class'], own['IoU'], '') for one, own in zip(
        part['scores']['per_class'], part['intervals']['per_class'], strict=True)]
    return largest_of(costs, 'mIoU', 2, half_width(part['intervals']['summary'].get('mIoU')),
                      weakest_of('IoU', classes, 1))


def _pairs(part: Mapping[str, Any]) -> list[Part]:
    pairs = part['pairs']
    if not pairs:
        return [Note('No class is taken for another.')]
    shown = [pair for pair in pairs if plotted(pair['iou_points'])][:PAIRS_SHOWN]
    places = list(range(len(shown)))
    hover = [f'{escaped(pair["true"])}<br>predicted as {escaped(pair["predicted"])}<br>{pair["iou_points"]:.2f} mIoU'
             f'<br>{pair["share_of_true"]:.1f} % of its pixels, in {count_of(pair["images"], "image")}'
             for pair in shown]
    names = [f'{_half(pair["true"])} as {_half(pair["predicted"])}' for pair in shown]
    axis = rows_axis([''] * len(shown), places) | dict(ticktext=names)
    plot = figure([bars('cost', [pair['iou_points'] for pair in shown], VERMILION, hover, places=places, solid=True)],
                  dict(title='mIoU lost, %', rangemode='tozero', fixedrange=True, nticks=6), axis, showlegend=False)
    lines = [[pair['true'], pair['predicted'], plotted(pair['iou_points'], 4), plotted(pair['share_of_true'], 3),
              plotted(pair['share_of_predicted'], 3), pair['pixels'], pair['images']] for pair in pairs]
    table = Table('Classes taken for others', ['Is', 'Predicted as', 'mIoU lost', '% of its pixels',
                                               '% of the predicted', 'Pixels', 'Images'], lines,
                  ['', '', '.2f', '.1f', '.1f', 'd', 'd'],
                  'mIoU lost: gained if these pixels alone were right. These do not simply add up.')
    found: list[Part] = [table]
    if shown:
        found.insert(0, Chart('chart-labels-pairs', 'Costliest confusions', plot, 'mIoU gained if this confusion alone '
                              'were right. These numbers have no intervals.', None, rows_height(places, 70)))
    return found


def _half(name: str) -> str:
    return escaped(name, 11)  # two of them in the room of a name


def _bands(part: Mapping[str, Any]) -> Chart | None:
    """Wrong pixels by their distance from a boundary: rings between the widths of the bands."""
    bands, pixels = part['bands'], part['scores']['pixels']
    if not bands:
        return None
    wrong = sum(map(sum, part['confusion'])) - sum(row[n] for n, row in enumerate(part['confusion']))
    ends = [(band['width'], band['pixels'], band['wrong']) for band in bands] + [(None, pixels, wrong)]
    names, rows, before = [], [], (0, 0, 0)
    for width, many, errors in ends:
        names.append(f'over {before[0]}' if width is None else f'up to {width}')
        own, bad = many - before[1], errors - before[2]
        rows.append([names[-1], plotted(100 * own / pixels, 3) if pixels else None,
                     plotted(100 * bad / wrong, 3) if wrong else None, plotted(100 * bad / own, 3) if own else None,
                     own, bad])
        before = (width or 0, many, errors)
    titles = ('of all pixels', 'of all wrong pixels', 'wrong there')
    data = []
    for place, (title, color) in enumerate(zip(titles, (BLUE, VERMILION, ORANGE), strict=True), start=1):
        hover = [f'{row[0]} pixels from a boundary<br>{title}: {decimal(row[place], 1)} %<br>{row[5]:,} of {row[4]:,} '
                 'pixels wrong' for row in rows]
        data.append(bars(title, [row[place] for row in rows], color, hover, places=names, across=False, solid=True))
    plot = figure(data, dict(type='category', title='Pixels from a boundary of the label map', fixedrange=True,
                            showgrid=False),
                  dict(title='%', rangemode='tozero', fixedrange=True), barmode='group')
    band = bands[0]
    caption = (f'Where the pixels lie, where the wrong ones lie, and how many are wrong there. Were all right within '
               f'{band["width"]} pixels, mIoU would gain {decimal(band["gained_if_right"], 2)}.')
    table = Table('Errors by distance from a boundary', ['Pixels from a boundary', '% of all pixels', '% of all wrong',
                                                         '% wrong there', 'Pixels', 'Wrong'], rows,
                  ['', '.1f', '.1f', '.2f', 'd', 'd'])
    return Chart('chart-labels-bands', 'Errors near boundaries', plot, caption, table)


def _regions(part: Mapping[str, Any]) -> list[Part]:
    """Regions found, missed and invented by size, and the table by class."""
    regions = part['regions']
    if not regions:
        return []
    sizes = regions['overall']
    names = [one['size'] for one in sizes]
    series = (('region_recall', 'found, of a region', GREEN), ('missed_share', 'missed altogether', ORANGE),
              ('invented_share', 'invented, of those predicted', VERMILION))
    counts = dict(region_recall='{regions:,} regions', missed_share='{missed:,} of {regions:,} regions',
                  invented_share='{invented:,} of {predicted_regions:,} predicted regions, {invented_pixels:,} pixels')
    data = []
    for name, title, color in series:
        hover = [f'{one["size"]}<br>{title}: {decimal(one[name], 1)} %<br>{counts[name].format(**one)}'
                 for one in sizes]
        data.append(bars(title, [one[name] for one in sizes], color, hover, places=names, across=False, solid=True))
    plot = figure(data, dict(type='category', fixedrange=True, showgrid=False),
                  dict(title='%', range=[0, 102], fixedrange=True), barmode='group')
    limits = [f'{limit:,}' for limit in regions['limits']]
    caption = (f'Regions are connected pixels of one class, by size (from {" and ".join(limits)} pixels on the next). '
               'Found: the mean part of a region; missed: no pixel of it is found; invented: a predicted region '
               'without a right pixel.')
    keys = ('regions', 'region_recall', 'missed', 'missed_share', 'predicted_regions', 'invented', 'invented_share',
            'invented_pixels')
    columns = ['Regions', 'Found %', 'Missed', 'Missed %', 'Predicted', 'Invented', 'Invented %', 'Invented pixels']
    formats = ['d', '.1f', 'd', '.1f', 'd', 'd', '.1f', 'd']
    table = Table('Regions by size', ['Size', *columns],
                  [[one['size'], *(plotted(one[key], 3) for key in keys)] for one in sizes], ['', *formats])
    rows = [[one['class'], one['size'], *(plotted(one[key], 3) for key in keys)] for one in regions['per_class']]
    rows.sort(key=lambda row: -(row[4] or 0))
    return [Chart('chart-labels-regions', 'Regions found, missed and invented', plot, caption, table, 360),
            Table('Regions by class and size', ['Class', 'Size', *columns], rows, ['', '', *formats],
                  'Those with the most missed regions first.')]
