"""The page in a real browser. With the environment variable SCREENSHOTS, a folder, pictures of it are kept there."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser_helpers import open_page
from PIL import Image
from serve.toys import HOSTILE, Running, ToyDetector, as_file, rle, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

KEPT = os.environ.get('SCREENSHOTS')
SIZE = (1280, 900) if KEPT else (960, 480)  # small ones are quicker
PICTURES = '#pictures li:nth-child({}) button'


@pytest.fixture(scope='module')
def window(detecting: Running) -> Iterator[tuple[Page, list[str], list[str]]]:
    """One browser for all, with what it complains of and whom it asks."""
    asked: list[str] = []
    with open_page(detecting.address) as (page, complaints):
        page.on('request', lambda request: asked.append(request.url))
        yield page, complaints, asked


@contextlib.contextmanager
def opened(
    window: tuple, running: Running, width: int = SIZE[0], dark: bool = False, fine: bool = True
) -> Iterator[Page]:
    """The page of a server, which asks nobody else and, unless told otherwise, complains of nothing."""
    page, complaints, asked = window
    page.set_viewport_size(dict(width=width, height=SIZE[1]))
    page.emulate_media(color_scheme='dark' if dark else 'light')
    page.goto('about:blank')
    del complaints[:], asked[:]
    page.goto(running.address)
    page.wait_for_selector('#allowed:has-text("MB")')
    yield page
    assert [url for url in asked if not url.startswith((running.address, 'blob:'))] == []
    assert complaints == [] or not fine


def drop(page: Page, *files: Path) -> None:
    page.set_input_files('#files', [str(file) for file in files])
    page.wait_for_selector('#canvas[data-drawn]')


def canvas_pixels(page: Page) -> np.ndarray:
    """(H, W, 4) of what is drawn, after the next frame."""
    page.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))')
    data = page.evaluate('document.querySelector("#canvas").toDataURL()').partition(',')[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def keep(page: Page, name: str) -> None:
    if KEPT:
        folder = Path(KEPT)
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(folder / f'{name}.png'), full_page=True)


def slide(page: Page, value: float) -> None:
    page.fill('#score', str(value))


def objects(page: Page) -> list[str]:
    return page.locator('#objects .row .value').all_inner_texts()


def test_a_dropped_picture_is_drawn_with_what_was_found(window: tuple, detecting: Running, files: list[Path]):
    with opened(window, detecting) as page:
        keep(page, 'empty')
        assert page.is_hidden('#work') and page.inner_text('#drop strong').startswith('Drop pictures here')
        drop(page, files[0])
        keep(page, 'detector')
        assert objects(page) == ['0.90', '0.60'] and page.inner_text('#count') == '(2)'
        assert '90 × 60 pixels, predicted in' in page.inner_text('#facts')
        assert page.inner_text('#status').startswith('first.png: 2 objects from score 0.30: 1 disc')
        found = canvas_pixels(page)
        for switch in ('#boxes', '#masks', '#names'):
            page.uncheck(switch)
            without = canvas_pixels(page)
            assert (without != found).any()
            found = without
        plain = found[found.shape[0] // 2, found.shape[1] // 3]  # the middle of the disc, as in the picture
        assert np.abs(plain[:3].astype(int) - (60, 120, 225)).max() < 8


def test_the_slider_the_number_and_the_classes_filter_without_asking_the_server(
        window: tuple, detecting: Running, files: list[Path]):
    with opened(window, detecting) as page:
        drop(page, files[0])
        before, asked = canvas_pixels(page), len(window[2])
        slide(page, 0.05)
        assert objects(page) == ['0.90', '0.60', '0.10'] and page.input_value('#score-number') == '0.05'
        slide(page, 0.7)
        assert objects(page) == ['0.90'] and (canvas_pixels(page) != before).any()
        page.fill('#score-number', '0.95')
        assert objects(page) == [] and 'the best has 0.90' in page.inner_text('#objects')
        page.fill('#score-number', '0.3')
        assert (canvas_pixels(page) == before).all()
        page.uncheck('#classes input[value="0"]')
        assert objects(page) == ['0.60'] and page.inner_text('#count') == '(1 of 2)'
        assert (canvas_pixels(page) != before).any()
        page.click('#none')
        assert objects(page) == [] and 'switched off' in page.inner_text('#objects')
        page.click('#all')
        assert objects(page) == ['0.90', '0.60'] and (canvas_pixels(page) == before).all()
        assert page.locator('#classes .value').all_inner_texts() == ['1', '1', '0']
        assert len(window[2]) == asked


def test_names_of_files_and_classes_are_never_html(window: tuple, detecting: Running, files: list[Path]):
    with opened(window, detecting) as page:
        drop(page, files[1], files[0])
        assert page.locator('main img').count() == 0 and page.title() == 'Instance segmentation'
        assert HOSTILE in page.locator('#classes .name').all_inner_texts()
        assert HOSTILE in page.locator('#objects .name').all_inner_texts()
        assert files[1].name in page.inner_text('#pictures')


def test_objects_are_pointed_at_by_mouse_and_by_keyboard(window: tuple, detecting: Running, files: list[Path]):
    with opened(window, detecting) as page:
        drop(page, files[0])
        before, box = canvas_pixels(page), page.locator('#canvas').bounding_box()
        page.mouse.move(box['x'] + box['width'] / 3, box['y'] + box['height'] / 2)
        assert page.inner_text('#hint').startswith('disc 0.90, 29 × 29 pixels at 16, 16')
        assert page.locator('#objects .row.active .name').all_inner_texts() == ['disc']
        assert (canvas_pixels(page) != before).any()
        keep(page, 'detector-pointed')
        page.mouse.move(box['x'] + 2, box['y'] + 2)
        assert page.inner_text('#hint').strip() == '' and (canvas_pixels(page) == before).all()
        page.focus('#objects button')
        page.keyboard.press('ArrowDown')
        assert page.inner_text('#hint').startswith(HOSTILE[:10]) and (canvas_pixels(page) != before).any()


def test_the_files_are_reached_by_the_keyboard_alone(window: tuple, detecting: Running):
    with opened(window, detecting) as page:
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.id') == 'files'
        page.evaluate("""document.querySelector('#files').addEventListener('click', (event) => {
            event.preventDefault();  // the dialog of the system
            document.body.dataset.asked = 'for files';
        })""")
        page.keyboard.press('Enter')
        page.wait_for_selector('body[data-asked]')
        keep(page, 'focus')


def test_several_pictures_come_one_after_the_other_and_an_error_is_a_sentence_in_its_place(
        window: tuple, detecting: Running, files: list[Path], tmp_path: Path):
    (tmp_path / 'long.png').write_bytes(bytes(1_200_000))
    with opened(window, detecting, fine=False) as page:
        page.set_input_files('#files', [str(file) for file in (*files, tmp_path / 'long.png')])
        page.wait_for_selector(PICTURES.format(4) + '.failed')
        buttons = page.locator('#pictures button')
        assert [text[:1] == '⚠' for text in buttons.all_inner_texts()] == [False, False, True, True]
        buttons.nth(2).click()
        assert page.inner_text('#problem').startswith('text.jpg: The file is no picture: it begins with')
        assert page.is_hidden('#work')
        keep(page, 'problem')
        buttons.nth(3).click()
        assert '1.2 MB; this server takes up to 1 MB' in page.inner_text('#problem')
        buttons.nth(0).click()
        assert page.is_hidden('#problem') and objects(page) == ['0.90', '0.60']
        assert [line for line in window[1] if '415' not in line] == []  # the browser notes the status by itself


def test_pictures_are_dropped_and_pasted(window: tuple, detecting: Running, png: bytes):
    transfer = '''(bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], "dropped.png", {type: "image/png"}));
        return data; }'''
    with opened(window, detecting) as page:
        data = page.evaluate_handle(transfer, list(png))
        page.dispatch_event('#drop', 'drop', dict(dataTransfer=data))
        page.wait_for_selector('#canvas[data-drawn]')
        assert page.inner_text('#facts').startswith('dropped.png')
        page.evaluate('(data) => window.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}))', data)
        page.wait_for_selector('#canvas[data-drawn^="2 "]')


def test_nothing_found_is_said(window: tuple, detecting: Running, tmp_path: Path):
    (tmp_path / 'tiny.png').write_bytes(as_file(Image.new('RGB', (1, 1))))
    with opened(window, detecting) as page:
        drop(page, tmp_path / 'tiny.png')
        assert page.inner_text('#objects') == 'Nothing found' and '1 × 1 pixels' in page.inner_text('#facts')


def test_what_is_shown_is_saved(window: tuple, detecting: Running, files: list[Path], tmp_path: Path):
    with opened(window, detecting) as page:
        drop(page, files[1])
        slide(page, 0.7)
        with page.expect_download() as download:
            page.click('#save-json')
        saved = json.loads(Path(download.value.path()).read_text())
        assert saved['scores'] == [0.9] and saved['score'] == 0.7 and len(saved['masks']) == 1 and 'view' not in saved
        assert '<' not in download.value.suggested_filename and download.value.suggested_filename.endswith('.json')
        with page.expect_download() as download:
            page.click('#save-png')
        assert Image.open(download.value.path()).size == (810, 540)


def test_zoom_and_a_phone(window: tuple, detecting: Running, files: list[Path]):
    with opened(window, detecting, width=420, dark=True) as page:
        drop(page, files[0])
        keep(page, 'phone-dark')
        assert page.evaluate('document.documentElement.scrollWidth') <= 420
        assert page.locator('#canvas').bounding_box()['width'] > 380
        page.click('#full')
        canvas_pixels(page)
        assert page.locator('#canvas').bounding_box()['width'] == 90
        assert page.get_attribute('#full', 'aria-pressed') == 'true'


def test_a_label_map_names_the_class_under_the_pointer_and_its_share(
        window: tuple, segmenting: Running, files: list[Path]):
    with opened(window, segmenting) as page:
        drop(page, files[0])
        keep(page, 'segmenter')
        assert page.is_hidden('#for-scores') and page.is_hidden('#for-objects')
        assert page.locator('#classes .name').all_inner_texts() == ['left', 'right']
        assert page.locator('#classes .value').all_inner_texts() == ['50.0 %', '50.0 %']
        before, box = canvas_pixels(page), page.locator('#canvas').bounding_box()
        page.mouse.move(box['x'] + box['width'] * 0.49, box['y'] + 9)
        assert page.inner_text('#hint') == 'left, 50.0 % of the picture'
        page.mouse.move(box['x'] + box['width'] * 0.51, box['y'] + 9)
        assert page.inner_text('#hint') == 'right, 50.0 % of the picture'
        assert page.locator('#classes .row.active .name').all_inner_texts() == ['right']
        page.mouse.move(1, 1)
        page.uncheck('#classes input[value="2"]')
        page.mouse.move(1, 1)
        after = canvas_pixels(page)
        middle = before.shape[1] // 2
        assert (after[:, middle + 9:] != before[:, middle + 9:]).any()
        page.fill('#opacity', '0')
        assert (canvas_pixels(page)[:, : middle - 9] != before[:, : middle - 9]).any()


def test_many_classes_are_searched(window: tuple, png: bytes, files: list[Path]):
    class Many(ToyDetector):
        def predict(self, image, score_threshold):
            found = super().predict(image, score_threshold)
            count = len(self.classes)
            return type(found)(found.boxes[:1].repeat(count, 0), found.scores[:1].repeat(count), np.arange(count),
                               list(self.classes), found.masks[:1] * count, found.size)

    classes = tuple(f'kind {number}' for number in range(14))
    with serving(Many(classes=classes)) as running, opened(window, running) as page:
        drop(page, files[0])
        page.fill('#search', 'D 1')
        assert page.locator('#classes .name').all_inner_texts() == [
            'kind 1', 'kind 10', 'kind 11', 'kind 12', 'kind 13']


def test_the_masks_of_the_page_are_those_of_coco(window: tuple, detecting: Running):
    generator = np.random.default_rng(0)
    bitmaps = [generator.random(shape) < part for shape in ((1, 1), (7, 5), (40, 30)) for part in (0, .03, 1)]
    large = np.zeros((600, 400), bool)
    large[100:590, 50:390] = True
    count = '''async (masks) => {
        const {spansOf, eachPixel} = await import("/masks.js");
        return masks.map((mask) => {
            const [height, width] = mask.size, found = [];
            eachPixel(spansOf(mask, {width, height}), (x, y) => found.push(x * height + y));
            return found; }); }'''
    reduced = '''async ([mask, view]) => {
        const {spansOf, eachPixel} = await import("/masks.js");
        const found = [];
        eachPixel(spansOf(mask, view), (x, y) => found.push(x * view.height + y));
        return found; }'''
    with opened(window, detecting) as page:
        found = page.evaluate(count, [rle(bitmap) for bitmap in bitmaps])
        small = page.evaluate(reduced, [rle(large), dict(width=40, height=60)])
    assert [sorted(places) for places in found] == [np.flatnonzero(bitmap.T).tolist() for bitmap in bitmaps]
    assert sorted(small) == np.flatnonzero(large[5::10, 5::10].T).tolist()


def test_the_server_that_is_gone_is_told_and_what_failed_is_sent_again(window: tuple, files: list[Path]):
    with serving(ToyDetector()) as running, opened(window, running, fine=False) as page:
        page.route('**/predict*', lambda route: route.abort())
        page.set_input_files('#files', str(files[0]))
        page.wait_for_selector('#problem:has-text("Is tools/serve.py still running?")')
        page.unroute('**/predict*')
        page.click('#problem button')
        page.wait_for_selector('#canvas[data-drawn]')
        assert page.is_hidden('#problem') and objects(page) == ['0.90', '0.60']
