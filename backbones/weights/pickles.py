"""Read pickles without importing, calling or building anything they name.

A pickle is a program. This unpickler runs it with stand-ins: what a name of the allow-list stands for is one of the
inert functions and classes below, any other name stops the reading. Torch files are gone through here first (what
they name, how much they claim to store) and only then given to `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from struct import unpack
from typing import Any
from zipfile import ZipInfo

import numpy as np
import torch
from torch import Tensor

TRUST = "where you trust the file, keep its weights only: torch.save({'state_dict': state_dict}, new_file)"
MAX_STEPS = 1_000_000  # of a pickle; a training file with 1000 tensors and the optimiser needs about 100,000
LONG = 4096  # bytes; longer strings stay in the file until they are wanted
RENAMED = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}  # names of Python 2, which protocol 2 keeps


class Refused(Exception):
    """A file holds what is not read: (finding, remedy), each a part of a sentence about the file."""

    def __init__(self, finding: str, remedy: str = TRUST) -> None:
        super().__init__(finding, remedy)
        self.finding, self.remedy = finding, remedy


class Damaged(Exception):
    """A file is no complete pickle."""


def _executes(*names: str) -> Refused:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return Refused(f'to read it, {", ".join(map(repr, names[:3]))}{more} would have to be executed')


def first_line(error: Exception) -> str:
    """Shorten an error of another library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- stand-ins: all that a file can name ----------------------------------------------------------------------


class Opaque:
    """Stands in for an object of the file that weights do not need; keeps nothing and can do nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


class _Mapping:
    """Stands in for classes derived from dict: makes an empty one, whose items are kept."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        return OrderedDict()


class _List:
    """Stands in for classes that are filled like a list."""

    def __new__(cls, *args: Any, **kwargs: Any) -> list:
        return []


class _Text:
    """A long string, still in the file."""

    __slots__ = ('utf8',)

    def __init__(self, utf8: memoryview) -> None:
        self.utf8 = utf8

    def __str__(self) -> str:
        return _decode(self.utf8)


def _decode(utf8: bytes | memoryview) -> str:
    return str(utf8, 'utf-8', 'surrogatepass')


class Dtype:
    """Stands in for `numpy.dtype`: plain numbers and strings only."""

    def __init__(self, code: Any = '', *_: Any) -> None:
        code = code if isinstance(code, str) else type(code).__name__
        if not re.fullmatch(r'[|<>=]?[?bBhHiIlLqQefdgFDGSUuc]\d*', code):
            kind = 'Python objects' if 'O' in code else 'no plain numbers'
            remedy = 'convert it to float32 and save it again' if code == 'V2' else TRUST
            raise Refused(f"it holds an array of {kind} ('numpy.dtype' of {code[:20]!r})", remedy)
        self.plain = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if len(state) > 4 and any(part is not None for part in state[2:5]):
            raise Refused("it holds an array of records ('numpy.dtype' with fields)")
        if state[1] in ('<', '>'):
            self.plain = self.plain.newbyteorder(state[1])


class Array:
    """Stands in for `numpy.ndarray`: remembers where the numbers are and takes memory only in `tensor()`."""

    def __init__(self, *_: Any) -> None:
        self._state: tuple | None = None
        self._tensor: Tensor | Opaque | None = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, raw = state[-4:]
        if not isinstance(dtype, Dtype) or not isinstance(raw, bytes | bytearray | str | memoryview | _Text):
            raise Refused("it holds an array of Python objects ('numpy.ndarray')")
        _check_whole(*shape)
        wanted = math.prod(shape) * dtype.plain.itemsize
        given = len(raw.utf8) if isinstance(raw, _Text) else len(raw)
        if given > 2 * wanted or given < wanted or (given != wanted and not isinstance(raw, _Text)):
            raise Damaged(f'an array of shape {shape} needs {wanted} bytes and has {given}')
        self._state = (shape, dtype.plain, fortran, raw)

    def tensor(self) -> Tensor | Opaque:
        """Copy the numbers out of the file, once; text becomes `Opaque`.

        Raises:
            Damaged: if shape, type and bytes do not fit together.
        """
        if self._tensor is None:
            shape, dtype, fortran, raw = self._state or ((0,), np.dtype('b'), False, b'')
            try:
                raw = str(raw).encode('latin1') if isinstance(raw, _Text | str) else raw
                values = np.frombuffer(bytearray(raw), dtype) if dtype.itemsize else np.empty(0, dtype)
                values = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
                self._tensor = torch.from_numpy(native(values))
            except TypeError:
                self._tensor = Opaque()
            except (ValueError, OverflowError) as error:
                raise Damaged(f'an array of shape {shape}: {error}') from error
            self._state = None
        return self._tensor


