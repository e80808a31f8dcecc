"""How far a run is: what a person sees in a terminal, and what a log file gets."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from resume_helpers import Noisy, toy_runner

from backbones.training import progress, screen
from backbones.training.progress import (
    Pace,
    ProgressHook,
    best_before,
    clock,
    evaluations_left,
    main_metrics,
    progress_shown,
)
from backbones.training.screen import bar_format, dumps_in_the_log_only, is_terminal

CONTROL = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')
TOY = '''
import sys, warnings
from pathlib import Path
from mmengine.hooks import Hook, LoggerHook
from resume_helpers import toy_runner
from backbones.training import screen
from backbones.training.run_logging import logged

screen.OFTEN = 0
class Talks(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            print('printed ' + 'a line')
            sys.stderr.write('to the error output' + chr(10))
            runner.logger.info('logged ' + 'news')
        if runner.iter == 7 and 'fail' in sys.argv:
            raise RuntimeError('on purpose')

runner = toy_runner(Path(sys.argv[1]), 'run', images=24, epochs=1, validate=True)
for handler in runner.logger.handlers:
    handler.setLevel('INFO')
runner.logger.setLevel('INFO')
runner.register_hook(LoggerHook(interval=2))
runner.register_hook(Talks())
with logged(runner, plain='plain' in sys.argv, named=False):
    runner.train()
print('the end')
'''


def in_a_terminal(
    folder: Path, *arguments: str, columns: int = 100, rows: int = 30, **environment: str
) -> tuple[list[str], str]:
    """Run the toy in a pseudo-terminal: what was drawn, piece by piece, and all of it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
    given = {key: value for key, value in os.environ.items() if key not in ('CI', 'COLUMNS', 'LINES', 'NO_COLOR')}
    given |= dict(TERM='xterm', PYTHONPATH=f'{ROOT}:{ROOT / "tests"}', OMP_NUM_THREADS='1', **environment)
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', TOY, str(folder), *arguments], stdin=theirs, stdout=theirs,
        stderr=theirs, env=given, cwd=ROOT)
    os.close(theirs)
    content = b''
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        content += piece
    process.wait()
    os.close(ours)
    text = CONTROL.sub('', content.decode())
    return [part.strip() for part in re.split(r'[\r\n]+', text) if part.strip()], text


@pytest.fixture(scope='module')
def terminal(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str, str]:
    """A run in a terminal: the pieces it drew, the whole text, and its log file."""
    folder = tmp_path_factory.mktemp('terminal')
    pieces, text = in_a_terminal(folder)
    return pieces, text, next(folder.glob('run/*/*.log')).read_text()


def test_the_bar_says_what_is_going_on_how_far_it_is_and_how_long_it_takes(terminal: tuple) -> None:
    bars = [piece for piece in terminal[0] if '%|' in piece]
    training = [bar for bar in bars if bar.startswith('training epoch 1/1')]
    facts = r'\|[^|]+\|  11/12  ETA \d:\d\d:\d\d  loss [\d.e-]+  [\d.e-]+ s/step  [\d.]+ GB'
    assert any(re.search(facts, bar) for bar in training)
    assert [int(re.search(r'(\d+)/12 ', bar)[1]) for bar in training] == sorted(
        int(re.search(r'(\d+)/12 ', bar)[1]) for bar in training) and len(training) >= 11
    assert any(bar.startswith('evaluating 1/2') for bar in bars) and any(bar.startswith('scoring') for bar in bars)
    assert any(bar.startswith('saving') for bar in bars)


def test_other_lines_stand_alone_above_the_bar(terminal: tuple) -> None:
    pieces = terminal[0]
    assert 'printed a line' in pieces and 'to the error output' in pieces
    assert any(piece.endswith('INFO - logged news') and '%|' not in piece for piece in pieces)
    assert pieces[-1] == 'the end'


def test_lines_about_steps_are_in_the_log_file_and_not_in_the_terminal(terminal: tuple) -> None:
    _, text, log = terminal
    assert 'Epoch(train)' not in text and log.count('Epoch(train)') == 6
    assert 'Epoch(val)' in log and 'logged news' in log and '%|' not in log
    line = re.search(r'step 12  sum +-?[\d.]+ \(best\)', log)
    assert line and line[0] in text


