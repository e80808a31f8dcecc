"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

UNFINISHED = re.compile(r'\..+\.\w{2,5}\.[a-z0-9_]{8}')  # the temporary name of a file that a killed process left


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path`, creating its folder; a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def unfinished(folder: Path) -> list[Path]:
    """What `write_bytes` of killed processes left in `folder` and below."""
    return [path for path in folder.rglob('.*') if UNFINISHED.fullmatch(path.name) and path.is_file()]


def write_json(path: Path | str, value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON to `path` by `write_bytes`. NaN is written as null: JSON has no word for it."""
    write_bytes(path, (json.dumps(_plain(value), indent=indent, allow_nan=False) + '\n').encode())


def _plain(value: Any) -> Any:
    """Turn configs, tuples and numpy scalars into what JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, 'item') and getattr(value, 'ndim', 0) == 0:
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float('inf'), float('-inf'))):
        return None
    return value


def keep_older(path: Path | str) -> Path | None:
    """Rename the file `path`, if it is there, to the first free of NAME.1.json, NAME.2.json, ...; return that path."""
    path, number = Path(path), 1
    if not path.exists():
        return None
    while (kept := path.with_name(f'{path.stem}.{number}{path.suffix}')).exists():
        number += 1
    path.rename(kept)
    return kept


def check_writable(file: str, option: str = '--json') -> None:
    """Refuse a place for a file, named by `option`, before the work.

    Raises:
        ValueError: its folder is not there, or it cannot be written.
    """
    path = Path(file)
    if not path.absolute().parent.is_dir():
        raise ValueError(f'{option} {file}: the folder {path.parent} does not exist; make it first')
    there = path.exists()
    try:
        path.open('a').close()
    except OSError as error:
        reason = error.strerror
        raise ValueError(f'{option} {file} cannot be written ({reason}); name a file in another place') from error
    if not there:
        path.unlink()


def _umask() -> int:
    """The process's umask (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