def native(values: np.ndarray) -> np.ndarray:
    """Put the elements of an array into the order of this machine; one in order stays as it is."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder('=')).reshape(values.shape)  # 0-d stays 0-d


def _check_whole(*numbers: Any) -> None:
    """Check a shape, strides, a count.

    Raises:
        Damaged: unless all are whole numbers from 0.
    """
    for number in numbers:
        if type(number) is not int or not 0 <= number < 2**63 or len(numbers) > 200:
            raise Damaged('an array has an impossible shape')


def _reconstruct(kind: Any, shape: tuple, code: Any) -> Array:
    if kind is not Array or tuple(shape) != (0,):  # numpy asks for an empty array, filled afterwards
        raise _executes('numpy._core.multiarray._reconstruct')
    return Array()


def _frombuffer(raw: Any, dtype: Any, shape: tuple, order: str, *_: Any) -> Array:
    array = Array()
    array.__setstate__((shape, dtype, order == 'F', raw))
    return array


def _scalar(dtype: Any, raw: Any = b'') -> Any:
    raw = raw.encode('latin1') if isinstance(raw, str) else raw
    if not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
        raise _executes('numpy._core.multiarray.scalar')
    if not raw or len(raw) != dtype.plain.itemsize:
        raise Damaged('a number has the wrong size')
    return np.frombuffer(raw, dtype.plain)[0].item()


def _encode(text: Any, encoding: Any) -> Any:
    """Stand in for `_codecs.encode`, by which protocol 2 writes bytes."""
    if not isinstance(text, str | _Text) or encoding not in ('latin1', 'latin-1'):
        raise _executes('_codecs.encode')
    return text.encode('latin1') if isinstance(text, str) else text


def _bytes(*given: Any) -> Any:
    """Stand in for `bytes` and `bytearray`, which also take a size."""
    if given and not isinstance(given[0], str | bytes | bytearray | memoryview | _Text):
        raise _executes('builtins.bytearray')
    return given[0] if given else b''


class Unknown:
    """A name that is not on the list, and all that would be made of it: the file will be refused."""

    __slots__ = ('name',)

    def __init__(self, name: str) -> None:
        self.name = name


def _set(*given: Any) -> set:
    return {_key(key) for key in (given[0] if given else ())}


_SIMPLE = str | int | float | bytes | None | Opaque | Unknown


def _key(key: Any) -> Any:
    """Let simple keys pass: the hash of tuples nested by reference takes forever."""
    if type(key) is str or isinstance(key, _SIMPLE | type):
        return key
    if not isinstance(key, tuple) or not all(isinstance(part, _SIMPLE) for part in key):
        raise Refused(f'it uses a {type(key).__name__.strip("_").lower()} as a key')
    return key


def _history_method(owner: Any, name: str) -> None:
    """Stand in for `getattr`, which MMEngine's logs use to name the statistics of a buffer."""
    if owner is not Opaque or name not in ('min', 'max', 'mean', 'current'):
        raise _executes('builtins.getattr')


