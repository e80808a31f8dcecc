"""Which checkpoints of a folder to keep, which to go on from, and what dead processes left behind."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.checkpoints import faults
from backbones.checkpoints.files import publish_file, sync_folder
from backbones.checkpoints.store import NAME, known_manifests, owner, verify_checkpoint
from backbones.files import keep_older
from backbones.processes import process_start

LAST, BEST = 'last', 'best.json'
# '.tmp-iter_000120-<host>-<pid>-<start>': being written; '.trash-...': being deleted.
AT_WORK = re.compile(r'\.(tmp|trash)-.+-(?P<host>[\w.]+(-[\w.]+)*)-(?P<pid>\d+)-(?P<start>\d+)')
ABANDONED = 3600.0  # seconds without a change, for the folders of a process on another machine


@dataclass(frozen=True)
class Found:
    """The checkpoint to go on from.

    Attributes:
        path: the newest checkpoint that is whole; None if there is none.
        problems: one sentence for each newer one that is not, for each that is a link (those are not followed), and for
            a `last` that says something else.
    """

    path: Path | None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Best:
    """The best checkpoint by one metric."""

    score: float
    checkpoint: str


def list_checkpoints(folder: Path | str) -> list[Path]:
    """List the checkpoints whose manifests can be read, the one written last first; their content is not verified.

    The order is the number that each manifest carries; clocks and file times play no part.
    """
    known = {name: manifest for name, manifest in known_manifests(folder).items() if manifest}
    return [Path(folder) / name for name in sorted(known, key=lambda name: -known[name].sequence)]


def newest_valid(folder: Path | str, check: Callable[[Path], Any] = verify_checkpoint) -> Found:
    """Find the newest checkpoint of a folder that is whole, reading it to the end.

    Args:
        folder: where a run writes its checkpoints.
        check: raises ValueError for one that cannot be used.
    """
    folder = Path(folder)
    problems = unusable(folder)
    for path in list_checkpoints(folder):
        try:
            check(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        problems += _about_last(folder, path)
        return Found(path, problems)
    return Found(None, problems)


def unusable(folder: Path) -> list[str]:
    """One sentence for each thing in a folder that has the name of a checkpoint and that `list_checkpoints` omits."""
    problems = [
        _complaint(folder / name) for name, manifest in sorted(known_manifests(folder).items()) if manifest is None
    ]
    with suppress(FileNotFoundError):
        links = sorted(entry.name for entry in os.scandir(folder) if NAME.fullmatch(entry.name) and entry.is_symlink())
        problems += [f'{folder / name} is a link, which is not followed; give it by --resume {folder / name}'
                     for name in links]
    return problems


def _complaint(path: Path) -> str:
    try:
        verify_checkpoint(path)
    except ValueError as error:
        return str(error)
    return f'checkpoint {path} could not be read at first'


def read_last(folder: Path | str) -> str | None:
    """Read the name in the file `last`; None if there is no such file.

    Raises:
        ValueError: if it holds no name of a checkpoint.
        OSError: if it cannot be read.
    """
    file = Path(folder) / LAST
    if not file.is_file():
        return None
    with file.open('rb') as handle:
        text = handle.read(200)
    name = text.decode('ascii', 'replace').strip()
    if NAME.fullmatch(name) is None or text != f'{name}\n'.encode():
        raise ValueError(f'{file} holds {text[:40]!r}, which is no name of a checkpoint')
    return name


def write_last(folder: Path, name: str) -> None:
    """Name the newest checkpoint in the file `last`, in one step."""
    publish_file(folder / LAST, [f'{name}\n'.encode()], 0, 'last')


def _about_last(folder: Path, taken: Path) -> list[str]:
    try:
        name = read_last(folder)
    except (ValueError, OSError) as error:
        return [f'{error}; {taken.name} is the newest one that is whole']
    if name in (None, taken.name):
        return []
    return [f'{folder / LAST} names {name}; {taken.name} is the newest one that is whole']


def read_best(folder: Path | str) -> dict[str, Best]:
    """Read `best.json`: the best checkpoint by metric. An empty dict if there is none.

    Raises:
        ValueError: if it is damaged.
        OSError: if it cannot be read.
    """
    file = Path(folder) / BEST
    if not file.is_file():
        return {}
    try:
        with file.open('rb') as handle:
            content: Any = json.loads(handle.read(1 << 20))
        scores = [entry['score'] for entry in content.values()]
        best = {str(key): Best(float(entry['score']), entry['checkpoint']) for key, entry in content.items()}
        numbers = all(type(score) in (int, float) and math.isfinite(score) for score in scores)
        if numbers and all(NAME.fullmatch(entry.checkpoint) for entry in best.values()):
            return best
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        pass
    raise ValueError(f'{file} is damaged; delete it: the next validation names a best checkpoint anew')


def write_best(folder: Path, best: dict[str, Best]) -> None:
    """Write `best.json` in one step; the checkpoints it names must have been verified, their scores be finite."""
    content = {key: dict(score=entry.score, checkpoint=entry.checkpoint) for key, entry in sorted(best.items())}
    publish_file(folder / BEST, [(json.dumps(content, indent=1) + '\n').encode()], 0, 'best')


def keep_foreign(folder: Path, begins: bool) -> list[str]:
    """Rename a `last` or `best.json` that the run here did not write, so that it is not replaced; lines for the log.

    Args:
        folder: of the run.
        begins: whether the run is a new one, so that nothing there is its own.
    """
    lines = []
    for name, read in ((LAST, read_last), (BEST, read_best)):
        foreign = begins or (folder / name).is_dir()
        with suppress(OSError):
            try:
                read(folder)
            except ValueError:
                foreign = True
        if foreign and (kept := keep_older(folder / name)):
            lines.append(f'{folder / name} is not of this run, or damaged; it is kept as {kept.name}')
    return lines


def rotate(folder: Path | str, keep: int, verified: str, protected: Collection[str] = ()) -> list[str]:
    """Delete checkpoints beyond the newest `keep`; to be called after a new one was verified on the disk.

    A checkpoint is renamed before its files go, so that no part of one ever bears a valid name.

    Args:
        folder: where they lie.
        keep: how many to keep; 0 or less keeps all.
        verified: the one that was verified; always kept, and nothing is deleted if it is not there.
        protected: kept beside them: the best ones.

    Returns:
        The names that were deleted.
    """
    folder = Path(folder)
    names = [path.name for path in list_checkpoints(folder)]
    if keep <= 0 or verified not in names:
        return []
    others = [name for name in names if name != verified]
    superfluous = [name for name in others[keep - 1 :] if name not in protected]
    for name in superfluous:
        remove(folder / name)
    return superfluous


def remove(path: Path) -> None:
    """Delete a checkpoint: rename it, then delete what is in it.

    Raises:
        OSError: what the system said; the checkpoint is whole, or has no valid name any more.
    """
    trash = path.with_name(f'.trash-{path.name}-{owner()}')
    faults.reach('rotate', 0.0, 'trash')
    with suppress(FileNotFoundError):
        shutil.rmtree(trash)
    os.rename(path, trash)
    sync_folder(path.parent)
    for file in sorted(trash.iterdir()):
        faults.reach('rotate', 0.5, 'remove')
        file.unlink() if not file.is_dir() or file.is_symlink() else shutil.rmtree(file)
    faults.reach('rotate', 0.9, 'rmdir')
    trash.rmdir()


def clean_up(folder: Path | str) -> list[str]:
    """Delete what dead processes left half written or half deleted; returns their names.

    A process on this machine is dead if its id is gone or belongs to another one now; one elsewhere if its folder
    has not changed for an hour, measured by the clock of the file system.
    """
    folder, removed = Path(folder), []
    if not folder.is_dir():
        return removed
    now = _clock_of(folder)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        match = AT_WORK.fullmatch(entry.name)
        lone = re.fullmatch(r'\.tmp-.+-(?P<pid>\d+)', entry.name)  # of publish_file
        if match and entry.is_dir(follow_symlinks=False) and _is_abandoned(Path(entry.path), match, now):
            shutil.rmtree(entry.path, ignore_errors=True)
            removed.append(entry.name)
        elif lone and entry.is_file(follow_symlinks=False) and now - entry.stat().st_mtime > ABANDONED:
            with suppress(OSError):
                os.unlink(entry.path)
                removed.append(entry.name)
    return removed


def _is_abandoned(path: Path, match: re.Match, now: float) -> bool:
    if match['host'] == re.sub(r'[^\w.]', '_', socket.gethostname()):
        start = process_start(int(match['pid']))
        return start is None or (start or '0') != match['start']
    with suppress(OSError):
        return now - max(item.stat().st_mtime for item in (path, *path.iterdir())) > ABANDONED
    return False


def _clock_of(folder: Path) -> float:
    """The time that the file system of a folder writes on a new file."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b'0')
        file.flush()
        return os.fstat(file.fileno()).st_mtime
