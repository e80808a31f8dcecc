"""The long half: whole runs of `tools/train.py` that faults and signals end at random moments."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_helpers import same
from conftest import ROOT
from survival_helpers import DETECTOR, SEGMENTER, Run, Tools, as_arguments, options, state

from backbones.training.signals import SIGNALS

LONG = 40


@pytest.fixture(scope='module')
def every_step(tools: Tools, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a long run that nothing interrupted, with a checkpoint of each step."""
    folder, keep = tmp_path_factory.mktemp('every_step') / 'run', dict(default_hooks__checkpoint__max_keep_ckpts=LONG)
    run = tools.train(folder, chosen=long(data, default_hooks__checkpoint__interval=1, **keep)).wait(120)
    assert run.code == 0, run.text
    return folder


def long(data: Path, **more: object) -> dict[str, object]:
    """Options of a run of many steps that is often validated."""
    return options(data, LONG, train_cfg__val_interval=8, **more)


def newest_step(folder: Path) -> int:
    """Steps that the newest checkpoint has done."""
    return state(folder)['progress']['iter']


@pytest.mark.soak
@pytest.mark.parametrize('seed', range(5))
def test_runs_that_anything_interrupts_hold_the_bits_of_the_uninterrupted_one_each_time(
    tools: Tools, data: Path, every_step: Path, tmp_path: Path, figure: Callable, seed: int
) -> None:
    chosen, done, kept = random.Random(seed), 0, dict(default_hooks__checkpoint__max_keep_ckpts=2)
    for _ in range(4):
        step = chosen.randint(done + 1, done + 8)
        save = chosen.randint(2, 5)
        fault = chosen.choice([
            f'sigterm@{step}', f'sigint@{step}', f'sigusr1@{step}', f'kill@save:{chosen.random():.2f}:{save}',
            f'kill@save:rename:{save}', f'kill@last:open:{save}', 'kill@rotate:trash:2'])
        workers = chosen.choice([0, 2, 4])
        kept |= dict(default_hooks__checkpoint__interval=chosen.choice([1, 2]), train_dataloader__num_workers=workers)
        run = tools.train(tmp_path, '--resume', 'auto', '--inject', fault, chosen=long(data, **kept))
        assert run.wait(120).code == (-9 if fault.startswith('kill') else 85), (fault, run.text)
        assert newest_step(tmp_path) > done, fault
        done = newest_step(tmp_path)
        assert same(state(tmp_path), state(every_step, done)), fault
        figure('tool_interruptions', equal=1)
    run = tools.train(tmp_path, '--resume', chosen=long(data)).wait(120)
    assert run.code == 0, run.text
    assert same(state(tmp_path), state(every_step))


@pytest.mark.soak
def test_fifty_signals_at_random_moments_of_a_training_are_all_saved_in_time(
    tools: Tools, data: Path, every_step: Path, tmp_path: Path, figure: Callable
) -> None:
    moments = random.Random(0)
    for trial in range(50):
        folder = tmp_path / str(trial)
        chosen = long(data, default_hooks__checkpoint__interval=1000, train_dataloader__num_workers=trial % 3)
        run = tools.train(folder, chosen=chosen).wait_for('Iter(train) [ 1/40]')
        time.sleep(moments.random() * 0.5)
        sent = time.monotonic()
        run.kill(moments.choice(SIGNALS))
        assert run.wait().code == 85, run.text
        seconds = time.monotonic() - sent
        assert seconds < 30
        assert same(state(folder), state(every_step, newest_step(folder)))
        figure('tool_signals', equal=1, most_seconds=seconds)
        shutil.rmtree(folder)


@pytest.mark.soak
def test_torchrun_ends_both_processes_with_the_cause_on_the_screen_when_one_fails(data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    chosen = options(data, steps=500, train_dataloader__batch_size=2)
    run = subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'tools/train.py',
         SEGMENTER, '--work-dir', str(tmp_path), '--launcher', 'pytorch', '--inject', 'error@3:rank=1',
         *as_arguments(chosen)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    began, said = time.monotonic(), ''
    for line in run.stdout:
        began = time.monotonic() if line.startswith('on purpose: ') else began
        said += line
    assert run.wait(10) != 0 and time.monotonic() - began < 60
    assert 'on purpose: error@3:rank=1, on rank 1' in said
    assert said.count('error: rank 1: an error on purpose') == 1


@pytest.mark.soak
def test_a_detector_that_is_ended_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(
    tools: Tools, data: Path, tmp_path: Path, figure: Callable
) -> None:
    chosen = {
        'data_root': f'{data}/', 'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 3,
        'train_dataloader.batch_size': 2, 'model.backbone.drop_path_rate': 0.3, 'default_hooks.ema.type': 'EMAHook',
        'default_hooks.checkpoint.interval': 1, 'default_hooks.checkpoint.max_keep_ckpts': 9}

    def train(folder: Path, *arguments: str) -> Run:
        return tools.start(
            'tools/train.py', DETECTOR, '--work-dir', folder, '--total-batch', '2', *arguments, *as_arguments(chosen)
        ).wait(120)

    whole = train(tmp_path / 'whole')
    assert whole.code == 0, whole.text
    for fault, code in (('sigterm@2', 85), ('sigusr1@4', 85), ('kill@save:0.6:2', -9)):
        run = train(tmp_path / 'parts', '--resume', 'auto', '--inject', fault)
        assert run.code == code, run.text
        figure('tool_detector', equal=1)
    assert train(tmp_path / 'parts', '--resume').code == 0
    assert same(state(tmp_path / 'parts'), state(tmp_path / 'whole'))
