"""Files are told by their content, damaged ones are named, and nothing in a file is executed."""

from __future__ import annotations

import copy
import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from backbones.weights.read import file_kind, peel, read_state

WEIGHT = torch.arange(6.0).reshape(2, 3)


def saved(path: Path, content: Any, **options: Any) -> Path:
    """Save with torch and return the path."""
    torch.save(content, path, **options)
    return path


# --- containers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['w.pth', 'w.pt', 'w.bin', 'wrong_name.npz'])
def test_torch_files_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    assert torch.equal(read_state(saved(tmp_path / name, {'a.weight': WEIGHT}))['a.weight'], WEIGHT)


def test_files_of_torch_before_1_6_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT}, _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(path)['a'], WEIGHT)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({'a': WEIGHT}, tmp_path / 'w.safetensors')
    assert torch.equal(read_state(tmp_path / 'w.safetensors')['a'], WEIGHT)


def test_numpy_archives_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', **{'Transformer/kernel': WEIGHT.numpy()})
    assert torch.equal(read_state(tmp_path / 'w.npz')['Transformer/kernel'], WEIGHT)


@pytest.mark.parametrize(
    'content',
    [
        {'model': {'a': WEIGHT}, 'optimizer': {'state': {0: {'exp_avg': WEIGHT}}}},
        {'state_dict': {'a': WEIGHT}, 'meta': {'epoch': 1}},
        {'teacher': {'a': WEIGHT}, 'student': {'a': 0 * WEIGHT}},
        {'model': {'a': WEIGHT}, 'model_ema': {'a': 0 * WEIGHT}},
        {'model': {'state_dict': {'module.a': WEIGHT}}},
        {'module.module.a': WEIGHT},
        {'a': WEIGHT, 'epoch': 3},
    ],
)
def test_wrappers_are_peeled(content: dict, tmp_path: Path) -> None:
    state = read_state(saved(tmp_path / 'w.pth', content))
    assert list(state) == ['a']
    assert torch.equal(state['a'], WEIGHT)


def test_files_saved_by_mmengine_are_read(tmp_path: Path) -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        'state_dict': {'a': WEIGHT},
        'message_hub': {'log_scalars': {'loss': buffer}},
        'score': np.float64(0.5),
    }
    assert list(read_state(saved(tmp_path / 'w.pth', content))) == ['a']


@pytest.mark.parametrize('wrapper', ['weights', 'net', 'ema', 'student', 'model_ema'])
def test_an_unknown_wrapper_is_opened_if_it_is_the_only_one(wrapper: str) -> None:
    content = {
        wrapper: {'module.a': WEIGHT},
        'optimizer_state_dict': {'state': {0: {'exp_avg': WEIGHT}}, 'x': WEIGHT},
        'dino_loss': {'center': WEIGHT},
        'best': torch.tensor(3),
        'config': {'lr': 1.0},
    }
    assert list(peel(content, 'w.pth')) == ['a']


def test_two_unknown_wrappers_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'student': {'a': WEIGHT}, 'ema': {'model': {'a': WEIGHT}}, 'epoch': 3})
    with pytest.raises(ValueError, match=r"several state dicts: \['student', 'ema'\]; keep the one.*\['student'\]"):
        read_state(path)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'])
def test_prefixes_of_parallel_and_compiled_models_are_taken_off(prefix: str) -> None:
    assert list(peel({f'{prefix}a': WEIGHT, f'{prefix}b': WEIGHT}, 'w.pth')) == ['a', 'b']


def test_a_prefix_that_some_names_lack_is_kept() -> None:
    assert list(peel({'module.a': WEIGHT, 'b': WEIGHT}, 'w.pth')) == ['module.a', 'b']


def test_mappings_that_hold_each_other_are_left() -> None:
    knot: dict = {'epoch': 1}
    knot['model'] = {'model': knot, 'net': knot}
    with pytest.raises(ValueError, match='holds no weights'):
        peel(knot, 'w.pth')
    assert list(peel({'model': {'a': WEIGHT, 'knot': knot}}, 'w.pth')) == ['a']


