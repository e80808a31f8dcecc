"""COCO and ADE20K put where the configs look: recognised, completed, linked, or unpacked from the official archives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backbones.data_prepare.archives import Archive, DataSet
from backbones.data_prepare.fetch import WAITS, fetch_archive, locate, verify
from backbones.data_prepare.unpack import check_room, unpack
from backbones.weights.download import locked

NOTES = '.prepare.json'  # which archives passed; gone when all is done


@dataclass
class Survey:
    """What is there of a data set: `counts` of pictures by folder, and the paths that are `lacking` or `surplus`."""

    counts: dict[str, int] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        return any(self.counts.values())


def prepare(
    data: DataSet, root: Path, *, source: Path | None = None, link: Path | None = None, progress: bool = True,
    say: Callable[[str], None] = print, waits: Sequence[float] = WAITS,
) -> None:
    """Put a data set below `root`, and complete what is there; nothing of the user's is overwritten.

    Args:
        data: what to put there.
        root: folder of all data; the configs say 'data'.
        source: folder where the archives lie already; nothing is downloaded then.
        link: folder where an unpacked copy lies; it is linked.
        progress: show bars.
        say: takes the lines for the user.
        waits: seconds before each further try of a download.

    Raises:
        ValueError: what is in the way, and what to do.
    """
    home = root / data.folder
    _check_place(root, home)
    found = survey(data, home)
    if not found.lacking:
        _tidy(data, home)
        say(f'nothing to do: {_contents(data, found)} in {home}')
    elif link is not None:
        _link(data, home, link, found, say)
    else:
        with locked(home / NOTES if home.is_dir() else _made(home) / NOTES, 'prepares'):
            _bring(data, root, home, source, progress, say, waits)
        found = survey(data, home)
        if found.lacking:
            raise ValueError(_what_lacks(data, home, found) + '; start again, it takes up where it ended')
        _tidy(data, home)
        say(f'done: {_contents(data, found)} in {home}')
    say(f'to check it:  python tools/check_data.py {root / data.check}')
    elsewhere = '' if root.resolve() == Path('data').resolve() else f' --cfg-options data_root={root / data.check}/'
    say(f'to train:     python tools/train.py {data.config}{elsewhere}')


def _tidy(data: DataSet, home: Path) -> None:
    """Remove what a run leaves, its own or that of a killed one, once all is there."""
    if not (home / NOTES).is_file():
        return
    for folder in data.pictures:
        for part in (home / folder).glob('.*.partial'):
            part.unlink(missing_ok=True)
    for path in (home / f'{NOTES}.lock', home / NOTES):
        path.unlink(missing_ok=True)


def survey(data: DataSet, home: Path) -> Survey:
    """Count what lies in `home`.

    Raises:
        ValueError: there are more pictures than belong there.
    """
    found = Survey()
    for folder, (suffix, expected) in data.pictures.items():
        count = found.counts[folder] = _count(home / folder, suffix)
        if count < expected:
            found.lacking.append(folder)
        elif count > expected:
            raise ValueError(
                f'{home / folder} holds {count:,} files *{suffix}, and {expected:,} belong there; take the others away'
            )
    found.lacking += [name for name in data.files if not _is_whole(home / name)]
    return found


def _count(folder: Path, suffix: str) -> int:
    """Count the files of a suffix that are not empty; hidden ones (of ours, or of macOS) are none."""
    try:
        with os.scandir(folder) as entries:
            return sum(
                entry.name.endswith(suffix) and not entry.name.startswith('.') and entry.is_file()
                and entry.stat().st_size > 0
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _is_whole(path: Path) -> bool:
    """Tell whether a JSON file begins and ends as one."""
    try:
        with path.open('rb') as file:
            begins = file.read(1) == b'{'
            file.seek(max(-64, -path.stat().st_size), os.SEEK_END)
            return begins and file.read().rstrip().endswith(b'}')
    except OSError:
        return False


def _check_place(root: Path, home: Path) -> None:
    for path in (root, home):
        if path.is_symlink() and not path.exists():
            raise ValueError(f'{path} is a link to {os.readlink(path)}, which is not there; remove or mend the link')
        if path.exists() and not path.is_dir():
            raise ValueError(f'{path} is a file, and a folder is to be there; move it away, or name another --root')


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _contents(data: DataSet, found: Survey) -> str:
    counts = ' + '.join(f'{count:,}' for count in found.counts.values())
    return f'{data.title} is whole ({counts} files)'


def _what_lacks(data: DataSet, home: Path, found: Survey) -> str:
    parts = [
        f'{path} ({found.counts[path]:,} of {data.pictures[path][1]:,} files)' if path in data.pictures else path
        for path in found.lacking
    ]
    return f'{home} lacks {", ".join(parts)}'


# --- archives -------------------------------------------------------------------------------------------------


def _bring(
    data: DataSet, root: Path, home: Path, source: Path | None, progress: bool, say: Callable[[str], None],
    waits: Sequence[float],
) -> None:
    """Fetch or find, verify and unpack what is lacking."""
    found = survey(data, home)
    needed = [archive for archive in data.archives if set(archive.fills) & set(found.lacking)]
    for path in found.lacking:
        _refuse_link(home, path)
    if found.begun:
        say(f'{_what_lacks(data, home, found)}: completing it')
    store = root / 'archives'
    located = {archive.name: _located(data, archive, source) for archive in needed} if source is not None else {}
    check_room(root, sum(_room(archive, store, source) for archive in needed))
    for archive in needed:
        if source is None:
            say(f'{archive.name}: {archive.url}')
            paths = fetch_archive(archive, _made(store), home / NOTES, progress, waits)
        else:
            paths = located[archive.name]
            verify(paths, archive, home / NOTES, progress)
        counts = {path: data.pictures[path][1] for path in archive.fills if path in data.pictures}
        unpack(paths, archive, home, counts, progress)
    if source is None and store.is_dir():
        kept = sum(path.stat().st_size for path in store.iterdir())
        say(f'the archives in {store} ({kept / 1e9:,.1f} GB) are not needed any more')


def _located(data: DataSet, archive: Archive, source: Path) -> list[Path]:
    """Find an archive in the folder that the user names."""
    if source.is_file() and source.name == archive.name:
        source = source.parent
    if not source.is_dir():
        raise ValueError(f'--from {source} is no folder; name the one where {archive.name} lies')
    paths = locate(archive, source)
    if not paths:
        unpacked = [top for top in data.tops if (source / top).is_dir()]
        hint = (
            f'{unpacked[0]}/ lies there unpacked: use --link {source}' if unpacked
            else f'put it there (from {archive.url}), or leave --from away to download it'
        )
        raise ValueError(f'--from {source}: {archive.name} is not there, nor parts of it; {hint}')
    return paths


def _room(archive: Archive, store: Path, source: Path | None) -> int:
    """Bytes that an archive takes on the disk, downloaded and unpacked."""
    size = archive.size or archive.about
    there = [path for path in (store / archive.name, store / f'{archive.name}.partial') if path.is_file()]
    loaded = sum(path.stat().st_size for path in there)
    return archive.unpacked + (max(0, size - loaded) if source is None else 0)


def _refuse_link(home: Path, path: str) -> None:
    """Keep from writing into a folder that is linked from elsewhere."""
    place = home
    for part in Path(path).parts:
        place = place / part
        if place.is_symlink():
            raise ValueError(
                f'{place} is a link to {os.readlink(place)}, which is not complete; complete it there, or remove the '
                'link and start again'
            )


# --- an existing copy -------------------------------------------------------------------------------------------


def _link(data: DataSet, home: Path, existing: Path, found: Survey, say: Callable[[str], None]) -> None:
    """Link the parts of an existing copy, after counting them."""
    if not existing.is_dir():
        raise ValueError(f'--link {existing} is no folder; name the one where {data.title} lies unpacked')
    tops = dict.fromkeys(path.partition('/')[0] for path in found.lacking)
    targets = {top: _part_of(existing, top, data) for top in tops}
    for top in tops:
        place = home / top
        if place.is_symlink() or place.exists():
            raise ValueError(
                f'{place} is there already, and {_what_lacks(data, home, found)}; move it away, or leave --link away '
                'to complete it'
            )
    _made(home)
    for top, target in targets.items():
        (home / top).symlink_to(target.resolve(), target_is_directory=True)
        say(f'{home / top} -> {target.resolve()}')
    say(f'linked: {_contents(data, survey(data, home))} in {home}')


def _part_of(existing: Path, top: str, data: DataSet) -> Path:
    """Find a whole copy of one part in a folder: itself, below it, below data.folder, or below images/."""
    candidates = [existing / top, existing / data.folder / top, existing / 'images' / top]
    inner = [path[len(top) + 1:] for path in data.pictures]
    if existing.resolve().name == top or all(path and (existing / path).exists() for path in inner):
        candidates.insert(0, existing)
    looked = []
    for candidate in candidates:
        if not candidate.is_dir():
            continue
        looked.append(str(candidate))
        lacking = [
            f'{path} ({_count(candidate / path[len(top) + 1:], suffix):,} of {count:,} files)'
            for path, (suffix, count) in data.pictures.items()
            if path.partition('/')[0] == top and _count(candidate / path[len(top) + 1:], suffix) != count
        ]
        lacking += [
            path for path in data.files
            if path.partition('/')[0] == top and not _is_whole(candidate / path[len(top) + 1:])
        ]
        if not lacking:
            return candidate
        looked[-1] += f' lacks {", ".join(lacking)}'
    said = '; '.join(looked) if looked else f'there is no folder {top} in it'
    raise ValueError(f'--link {existing}: {said}. Name the folder of a whole copy, or leave --link away to get it')
