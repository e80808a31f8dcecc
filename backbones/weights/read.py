"""Open checkpoint files without executing anything in them.

A file is told by its content, not by its name. Nothing in a file is ever called but a short list of inert
types; there is no fallback to plain pickle.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

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

LEGACY_TORCH = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the pickled magic number of torch before 1.6
MAX_COMPRESSION = 50  # weights hardly compress; an archive that unpacks to more times its size is refused


class Opaque:
    """Stands in for an object of the file that weights do not need; keeps nothing and can do nothing."""

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def _history_method(owner: Any, name: str) -> None:
    """Stand in for `getattr`, which MMEngine's logs use to name the statistics of a buffer."""
    if owner is not Opaque or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'GLOBAL builtins.getattr was not an allowed global: asked for {name!r}')


def _empty_array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """Stand in for numpy's `_reconstruct`, which is asked for an empty array that is filled afterwards."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise UnpicklingError(f'GLOBAL numpy._core.multiarray._reconstruct was not an allowed global for shape {shape}')
    return np.ndarray((0,), dtype='b')


def _inert_globals() -> list[tuple[Any, str]]:
    """List what a file may name besides tensors: (object that is used, name in the file)."""
    allowed: list[tuple[Any, str]] = [
        (Opaque, 'argparse.Namespace'),  # official ConvNeXt, DINO, MAE training files
        (Opaque, 'mmengine.logging.history_buffer.HistoryBuffer'),  # every file saved by MMEngine
        (_history_method, 'builtins.getattr'),
        (np.ndarray, 'numpy.ndarray'),
        (np.dtype, 'numpy.dtype'),
    ]
    for package in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        allowed.append((_empty_array, f'{package}._reconstruct'))
        allowed.append((np.float64(0).__reduce__()[0], f'{package}.scalar'))
    # The class of each dtype is met when numpy builds one; it is not named in files.
    allowed += [(type(np.dtype(code)), f'numpy.dtypes.{type(np.dtype(code)).__name__}') for code in '?bBhHiIlLqQefdUS']
    return allowed


@contextlib.contextmanager
def _only_inert_globals() -> Iterator[None]:
    """Let `torch.load` know our list and nothing that other code may have allowed in this process."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_inert_globals())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, wrappers and `module.` peeled off.

    Args:
        path: a local `.pth`, `.pt`, `.bin` (torch), `.safetensors` or `.npz` file; the content decides, not the name.

    Returns:
        Tensors by name, on the CPU, memory-mapped where the format allows it.

    Raises:
        ValueError: for a file that is missing, damaged, of another type, or wants to execute something; one
            sentence with the file, the finding and the remedy.
    """
    path = Path(path).expanduser()
    return peel(read_file(path), str(path))


def read_file(path: Path) -> Any:
    """Read a checkpoint file as it is, with its wrappers. Arguments and errors as for `read_state`."""
    reader = {'torch': _read_torch, 'safetensors': _read_safetensors, 'npz': _read_npz}[file_kind(path)]
    return reader(path)


def file_kind(path: Path) -> str:
    """Tell by its first bytes what a file is: 'torch', 'safetensors' or 'npz'.

    Raises:
        ValueError: if it is none of them.
    """
    if not path.is_file():
        place = f'there is no folder {path.parent}' if not path.parent.is_dir() else 'there is no such file'
        raise ValueError(f'checkpoint {path}: {place}; correct the path, or download the file to it')
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f'checkpoint {path} is empty (0 bytes); download it again')
    with path.open('rb') as file:
        head = file.read(64)
    if head.startswith(b'PK\x03\x04'):
        return _zip_kind(path, size)
    if head.startswith(LEGACY_TORCH):
        return 'torch'
    if head[8:9] == b'{':
        if 8 + int.from_bytes(head[:8], 'little') > size:
            raise ValueError(f'checkpoint {path} is truncated: its header is longer than the file; download it again')
        return 'safetensors'
    finding, remedy = 'is no checkpoint', 'give a file saved by torch.save, a .safetensors or an .npz file'
    if head.startswith(b'\x80'):
        finding = 'is a plain pickle, which can execute code while it is read'
        remedy = 'convert it where you trust it: torch.save a dict of tensors made from what pickle.load gives'
    elif head.lstrip().startswith(b'<'):
        finding, remedy = (
            'is a web page, not a checkpoint',
            'the download failed or needs a login; download it again',
        )
    elif head.startswith(b'version https://git-lfs'):
        finding, remedy = 'is a git-lfs pointer, not the file itself', 'run `git lfs pull` in its repository'
    raise ValueError(f'checkpoint {path} {finding} ({size} bytes, begins with {head[:8]!r}); {remedy}')


def _zip_kind(path: Path, size: int) -> str:
    """Tell a torch archive from a numpy one, and refuse what is neither or unpacks to too much."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(
            f'checkpoint {path} is truncated or damaged ({size} bytes, {error}); download or copy it again'
        ) from error
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_COMPRESSION * size:
        raise ValueError(
            f'checkpoint {path} unpacks to {unpacked / size:.0f} times its size, which weights never do; do not use it'
        )
    names = [member.filename for member in members]
    if any(name.endswith('/constants.pkl') for name in names) or any('/code/' in name for name in names):
        raise ValueError(
            f'checkpoint {path} is a TorchScript archive, which is a program; convert it where you trust it: '
            'torch.save(torch.jit.load(file).state_dict(), new_file)'
        )
    if any(name.endswith('/data.pkl') for name in names):
        return 'torch'
    if names and all(name.endswith('.npy') for name in names):
        return 'npz'
    raise ValueError(
        f'checkpoint {path} is a zip archive of {names[:3]}, not weights; unpack it and give the weight file inside'
    )