# What published files carry besides weights. Nothing of it is needed, so none of it is ever imported.
_OPAQUE = (
    'argparse.Namespace',  # args of official ConvNeXt, DINO, MAE, BEiT, DeiT and timm training files
    'types.SimpleNamespace',
    'mmengine.logging.history_buffer.HistoryBuffer',  # message_hub of every file saved by MMEngine
    'torch.torch_version.TorchVersion',  # torch.__version__ in the meta data of a run
    *(f'datetime.{name}' for name in ('datetime', 'date', 'time', 'timedelta', 'timezone')),
    *(f'{module}.{name}' for module in ('pathlib', 'pathlib._local')  # the latter is how Python 3.13 writes it
      for name in ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')),
    # Hydra configurations of fairseq (data2vec) and Lightning
    'omegaconf.dictconfig.DictConfig', 'omegaconf.listconfig.ListConfig',
    'omegaconf.base.ContainerMetadata', 'omegaconf.base.Metadata', 'typing.Any',
    *(f'omegaconf.nodes.{name}Node' for name in ('Any', 'String', 'Integer', 'Float', 'Boolean')),
    *(f'builtins.{name}' for name in ('dict', 'list', 'tuple', 'int', 'float', 'str', 'bool')),  # type=..., default
    *(f'numpy.{name}' for name in ('float16', 'float32', 'float64', 'int32', 'int64', 'uint8', 'bool_')),
)
_MAPPINGS = (
    'collections.defaultdict',  # optimiser states saved as they are
    'yacs.config.CfgNode', 'fvcore.common.config.CfgNode', 'detectron2.config.config.CfgNode',  # Swin, SimMIM: config
    'mmengine.config.config.ConfigDict', 'mmcv.utils.config.ConfigDict', 'addict.addict.Dict', 'easydict.EasyDict',
    'pytorch_lightning.utilities.parsing.AttributeDict', 'lightning_fabric.utilities.data.AttributeDict',
    'lightning.fabric.utilities.data.AttributeDict',
)
_NUMPY: dict[str, Any] = {'numpy.ndarray': Array, 'numpy.dtype': Dtype, 'builtins.bytes': _bytes}
for _package in ('numpy._core', 'numpy.core'):
    _NUMPY[f'{_package}.multiarray._reconstruct'] = _reconstruct
    _NUMPY[f'{_package}.multiarray.scalar'] = _scalar
    _NUMPY[f'{_package}.numeric._frombuffer'] = _frombuffer

# What `torch.load` is told to allow besides its own list.
INERT: dict[str, Any] = {
    **_NUMPY,
    **dict.fromkeys(_OPAQUE, Opaque),
    **dict.fromkeys(_MAPPINGS, _Mapping),
    'collections.deque': _List,  # running averages
    'builtins.getattr': _history_method,
    'builtins.frozenset': _set,
}


# --- stand-ins for what torch allows by itself ----------------------------------------------------------------


def _ordered(*given: Any) -> OrderedDict:
    return OrderedDict((_key(key), value) for key, value in (dict(given[0]).items() if given else ()))


class _Type:
    """A torch type that a file may name but not call."""

    __slots__ = ('itemsize', 'name')

    def __init__(self, name: str, itemsize: int = 0) -> None:
        self.name, self.itemsize = name, itemsize


class _Storage:
    """A run of numbers of the file."""

    __slots__ = ('count', 'itemsize')

    def __init__(self, count: int, itemsize: int) -> None:
        self.count, self.itemsize = count, itemsize


class _View:
    """A tensor of the file."""


def _rebuild(storage: Any, offset: int, size: tuple, stride: tuple, *rest: Any) -> _View:
    """Stand in for torch's `_rebuild_tensor` and `_v2`: compare what is claimed with what is stored."""
    _check_whole(offset, *size, *stride)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    count = math.prod(size)
    if count and max(end, count) > storage.count:
        raise Refused(
            f'it claims a tensor of shape {tuple(size)} where {storage.count} numbers are stored',
            'save its tensors in full: torch.save({name: tensor.clone() ...}, new_file)',
        )
    if any(isinstance(part, Mapping) and part for part in rest[1:2]):
        raise _executes('torch.Tensor._backward_hooks')
    return _View()


def _rebuild_v3(storage: Any, offset: int, size: tuple, stride: tuple, grad: Any, hooks: Any, *rest: Any) -> _View:
    """Stand in for `_rebuild_tensor_v3`: numbers of a type that has no storage of its own, in bytes."""
    itemsize = rest[0].itemsize
    return _rebuild(_Storage(storage.count * storage.itemsize // itemsize, itemsize), offset, size, stride, grad, hooks)


def _first(data: Any, *rest: Any) -> _View:
    """Stand in for `_rebuild_parameter`."""
    if not isinstance(data, _View) or any(isinstance(part, Mapping) and part for part in rest[1:]):
        raise _executes('torch._utils._rebuild_parameter')
    return data


def _typed(function: Any, kind: Any, args: tuple, state: Any) -> _View:
    """Stand in for `_rebuild_from_type_v2`: a tensor with attributes of its own."""
    names = [name for part in (state if isinstance(state, tuple) else (state,)) for name in part or ()]
    if function not in (_rebuild, _rebuild_v3, _first) or any(hasattr(Tensor, str(name)) for name in names):
        raise _executes('torch._tensor._rebuild_from_type_v2')
    return function(*args)


_ITEMSIZES = dict(
    Double=8, Float=4, Half=2, BFloat16=2, Long=8, Int=4, Short=2, Char=1, Byte=1, Bool=1, ComplexFloat=8,
    ComplexDouble=16, Untyped=1,
)  # fmt: skip
PLAIN: dict[str, Any] = {  # what is allowed in a `.pkl`
    **_NUMPY,
    'collections.OrderedDict': _ordered,
    'collections.defaultdict': _Mapping,
    '_codecs.encode': _encode,
    'builtins.bytearray': _bytes,
    'builtins.set': _set,
    'builtins.frozenset': _set,
    'builtins.complex': complex,
    **dict.fromkeys(('builtins.dict', 'builtins.list', 'builtins.int', 'builtins.float'), Opaque),
}
TORCH: dict[str, Any] = {  # what is allowed in a torch file
    **PLAIN,
    **INERT,
    'collections.Counter': _ordered,
    'torch.Size': tuple,
    'torch.device': Opaque,
    'torch.serialization._get_layout': Opaque,
    **{f'torch.{name}': value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{f'torch.{name}Storage': _Type(f'torch.{name}Storage', size) for name, size in _ITEMSIZES.items()},
    'torch.storage.UntypedStorage': _Type('torch.storage.UntypedStorage', 1),
    'torch.Tensor': _Type('torch.Tensor'),
    'torch.nn.parameter.Parameter': _Type('torch.nn.parameter.Parameter'),
    **{f'torch._utils._rebuild_tensor{version}': _rebuild for version in ('', '_v2')},
    'torch._utils._rebuild_tensor_v3': _rebuild_v3,
    **{f'torch._utils._rebuild_parameter{ending}': _first for ending in ('', '_with_state')},
    'torch._tensor._rebuild_from_type_v2': _typed,
}


# --- the unpickler --------------------------------------------------------------------------------------------


class _Reader:
    """A mapped file. It gives at most what is there, so that no memory is taken for what a pickle only announces."""

    def __init__(self, path: Path, start: int = 0) -> None:
        with path.open('rb') as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._map)
        self._map.seek(start)
        self.read, self.readline = self._map.read, self._map.readline

    @property
    def left(self) -> int:
        return self.size - self._map.tell()

    def view(self, size: int) -> memoryview:
        if size > self.left:
            raise Damaged('it ends too early')
        start = self._map.tell()
        self._map.seek(size, 1)
        return memoryview(self._map)[start : start + size]


# The unpickler written in Python: that in C takes memory for announced sizes and memo indices unseen, and its
# single steps cannot be replaced.
class Unpickler(pickle._Unpickler):
    """Runs a pickle with stand-ins only.

    Args:
        reader: where the pickle is.
        table: what it may name.
        storage_bytes: for a torch file, how many bytes are stored under a key; None if there is no such storage.
    """

    def __init__(
        self,
        reader: _Reader,
        table: Mapping[str, Any] = PLAIN,
        storage_bytes: Callable[[str], int | None] | None = None,
    ) -> None:
        super().__init__(reader, encoding='latin1')
        self.read, self.readline = reader.read, reader.readline
        self._reader, self._table, self._storage_bytes = reader, table, storage_bytes
        self.storages: dict[str, int] = {}  # bytes by key
        self._unknown: dict[str, None] = {}
        self._whole_model: str | None = None
        self._copied = 0

    def run(self) -> Any:
        """Read to the end of the pickle.

        Raises:
            Refused: for a name that is not on the list.
            Damaged: if it is no complete pickle.
        """
        try:
            content = self._steps()
        except (Refused, Damaged):
            if not self._unknown:
                raise
        except Exception as error:  # a damaged pickle can fail in any way
            if not self._unknown:
                raise Damaged(f'{type(error).__name__}: {first_line(error)}') from error
        if self._whole_model is not None:
            raise Refused(
                f'it holds a whole model, and to read it, its class {self._whole_model!r} would have to be executed',
                'where you trust the file, keep its weights only: torch.save(model.state_dict(), new_file)',
            )
        if self._unknown:
            raise _executes(*self._unknown)
        return content

    def _steps(self) -> Any:
        self.metastack, self.stack = [], []
        self.append = self.stack.append
        read, dispatch = self.read, self.dispatch
        for _ in range(MAX_STEPS):
            code = read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            if not code:
                raise Damaged('it ends too early')
            dispatch[code[0]](self)
        raise Refused(f'it has more than {MAX_STEPS:,} entries, which no set of weights has')

    def find_class(self, module: str, name: str) -> Any:
        full_name = f'{RENAMED.get(module, module)}.{name}'
        if full_name in self._table:
            return self._table[full_name]
        self._unknown[full_name[:100]] = None
        return Unknown(full_name[:100])

    def persistent_load(self, pid: Any) -> Any:
        if self._storage_bytes is not None and isinstance(pid, tuple) and len(pid) == 4 and pid[0] == 'module':
            return pid[1]  # a class of the old format with its source text: an unknown one
        if self._storage_bytes is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
            raise Refused('it refers to data outside of it (a persistent id)')
        kind, key, _, count = pid[1:5]
        if not isinstance(kind, _Type) or not kind.itemsize:
            raise _executes(kind.name if isinstance(kind, _Type | Unknown) else 'a storage of no known type')
        _check_whole(count)
        claimed, stored = count * kind.itemsize, self._storage_bytes(_key(key))
        if stored is None or claimed > stored:
            raise Damaged(f'tensor data {str(key)[:20]!r} should have {claimed} bytes and has {stored or 0}')
        self.storages[key] = max(claimed, self.storages.get(key, 0))
        view = pid[5][1:3] if len(pid) > 5 and pid[5] else (0, count)
        _check_whole(*view)
        if sum(view) > count:
            raise Damaged(f'a view of tensor data {str(key)[:20]!r} is longer than the data')
        return _Storage(view[1], kind.itemsize)

    def _make(self, function: Any, args: Any) -> Any:
        """Call a stand-in; nothing else can be called."""
        if isinstance(function, Unknown):
            return function
        if not callable(function) or not isinstance(args, tuple):
            raise _executes(function.name) if isinstance(function, _Type) else Damaged('it calls what is no function')
        for arg in args:
            self._count_copy(arg)
        return function(*args)

    def _count_copy(self, content: Any) -> None:
        """Refuse to copy one thing again and again; an honest file has each array decoded and taken over once."""
        content = content.utf8 if isinstance(content, _Text) else content
        self._copied += len(content) if isinstance(content, Sized) else 0
        if self._copied > 2 * self._reader.size + MAX_STEPS:
            raise Refused('it unpacks to more than its size')

    def _fill(self, target: Any, items: list) -> None:
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif not isinstance(target, Unknown):
            raise Damaged('it puts items into what is no mapping')

    def _extend(self, target: Any, items: list) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(_key, items))
        elif not isinstance(target, Unknown):
            raise Damaged('it puts items into what is no list')

    # The steps of a pickle, by the names they have in the standard library.

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], args)

    load_newobj = load_reduce

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # named arguments, which no stand-in wants
        self.load_reduce()

    def load_obj(self) -> None:
        function, *args = self.pop_mark()
        self.append(self._make(function, tuple(args)))

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode('ascii') for _ in range(2))
        self.append(self._make(self.find_class(module, name), tuple(self.pop_mark())))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unknown):
            if isinstance(state, Mapping) and '_modules' in state:
                self._whole_model = target.name  # the outermost module is filled last
        elif isinstance(target, OrderedDict):  # torch keeps `_metadata` there; an attribute could hide a method
            if not isinstance(state, Mapping) or any(hasattr(OrderedDict, str(name)) for name in state):
                raise _executes('collections.OrderedDict.__setstate__')
        elif isinstance(target, Opaque | Dtype | Array):
            if isinstance(target, Array):
                self._count_copy(state[-1])
            target.__setstate__(state)
        else:
            named = next((name for name, entry in self._table.items() if entry is target), type(target).__name__)
            raise _executes(f'{named}.__setstate__')

    def load_setitem(self) -> None:
        items = [self.stack.pop(), self.stack.pop()]
        self._fill(self.stack[-1], items[::-1])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(self.stack[-1], items)

    def load_append(self) -> None:
        item = self.stack.pop()
        self._extend(self.stack[-1], [item])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    load_additems = load_appends

    def load_frozenset(self) -> None:
        self.append(_set(self.pop_mark()))

    def load_frame(self) -> None:
        self.read(8)  # a frame only groups the steps

    def get_extension(self, code: int) -> None:
        raise _executes(f'copyreg extension {code}')

    def _push(self, length: str, decode: Callable[[bytes], Any], late: Callable[[memoryview], Any]) -> None:
        """Read a length and as many bytes; what is long stays in the file."""
        size = unpack(length, self.read(struct.calcsize(length)))[0]
        if size < 0:
            raise Damaged('a length is negative')
        self.append(decode(self._reader.read(size)) if size <= LONG else late(self._reader.view(size)))

    def load_binunicode(self) -> None:
        self._push('<I', _decode, _Text)

    def load_binunicode8(self) -> None:
        self._push('<Q', _decode, _Text)

    def load_binstring(self) -> None:
        self._push('<i', lambda raw: raw.decode('latin1'), memoryview)

    def load_binbytes(self) -> None:
        self._push('<I', bytes, memoryview)

    def load_binbytes8(self) -> None:
        self._push('<Q', bytes, memoryview)

    load_bytearray8 = load_binbytes8


