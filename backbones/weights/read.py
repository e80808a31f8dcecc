"""Open checkpoint files without executing anything in them.

A file is told by its content, not by its name. Nothing in a file is ever called; what torch and pickle files may
name is in `inert.py`. Sizes that a file announces are compared with its own before memory is taken.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from struct import unpack
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backbones.checkpoints.store import is_checkpoint, read_weights
from backbones.weights import pickles
from backbones.weights.inert import Damaged, Opaque, Refused, first_line, native

__all__ = ['NOT_WEIGHTS', 'WRAPPERS', 'Opaque', 'file_kind', 'peel', 'read_file', 'read_state']

# Keys under which published files keep their weights, best first: `model` before `model_ema` because the
# ConvNeXt paper reports the former, `teacher` because DINO's features are the teacher's.
WRAPPERS = ('state_dict', 'model', 'teacher', 'model_state_dict', 'model_state', 'params', 'module')
# What else such files hold, and a backbone never needs.
NOT_WEIGHTS = (
    'optimizer',
    'lr_scheduler',
    'param_schedulers',
    'scaler',
    'message_hub',
    'meta',
    'args',
    'epoch',
    'iter',
)
# Entries with tensors that are no model, besides these: 'optimizer_state_dict', 'amp_scaler', 'dino_loss' ...
NO_MODEL = re.compile(rf'^({"|".join(NOT_WEIGHTS)})$|optim|sched|scaler|loss|criterion|rng|random', re.IGNORECASE)

LEGACY_TORCH = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # after two bytes: the magic number of torch before 1.6
PICKLE = re.compile(rb'\x80[\x02-\x05]|\((dp?|lp?|i)|[]}]q|c[\w.]+\n[\w.]+\n')  # beginnings of pickles, all protocols
MAX_COMPRESSION = 10  # weights hardly compress; an archive that unpacks to more times its size is refused
MAX_WRAPPERS = 10  # one in the other
MAX_HEADER = 100_000_000  # bytes of a safetensors header, the limit of that library
SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors', '.npz', '.pkl', '.index.json')
AGAIN = 'download or copy it again'
# What else is met under the name of a checkpoint: how it begins, what it is, what to do.
OTHER_FILES = (
    (b'<', 'is a web page, not a checkpoint', 'the download failed or needs a login; download it again'),
    (
        b'version https://git-lfs',
        'is a git-lfs pointer, not the file itself',
        'run `git lfs pull` in its repository',
    ),
    (b'{', 'is a JSON text, not weights', 'give the weight file, or the index (.index.json) of its shards'),
    (b'\x1f\x8b', 'is compressed with gzip', 'unpack it and give the file inside'),
    (b'\x89HDF', 'is an HDF5 file (Keras)', 'give the PyTorch version of the weights'),
    (b'GGUF', 'is a GGUF file of quantised weights', 'give the original weights'),
)


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, wrappers and `module.` peeled off.

    Args:
        path: a local `.pth`, `.pt`, `.bin` (torch), `.safetensors`, `.npz` or `.pkl` (detectron2) file, or the
            `.index.json` of one in shards; the content decides, not the name.

    Returns:
        Tensors by name, on the CPU, memory-mapped where the format allows it.

    Raises:
        ValueError: for a file that is missing, damaged, of another type, or wants to execute something; one
            sentence with the file, the finding and the remedy.
    """
    return peel(read_file(path), str(Path(path).expanduser()))


def read_file(path: str | os.PathLike) -> Any:
    """Read a checkpoint file, with its wrappers, or the folder of a run. Arguments and errors as for `read_state`."""
    path = Path(path).expanduser()
    if is_checkpoint(path):
        return read_weights(path)
    kind, members = _classify(path)
    try:
        if kind == 'torch':
            return pickles.read_torch(path, members)
        if kind == 'npz':
            return _read_npz(path, members)
        return {'pickle': pickles.read_pickle, 'safetensors': load_file, 'index': _read_shards}[kind](path)
    except Refused as error:
        raise ValueError(f'checkpoint {path} is refused: {error.finding}; {error.remedy}') from error
    except (Damaged, SafetensorError, OSError) as error:
        raise ValueError(f'checkpoint {path} is truncated or damaged ({first_line(error)}); {AGAIN}') from error


