"""An archive where it lies, or downloaded: in one file or in parts, and verified once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.data_prepare.archives import Archive
from backbones.files import write_json
from backbones.weights.download import DownloadError, download

CHUNK = 1 << 20
WAITS = (1.0, 4.0, 15.0, 60.0)  # seconds before each further try; a host of 20 GB may break off more than once
PART = re.compile(r'\.(?:part[-_.]?)?(?:(\d{1,4})|([a-z]{2}))')  # .001 as 7-Zip numbers, .aa as `split` does


class Joined(io.RawIOBase):
    """Files one after the other, read as one; nothing is copied."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open('rb') for path in paths]
        self._starts = [0]
        for path in paths:
            self._starts.append(self._starts[-1] + path.stat().st_size)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._starts[-1]}[whence]
        if place < 0:
            raise OSError(22, 'Invalid argument')
        self._place = place
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._starts[-1]:
            return 0
        number = next(n for n, end in enumerate(self._starts[1:]) if self._place < end)
        file, left = self._files[number], self._starts[number + 1] - self._place
        file.seek(self._place - self._starts[number])
        count = file.readinto(memoryview(buffer)[:left])
        self._place += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def open_archive(paths: Sequence[Path]) -> io.BufferedIOBase | io.RawIOBase:
    """Open an archive of one file or of parts for reading."""
    return paths[0].open('rb') if len(paths) == 1 else io.BufferedReader(Joined(paths), CHUNK)


def locate(archive: Archive, folder: Path) -> list[Path]:
    """Find an archive in `folder`: the file, or its parts (NAME.001, NAME.002, ..., NAME.partaa, ...); else [].

    Raises:
        ValueError: a part is missing, or the parts are of a kind that cannot be read one after the other.
    """
    whole = folder / archive.name
    if whole.is_file():
        disk = whole.with_suffix('.z01')
        if disk.exists():
            raise ValueError(
                f'{whole} is the last of several volumes ({disk.name}, ...); join them first: '
                f'zip -s 0 {archive.name} --out joined/{archive.name}'
            )
        return [whole]
    parts: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        found = PART.fullmatch(path.name.removeprefix(archive.name)) if path.name.startswith(archive.name) else None
        if found and path.is_file():
            digits, letters = found.groups()
            number = int(digits) if digits else (ord(letters[0]) - 97) * 26 + ord(letters[1]) - 97
            if number in parts:
                raise ValueError(f'{parts[number]} and {path} both seem to be part {number}; keep those of one kind')
            parts[number] = path
    first, numbers = min(parts, default=0), sorted(parts)
    lacking = sorted(set(range(min(first, 1), max(parts, default=0) + 1)) - parts.keys() - {0})
    if parts and (first > 1 or lacking):
        raise ValueError(
            f'part {lacking[0]} of {archive.name} is missing in {folder}, where {parts[first].name} to '
            f'{parts[numbers[-1]].name} lie; put all parts there'
        )
    return [parts[number] for number in numbers]


def fetch_archive(
    archive: Archive, folder: Path, notes: Path, progress: bool = True, waits: Sequence[float] = WAITS
) -> list[Path]:
    """Download an archive into `folder`, unless it is there already, and verify it.

    Raises:
        ValueError: it cannot be had; what to do.
    """
    target = folder / archive.name
    if target.is_file():
        verify([target], archive, notes, progress)
        return [target]
    try:
        download(
            archive.url, target, progress=progress, waits=waits, elsewhere='--root',
            check=lambda path: verify([path], archive, None, progress),
        )
    except DownloadError as error:
        raise ValueError(
            f'{archive.url} could not be downloaded: {error}. Start again later, what has arrived is kept; or get it '
            'in another way and name its folder: --from FOLDER'
        ) from error
    _remember([target], notes)
    return [target]


def verify(paths: Sequence[Path], archive: Archive, notes: Path | None, progress: bool = True) -> None:
    """Compare size and hash of an archive with those that are known; `notes` holds which files passed before.

    Raises:
        ValueError: it is another file, or damaged.
    """
    size = sum(path.stat().st_size for path in paths)
    where = f'{paths[0]}' + (f' with its {len(paths) - 1} further parts' if len(paths) > 1 else '')
    if archive.size is not None and size != archive.size:
        raise ValueError(
            f'{where} has {size:,} bytes, and the official {archive.name} {archive.size:,}: it is cut off or another '
            'file; get it again'
        )
    if not archive.digests or (notes is not None and _known(paths, notes)):
        return
    found = _digests(paths, size, archive, progress)
    if not any(found[name] == expected.lower() for name, expected in archive.digests.items()):
        name, expected = next(iter(archive.digests.items()))
        raise ValueError(
            f'{where} has the {name} {found[name]}, and the official {archive.name} {expected}: it is damaged or '
            'another file; get it again'
        )
    if notes is not None:
        _remember(paths, notes)


def _digests(paths: Sequence[Path], size: int, archive: Archive, progress: bool) -> dict[str, str]:
    from tqdm import tqdm

    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in archive.digests}
    bar = tqdm(total=size, unit='B', unit_scale=True, desc=f'verifying {archive.name}', disable=not progress)
    with open_archive(paths) as file, bar:
        while chunk := file.read(CHUNK):
            for digest in hashes.values():
                digest.update(chunk)
            bar.update(len(chunk))
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _facts(paths: Sequence[Path]) -> list[list[Any]]:
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def _known(paths: Sequence[Path], notes: Path) -> bool:
    try:
        return _facts(paths) in json.loads(notes.read_text())
    except (OSError, ValueError, TypeError):
        return False


def _remember(paths: Sequence[Path], notes: Path) -> None:
    try:
        before = json.loads(notes.read_text())
    except (OSError, ValueError):
        before = []
    write_json(notes, [*before, _facts(paths)])


