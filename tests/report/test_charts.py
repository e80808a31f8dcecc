"""An evaluation as chapters: numbers are those of the details, what is not defined is a gap, names are only shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

import plotly.graph_objects as graphs
from detection_helpers import CATEGORIES, draw_entries, draw_truth, flat, index

from backbones.analysis.segmentation_analysis import ArrayPairs
from backbones.evaluation.details import write_details
from backbones.evaluation.details_detection import analyse_detections, protocol_of
from backbones.evaluation.details_segmentation import analyse_labels
from backbones.report.charts import evaluation_sections, headlines
from backbones.report.parts import Chart, Facts, Note, Section, Table

HOSTILE = '<b>bold</b> <a href="javascript:alert(1)">&lt;%{x}</a>'
HEAD = dict(format=1, classes=[], protocol=dict(scale=[[160, 128]], keep_ratio=True, flip=False, precision='fp32'),
            remarks=[])


def detection_details(truth: dict, entries: list[dict], folder: Path, **options: object) -> dict:
    found = dict(boxes=flat(entries), masks=flat(entries, masks=True))
    part = analyse_detections(index(truth), found, 'boxes', resamplings=100, **options)
    details = HEAD | dict(
        task='detection', kinds=['boxes'], data=dict(images=len(truth['images'])),
        boxes=dict(protocol=protocol_of('boxes', part)) | part)
    write_details(folder / 'details.json', details)
    return json.loads((folder / 'details.json').read_text())


def label_details(classes: int, images: int, folder: Path, wrong: float = 0.1, shift: int = 0) -> dict:
    """Squares of classes; the last class is neither there nor predicted."""
    draw = np.random.default_rng(2)
    truths = [np.kron(draw.integers(0, classes - 1, (4, 5)), np.ones((8, 8), int)).astype(np.uint8)
              for _ in range(images)]
    found = [np.where(draw.random(one.shape) < wrong, (one + 1) % (classes - 1), one + shift).clip(0, classes - 1)
             for one in truths]
    pairs = ArrayPairs(tuple(f'class {k}' for k in range(classes)), tuple(map(str, range(images))), truths,
                       [one.astype(np.uint8) for one in found])
    part = analyse_labels(pairs, resamplings=100)
    details = HEAD | dict(task='segmentation', kinds=['labels'], data=dict(images=images), labels=part,
                          remarks=part['remarks'])
    write_details(folder / 'details.json', details)
    return json.loads((folder / 'details.json').read_text())


@pytest.fixture(scope='module')
def drawn() -> tuple[dict, list[dict]]:
    draw = np.random.default_rng(5)
    truth = draw_truth(draw, images=14)
    return truth, draw_entries(truth, draw)


@pytest.fixture(scope='module')
def detected(drawn: tuple[dict, list[dict]], tmp_path_factory: pytest.TempPathFactory) -> dict:
    return detection_details(*drawn, tmp_path_factory.mktemp('detected'))


@pytest.fixture(scope='module')
def labelled(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return label_details(6, 12, tmp_path_factory.mktemp('labelled'))


def parts_of(sections: list[Section], kind: type) -> Iterator:
    return (part for section in sections for part in section.parts if isinstance(part, kind))


def chart(details: dict, id_: str) -> Chart:
    return next(one for one in parts_of(evaluation_sections(details), Chart) if one.id == id_)


def table(details: dict, title: str) -> Table:
    return next(one for one in parts_of(evaluation_sections(details), Table) if one.title == title)


def check(details: dict) -> list[Section]:
    """Every figure is one of plotly, plain JSON, without a template; ids are unique; rows fit their columns."""
    sections = evaluation_sections(details)
    charts = list(parts_of(sections, Chart))
    for one in charts:
        json.dumps(one.figure, allow_nan=False)
        graphs.Figure(one.figure)
        assert 'template' not in one.figure['layout']
    for one in [*parts_of(sections, Table), *(each.table for each in charts if each.table)]:
        assert all(len(row) == len(one.columns) == len(one.formats) for row in one.rows)
        for row in one.rows:
            for cell, form in zip(row, one.formats, strict=True):
                assert cell is None or isinstance(cell, str) != bool(form), (one.title, cell, form)
                format(cell, form) if form and cell is not None else None
    ids = [one.id for one in charts] + [section.id for section in sections]
    assert len(ids) == len(set(ids))
    return sections


def texts_of(figure: object) -> Iterator[str]:
    """All texts that plotly reads as markup."""
    if isinstance(figure, dict):
        for value in figure.values():
            yield from texts_of(value)
    elif isinstance(figure, list):
        for value in figure:
            yield from texts_of(value)
    elif isinstance(figure, str):
        yield figure


both = pytest.mark.parametrize('name', ['detected', 'labelled'])


@both
def test_every_figure_is_one_that_plotly_takes(name: str, request: pytest.FixtureRequest) -> None:
    assert list(parts_of(check(request.getfixturevalue(name)), Chart))


@both
def test_each_chapter_begins_with_how_it_was_counted(name: str, request: pytest.FixtureRequest) -> None:
    sections = evaluation_sections(request.getfixturevalue(name))
    assert len(sections) == 3 and all(isinstance(section.parts[0], Facts) for section in sections)


def test_the_protocol_names_scorer_threshold_and_intervals(detected: dict) -> None:
    rows = dict(evaluation_sections(detected)[0].parts[0].rows)
    assert rows['Scorer'] == detected['boxes']['protocol']['scorer']
    assert f'{detected["boxes"]["points"]["score"]:.3f}' in rows['Precision, recall and F1']
    assert rows['Intervals'].startswith('95 %, 100 resamplings of 14 images')


def test_the_chart_over_the_thresholds_has_the_curve_of_the_details(detected: dict) -> None:
    figure, points = chart(detected, 'chart-boxes-thresholds').figure, detected['boxes']['points']
    assert [(trace['name'], trace['y']) for trace in figure['data']] == [
        (title, points['curve'][title.lower()]) for title in ('Precision', 'Recall', 'F1')]
    assert figure['layout']['shapes'][0]['x0'] == points['score']


def test_details_without_such_a_curve_have_the_other_charts(detected: dict) -> None:
    points = {name: one for name, one in detected['boxes']['points'].items() if name != 'curve'}
    older = detected | dict(boxes=detected['boxes'] | dict(points=points))
    ids = {one.id for one in parts_of(evaluation_sections(older), Chart)}
    assert 'chart-boxes-curve' in ids and 'chart-boxes-thresholds' not in ids


@both
def test_each_class_is_in_the_table_once(name: str, request: pytest.FixtureRequest) -> None:
    details = request.getfixturevalue(name)
    names = [f'class {number}' for number in CATEGORIES] if name == 'detected' else [f'class {k}' for k in range(6)]
    rows = table(details, 'By class' if name == 'detected' else 'By class, in percent').rows
    assert sorted(row[0] for row in rows) == sorted(names)


def test_bars_of_classes_are_the_ap_of_the_details_best_first(detected: dict) -> None:
    known = [one['averages']['ap'] for one in detected['boxes']['metrics']['classes']]
    bars = chart(detected, 'chart-boxes-classes').figure['data'][0]
    assert bars['x'] == pytest.approx(sorted((value for value in known if value is not None), reverse=True), abs=1e-5)


def test_error_bars_end_where_the_interval_ends(detected: dict) -> None:
    ranges = [detected['boxes']['intervals'][f'AP_{size}'] for size in ('small', 'medium', 'large')]
    bars = chart(detected, 'chart-boxes-sizes').figure['data'][0]
    ends = [value + more if more is not None else None
            for value, more in zip(bars['y'], bars['error_y']['array'], strict=True)]
    assert ends == [None if one['high'] is None else pytest.approx(one['high'], abs=2e-5) for one in ranges]


def test_a_class_without_objects_is_no_bar_but_told_and_none_in_the_table(detected: dict) -> None:
    one = chart(detected, 'chart-boxes-classes')
    assert len(one.figure['data'][0]['x']) == 3 and '2 classes without objects' in one.caption
    rows = {row[0]: row for row in table(detected, 'By class').rows}
    assert rows['class 40'][3] is None and rows['class 41'][3] is None and rows['class 3'][3] is not None


def test_a_class_that_is_neither_there_nor_predicted_is_none_in_the_table(labelled: dict) -> None:
    rows = {row[0]: row for row in table(labelled, 'By class, in percent').rows}
    assert rows['class 5'][3] is None and rows['class 0'][3] > 0
    assert '1 class neither there nor predicted' in chart(labelled, 'chart-labels-classes').caption


def test_curves_are_those_of_the_details_at_three_digits(detected: dict) -> None:
    data = chart(detected, 'chart-boxes-curve').figure['data']
    for trace, iou in zip(data, ('0.50', '0.75'), strict=False):
        assert trace['y'] == pytest.approx(detected['boxes']['metrics']['curves'][iou]['all'], abs=6e-4)


def test_the_mark_on_the_curve_is_precision_and_recall_at_the_threshold(detected: dict) -> None:
    mark, point = chart(detected, 'chart-boxes-curve').figure['data'][-1], detected['boxes']['points']['overall']
    assert (mark['x'][0], mark['y'][0]) == pytest.approx((point['recall'], point['precision']), abs=1e-5)


def test_the_cells_of_the_matrix_are_percent_of_the_objects_and_empty_for_none(detected: dict) -> None:
    counts = np.array(detected['boxes']['confusion']['counts'], float)
    expected = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    shown = np.zeros_like(counts)
    for trace in chart(detected, 'chart-boxes-confusion').figure['data'][:3]:
        cells = np.array([[np.nan if cell is None else cell for cell in row] for row in trace['z']])
        assert not (cells == 0).any()
        shown += np.nan_to_num(cells)
    assert shown == pytest.approx(expected, abs=0.006)


def test_the_cost_of_each_kind_of_error_is_that_of_the_details(detected: dict) -> None:
    rows = {row[0]: row[1:3] for row in table(detected, 'Errors').rows}
    errors = detected['boxes']['errors']
    for kind, cost in errors['dap'].items():
        assert rows[kind] == [pytest.approx(cost, abs=1e-5), errors['counts'][kind]]


def test_iou_and_both_losses_add_up_to_100(labelled: dict) -> None:
    data = chart(labelled, 'chart-labels-lost').figure['data']
    assert np.sum([trace['x'] for trace in data], axis=0) == pytest.approx(100, abs=1e-3)


def test_rings_around_boundaries_hold_all_pixels_and_all_errors(labelled: dict) -> None:
    rows = np.array([row[1:3] for row in chart(labelled, 'chart-labels-bands').table.rows])
    assert rows.sum(axis=0) == pytest.approx(100, abs=0.01)


def test_every_image_is_in_the_histogram(labelled: dict) -> None:
    assert sum(chart(labelled, 'chart-labels-images').figure['data'][0]['y']) == 12


def test_headlines_bear_interval_and_number_of_images(detected: dict, labelled: dict) -> None:
    first, labels = headlines(detected)[0], headlines(labelled)
    own = detected['boxes']['intervals']['AP']
    assert (first.name, first.value, first.note) == ('Box AP', f'{own["value"]:.3f}', '14 images')
    assert first.interval == f'{own["low"]:.3f} to {own["high"]:.3f}'
    assert [one.name for one in labels] == ['mIoU', 'mAcc', 'aAcc', 'Boundary mIoU']
    assert all(one.interval and one.value.endswith(' %') for one in labels)


@both
def test_a_name_is_shown_and_never_read_as_markup(name: str, request: pytest.FixtureRequest) -> None:
    details = copy.deepcopy(request.getfixturevalue(name))
    text = json.dumps(details).replace('"class 3"', json.dumps(HOSTILE)).replace('"class 0"', json.dumps(HOSTILE))
    sections = check(json.loads(text))
    texts = [text for one in parts_of(sections, Chart) for text in texts_of(one.figure)]
    assert any('&lt;b&gt;bold' in text for text in texts)
    assert not [text for text in texts if '<' in text.replace('<br>', '').replace('<extra></extra>', '')]
    cells = [cell for one in parts_of(sections, Table) for row in one.rows for cell in row]
    assert HOSTILE in cells  # the page escapes its own
    templates = [trace['hovertemplate'] for one in parts_of(sections, Chart) for trace in one.figure['data']
                 if 'hovertemplate' in trace]
    assert not [text for text in templates if text.count('%{') > 2]  # recall and precision


@both
def test_classes_of_one_name_stay_apart(name: str, request: pytest.FixtureRequest) -> None:
    details = json.dumps(request.getfixturevalue(name))
    for number in range(50):
        details = details.replace(f'"class {number}"', '"same"')
    for one in parts_of(check(json.loads(details)), Chart):
        if one.id.endswith('-confusion'):
            cells = one.figure['data'][0]
            assert len(set(cells['x'])) == len(cells['x']) == len(cells['z'][0])


def test_nothing_detected_is_zero_and_without_a_mark(
    drawn: tuple[dict, list[dict]], tmp_path: Path
) -> None:
    details = detection_details(drawn[0], [], tmp_path) | dict(remarks=['the model detected no object in any image'])
    check(details)
    assert headlines(details)[0].value == '0.000'
    assert all(trace['mode'] == 'lines' for trace in chart(details, 'chart-boxes-curve').figure['data'])
    assert chart(details, 'chart-boxes-points').figure['data'][0]['x'] == [None] * 3  # precision


def test_no_objects_at_all_give_sentences_in_place_of_charts(drawn: tuple[dict, list[dict]], tmp_path: Path) -> None:
    details = detection_details(drawn[0] | dict(annotations=[]), drawn[1], tmp_path)
    sections = check(details)
    assert headlines(details)[0].value == '-' and 'not defined' in headlines(details)[0].note
    assert sum('No class has an object' in note.text for note in parts_of(sections, Note)) == 3
    assert not {'chart-boxes-curve', 'chart-boxes-classes', 'chart-boxes-costs'} & {
        one.id for one in parts_of(sections, Chart)}


def test_few_images_have_numbers_without_intervals(tmp_path: Path) -> None:
    details = label_details(4, 3, tmp_path)
    sections = check(details)
    assert all(one.interval == '' for one in headlines(details))
    assert any('no intervals' in note.text for note in parts_of(sections, Note))
    bars = chart(details, 'chart-labels-classes').figure['data'][0]
    assert bars['error_x']['array'] == [None] * 3 and None not in bars['x']


def test_classes_counted_from_another_number_are_warned_of(tmp_path: Path) -> None:
    notes = list(parts_of(check(label_details(6, 12, tmp_path, wrong=0, shift=1)), Note))
    assert [note.severity for note in notes if 'zero_is_ignored' in note.text] == ['warning']


def test_a_thousand_classes_take_little_room(detected: dict) -> None:
    details = copy.deepcopy(detected)
    part, many = details['boxes'], 1203
    old = len(part['metrics']['classes'])
    chosen = [k % old for k in range(many)]
    for holder, name in [(part['metrics'], 'classes'), (part['errors'], 'classes'), (part['points'], 'classes'),
                         *((part['intervals'], name) for name in part['intervals'] if name.endswith('/class')),
                         *((one, 'classes') for one in part['metrics']['curves'].values())]:
        holder[name] = [copy.copy(holder[name][k]) for k in chosen]
    for place, one in enumerate(part['metrics']['classes']):
        one['name'] = f'a class with a long name, number {place}'
    counts = np.zeros((many + 1, many + 1), int)
    counts[np.arange(many), np.arange(1, many + 1)] = np.arange(many)
    part['confusion'] |= dict(counts=counts.tolist(), names=[*map(str, range(many)), 'background'])
    sections = check(details)
    assert sum(len(json.dumps(one.figure)) for one in parts_of(sections, Chart)) < 500_000
    assert max(one.height for one in parts_of(sections, Chart)) < 1000
    assert len(table(details, 'By class').rows) == many


@pytest.mark.parametrize(('change', 'words'), [
    (lambda details: [], 'holds a list'), (lambda details: None, 'holds a NoneType'),
    (lambda details: details | dict(format=2), 'format 2'), (lambda details: details | dict(format='1'), "format '1'"),
    (lambda details: details | dict(kinds=['keypoints']), 'keypoints'), (lambda details: dict(format=1), 'kinds None'),
    (lambda details: details | dict(boxes={}), 'not of the form'),
    (lambda details: details | dict(boxes=details['boxes'] | dict(metrics=None)), 'not of the form'),
    (lambda details: details | dict(boxes=details['boxes'] | dict(intervals={'AP': 3})), 'not of the form'),
    (lambda details: details | dict(boxes=details['boxes'] | dict(points=details['boxes']['points'] | dict(iou=[]))),
     'not of the form'),
])
def test_what_is_no_details_file_is_told_with_what_to_do(detected: dict, change: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        evaluation_sections(change(detected))
    assert '--details' in str(told.value) and len(str(told.value)) < 500