def mapped_file(tensor: torch.Tensor) -> str:
    """Name the file that is mapped at a tensor's memory."""
    for line in Path('/proc/self/maps').read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split('-'))
        if start <= tensor.data_ptr() < end:
            return name
    return ''


@pytest.mark.skipif(not Path('/proc/self/maps').exists(), reason='needs Linux to look at the memory')
@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_weights_stay_in_the_mapped_file(name: str, tmp_path: Path) -> None:
    content = {'a': torch.rand(1000, 100)}
    (save_file if name.endswith('safetensors') else torch.save)(content, tmp_path / name)
    state = read_state(tmp_path / name)
    assert mapped_file(state['a']) == str(tmp_path / name)
    state['a'] += 1  # the file is not written to
    assert torch.equal(read_state(tmp_path / name)['a'], content['a'])


# --- shards -------------------------------------------------------------------------------------------------


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


def test_a_folder_without_checkpoints_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is a folder; there is no checkpoint in it'):
        read_state(tmp_path)


# --- nothing is executed (malicious pickles: test_pickles.py) ------------------------------------------------


class Call:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def test_what_other_code_allowed_is_not_allowed_here(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT, 'b': Call(print, 'executed')})
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([print])
    try:
        with pytest.raises(ValueError, match=r"'builtins\.print' would have to be executed"):
            read_state(path)
        read_state(saved(path, {'a': WEIGHT}))
        assert set(torch.serialization.get_safe_globals()) == {*before, print}  # and it is left as it was
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_torch_itself_refuses_what_the_check_would_let_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('backbones.weights.pickles.check_archive', lambda *_: None)
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT, 'b': Call(print, 'executed')})
    with pytest.raises(ValueError, match="'print' would have to be executed; where you trust"):
        read_state(path)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_a_torch_file_of_another_protocol_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT}, pickle_protocol=4)
    with pytest.raises(ValueError, match=r'does not read it \(Unsupported operand 149\); save it again'):
        read_state(path)


def test_objects_in_numpy_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', a=np.array([Call(os.system, f'touch {tmp_path / "executed"}')], dtype=object))
    with pytest.raises(ValueError, match=r"refused: its array 'a\.npy' holds something else than plain arrays"):
        read_state(tmp_path / 'w.npz')
    assert not (tmp_path / 'executed').exists()


# --- damaged and mistaken files -----------------------------------------------------------------------------


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
@pytest.mark.parametrize('kind', ['pth', 'safetensors', 'npz'])  # plain pickles: test_pickles.py
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


def test_a_torchscript_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for kind in ('constants.pkl', 'code/__torch__.py'):
        packed(tmp_path / 'w.pt', {'w/data.pkl': b'x', f'w/{kind}': b'x'})
        with pytest.raises(ValueError, match=r'TorchScript archive.*torch\.jit\.load\(file\)\.state_dict'):
            read_state(tmp_path / 'w.pt')