def file_kind(path: Path) -> str:
    """Tell by its first bytes what a file is: 'torch', 'safetensors', 'npz', 'pickle' or 'index' (of shards).

    Raises:
        ValueError: if it is none of them.
    """
    return _classify(path)[0]


def _classify(path: Path) -> tuple[str, list[zipfile.ZipInfo]]:
    """Tell what a file is, and what is in it if it is a zip archive."""
    try:
        size, head = _beginning(path)
    except OSError as error:
        raise ValueError(
            f'checkpoint {path} cannot be opened ({error.strerror}); correct its permissions, or give another file'
        ) from error
    if head.startswith(b'PK\x03\x04'):
        return _zip_kind(path, size)
    if head[2:].startswith(LEGACY_TORCH):
        return 'torch', []
    if PICKLE.match(head):
        return 'pickle', []
    if head[4:9] == b'\0\0\0\0{' or (head[8:9] == b'{' and not head.lstrip().startswith(b'{')):
        announced = int.from_bytes(head[:8], 'little')
        if announced > min(MAX_HEADER, size - 8):
            raise ValueError(
                f'checkpoint {path} is truncated or damaged: its header should have {announced} bytes, which is '
                f'longer than the file or the limit of {MAX_HEADER}; {AGAIN}'
            )
        return 'safetensors', []
    if head.lstrip().startswith(b'{') and _weight_map(path) is not None:
        return 'index', []
    finding, remedy = next(
        (other[1:] for other in OTHER_FILES if head.lstrip().startswith(other[0])),
        ('is no checkpoint', f'give a file saved by torch.save, or one of {", ".join(SUFFIXES[3:])}'),
    )
    raise ValueError(f'checkpoint {path} {finding} ({size} bytes, begins with {head[:8]!r}); {remedy}')


def _beginning(path: Path) -> tuple[int, bytes]:
    """Give size and first bytes of a file.

    Raises:
        ValueError: if there is nothing to read.
        OSError: if it may not be read.
    """
    if path.is_dir():
        names = [name for name in os.listdir(path) if name != 'state.safetensors']  # of an optimiser: no weights
        inside = sorted(name for name in names if name.endswith(SUFFIXES) or is_checkpoint(path / name))
        advice = f'give one of those in it: {", ".join(inside[:8])}' if inside else 'there is no checkpoint in it'
        raise ValueError(f'checkpoint {path} is a folder; {advice}')
    if not path.is_file():
        place = f'there is no folder {path.parent}' if not path.parent.is_dir() else 'there is no such file'
        raise ValueError(f'checkpoint {path}: {place}; correct the path, or download the file to it')
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f'checkpoint {path} is empty (0 bytes); download it again')
    with path.open('rb') as file:
        return size, file.read(64)


