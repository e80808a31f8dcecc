"""What a run was: one file per start in `<work folder>/runs/`, enough to do it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

import backbones
from backbones.files import write_json
from backbones.registry import HOOKS
from backbones.training.agreement import world_size
from backbones.training.resuming import ResumeHook

PACKAGES = (
    'torch', 'torchvision', 'numpy', 'safetensors', 'mmengine', 'onedl-mmengine', 'mmcv', 'onedl-mmcv', 'mmdet',
    'onedl-mmdetection', 'mmsegmentation', 'onedl-mmsegmentation', 'opencv-python', 'opencv-python-headless', 'pillow',
    'pycocotools', 'scipy', 'transformers')
VARIABLES = re.compile(r'(CUDA|CUBLAS|NCCL|GLOO|OMP|MKL|PYTORCH|TORCH|SLURM)_|(LOCAL_|WORLD_)?(RANK|SIZE)$')
SECRET = re.compile(r'KEY|TOKEN|SECRET|PASS|CREDENTIAL', re.IGNORECASE)


def write_run_record(work_dir: Path | str, config: Mapping[str, Any], **facts: Any) -> Path:
    """Write `runs/<time>.json` and return its path.

    Args:
        work_dir: the work folder.
        config: the composed config; what JSON does not know is written as its `repr`.
        facts: further entries, such as the seed.
    """
    folder, stamp, number = Path(work_dir) / 'runs', time.strftime('%Y%m%d_%H%M%S'), 1
    path = folder / f'{stamp}.json'
    while path.exists():
        path, number = folder / f'{stamp}_{number}.json', number + 1
    record = dict(
        time=time.strftime('%FT%T%z'), command=getattr(sys, 'orig_argv', sys.argv), folder=os.getcwd(), **facts,
        versions=versions(), git=git_states(), machine=machine_facts(),
        environment={name: value for name, value in sorted(os.environ.items())
                     if VARIABLES.match(name) and not SECRET.search(name)},
        config=plain(config))
    write_json(path, record, indent=1)
    return path


def plain(value: Any) -> Any:
    """Turn a config into what JSON knows; anything else becomes its `repr`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    return repr(value)


def versions() -> dict[str, str]:
    """Versions of Python, this project and the packages that decide what a run computes, as far as they are there."""
    found = dict(python=platform.python_version(), backbones=backbones.__version__)
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_states() -> dict[str, dict[str, Any]]:
    """Commit and changed files of the repositories that this package and the current folder lie in."""
    folders = dict(backbones=Path(backbones.__file__).resolve().parent, current_folder=Path.cwd())
    return {name: state for name, folder in folders.items() if (state := git_state(folder))}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Root, commit, branch and changed files of the repository around `folder`; None without one, or without git."""
    def ask(*arguments: str) -> str:
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True,
            env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'})
        return done.stdout.rstrip('\n')

    try:
        root, commit = ask('rev-parse', '--show-toplevel'), ask('rev-parse', '--verify', 'HEAD')
        changed = ask('status', '--porcelain', '--untracked-files=normal').splitlines()
        branch = ask('rev-parse', '--abbrev-ref', 'HEAD')
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(root=root, commit=commit, branch=branch, dirty=bool(changed), changed=changed[:200])


def machine_facts() -> dict[str, Any]:
    """Host, processors, GPUs, CUDA."""
    gpus = []
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return dict(
        host=socket.gethostname(), pid=os.getpid(), system=platform.platform(), cpus=os.cpu_count(),
        threads=torch.get_num_threads(), gpus=gpus, cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if gpus else None)


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write `runs/<time>.json` at each start and each resume."""

    priority = 'VERY_HIGH'  # after ResumeHook

    def before_train(self, runner: Runner) -> None:
        """Weights and counters are loaded: it is known where the run goes on."""
        if runner.rank != 0:
            return
        resumed = [hook.path for hook in runner.hooks if isinstance(hook, ResumeHook) and hook.path]
        try:
            path = write_run_record(
                runner.work_dir, runner.cfg.to_dict(), seed=runner.seed, deterministic=runner.deterministic,
                launcher=runner._launcher, world_size=world_size(), resumed=bool(runner.iter),
                loaded_from=next(iter(resumed), runner._load_from), iteration=runner.iter, epoch=runner.epoch)
        except OSError as error:
            raise ValueError(
                f'the record of the run cannot be written to {runner.work_dir} ({error}); correct the permissions or '
                'free some space, or choose another --work-dir'
            ) from error
        runner.logger.info(f'what this run is: {path}')

