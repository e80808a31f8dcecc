"""What docs/survival.md promises about faults of losses, workers, processes and data: `tools/train.py --inject`.

All on the demo's segmenter made tiny, with the parts that its config ships. Runs are shared by the tests of a promise.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoint_helpers import same
from PIL import Image
from survival_helpers import Run, Tools, options, saved, state

# --- R15: non-finite losses ------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def spoiled(tools: Tools, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run whose third loss is NaN; it saves after each step."""
    folder = tmp_path_factory.mktemp('spoiled') / 'run'
    chosen = options(data, default_hooks__checkpoint__interval=1)
    run = tools.train(folder, '--inject', 'nan@3', chosen=chosen).wait()
    assert run.code == 0, run.text
    return run, folder


def test_a_loss_that_is_not_finite_leaves_weights_and_moments_as_they_were(spoiled: tuple[Run, Path]) -> None:
    before, spoilt, after = (state(spoiled[1], step) for step in (2, 3, 4))
    moments = [[one['state'] for one in tree['optimizers'].values()] for tree in (before, spoilt, after)]
    assert same(spoilt['model'], before['model']) and same(moments[1], moments[0])
    assert not same(after['model'], before['model']) and not same(moments[2], moments[0])


def test_a_loss_that_is_not_finite_is_logged_with_its_term_and_its_pictures(
    spoiled: tuple[Run, Path], data: Path
) -> None:
    line, = [line for line in spoiled[0].text.splitlines() if 'iteration 3: ' in line]
    assert 'decode.loss_ce is nan; images ' in line and 'the step was left out' in line and '1 in a row' in line
    files = line.split('images ')[1].split('; ')[0].split(', ')
    assert len(files) == 4 and all(Path(file).parent == data / 'images/training' for file in files)
    assert '1 optimiser steps were left out' in spoiled[0].text


def test_ten_losses_in_a_row_that_are_not_finite_end_the_run_with_87(
    tools: Tools, data: Path, tmp_path: Path
) -> None:
    faults = ','.join(f'nan@{iteration}' for iteration in range(3, 13))
    run = tools.train(tmp_path, '--inject', faults, chosen=options(data, steps=20)).wait()
    assert run.code == 87 and '; the run ends (10 steps in a row) with exit code 87' in run.text
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == 87
    assert saved(tmp_path)[-1] == 'iter_000010' and 'Traceback' not in run.text
    assert same(state(tmp_path, 10)['model'], state(tmp_path, 2)['model'])


# --- R8, R9, R10: workers and processes ------------------------------------------------------------------------------


def test_a_worker_that_crashes_ends_the_run_within_ten_seconds_and_names_its_sample(
    tools: Tools, data: Path, tmp_path: Path
) -> None:
    chosen = options(data, steps=500, train_dataloader__num_workers=2, default_hooks__checkpoint__interval=500)
    run = tools.train(tmp_path, '--inject', 'worker-segv@3', chosen=chosen).wait_for('on purpose: worker-segv@3')
    began = time.monotonic()
    assert run.wait().code == 88, run.text
    assert time.monotonic() - began < 10
    line, = [line for line in run.text.splitlines() if 'error: data-loader worker ' in line]
    assert 'was killed by signal: SIGSEGV' in line and f'{data}/images/training/' in line
    assert 'Traceback' not in run.text and json.loads((tmp_path / 'last_exit.json').read_text())['code'] == 88


def test_a_run_that_stands_still_ends_with_86_and_names_the_place(tools: Tools, data: Path, tmp_path: Path) -> None:
    chosen = options(data, default_hooks__watchdog__timeout_s=4)
    run = tools.train(tmp_path, '--inject', 'hang@2', chosen=chosen).wait()
    assert run.code == 86, run.text
    said = 'rank 0: nothing went on for 4 s in iteration 2: it is at '
    assert said in run.text and 'backbones/training/inject_run.py:' in run.text.split(said)[1].splitlines()[0]
    assert 'in _do' in (tmp_path / 'hang_rank0.txt').read_text()
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == 86