# The standard library finds a step by its code: the same steps, with those above in place.
Unpickler.dispatch = {code: getattr(Unpickler, step.__name__) for code, step in pickle._Unpickler.dispatch.items()}


# --- files ----------------------------------------------------------------------------------------------------


def check_archive(path: Path, members: Sequence[ZipInfo]) -> None:
    """Go through the pickle of a torch archive, whose zip directory is `members`; makes no tensor.

    Raises:
        Refused: if it names or claims what it must not.
        Damaged: if it is incomplete.
    """
    index = next(member for member in members if member.filename.endswith('/data.pkl'))
    folder = f'{index.filename.removesuffix("data.pkl")}data/'
    stored = {member.filename.removeprefix(folder): member.file_size for member in members}
    reader = _Reader(path, index.header_offset)
    header = reader.read(30)  # of the zip format; the lengths of name and extra field end it
    if len(header) < 30:
        raise Damaged('it ends too early')
    reader.view(sum(unpack('<HH', header[26:])))
    Unpickler(reader, TORCH, stored.get).run()


def check_legacy(path: Path) -> None:
    """Go through the pickles of a file of torch before 1.6, and add up the tensor data behind them.

    Raises:
        Refused: if it names or claims what it must not.
        Damaged: if it is incomplete.
    """
    reader = _Reader(path)
    for _ in range(3):  # magic number, protocol, system
        Unpickler(reader).run()
    content = Unpickler(reader, TORCH, lambda _: reader.left)
    content.run()
    keys = Unpickler(reader).run()
    if not isinstance(keys, list) or set(map(_key, keys)) != set(content.storages) or len(keys) != len(set(keys)):
        raise Damaged('its list of tensor data is not that of its tensors')
    if sum(8 + content.storages[key] for key in keys) > reader.left:  # each after its length
        raise Damaged('it ends too early')


