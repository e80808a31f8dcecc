"""What a pickle claims to hold is compared with what is there, before memory is taken."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from pathlib import Path
from struct import pack

import numpy as np
import pytest
import torch
from weights.by_hand import (
    CONTAINERS,
    EMPTY,
    WEIGHT,
    call,
    items,
    memory_of_refusal,
    name,
    refusal,
    stored,
    tensor,
    value,
)

from backbones.weights.read import read_state

DATA = WEIGHT.numpy().tobytes()


@pytest.mark.parametrize('container', CONTAINERS[1:])
def test_a_tensor_written_by_hand_is_read(container: str, tmp_path: Path) -> None:
    steps = b'}' + value('a') + tensor((2, 3), (3, 1), view=container != CONTAINERS[1]) + b's'
    read = read_state(stored(tmp_path / 'w.pth', container, steps, {'0': DATA}))
    assert torch.equal(read['a'], WEIGHT)


@pytest.mark.parametrize('container', CONTAINERS[1:])
@pytest.mark.parametrize(
    'claim, finding',
    [
        (dict(shape=(10**6, 10**6), stride=(0, 0)), r'shape (1000000, 1000000) where 6 numbers are stored'),
        (dict(shape=(7,), stride=(1,)), 'shape (7,) where 6 numbers are stored'),
        (dict(shape=(2,), stride=(10**9,)), 'where 6 numbers are stored'),
        (dict(shape=(2, 3), stride=(3, 1), offset=1), 'where 6 numbers are stored'),
        (dict(shape=(10**12,), stride=(1,), count=10**12), 'should have 4000000000000 bytes'),
        (dict(shape=(2, 3), stride=(3, 1), kind='torch.DoubleStorage', count=10**6), 'should have 8000000 bytes'),
        (dict(shape=(-1,), stride=(1,)), 'impossible shape'),
        (dict(shape=(2, 3), stride=(1,)), 'impossible shape'),
        (dict(shape=[2, 3], stride=[3, 1]), 'impossible shape'),
        (dict(shape=(1,) * 100, stride=(1,) * 100), 'impossible shape'),
        (dict(shape=(2, 3), stride=(-3, 1)), 'impossible shape'),
    ],
)
def test_a_tensor_that_claims_more_than_is_stored_is_refused(
    claim: dict, finding: str, container: str, tmp_path: Path
) -> None:
    steps = b'}' + value('a') + tensor(**claim, view=container != CONTAINERS[1]) + b's'
    assert finding in refusal(stored(tmp_path / 'w.pth', container, steps, {'0': DATA}))


@pytest.mark.parametrize('shape', [(0, 10**18, 10**18), (0,) * 70])
def test_an_array_of_impossible_shape_is_refused(shape: tuple, tmp_path: Path) -> None:
    array = EMPTY + items(value(1), value(shape), call('numpy.dtype', value('f4')), value(False), value('')) + b'b'
    message = refusal(stored(tmp_path / 'w.pkl', 'pkl', b'}' + value('a') + array + b's'))
    assert 'is truncated or damaged (an array of shape' in message


def test_tensor_data_that_is_not_there_is_missed(tmp_path: Path) -> None:
    steps = b'}' + value('a') + tensor((2, 3), (3, 1)) + b's'
    message = refusal(stored(tmp_path / 'w.pth', 'torch archive', steps))
    assert "tensor data '0' should have 24 bytes and has 0" in message


LATIN = value('latin1') + b'\x86R'

COPY = (
    EMPTY + items(value(1), value((4000,)), call('numpy.dtype', value('u1')), value(False), b'h\x09') + b'b'
)

BOMBS = {
    'bytes': b'\x8e' + pack('<Q', 10**11),
    'bytes of 32 bits': b'B' + pack('<I', 2**32 - 1),
    'bytearray': b'\x96' + pack('<Q', 10**11),
    'text': b'\x8d' + pack('<Q', 10**11),
    'frame': b'\x95' + pack('<Q', 10**11) + b'N',
    'long': b'\x8b' + pack('<i', 2**31 - 1),
    'memo': value(1) + b'r' + pack('<I', 2**32 - 1) + b'0}',
    'allocation': call('builtins.bytearray', value(10**11)),
    'tensor': call('torch.FloatTensor', value(10**11)),
    'array': EMPTY.replace(value((0,)), value((10**11,))),
    'array state': EMPTY
    + items(value(1), value((10**11,)), call('numpy.dtype', value('f4')), value(False), value('abcd'))
    + b'b',
    'laughing tuples': b')' + b'2\x86' * 100,
    'laughing keys': b'}' + b')' + b'2\x86' * 100 + b'Ns',
    'laughing pairs': call('collections.OrderedDict', b'](' + b')' + b'2\x86' * 100 + b'N\x86' + b'e'),
    'laughing sets': call('builtins.set', b'](' + b')' + b'2\x86' * 100 + b'e'),
    'copies': b']q\x09(' + b'N' * 5000 + b'e0](' + (name('builtins.set') + b'h\x09\x85R') * 1000 + b'e',
    'encoded copies': value('x' * 4000) + b'q\x090](' + (name('_codecs.encode') + b'h\x09' + LATIN) * 2000 + b'e',
    'array copies': value('x' * 4000) + b'q\x090](' + COPY * 2000 + b'e',
    'tuple as type': call('numpy.dtype', b')' + b'2\x86' * 100),
    'chain': b'}' + b''.join([value('model'), b'}'] * 2000) + b's' * 2000,
    'itself': b'}q\x09' + value('model') + b'h\x09s',
    'depth': b']' * 1000 + b'a' * 999,
}


@pytest.mark.parametrize('container', CONTAINERS[:2])
@pytest.mark.parametrize('kind', BOMBS)
def test_a_bomb_is_refused_before_memory_is_taken(
    kind: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('backbones.weights.pickles.MAX_STEPS', 100_000)  # the test is short then
    path = stored(tmp_path / 'w.pth', container, BOMBS[kind])
    tracemalloc.start()
    try:
        message = refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 'checkpoint' in message
    assert peak < 3 * 10**6
    assert len(message) < 500


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / 'w.pkl', 'pkl', b'](' + b'}' * 5000 + b'e')
    assert 'holds no weights' in refusal(path)
    monkeypatch.setattr('backbones.weights.pickles.MAX_STEPS', 5000)
    assert 'is refused: it has more than 5,000 entries, which no set of weights has' in refusal(path)


def test_a_plain_pickle_is_read_into_one_copy_of_the_weights(tmp_path: Path) -> None:
    content = {'model': {str(i): np.random.default_rng(i).random(100_000, np.float32) for i in range(20)}}
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps(content, 2))
    del content
    tracemalloc.start()
    try:
        state = read_state(tmp_path / 'w.pkl')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * sum(value.nbytes for value in state.values())


STEPS = {  # as many as there are bytes, or half of them
    'lists': b']',
    'dicts': b'}',
    'sets': b'\x8f',
    'frozen sets': b'(\x91',
    'tuples': b'\x85',
    'marks': b'(',
    'memos': b'\x94',
    'lists with memos': b']\x94',
    'numbers': b'M\xff\xff',
}


@pytest.mark.parametrize('kind', STEPS)
def test_the_memory_of_many_small_steps_stays_below_32_mb_and_twice_the_file(kind: str, tmp_path: Path) -> None:
    path = stored(tmp_path / 'w.pkl', 'pkl', b'N' + STEPS[kind] * 700_000)
    assert memory_of_refusal(path, 'entries, which no|more than its size') < 32 * 2**20 + 2 * path.stat().st_size


def test_tensor_data_beside_its_folder_does_not_count(tmp_path: Path) -> None:
    steps = b'}' + value('a') + tensor((2, 3), (3, 1)) + b's'
    path = stored(tmp_path / 'w.pth', 'torch archive', steps)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('0', DATA)
    assert "tensor data '0' should have 24 bytes and has 0" in refusal(path)
