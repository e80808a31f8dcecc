"""Files that are missing, truncated, of another kind or without weights are named, with the remedy."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from weights.by_hand import ARRAYS, WEIGHT, memory_of_refusal, refusal, saved

from backbones.weights.read import read_state


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'none\.pth: there is no such file; correct the path'):
        read_state(tmp_path / 'none.pth')


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'there is no folder .*nowhere'):
        read_state(tmp_path / 'nowhere' / 'w.pth')


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', r'is empty \(0 bytes\); download it again'),
        (b'<!DOCTYPE html><html>Sign in</html>', 'is a web page, not a checkpoint.*needs a login'),
        (b'\n <html>404</html>', 'is a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'is a git-lfs pointer.*git lfs pull'),
        (b'hello world, no weights here', 'is no checkpoint.*torch.save'),
        ((10**12).to_bytes(8, 'little') + b'{"a": 1}', 'header should have 1000000000000 bytes.*longer than the file'),
        ((8).to_bytes(8, 'little') + b'{"a": 1}', 'is truncated or damaged'),
        (b'{"weight_map": {}}', 'is a JSON text.*the index'),
        (b'{"weight_map": {"a": 3}}', 'is a JSON text'),
        (b'{"a":' * 100_000, 'is a JSON text'),
        (b'\x1f\x8b\x08\0', 'is compressed with gzip.*unpack it'),
        (b'\x89HDF\r\n', 'is an HDF5 file'),
        (b'GGUF\x03\0', 'is a GGUF file'),
        (b'PK\x03\x04 and no more', 'is truncated or damaged'),
        (b'\x80\x02', 'is truncated or damaged'),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / 'w.pth').write_bytes(content)
    with pytest.raises(ValueError, match=rf'(?s)w\.pth.*{message}'):
        read_state(tmp_path / 'w.pth')


@pytest.mark.parametrize('keep', [0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize('kind', ['pth', 'safetensors', 'npz'])  # pickles: below
def test_a_truncated_file_is_refused(kind: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / 'w'
    content = {'a': torch.rand(100, 100)}
    if kind == 'safetensors':
        save_file(content, path)
    elif kind == 'npz':
        np.savez(tmp_path / 'w.npz', a=content['a'].numpy())
        (tmp_path / 'w.npz').rename(path)
    else:
        saved(path, content)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r'truncated or damaged'):
        read_state(path)


@pytest.mark.parametrize('keep', [0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize('container', ['pkl', 'old'])
def test_a_truncated_pickle_is_called_so(container: str, keep: float, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    if container == 'pkl':
        pickle.dump({'model': {'a': ARRAYS['long'], 'b': ARRAYS['long']}}, buffer, 2)
    else:
        torch.save({'a': torch.rand(100), 'b': torch.rand(50)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    (tmp_path / 'w').write_bytes(data[: int(keep * len(data))])
    message = refusal(tmp_path / 'w')
    assert 'w is truncated or damaged (' in message
    assert message.endswith('download or copy it again')


def safetensors(path: Path, entries: dict, data: bytes) -> Path:
    """Write a safetensors file by hand."""
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
    return path


@pytest.mark.parametrize(
    'entries',
    [
        {'a': dict(dtype='F32', shape=[10**9], data_offsets=[0, 16])},
        {'a': dict(dtype='F32', shape=[2**62, 4], data_offsets=[0, 16])},
        {'a': dict(dtype='F32', shape=[4], data_offsets=[0, 4 * 10**9])},
        {name: dict(dtype='F32', shape=[4], data_offsets=[0, 16]) for name in 'ab'},  # overlap
        {'a': dict(dtype='F32', shape=[2], data_offsets=[0, 8])},  # a rest
        {'a': dict(dtype='PY', shape=[4], data_offsets=[0, 16])},
    ],
)
def test_safetensors_that_lie_are_refused(entries: dict, tmp_path: Path) -> None:
    path = safetensors(tmp_path / 'w.safetensors', entries, bytes(16))
    assert memory_of_refusal(path, r'w\.safetensors is truncated or damaged') < 10**6


def test_an_absurd_header_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / 'w.safetensors').open('wb') as file:
        file.write((200_000_000).to_bytes(8, 'little') + b'{"')
        file.truncate(300_000_000)  # takes no room on the disk
    assert memory_of_refusal(tmp_path / 'w.safetensors', r'header should have 200000000 .*limit of 100000000') < 10**6


def test_a_file_that_may_not_be_read_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT})

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, 'Permission denied')  # what a plain user would see; root may read everything

    monkeypatch.setattr(Path, 'open', forbidden)
    with pytest.raises(ValueError, match=r'w\.pth cannot be opened \(Permission denied\); correct its permissions'):
        read_state(path)


@pytest.mark.parametrize(
    'content, message',
    [
        ({'optimizer': {'state': {}}, 'epoch': 3}, r"holds no weights: found only \['optimizer', 'epoch'\]"),
        ({'classes': ['a', 'b']}, r"holds no weights: found \['classes'\]"),
        ([WEIGHT], 'holds no weights: found list'),
        (WEIGHT, 'holds no weights: found Tensor'),
        ({}, 'holds no weights'),
        ({'state': {0: {'exp_avg': WEIGHT}}, 'param_groups': []}, 'found only the state of an optimiser'),
        ({'optimizer': {'state': {0: {'exp_avg': WEIGHT}}, 'param_groups': []}}, r"found only \['optimizer'\]"),
        ({f'{i}' * 500: 0 for i in range(20)}, "000000', .* and 12 more; give a file"),
    ],
)
def test_a_file_without_weights_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_state(saved(tmp_path / 'w.pth', content))
