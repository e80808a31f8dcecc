"""A run that stands still is ended and explained; a worker that dies is named with its sample; one rank ends all."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guard_helpers import Points, command, environment, run_two_processes, start_two_processes, train_line
from torch.utils.data import DataLoader, Dataset

from backbones.training import worker_notes
from backbones.training.exits import HUNG, WORKER_DIED
from backbones.training.watchdog import WatchdogHook, WorkerDiedError, watched
from backbones.training.worker_notes import WorkerNotes, explain_worker_death, process_state


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """A loader whose worker was killed lives in a cycle; collected in a later test, it would wait there for 5 s."""
    yield
    with contextlib.suppress(RuntimeError):  # what PyTorch says of the worker
        gc.collect()


def run(folder: Path, timeout: float, workers: int, *faults: str) -> subprocess.CompletedProcess:
    """A run with the watchdog in its own process."""
    return subprocess.run(
        command('watchdog', folder, timeout, workers, 'none', *faults), env=environment(), capture_output=True,
        text=True, timeout=120)


def test_a_run_that_stands_still_is_ended_with_its_code_place_and_stacks(tmp_path: Path) -> None:
    done = run(tmp_path, 2, 0, 'hang@3')
    assert done.returncode == HUNG == 86
    assert 'rank 0: nothing went on for 2 s in iteration 3: it is at' in done.stderr
    assert 'inject_run.py' in done.stderr
    assert 'most recent call first' in done.stderr  # faulthandler's stacks
    assert 'inject_run.py' in (tmp_path / 'hang_rank0.txt').read_text()
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == HUNG


def test_a_stopped_worker_is_named_with_its_state_and_sample(tmp_path: Path) -> None:
    done = run(tmp_path, 3, 1, 'worker-stop@3')
    assert done.returncode == HUNG
    assert 'it waits for data at' in done.stderr
    assert 'worker 0 (pid ' in done.stderr and 'stopped by a signal) has been loading sample' in done.stderr
    assert '.jpg) for' in done.stderr


@pytest.mark.parametrize(
    ('fault', 'name'), [('worker-segv@3', 'SIGSEGV'), ('worker-kill@3', 'SIGKILL')])
def test_a_killed_worker_ends_the_run_at_once_with_signal_and_sample(fault: str, name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerDiedError) as error:
        train_line_watched(tmp_path, fault)
    text = str(error.value)
    assert time.monotonic() - began < 10
    assert error.value.code == WORKER_DIED == 88
    assert f'was killed by signal: {name} (' in text
    assert 'data-loader worker 0 (pid ' in text and '.jpg)' in text
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == WORKER_DIED


def train_line_watched(folder: Path, *faults: str, **data: Dataset) -> None:
    """In this process, with `watched` around the training as the tools have it."""
    from mmengine.runner import Runner

    class WatchedRunner(Runner):
        def train(self) -> None:
            with watched(self):
                super().train()

    hooks = [dict(type='backbones.WatchdogHook', timeout_s=60), dict(type='backbones.InjectHook', faults=faults)]
    data.setdefault('points', Points(16, 0.03))
    train_line(folder, hooks=hooks, workers=1, max_iters=100, runner=WatchedRunner, **data)


class Severed:
    """A sample whose receipt breaks off with an error; if `kill`, a moment before the worker that sent it is killed."""

    def __init__(self, error: Exception, kill: bool) -> None:
        self.error, self.kill, self.pid = error, kill, os.getpid()

    def __reduce__(self) -> tuple:
        return _break_off, (self.error, self.kill and self.pid)


def _break_off(error: Exception, pid: int) -> None:
    if pid:
        threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
    raise error


class SeveredPoints(Points):
    """Of the second batch comes an error: of the worker itself, or of what should receive it."""

    def __init__(self, error: Exception, *, told: bool = False, kill: bool = True) -> None:
        super().__init__(16)
        self.error, self.told, self.kill = error, told, kill

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2 and self.told:
            raise self.error
        return {**super().__getitem__(index), **(dict(broken=Severed(self.error, self.kill)) if index >= 2 else {})}


BROKEN = [EOFError(), ConnectionResetError(104, 'Connection reset by peer'), FileNotFoundError(2, 'No such file'),
          RuntimeError('received 0 items of ancdata')]


@pytest.mark.parametrize('error', BROKEN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('validation', [False, True], ids=['training', 'validation'])
def test_a_worker_killed_while_a_batch_is_received_is_named_too(
    error: Exception, validation: bool, tmp_path: Path
) -> None:
    points = SeveredPoints(error)
    data = dict(validation=points) if validation else dict(points=points)
    with pytest.raises(WorkerDiedError, match=r'worker 0 \(pid \d+\) was killed by signal: SIGKILL') as caught:
        train_line_watched(tmp_path, **data)
    assert caught.value.__cause__ is not None and caught.value.code == WORKER_DIED
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == WORKER_DIED


@pytest.mark.parametrize('told', [True, False], ids=['of the worker', 'of the receipt'])
def test_an_error_of_a_loader_whose_workers_live_stays_what_it_is(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_notes, 'DYING_SECONDS', 0.1)
    before = FileNotFoundError(2, 'No such file', 'a.png')
    with pytest.raises(FileNotFoundError, match=r'a\.png') as caught:
        train_line_watched(tmp_path, points=SeveredPoints(before, told=told, kill=False))
    assert caught.value.__cause__ is None and not (tmp_path / 'last_exit.json').exists()


def test_a_death_that_was_explained_is_not_heard_of_again(tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError):
        train_line_watched(tmp_path, points=SeveredPoints(EOFError()))
    os.kill(os.getpid(), signal.SIGCHLD)  # PyTorch's handler would raise for a worker that it has not told of
    assert callable(signal.getsignal(signal.SIGCHLD))


def test_without_our_tools_too_a_dead_worker_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, 60, 1, 'worker-kill@3')
    assert done.returncode == 1
    assert 'error: data-loader worker 0 (pid ' in done.stderr and 'SIGKILL (Killed)' in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_hung_rank_is_told_from_the_one_that_waits_for_it_and_both_end(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_two_processes('watchdog', tmp_path, '4', '0', 'pytorch', 'hang@3:rank=1')
    assert done.returncode != 0 and time.monotonic() - began < 60
    assert 'rank 1: nothing went on for 4 s in iteration 3: it is at' in done.stderr
    assert 'most likely for another of the 2 ranks' in done.stderr or 'rank 0:' not in done.stderr


def test_an_error_on_one_rank_ends_both_with_its_message_once(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_two_processes('watchdog', tmp_path, '60', '0', 'pytorch', 'error@3:rank=1')
    assert done.returncode != 0 and time.monotonic() - began < 60
    assert (done.stdout + done.stderr).count('ValueError: an error on purpose') == 1


@pytest.mark.parametrize('killed', [False, True], ids=['error', 'signal'])
def test_the_rank_that_only_lost_its_connection_says_so_in_one_sentence(killed: bool, tmp_path: Path) -> None:
    fault = 'sigterm@3:rank=1' if killed else 'error@3:rank=1'
    ranks = start_two_processes('tool', tmp_path, '60', '0', 'pytorch', fault)
    said = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [1, -signal.SIGTERM if killed else 2], said
    assert 'error: rank 0: the connection to another rank broke, as that one ended; see its message\n' in said[0]
    assert killed or 'error: rank 1: an error on purpose\n' in said[1]
    assert 'Traceback' not in ''.join(said)


def test_a_sound_run_ends_as_without_a_watchdog(tmp_path: Path) -> None:
    hook, before = WatchdogHook(timeout_s=60), sys.excepthook
    train_line(tmp_path, hooks=[hook], workers=2)
    assert sys.excepthook is before
    assert not any(thread.name == 'watchdog' for thread in threading.enumerate())
    assert all(not notes.path.exists() for notes in hook.notes)


def test_slow_but_steady_iterations_are_no_hang(tmp_path: Path) -> None:
    ended: list[int] = []
    hook = WatchdogHook(timeout_s=4, end=ended.append)  # less than the run, much more than an iteration
    train_line(tmp_path, hooks=[hook], points=Points(32, 0.08), max_iters=28)
    assert ended == []


def test_notes_follow_each_sample_and_change_nothing_of_the_batches() -> None:
    def loader() -> DataLoader:
        return DataLoader(Points(8), batch_size=2, num_workers=2, collate_fn=list)

    plain, noted = loader(), loader()
    notes = WorkerNotes(noted)
    batches = [[sample['data_samples'].img_path for sample in batch] for batch in noted]
    assert batches == [[sample['data_samples'].img_path for sample in batch] for batch in plain]
    assert [(note.worker, note.working, note.index) for note in notes.read()] == [(0, False, 5), (1, False, 7)]
    assert '(5.jpg)' in notes.describe(notes.read()[0])
    notes.close()


def test_the_init_function_of_the_loader_still_runs() -> None:
    class Numbered(Points):
        def __getitem__(self, index: int) -> int:
            return self.worker * 100 + index

    def number(worker: int) -> None:
        from torch.utils.data import get_worker_info

        get_worker_info().dataset.worker = worker

    loader = DataLoader(Numbered(4), batch_size=2, num_workers=2, collate_fn=list, worker_init_fn=number)
    notes = WorkerNotes(loader)
    assert list(loader) == [[0, 1], [102, 103]]
    notes.close()


def test_pytorchs_messages_are_understood_and_others_left_alone() -> None:
    killed = RuntimeError('DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that ...')
    assert explain_worker_death(killed, []) == (
        'data-loader worker (pid 12) was killed by signal: SIGBUS (Bus error); what it was loading is not known')
    gone = RuntimeError('DataLoader worker (pid(s) 12, 13) exited unexpectedly')
    assert explain_worker_death(gone, []).startswith('data-loader worker (pid 12, 13) ended without an error')
    gone.__cause__ = killed
    assert 'SIGBUS' in explain_worker_death(gone, [])
    assert explain_worker_death(RuntimeError('shapes differ'), []) is None


def test_the_state_of_a_process_is_put_in_words() -> None:
    process = subprocess.Popen(['sleep', '60'])
    process.send_signal(signal.SIGSTOP)
    try:
        os.waitpid(process.pid, os.WUNTRACED)
        assert process_state(process.pid) == 'stopped by a signal'
    finally:
        process.kill()
        process.wait()
    assert process_state(process.pid) == 'dead'


@pytest.mark.parametrize('wrong', [0, -1, '10', True, None])
def test_a_wrong_timeout_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match='timeout_s='):
        WatchdogHook(timeout_s=wrong)


@pytest.mark.soak
@pytest.mark.parametrize('trial', range(10))
def test_workers_killed_at_any_moment_are_named_within_ten_seconds(
    trial: int, tmp_path: Path, figure: Callable
) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerDiedError, match=r'data-loader worker \d \(pid \d+\) was killed by signal: SIG'):
        train_line_watched(tmp_path, f'{("worker-segv", "worker-kill")[trial % 2]}@{1 + trial * 3}')
    seconds = time.monotonic() - began
    assert seconds < 10 + trial
    figure('dead_workers', named=1, most_seconds=seconds)
