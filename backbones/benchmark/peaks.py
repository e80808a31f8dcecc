"""Measured limits of this machine, and the memory that a run takes at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SIDES = {'cpu': (1024, 2048), 'cuda': (4096, 8192)}  # rows and columns of the matrices; the fastest size counts
STATUS, CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def matrix_peak(dtype: torch.dtype, device: torch.device, *, seconds: float = 1.0, sides: tuple[int, ...] | None = None
                ) -> float:
    """FLOP/s of the fastest product of two square matrices that was seen in `seconds`, with the threads set now.

    Args:
        dtype: of both matrices and the result.
        device: where.
        seconds: shared by the sizes; each is run at least three times, after one that does not count.
        sides: rows and columns of the matrices.
    """
    sides = SIDES[device.type] if sides is None else sides
    best = 0.0
    for side in sides:
        a = torch.randn(side, side, device=device).to(dtype)
        b = torch.randn(side, side, device=device).to(dtype)
        out = torch.empty_like(a)
        torch.mm(a, b, out=out)
        begin, runs = time.perf_counter(), 0
        while runs < 3 or time.perf_counter() - begin < seconds / len(sides):
            _wait(device)
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            _wait(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
            runs += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of one run; None where the system does not tell.

    Attributes:
        total: resident memory of the whole process (CPU), or what PyTorch's allocator had given out (GPU).
        added: by how much the run raised it: maps, gradients and temporaries, without what was there before.
    """

    total: int | None
    added: int | None


def memory_peak(run: Callable[[], object], device: torch.device) -> Peak:
    """Run once and tell the memory that it took."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        total = torch.cuda.max_memory_allocated(device)
        return Peak(total, total - before)
    _give_back()
    if not _reset_high_water():
        run()
        return Peak(None, None)
    before = _kilobytes('VmRSS')
    run()
    total = _kilobytes('VmHWM')
    if before is None or total is None:
        return Peak(None, None)
    return Peak(1024 * total, 1024 * max(0, total - before))


def _give_back() -> None:
    """Return freed memory to the system: what the allocator kept of an earlier run would hide what this one takes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL('libc.so.6').malloc_trim(0)


def _reset_high_water() -> bool:
    """Let Linux count the peak of resident memory from here on (man 5 proc: 5 in clear_refs)."""
    try:
        CLEAR.write_text('5')
    except OSError:
        return False
    return True


def _kilobytes(name: str) -> int | None:
    try:
        found = re.search(rf'^{name}:\s+(\d+) kB', STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
