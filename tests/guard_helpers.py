"""A toy run for the tests of signals, guards, watchdog and lock; also a program: `python guard_helpers.py NAME FOLDER`.

As a program it trains in a process of its own, to which a test sends signals, or in two that torchrun starts.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from conftest import ROOT
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.cli import _leave_process_group, run_tool


class Points(Dataset):
    """Inputs (3,) with a target each; sample i is called `i.jpg`."""

    def __init__(self, count: int, pause: float = 0.0) -> None:
        numbers = torch.Generator().manual_seed(1)
        self.inputs, self.targets = torch.randn(count, 3, generator=numbers), torch.randn(count, generator=numbers)
        self.names, self.pause = [f'{i}.jpg' for i in range(count)], pause

    def __len__(self) -> int:
        return len(self.inputs)

    def get_data_info(self, index: int) -> dict[str, str]:
        """What MMEngine's data sets know of a sample."""
        return dict(img_path=self.names[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(self.pause)
        sample = SimpleNamespace(target=self.targets[index], img_path=self.names[index])
        return dict(inputs=self.inputs[index], data_samples=sample)


class Line(BaseModel):
    """A linear model, with a batch norm behind it if `norm`."""

    def __init__(self, norm: bool = False, weight: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fit = nn.Linear(3, 2)
        if weight is not None:
            nn.init.constant_(self.fit.weight, weight)
        self.norm = nn.BatchNorm1d(2) if norm else nn.Identity()
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs: list[Tensor], data_samples: list, mode: str) -> dict[str, Tensor] | list[float]:
        targets = torch.stack([torch.as_tensor(getattr(sample, 'target', sample)) for sample in data_samples])
        found = self.norm(self.fit(torch.stack(inputs).nan_to_num(posinf=float('inf'), nan=float('nan'))))
        return dict(loss_fit=(found[:, 0] - targets).square().mean()) if mode == 'loss' else found[:, 0].tolist()


class CpuRunner(Runner):
    """Wraps the model for gloo: MMEngine's own way names a GPU."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As a CPU module."""
        return MMDistributedDataParallel(model)


def train_line(
    folder: Path, *, hooks: list = (), guard: dict | None = {}, wrapper: str = 'backbones.GuardedOptimWrapper',  # noqa: B006
    optimizer: dict | None = None, loop: dict | None = None, max_iters: int = 8, batch: int = 2, workers: int = 0,
    points: Dataset | None = None, validation: Dataset | None = None, model: BaseModel | None = None,
    launcher: str = 'none', save: int = -1,
    resume: bool = False, runner: type[Runner] = Runner, checkpoint: dict | None = None,
    **more: Any,
) -> Runner:
    """Train a line for eight iterations on sixteen points in order; returns the Runner.

    With data for a `validation`, there is one after each two iterations.
    """
    if wrapper != 'OptimWrapper' and guard is not None:
        hooks = [*hooks, dict(type='backbones.NonFiniteHook', **guard)]
    elif guard is not None and not hooks:
        hooks = [dict(type='backbones.NonFiniteHook')]
    if launcher != 'none':  # MMEngine's own way sets a CUDA device, which CPU builds of torch do not have
        torch.distributed.init_process_group('gloo')
    validates = dict(val_cfg=dict(), val_evaluator=[], val_dataloader=dict(
        dataset=validation, batch_size=batch, num_workers=workers, collate_fn=dict(type='pseudo_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False)))
    runner = (runner if launcher == 'none' else CpuRunner)(
        model or Line(), str(folder), train_cfg=loop or dict(by_epoch=False, max_iters=max_iters, val_interval=2),
        train_dataloader=dict(
            dataset=points or Points(16), batch_size=batch, num_workers=workers,
            sampler=dict(type='InfiniteSampler', shuffle=False), collate_fn=dict(type='pseudo_collate')),
        optim_wrapper=dict(type=wrapper, optimizer=optimizer or dict(type='AdamW', lr=0.1), **more),
        default_hooks=dict(
            checkpoint=checkpoint or dict(
                type='CheckpointHook', interval=save, by_epoch=False, save_last=save > 0),
            logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(hooks), launcher=launcher, env_cfg=dict(dist_cfg=dict(backend='gloo')), resume=resume,
        randomness=dict(seed=0),
        **(validates if validation else {}), experiment_name=f'{folder.parent.name}_{folder.name}_{os.getpid()}')
    runner.train()
    return runner


def environment(**more: str) -> dict[str, str]:
    """For a process that runs this file."""
    path = f'{ROOT}:{ROOT / "tests"}'
    return {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', **more}


def command(name: str, folder: Path, *arguments: str) -> list[str]:
    """Run `name` of PROGRAMS or TOOLS in `folder`."""
    return [sys.executable, str(Path(__file__).resolve()), name, str(folder), *map(str, arguments)]


def run_two_processes(name: str, folder: Path, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
    """Run a program in two processes over gloo."""
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    return subprocess.run(
        [*launch, *command(name, folder, *arguments)[1:]], env=environment(), capture_output=True, text=True,
        timeout=timeout)


def start_two_processes(name: str, folder: Path, *arguments: str) -> list[subprocess.Popen]:
    """Start a program in two processes over gloo that nobody ends when one of them fails."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    return [
        subprocess.Popen(
            command(name, folder, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port))
        for rank in '01']


def run_guards(folder: Path, *faults: str) -> None:
    """Two ranks, eight iterations, faults injected; leaves the weights of each rank and the optimiser's steps."""
    run = train_line(
        folder, hooks=[dict(type='backbones.InjectHook', faults=faults)], launcher='pytorch', model=Line(norm=True))
    torch.save(run.model.module.state_dict(), folder / f'weights_{run.rank}.pt')
    state = run.optim_wrapper.optimizer.state
    (folder / 'steps.json').write_text(json.dumps(int(next(iter(state.values()))['step'])))


def run_signals(
    folder: Path, pause: str, resume: str, max_iters: str, launcher: str, workers: str, *faults: str
) -> None:
    """A run with the preemption hook; leaves its weights, and what came after it."""
    hooks = [dict(type='backbones.PreemptionHook'), dict(type='backbones.InjectHook', faults=faults)]
    run = train_line(
        folder, hooks=hooks, points=Points(16, float(pause)), max_iters=int(max_iters), launcher=launcher,
        resume=resume == 'True', workers=int(workers))
    torch.save(run.model.state_dict(), folder / 'weights.pt')


def run_leaving(folder: Path) -> None:
    """A run that a signal ends; more of them come when all is saved, while the process leaves."""
    def signals() -> None:
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)

    atexit.register(signals)
    try:
        run_signals(folder, '0', 'False', '8', 'none', '0', 'sigusr1@3')
    finally:
        signals()


def run_watchdog(folder: Path, timeout: str, workers: str, launcher: str, *faults: str) -> None:
    """A run with the watchdog."""
    hooks = [dict(type='backbones.WatchdogHook', timeout_s=float(timeout)),
             dict(type='backbones.InjectHook', faults=faults)]
    train_line(
        folder, hooks=hooks, points=Points(16, 0.05), max_iters=200, workers=int(workers), launcher=launcher)


def run_lock(folder: Path) -> None:
    """Take the lock, say so, wait for the end of the input."""
    from backbones.training.lock import WorkFolderLock

    with WorkFolderLock(folder):
        print('locked', flush=True)
        sys.stdin.read()


PROGRAMS = dict(guards=run_guards, signals=run_signals, watchdog=run_watchdog, lock=run_lock)
TOOLS = dict(leaving=run_leaving, tool=run_watchdog)  # end as tools/train.py does

if __name__ == '__main__':
    if sys.argv[1] in TOOLS:
        run_tool(lambda: TOOLS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]))
    try:
        PROGRAMS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
    except SystemExit as end:
        _leave_process_group(end.code)  # as the tools do
        raise
    _leave_process_group(0)
