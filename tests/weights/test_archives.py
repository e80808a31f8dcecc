"""Zip archives, of torch and of numpy: lies in their directory and headers gain nothing."""

from __future__ import annotations

import copy
import os
import zipfile
from pathlib import Path
from struct import pack, unpack

import numpy as np
import pytest
import torch
from weights.by_hand import WEIGHT, Call, array_header, memory_of_refusal, packed, saved

from backbones.weights.read import read_state


def test_objects_in_numpy_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / 'w.npz', a=np.array([Call(os.system, f'touch {tmp_path / "executed"}')], dtype=object))
    with pytest.raises(ValueError, match=r"refused: its array 'a\.npy' holds something else than plain arrays"):
        read_state(tmp_path / 'w.npz')
    assert not (tmp_path / 'executed').exists()


def test_a_torchscript_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for kind in ('constants.pkl', 'code/__torch__.py'):
        packed(tmp_path / 'w.pt', {'w/data.pkl': b'x', f'w/{kind}': b'x'})
        with pytest.raises(ValueError, match=r'TorchScript archive.*torch\.jit\.load\(file\)\.state_dict'):
            read_state(tmp_path / 'w.pt')


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / 'w.npz', {'a.npy': array_header((10**7,)) + bytes(4 * 10**7)})
    assert memory_of_refusal(path, r'unpacks to .* times its size') < 10**6


def test_a_zip_directory_that_lies_about_sizes_gains_nothing(tmp_path: Path) -> None:
    data = array_header((10**7,)) + bytes(4 * 10**7)
    path = packed(tmp_path / 'w.npz', {'a.npy': data})
    content = path.read_bytes().replace(len(data).to_bytes(4, 'little'), (1000).to_bytes(4, 'little'))
    path.write_bytes(content)
    assert memory_of_refusal(path, r'w\.npz is truncated or damaged') < 10**6


@pytest.mark.parametrize('shape', [(10**12,), (2**40, 2**40), (3,), (0,)])
def test_an_array_header_that_lies_about_the_shape_is_refused(shape: tuple, tmp_path: Path) -> None:
    path = packed(tmp_path / 'w.npz', {'a.npy': array_header(shape) + bytes(8)})
    assert memory_of_refusal(path, r"truncated or damaged \(array 'a\.npy' should have \d+ bytes and has 8\)") < 10**6


def test_parts_of_an_archive_must_not_overlap(tmp_path: Path) -> None:
    path = packed(tmp_path / 'w.npz', {'a.npy': array_header((1000,)) + bytes(4000)}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, 'a') as archive:
        for name in 'bcd':
            member = copy.copy(archive.infolist()[0])
            member.filename = f'{name}.npy'
            archive.filelist.append(member)
        archive._didModify = True
    with pytest.raises(ValueError, match='parts overlap; do not use it'):
        read_state(path)


@pytest.mark.parametrize('other', ['w/DATA.PKL', 'v/data.pkl', 'v/Data.pkl'])
def test_a_second_pickle_that_torch_could_take_for_the_first_is_refused(other: str, tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT})
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(other, b'x')
    with pytest.raises(ValueError, match='two readers find two contents; do not use it'):
        read_state(path)


def two_directories(first: bytes, second: bytes) -> bytes:
    """Put two zip archives into one, so that the end points to the first directory and lies behind the second."""
    size, start = unpack('<2L', second[-10:-2])
    directory, end = bytearray(second[start : start + size]), second[start + size :]
    first_size, first_start = unpack('<2L', first[-10:-2])
    assert first_size == size
    at = 0
    while at < size:  # Python adds to each offset how far the directory is from where the end points to
        lengths, offset = unpack('<3H', directory[at + 28 : at + 34]), unpack('<L', directory[at + 42 : at + 46])[0]
        directory[at + 42 : at + 46] = pack('<L', offset + first_start - start)
        at += 46 + sum(lengths)
    return first[: first_start + size] + second[:start] + directory + end[:16] + pack('<L', first_start) + b'\0\0'


def test_an_archive_with_a_second_directory_for_torch_is_refused(tmp_path: Path) -> None:
    archives = []
    for key in ('evil', 'good'):
        with zipfile.ZipFile(saved(tmp_path / 'w.pth', {key: WEIGHT})) as archive:
            members = {f'w/{name.partition("/")[2]}': archive.read(name) for name in archive.namelist()}
        archives.append(packed(tmp_path / 'w.zip', members, zipfile.ZIP_STORED).read_bytes())
    path = tmp_path / 'w.pth'
    path.write_bytes(two_directories(*archives))
    with zipfile.ZipFile(path) as archive:
        assert b'good' in archive.read('w/data.pkl')
    assert list(torch.load(path, weights_only=True)) == ['evil']
    with pytest.raises(ValueError, match='two readers find two contents; do not use it'):
        read_state(path)


@pytest.mark.parametrize('rest', ['a comment', 'a rest'])
def test_a_torch_archive_ends_with_its_directory(rest: str, tmp_path: Path) -> None:
    path = saved(tmp_path / 'w.pth', {'a': WEIGHT})
    data = path.read_bytes()
    assert data.endswith(b'\0\0')  # the length of the comment
    path.write_bytes((data[:-2] + b'\1\0x') if rest == 'a comment' else data + b'x')
    with pytest.raises(ValueError, match='two readers find two contents'):
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
