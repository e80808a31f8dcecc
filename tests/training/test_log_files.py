"""A disk that is full costs logged numbers, not the run."""

from __future__ import annotations

import builtins
import errno
import json
import logging
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


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='there is no device that is always full')
def test_a_log_file_that_cannot_be_written_is_one_sentence_and_no_traceback(
    capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.Logger('run')
    logger.addHandler(logging.FileHandler('/dev/full'))
    log_files.spare_the_run(logger)
    for _ in range(3):
        logger.info('a line')
    said = capsys.readouterr().err
    assert said.count('cannot be written (No space left on device); the run goes on without it') == 1
    assert 'Traceback' not in said


def test_a_mistake_in_a_log_call_is_still_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger('run')
    logger.addHandler(logging.FileHandler(tmp_path / 'run.log'))
    log_files.spare_the_run(logger)
    logger.info('%d', 'no number')
    assert 'Logging error' in capsys.readouterr().err
