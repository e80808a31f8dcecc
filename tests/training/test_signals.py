"""SIGTERM, SIGINT and SIGUSR1: the step is finished, everything saved, the exit code says so."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from guard_helpers import Points, command, environment, run_two_processes, train_line
from mmengine.hooks import Hook

from backbones.training.exits import SAVED
from backbones.training.signals import SIGNALS, PreemptedError, PreemptionHook

HOOK = dict(type='backbones.PreemptionHook')


def start(folder: Path, *, pause: float = 0.0, resume: bool = False, max_iters: int = 8, workers: int = 0,
          faults: list = ()) -> subprocess.Popen:
    """A run in its own process."""
    arguments = ('signals', folder, pause, resume, max_iters, 'none', workers, *faults)
    return subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True)


def wait_for(process: subprocess.Popen, text: str) -> str:
    """Read what the process prints until `text`."""
    said = ''
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f'{text!r} was not printed:\n{said}')


@pytest.mark.parametrize('name', ['sigterm', 'sigint', 'sigusr1'])
def test_a_signal_saves_after_the_step_and_resuming_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    through = train_line(tmp_path / 'through')
    folder = tmp_path / 'cut'
    with pytest.raises(PreemptedError, match=f'{name.upper()} after iteration 5: everything is saved') as error:
        train_line(folder, hooks=[HOOK, dict(type='backbones.InjectHook', faults=[f'{name}@5'])])
    assert error.value.code == SAVED == 85
    assert json.loads((folder / 'last_exit.json').read_text())['code'] == SAVED
    resumed = train_line(folder, hooks=[HOOK], resume=True)
    assert not (folder / 'last_exit.json').exists()
    assert all(map(torch.equal, through.model.state_dict().values(), resumed.model.state_dict().values()))


def test_the_process_ends_with_its_code_and_without_a_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, faults=['sigterm@3', 'sigterm@3'])
    said, _ = process.communicate(timeout=60)
    assert process.returncode == SAVED, said
    assert 'SIGTERM: the run ends after this step and saves' in said
    assert 'SIGTERM: the run is already ending' in said
    assert 'Traceback' not in said
    assert (tmp_path / 'iter_3.pth').exists() and (tmp_path / 'last_checkpoint').read_text().endswith('iter_3.pth')


def test_ctrl_c_reaches_the_data_loader_workers_too_and_they_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, pause=0.05, max_iters=1000, workers=2)
    said = wait_for(process, 'loss_fit: ')
    os.killpg(process.pid, signal.SIGINT)
    said += process.communicate(timeout=60)[0]
    assert process.returncode == SAVED, said
    assert said.count('SIGINT: ') == 1 and 'Traceback' not in said


def test_the_third_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, faults=['sigterm@3'] * 3)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert not (tmp_path / 'iter_3.pth').exists()


def test_no_signal_turns_the_code_of_a_tool_that_has_saved_into_another(tmp_path: Path) -> None:
    done = subprocess.run(
        command('leaving', tmp_path), env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == SAVED, done.stdout + done.stderr
    assert 'SIGUSR1 after iteration 3: everything is saved' in done.stdout and 'Traceback' not in done.stderr


def test_old_handlers_come_back_after_the_run_and_after_a_signal(tmp_path: Path) -> None:
    def mine(*_: object) -> None: ...

    before = {number: signal.signal(number, mine) for number in SIGNALS}
    try:
        train_line(tmp_path / 'sound', hooks=[HOOK])
        assert all(signal.getsignal(number) is mine for number in SIGNALS)
        with pytest.raises(PreemptedError):
            train_line(tmp_path / 'cut', hooks=[HOOK, dict(type='backbones.InjectHook', faults=['sigint@2'])])
        assert all(signal.getsignal(number) is mine for number in SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_after_a_run_that_failed_acts_as_usual(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='on purpose'):
        train_line(tmp_path, hooks=[HOOK, dict(type='backbones.InjectHook', faults=['error@2'])])
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert not any(isinstance(getattr(signal.getsignal(n), '__self__', None), PreemptionHook) for n in SIGNALS)


class NowHook(Hook):
    """Stands for a checkpoint hook that can save at once."""

    def __init__(self, works: bool) -> None:
        self.works, self.calls = works, []

    def save_now(self, runner: object, reason: str, iteration: int | None = None) -> Path | None:
        """Only remember."""
        self.calls.append((reason, iteration))
        return Path('there') if self.works else None


@pytest.mark.parametrize(('works', 'code'), [(True, SAVED), (False, 128 + signal.SIGUSR1)])
def test_the_hook_that_can_save_now_is_asked_and_believed(works: bool, code: int, tmp_path: Path) -> None:
    now = NowHook(works)
    with pytest.raises(PreemptedError) as error:
        train_line(tmp_path, hooks=[HOOK, now, dict(type='backbones.InjectHook', faults=['sigusr1@4'])])
    assert error.value.code == code
    assert now.calls == [('SIGUSR1 after iteration 4', 4)]
    assert not (tmp_path / 'iter_4.pth').exists()


def test_the_safe_checkpoint_of_the_step_is_on_the_disk_when_the_run_has_ended(tmp_path: Path) -> None:
    safe = dict(type='backbones.SafeCheckpointHook', by_epoch=False, interval=100)
    loop = dict(type='backbones.IterBasedTrainLoop', max_iters=8)
    with pytest.raises(PreemptedError) as error:
        train_line(
            tmp_path, hooks=[HOOK, dict(type='backbones.InjectHook', faults=['sigterm@3'])], loop=loop, checkpoint=safe)
    assert error.value.code == SAVED
    assert (tmp_path / 'iter_000003').is_dir() and not list(tmp_path.glob('*.pth'))


def test_one_signalled_rank_of_two_saves_and_ends_both(tmp_path: Path) -> None:
    done = run_two_processes('signals', tmp_path, '0', 'False', '8', 'pytorch', '0', 'sigterm@3:rank=1')
    said = done.stdout + done.stderr
    assert 'SIGTERM after iteration 3: everything is saved; exit code 85' in said
    assert said.count('exitcode  : 85') >= 1
    assert json.loads((tmp_path / 'last_exit.json').read_text())['code'] == SAVED  # torchrun itself exits with 1
    assert torch.load(tmp_path / 'iter_3.pth', weights_only=False)['meta']['iter'] == 3


def test_in_a_validation_the_signal_ends_it_at_the_next_batch() -> None:
    hook = PreemptionHook()
    hook.received = signal.SIGTERM
    saved = NowHook(True)

    class Run:
        hooks, iter, rank, work_dir = [saved], 40, 1, ''
        val_dataloader, _train_loop = range(5), type('Loop', (), dict(iter=40))()

    hook.before_val_epoch(Run)
    with pytest.raises(PreemptedError):
        hook.after_val_iter(Run, 0)
    assert saved.calls == [('SIGTERM in the validation after iteration 40', 40)]


def fake(folder: Path, name: str, code: str) -> None:
    """Put a program on the PATH."""
    file = folder / name
    file.write_text(f'#!/usr/bin/env bash\n{code}\n')
    file.chmod(file.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def cluster(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """srun, scontrol and python that only write down what they are asked for."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    fake(folder, 'scontrol', f'echo "$@" >> {tmp_path}/scontrol.log')
    fake(folder, 'srun', 'while [[ $1 == -* ]]; do shift; done; exec "$@"')
    path = f'{folder}:{os.environ["PATH"]}'
    return tmp_path, environment(
        PATH=path, PYTHON=str(folder / 'python'), SLURM_JOB_ID='77', SLURM_SUBMIT_DIR=str(ROOT))


