"""Small state trees, and processes that die while they write one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.checkpoints import write_checkpoint
from backbones.checkpoints.rotation import rotate, write_last
from backbones.training import inject


def small_tree(seed: int = 0, size: int = 40) -> dict[str, Any]:
    """A tree with weights, averaged weights, moments and a random state."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(*shape, generator=generator)
               for name, shape in (('conv.weight', (size, 3)), ('norm.bias', (3,)))}
    return dict(
        model=weights,
        ema={f'module.{name}': value + 1 for name, value in weights.items()},
        optimizer=dict(state={0: dict(step=seed, exp_avg=torch.rand(size, 3, generator=generator))},
                       param_groups=[dict(lr=0.1, betas=(0.9, 0.999), params=[0, 1])]),
        rng=dict(torch=generator.get_state()),
        progress=dict(iter=seed, loss=float('nan')),
        meta=dict(dataset_meta=dict(classes=['cat', 'dog'], palette=[[1, 2, 3], [4, 5, 6]])),
    )


def same(first: Any, second: Any) -> bool:
    """Whether two trees are equal to the bit, types included."""
    if isinstance(first, Tensor):
        return (isinstance(second, Tensor) and first.dtype == second.dtype and first.shape == second.shape
                and bits(first) == bits(second))
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return repr(first) == repr(second)


def bits(tensor: Tensor) -> bytes:
    """The bytes of a tensor in row-major order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b''


def publish(folder: Path, seed: int, keep: int = 1) -> Path:
    """Do all that follows a save, as the hook does."""
    path = write_checkpoint(folder, f'iter_{seed:06d}', small_tree(seed))
    write_last(folder, path.name)
    rotate(folder, keep, path.name)
    return path


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; returns its exit code, or the negative number of the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(spec: str, work: Callable[[], Any]) -> bool:
    """Run `work` in a process that is killed where `spec` says; whether it was."""
    def dying() -> None:
        inject.configure(spec)
        work()

    return in_child(dying) == -9
