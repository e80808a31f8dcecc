"""Numbers on the pages are those of the configs and the measurements, put there by tools/update_docs.py."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


def load_tool(name: str) -> ModuleType:
    """A file of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool('update_docs')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like docs/ with one measurement."""
    report = {'stall': 0.3465, 'kills': 23, 'steps': 160000, 'machine': 'two cores', 'seconds': 458, 'long': 7530,
              'rows': {'json.load': {'peak MiB': 2930.04}}, 'scores': [1, 2.5], 'bytes': 7703068058, 'ratio': 0.9871}
    (tmp_path / 'run.json').write_text(json.dumps(report))
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results/one.json').write_text('{"seconds": 90}')
    return tmp_path


# --- the pages ------------------------------------------------------------------------------------


def test_every_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, 'tools/update_docs.py', '--check'], cwd=ROOT, capture_output=True, text=True,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''})
    assert done.returncode == 0, done.stderr


def test_every_picture_and_page_the_readme_links_is_there() -> None:
    targets = re.findall(r'\]\(([^)#:]+)\)', (ROOT / 'README.md').read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_iou_stands_in_percent_with_its_sign_everywhere() -> None:
    text = (ROOT / 'README.md').read_text()
    measured = [part for name in ('times', 'results') for part in text.split(f'<!-- {name} -->')[1].split('<!-- /')[:1]]
    values = re.findall(r'mIoU (?:>= )?[\d.]+( %)?', ' '.join(measured))
    assert len(values) == 3 and all(values)


@pytest.mark.parametrize(('page', 'begin', 'end'), [
    ('checkpoints.md', '## Time', '\n## '), ('guards.md', '\nCost', '\n## ')])
def test_no_measured_time_or_size_is_typed_by_hand(page: str, begin: str, end: str) -> None:
    part = (ROOT / 'docs' / page).read_text().split(begin)[1].split(end)[0]
    assert len(tool.FIGURE.findall(part)) >= 5
    assert re.findall(r'\d (?:s|ms|MB|MiB|%|M)\b', tool.FIGURE.sub('', part)) == []


def test_the_memory_of_a_published_recipe_is_what_is_counted_today() -> None:
    pytest.importorskip('mmdet')
    written = json.loads((ROOT / 'docs/published_memory.json').read_text())['cases']
    benchmark = load_tool('benchmark_published')
    assert list(written) == list(benchmark.CASES)
    today, then = benchmark.compare('cascade_convnext_t'), written['cascade_convnext_t']
    assert today == {**then, **{key: pytest.approx(then[key], rel=0.005) for key in ('peak', 'needed')}}


def test_every_reference_file_is_in_the_table_of_layouts_and_within_its_tolerance() -> None:
    rows = json.loads((ROOT / 'docs/layouts.json').read_text())['references']
    assert {path.parent.name for path in (ROOT / 'tests/references').glob('*/meta.json')} <= set(rows)
    assert [name for name, row in rows.items() if row['error'] > row['tolerance']] == []


def test_the_check_names_what_is_old_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = folder / 'page.md'
    page.write_text('a\n\n<!-- table -->\nold\n<!-- /table -->\nafter <!-- f run.kills d -->7<!-- /f --> kills\n')
    (folder / 'README.md').write_text('b\n')
    for name, value in dict(ROOT=folder, DOCS=folder, BLOCKS={'table': lambda: 'new'}).items():
        monkeypatch.setattr(tool, name, value)
    before = page.read_text()
    monkeypatch.setattr(sys, 'argv', ['update_docs.py', '--check'])
    assert tool.main() == 1
    assert page.read_text() == before
    assert 'page.md: out of date from line 4 on' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['update_docs.py'])
    assert tool.main() == 0
    assert page.read_text() == before.replace('old', 'new').replace('>7<', '>23<')
    monkeypatch.setattr(sys, 'argv', ['update_docs.py', '--check'])
    assert tool.main() == 0


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(('path', 'style', 'text'), [
    ('run.stall', '.2f', '0.35'), ('run.kills', 'd', '23'), ('run.steps', ',d', '160,000'),
    ('run.machine', 's', 'two cores'), ('run.seconds', 'clock', '7 min 38 s'), ('run.long', 'clock', '2 h 05 min'),
    ('run.rows.json.load.peak MiB', '.0f', '2930'), ('run.scores.1', 'g', '2.5'), ('run.ratio*100', '.1f', '98.7'),
    ('run.bytes/1073741824', '.1f', '7.2'), ('run.steps/1e3', '.0f', '160'), ('results/one.seconds/60', '.1f', '1.5')])
def test_a_figure_is_a_value_in_a_format(path: str, style: str, text: str, folder: Path) -> None:
    assert tool.figure(path, style, 'page.md', folder) == text


def test_figures_in_sentences_and_cells_are_renewed_and_nothing_else(folder: Path) -> None:
    page = ('Waits <!-- f run.stall .2f -->{}<!-- /f --> s, killed <!-- f run.kills d -->{}<!-- /f --> times.\n\n'
            '| R1 | <!-- f run.kills d -->{}<!-- /f --> of 23 | <!-- a remark --> |\n')
    assert tool.filled(page.format(0, '', '5'), 'page.md', {}, folder) == page.format('0.35', 23, 23)


@pytest.mark.parametrize(('marker', 'message'), [
    ('<!-- f absent.x d -->0<!-- /f -->', r'no docs/absent.json; run the tool that measures it'),
    ('<!-- f run.kill d -->0<!-- /f -->', r"run.json has no 'kill' there; it has stall, kills, steps"),
    ('<!-- f run.kills.x d -->0<!-- /f -->', r"has no 'x' there; it has only the value 23"),
    ('<!-- f run.rows d -->0<!-- /f -->', r'this is a whole dict; name one value in it'),
    ('<!-- f run.stall d -->0<!-- /f -->', r"0.3465 cannot be written as 'd'"),
    ('<!-- f run.machine*100 .1f -->0<!-- /f -->', r"'two cores' cannot be written as '.1f'"),
    ('<!-- f run.kills -->0<!-- /f -->', r'<!-- f run.kills --> has no partner'),
    ('<!-- f run.kills d -->0', r'<!-- f run.kills d --> has no partner'),
    ('<!--f run.kills d-->0<!--/f-->', r'<!--f run.kills d--> has no partner'),
    ('0<!-- /f -->', r'<!-- /f --> has no partner')])
def test_a_wrong_figure_is_refused_with_page_and_reason(marker: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=f'page.md: .*{message}'):
        tool.filled(f'It takes {marker} s.\n', 'page.md', {}, folder)


@pytest.mark.parametrize('before', ['', '  ', '- ', '> ', '1. ', '- - '])
def test_a_figure_that_opens_a_line_is_refused_as_markdown_would_not_render_the_line(before: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r'page.md: the line .* begins with a figure'):
        tool.filled(f'It takes\n{before}<!-- f run.kills d -->0<!-- /f --> `steps`\n', 'page.md', {}, folder)


# --- blocks ---------------------------------------------------------------------------------------


def test_a_block_is_renewed_wherever_it_stands_also_when_empty() -> None:
    page = 'a\n<!-- table -->\n{}<!-- /table -->\nb\n'
    for old in ('', 'x\n', 'x\n\ny\n'):
        assert tool.filled(page.format(old), 'page.md', {'table': lambda: '| 1 |'}, Path()) == page.format('| 1 |\n')


@pytest.mark.parametrize(('text', 'message'), [
    ('<!-- tabel -->\n<!-- /tabel -->\n', r'nothing writes the block <!-- tabel -->; known are table'),
    ('<!-- table -->\nx\n', r'<!-- table --> has no partner'),
    ('x\n<!-- /table -->\n', r'<!-- /table --> has no partner'),
    ('a <!-- table -->\n<!-- /table -->\n', r'<!-- table --> has no partner')])
def test_a_wrong_block_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f'page.md: {message}'):
        tool.filled(text, 'page.md', {'table': str}, Path())


def test_a_block_that_is_on_no_page_any_more_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / 'README.md').write_text('nothing\n')
    for name, value in dict(ROOT=folder, DOCS=folder, BLOCKS={'table': str}).items():
        monkeypatch.setattr(tool, name, value)
    with pytest.raises(ValueError, match=r'no page holds the block <!-- table -->'):
        tool.changed_pages()
