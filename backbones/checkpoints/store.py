"""One checkpoint: a folder that is whole or not there.

    iter_000120/
      model.safetensors   the weights under their state-dict names
      ema.safetensors     the averaged weights, if the run has any
      state.safetensors   optimiser moments, random states, ...
      state.json          the rest, and where each tensor belongs
      manifest.json       size and sha256 of the others, written last
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from backbones.checkpoints.files import (
    Damaged,
    Progress,
    check_file,
    open_plain,
    read_file,
    safetensors_pieces,
    sync_folder,
    temporary_name,
    tensor_bytes,
    write_file,
)
from backbones.checkpoints.tree import SECTIONS, Tensors, flatten, unflatten
from backbones.processes import process_start

FORMAT, VERSION = 'backbones.checkpoint', 1
MANIFEST, STATE = 'manifest.json', 'state.json'
FILES = (*(f'{section}.safetensors' for section in (*SECTIONS, 'state')), STATE)
NAME = re.compile(r'(?P<unit>iter|epoch)_(?P<count>\d{1,12})(-(?P<revision>\d{1,6}))?')
MAX_MANIFEST = 1 << 20  # bytes
HEADROOM = 1.1  # free space asked for, relative to what will be written
INSTEAD = 'take another checkpoint of the run, or copy this one again'


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        sequence: 1 for the first checkpoint written to a folder, then 2, ...: the order of writing, without a clock.
        iteration: steps of the optimiser that the run had done.
        files: size in bytes and sha256 by file name.
    """

    sequence: int
    iteration: int
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Prepared:
    """A tree ready to be written: its tensors, the JSON text, and how many bytes that will be."""

    tensors: Tensors
    state: bytes
    size: int


# --- writing ------------------------------------------------------------------------------------------------


def prepare(tree: Mapping[str, Any]) -> Prepared:
    """Part a tree into what goes into the files; copies no tensor.

    Raises:
        ValueError: naming the place of what a checkpoint cannot hold.
    """
    tensors, skeleton = flatten(tree)
    text = json.dumps(dict(format=FORMAT, version=VERSION, tree=skeleton), allow_nan=False).encode()
    size = len(text)
    for held in tensors.values():
        head, order = safetensors_pieces(held, {})
        size += len(head) + sum(tensor.numel() * tensor.element_size() for tensor in order)
    return Prepared(tensors, text, size)


