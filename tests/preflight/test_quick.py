"""The quick part before a training: what it logs, what it refuses, and what it remembers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from preflight_runs import demo_data, real_run
from recipe_configs import DETECTOR

from backbones.preflight import quick
from backbones.preflight.quick import check_before_training


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder for caches of its own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path


class Log:
    """Takes the lines of a run's logger."""

    def __init__(self, runner) -> None:
        self.warnings, self.infos = [], []
        runner.logger.warning, runner.logger.info = self.warnings.append, self.infos.append


def run_on(root: Path | str, **options):
    runner = real_run(DETECTOR, {'data_root': str(root), 'param_scheduler.0.end': 2, **options})
    return runner, Log(runner)


def test_a_sound_run_gets_one_line(home):
    runner, log = run_on(demo_data())
    check_before_training(runner)
    assert not log.warnings and len(log.infos) == 1 and '0 warnings' in log.infos[0]


def test_odd_data_are_warnings_now_and_at_the_next_start_without_another_look(home, monkeypatch):
    root = home / 'data'
    shutil.copytree(demo_data(), root)
    file = root / 'annotations/instances_train.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'][2] += 40.0
    content['annotations'][0]['bbox'][0] = 150.0
    file.write_text(json.dumps(content))
    runner, log = run_on(root)
    check_before_training(runner)
    assert any('beyond' in line for line in log.warnings), log.warnings
    first, log.warnings[:] = list(log.warnings), []
    monkeypatch.setattr(quick, 'data_outcomes', lambda *given: pytest.fail('the data were looked at again'))
    check_before_training(runner)
    assert log.warnings == first


def test_data_that_changed_are_looked_at_again(home, monkeypatch):
    root = home / 'data'
    shutil.copytree(demo_data(), root)
    runner, _ = run_on(root)
    check_before_training(runner)
    looked = []
    monkeypatch.setattr(quick, 'data_outcomes', lambda *given: looked.append(given) or [])
    file = root / 'annotations/instances_train.json'
    file.write_text(file.read_text() + ' ')
    check_before_training(runner)
    assert len(looked) == 1


def test_an_error_of_the_model_or_schedule_ends_the_run_before_it_starts(home):
    runner, _ = run_on(demo_data())
    for group in runner.optim_wrapper.param_groups:
        group['weight_decay'] = -1.0
    with pytest.raises(ValueError, match='weight decay'):
        check_before_training(runner)


def test_a_damaged_memory_is_no_error(home):
    runner, log = run_on(demo_data())
    check_before_training(runner)
    for file in (home / 'cache/mmbackbones/preflight').iterdir():
        file.write_text('{"broken')
    check_before_training(runner)
    assert not log.warnings


def test_the_tool_ends_with_code_2_and_writes_json_and_page(home):
    command = [
        sys.executable, 'tools/preflight.py', str(DETECTOR), '--quick', '--json', str(home / 'a.json'), '--html',
        str(home / 'a.html'), '--cfg-options', f'data_root={demo_data()}', 'model.neck.in_channels=[1,2,3,4]']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr + done.stdout and 'cannot take the maps' in ' '.join(done.stdout.split())
    report = json.loads((home / 'a.json').read_text())
    assert {'error'} <= {check['state'] for check in report['checks']}
    assert 'cannot take the maps' in (home / 'a.html').read_text()


def test_a_training_of_the_tool_does_it_by_itself(home):
    command = [
        sys.executable, 'tools/train.py', str(DETECTOR), '--work-dir', str(home / 'run'), '--cfg-options',
        f'data_root={demo_data()}', 'model.rpn_head.anchor_generator.strides=[8,16,32,64,128]']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and 'strides' in done.stderr and 'Traceback' not in done.stderr
