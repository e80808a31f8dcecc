"""Pickles are read with stand-ins: nothing in them is imported, called or built, and no memory is taken unseen."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import importlib
import io
import pathlib
import pickle
import sys
import tracemalloc
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from backbones.weights.pickles import Opaque
from backbones.weights.read import LEGACY_TORCH, read_file, read_state

WEIGHT = torch.arange(6.0).reshape(2, 3)
CONTAINERS = ('pkl', 'torch archive', 'old torch file')

# --- pickles, written by hand -------------------------------------------------------------------------------


def value(content: Any) -> bytes:
    """Write the steps of a plain value."""
    return pickle.dumps(content, 2)[2:-1]


def name(full_name: str) -> bytes:
    """Write the step that names a global."""
    module, _, attribute = full_name.rpartition('.')
    return f'c{module}\n{attribute}\n'.encode()


def items(*steps: bytes) -> bytes:
    """Write a tuple."""
    return b'(' + b''.join(steps) + b't'


def call(full_name: str, *steps: bytes) -> bytes:
    """Write a call."""
    return name(full_name) + items(*steps) + b'R'


def stored(path: Path, container: str, steps: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """Write a file that holds `{'model': what the steps make}`."""
    content = b'\x80\x02}' + value('model') + steps + b's.'
    storages = storages or {}
    if container == 'torch archive':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('w/data.pkl', content)
            archive.writestr('w/version', b'3\n')
            for key, data in storages.items():
                archive.writestr(f'w/data/{key}', data)
        return path
    if container == 'old torch file':
        start = b'\x80\x02' + LEGACY_TORCH + pickle.dumps(1001, 2) + pickle.dumps({'little_endian': True}, 2)
        content = start + content + pickle.dumps(list(storages), 2)
        content += b''.join(pack('<q', len(data) // 4) + data for data in storages.values())
    path.write_bytes(content)
    return path


def tensor(
    shape: tuple, stride: tuple, offset: int = 0, count: int = 6, view: bool = False, kind: str = 'torch.FloatStorage'
) -> bytes:
    """Write a tensor over the storage '0', which is said to have `count` numbers."""
    pid = items(value('storage'), name(kind), value('0'), value('cpu'), value(count), *([value(None)] * view)) + b'Q'
    hooks = call('collections.OrderedDict')
    return call(
        'torch._utils._rebuild_tensor_v2', pid, value(offset), value(shape), value(stride), value(False), hooks
    )


# --- nothing is executed ------------------------------------------------------------------------------------

EVENTS: list[tuple[str, tuple]] = []
WATCHED = (
    'os.', 'subprocess.', 'exec', 'import', 'socket.', 'shutil.', 'ctypes.', 'marshal.', 'code.', 'webbrowser.',
    'pickle.', 'tempfile.', 'urllib.', 'open', 'builtins.input', 'function.', 'gc.', 'signal.', 'object.',
)  # fmt: skip
LISTENING = False


def _hear(event: str, args: tuple) -> None:
    if LISTENING and event.startswith(WATCHED):
        writes = event == 'open' and (set(str(args[1])) & set('wax+') or (args[1] is None and args[2] & 3))
        if event != 'open' or writes:
            EVENTS.append((event, args))


sys.addaudithook(_hear)  # for good: a hook cannot be removed


@contextlib.contextmanager
def listening() -> Iterator[list]:
    """Collect what is executed, imported, opened for writing or sent."""
    global LISTENING
    EVENTS.clear()
    LISTENING = True
    try:
        yield EVENTS
    finally:
        LISTENING = False


def refusal(path: Path) -> str:
    """Give the message with which a file is refused; fail if anything is done on the way."""
    message = 'it was read'
    with listening() as events:
        try:
            read_state(path)
        except ValueError as error:
            message = str(error)
    assert not events
    assert '\n' not in message
    return message


SHELL = value('touch executed')
CODE = value('__import__("os").system("touch executed")')
NESTED = value(pickle.dumps(print))
OBJECTS = call('numpy.dtype', value('O8'), value(False), value(True))
EMPTY = call('numpy._core.multiarray._reconstruct', name('numpy.ndarray'), value((0,)), value('b'))
MALICIOUS = {  # steps, and what the message names
    'os.system': (call('os.system', SHELL), 'os.system'),
    'posix.system': (call('posix.system', SHELL), 'posix.system'),
    'subprocess.Popen': (call('subprocess.Popen', SHELL), 'subprocess.Popen'),
    'builtins.eval': (call('builtins.eval', CODE), 'builtins.eval'),
    'eval of Python 2': (call('__builtin__.eval', CODE), 'builtins.eval'),
    'builtins.exec': (call('builtins.exec', CODE), 'builtins.exec'),
    'builtins.compile': (call('builtins.compile', CODE, value('f'), value('exec')), 'builtins.compile'),
    'builtins.__import__': (call('builtins.__import__', value('antigravity')), 'builtins.__import__'),
    'importlib.import_module': (call('importlib.import_module', value('antigravity')), 'importlib.import_module'),
    'a name that imports': (name('antigravity.fly'), 'antigravity.fly'),
    'io.open': (call('io.open', value('executed'), value('w')), 'io.open'),
    'pathlib write': (call('pathlib.Path.write_text', value('executed'), value('x')), 'pathlib.Path.write_text'),
    'shutil.rmtree': (call('shutil.rmtree', value('executed')), 'shutil.rmtree'),
    'socket': (call('socket.create_connection', value(('localhost', 1))), 'socket.create_connection'),
    'functools.partial': (call('functools.partial', name('os.system'), SHELL), 'functools.partial'),
    'operator.attrgetter': (call('operator.attrgetter', value('system')), 'operator.attrgetter'),
    'getattr of a module': (call('builtins.getattr', name('os.path'), value('os')), 'os.path'),
    'getattr of an allowed class': (
        call('builtins.getattr', name('argparse.Namespace'), value('__init__')),
        'builtins.getattr',
    ),
    'getattr chain': (
        call(
            'builtins.getattr',
            call('builtins.getattr', name('argparse.Namespace'), value('mean')),
            value('__globals__'),
        ),
        'builtins.getattr',
    ),
    'codecs.decode': (call('codecs.decode', SHELL, value('rot13')), 'codecs.decode'),
    'another codec': (call('_codecs.encode', SHELL, value('antigravity')), '_codecs.encode'),
    'copyreg': (call('copyreg._reconstructor', name('io.FileIO'), name('builtins.object'), SHELL), 'copyreg'),
    'copyreg extension': (b'\x82\x01', 'copyreg extension'),
    'torch.hub.load': (call('torch.hub.load', value('a/b'), value('model')), 'torch.hub.load'),
    'torch.load': (call('torch.serialization.load', value('executed')), 'torch.serialization.load'),
    'torch.jit.load': (call('torch.jit._serialization.load', value('executed')), 'torch.jit._serialization.load'),
    'a pickle in a pickle of torch': (call('torch.storage._load_from_bytes', NESTED), 'torch.storage._load_from_bytes'),
    'a pickle in a pickle': (call('_pickle.loads', NESTED), '_pickle.loads'),
    'numpy.load': (call('numpy.load', value('executed')), 'numpy.load'),
    'numpy objects': (EMPTY + items(value(1), value((1,)), OBJECTS, value(False), value([1])) + b'b', 'numpy.dtype'),
    'numpy object scalar': (call('numpy.core.multiarray.scalar', OBJECTS, NESTED), 'numpy.dtype'),
    'types.CodeType': (call('types.CodeType', value(0), value(0)), 'types.CodeType'),
    'types.FunctionType': (call('types.FunctionType', value(0), value({})), 'types.FunctionType'),
    'weakref': (call('weakref.finalize', name('os.system'), SHELL), 'weakref.finalize'),
    '__setstate__ of a class': (name('socketserver.TCPServer') + b')\x81' + value({'h': 1}) + b'b', 'socketserver'),
    '__setstate__ of a mapping': (call('collections.OrderedDict') + value({'items': 1}) + b'b', 'OrderedDict'),
    '__setstate__ of an allowed class': (name('numpy.dtype') + value((None, {'f': 1})) + b'b', 'dtype.__setstate__'),
    '__setstate__ of an allowed function': (name('_codecs.encode') + value((None, {'f': 1})) + b'b', '__setstate__'),
    'an old-style instance': (b'(' + SHELL + b'ios\nsystem\n', 'os.system'),
    'an object': (b'(' + name('os.system') + SHELL + b'o', 'os.system'),
    'nested deep': (b'](}' + value('meta') + items(call('os.system', SHELL)) + b'se', 'os.system'),
    'after being allowed': (items(call('builtins.set', value([1])), call('os.system', SHELL)), 'os.system'),
}  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def all_modules_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read a good file of each kind, so that what is imported later is imported for a bad one."""
    for module in ('cp437', 'raw_unicode_escape'):  # zipfile; the strings of protocol 0
        importlib.import_module(f'encodings.{module}')
    folder = tmp_path_factory.mktemp('good')
    (folder / 'w.pkl').write_bytes(pickle.dumps({'model': {'a': WEIGHT.numpy()}}, 2))
    torch.save({'a': WEIGHT}, folder / 'w.pth')
    torch.save({'a': WEIGHT}, folder / 'old.pth', _use_new_zipfile_serialization=False)
    for file in folder.iterdir():
        assert read_state(file)
    with pytest.raises(ValueError, match='damaged'):
        file = folder / 'w.pkl'
        file.write_bytes(file.read_bytes()[:-9])
        read_state(file)


