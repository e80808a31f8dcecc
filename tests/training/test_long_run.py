"""Long runs: memory, open files, threads, workers and shared memory stay what they are; a run leaves nothing behind.

`make soak SOAK_ARGS='-k long_run -s'` prints the figures of the long runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from long_run_helpers import (
    BATCH,
    EPOCH,
    RUNS,
    WORKERS,
    child_pids,
    make_data,
    open_files,
    segmenter,
    slope,
    snapshot,
    summarise,
)

from backbones.training.launch import run_training
from backbones.training.signals import SIGNALS, PreemptionHook

pytestmark = pytest.mark.skipif(
    not Path(f'/proc/self/task/{os.getpid()}/children').exists(), reason='this system does not list children in /proc')


def test_the_measurement_sees_what_is_left_open(tmp_path: Path) -> None:
    before, end = snapshot(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    tensor, child = torch.zeros(1 << 18).share_memory_(), subprocess.Popen(['cat'], stdin=subprocess.PIPE)
    with open(tmp_path / 'file', 'w'):
        after = snapshot()
    end.set()
    thread.join()
    child.communicate()
    changes = {name: after[name] - before[name] for name in before}
    assert (changes['threads'], changes['children'], changes['fds']) == (1, 1, 2)  # the file and the pipe to the child
    assert changes['shm_files'] == 1 and changes['shm_mb'] == tensor.nbytes / (1 << 20)
    assert slope([dict(iteration=250 * i, value=i + (i == 7) * 99) for i in range(20)], 'value') == 4


def test_a_run_of_fifteen_epochs_holds_the_same_in_each_and_leaves_only_its_log_open(tmp_path: Path) -> None:
    data, log_file = make_data(tmp_path / 'data', train=10 * BATCH), tmp_path / 'figures.jsonl'
    options = segmenter(data, 150, save=60, validate=100) | {
        'default_hooks.figures.type': 'FiguresHook', 'default_hooks.figures.file': str(log_file),
        'default_hooks.figures.every': 50, 'default_hooks.figures.phase': 45}
    pool = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP keeps the threads of a pool
    before = held()
    run_training(
        ROOT / 'configs/small/upernet_vit_demo.py', str(tmp_path / 'run'), options=options, total_batch=BATCH)
    start = time.monotonic()
    while len(left := held() - before) > 1 and time.monotonic() < start + 10:
        time.sleep(0.01)  # a thread that was told to end may not have done so yet
    torch.set_num_threads(pool)
    assert len(left) == 1 and str(left.pop()).endswith('.log')  # MMEngine keeps its logger

    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [line['iteration'] for line in lines] == [45, 95, 145]
    assert lines[-1]['workers_so_far'] >= 15 * WORKERS  # and children of other tests
    assert len({line['children'] for line in lines}) == 1 and {line['shm_names'] for line in lines} == {0}
    assert len({line['fds'] for line in lines}) == 1
    # That of the checkpoints begins with the first of them, at iteration 60; the alarm of the watchdog after seconds.
    assert max(line['threads'] for line in lines) <= lines[0]['threads'] + 2


def held() -> set[Any]:
    """What this process holds: threads of the system, children, open files and shared memory, our signal handlers."""
    threads = {('thread', number) for number in os.listdir('/proc/self/task')}
    children = {('child', pid) for pid in child_pids()}
    files = {name for name, *_ in open_files('self')}
    handlers = {(number, signal.getsignal(number)) for number in SIGNALS}
    ours = {(number, one) for number, one in handlers if isinstance(getattr(one, '__self__', None), PreemptionHook)}
    return threads | children | files | ours


@pytest.fixture(scope='module', params=RUNS)
def long_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, figure: Callable) -> dict:
    """`tools/train.py` in a process of its own, to its end; the figures after the warm-up."""
    run = RUNS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    assert run.train(folder) == 0, (folder / 'log.txt').read_text()[-3000:]
    summary = summarise(run, folder)
    print(f'\n{request.param}: {json.dumps({name: value for name, value in summary.items() if name != "figures"})}')
    figure(
        f'long_run_{request.param}', iterations=summary['iterations'], workers=summary['workers_so_far'],
        most_mb_per_1000=max(summary['slopes']['rss_mb'], 0))
    return summary


@pytest.mark.soak
def test_the_memory_of_a_long_run_does_not_grow(long_run: dict) -> None:
    for name in ('rss_mb', 'anonymous_mb', 'children_mb'):  # the last of workers, who are new in every epoch
        assert long_run['slopes'][name] < long_run['growth'], name
    assert long_run['slopes']['objects'] < 500  # of 460,000 that Python's garbage collector knows


@pytest.mark.soak
def test_open_files_threads_and_workers_of_a_long_run_stay_constant(long_run: dict) -> None:
    for name in ('fds', 'threads', 'children', 'temporary_files'):
        low, high = long_run['ranges'][name]
        assert low == high, name
    # A worker that begins while a file is written or a former worker ends inherits that open file until its own end.
    assert abs(long_run['slopes']['children_fds']) < 1
    assert long_run['workers_so_far'] >= long_run['figures']['iteration'][-1] // EPOCH * WORKERS  # loaders start anew


@pytest.mark.soak
def test_shared_memory_of_a_long_run_holds_the_batches_that_lie_ready_and_nothing_else(long_run: dict) -> None:
    assert long_run['ranges']['shm_names'] == [0, 0]
    batches = 2 * WORKERS + 2  # two lie ready for each worker, one is in use, one was in use before
    assert long_run['ranges']['shm_files'][1] <= batches * BATCH * long_run['tensors']


@pytest.mark.soak
def test_the_work_folder_of_a_long_run_holds_no_more_files_than_at_its_beginning(long_run: dict) -> None:
    low, high = long_run['ranges']['work_files']
    assert high - low <= 4  # those of a checkpoint: the best one is at times among the newest, at times not
    assert abs(long_run['slopes']['work_files']) < 1
