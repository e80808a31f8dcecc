"""A disk that is full costs logged numbers, not the run."""

from __future__ import annotations

import builtins
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import VISBACKENDS

from backbones.training import log_files


def test_numbers_that_cannot_be_written_are_one_warning_until_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log_files, 'print_log', lambda text, **more: said.append(text))
    backend = VISBACKENDS.build(dict(type='backbones.LocalVisBackend', save_dir=str(tmp_path)))
    backend.add_scalars(dict(loss=1.0, step=1))

    def full(name: Any, mode: str = 'r', *arguments: Any, **more: Any) -> Any:
        if 'a' in mode:
            raise OSError(errno.ENOSPC, 'No space left on device', str(name))
        return real(name, mode, *arguments, **more)

    real = builtins.open
    with monkeypatch.context() as patched:
        patched.setattr(builtins, 'open', full)
        for step in (2, 3):
            backend.add_scalars(dict(loss=1.0, step=step))
    assert len(said) == 1 and 'No space left on device' in said[0] and 'the run goes on' in said[0]
    backend.add_scalars(dict(loss=0.5, step=4))
    lines = (tmp_path / 'scalars.json').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 4]
