"""A page as text: complete, self-contained, and what comes from files stays text."""

from __future__ import annotations

import json
import re
import sys

import pytest

from backbones.report.config_diff import Code
from backbones.report.page import cell, figure_of, render, safe_json, sentence, wide_places
from backbones.report.parts import (
    Card,
    Chart,
    Facts,
    Gallery,
    Headline,
    Note,
    Page,
    Part,
    Picture,
    Section,
    Table,
)

HOSTILE = '</script><script>document.title="run"</script><img src=x onerror=alert(1)>\'"&<!--'


def page_of(*parts: Part | Code, **changed: object) -> str:
    """A page with these parts, rendered."""
    known = dict(title='run', subtitle='', headlines=[], sections=[Section('s', 'Chapter', parts)])
    return render(Page(**{**known, **changed}))


def body(html: str) -> str:
    """Without the library and our own scripts and style."""
    return re.sub(r'<(script|style)>.*?</\1>', '', html, flags=re.S)


def chart(**changed: object) -> Chart:
    """A chart of one line."""
    return Chart(**{**dict(id='c', title='Title', figure=dict(data=[dict(x=[1], y=[2])], layout={})), **changed})


def test_a_page_asks_for_nothing_beyond_itself() -> None:
    text = body(page_of(chart(), Gallery('g', [Card('a', [Picture('Prediction', b'jpeg', 4, 3)])])))
    assert not re.search(r'''(src|href)=["'](?!#|data:)''', text)
    assert '@import' not in text


def test_every_text_is_escaped() -> None:
    card = Card(HOSTILE, [Picture(HOSTILE, b'', 1, 1)], [HOSTILE], [HOSTILE], [HOSTILE])
    parts = (Facts([(HOSTILE, HOSTILE)], HOSTILE), Note(HOSTILE, command=HOSTILE), Code(HOSTILE, HOSTILE),
             Table(HOSTILE, [HOSTILE], [[HOSTILE]], [''], HOSTILE), Gallery(HOSTILE, [card], HOSTILE, [HOSTILE]),
             chart(title=HOSTILE, caption=HOSTILE, figure=dict(data=[dict(name=HOSTILE, x=[HOSTILE])])))
    text = page_of(*parts, title=HOSTILE, subtitle=HOSTILE, headlines=[Headline(*[HOSTILE] * 4)])
    assert '<img src=x' not in text
    assert '<script>document.title' not in text


@pytest.mark.parametrize('text', ['</script>', '<!-- <script>', '\u2028', '&lt;', '"'])
def test_json_in_a_script_element_cannot_end_it(text: str) -> None:
    written = safe_json([text])
    assert '<' not in written
    assert '&' not in written
    assert json.loads(written) == [text]


def test_numbers_that_json_does_not_know_become_null() -> None:
    assert safe_json([float('nan'), float('inf'), dict(a=float('-inf'))]) == '[null,null,{"a":null}]'


def test_names_in_a_chart_are_no_markup_and_templates_keep_their_own() -> None:
    figure = figure_of(chart(figure=dict(
        data=[dict(name='<b>a</b>', text=['<a href="x">'], hovertemplate='<b>%{y}</b><extra></extra><a href="x">')],
        layout=dict(title=dict(text='1<br>2')))))
    trace = figure['data'][0]
    assert trace['name'] == '&lt;b>a&lt;/b>'
    assert trace['text'] == ['&lt;a href="x">']
    assert trace['hovertemplate'] == '<b>%{y}</b><extra></extra>&lt;a href="x">'
    assert figure['layout']['title']['text'] == '1<br>2'


@pytest.mark.parametrize(('value', 'format_', 'text'), [
    (None, '.3f', '–'), (float('nan'), '.3f', '–'), (0.12345, '.3f', '0.123'), (1234, 'd', '1,234'), ('a', 'd', 'a'),
    (0.5, '', '0.5'), (-0.5, '+.2f', '-0.50'), (True, '', 'True')])
def test_a_cell_is_written_by_the_format_of_its_column(value: object, format_: str, text: str) -> None:
    assert cell(value, format_) == text


def test_rows_beyond_those_shown_are_folded_and_there() -> None:
    text = body(page_of(Table('t', ['n'], [[place] for place in range(1203)], ['d'], shown=20)))
    assert text.count('class="more"') == 1183
    assert 'Show all 1,203 rows' in text


def test_the_contents_lead_to_every_chapter() -> None:
    text = body(page_of(Note('a')))
    assert '<a href="#s">Chapter</a>' in text
    assert '<section id="s"' in text


def test_a_chart_has_its_numbers_behind_a_fold() -> None:
    text = body(page_of(chart(table=Table('t', ['n'], [[7]], ['d']))))
    assert re.search(r'<details class="numbers"><summary>Numbers</summary>.*<td class="number" data-v="7">7</td>', text,
                     re.S)


def test_a_page_without_a_chart_does_not_carry_the_library() -> None:
    assert len(page_of(Note('a'))) < 100_000


def test_a_filter_offers_only_kinds_that_a_card_has() -> None:
    text = body(page_of(Gallery('g', [Card('a', [], kinds=['missed'])], kinds=['duplicate', 'missed'])))
    assert 'data-kind="missed"' in text
    assert 'data-kind="duplicate"' not in text


def test_a_sentence_ends_with_one_full_stop() -> None:
    assert [sentence(text) for text in ('a', 'a.', 'a:')] == ['a.', 'a.', 'a:']


@pytest.mark.parametrize(('parts', 'wide'), [
    ([chart(), chart()], set()), ([chart()], {0}), ([chart(), chart(), chart()], {2}),
    ([chart(wide=True), chart(), chart()], {0}), ([chart(), Note('a'), chart()], {0, 1, 2}), ([], set())])
def test_a_chart_that_would_stand_alone_in_its_row_takes_the_whole_width(parts: list[Part], wide: set[int]) -> None:
    assert wide_places(parts) == wide


def test_folded_facts_show_their_title_only() -> None:
    facts = Facts([('Scorer', 'x')], 'How it was counted', folded=True)
    assert '<details class="facts"><summary>How it was counted</summary>' in page_of(facts)


def test_a_missing_jinja2_is_a_sentence_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'jinja2', None)
    with pytest.raises(ValueError, match=r"jinja2, which is not installed: .*mmbackbones\[report\]"):
        page_of()
