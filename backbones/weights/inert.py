"""Stand-ins for all that a checkpoint file may name, and the tables of what that is.

A pickle names functions and classes and calls them. Here are those it gets instead: they look at what they are given,
keep numbers and plain containers, refuse the rest, and can do nothing else.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from operator import mul
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRUST = "where you trust the file, keep its weights only: torch.save({'state_dict': state_dict}, new_file)"


class Refused(Exception):
    """A file holds what is not read: (finding, remedy), each a part of a sentence about the file."""

    def __init__(self, finding: str, remedy: str = TRUST) -> None:
        super().__init__(finding, remedy)
        self.finding, self.remedy = finding, remedy


class Damaged(Exception):
    """A file is no complete pickle."""


def executes(*names: str) -> Refused:
    """Make the error for a file that needs these names."""
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return Refused(f'to read it, {", ".join(map(repr, names[:3]))}{more} would have to be executed')


def first_line(error: Exception) -> str:
    """Shorten an error of another library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- for all that a file may name besides torch's own -----------------------------------------------------------


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


class Text:
    """A long string, still in the file."""

    __slots__ = ('utf8',)

    def __init__(self, utf8: memoryview) -> None:
        self.utf8 = utf8

    def __str__(self) -> str:
        return str(self.utf8, 'utf-8', 'surrogatepass')


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
        if not isinstance(dtype, Dtype) or not isinstance(raw, bytes | bytearray | str | memoryview | Text):
            raise Refused("it holds an array of Python objects ('numpy.ndarray')")
        check_whole(*shape)
        wanted = math.prod(shape) * dtype.plain.itemsize
        given = len(raw.utf8) if isinstance(raw, Text) else len(raw)
        if given > 2 * wanted or given < wanted or (given != wanted and not isinstance(raw, Text)):
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
                raw = str(raw).encode('latin1') if isinstance(raw, Text | str) else raw
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


def check_whole(*numbers: Any) -> None:
    """Check a shape, strides, a count.

    Raises:
        Damaged: unless all are whole numbers from 0.
    """
    possible = len(numbers) < 200  # which no shape has, and whose product would take long
    for number in numbers:
        if not possible or type(number) is not int or not 0 <= number < 2**63:
            raise Damaged('an array has an impossible shape')


def _reconstruct(kind: Any, shape: tuple, code: Any) -> Array:
    if kind is not Array or tuple(shape) != (0,):  # numpy asks for an empty array, filled afterwards
        raise executes('numpy._core.multiarray._reconstruct')
    return Array()


def _frombuffer(raw: Any, dtype: Any, shape: tuple, order: str, *_: Any) -> Array:
    array = Array()
    array.__setstate__((shape, dtype, order == 'F', raw))
    return array


def _scalar(dtype: Any, raw: Any = b'') -> Any:
    raw = raw.encode('latin1') if isinstance(raw, str) else raw
    if not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
        raise executes('numpy._core.multiarray.scalar')
    if not raw or len(raw) != dtype.plain.itemsize:
        raise Damaged('a number has the wrong size')
    return np.frombuffer(raw, dtype.plain)[0].item()


def _encode(text: Any, encoding: Any) -> Any:
    """Stand in for `_codecs.encode`, by which protocol 2 writes bytes."""
    if not isinstance(text, str | Text) or encoding not in ('latin1', 'latin-1'):
        raise executes('_codecs.encode')
    return text.encode('latin1') if isinstance(text, str) else text


def _bytes(*given: Any) -> Any:
    """Stand in for `bytes` and `bytearray`, which also take a size."""
    if given and not isinstance(given[0], str | bytes | bytearray | memoryview | Text):
        raise executes('builtins.bytearray')
    return given[0] if given else b''


class Unknown:
    """A name that is not on the list, and all that would be made of it: the file will be refused."""

    __slots__ = ('name',)

    def __init__(self, name: str) -> None:
        self.name = name


def make_set(*given: Any) -> set:
    """Stand in for `set` and `frozenset`."""
    return {simple_key(key) for key in (given[0] if given else ())}


_SIMPLE = str | int | float | bytes | None | Opaque | Unknown


def simple_key(key: Any) -> Any:
    """Let simple keys pass: the hash of tuples nested by reference takes forever.

    Raises:
        Refused: for any other key.
    """
    if type(key) is str or isinstance(key, _SIMPLE | type):
        return key
    if not isinstance(key, tuple) or not all(isinstance(part, _SIMPLE) for part in key):
        raise Refused(f'it uses a {type(key).__name__.strip("_").lower()} as a key')
    return key