SCRIPT = ['bash', str(ROOT / 'tools/slurm_train.sh'), 'configs/x.py', '--work-dir', 'W']


@pytest.mark.parametrize(('code', 'asked'), [(85, 'requeue 77\n'), (0, ''), (2, ''), (143, '')])
def test_the_slurm_script_requeues_a_run_that_saved_and_no_other(code: int, asked: str, cluster: tuple) -> None:
    folder, env = cluster
    fake(folder / 'bin', 'python', f'echo "$@" > {folder}/python.log; exit {code}')
    done = subprocess.run(SCRIPT, env=env, cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == (0 if asked else code), done.stderr
    log = folder / 'scontrol.log'
    assert (log.read_text() if log.exists() else '') == asked
    words = (folder / 'python.log').read_text()
    assert 'tools/train.py configs/x.py --work-dir W' in words and '--launcher slurm --resume auto' in words


def test_the_slurm_script_hands_the_warning_on_and_then_requeues(cluster: tuple) -> None:
    folder, env = cluster
    fake(folder / 'bin', 'python', "trap 'exit 85' USR1; echo ready; while :; do sleep 0.05; done")
    process = subprocess.Popen(SCRIPT, env=env, cwd=folder, stdout=subprocess.PIPE, text=True)
    wait_for(process, 'ready')
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (folder / 'scontrol.log').read_text() == 'requeue 77\n'


def test_the_slurm_script_believes_the_note_of_the_run_where_another_rank_ended_otherwise(cluster: tuple) -> None:
    folder, env = cluster
    note = f'mkdir -p {folder}/W; echo \'{{"code": 85, "reason": "x"}}\' > {folder}/W/last_exit.json; exit 143'
    fake(folder / 'bin', 'python', note)
    subprocess.run(SCRIPT, env=env, cwd=folder, timeout=30, check=True)
    assert (folder / 'scontrol.log').read_text() == 'requeue 77\n'


@pytest.mark.soak
def test_fifty_signals_at_random_times_all_resume_to_the_same_weights(tmp_path: Path, figure: Callable) -> None:
    moments, pause, iterations = random.Random(0), 0.01, 60
    through = train_line(tmp_path / 'through', points=Points(16), max_iters=iterations).model.state_dict()
    for trial in range(50):
        folder = tmp_path / str(trial)
        process = start(folder, pause=pause, max_iters=iterations)
        wait_for(process, 'loss_fit: ')
        time.sleep(moments.random() * 1.0)
        sent = time.monotonic()
        process.send_signal(moments.choice(SIGNALS))
        said, _ = process.communicate(timeout=60)
        assert process.returncode == SAVED, said
        seconds = time.monotonic() - sent
        assert seconds < 30
        process = start(folder, pause=0, max_iters=iterations, resume=True)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert all(map(torch.equal, through.values(), torch.load(folder / 'weights.pt').values()))
        figure('signals', equal=1, most_seconds=seconds)
        shutil.rmtree(folder)


def test_handlers_that_a_failed_run_left_are_not_taken_for_the_users_own(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for name in 'ab':
        with pytest.raises(ValueError, match='on purpose'):
            train_line(tmp_path / name, hooks=[dict(type='backbones.PreemptionHook'),
                                               dict(type='backbones.InjectHook', faults=['error@2'])])
    last = signal.getsignal(SIGNALS[0]).__self__
    last.release()
    assert [signal.getsignal(number) for number in SIGNALS] == before
