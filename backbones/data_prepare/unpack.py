"""Zip archives, unpacked in parallel: only what is expected, never outside, and taken up again after any end.

A file appears under its name when all its bytes are right (CRC-32), so a kill leaves whole files and a few hidden
`.NAME.partial`, which the next run writes anew. What is there already is compared, never overwritten.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from backbones.checkpoints import faults
from backbones.data_prepare.archives import Archive
from backbones.data_prepare.fetch import open_archive

CHUNK = 1 << 20
WORKERS = min(8, 2 * (os.cpu_count() or 1))  # threads: reading, zlib and CRC-32 let the others run meanwhile
SPARE = 64 << 20  # bytes that are left free on the disk
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unpack(
    paths: Sequence[Path], archive: Archive, folder: Path, counts: dict[str, int], progress: bool = True
) -> None:
    """Unpack the wanted members of an archive below `folder`.

    Args:
        paths: the archive, or its parts.
        archive: what is wanted of it.
        folder: where it goes.
        counts: folder -> number of wanted members that belong there.
        progress: show a bar.

    Raises:
        ValueError: the archive is damaged, hostile or another one, a file of other content is in the way, or the
            disk is full.
    """
    name = paths[0]
    try:
        with open_archive(paths) as file, zipfile.ZipFile(file) as opened:
            members = plan(opened, archive, str(name))
            _check_counts(members, counts, str(name))
            _check_room(members, folder)
            _unpack_all(opened, members, folder, archive.name, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        raise ValueError(f'{name} is no zip archive, or damaged ({error}); get it again') from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a damaged directory sends zipfile to a place before the file
            raise ValueError(f'{name} is no zip archive, or damaged ({error}); get it again') from error
        if error.errno not in FULL:
            raise
        raise ValueError(
            f'the disk of {folder} is full; free {archive.unpacked / 1e9:.1f} GB there and start again: what is '
            'unpacked is kept'
        ) from error


def plan(opened: zipfile.ZipFile, archive: Archive, name: str) -> list[zipfile.ZipInfo]:
    """Return the wanted members, after a look at all of them.

    Raises:
        ValueError: one would be written outside, is a link, is there twice, or they are too large together.
    """
    wanted, seen, total = [], set(), 0
    for member in opened.infolist():
        problem = _danger(member)
        total += member.file_size
        if problem is None and total > archive.most:
            problem = f'makes more than {archive.most:,} bytes'
        if problem is None and re.fullmatch(archive.wanted, member.filename, re.ASCII):
            problem = 'is there twice' if member.filename.lower() in seen else None
            seen.add(member.filename.lower())
            wanted.append(member)
        if problem is not None:
            raise ValueError(
                f'{name} is not unpacked: its member {member.filename!r:.120} {problem}, which the official '
                'archive has nothing of; get that one'
            )
    return wanted


def _danger(member: zipfile.ZipInfo) -> str | None:
    """Say why a member of an archive must not be touched."""
    name = member.orig_filename
    parts = PurePosixPath(name.replace('\\', '/')).parts
    if '\0' in name or '\\' in name or re.match('[A-Za-z]:', name) or name.startswith('/'):
        return 'has an absolute path, or one of another system'
    if '..' in parts:
        return 'leads out of the folder'
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return 'is a link or a device'
    if member.flag_bits & 0x1:
        return 'is encrypted'
    return None


def _check_counts(members: list[zipfile.ZipInfo], counts: dict[str, int], name: str) -> None:
    for folder, expected in counts.items():
        found = sum(member.filename.rpartition('/')[0] == folder for member in members)
        if found != expected:
            raise ValueError(
                f'{name} holds {found:,} files for {folder}/, and the official archive {expected:,}; get that one'
            )


def _check_room(members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse what does not fit on the disk, before anything is written."""
    needed = sum(member.file_size for member in members if not (folder / member.filename).exists())
    check_room(folder, needed)


def check_room(folder: Path, needed: int) -> None:
    """Refuse `needed` bytes that do not fit on the disk of `folder`, which need not be there yet."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed and needed + SPARE > free:
        raise ValueError(
            f'{folder} has {free / 1e9:,.1f} GB left, and {needed / 1e9:,.1f} GB are to be written; free space, or '
            'name a folder on another disk: --root FOLDER'
        )


def _unpack_all(
    opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, name: str, progress: bool
) -> None:
    from tqdm import tqdm

    for parent in sorted({(folder / member.filename).parent for member in members}):
        parent.mkdir(parents=True, exist_ok=True)
    total = sum(member.file_size for member in members)
    bar = tqdm(total=total, unit='B', unit_scale=True, desc=f'unpacking {name}', disable=not progress)
    pool = ThreadPoolExecutor(WORKERS)
    try:
        done = 0
        for size in pool.map(lambda member: _put(opened, member, folder), members):
            faults.reach('unpack', done / max(total, 1), 'file')
            done += size
            bar.update(size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()


def _put(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> int:
    """Write one member, unless it is there; return its size."""
    target = folder / member.filename
    if _is_there(target, member):
        return member.file_size
    part = target.with_name(f'.{target.name}.partial')
    try:
        with opened.open(member) as source, part.open('wb') as file:
            left = member.file_size
            while chunk := source.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile(f'{member.filename} is longer than it says')
                file.write(chunk)
        if left:
            raise zipfile.BadZipFile(f'{member.filename} is shorter than it says')
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    return member.file_size


def _is_there(target: Path, member: zipfile.ZipInfo) -> bool:
    """Tell whether a member was written before; an empty file in its place is what a power cut leaves.

    Raises:
        ValueError: something else is there.
    """
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    if stat.S_ISREG(found.st_mode) and found.st_size == 0 < member.file_size:
        return False
    if target.is_file() and target.stat().st_size == member.file_size and _crc(target) == member.CRC:
        return True
    raise ValueError(
        f'{target} is there and is not the file of the archive; nothing is overwritten: move it away and start again'
    )


def _crc(path: Path) -> int:
    value = 0
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
