"""Nothing that a pickle names is imported, called or built."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import pytest
import torch
from weights.by_hand import CONTAINERS, EMPTY, WEIGHT, call, items, listening, name, refusal, stored, value

from backbones.weights.read import read_file

SHELL = value('touch executed')

CODE = value('__import__("os").system("touch executed")')

NESTED = value(pickle.dumps(print))

OBJECTS = call('numpy.dtype', value('O8'), value(False), value(True))

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
