"""The tools as a user runs them, many times: one process imports the toolboxes and forks for each run of a tool.

Importing takes some 5 s of a core, and training a tiny model less than one. In all else a forked run is
`python tools/train.py ...`: arguments, environment, output, signals, exit code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint_helpers import same
from conftest import ROOT
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from backbones.checkpoints import list_checkpoints, read_checkpoint

SEGMENTER = 'configs/small/upernet_vit_demo.py'
DETECTOR = 'configs/small/mask-rcnn_convnext_demo.py'
STEPS = 6  # of a run; it saves after each second one
NARROW = {
    'model.data_preprocessor.size': (64, 96), 'model.neck.in_channels': 12,
    'model.backbone.arch.embed_dim': 12, 'model.backbone.arch.depth': 4, 'model.backbone.out_indices': (0, 1, 2, 3),
    'model.backbone.drop_path_rate': 0.3,  # random numbers that a resumed run could lose
    'model.decode_head.in_channels': [12] * 4, 'model.decode_head.channels': 8, 'model.decode_head.pool_scales': (1,),
    'model.auxiliary_head.in_channels': 12, 'model.auxiliary_head.channels': 8}


def options(data: Path, steps: int = STEPS, **more: Any) -> dict[str, Any]:
    """What makes the demo's segmenter tiny, its run short and its average a part of it; all else is as shipped.

    Args:
        data: the generated pictures.
        steps: of the whole run; it is validated at the end.
        **more: further ones, `__` for a dot.
    """
    return {
        **NARROW, 'data_root': f'{data}/', 'train_cfg.max_iters': steps, 'train_cfg.val_interval': steps,
        'param_scheduler.0.end': 2, 'param_scheduler.1.begin': 2, 'param_scheduler.1.end': steps,
        'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': 9,
        'default_hooks.ema.type': 'EMAHook', 'default_hooks.logger.interval': 1,
        **{key.replace('__', '.'): value for key, value in more.items()}}


def as_arguments(chosen: dict[str, Any]) -> list[str]:
    """As a command line takes them."""
    return ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in chosen.items())]


@dataclass
class Run:
    """A run of a tool that has begun.

    Attributes:
        pid: its process.
        log: file of all that it prints.
        code: how it ended, once it has; minus the number of the signal that killed it.
    """

    tools: Tools
    pid: int
    log: Path
    began: float = field(default_factory=time.monotonic)
    code: int | None = None

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def wait(self, seconds: float = 60) -> Run:
        """Until it has ended; one that has not is killed, and `code` is -9."""
        if self.code is None:
            self.code = self.tools.ask(dict(wait=self.pid, seconds=seconds))
        return self

    def wait_for(self, text: str, seconds: float = 60) -> Run:
        """Until it has printed `text`."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, self.text
            time.sleep(0.02)
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class Tools:
    """Runs tools of the checkout; to be closed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = {
            **os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True)

    def ask(self, request: dict[str, Any]) -> Any:
        """One line there, one line back."""
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments: str | Path, **environment: str) -> Run:
        """Begin `python ARGUMENTS...`, the first of which is a script."""
        self.count += 1
        log = self.folder / f'{self.count}.log'
        log.touch()
        return Run(self, self.ask(dict(start=[str(a) for a in arguments], log=str(log), environment=environment)), log)

    def train(self, work_dir: Path, *arguments: str | Path, chosen: dict[str, Any], **environment: str) -> Run:
        """Begin `python tools/train.py` with the demo's segmenter."""
        return self.start('tools/train.py', SEGMENTER, '--work-dir', work_dir, *arguments, *as_arguments(chosen),
                          **environment)

    def close(self) -> None:
        """End the process that forks."""
        self.process.communicate()


@HOOKS.register_module()
class DigestHook(Hook):
    """Write the sha256 of each rank's parameters after each step, a line each, to `digest_<rank>.txt`."""

    priority = 'LOWEST'

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """After a step."""
        found = hashlib.sha256()
        for parameter in runner.model.parameters():
            found.update(parameter.detach().numpy().tobytes())
        with open(Path(runner.work_dir) / f'digest_{runner.rank}.txt', 'a') as file:
            file.write(f'{found.hexdigest()}\n')


def saved(folder: Path) -> list[str]:
    """Names of the checkpoints of a run, in the order of their steps."""
    return sorted(path.name for path in list_checkpoints(folder))


def state(folder: Path, step: int | None = None) -> dict[str, Any]:
    """All of a checkpoint, by default the newest, that training computes: no times, paths and versions."""
    tree = read_checkpoint(list_checkpoints(folder)[0] if step is None else folder / f'iter_{step:06d}')
    kept = {key: tree[key] for key in ('model', 'ema', 'optimizers', 'schedulers', 'random', 'progress')}
    return {**kept, 'losses': tree['message_hub']['scalars']['train/loss']}


def assert_ends_as(whole: Path, folder: Path) -> None:
    """Weights, average, optimiser, schedules, random states, place in the data and all losses, bit by bit."""
    there, here = state(whole), state(folder)
    assert there['progress']['iter'] == STEPS
    assert [key for key in there if not same(there[key], here[key])] == []


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def serve() -> dict[str, Any] | None:
    """Start and wait for runs, as told by lines of input; in a run's process, return what it shall do."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    import_all()

    for line in sys.stdin:
        request = json.loads(line)
        if 'wait' in request:
            answers.write(f'{json.dumps(_wait(**request))}\n')
            continue
        pid = os.fork()
        if pid == 0:
            answers.close()
            return request
        answers.write(f'{pid}\n')
    return None


def import_all() -> None:
    """What every run imports, and Python's garbage collector told that it stays."""
    import gc

    import mmseg.apis  # noqa: F401
    import torch._dynamo  # noqa: F401
    from mmengine.config import Config

    import backbones.data.coco
    import backbones.training.launch  # noqa: F401

    Config(dict(a=1)).pretty_text  # noqa: B018  its formatter reads a grammar
    gc.freeze()


def _wait(wait: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while (done := os.waitpid(wait, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(wait, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(done[1])


def become(request: dict[str, Any]) -> None:
    """Turn this process into the run."""
    log = os.open(request['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(here, there)
    os.environ.update(request['environment'])
    sys.argv = request['start']
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    with contextlib.suppress(BrokenPipeError):
        runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    todo = serve()
    if todo is not None:
        become(todo)
