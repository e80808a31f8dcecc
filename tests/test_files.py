"""Files are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from backbones import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / 'metrics.json'
    files.write_bytes(target, b'old')

    def no_space(handle: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(OSError, match='No space left'):
        files.write_bytes(target, b'new')
    assert target.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['metrics.json']


def test_an_older_file_gets_the_first_free_number(tmp_path: Path) -> None:
    target = tmp_path / 'metrics.json'
    assert files.keep_older(target) is None
    for content in (b'first', b'second'):
        target.write_bytes(content)
        files.keep_older(target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        'metrics.1.json': b'first', 'metrics.2.json': b'second'}


def test_json_holds_no_nan_and_knows_numpy_and_tuples(tmp_path: Path) -> None:
    files.write_json(tmp_path / 'a' / 'x.json', dict(ap=float('nan'), scale=(1, 2), n=np.int64(3), f=np.float32(0.5)))
    assert json.loads((tmp_path / 'a' / 'x.json').read_text()) == dict(ap=None, scale=[1, 2], n=3, f=0.5)
