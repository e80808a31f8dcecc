"""Weights of a checkpoint as a plain `.pth`, for mmdet, mmseg and every tool that reads theirs."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.checkpoints.files import CHUNK, Progress, check_file, sync_folder, temporary_name
from backbones.checkpoints.store import read_weights

__all__ = ['export_checkpoint', 'export_pth', 'exported_meta', 'plain_meta']


def export_checkpoint(path: Path | str, file: Path | str) -> str:
    """Write the weights of the checkpoint `path` as `file`; arguments and errors otherwise as for `export_pth`."""
    content = read_weights(path)
    return export_pth(file, content['state_dict'], content['meta'])


def export_pth(file: Path | str, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Write `{'meta': ..., 'state_dict': ...}` in one step; it opens with `torch.load(file, weights_only=True)`.

    Args:
        file: where to; its folder must exist.
        state_dict: weights by name.
        meta: what `plain_meta` gives: `dataset_meta` with classes and palette, epoch, iter, ...

    Returns:
        The sha256 of the file.

    Raises:
        OSError: what the system said; an older file of this name is as it was.
        ValueError: what was written does not read back.
    """
    file = Path(file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
    temporary = file.with_name(temporary_name(file.name, str(os.getpid())))
    try:
        writer = _Writer(temporary, Progress('export', size))
        with writer:
            torch.save(dict(meta=plain_meta(meta), state_dict=dict(state_dict)), writer)
        check_file(temporary, writer.size, writer.digest.hexdigest())
        writer.progress.reach('rename')
        os.replace(temporary, file)
        sync_folder(file.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, RuntimeError) and writer.error is not None:  # torch hides what the system said
            raise writer.error from error
        raise
    return writer.digest.hexdigest()


def exported_meta(file: Path) -> dict[str, Any]:
    """The `meta` of an exported file; an empty dict for anything else. Neither reads the weights nor runs code."""
    if not file.is_file():
        return {}
    try:
        meta = torch.load(file, map_location='cpu', weights_only=True, mmap=True)['meta']
    except Exception:  # a foreign file can be anything
        return {}
    return meta if isinstance(meta, dict) else {}


class _Writer(io.RawIOBase):
    """A file for `torch.save` that hashes what goes by and says in which step it is."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__()
        self.progress, self.digest, self.size, self.error = progress, hashlib.sha256(), 0, None
        progress.reach('open')
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast('B')
        self.digest.update(view)
        try:
            for start in range(0, len(view), CHUNK):
                rest = view[start : start + CHUNK]
                while rest:
                    self.progress.reach('write')
                    count = os.write(self._handle, rest)
                    self.progress.done += count
                    rest = rest[count:]
        except OSError as error:
            self.error = error
            raise
        self.size += len(view)
        return len(view)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self.progress.reach('fsync')
                os.fsync(self._handle)
        finally:
            os.close(self._handle)
            self.close()


def plain_meta(value: Any) -> Any:
    """Turn a data set's metainfo and the like into what any reader knows; what it cannot hold is left out."""
    if hasattr(value, 'tolist') and not isinstance(value, Tensor):  # numpy arrays and numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        kept = {str(key): plain_meta(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_meta(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None