@pytest.fixture(scope='module')
def two(tools: Tools, data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two gloo processes: on rank 1 the second loss is NaN, and the fifth iteration fails. No launcher ends them."""
    folder = tmp_path_factory.mktemp('two') / 'run'
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = str(found.getsockname()[1])
    chosen = options(
        data, train_dataloader__batch_size=2, default_hooks__digest__type='DigestHook',
        env_cfg__dist_cfg__backend='gloo')
    ranks = [
        tools.train(
            folder, '--launcher', 'pytorch', '--inject', 'nan@2:rank=1,error@5:rank=1', chosen=chosen, RANK=rank,
            LOCAL_RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port) for rank in '01']
    ranks[1].wait_for('on purpose: error@5:rank=1, on rank 1')
    began = time.monotonic()
    for rank in ranks:
        rank.wait(80)
    return SimpleNamespace(folder=folder, ranks=ranks, seconds=time.monotonic() - began)


def test_an_error_on_one_rank_ends_both_with_the_cause_on_the_screen(two: SimpleNamespace) -> None:
    assert two.seconds < 60 and two.ranks[1].code == 2 and two.ranks[0].code > 0
    assert 'error: rank 1: an error on purpose' in two.ranks[1].text and 'Traceback' not in two.ranks[1].text


def test_a_loss_that_is_not_finite_on_one_rank_makes_both_leave_out_the_step(two: SimpleNamespace) -> None:
    first, second = ((two.folder / f'digest_{rank}.txt').read_text().split() for rank in (0, 1))
    assert len(first) >= 4 and first[:4] == second[:4]
    assert first[1] == first[0] and first[2] != first[1]
    assert 'iteration 2: rank 1: decode.loss_ce is nan; images ' in two.ranks[0].text


def test_a_run_of_two_processes_goes_on_in_one_and_says_what_changed(
    tools: Tools, data: Path, two: SimpleNamespace, tmp_path: Path
) -> None:
    folder = shutil.copytree(two.folder, tmp_path / 'run')
    run = tools.train(folder, '--resume', chosen=options(data)).wait()
    assert run.code == 0 and saved(folder)[-1] == 'iter_000006', run.text
    assert f'going on from {folder}/iter_000004' in run.text
    assert [line for line in run.text.splitlines() if '2 processes' in line and '1 process' in line], run.text


# --- R11, R17, R24: what is read -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def damaged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data with a picture that is a web page; its path."""
    root = shutil.copytree(data, tmp_path_factory.mktemp('damaged') / 'demo')
    picture = sorted((root / 'images/training').iterdir())[2]
    picture.write_bytes(b'<!DOCTYPE html><html>404 not found</html>')
    return root, picture


def test_an_unreadable_picture_ends_the_run_with_its_name(
    tools: Tools, damaged: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tools.train(tmp_path, chosen=options(damaged[0], train_dataloader__num_workers=2)).wait()
    assert run.code == 2 and 'Traceback' not in run.text, run.text
    line, = [line for line in run.text.splitlines() if line.startswith('error: ')]
    assert f'{damaged[1]} is a web page' in line


def test_an_unreadable_picture_is_skipped_on_request_and_then_recorded_and_reported(
    tools: Tools, damaged: tuple[Path, Path], tmp_path: Path
) -> None:
    chosen = options(
        damaged[0], train_dataloader__num_workers=2, train_dataloader__dataset__on_bad_sample='skip')
    run = tools.train(tmp_path, chosen=chosen).wait()
    assert run.code == 0, run.text
    events = [json.loads(line) for line in (tmp_path / 'bad_samples.jsonl').read_text().splitlines()]
    assert {event['file'] for event in events} == {str(damaged[1])} and 'is a web page' in events[0]['reason']
    assert {event['index'] for event in events} == {2} and {event['replaced_by'] for event in events} == {3}
    assert f'unreadable samples: 1 files (budget 10), replaced by the next readable one {len(events)} times' in run.text


def test_a_label_out_of_range_ends_the_run_with_file_and_value(tools: Tools, data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data, tmp_path / 'demo')
    for file in (root / 'annotations/training').iterdir():
        labels = np.array(Image.open(file))
        labels[3, 4] = 77
        Image.fromarray(labels).save(file)
    run = tools.train(tmp_path / 'run', chosen=options(root)).wait()
    assert run.code == 2 and 'Traceback' not in run.text, run.text
    line, = [line for line in run.text.splitlines() if line.startswith('error: ')]
    assert str(root / 'annotations/training') in line and '77' in line


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_weights_that_would_run_code_are_refused_and_do_not(tools: Tools, data: Path, tmp_path: Path) -> None:
    torch.save(dict(state_dict=dict(weight=Evil(tmp_path / 'mark'))), tmp_path / 'evil.pth', pickle_module=pickle)
    run = tools.train(tmp_path / 'run', chosen=options(data, load_from=tmp_path / 'evil.pth')).wait()
    assert run.code == 2 and 'error: ' in run.text and 'evil.pth' in run.text and 'Traceback' not in run.text
    assert not (tmp_path / 'mark').exists()


# --- faults that mean nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('fault', ['nan@zero', 'kill@sava:0.3', 'flood@3'])
def test_a_fault_that_means_nothing_is_refused_before_anything_is_made(
    tools: Tools, data: Path, tmp_path: Path, fault: str
) -> None:
    run = tools.train(tmp_path / 'run', '--inject', fault, chosen=options(data)).wait()
    assert run.code == 2 and f"error: fault '{fault}': write KIND@" in run.text
    assert not (tmp_path / 'run').exists()


def test_a_fault_of_workers_where_there_are_none_is_refused_before_the_first_step(
    tools: Tools, data: Path, tmp_path: Path
) -> None:
    run = tools.train(tmp_path / 'run', '--inject', 'worker-segv@3', chosen=options(data)).wait()
    assert run.code == 2 and 'error: there is no data-loader worker to kill' in run.text
    assert 'Iter(train)' not in run.text
