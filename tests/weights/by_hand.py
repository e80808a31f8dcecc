"""Files written by hand, good and bad, and what becomes of them. Shared by the tests of reading."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import pickle
import sys
import tempfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
import torch

from backbones.weights.read import LEGACY_TORCH, read_state

WEIGHT = torch.arange(6.0).reshape(2, 3)

CONTAINERS = ('pkl', 'torch archive', 'old torch file')

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


def saved(path: Path, content: Any, **options: Any) -> Path:
    """Save with torch and return the path."""
    torch.save(content, path, **options)
    return path


class Call:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def packed(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def array_header(shape: tuple, dtype: str = '<f4') -> bytes:
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


# --- pickles, step by step ---------------------------------------------------------------------------------


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


EMPTY = call('numpy._core.multiarray._reconstruct', name('numpy.ndarray'), value((0,)), value('b'))


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


# --- what is done while a file is read -----------------------------------------------------------------------


EVENTS: list[tuple[str, tuple]] = []

WATCHED = (
    'os.', 'subprocess.', 'exec', 'import', 'socket.', 'shutil.', 'ctypes.', 'marshal.', 'code.', 'webbrowser.',
    'pickle.', 'tempfile.', 'urllib.', 'open', 'builtins.input', 'function.', 'gc.', 'signal.', 'object.',
)  # fmt: skip

LISTENING = False
OTHERS: set[int] = set()  # threads that earlier tests left running


def _hear(event: str, args: tuple) -> None:
    if LISTENING and event.startswith(WATCHED) and threading.get_ident() not in OTHERS:
        writes = event == 'open' and (set(str(args[1])) & set('wax+') or (args[1] is None and args[2] & 3))
        if event != 'open' or writes:
            EVENTS.append((event, args))


sys.addaudithook(_hear)  # for good: a hook cannot be removed


@functools.cache
def load_all_modules() -> None:
    """Read a good file of each kind, so that what is imported later is imported for a bad one."""
    for module in ('cp437', 'raw_unicode_escape'):  # zipfile; the strings of protocol 0
        importlib.import_module(f'encodings.{module}')
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, 'w.pkl')
        plain.write_bytes(pickle.dumps({'model': {'a': WEIGHT.numpy()}}, 2))
        saved(Path(folder, 'w.pth'), {'a': WEIGHT})
        saved(Path(folder, 'old.pth'), {'a': WEIGHT}, _use_new_zipfile_serialization=False)
        for file in Path(folder).iterdir():
            assert read_state(file)
        plain.write_bytes(plain.read_bytes()[:-9])
        with pytest.raises(ValueError, match='damaged'):
            read_state(plain)


@contextlib.contextmanager
def listening() -> Iterator[list]:
    """Collect what is executed, imported, opened for writing or sent."""
    global LISTENING
    load_all_modules()
    OTHERS.clear()
    OTHERS.update(thread.ident for thread in threading.enumerate() if thread is not threading.current_thread())
    gc.collect()  # what earlier tests left is not finalised in here
    gc.disable()
    EVENTS.clear()
    LISTENING = True
    try:
        yield EVENTS
    finally:
        LISTENING = False
        gc.enable()


def refusal(path: Path) -> str:
    """Give the message with which a file is refused; fail if anything is done on the way."""
    message = 'it was read'
    with listening() as events:
        try:
            read_state(path)
        except ValueError as error:
            message = str(error)
    assert events == []
    assert '\n' not in message
    return message