@pytest.mark.parametrize('container', CONTAINERS)
@pytest.mark.parametrize('kind', MALICIOUS)
def test_a_malicious_file_is_refused_and_nothing_is_done(
    kind: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, named = MALICIOUS[kind]
    monkeypatch.chdir(tmp_path)
    message = refusal(stored(tmp_path / 'w.pth', container, steps))
    assert 'w.pth is refused: ' in message
    assert named in message
    assert message.endswith("keep its weights only: torch.save({'state_dict': state_dict}, new_file)")
    assert [file.name for file in tmp_path.iterdir()] == ['w.pth']


def test_the_audit_hook_hears_what_an_unpickler_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = stored(tmp_path / 'w.pkl', 'pkl', call('io.open', value('executed'), value('w')))
    with listening() as events, contextlib.suppress(Exception):
        pickle.loads(path.read_bytes())['model'].close()
    assert [event for event, _ in events] == ['pickle.find_class', 'open']
    assert (tmp_path / 'executed').exists()


@pytest.mark.parametrize('protocol', range(6))
def test_every_protocol_is_guarded(protocol: int, tmp_path: Path) -> None:
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps([eval, 'executed'], protocol))
    assert "'builtins.eval' would have to be executed" in refusal(tmp_path / 'w.pkl')