def check_space(folder: Path, size: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        OSError: ENOSPC, if `size` bytes and a tenth more do not fit.
    """
    free = shutil.disk_usage(folder).free
    if free < size * HEADROOM:
        raise OSError(
            errno.ENOSPC,
            f'a checkpoint needs {size * HEADROOM / 1e6:.1f} MB and {free / 1e6:.1f} MB are free',
            str(folder),
        )


def write_checkpoint(
    folder: Path | str, name: str, tree: Mapping[str, Any] | Prepared, *, iteration: int | None = None
) -> Path:
    """Write a checkpoint, read it back, and only then give it its name.

    Args:
        folder: where checkpoints lie; made if it is not there.
        name: `iter_<count>` or `epoch_<count>`. If it is taken, the new one is called `<name>-2`, `-3`, ...: the old
            one is not touched.
        tree: see `tree.py`; or what `prepare` made of it.
        iteration: steps done; default: the count in the name.

    Returns:
        The published folder.

    Raises:
        ValueError: the tree or the name is wrong.
        OSError: what the system said (no space, quota, read-only, ...); nothing is left of the attempt.
    """
    folder = Path(folder)
    match = NAME.fullmatch(name)
    if match is None or match['revision']:
        raise ValueError(f'checkpoint name {name!r}; use iter_<count> or epoch_<count>, such as iter_000120')
    prepared = tree if isinstance(tree, Prepared) else prepare(tree)
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, prepared.size)
    manifests = known_manifests(folder)
    sequence = 1 + max((manifest.sequence for manifest in manifests.values() if manifest), default=0)
    steps = int(match['count']) if iteration is None else iteration
    progress = Progress('save', prepared.size)
    temporary = folder / temporary_name(name, owner())
    progress.reach('mkdir')
    try:
        temporary.mkdir()
        files = _write_content(temporary, prepared, progress)
        progress.reach('manifest')
        _write_manifest(temporary, Manifest(sequence, steps, files), progress)
        progress.reach('sync-folder')
        sync_folder(temporary)
        progress.reach('verify')
        verify_checkpoint(temporary)
        progress.reach('rename')
        path = _take_name(temporary, folder, name)
        progress.reach('sync-parent')
        sync_folder(folder)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(temporary)
        raise
    progress.reach('done')
    return path


def _write_content(folder: Path, prepared: Prepared, progress: Progress) -> dict[str, tuple[int, str]]:
    files = {}
    for section, tensors in prepared.tensors.items():
        head, order = safetensors_pieces(tensors, {})
        pieces = (piece for part in ([head], map(tensor_bytes, order)) for piece in part)
        files[f'{section}.safetensors'] = write_file(folder / f'{section}.safetensors', pieces, progress)
    files[STATE] = write_file(folder / STATE, [prepared.state], progress)
    return files


def _write_manifest(folder: Path, manifest: Manifest, progress: Progress) -> None:
    write_file(folder / MANIFEST, [_manifest_text(manifest)], Progress(progress.place, 0))


def _take_name(temporary: Path, folder: Path, name: str) -> Path:
    """Rename to the first free name; a name is never taken from another folder."""
    path, revision = folder / name, 1
    while path.exists() or path.is_symlink():
        revision += 1
        path = folder / f'{name}-{revision}'
    os.rename(temporary, path)  # fails if something with content has come there in between
    return path


def owner() -> str:
    """Name this process for the folders that it is at work in: host, process id, and when that began."""
    host = re.sub(r'[^\w.]', '_', socket.gethostname())
    return f'{host}-{os.getpid()}-{process_start(os.getpid()) or 0}'


def _manifest_text(manifest: Manifest) -> bytes:
    """The one way to write a manifest, so that any changed byte shows."""
    content = dict(
        format=FORMAT,
        version=VERSION,
        sequence=manifest.sequence,
        iteration=manifest.iteration,
        files={name: dict(size=size, sha256=digest) for name, (size, digest) in sorted(manifest.files.items())},
    )
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps(dict(manifest=content, sha256=digest), indent=1, sort_keys=True) + '\n').encode()


# --- reading ------------------------------------------------------------------------------------------------


def is_checkpoint(path: Path | str) -> bool:
    """Whether `path` is a folder that looks like a checkpoint of ours; says nothing about its being whole."""
    path = Path(path)
    return path.is_dir() and (NAME.fullmatch(path.name) is not None or (path / MANIFEST).is_file())


def read_manifest(path: Path | str) -> Manifest:
    """Read and check `manifest.json` of the checkpoint `path`.

    Raises:
        ValueError: it is missing or changed.
        OSError: it cannot be read.
    """
    with os.fdopen(open_plain(Path(path) / MANIFEST), 'rb') as file:
        text = file.read(MAX_MANIFEST + 1)
    try:
        content = json.loads(text)['manifest']
        if content['format'] != FORMAT or content['version'] != VERSION:
            raise Damaged(
                f'{MANIFEST} is of format {str(content["format"])[:40]} version {str(content["version"])[:8]}, '
                f'not {FORMAT} {VERSION}'
            )
        manifest = Manifest(
            int(content['sequence']), int(content['iteration']),
            {name: (int(entry['size']), str(entry['sha256'])) for name, entry in content['files'].items()},
        )
    except Damaged:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise Damaged(f'{MANIFEST} is damaged ({type(error).__name__})') from error
    if text != _manifest_text(manifest):
        raise Damaged(f'{MANIFEST} does not have the sha256 that it states')
    if not {STATE} <= set(manifest.files) <= set(FILES):
        raise Damaged(f'{MANIFEST} names other files than {", ".join(FILES)}')
    return manifest


def known_manifests(folder: Path | str) -> dict[str, Manifest | None]:
    """The checkpoints in a folder by name, with their manifests; None for one whose manifest cannot be used."""
    found: dict[str, Manifest | None] = {}
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                try:
                    found[entry.name] = read_manifest(entry.path)
                except (ValueError, OSError):
                    found[entry.name] = None
    return found


def verify_checkpoint(path: Path | str) -> Manifest:
    """Read every file of a checkpoint from the disk and compare it with the manifest.

    Raises:
        ValueError: naming the file, what was found and what was expected.
    """
    path = Path(path)
    with _explained(path):
        manifest = read_manifest(path)
        for name, (size, digest) in manifest.files.items():
            check_file(path / name, size, digest)
    return manifest


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint; nothing of it is given out, or put in place, before all of its files were found unchanged.

    Only the files that the manifest names are opened, and nothing in them is executed.

    Raises:
        ValueError: naming the file, what was found and what was expected.
    """
    return _read(Path(path), None)


def read_weights(path: Path | str) -> dict[str, Any]:
    """Read only weights and meta of a checkpoint: `{'state_dict': ..., 'meta': ...}`, averaged weights if it has any.

    Raises:
        ValueError: as `read_checkpoint`; all files are verified.
    """
    tree = _read(Path(path), (*SECTIONS, 'meta'))
    if not isinstance(tree.get('model'), dict):
        raise ValueError(f'checkpoint {path} holds no model; give one that was written by a training run')
    meta = tree.get('meta')
    return dict(state_dict=averaged(tree), meta=meta if isinstance(meta, dict) else {})


def averaged(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that validation uses: those of `tree['model']`, replaced by those of `tree['ema']` where it has any.

    MMEngine's averaged model holds them as `module.<name>`; of several averages, each in a list, the first is taken.
    """
    weights = {name: value for name, value in tree['model'].items() if isinstance(value, Tensor)}
    ema = tree.get('ema')
    if isinstance(ema, list):
        ema = ema[0] if ema else None
    for name, value in (ema if isinstance(ema, dict) else {}).items():
        plain = name.removeprefix('module.')
        if plain in weights and isinstance(value, Tensor):
            weights[plain] = value
    return weights


def _read(path: Path, wanted: tuple[str, ...] | None) -> dict[str, Any]:
    """Read the entries `wanted` of the tree, or all."""
    with _explained(path):
        if not path.is_dir():
            raise Damaged('there is no such folder')
        manifest = read_manifest(path)
        content: dict[str, bytes] = {}
        for name, (size, digest) in manifest.files.items():
            if wanted is None or name == STATE or name.removesuffix('.safetensors') in wanted:
                content[name] = read_file(path / name, size, digest)
            else:
                check_file(path / name, size, digest)
        skeleton = _skeleton(content.pop(STATE))
        if wanted is not None:
            skeleton = {key: value for key, value in skeleton.items() if key in wanted}
        tensors = {}
        for name in list(content):
            tensors[name.removesuffix('.safetensors')] = _tensors(name, content.pop(name))
        try:
            return unflatten(skeleton, tensors)
        except ValueError as error:
            raise Damaged(f'{STATE}: {error}') from error


def _skeleton(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f'{STATE} is no JSON text that can be read ({type(error).__name__})') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT or content.get('version') != VERSION:
        raise Damaged(f'{STATE} is not of format {FORMAT} version {VERSION}')
    if not isinstance(content.get('tree'), dict):
        raise Damaged(f'{STATE} has no tree')
    return content['tree']


def _no_constant(word: str) -> None:
    raise ValueError(f'{word} is no JSON')


def _tensors(name: str, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Damaged(f'{name} is no safetensors file ({str(error)[:120]})') from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint is read into one sentence with its path."""
    try:
        yield
    except Damaged as error:
        raise ValueError(f'checkpoint {path} cannot be used: {error}; {INSTEAD}') from error
    except OSError as error:
        where = Path(error.filename).name if isinstance(error.filename, str) else 'a file'
        raise ValueError(
            f'checkpoint {path} cannot be read: {where}: {error.strerror}; check permissions and disk'
        ) from error
