"""One run per work folder; a lock that was left behind is recognised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from guard_helpers import command, environment, train_line

from backbones.training import lock
from backbones.training.lock import STALE_SECONDS, WorkFolderLock, process_start

PARENT = dict(pid=os.getppid(), started=process_start(os.getppid()))  # a process that lives, and is not this one


def leave(folder: Path, age: float = 0.0, **changes: Any) -> None:
    """Leave a lock as this process would hold it, with changes."""
    with WorkFolderLock(folder):
        holder = json.loads((folder / 'run.lock').read_text())
    (folder / 'run.lock').write_text(json.dumps({**holder, **changes}))
    stamp = (folder / 'run.lock').stat().st_mtime - age
    os.utime(folder / 'run.lock', (stamp, stamp))


def test_a_second_run_is_refused_with_a_sentence_that_names_the_first(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        command('lock', tmp_path), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == 'locked\n'
    with pytest.raises(ValueError, match=rf'another run goes on in .*: process {holder.pid} on .*helpers.py lock'):
        WorkFolderLock(tmp_path).acquire()
    holder.communicate('', timeout=30)
    assert holder.returncode == 0 and not (tmp_path / 'run.lock').exists()
    WorkFolderLock(tmp_path).acquire()


def test_the_lock_of_a_killed_process_is_taken_over_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen(
        command('lock', tmp_path), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    said: list[str] = []
    monkeypatch.setattr(lock, 'print_log', lambda text, **_: said.append(text))
    with WorkFolderLock(tmp_path) as mine:
        assert json.loads(mine.path.read_text())['pid'] == os.getpid()
    assert [f'was left behind (process {holder.pid} on' in text for text in said] == [True]


@pytest.mark.parametrize(
    ('changes', 'age', 'job'),
    [
        (dict(started='1'), 0, None),  # the number of the process is another process now
        (dict(machine='other'), STALE_SECONDS + 5, None),
        (dict(machine='other', job='7', restarts='0'), 0, ('7', '1')),  # the job was requeued
    ],
)
def test_a_stale_lock_is_taken_over(
    changes: dict, age: float, job: tuple | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, age, **changes)
    if job:
        monkeypatch.setenv('SLURM_JOB_ID', job[0])
        monkeypatch.setenv('SLURM_RESTART_COUNT', job[1])
    with WorkFolderLock(tmp_path) as mine:
        assert json.loads(mine.path.read_text())['token'] == mine._mine['token']


@pytest.mark.parametrize(
    ('changes', 'age'),
    [
        (PARENT, STALE_SECONDS + 5),  # a living process of this machine, however long it slept
        (dict(machine='other'), 10),
        (dict(machine='other', job='7', restarts='0'), 10),
    ],
)
def test_a_lock_that_may_be_in_use_is_respected(changes: dict, age: float, tmp_path: Path) -> None:
    leave(tmp_path, age, **changes)
    with pytest.raises(ValueError, match=r'another run goes on .* or delete .*run\.lock if you know that it is dead'):
        WorkFolderLock(tmp_path).acquire()


@pytest.mark.parametrize('content', ['', '{"pid": 1', '[]', '{"pid": "x"}', 'ÿ'])
def test_an_unreadable_lock_is_respected_while_it_is_young(content: str, tmp_path: Path) -> None:
    (tmp_path / 'run.lock').write_text(content, encoding='latin-1')
    with pytest.raises(ValueError, match='another run goes on'):
        WorkFolderLock(tmp_path).acquire()
    old = (tmp_path / 'run.lock').stat().st_mtime - STALE_SECONDS - 5
    os.utime(tmp_path / 'run.lock', (old, old))
    WorkFolderLock(tmp_path).acquire()


def test_only_one_of_many_takes_over_a_stale_lock(tmp_path: Path) -> None:
    leave(tmp_path, started='1')

    locks = [WorkFolderLock(tmp_path) for _ in range(64)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(WorkFolderLock.acquire, locks))  # the others find that this process has it
    assert sum(one._mine is not None for one in locks) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['run.lock']


def test_a_process_may_take_its_own_lock_again_and_the_first_one_keeps_it(tmp_path: Path) -> None:
    with WorkFolderLock(tmp_path) as outer:
        held = outer.path.read_text()
        with WorkFolderLock(tmp_path):
            assert outer.path.read_text() == held
        assert outer.path.read_text() == held
    assert not outer.path.exists()


def test_a_child_does_not_own_the_lock_of_its_parent(tmp_path: Path) -> None:
    with WorkFolderLock(tmp_path):
        code = f'from backbones.training.lock import WorkFolderLock as L\nL({str(tmp_path)!r}).acquire()'
        done = subprocess.run(
            [sys.executable, '-c', code], env=environment(), capture_output=True, text=True, timeout=60)
    assert f'another run goes on in {tmp_path}: process {os.getpid()} on' in done.stderr


def test_the_hook_goes_with_a_tool_that_locks_by_itself(tmp_path: Path) -> None:
    with WorkFolderLock(tmp_path) as outer:
        train_line(tmp_path, hooks=[dict(type='backbones.WorkFolderLockHook')])
        assert outer.path.exists()
    assert not outer.path.exists()


def test_other_ranks_take_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('RANK', '1')
    WorkFolderLock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_run_took_is_not_released(tmp_path: Path) -> None:
    mine = WorkFolderLock(tmp_path)
    mine.acquire()
    leave(tmp_path / 'other', token='theirs')
    (tmp_path / 'other' / 'run.lock').replace(tmp_path / 'run.lock')
    mine.release()
    assert (tmp_path / 'run.lock').exists()


def test_the_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, 'HEARTBEAT_SECONDS', 0.01)
    with WorkFolderLock(tmp_path) as mine:
        os.utime(mine.path, (0, 0))
        for _ in range(500):
            if mine.path.stat().st_mtime > 0:
                break
            mine._stop.wait(0.01)
        assert mine.path.stat().st_mtime > 0


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r'cannot be written .*; correct its permissions'):
        WorkFolderLock(tmp_path / 'run').acquire()
    tmp_path.chmod(0o700)


def test_a_work_folder_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'cannot be written'):
        WorkFolderLock(tmp_path / 'file' / 'run').acquire()


def test_a_dead_process_has_no_start_and_a_living_one_always_the_same() -> None:
    process = subprocess.Popen(['sleep', '60'])
    assert process_start(process.pid) == process_start(process.pid) is not None
    process.kill()
    process.wait()
    assert process_start(process.pid) is None


def test_the_hook_locks_for_the_time_of_the_run(tmp_path: Path) -> None:
    train_line(tmp_path, hooks=[dict(type='backbones.WorkFolderLockHook')])
    assert not (tmp_path / 'run.lock').exists()
    leave(tmp_path, machine='other')
    with pytest.raises(ValueError, match='another run goes on'):
        train_line(tmp_path, hooks=[dict(type='backbones.WorkFolderLockHook')])