def _zip_kind(path: Path, size: int) -> tuple[str, list[zipfile.ZipInfo]]:
    """Tell a torch archive from a numpy one, and refuse what is neither or unpacks to too much."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # a damaged directory can fail in any way
        raise ValueError(
            f'checkpoint {path} is truncated or damaged ({size} bytes, {first_line(error)}); {AGAIN}'
        ) from error
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_COMPRESSION * size:
        raise ValueError(
            f'checkpoint {path} unpacks to {unpacked / size:.0f} times its size, which weights never do; do not use it'
        )
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or sum(member.compress_size for member in members) > size:
        raise ValueError(f'checkpoint {path} is an archive whose parts overlap; do not use it')
    if any(name.endswith('/constants.pkl') or '/code/' in name for name in names):
        raise ValueError(
            f'checkpoint {path} is a TorchScript archive, which is a program; convert it where you trust it: '
            'torch.save(torch.jit.load(file).state_dict(), new_file)'
        )
    if any(name.endswith('/data.pkl') for name in names):
        lower = {name.lower() for name in names}  # torch does not tell them from capitals
        one = len(lower) == len(names) and sum(name.endswith('/data.pkl') for name in lower) == 1
        if not one or not _plain_end(path, size):
            raise ValueError(f'checkpoint {path} is an archive in which two readers find two contents; do not use it')
        if any((part.compress_type, part.compress_size) != (zipfile.ZIP_STORED, part.file_size) for part in members):
            raise ValueError(
                f'checkpoint {path} is a torch file packed anew, with compression; give the file as torch.save wrote it'
            )
        return 'torch', members
    if names and all(name.endswith('.npy') for name in names):
        return 'npz', members
    raise ValueError(
        f'checkpoint {path} is a zip archive of {names[:3]}, not weights; unpack it and give the weight file inside'
    )


def _plain_end(path: Path, size: int) -> bool:
    """Tell whether the directory of a zip archive lies right before its end, where every reader looks for it.

    What Python finds is checked, but torch opens the file by itself, and goes where the end points to.
    """
    with path.open('rb') as file:
        file.seek(max(0, size - 98))
        tail = file.read()
    if tail[-22:-18] != b'PK\5\6' or tail[-2:] != b'\0\0':  # no comment, which could hold another directory
        return False
    end, (length, start) = size - 22, unpack('<2L', tail[-10:-2])
    if tail[-42:-38] == b'PK\6\7':  # the form for more than 4 GiB, which torch.save always writes
        if tail[:4] != b'PK\6\6' or unpack('<Q', tail[-34:-26]) != (size - 98,):
            return False
        end, (length, start) = size - 98, unpack('<2Q', tail[40:56])
    return start + length == end


# --- readers ------------------------------------------------------------------------------------------------


def _read_npz(path: Path, members: list[zipfile.ZipInfo]) -> dict[str, Tensor]:
    """Read arrays of numbers, each after its header was compared with the zip directory."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                _check_array(archive, member)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(native(arrays[name])) for name in arrays.files}
    except (Refused, Damaged):
        raise
    except Exception as error:  # zlib, zipfile and numpy have an error of their own for each kind of damage
        raise Damaged(first_line(error)) from error


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare what an array announces with what is stored.

    Raises:
        Refused: if it is no array of numbers.
        Damaged: if another size is stored.
    """
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        header = file.tell()
    if dtype == np.dtype('V2'):
        raise Refused(
            f'its array {member.filename!r} holds numbers of 2 bytes without a type, as numpy writes bfloat16',
            'save the arrays as float32: numpy.savez(new_file, name=array.astype(numpy.float32) ...)',
        )
    if dtype.kind not in 'biufc':
        raise Refused(
            f'its array {member.filename!r} holds something else than plain arrays do ({dtype})',
            'save arrays of numbers only',
        )
    announced = math.prod(shape) * dtype.itemsize
    if announced != member.file_size - header:
        raise Damaged(f'array {member.filename!r} should have {announced} bytes and has {member.file_size - header}')


def _weight_map(path: Path) -> dict[str, str] | None:
    """Read the index of a checkpoint in shards: file by tensor name; None if it is another JSON text."""
    if path.stat().st_size > MAX_HEADER:
        return None
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    files = index.get('weight_map') if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        return None
    return files


def _read_shards(path: Path) -> dict[str, Tensor]:
    """Read all files that an index names, from the folder of the index only."""
    files = _weight_map(path) or {}
    shards = sorted(set(files.values()))
    if outside := [name for name in shards if name in ('', '.', '..') or re.search(r'[/\\\0:]', name)]:
        raise Refused(f'it names files outside of its folder, {outside[:3]}', 'give an index of files beside it')
    if absent := [name for name in shards if not (path.parent / name).is_file()]:
        raise Refused(
            f'{len(absent)} of its {len(shards)} files are missing beside it: {", ".join(absent[:8])}',
            f'download them to {path.parent}',
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if file_kind(path.parent / shard) not in ('torch', 'safetensors'):
            raise Refused(f'its file {shard} holds no shard of weights', 'give .safetensors or torch files')
        content = read_file(path.parent / shard)
        content = content if isinstance(content, Mapping) else {}
        lost = [name for name, file in files.items() if file == shard and not isinstance(content.get(name), Tensor)]
        if lost:
            raise Refused(
                f'{shard} lacks {len(lost)} of the tensors that the index promises: {", ".join(lost[:3])}',
                'download index and shards of the same revision again',
            )
        for name, value in content.items():
            if isinstance(value, Tensor) and files.get(name, shard) == shard:
                tensors[name] = value
    return tensors


# --- wrappers -----------------------------------------------------------------------------------------------


def peel(content: Any, path: str) -> dict[str, Tensor]:
    """Unwrap `{'model': {...}}` and the like until a mapping of tensors is left; take `module.` off names.

    A wrapper with another name is opened if it is the only one with tensors. Of `model` and `model_ema`, or
    `state_dict` and `state_dict_ema`, the former is taken: give a file with the other alone to have that.

    Raises:
        ValueError: if there is no tensor in it, or more than one state dict.
    """
    direct, above = _tensor_mappings(content)
    for _ in range(MAX_WRAPPERS):
        wrapper = _wrapper(content, direct, above, path) if isinstance(content, Mapping) else None
        if wrapper is None:
            break
        content = content[wrapper]
    found = content.items() if isinstance(content, Mapping) and 'param_groups' not in content else ()
    tensors = {str(key): value for key, value in found if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f'checkpoint {path} holds no weights: found {_summary(content)}; give a file with a state '
                         f'dict, as it is or under one of {list(WRAPPERS)}')
    for prefix in ('module.', '_orig_mod.', 'module.'):  # DistributedDataParallel and torch.compile, in any order
        while all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


def _wrapper(content: Mapping, direct: set[int], above: set[int], path: str) -> Any:
    """Name the entry that holds the weights; None if they lie open, or nowhere."""
    known = next((key for key in WRAPPERS if id(content.get(key)) in above), None)
    if known is not None or any(isinstance(value, Tensor) and value.dim() > 0 for value in content.values()):
        return known
    unknown = [
        key
        for key, value in content.items()
        if (id(value) in direct or (id(value) in above and any(id(value.get(name)) in above for name in WRAPPERS)))
        and not NO_MODEL.search(str(key))
    ]
    if len(unknown) > 1:
        raise ValueError(
            f'checkpoint {path} holds several state dicts: {_short(unknown)}; keep the one you want: '
            f'torch.save(torch.load(file)[{unknown[0]!r}], new_file)'
        )
    return unknown[0] if unknown else None


def _tensor_mappings(content: Any) -> tuple[set[int], set[int]]:
    """Find the mappings with tensors right in them, and those with tensors at any depth; each is looked at once."""
    direct: set[int] = set()
    holders: dict[int, list[int]] = {}  # by mapping, those it lies in: they may lie in each other
    waiting, seen = [content], set()
    while waiting:
        mapping = waiting.pop()
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        for value in mapping.values():
            if isinstance(value, Tensor):
                direct.add(id(mapping))
            elif isinstance(value, Mapping):
                holders.setdefault(id(value), []).append(id(mapping))
                waiting.append(value)
    above: set[int] = set()
    rising = list(direct)
    while rising:
        mapping_id = rising.pop()
        if mapping_id not in above:
            above.add(mapping_id)
            rising += holders.get(mapping_id, [])
    return direct, above


def _summary(content: Any) -> str:
    """Say what a file without weights holds."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    other = [key for key in NOT_WEIGHTS if key in content]
    if 'param_groups' in content:
        return 'only the state of an optimiser, which is no model'
    return f'only {other}, which is no model' if other else _short(list(content))


def _short(keys: list) -> str:
    more = f' and {len(keys) - 8} more' if len(keys) > 8 else ''
    return str([key[:40] if isinstance(key, str) else key for key in keys[:8]]) + more
