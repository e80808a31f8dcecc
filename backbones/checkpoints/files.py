"""Files written piece by piece to the disk, hashed on the way, and read back against size and hash."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backbones.checkpoints import faults

CHUNK = 4 << 20  # bytes per write
_numbers = itertools.count(1)  # of the temporary names of this process
DTYPES = {  # names of the safetensors format, https://github.com/huggingface/safetensors#format
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16',
    torch.int64: 'I64', torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8', torch.bool: 'BOOL',
    torch.uint64: 'U64', torch.uint32: 'U32', torch.uint16: 'U16', torch.complex64: 'C64',
    torch.float8_e4m3fn: 'F8_E4M3', torch.float8_e5m2: 'F8_E5M2',
}


class Damaged(ValueError):
    """A file is not what it should be."""


@dataclass
class Progress:
    """How far a group of files is: `done` of `total` bytes of `place`."""

    place: str
    total: int
    done: int = 0

    def reach(self, step: str) -> None:
        """Tell that `step` comes next."""
        faults.reach(self.place, self.done / self.total if self.total else 1.0, step)


def temporary_name(name: str, owner: str) -> str:
    """The name under which `name` is written: its own for each writer, in one process too."""
    return f'.tmp-{name}.{next(_numbers)}-{owner}'


def said(error: Exception) -> str:
    """What the system said, or what the error says of itself."""
    if isinstance(error, OSError) and error.strerror:
        return f'{error.strerror}{f" ({error.filename})" if error.filename else ""}'
    return str(error)


def write_file(path: Path, pieces: Iterable[bytes | memoryview], progress: Progress) -> tuple[int, str]:
    """Write a new file and bring it to the disk; returns its size and sha256.

    Raises:
        OSError: what the system said.
    """
    digest, size = hashlib.sha256(), 0
    chunk = max(1, min(CHUNK, progress.total // 1000)) if faults.listening() else CHUNK
    progress.reach('open')
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece).cast('B')
            digest.update(view)
            size += len(view)
            start = 0
            while start < len(view):
                progress.reach('write')
                written = os.write(handle, view[start : start + chunk])
                start += written
                progress.done += written
        progress.reach('fsync')
        os.fsync(handle)
    finally:
        os.close(handle)
    return size, digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can be told to."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no fsync of folders
            raise
    finally:
        os.close(handle)


def publish_file(path: Path, pieces: Iterable[bytes | memoryview], total: int, place: str) -> str:
    """Write or replace the file `path` in one step, read it back, and return its sha256.

    Raises:
        OSError: what the system said; the old file is as it was.
    """
    progress = Progress(place, total)
    temporary = path.with_name(temporary_name(path.name, str(os.getpid())))
    try:
        size, digest = write_file(temporary, pieces, progress)
        progress.reach('verify')
        check_file(temporary, size, digest)
        progress.reach('rename')
        os.replace(temporary, path)
        progress.reach('sync-folder')
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return digest


def open_plain(path: Path) -> int:
    """Open a plain file for reading: no link, no pipe that would block.

    Raises:
        Damaged: if it is missing or something else.
        OSError: if it may not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise Damaged(f'{path.name} is missing') from error
    except OSError as error:
        if path.is_symlink():
            raise Damaged(f'{path.name} is a link, not a file') from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Damaged(f'{path.name} is not a plain file')
    return handle


def check_file(path: Path, size: int, digest: str) -> None:
    """Read a file from the disk and compare it; arguments and errors as for `read_file`, nothing is kept."""
    handle = open_plain(path)
    with os.fdopen(handle, 'rb', buffering=0) as file:
        _check_size(path, file.fileno(), size)
        if hasattr(os, 'posix_fadvise'):  # what lies on the disk is asked for, not what is left in memory
            with suppress(OSError):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        found, buffer = hashlib.sha256(), bytearray(CHUNK)
        while count := file.readinto(buffer):
            found.update(memoryview(buffer)[:count])
    _check_digest(path, found.hexdigest(), digest)


def read_file(path: Path, size: int, digest: str) -> bytes:
    """Read a file whole and compare it with what was written.

    Raises:
        Damaged: naming the file and what was expected.
        OSError: if it cannot be read.
    """
    with os.fdopen(open_plain(path), 'rb', buffering=0) as file:
        _check_size(path, file.fileno(), size)
        content = file.readall()
    _check_digest(path, hashlib.sha256(content).hexdigest(), digest)
    return content


def _check_size(path: Path, handle: int, size: int) -> None:
    found = os.fstat(handle).st_size
    if found != size:
        raise Damaged(f'{path.name} has {found} bytes and should have {size}')


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise Damaged(f'{path.name} has the sha256 {found[:12]}... and should have {expected[:12]}...')


def safetensors_pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[Tensor]]:
    """Give the head of a safetensors file and the tensors in the order in which their bytes follow.

    Raises:
        ValueError: for a type that the format has no name for.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each is aligned
    header: dict[str, object] = {'__metadata__': dict(metadata)}
    start = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise ValueError(f'{name} is a tensor of {tensor.dtype}; use one of {sorted(set(DTYPES.values()))}')
        end = start + math.prod(tensor.shape) * tensor.element_size()
        header[name] = dict(dtype=DTYPES[tensor.dtype], shape=list(tensor.shape), data_offsets=[start, end])
        start = end
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text, [tensors[name] for name in order]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Give the bytes of a tensor in row-major order; copied only where they lie otherwise."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(plain.view(torch.uint8).numpy()) if plain.numel() else memoryview(b'')