def test_a_narrow_terminal_keeps_the_bar_in_one_line_and_an_error_takes_it_away(tmp_path: Path) -> None:
    pieces, _ = in_a_terminal(tmp_path, 'fail', columns=50)
    bars = [piece for piece in pieces if '%|' in piece]
    assert bars and max(map(len, bars)) < 50
    assert pieces[-1] == 'RuntimeError: on purpose'


def test_plain_lines_on_demand(tmp_path: Path) -> None:
    _, text = in_a_terminal(tmp_path, 'plain')
    assert '%|' not in text and text.count('Epoch(train)') == 6 and 'the end' in text


def test_a_terminal_that_does_not_know_its_size_gets_plain_lines(tmp_path: Path) -> None:
    _, text = in_a_terminal(tmp_path, rows=0, columns=0)
    assert '%|' not in text and text.count('Epoch(train)') == 6 and 'the end' in text


def test_a_terminal_of_80_columns_and_24_rows_gets_the_bar(tmp_path: Path) -> None:
    pieces, text = in_a_terminal(tmp_path, rows=24, columns=80)
    assert any('%|' in piece for piece in pieces) and 'Epoch(train)' not in text


def test_the_dumps_of_a_start_are_in_the_log_file_and_not_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with dumps_in_the_log_only():
        runner = Runner(Noisy(), str(tmp_path / 'run'), cfg=dict(key=1), experiment_name=f'{tmp_path}_dumps')
    runner.logger.info('news')
    shown, log = capsys.readouterr().out, next(tmp_path.glob('run/*/*.log')).read_text()
    for dump in ('System environment:', 'Config:', 'Hooks will be executed'):
        assert dump in log and dump not in shown
    assert str(next(tmp_path.glob('run/*/*.log'))) in shown and 'news' in shown and len(shown.splitlines()) < 20


def test_a_terminal_that_is_none_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.delenv('CI', raising=False)
    monkeypatch.setattr(screen.sys, 'stdout', SimpleNamespace(isatty=lambda: True))
    assert is_terminal() and not is_terminal(plain=True)
    for name, value in (('CI', 'true'), ('TERM', 'dumb')):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert not is_terminal()
    monkeypatch.setattr(screen.sys, 'stdout', None)
    assert not is_terminal()


class Drawn:
    """In place of a terminal: what would be drawn."""

    def __init__(self, total: int, logger: Any) -> None:
        self.total, self.shown, self.closed = total, [], False

    def show(self, state: str, done: int, facts: Any = (), total: int | None = None, now: bool = False) -> None:
        """Remember it."""
        self.shown.append((state, done, list(facts)))

    def close(self) -> None:
        """The end."""
        self.closed = True


@pytest.mark.parametrize('fails', [False, True])
def test_a_test_has_a_bar_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    drawn: list[Drawn] = []
    monkeypatch.setattr(progress, 'is_terminal', lambda plain: not plain)
    monkeypatch.setattr(progress, 'Screen', lambda *given: drawn.append(Drawn(*given)) or drawn[-1])
    runner = toy_runner(tmp_path, 'run', validate=True)
    runner._test_dataloader, runner._test_loop, runner._test_evaluator = (
        runner._val_dataloader, dict(type='TestLoop'), [])
    if fails:
        monkeypatch.setattr(runner.model, 'test_step', lambda batch: 1 / 0)
    with contextlib.suppress(ZeroDivisionError), progress_shown(runner):
        runner.test()
    screen, = drawn
    assert screen.closed and screen.total == 2
    states = [(state, done) for state, done, _ in screen.shown]
    assert states == [('evaluating', 0)] + ([] if fails else [('evaluating', 1), ('scoring', 2)])
    assert fails or (screen.shown[1][2][0] == '1/2' and screen.shown[1][2][1].startswith('ETA 0:00:0'))


def test_facts_that_do_not_fit_are_left_out_from_the_end() -> None:
    facts = ['10/20', 'ETA 0:01:00', 'loss {1}']
    assert bar_format('s', facts, 80).endswith('|  10/20  ETA 0:01:00  loss {{1}}')
    assert bar_format('s', facts, 40).endswith('|  10/20  ETA 0:01:00')
    assert bar_format('s', facts, 10).endswith('{bar}|')


