"""The page in a real browser: charts, filters, dialog, keyboard, themes, phone, print. SCREENSHOTS names a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import open_page
from PIL import Image
from report_helpers import make_run

from backbones.report import report as reports
from backbones.report.config_diff import Code
from backbones.report.curves import read_logs
from backbones.report.page import render
from backbones.report.parts import (
    Card,
    Chart,
    Facts,
    Gallery,
    Headline,
    Note,
    Page,
    Picture,
    Section,
    Table,
)
from backbones.report.run_folder import read_run
from backbones.report.training import Trained, training_section

HOSTILE = '<img src=x onerror="window.ran = 1"></script><script>window.ran = 1</script>'
LONG = 'a_class_with_a_name_that_has_no_place_to_break_' * 3
COLOURS = ('red', 'green', 'blue', 'orange')


def card(number: int, kinds: tuple[str, ...], classes: tuple[str, ...], good: bool = False) -> Card:
    """A card with two small pictures."""
    jpeg = io.BytesIO()
    Image.new('RGB', (40, 30), COLOURS[number % 4]).save(jpeg, 'JPEG')
    pictures = [Picture(label, jpeg.getvalue(), 40, 30) for label in ('Ground truth', 'Prediction')]
    return Card(f'picture{number}.jpg', pictures, ['AP gained: 0.01'], kinds, classes, good)


def gallery() -> Gallery:
    """Six cards, two of them duplicates, one without an error."""
    cards = [card(0, ('missed',), ('cat',)), card(1, ('missed', 'duplicate'), ('dog', HOSTILE)),
             card(2, ('duplicate',), ('cat',)), card(3, ('missed',), ('dog',)), card(4, ('missed',), (LONG,)),
             card(5, (), (), good=True)]
    return Gallery('Worst images', cards, 'What is drawn.', ['missed', 'duplicate'])


@pytest.fixture(scope='module')
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of part, and hostile and long names in all of them."""
    folder = tmp_path_factory.mktemp('page')
    run = read_run(make_run(folder / 'run'))
    bars = Chart('bars', 'AP by class', dict(data=[dict(type='bar', x=[HOSTILE, LONG[:40], 'c'], y=[1, 2, None])],
                 layout=dict(yaxis=dict(title='AP'))), HOSTILE, Table('n', ['Class', 'AP'], [['c', None]], ['', '.2f']))
    heat = Chart('heat', 'Confusion', dict(data=[dict(type='heatmap', z=[[1, 2], [3, 4]], x=['a', 'b'], y=['a', 'b'])]),
                 wide=True)
    table = Table('By class', ['Class', 'AP'], [[f'c{n}', None if n == 3 else (n * 7) % 11 / 10] for n in range(30)],
                  ['', '.2f'], shown=5)
    sections = [
        training_section([Trained(run, read_logs(run))]),
        Section('boxes', 'Boxes', [bars, heat, table, Facts([(LONG, LONG), (HOSTILE, HOSTILE)], 'Protocol')]),
        Section('images', 'Images', [gallery()]),
        Section('config', 'Config', [Code('The whole config', f'a = {LONG!r}\n{HOSTILE}')])]
    page = Page(HOSTILE, LONG, [Headline('Box AP', '0.5', '0.4 to 0.6', '12 images'), Headline(LONG, '1')], sections,
                [Note(HOSTILE, 'warning', 'python tools/test.py ' + LONG)])
    path = folder / 'report.html'
    path.write_text(render(page), encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def opened(file: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page on a desktop, opened once."""
    with open_page(file) as both:
        yield both


@pytest.fixture
def page(opened: tuple[Any, list[str]], file: Path) -> Iterator[Any]:
    """The page at its beginning; whatever goes wrong on it fails the test."""
    page, complaints = opened
    page.set_default_timeout(30_000)
    page.evaluate('delete document.documentElement.dataset.theme; location.hash = "images-gallery-1?"; scrollTo(0, 0)')
    yield page
    page.emulate_media(media='screen', color_scheme='light')
    page.set_viewport_size(dict(width=1280, height=900))
    assert not complaints


def follow(page: Any, hash_: str) -> None:
    """Go to a place on the page, as a link does, and wait until the page has followed."""
    page.evaluate("""hash => new Promise(done => {
        addEventListener('hashchange', () => setTimeout(done), {once: true});
        if (location.hash === hash) done(); else location.hash = hash; })""", hash_)


def until(page: Any, condition: str) -> None:
    """Wait until a condition holds; the page forbids the evaluation of texts, which Playwright's own way needs."""
    page.evaluate(f"""new Promise((done, fail) => {{
        const look = left => {condition} ? done() : left ? setTimeout(look, 20, left - 1) : fail(Error('never'));
        look(500); }})""")


def shot(page: Any, name: str) -> None:
    """Keep a screenshot where somebody wants it."""
    if os.environ.get('SCREENSHOTS'):
        page.screenshot(path=str(Path(os.environ['SCREENSHOTS']) / f'{name}.png'))


def shown(page: Any) -> list[str]:
    """Titles of the cards that are shown."""
    return page.eval_on_selector_all('.card:not([hidden]) h4', 'all => all.map(one => one.textContent)')


def test_charts_are_drawn_when_they_come_into_view(page: Any) -> None:
    assert page.locator('#heat svg.main-svg').count() == 0
    page.locator('#heat').scroll_into_view_if_needed()
    page.wait_for_selector('#heat svg.main-svg')
    page.wait_for_selector('#losses svg.main-svg', state='attached')
    shot(page, 'report_charts')


def test_hostile_names_do_not_run(page: Any) -> None:
    page.locator('#bars').scroll_into_view_if_needed()
    page.wait_for_selector('#bars svg.main-svg')
    assert page.evaluate('window.ran') is None
    assert page.title() == HOSTILE
    assert 'onerror' in page.locator('#bars .plot').text_content()


def test_links_of_the_contents_go_to_headings(page: Any) -> None:
    for link in page.locator('nav a').all():
        assert page.locator(f'{link.get_attribute("href")} h2').count() == 1
    page.locator('nav a', has_text='Config').click()
    assert page.url.endswith('#config')


def test_the_smoothing_slider_moves_the_curve_and_keeps_what_was_logged(page: Any) -> None:
    page.wait_for_selector('#losses svg.main-svg')
    lines = '#losses .scatterlayer .trace'
    before = page.locator(lines).count()
    page.locator('#losses .smooth').fill('0.9')
    assert page.locator('#losses output').text_content() == '0.9'
    assert page.locator(lines).count() == 2 * before
    page.locator('#losses .smooth').fill('0')


def test_a_curve_can_be_left_out_and_the_axis_be_logarithmic(page: Any) -> None:
    page.wait_for_selector('#losses svg.main-svg')
    axis = 'document.querySelector("#losses .plot").layout.yaxis.type'
    assert page.evaluate(axis) == 'linear'
    page.locator('#losses .log').check()
    assert page.evaluate(axis) == 'log'
    page.locator('#losses .choose').first.uncheck()
    assert page.evaluate('document.querySelector("#losses .plot").data.filter(one => one.visible).length') == 1
    page.locator('#losses .choose').first.check()
    page.locator('#losses .log').uncheck()


def test_a_table_is_sorted_by_its_headings_and_undefined_numbers_come_last(page: Any) -> None:
    table = page.locator('table', has=page.locator('caption', has_text='By class'))
    table.locator('th button', has_text='AP').click()
    head = table.locator('th').nth(1)
    assert head.get_attribute('aria-sort') == 'descending'
    cells = table.locator('tbody tr:not(.more) td:nth-child(2)').all_text_contents()
    assert cells == ['1.00', '1.00', '0.90', '0.90', '0.90'][:len(cells)] or cells == sorted(cells, reverse=True)
    table.locator('th button', has_text='AP').click()
    assert head.get_attribute('aria-sort') == 'ascending'
    assert table.locator('tbody tr').last.locator('td').nth(1).text_content() == '–'


def test_all_rows_are_shown_by_a_click(page: Any) -> None:
    table = page.locator('table', has=page.locator('caption', has_text='By class'))
    assert table.locator('tbody tr:visible').count() == 5
    page.get_by_role('button', name='Show all 30 rows').click()
    assert table.locator('tbody tr:visible').count() == 30
    page.get_by_role('button', name='Show fewer rows').click()


def test_filters_leave_the_cards_that_fit_and_say_how_many(page: Any) -> None:
    page.locator('.kinds button[data-kind=missed]').click()
    assert shown(page) == ['picture0.jpg', 'picture1.jpg', 'picture3.jpg', 'picture4.jpg']
    page.locator('.filters select').select_option('dog')
    assert shown(page) == ['picture1.jpg', 'picture3.jpg']
    assert page.locator('.count').text_content() == '2 of 6 images shown'
    assert page.locator('.kinds button[data-kind=duplicate] span').text_content() == '1'
    shot(page, 'report_gallery')


def test_the_filter_is_in_the_link_and_the_link_sets_the_filter(page: Any) -> None:
    page.locator('.kinds button[data-kind=duplicate]').click()
    page.locator('.filters select').select_option(HOSTILE)
    link = page.evaluate('location.hash')
    follow(page, '#images-gallery-1?')
    assert len(shown(page)) == 6
    follow(page, link)
    assert shown(page) == ['picture1.jpg']
    follow(page, '#images-gallery-1?kind=good%3A')
    assert shown(page) == ['picture5.jpg']


@pytest.mark.parametrize('hash_', ['#%', '#images-gallery-1?kind=nonsense&class=%FF', '#nothing?x'])
def test_a_damaged_link_shows_the_whole_page(page: Any, hash_: str) -> None:
    follow(page, hash_)
    assert len(shown(page)) == 6


def test_a_card_opens_large_and_closes_by_keyboard(page: Any) -> None:
    page.locator('.card .open').first.focus()
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Enter')
    title = page.locator('#large-title')
    assert title.text_content() == 'picture1.jpg'
    page.keyboard.press('ArrowRight')
    assert title.text_content() == 'picture2.jpg'
    shot(page, 'report_dialog')
    page.keyboard.press('Escape')
    assert not page.locator('#large').is_visible()
    assert page.evaluate('document.activeElement.closest(".card").querySelector("h4").textContent') == 'picture2.jpg'


def test_the_first_focus_is_the_skip_link(page: Any) -> None:
    assert page.evaluate('document.querySelector("a, button, input").className') == 'skip'
    assert page.locator('.skip').bounding_box()['x'] < 0
    page.locator('.skip').focus()
    assert page.locator('.skip').bounding_box()['x'] >= 0


def test_the_theme_is_switched_by_a_button(page: Any) -> None:
    ground = 'getComputedStyle(document.body).backgroundColor'
    light = page.evaluate(ground)
    page.locator('#theme').click()
    assert page.evaluate(ground) != light
    assert page.locator('#theme').get_attribute('aria-pressed') == 'true'
    page.locator('#theme').click()
    assert page.evaluate(ground) == light


def test_in_print_all_charts_are_drawn_and_folded_rows_are_there(page: Any) -> None:
    page.emulate_media(media='print')
    until(page, '[...document.querySelectorAll(".plot")].every(one => one.querySelector("svg"))')
    assert page.locator('tr.more').first.is_visible()
    assert not page.locator('nav').is_visible()


def test_charts_that_were_never_in_view_are_printed_whole(page: Any) -> None:
    page.emulate_media(media='print')
    until(page, '[...document.querySelectorAll(".plot")].every(one => one.querySelector("svg.main-svg"))')
    assert page.evaluate('[...document.querySelectorAll(".plot")].every('
                         'one => one.querySelector("svg.main-svg").clientHeight <= one.clientHeight)')


@pytest.mark.parametrize(('width', 'dark'), [(420, False), (420, True), (1280, True)])
def test_nothing_is_wider_than_the_window(page: Any, width: int, dark: bool) -> None:
    page.emulate_media(color_scheme='dark' if dark else 'light')
    page.set_viewport_size(dict(width=width, height=900))
    page.evaluate('document.querySelectorAll("details").forEach(fold => { fold.open = true; })')
    until(page, f'document.documentElement.scrollWidth <= {width}')
    assert (page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(13, 17, 23)') == dark
    shot(page, f'report_{width}_{"dark" if dark else "light"}')


def test_the_page_of_a_run_opens_without_complaint(page: Any, tmp_path: Path) -> None:
    page.goto(reports.write_report(make_run(tmp_path / 'run'), make_run(tmp_path / 'other')).as_uri())
    page.wait_for_selector('#losses svg.main-svg')
    assert page.locator('main > section').count() == 6
