"""Fixtures of the tests that run whole tools: what runs them, the data, and the runs that several files look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from survival_helpers import SEGMENTER, Tools, as_arguments, options

from backbones.data.demo import generate_demo


@pytest.fixture(scope='session')
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    """What runs the tools."""
    found = Tools(tmp_path_factory.mktemp('tools'))
    yield found
    found.close()


@pytest.fixture(scope='session')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and three validation pictures of 64 x 96 pixels."""
    root = tmp_path_factory.mktemp('data') / 'demo'
    return generate_demo(root, num_train=6, num_val=3, size=(64, 96), progress=False)


@pytest.fixture(scope='session')
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a run that nothing interrupted, in a process of its own; every other run is held against it."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [sys.executable, 'tools/train.py', SEGMENTER, '--work-dir', str(folder), *as_arguments(options(data))],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope='session')
def killed(tools: Tools, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a run that was killed when 37 % of its second checkpoint were written."""
    folder = tmp_path_factory.mktemp('killed') / 'run'
    run = tools.train(folder, '--inject', 'kill@save:0.37:2', chosen=options(data)).wait()
    assert run.code == -9, run.text
    return folder
