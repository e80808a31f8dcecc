"""Checkpoints in shards are put together by their index, from its folder only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from weights.by_hand import WEIGHT, saved

from backbones.weights.read import file_kind, read_state


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards and their index."""
    save_file({'a': WEIGHT, 'b': WEIGHT + 1}, tmp_path / 'm-1.safetensors')
    saved(tmp_path / 'm-2.bin', {'c': WEIGHT + 2})
    files = {'a': 'm-1.safetensors', 'b': 'm-1.safetensors', 'c': 'm-2.bin'}
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(json.dumps({'metadata': {'total_size': 72}, 'weight_map': files}, indent=2))
    return index


def rewrite(index: Path, **files: str) -> None:
    """Change where an index looks for tensors."""
    content = json.loads(index.read_text())
    content['weight_map'].update(files)
    index.write_text(json.dumps(content))


def test_shards_are_put_together(shards: Path) -> None:
    state = read_state(shards)
    assert sorted(state) == ['a', 'b', 'c']
    assert torch.equal(state['c'], WEIGHT + 2)


@pytest.mark.parametrize('shard', ['../m-1.safetensors', '/etc/passwd', 'x/m.bin', '..', '.', '', 'C:m', 'x\\m'])
def test_a_shard_elsewhere_is_refused(shard: str, shards: Path) -> None:
    rewrite(shards, d=shard)
    with pytest.raises(ValueError, match=r'index\.json is refused: it names files outside of its folder'):
        read_state(shards)


def test_missing_shards_are_named(shards: Path) -> None:
    rewrite(shards, d='m-3.bin')
    (shards.parent / 'm-2.bin').unlink()
    with pytest.raises(ValueError, match=r'2 of its 3 files are missing beside it: m-2\.bin, m-3\.bin; download'):
        read_state(shards)


def test_a_tensor_that_the_index_promises_is_missed(shards: Path) -> None:
    rewrite(shards, d='m-1.safetensors')
    with pytest.raises(ValueError, match=r'm-1\.safetensors lacks 1 of the tensors that the index promises: d; '):
        read_state(shards)


def test_an_index_of_an_index_is_refused(shards: Path) -> None:
    rewrite(shards, d=shards.name)
    with pytest.raises(ValueError, match='holds no shard of weights'):
        read_state(shards)


def test_a_damaged_shard_is_named(shards: Path) -> None:
    path = shards.parent / 'm-1.safetensors'
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r'm-1\.safetensors is truncated or damaged'):
        read_state(shards)


def test_a_folder_is_refused_with_the_checkpoints_in_it(shards: Path) -> None:
    (shards.parent / 'config.json').write_text('{}')
    with pytest.raises(
        ValueError, match=r'is a folder; give one .*: m-1\.safetensors, m-2\.bin, model\.safetensors\.index\.json$'
    ):
        read_state(shards.parent)


def test_a_work_folder_is_refused_with_its_checkpoints_whether_files_or_folders(tmp_path: Path) -> None:
    for name in ('iter_000012', 'runs', 'other'):
        (tmp_path / name).mkdir()
    for name in ('iter_12.pth', 'last', 'other/model.safetensors', 'other/state.safetensors'):
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(ValueError, match=r'is a folder; give one of those in it: iter_000012, iter_12\.pth$'):
        read_state(tmp_path)
    with pytest.raises(ValueError, match=r'is a folder; give one of those in it: model\.safetensors$'):
        read_state(tmp_path / 'other')


def test_a_folder_without_checkpoints_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is a folder; there is no checkpoint in it'):
        read_state(tmp_path)


def test_the_kind_of_a_file_is_told_by_its_content(shards: Path) -> None:
    folder = shards.parent
    np.savez(folder / 'n', a=WEIGHT.numpy())
    (folder / 'p').write_bytes(b'\x80\x02}.')
    names = ('m-1.safetensors', 'm-2.bin', shards.name, 'n.npz', 'p')
    assert [file_kind(folder / name) for name in names] == ['safetensors', 'torch', 'index', 'npz', 'pickle']