def packed(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def header(shape: tuple, dtype: str = '<f4') -> bytes:
    """Write the header of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {'descr': dtype, 'fortran_order': False, 'shape': shape})
    return buffer.getvalue()


def memory_of_refusal(path: Path, message: str) -> int:
    """Give the memory that is taken at most until a file is refused, in bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_state(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / 'w.npz', {'a.npy': header((10**7,)) + bytes(4 * 10**7)})
    assert memory_of_refusal(path, r'unpacks to .* times its size') < 10**6


def test_a_zip_directory_that_lies_about_sizes_gains_nothing(tmp_path: Path) -> None:
    data = header((10**7,)) + bytes(4 * 10**7)
    path = packed(tmp_path / 'w.npz', {'a.npy': data})
    content = path.read_bytes().replace(len(data).to_bytes(4, 'little'), (1000).to_bytes(4, 'little'))
    path.write_bytes(content)
    assert memory_of_refusal(path, r'w\.npz is truncated or damaged') < 10**6


@pytest.mark.parametrize('shape', [(10**12,), (2**40, 2**40), (3,), (0,)])
def test_an_array_header_that_lies_about_the_shape_is_refused(shape: tuple, tmp_path: Path) -> None:
    path = packed(tmp_path / 'w.npz', {'a.npy': header(shape) + bytes(8)})
    assert memory_of_refusal(path, r"truncated or damaged \(array 'a\.npy' should have \d+ bytes and has 8\)") < 10**6


def test_parts_of_an_archive_must_not_overlap(tmp_path: Path) -> None:
    path = packed(tmp_path / 'w.npz', {'a.npy': header((1000,)) + bytes(4000)}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, 'a') as archive:
        for name in 'bcd':
            member = copy.copy(archive.infolist()[0])
            member.filename = f'{name}.npy'
            archive.filelist.append(member)
        archive._didModify = True
    with pytest.raises(ValueError, match='parts overlap; do not use it'):
        read_state(path)


@pytest.mark.parametrize('name', ['w.npz', 'w.pth'])
def test_one_name_twice_in_an_archive_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == 'w.npz':
        np.savez(path, a=WEIGHT.numpy())
    else:
        saved(path, {'a': WEIGHT})
    with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate name'):
        archive.writestr(archive.namelist()[0], b'x')
    with pytest.raises(ValueError, match='parts overlap'):
        read_state(path)


def test_a_torch_file_packed_anew_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / 'w.pth', {'a': torch.rand(100)})) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with pytest.raises(ValueError, match=r'with compression; give the file as torch\.save wrote it'):
        read_state(packed(tmp_path / 'new.pth', members))
    assert list(read_state(packed(tmp_path / 'new.pth', members, zipfile.ZIP_STORED))) == ['a']


def test_compressed_numpy_archives_are_read(tmp_path: Path) -> None:
    arrays = {'a/b': np.asfortranarray(np.random.default_rng(0).random((30, 20))), 'c': np.array(3, np.float32)}
    np.savez_compressed(tmp_path / 'w.npz', **arrays)
    state = read_state(tmp_path / 'w.npz')
    for name, value in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), value)


def test_big_endian_numpy_archives_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', a=WEIGHT.numpy().astype('>f4'))
    assert torch.equal(read_state(tmp_path / 'w.npz')['a'], WEIGHT)


def test_bfloat16_in_numpy_archives_is_explained(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', a=np.zeros(3, 'V2'))
    with pytest.raises(ValueError, match=r"'a\.npy' holds numbers of 2 bytes.*bfloat16; save the arrays as float32"):
        read_state(tmp_path / 'w.npz')


@pytest.mark.parametrize('dtype', ['U3', 'S2', 'M8[s]', 'f4,i4'])
def test_arrays_of_no_numbers_are_refused(dtype: str, tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', a=np.zeros(3, dtype))
    with pytest.raises(ValueError, match=r'something else than plain arrays.*save arrays of numbers only'):
        read_state(tmp_path / 'w.npz')


def test_damage_in_a_numpy_archive_is_found_by_its_checksum(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', a=np.random.default_rng(0).random(1000))
    data = bytearray((tmp_path / 'w.npz').read_bytes())
    data[4000] ^= 1
    (tmp_path / 'w.npz').write_bytes(data)
    with pytest.raises(ValueError, match='truncated or damaged'):
        read_state(tmp_path / 'w.npz')


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


def test_the_kind_of_a_file_is_told_by_its_content(shards: Path) -> None:
    folder = shards.parent
    np.savez(folder / 'n', a=WEIGHT.numpy())
    (folder / 'p').write_bytes(b'\x80\x02}.')
    names = ('m-1.safetensors', 'm-2.bin', shards.name, 'n.npz', 'p')
    assert [file_kind(folder / name) for name in names] == ['safetensors', 'torch', 'index', 'npz', 'pickle']


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