def test_the_time_left_counts_steps_and_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    pace = Pace()
    assert pace.left(10, 1) is None
    for _ in range(5):
        now[0] += 2
        pace.step()
    assert pace.left(10, 3) == 20
    pace.begin_evaluation(4)
    now[0] += 10
    pace.evaluated = 1
    assert pace.left(10, 0) == 20 + 30
    now[0] += 30
    pace.end_evaluation()
    now[0] += 100
    pace.step()  # what lies between belongs to no step
    assert pace.left(10, 2) == 20 + 2 * 40


@pytest.mark.parametrize(('kind', 'done', 'left'), [
    (dict(epochs=4, validate=True), 0, 4), (dict(iters=10, validate=True), 0, 4),
    (dict(iters=10, validate=True), 9, 1), (dict(iters=10), 0, 0)])
def test_evaluations_to_come_are_counted(tmp_path: Path, kind: dict, done: int, left: int) -> None:
    runner = toy_runner(tmp_path, f'{kind}', **kind)
    assert evaluations_left(runner, done) == left


@pytest.mark.parametrize(
    ('seconds', 'text'), [(None, '--:--'), (math.nan, '--:--'), (61.4, '0:01:01'), (-1, '0:00:00')])
def test_the_clock_shows_hours_minutes_seconds(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_metrics_stand_below_each_other_with_the_best_so_far() -> None:
    hook = ProgressHook()
    lines = [
        hook.metrics_line({'coco/bbox_mAP': value, 'coco/bbox_mAP_50': 0.9, 'coco/segm_mAP': 0.5}, step, 1000)
        for value, step in ((0.25, 90), (0.5, 500), (math.nan, 900), (0.4, 1000))]
    assert lines[0] == 'step   90  bbox_mAP  0.2500 (best)                 segm_mAP  0.5000 (best)'
    assert lines[3] == 'step 1000  bbox_mAP  0.4000 (best 0.5000 at  500)  segm_mAP  0.5000 (best 0.5000 at   90)'
    assert 'nan (best 0.5000 at  500)' in lines[2]
    assert len({line.index('segm_mAP') for line in lines}) == 1


def test_metrics_that_nobody_knows_are_shown_and_text_is_not() -> None:
    assert main_metrics(dict(sum=1, name='a', other=2.5)) == dict(sum=1.0, other=2.5)
    assert main_metrics({}) == {} and ProgressHook().metrics_line({}, 1, 2) == ''
    hook = ProgressHook()
    hook.metrics_line(dict(loss=1.0), 1, 9)
    assert '(best 1.0000 at 1)' in hook.metrics_line(dict(loss=2.0), 2, 9)  # less is better


def test_a_run_that_goes_on_knows_the_best_of_before(tmp_path: Path) -> None:
    file = tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    rows: list[Any] = [
        {'loss': 1.0, 'iter': 10, 'step': 10}, {'coco/bbox_mAP': 0.5, 'step': 20}, {'coco/bbox_mAP': 0.4, 'step': 40},
        {'coco/bbox_mAP': 0.9, 'step': 60}, {'coco/bbox_mAP': float('nan'), 'step': 20}, {'step': 'x'}, [1]]
    file.write_text('\n'.join(map(json.dumps, rows)) + '\n{"coco/bbox_mAP": 0.')
    assert best_before(tmp_path, 40) == {'bbox_mAP': (0.5, 20)}
    assert best_before(tmp_path / 'nowhere', 40) == {}


def test_without_a_terminal_the_log_is_as_mmengine_writes_it(tmp_path: Path) -> None:
    texts = []
    for name, hooks in (('plain', []), ('ours', [ProgressHook()])):
        runner = toy_runner(tmp_path, name, epochs=1)
        runner.logger.setLevel('INFO')
        for handler in runner.logger.handlers:
            handler.setLevel('INFO')
        for hook in [LoggerHook(interval=2), *hooks]:
            runner.register_hook(hook)
        runner.train()
        log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
        texts.append(re.findall(r'Epoch\(train\).*?lr: \S+', log))
    assert texts[0] == texts[1] and len(texts[0]) == 3
