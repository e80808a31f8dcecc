"""What published files carry besides weights is no hindrance, and arrays of every origin become tensors."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import types
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from weights.by_hand import ARRAYS, WEIGHT, call, items, name, refusal, stored, value

from backbones.weights.read import Opaque, read_file, read_state


def inert() -> dict[str, Any]:
    """Values of training files that are no tensors."""
    return {
        'args': argparse.Namespace(lr=1.0, path=pathlib.PurePosixPath('a')),
        'simple': types.SimpleNamespace(a=1),
        'time': datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
        'path': pathlib.Path('a/b'),
        'counter': collections.Counter('aab'),
        'default': collections.defaultdict(list, a=[1]),
        'deque': collections.deque([1.0], maxlen=3),
        'size': torch.Size([1, 2]),
        'dtype': torch.float16,
        'device': torch.device('cuda:1'),
        'number': np.float64(0.5),
        'text': np.str_('abc'),
        'array': np.arange(3),
        'strings': np.array(['a', 'bc']),
        'set': {1, 2},
        'frozen': frozenset({'a'}),
        'bytes': b'\xff\0',
        'nothing': b'',
        'complex': 1j,
        'version': torch.__version__,
        'big': 2**80,
        'tuple key': {(1, 'a'): 2},
    }


@pytest.mark.parametrize('new', [True, False])
@pytest.mark.parametrize('kind', inert())
def test_inert_values_do_not_keep_a_torch_file_from_loading(kind: str, new: bool, tmp_path: Path) -> None:
    content = {'model': {'a': WEIGHT}, 'extra': inert()[kind]}
    torch.save(content, tmp_path / 'w.pth', _use_new_zipfile_serialization=new)
    assert torch.equal(read_state(tmp_path / 'w.pth')['a'], WEIGHT)


def test_what_is_not_needed_is_forgotten(tmp_path: Path) -> None:
    torch.save({'a': WEIGHT, **inert()}, tmp_path / 'w.pth')
    content = read_file(tmp_path / 'w.pth')
    for kind in ('args', 'simple', 'time', 'path'):
        assert type(content[kind]) is Opaque
        assert not vars(content[kind])
    assert content['number'] == 0.5
    assert content['text'] == 'abc'
    assert content['default'] == {'a': [1]}
    assert torch.equal(content['array'], torch.arange(3))


@pytest.mark.parametrize('made', [ConfigDict(a=1, b=ConfigDict(c=2)), HistoryBuffer([1.0, 2.0], [1, 1])])
def test_objects_of_mmengine_are_inert(made: Any, tmp_path: Path) -> None:
    torch.save({'state_dict': {'a': WEIGHT}, 'meta': {'x': made}}, tmp_path / 'w.pth')
    assert list(read_state(tmp_path / 'w.pth')) == ['a']


@pytest.mark.parametrize(
    'tensor',
    [
        torch.nn.Parameter(WEIGHT),
        WEIGHT.T,
        WEIGHT[1:, 1:],
        WEIGHT[:, :0],
        torch.tensor(3),
        WEIGHT.bfloat16(),
        WEIGHT.to(torch.float8_e4m3fn),
        WEIGHT.bool(),
        torch.arange(4).to(torch.uint16),
        torch.arange(3).expand(1, -1),
    ],
)
def test_all_plain_tensors_pass_the_check(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({'a': tensor, 'b': WEIGHT}, tmp_path / 'w.pth')
    read = read_state(tmp_path / 'w.pth')['a']
    assert read.dtype == tensor.dtype
    assert torch.equal(read.float(), tensor.float())


def test_views_of_one_storage_stay_views(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save({'a': WEIGHT, 'b': WEIGHT[1]}, tmp_path / 'w.pth', _use_new_zipfile_serialization=new)
        state = read_state(tmp_path / 'w.pth')
        assert state['a'][1].data_ptr() == state['b'].data_ptr()


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('kind', ARRAYS)
def test_arrays_of_every_protocol_become_tensors(kind: str, protocol: int, tmp_path: Path) -> None:
    content = {'model': {'a': ARRAYS[kind]}, '__author__': 'somebody', 'matching_heuristics': True}
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps(content, protocol))
    read = read_state(tmp_path / 'w.pkl')['a']
    assert read.shape == ARRAYS[kind].shape
    np.testing.assert_array_equal(read.numpy(), ARRAYS[kind])
    read.zero_()  # it is ours, and can be written to
    assert read_file(tmp_path / 'w.pkl')['__author__'] == 'somebody'


def test_arrays_of_python_2_and_numpy_1_become_tensors(tmp_path: Path) -> None:
    data = np.arange(2000, dtype='<f4')

    def text(raw: bytes) -> bytes:  # a str of Python 2
        return (b'U' + bytes([len(raw)]) if len(raw) < 256 else b'T' + pack('<i', len(raw))) + raw

    dtype = call('numpy.dtype', text(b'f4'), value(0), value(1))
    dtype += items(value(3), text(b'<'), value(None), value(None), value(None), value(-1), value(-1), value(0)) + b'b'
    start = call('numpy.core.multiarray._reconstruct', name('numpy.ndarray'), value((0,)), text(b'b'))
    array = start + items(value(1), value((2000,)), dtype, value(False), text(data.tobytes())) + b'b'
    path = stored(tmp_path / 'w.pkl', 'pkl', b'}' + text(b'a') + array + b's')
    np.testing.assert_array_equal(read_state(path)['a'].numpy(), data)


def test_tied_arrays_are_copied_once(tmp_path: Path) -> None:
    array = ARRAYS['long']
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps({'a': array, 'b': array}, 2))
    state = read_state(tmp_path / 'w.pkl')
    assert state['a'].data_ptr() == state['b'].data_ptr()


def test_a_plain_pickle_holds_no_other_classes(tmp_path: Path) -> None:
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps({'model': {'a': ARRAYS['int64']}, 'args': argparse.Namespace()}))
    assert "'argparse.Namespace' would have to be executed" in refusal(tmp_path / 'w.pkl')


def test_bfloat16_arrays_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps({'a': np.zeros(3, 'V2')}, 2))
    assert refusal(tmp_path / 'w.pkl').endswith('convert it to float32 and save it again')
