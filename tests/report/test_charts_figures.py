"""Names on axes, rows of classes, intervals as bars, and the matrix of many classes."""

from __future__ import annotations

import pytest

from backbones.report.charts_confusion import chosen_classes, confusion_chart
from backbones.report.charts_figures import (
    axis_names,
    decimal,
    ends_of,
    error_bars,
    escaped,
    in_template,
    plotted,
    rows_axis,
    shortened,
    span,
)

KNOWN = dict(value=0.5, low=0.4, high=0.7)


def test_markup_and_entities_are_shown_as_they_are() -> None:
    assert escaped('<b>&lt;') == '&lt;b&gt;&amp;lt;'


def test_a_long_name_in_a_hover_is_whole_in_short_lines() -> None:
    name = 'a class whose name says everything about it, and more'
    assert escaped(name).replace('<br>', ' ') == name
    assert all(len(line) <= 32 for line in escaped('<' * 70).replace('&lt;', '<').split('<br>'))


def test_a_name_in_a_template_of_a_hover_stands_for_no_number() -> None:
    assert in_template('%{x} <i>') == '%&#123;x} &lt;i&gt;'


def test_a_long_name_loses_its_middle_before_it_is_escaped() -> None:
    assert shortened('a class of things number 12', 12) == 'a clas…er 12'
    assert escaped('<' * 100, 10).count('&lt;') == 9 and len(shortened('x' * 1000)) == 18


@pytest.mark.parametrize('name', ['', ' ', None])
def test_no_name_is_told_as_such(name: object) -> None:
    assert shortened(name if name is not None else '') == '(no name)'


def test_names_that_are_alike_are_numbered() -> None:
    names = axis_names(['a', 'a', 'a (2)', 'a' * 40, 'a' * 41])
    assert len(set(names)) == 5 and names[:2] == ['a', 'a (2)']


@pytest.mark.parametrize('value', [None, float('nan'), float('inf'), True, '3', 10**400])
def test_what_is_no_number_is_a_gap_and_never_zero(value: object) -> None:
    assert plotted(value) is None and decimal(value) == '-'


def test_an_interval_that_is_not_known_has_no_bar() -> None:
    bars = error_bars([KNOWN, dict(KNOWN, low=None), None], '#000000')
    assert bars['array'] == [0.2, None, None] and bars['arrayminus'] == [0.1, None, None]
    assert span(dict(KNOWN, low=None)) == '-' and span(None) == '-' and span(KNOWN) == '0.400 to 0.700'


def test_of_many_classes_the_best_and_the_worst_have_rows_with_a_gap_between() -> None:
    values = [None, *(k / 100 for k in range(100))]
    chosen, places = ends_of(values, [KNOWN] * 101, ends=3)
    assert chosen == [100, 99, 98, 3, 2, 1] and places == [0, 1, 2, 4, 5, 6]
    assert rows_axis('abcdef', places)['ticktext'][-1] == '…'


def test_of_many_classes_those_without_an_interval_are_left_out() -> None:
    ranges = [dict(KNOWN, low=None)] * 20 + [KNOWN] * 20
    chosen, _ = ends_of([k / 100 for k in range(40)], ranges, ends=3)
    assert chosen == [39, 38, 37, 22, 21, 20]


def test_few_classes_are_all_shown() -> None:
    assert ends_of([0.1, None, 0.9], [None] * 3) == ([2, 0], [0, 1])


def test_the_matrix_of_many_classes_has_those_that_are_confused_most() -> None:
    counts = [[100 * (row == column) for column in range(60)] for row in range(60)]
    counts[7][3], counts[50][51] = 20, 30
    assert chosen_classes(counts, 60) == [3, 7, 50, 51]
    assert len(chosen_classes([[5 * (row == column) for column in range(60)] for row in range(60)], 60)) == 25


def test_classes_called_as_the_last_row_and_column_stay_apart_from_them() -> None:
    counts = [[5, 1, 2], [0, 4, 1], [1, 1, 0]]
    one = confusion_chart('id', counts, ['missed', 'background'], unit='object', verb='detected as', extra=True,
                          caption='')
    cells = one.figure['data'][0]
    assert cells['x'] == ['missed', 'background', '(missed)'] and cells['y'][-1] == '(background)'


def test_a_matrix_of_nothing_is_no_chart() -> None:
    assert confusion_chart('id', [[0, 0], [0, 0]], ['a'], unit='object', verb='detected as', extra=True,
                           caption='') is None
