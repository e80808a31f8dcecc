"""Read pickles without importing, calling or building anything they name.

A pickle is a program. This unpickler runs it with stand-ins: what a name of the allow-list stands for is one of the
functions and classes of `inert.py`, any other name stops the reading. Torch files are gone through here first (what
they name, how much they claim to store) and only then given to `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import contextlib
import mmap
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from struct import Struct, unpack
from typing import Any
from zipfile import ZipInfo

import torch

from backbones.weights import inert
from backbones.weights.inert import Array, Damaged, Refused, Text, TorchType, Unknown, executes, first_line, simple_key

# Steps of a pickle; a training file with 1000 tensors and the optimiser needs about 100,000. A step of one byte can
# take 75 bytes of memory, hence the lower limit for small files, which keeps that below 32 MB and twice the file.
MAX_STEPS = 1_000_000
FREE_STEPS = 300_000
BYTES_PER_STEP = 50  # of the file, beyond those
MAX_COPIES = 1_000_000  # bytes, beyond twice the file
EMPTY_SET = 232  # bytes of memory: more than of any other empty container
LONG = 4096  # bytes; longer strings stay in the file until they are wanted
RENAMED = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}  # names of Python 2, which protocol 2 keeps


_UINT32, _UINT64 = Struct('<I'), Struct('<Q')
_COPIED = (str, bytes, bytearray, memoryview, tuple, list, dict, set)


class Reader:
    """A mapped file. It gives at most what is there, so that no memory is taken for what a pickle only announces."""

    def __init__(self, path: Path, start: int = 0) -> None:
        with path.open('rb') as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._map)
        self._map.seek(start)
        self.read, self.read_byte, self.readline = self._map.read, self._map.read_byte, self._map.readline

    @property
    def left(self) -> int:
        """Bytes to the end of the file."""
        return self.size - self._map.tell()

    def view(self, size: int) -> memoryview:
        """Give the next bytes without reading them."""
        if size > self.left:
            raise Damaged('it ends too early')
        start = self._map.tell()
        self._map.seek(size, 1)
        return memoryview(self._map)[start : start + size]


# Written in Python: the unpickler in C takes memory for announced sizes and memo indices unseen, and its single steps
# cannot be replaced. It runs before torch's own, which asks for names alone, on a longer list: what is claimed, keys
# that take forever and the number of steps are only compared here. Looking for names alone would lose these guards.
class Unpickler(pickle._Unpickler):
    """Runs a pickle with stand-ins only.

    Args:
        reader: where the pickle is.
        table: what it may name.
        storage_bytes: for a torch file, how many bytes are stored under a key; None if there is no such storage.
    """

    def __init__(
        self,
        reader: Reader,
        table: Mapping[str, Any] = inert.PLAIN,
        storage_bytes: Callable[[str], int | None] | None = None,
    ) -> None:
        super().__init__(reader, encoding='latin1')
        self.read, self.read_byte, self.readline = reader.read, reader.read_byte, reader.readline
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
                what = f'{type(error).__name__}: {first_line(error)}' if self._reader.left else 'it ends too early'
                raise Damaged(what) from error
        if self._whole_model is not None:
            raise Refused(
                f'it holds a whole model, and to read it, its class {self._whole_model!r} would have to be executed',
                'where you trust the file, keep its weights only: torch.save(model.state_dict(), new_file)',
            )
        if self._unknown:
            raise executes(*self._unknown)
        return content

    def _steps(self) -> Any:
        self.metastack, self.stack = [], []
        self.append = self.stack.append
        steps, next_code = self.dispatch, self.read_byte
        limit = min(MAX_STEPS, FREE_STEPS + self._reader.size // BYTES_PER_STEP)
        try:
            for _ in range(limit):
                steps[next_code()](self)
        except pickle._Stop as stop:  # the last step
            return stop.value
        raise Refused(f'it has more than {limit:,} entries, which no set of weights has')

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
        if type(kind) is not TorchType or not kind.itemsize:
            raise executes(kind.name if isinstance(kind, TorchType | Unknown) else 'a storage of no known type')
        start, length = pid[5][1:3] if len(pid) > 5 and pid[5] else (0, count)
        inert.check_whole(count, start, length)
        claimed, stored = count * kind.itemsize, self._storage_bytes(simple_key(key))
        if stored is None or claimed > stored:
            raise Damaged(f'tensor data {str(key)[:20]!r} should have {claimed} bytes and has {stored or 0}')
        if start + length > count:
            raise Damaged(f'a view of tensor data {str(key)[:20]!r} is longer than the data')
        self.storages[key] = max(claimed, self.storages.get(key, 0))
        return inert.Storage(length, kind.itemsize)

    def _make(self, function: Any, args: Any) -> Any:
        """Call a stand-in; nothing else can be called."""
        if isinstance(function, Unknown):
            return function
        if isinstance(function, TorchType):
            raise executes(function.name)
        if not callable(function) or not isinstance(args, tuple):
            raise Damaged('it calls what is no function')
        if function is not inert.rebuild_tensor:  # which copies nothing, and is what is called most
            self._count_copies(*args)
        return function(*args)

    def _count_copies(self, *contents: Any) -> None:
        """Refuse to copy one thing again and again; an honest file has each array decoded and taken over once."""
        for content in contents:
            content = content.utf8 if isinstance(content, Text) else content
            self._copied += len(content) if isinstance(content, _COPIED) else 0
        if self._copied > 2 * self._reader.size + MAX_COPIES:
            raise Refused('it unpacks to more than its size')

    def _new_set(self, items: Sequence = ()) -> None:
        self._copied += EMPTY_SET
        self._count_copies()
        self.append(inert.make_set(items))

    def _fill(self, target: Any, items: list) -> None:
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[simple_key(key)] = value
        elif not isinstance(target, Unknown):
            raise Damaged('it puts items into what is no mapping')

    def _extend(self, target: Any, items: list) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(simple_key, items))
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
            if isinstance(state, dict) and '_modules' in state:
                self._whole_model = target.name  # the outermost module is filled last
        elif isinstance(target, OrderedDict):  # torch keeps `_metadata` there; an attribute could hide a method
            if not isinstance(state, dict) or any(hasattr(OrderedDict, str(name)) for name in state):
                raise executes('collections.OrderedDict.__setstate__')
        elif isinstance(target, inert.Opaque | inert.Dtype | Array):
            if isinstance(target, Array):
                self._count_copies(*state[-4:])
            target.__setstate__(state)
        else:
            named = next((name for name, entry in self._table.items() if entry is target), type(target).__name__)
            raise executes(f'{named}.__setstate__')

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

    def load_empty_set(self) -> None:
        self._new_set()

    def load_frozenset(self) -> None:
        self._new_set(self.pop_mark())

    def load_frame(self) -> None:
        self.read(8)  # a frame only groups the steps

    def get_extension(self, code: int) -> None:
        raise executes(f'copyreg extension {code}')

    # Of each tensor there are many of these, so they are shorter than in the standard library.

    def load_binint1(self) -> None:
        self.append(self.read_byte())

    def load_binget(self) -> None:
        self.append(self.memo[self.read_byte()])

    def load_long_binput(self) -> None:
        self.memo[_UINT32.unpack(self.read(4))[0]] = self.stack[-1]

    # What is long stays in the file.

    def load_binunicode(self, length: Struct = _UINT32) -> None:
        size = length.unpack(self.read(length.size))[0]
        if size > LONG:
            self.append(Text(self._reader.view(size)))
        else:
            self.append(str(self.read(size), 'utf-8', 'surrogatepass'))

    def load_binunicode8(self) -> None:
        self.load_binunicode(_UINT64)

    def load_binbytes(self, length: Struct = _UINT32) -> None:
        size = length.unpack(self.read(length.size))[0]
        self.append(self._reader.view(size) if size > LONG else self.read(size))

    def load_binbytes8(self) -> None:
        self.load_binbytes(_UINT64)

    load_bytearray8 = load_binbytes8

    def load_binstring(self) -> None:  # of Python 2
        self.load_binbytes()
        if isinstance(self.stack[-1], bytes):
            self.stack[-1] = self.stack[-1].decode('latin1')


# The standard library finds a step by its code: the same steps, with those above in place.
Unpickler.dispatch = {code: getattr(Unpickler, step.__name__) for code, step in pickle._Unpickler.dispatch.items()}


# --- files ----------------------------------------------------------------------------------------------------


def check_archive(path: Path, members: Sequence[ZipInfo]) -> None:
    """Go through the pickle of a torch archive, whose zip directory is `members`; makes no tensor.

    Raises:
        Refused: if it names or claims what it must not.
        Damaged: if it is incomplete.
    """
    index = next(part for part in members if part.filename.endswith('/data.pkl'))
    folder = f'{index.filename.removesuffix("data.pkl")}data/'
    stored = {part.filename[len(folder) :]: part.file_size for part in members if part.filename.startswith(folder)}
    reader = Reader(path, index.header_offset)
    header = reader.read(30)  # of the zip format; the lengths of name and extra field end it
    if len(header) < 30:
        raise Damaged('it ends too early')
    reader.view(sum(unpack('<HH', header[26:])))
    Unpickler(reader, inert.TORCH, stored.get).run()


def check_legacy(path: Path) -> None:
    """Go through the pickles of a file of torch before 1.6, and add up the tensor data behind them.

    Raises:
        Refused: if it names or claims what it must not.
        Damaged: if it is incomplete.
    """
    reader = Reader(path)
    for _ in range(3):  # magic number, protocol, system
        Unpickler(reader).run()
    content = Unpickler(reader, inert.TORCH, lambda _: reader.left)
    content.run()
    keys = Unpickler(reader).run()
    if not isinstance(keys, list) or set(map(simple_key, keys)) != set(content.storages) or len(keys) != len(set(keys)):
        raise Damaged('its list of tensor data is not that of its tensors')
    if sum(8 + content.storages[key] for key in keys) > reader.left:  # each after its length
        raise Damaged('it ends too early')


@contextlib.contextmanager
def _only_inert_globals() -> Iterator[None]:
    """Let `torch.load` know our list and nothing that other code may have allowed in this process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in inert.INERT.items()])
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
        wrong = path.suffix == '.safetensors'  # torch goes by this name, not by what is in the file
        with _only_inert_globals(), path.open('rb') if wrong else contextlib.nullcontext(path) as file:
            content = torch.load(file, map_location='cpu', weights_only=True, mmap=bool(members) and not wrong)
    except pickle.UnpicklingError as error:
        named = re.search(r'GLOBAL `?([\w.]+)`?', str(error))
        if named:
            raise executes(named[1]) from error
        reason = str(error).split('WeightsUnpickler error:')[-1].strip().splitlines()[0][:100]
        raise Refused(
            f'torch.load(weights_only=True) does not read it ({reason})',
            'save it again with torch.save and its default pickle protocol',
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        raise Damaged(first_line(error)) from error
    return inert.as_tensors(content)


def read_pickle(path: Path) -> Any:
    """Read a plain pickle of numpy arrays in plain containers, as detectron2 publishes; arrays become tensors.

    Raises:
        Refused: if it names anything else.
        Damaged: if it is incomplete.
    """
    return inert.as_tensors(Unpickler(Reader(path)).run())