def test_code_in_strings_is_harmless_and_loads(tmp_path: Path) -> None:
    meta = {'config': 'import os\nos.system("touch executed")\n' * 200, 'cmd': "__import__('os').system('x')"}
    torch.save({'state_dict': {'a': WEIGHT}, 'meta': meta}, tmp_path / 'w.pth')
    with listening() as events:
        content = read_file(tmp_path / 'w.pth')
    assert content['meta'] == meta
    assert not events


def test_all_offending_names_are_given_at_once(tmp_path: Path) -> None:
    steps = items(*(call(f'secret.{letter}') for letter in 'abcde'))
    message = refusal(stored(tmp_path / 'w.pth', 'torch archive', steps))
    assert "to read it, 'secret.a', 'secret.b', 'secret.c' and 2 more would have to be executed" in message


@pytest.mark.parametrize('new', [True, False])
def test_a_pickled_model_is_named_with_its_class(new: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Identity())
    torch.save({'model': model, 'epoch': 1}, tmp_path / 'w.pth', _use_new_zipfile_serialization=new)
    message = refusal(tmp_path / 'w.pth')
    assert "holds a whole model, and to read it, its class 'torch.nn.modules.container.Sequential' would" in message
    assert message.endswith('torch.save(model.state_dict(), new_file)')


def test_a_persistent_id_in_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    assert 'refers to data outside of it' in refusal(stored(tmp_path / 'w.pkl', 'pkl', value('x') + b'Q'))


# --- what published files carry besides weights -------------------------------------------------------------


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


# --- detectron2 ---------------------------------------------------------------------------------------------

ARRAYS = {
    'float32': np.arange(6, dtype=np.float32).reshape(2, 3),
    'float16': np.arange(3, dtype=np.float16),
    'int64': np.arange(3),
    'uint8': np.arange(3, dtype=np.uint8),
    'complex64': np.array([1j], np.complex64),
    'bool': np.array([True, False]),
    'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'big endian': np.arange(3, dtype='>f4'),
    'scalar': np.array(3.5),
    'empty': np.zeros((0, 3), np.float32),
    'long': np.random.default_rng(0).random((30, 100)),
}


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


# --- claims -------------------------------------------------------------------------------------------------

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
