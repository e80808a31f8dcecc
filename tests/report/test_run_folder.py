"""What a work folder holds, whole or damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from report_helpers import make_run, train_line, write_log

from backbones.processes import process_start
from backbones.report.curves import read_logs
from backbones.report.facts import headlines, summary
from backbones.report.parts import Note
from backbones.report.run_folder import read_run
from backbones.training.lock import machine


def texts(run: Path) -> list[str]:
    """The sentences of the summary."""
    read = read_run(run)
    return [part.text for part in summary(read, read_logs(read)) if isinstance(part, Note)]


def details(**changed: object) -> str:
    """A `details.json` whose outermost names are there, with others in their place."""
    whole = dict(format=1, task='detection', classes=[], data={}, kinds=['boxes'], protocol={}, boxes={})
    return json.dumps(whole | changed)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished training."""
    return make_run(tmp_path / 'run')


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='does not exist; give the work folder'):
        read_run(tmp_path / 'no')


def test_a_file_is_no_work_folder(tmp_path: Path) -> None:
    (tmp_path / 'a.py').touch()
    with pytest.raises(ValueError, match='is a file; give the work folder'):
        read_run(tmp_path / 'a.py')


def test_a_folder_of_runs_names_them(run: Path) -> None:
    with pytest.raises(ValueError, match=r'holds no run.*give a work folder below it: .*run$'):
        read_run(run.parent)


def test_an_empty_folder_holds_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='holds no run: there is no training log'):
        read_run(tmp_path)


def test_an_evaluation_folder_leads_to_its_work_folder(tmp_path: Path) -> None:
    (tmp_path / 'evaluation').mkdir()
    (tmp_path / 'evaluation/details.json').write_text('{}')
    with pytest.raises(ValueError, match=f'give its work folder, {tmp_path}'):
        read_run(tmp_path / 'evaluation')


def test_a_finished_run_is_told_nothing_but_how_to_evaluate_it(run: Path) -> None:
    assert len(texts(run)) == 1
    assert 'no evaluation in detail' in texts(run)[0]


def test_a_config_is_read_as_data_and_never_executed(run: Path) -> None:
    (run / 'runs/20260102_030405.json').unlink()
    trap = run / 'trap'
    for file in run.glob('*/vis_data/config.py'):
        file.write_text(f"model = dict(type='A')\nopen({str(trap)!r}, 'w')\n")
    read = read_run(run)
    assert read.config is None
    assert not trap.exists()
    assert any('is not executed' in note.text for note in read.notes)


def test_the_config_of_the_record_comes_first(run: Path) -> None:
    record = json.loads((run / 'runs/20260102_030405.json').read_text())
    (run / 'runs/20260102_030405.json').write_text(json.dumps(record | dict(config=dict(model=dict(type='B')))))
    assert read_run(run).config == dict(model=dict(type='B'))


@pytest.mark.parametrize('content', ['{"torn', '[]', '7', '', '[' * 100_000])
def test_a_damaged_metrics_file_is_a_note(run: Path, content: str) -> None:
    (run / 'metrics.json').write_text(content)
    assert any('metrics.json cannot be read' in text for text in texts(run))


@pytest.mark.parametrize(('content', 'word'), [
    ('{"format": 99}', "another version of this project (format '99', and 1 is known)"),
    ('[]', 'another version of this project (it names no format, and 1 is known)'),
    ('{', 'is damaged'), ('{"format": 1}', 'is not whole'), (details(kinds=None), 'is not whole'),
    (details(kinds=[]), 'is not whole'), (details(kinds=['boxes', {}]), 'is not whole'),
    (details(data=5), 'is not whole'), (details(remarks=5), 'is not whole'), (details(boxes=[]), 'is not whole')])
def test_details_that_cannot_be_used_are_a_note_with_a_command(run: Path, content: str, word: str) -> None:
    (run / 'evaluation').mkdir()
    (run / 'evaluation/details.json').write_text(content)
    read = read_run(run)
    assert read.details is None
    assert any(word in note.text and '--details' in note.command for note in read.notes)


def test_details_of_the_known_form_are_read(run: Path) -> None:
    (run / 'evaluation').mkdir()
    (run / 'evaluation/details.json').write_text(details())
    assert read_run(run).details is not None


def test_an_evaluation_that_was_ended_is_a_note(run: Path) -> None:
    (run / 'evaluation').mkdir()
    assert any('ended before it was whole' in text for text in texts(run))


def test_the_headlines_without_details_are_those_of_the_latest_metrics(run: Path) -> None:
    (run / 'metrics.1.json').write_text(json.dumps(dict(metrics=dict(bbox_mAP=0.1))))
    assert [(one.name, one.value, one.interval) for one in headlines(read_run(run))] == [('Box AP', '0.250', '')]


def test_a_number_that_is_not_defined_is_no_minus_one(run: Path) -> None:
    (run / 'metrics.json').write_text(json.dumps(dict(metrics=dict(bbox_mAP=-1.0))))
    assert headlines(read_run(run))[0].value == 'not defined'


def lock(run: Path, pid: int, started: str | None) -> None:
    """Leave a lock of a process of this machine."""
    (run / 'run.lock').write_text(json.dumps(dict(pid=pid, started=started, host='here', machine=machine())))


def test_a_lock_of_a_living_process_is_a_run_that_goes_on(run: Path) -> None:
    lock(run, os.getpid(), process_start(os.getpid()))
    assert any('still goes on' in text for text in texts(run))


def test_a_lock_of_a_dead_process_is_a_killed_run(run: Path) -> None:
    lock(run, os.getpid(), 'another start')
    assert any('The run was killed' in text and 'iteration 30, epoch 3 of 3' in text for text in texts(run))


def test_a_killed_run_is_told_how_to_go_on_with_its_own_config(run: Path) -> None:
    lock(run, os.getpid(), 'another start')
    read = read_run(run)
    note = next(part for part in summary(read, read_logs(read)) if isinstance(part, Note) and 'killed' in part.text)
    assert note.command == f'python tools/train.py own.py --work-dir {run} --resume auto'


def test_an_early_exit_tells_its_reason(run: Path) -> None:
    (run / 'last_exit.json').write_text(json.dumps(dict(code=87, reason='ten steps in a row were not finite')))
    assert any('exit code 87' in text and 'not finite' in text for text in texts(run))


def test_a_run_that_stopped_without_a_word_is_told(tmp_path: Path) -> None:
    write_log(tmp_path / 'run', [train_line(step) for step in range(1, 15)])
    assert any('did not reach its end at iteration 14, epoch 2 of 3' in text for text in texts(tmp_path / 'run'))