def _history_method(owner: Any, name: str) -> None:
    """Stand in for `getattr`, which MMEngine's logs use to name the statistics of a buffer."""
    if owner is not Opaque or name not in ('min', 'max', 'mean', 'current'):
        raise executes('builtins.getattr')


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
    'builtins.frozenset': make_set,
}


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
                elif isinstance(value, Text | memoryview):
                    mapping[key] = str(value) if isinstance(value, Text) else bytes(value)
            waiting += mapping.values()
    return content


# --- for what torch allows by itself ----------------------------------------------------------------------------


def _ordered(*given: Any) -> OrderedDict:
    """Stand in for `OrderedDict` and `Counter`, made of a mapping or of pairs."""
    made = OrderedDict()
    if given:
        for key, value in given[0].items() if isinstance(given[0], dict) else given[0]:
            made[simple_key(key)] = value
    return made


class TorchType:
    """A torch type that a file may name but not call."""

    __slots__ = ('itemsize', 'name')

    def __init__(self, name: str, itemsize: int = 0) -> None:
        self.name, self.itemsize = name, itemsize


class Storage:
    """A run of numbers of the file."""

    __slots__ = ('count', 'itemsize')

    def __init__(self, count: int, itemsize: int) -> None:
        self.count, self.itemsize = count, itemsize


class _View:
    """A tensor of the file, of which nothing more is asked: all are one."""


_VIEW = _View()


def rebuild_tensor(storage: Any, offset: int, size: tuple, stride: tuple, *rest: Any) -> _View:
    """Stand in for torch's `_rebuild_tensor` and `_v2`: compare what is claimed with what is stored.

    Raises:
        Refused: if more is claimed, or a hook would be called.
        Damaged: if there is no such tensor.
    """
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
        raise Damaged('a tensor has an impossible shape')
    check_whole(offset, *size, *stride)
    end = offset + sum(map(mul, size, stride)) - sum(stride) + 1  # of the last number
    count = math.prod(size)
    if count and max(end, count) > storage.count:
        raise Refused(
            f'it claims a tensor of shape {size} where {storage.count} numbers are stored',
            'save its tensors in full: torch.save({name: tensor.clone() ...}, new_file)',
        )
    if len(rest) > 1 and rest[1]:
        raise executes('torch.Tensor._backward_hooks')
    return _VIEW


def _rebuild_v3(storage: Any, offset: int, size: tuple, stride: tuple, grad: Any, hooks: Any, *rest: Any) -> _View:
    """Stand in for `_rebuild_tensor_v3`: numbers of a type that has no storage of its own, in bytes."""
    numbers = Storage(storage.count * storage.itemsize // rest[0].itemsize, rest[0].itemsize)
    return rebuild_tensor(numbers, offset, size, stride, grad, hooks)


def _first(data: Any, *rest: Any) -> _View:
    """Stand in for `_rebuild_parameter`."""
    if data is not _VIEW or any(rest[1:]):  # hooks, attributes
        raise executes('torch._utils._rebuild_parameter')
    return data


def _typed(function: Any, kind: Any, args: tuple, state: Any) -> _View:
    """Stand in for `_rebuild_from_type_v2`: a tensor with attributes of its own."""
    names = [name for part in (state if isinstance(state, tuple) else (state,)) for name in part or ()]
    if function not in (rebuild_tensor, _rebuild_v3, _first) or any(hasattr(Tensor, str(name)) for name in names):
        raise executes('torch._tensor._rebuild_from_type_v2')
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
    'builtins.set': make_set,
    'builtins.frozenset': make_set,
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
    **{f'torch.{name}Storage': TorchType(f'torch.{name}Storage', size) for name, size in _ITEMSIZES.items()},
    'torch.storage.UntypedStorage': TorchType('torch.storage.UntypedStorage', 1),
    'torch.Tensor': TorchType('torch.Tensor'),
    'torch.nn.parameter.Parameter': TorchType('torch.nn.parameter.Parameter'),
    **{f'torch._utils._rebuild_tensor{version}': rebuild_tensor for version in ('', '_v2')},
    'torch._utils._rebuild_tensor_v3': _rebuild_v3,
    **{f'torch._utils._rebuild_parameter{ending}': _first for ending in ('', '_with_state')},
    'torch._tensor._rebuild_from_type_v2': _typed,
}