def _read_torch(path: Path) -> Any:
    mmap = zipfile.is_zipfile(path)  # the old format has no map of its tensors
    try:
        with _only_inert_globals():
            return torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        named = re.search(r'GLOBAL `?([\w.]+)`?', str(error))
        wish = repr(named[1]) if named else f'something else than tensors ({_first_line(error)})'
        raise ValueError(
            f'checkpoint {path} is refused: to read it, {wish} would have to be executed; where you trust '
            "the file, keep its weights only: torch.save({'state_dict': state_dict}, new_file)"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f'checkpoint {path} is damaged ({_first_line(error)}); download or copy it again') from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f'checkpoint {path} is damaged ({error}); download or copy it again') from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except (ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'checkpoint {path} holds something else than plain arrays ({error}); save arrays of numbers only'
        ) from error


# --- wrappers -----------------------------------------------------------------------------------------------


def peel(content: Any, path: str) -> dict[str, Tensor]:
    """Unwrap `{'model': {...}}` and the like until a mapping of tensors is left; take `module.` off names.

    Raises:
        ValueError: if there is no tensor in it.
    """
    while isinstance(content, Mapping):
        wrapper = next((key for key in WRAPPERS if _holds_tensors(content.get(key))), None)
        if wrapper is None:
            break
        content = content[wrapper]
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        keys = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
        other = [key for key in NOT_WEIGHTS if isinstance(content, Mapping) and key in content]
        finding = f'only {other}, which is no model' if other else f'{keys}'
        raise ValueError(
            f'checkpoint {path} holds no weights: found {finding}; give a file with a state dict, as it is '
            f'or under one of {list(WRAPPERS)}'
        )
    while all(name.startswith('module.') for name in tensors):
        tensors = {name[len('module.') :]: value for name, value in tensors.items()}
    return tensors


def _holds_tensors(content: Any) -> bool:
    """Whether a value is a mapping with a tensor in it, wrapped or not."""
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(value, Tensor) or _holds_tensors(value) for value in content.values())
