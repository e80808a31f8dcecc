"""The measured limits have the right unit; memory is that of the run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.benchmark import peaks
from backbones.benchmark.peaks import Peak, matrix_peak, memory_peak

CPU = torch.device('cpu')
MEGABYTE = 1 << 20


def test_the_peak_is_two_operations_per_multiply_add_over_the_fastest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 3.0, 3.5, 4.0, 5.0, 9.0])  # begin; three times start and end; enough
    monkeypatch.setattr(peaks.time, 'perf_counter', lambda: next(ticks))
    assert matrix_peak(torch.float32, CPU, seconds=1e-9, sides=(10,)) == 2 * 10**3 / 0.5


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_dtype_has_a_peak(dtype: torch.dtype) -> None:
    assert matrix_peak(dtype, CPU, seconds=0.001, sides=(32,)) > 0


def test_the_memory_of_a_run_is_what_it_adds_at_its_peak() -> None:
    def run() -> None:
        np.ones(64 * MEGABYTE, dtype=np.uint8).sum()

    peak = memory_peak(run, CPU)
    if peak.added is None:
        pytest.skip('this system does not let a process reset the peak of its memory')
    assert 60 * MEGABYTE < peak.added < 100 * MEGABYTE
    assert peak.total > peak.added


def test_where_the_system_does_not_tell_the_run_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peaks, 'CLEAR', tmp_path / 'no folder' / 'clear_refs')
    runs = []
    assert memory_peak(lambda: runs.append(1), CPU) == Peak(None, None)
    assert runs == [1]