@contextlib.contextmanager
def _only_inert_globals() -> Iterator[None]:
    """Let `torch.load` know our list and nothing that other code may have allowed in this process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in INERT.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_torch(path: Path, members: Sequence[ZipInfo]) -> Any:
    """Read a torch file, memory-mapped unless it is of the format before 1.6, which has no map of its tensors.

    Args:
        path: the file.
        members: its zip directory; empty for the format before 1.6.

    Raises:
        Refused: if it names or claims what it must not.
        Damaged: if it is incomplete.
    """
    if members:
        check_archive(path, members)
    else:
        check_legacy(path)
    try:
        with _only_inert_globals():
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=bool(members))
    except pickle.UnpicklingError as error:
        named = re.search(r'GLOBAL `?([\w.]+)`?', str(error))
        if named:
            raise _executes(named[1]) from error
        reason = str(error).split('WeightsUnpickler error:')[-1].strip().splitlines()[0][:100]
        raise Refused(
            f'torch.load(weights_only=True) does not read it ({reason})',
            'save it again with torch.save and its default pickle protocol',
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        raise Damaged(first_line(error)) from error
    return as_tensors(content)


def read_pickle(path: Path) -> Any:
    """Read a plain pickle of numpy arrays in plain containers, as detectron2 publishes; arrays become tensors.

    Raises:
        Refused: if it names anything else.
        Damaged: if it is incomplete.
    """
    return as_tensors(Unpickler(_Reader(path)).run())


def as_tensors(content: Any) -> Any:
    """Put tensors in place of the arrays in all mappings, nested or not."""
    waiting, seen = [content], set()
    while waiting:
        mapping = waiting.pop()
        if isinstance(mapping, dict) and id(mapping) not in seen:
            seen.add(id(mapping))
            for key, value in mapping.items():
                if isinstance(value, Array):
                    mapping[key] = value.tensor()
                elif isinstance(value, _Text | memoryview):
                    mapping[key] = str(value) if isinstance(value, _Text) else bytes(value)
            waiting += mapping.values()
    return content
