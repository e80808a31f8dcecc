"""`write_report` and `tools/report.py`: what a page says of a run, sound or not."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from details_helpers import detect, segment
from report_helpers import make_run

from backbones.data.demo import generate_demo
from backbones.evaluation.compare_files import ONE_TRAINING
from backbones.files import write_json
from backbones.report import data_findings, look_at_data
from backbones.report.charts_advice import Advice
from backbones.report.comparison import compare_runs
from backbones.report.curves import read_logs
from backbones.report.facts import headlines
from backbones.report.page import render
from backbones.report.parts import Chart, Facts, Note, Page, Section
from backbones.report.report import below_headlines, make_page, write_report
from backbones.report.run_folder import read_run


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve generated validation pictures."""
    return generate_demo(
        tmp_path_factory.mktemp('demo') / 'demo', num_train=2, num_val=12, size=(64, 96), progress=False)


@pytest.fixture(scope='module')
def runs(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folders of two detectors, the second a worse one, and of a segmenter, each with its evaluation."""
    folder = tmp_path_factory.mktemp('runs')
    for name, make, wrong in (('good', detect, 0.02), ('bad', detect, 0.3), ('segmenter', segment, 0.1)):
        make_run(folder / name)
        make(demo, folder / name, wrong)
    return folder


@pytest.fixture(scope='module')
def compared(runs: Path) -> Page:
    """The good detector's page beside the bad one's."""
    return page_of(runs / 'good', runs / 'bad')


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the detector's work folder, to be damaged."""
    yield shutil.copytree(runs / 'good', tmp_path / 'run')


def change(run: Path, **changed: object) -> None:
    """Write other entries into its details."""
    file = run / 'evaluation/details.json'
    write_json(file, json.loads(file.read_text()) | changed)


def page_of(run: Path, other: Path | None = None) -> Page:
    """The page as data."""
    return make_page(read_run(run), read_run(other) if other else None)


def sentences(run: Path) -> str:
    """All notes of the summary."""
    read = read_run(run)
    return '\n'.join(part.text for part in below_headlines(read, read_logs(read)) if isinstance(part, Note))


def data_of(run: Path, seconds: float = 60) -> Section:
    """The chapter of the data."""
    return data_findings.data_section(read_run(run), seconds)


def test_a_page_has_all_chapters_of_a_detector(compared: Page) -> None:
    titles = [section.title for section in compared.sections]
    assert titles[1] == 'Training'
    assert titles[-4:] == ['Images', 'Config', 'Data', 'Environment']
    assert any('Boxes' in title for title in titles)
    assert any('Masks' in title for title in titles)


def test_a_page_has_all_chapters_of_a_segmenter(runs: Path) -> None:
    page = page_of(runs / 'segmenter')
    assert page.headlines[0].name == 'mIoU'
    assert re.fullmatch(r'\d\d\.\d\d to \d\d\.\d\d', page.headlines[0].interval)
    assert page.sections[-4].title == 'Images'


def test_the_headlines_are_the_numbers_of_the_details(runs: Path) -> None:
    read = read_run(runs / 'good')
    found = {one.name: one for one in headlines(read)}
    interval = read.details['masks']['intervals']['AP']
    assert found['Mask AP'].value == f'{interval["value"]:.3f}'
    assert found['Mask AP'].interval == f'{interval["low"]:.3f} to {interval["high"]:.3f}'
    assert found['Mask AP'].note == '12 images'


def test_ids_on_a_page_are_unique(compared: Page) -> None:
    text = render(compared)
    ids = re.findall(r' id="([^"]+)"', re.sub(r'<script>.*?</script>', '', text, flags=re.S))
    assert len(ids) == len(set(ids))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A run without an evaluation, whose page is quick."""
    return make_run(tmp_path / 'run')


def test_the_page_is_written_into_the_work_folder_and_replaced(plain: Path) -> None:
    first = write_report(plain)
    write_report(plain)
    assert first == plain / 'report.html'
    assert [path.name for path in plain.glob('report*')] == ['report.html']


def test_another_file_of_that_name_is_kept(plain: Path) -> None:
    (plain / 'report.html').write_text('mine')
    write_report(plain)
    assert (plain / 'report.1.html').read_text() == 'mine'


def test_a_folder_in_the_place_of_the_page_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is a folder; name a file in it'):
        write_report(plain, out=tmp_path)


def test_a_run_is_not_compared_with_itself(plain: Path) -> None:
    with pytest.raises(ValueError, match='name another work folder'):
        write_report(plain, compare=plain)


def test_below_a_comparison_the_page_says_which_noise_is_meant(compared: Page) -> None:
    assert compared.summary[0].text == compared.sections[0].parts[0].text == ONE_TRAINING


def test_the_axis_of_differences_contains_zero(compared: Page) -> None:
    low, high = next(part for part in compared.sections[0].parts if isinstance(part, Chart)).figure['layout']['xaxis'][
        'range']
    assert low < 0 < high


def test_runs_whose_folders_have_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        make_run(tmp_path / name / 'run')
    text = write_report(tmp_path / 'a/run', tmp_path / 'b/run').read_text()
    assert '<h1>a/run</h1>' in text and 'Compared with b/run' in text


def test_the_first_advice_stands_in_the_summary_with_its_chapter(runs: Path) -> None:
    page = page_of(runs / 'bad')
    (advice,) = [part for part in page.summary if isinstance(part, Advice)]
    assert advice.link in {section.id for section in page.sections}
    assert f'<a href="#{advice.link}">' in render(page)


@pytest.mark.parametrize('told', ['config', 'log'])
def test_a_run_cut_short_is_told_to_train_to_the_end_first(run: Path, told: str) -> None:
    if told == 'log':
        (next(run.glob('2*')) / 'a.log').write_text('the schedule ends after the training: step 500 against 30; make')
    read = read_run(run)
    if told == 'config':
        read.config['param_scheduler'] = [dict(type='CosineAnnealingLR', begin=0, end=12, by_epoch=True)]
    page = make_page(read)
    (warning,) = [part for part in page.summary if isinstance(part, Note) and 'The schedule' in part.text]
    assert warning.severity == 'warning'
    (advice,) = [part for part in page.summary if isinstance(part, Advice)]
    assert advice.text.startswith('Train to the end of the schedule first.')


def test_a_comparison_tells_which_is_better_beyond_noise(compared: Page) -> None:
    box = compared.headlines[0]
    assert (box.name, box.verdict, box.better) == ('Box AP', 'better, beyond noise', True)
    assert float(box.other) < float(box.value)
    assert box.difference.startswith('+')
    assert [section.title for section in compared.sections][:2] == ['Compared with bad', 'Training']


def test_a_comparison_has_a_chart_and_a_table_of_the_classes(compared: Page) -> None:
    parts = compared.sections[0].parts
    assert 'Boxes: difference of AP by class' in [getattr(part, 'title', '') for part in parts]
    table = next(part for part in parts if getattr(part, 'title', '') == 'Boxes: AP by class')
    assert len(table.rows) == 6


def test_a_comparison_of_other_data_is_a_sentence_and_the_page_is_there(run: Path, runs: Path) -> None:
    details = json.loads((run / 'evaluation/details.json').read_text())
    change(run, data=details['data'] | dict(annotation_sha256='0' * 64))
    text = write_report(run, runs / 'bad').read_text()
    assert 'not compared by their predictions: the two are of different data sets' in text
    assert '<a href="#training">' in text


def test_a_comparison_with_a_run_without_evaluation_says_so(runs: Path, tmp_path: Path) -> None:
    found, refused = compare_runs(read_run(runs / 'good'), read_run(make_run(tmp_path / 'plain')))
    assert found is None
    assert 'plain has no evaluation in detail' in refused.text


def test_annotations_that_changed_since_are_a_warning(run: Path) -> None:
    details = json.loads((run / 'evaluation/details.json').read_text())
    change(run, data=details['data'] | dict(annotation_sha256='0' * 64))
    assert 'is another file than at the time of this evaluation' in sentences(run)


def test_annotations_that_are_gone_are_told(run: Path) -> None:
    details = json.loads((run / 'evaluation/details.json').read_text())
    change(run, data=details['data'] | dict(annotation_file='gone.json'))
    assert 'gone.json is not here any more' in sentences(run)


def test_few_images_have_no_intervals_and_that_is_said(run: Path) -> None:
    details = json.loads((run / 'evaluation/details.json').read_text())
    change(run, data=details['data'] | dict(images=8))
    assert 'of fewer than 10 there are no intervals' in sentences(run)


def test_remarks_of_the_evaluation_are_shown(run: Path) -> None:
    change(run, remarks=['the classes are shifted by one'])
    assert 'the classes are shifted by one' in sentences(run)


def test_annotations_without_an_object_are_a_warning(run: Path) -> None:
    details = json.loads((run / 'evaluation/details.json').read_text())
    assert 'hold no object' not in sentences(run)
    for one in details['boxes']['metrics']['classes']:
        one['objects'] = 0
    change(run, boxes=details['boxes'])
    assert 'The annotations hold no object of these classes, so AP is not defined' in sentences(run)


def test_how_the_model_was_run_stands_in_the_summary(run: Path) -> None:
    read = read_run(run)
    (facts,) = [part for part in below_headlines(read, read_logs(read)) if isinstance(part, Facts)]
    assert dict(facts.rows)['Flip'] == 'no'
    assert dict(facts.rows)['Scorer']


def test_an_evaluation_of_another_checkpoint_than_the_latest_is_told(run: Path) -> None:
    metrics = json.loads((run / 'metrics.json').read_text())
    write_json(run / 'metrics.json', metrics | dict(checkpoint='epoch_000009'))
    assert 'the latest evaluation (metrics.json) of epoch_000009' in sentences(run)


@pytest.mark.parametrize('changed', [
    dict(boxes={}), dict(boxes=dict(metrics=7)), dict(data=dict()), dict(masks=dict(intervals=None, errors=[]))])
def test_details_that_lack_something_still_give_a_page(run: Path, changed: dict) -> None:
    change(run, **changed)
    text = write_report(run).read_text()
    assert 'cannot be drawn' in text or 'not here' in text or 'Images' in text


def test_a_run_of_mmengine_alone_gives_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run')
    for path in (run / 'metrics.json', run / 'last'):
        path.unlink()
    shutil.rmtree(run / 'runs')
    page = page_of(run)
    assert [section.title for section in page.sections] == ['Training', 'Config', 'Data', 'Environment']
    assert not page.headlines


def test_frames_of_a_video_are_a_warning(run: Path, demo: Path) -> None:
    pictures = run / 'pictures'
    pictures.mkdir()
    files = sorted((demo / 'images/validation').iterdir())
    for place, file in enumerate(files):
        shutil.copy(files[place // 6 * 6], pictures / file.name)  # two scenes
    details = json.loads((run / 'evaluation/details.json').read_text())
    assert 'frames of videos' not in sentences(run)
    change(run, data=details['data'] | dict(image_folder=str(pictures)))
    assert 'frames of videos' in sentences(run)


def test_what_the_preflight_found_is_on_the_page(run: Path) -> None:
    log = next(run.glob('2*/*.log'))
    log.write_text('2026/01/01 00:00:00 - mmengine - WARNING - preflight: a.json: 3 boxes lie outside; mend them\n'
                   '2026/01/01 00:00:00 - mmengine - INFO - preflight took 1.0 s, 1 warnings; `x` shows all\n')
    data = data_of(run)
    assert [part.text for part in data.parts if part.severity == 'warning'][1] == (
        'a.json: 3 boxes lie outside; mend them')


def look_in_this_process(
    command: list[str], input: bytes, timeout: float, **_: object
) -> subprocess.CompletedProcess:
    """What a process of its own would do, quicker."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'stdin', io.StringIO(input.decode()))
        patch.setattr(sys, 'argv', command[2:])
        patch.chdir(Path.cwd())
        look_at_data.main()
    return subprocess.CompletedProcess(command, 0, out.getvalue().encode())


def test_a_look_at_the_data_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run')
    next(run.glob('2*/*.log')).unlink()
    (note,) = data_of(run, seconds=0.001).parts
    assert 'took longer' in note.text


def test_data_that_were_not_checked_are_looked_at_now(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_findings.subprocess, 'run', look_in_this_process)
    split = dict(type='backbones.CocoDataset', data_root=str(demo), ann_file='annotations/instances_train.json',
                 data_prefix=dict(img='images/training/'))
    run = make_run(tmp_path / 'run', config=dict(model=dict(type='A'), train_dataloader=dict(dataset=split)))
    next(run.glob('2*/*.log')).unlink()
    data = data_of(run)
    assert 'This is what the files are like now' in data.parts[0].text
    assert any('2 pictures' in str(row) for row in data.parts[1].rows)


def tool(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | None:
    """The exit code of `tools/report.py` in this process."""
    monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools/report.py'), run_name='__main__')
    return end.value.code


def test_the_tool_prints_path_and_size(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert not tool(monkeypatch, plain)
    assert re.search(r'run/report\.html  \d+\.\d MB\n$', capsys.readouterr().out)


def test_a_run_without_evaluation_is_no_mistake(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert not tool(monkeypatch, plain)
    assert 'no evaluation in detail' in capsys.readouterr().out


def test_a_mistake_ends_the_tool_with_one_sentence_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert tool(monkeypatch, tmp_path / 'no') == 2
    assert re.fullmatch(r'error: the folder .*no does not exist; give the work folder .*\n', capsys.readouterr().err)
