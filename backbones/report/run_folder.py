"""What a work folder holds of a run: logs, records, configs, evaluations, how it ended. Read only; nothing is executed.

A file that cannot be read is a note in `Run.notes`; only a folder that holds no run at all is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.checkpoints.stored_config import LONGEST, NoConfig, unpacked
from backbones.data.files import shown
from backbones.evaluation.details import FILE, FOLDER, FORMAT
from backbones.processes import process_start
from backbones.training.exits import EXIT_FILE
from backbones.training.lock import LOCK_FILE, STALE_SECONDS, machine

from .parts import Note

STAMP = re.compile(r'\d{8}_\d{6}(_\d+)?$')
CHECKPOINT = re.compile(r'(epoch|iter)_0*(\d+)')
NUMBER = re.compile(r'metrics(?:\.(\d+))?\.json$')
EVALUATE = 'python tools/test.py {config} {checkpoint} --work-dir {folder} --details'
NEEDED = dict(task=str, classes=list, data=dict, kinds=list, protocol=dict)  # of details.json
WHERE_THERE = dict(remarks=list, metrics=dict, versions=dict, files=dict)
KINDS = ('boxes', 'masks', 'labels')


@dataclass
class Run:
    """A work folder as it was read.

    Attributes:
        folder: the work folder.
        starts: folders of the starts, such as `20261122_081137`, the oldest first.
        records: of `runs/`, the oldest first.
        evaluations: (file name, content) of the kept `metrics.json`, the latest last.
        config: of the latest training, plain data; None where there is none.
        config_text: as text, to be shown.
        config_name: name of its file without `.py`; '' where it is not known.
        details: of `evaluation/`; None where there is none that can be used.
        notes: what is missing or damaged.
        ended: content of `last_exit.json`.
        holder: of the lock; None where nobody holds it.
        alive: whether the holder lives, as far as can be seen from here.
        called: what tells it from another run on the page; '' where the folder's name does.
    """

    folder: Path
    starts: list[Path] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    config: dict[str, Any] | None = None
    config_text: str = ''
    config_name: str = ''
    details: dict[str, Any] | None = None
    notes: list[Note] = field(default_factory=list)
    ended: dict[str, Any] | None = None
    holder: dict[str, Any] | None = None
    alive: bool = False
    called: str = ''

    @property
    def name(self) -> str:
        """Of the folder, or as much of its path as tells it from the other run."""
        return self.called or shown(self.folder.absolute().name or str(self.folder.absolute()))

    @property
    def evaluation(self) -> Path:
        """The folder that `tools/test.py --details` writes."""
        return self.folder / FOLDER

    @property
    def record(self) -> dict[str, Any]:
        """Of the latest start; empty where there is none."""
        return self.records[-1] if self.records else {}

    def config_path(self) -> str:
        """The path of the config, as far as it is known, to be shown in a command."""
        named = [one.get('config') for one in [self.details or {}, *(content for _, content in self.evaluations[::-1])]]
        command = self.record.get('command')
        if isinstance(command, list):  # python tools/train.py CONFIG ...
            named += [word for word in command[1:] if str(word).endswith('.py') and Path(str(word)).name != 'train.py']
        return next((str(path) for path in named if isinstance(path, str) and path), 'CONFIG')

    def checkpoint(self) -> str:
        """The newest checkpoint, to be shown in a command."""
        with contextlib.suppress(OSError, ValueError):
            name = (self.folder / 'last').read_text(encoding='ascii').strip()
            if CHECKPOINT.match(name):
                return str(self.folder / name)
        files = [(int(match[2]), path) for path in self.folder.glob('*.pth') if (match := CHECKPOINT.match(path.name))]
        return str(max(files)[1]) if files else 'CHECKPOINT'


def tell_apart(run: Run, other: Run) -> None:
    """Call two runs whose folders have one name by as much of their paths as differs."""
    mine, its = (list(one.folder.absolute().parts) for one in (run, other))
    for number in range(1, 1 + max(len(mine), len(its))):
        names = [shown(str(Path(*parts[-number:]))) for parts in (mine, its)]
        if names[0] != names[1]:
            if number > 1:
                run.called, other.called = names
            return


def read_run(folder: str | Path) -> Run:
    """Read a work folder.

    Raises:
        ValueError: it is not there, or holds no run.
    """
    run = Run(Path(folder))
    _check_folder(run.folder)
    try:
        run.starts = sorted(path for path in run.folder.iterdir() if STAMP.fullmatch(path.name) and path.is_dir())
    except OSError as error:
        raise ValueError(f'{shown(folder)} cannot be read ({error.strerror}); correct its permissions') from error
    run.records = [one for path in sorted(run.folder.glob('runs/*.json')) if (one := _json(path, run))]
    run.evaluations = _evaluations(run)
    _read_config(run)
    _read_details(run)
    if not (run.starts or run.records or run.evaluations or run.details or run.evaluation.is_dir()):
        raise ValueError(f'{shown(folder)} holds no run: there is no training log (TIMESTAMP/vis_data/*.json), no '
                         f'metrics.json and no {FOLDER}/; {_near(run.folder)}')
    exit_file = run.folder / EXIT_FILE
    run.ended = _json(exit_file, run) if exit_file.is_file() else None
    _read_lock(run)
    return run


def _check_folder(folder: Path) -> None:
    give = 'give the work folder of a training or a test'
    if not folder.exists():
        raise ValueError(f'the folder {shown(folder)} does not exist; {give}')
    if not folder.is_dir():
        raise ValueError(f'{shown(folder)} is a file; {give}')
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(f'the folder {shown(folder)} cannot be read; correct its permissions')
    if (folder / FILE).is_file() and not (folder / FOLDER).is_dir():
        raise ValueError(f'{shown(folder)} is the evaluation of a run; give its work folder, '
                         f'{shown(folder.absolute().parent)}')


def _near(folder: Path) -> str:
    """Work folders below, as what to do next."""
    inside: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (any(path.glob('*/vis_data')) or any(path.glob('metrics.json'))):
            inside.append(shown(path))
    if inside:
        return f'give a work folder below it: {", ".join(inside[:3])}{", ..." if len(inside) > 3 else ""}'
    return 'give the work folder of a training or a test'


def _json(path: Path, run: Run) -> dict[str, Any] | None:
    """A file that holds an object; else None and a note."""
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
        reason = 'it holds no object'
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)[:120]
    name = shown(path.relative_to(run.folder))
    run.notes.append(Note(f'{name} cannot be read ({reason}) and is left out', 'warning'))
    return None


def _evaluations(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """metrics.1.json is the oldest that was kept, metrics.json the latest."""
    found = [(float(match[1] or 'inf'), path) for path in run.folder.glob('metrics*.json')
             if (match := NUMBER.match(path.name))]
    contents = [(path.name, _json(path, run)) for _, path in sorted(found)]
    return [(name, one) for name, one in contents if one]


# --- config -------------------------------------------------------------------------------------------------------


def _read_config(run: Run) -> None:
    """The config of the latest training: its record, else the text that MMEngine writes, of which literals are read."""
    dumped = [path for path in sorted(run.folder.glob('*.py')) if path.is_file()]
    run.config_name = dumped[-1].stem if dumped else ''
    trainings = [start for start in run.starts if any((start / 'vis_data').glob('*.json'))]
    files = [start / 'vis_data' / 'config.py' for start in (trainings or run.starts)[::-1]] + dumped[::-1]
    recorded = next((one['config'] for one in run.records[::-1] if isinstance(one.get('config'), dict)), None)
    file = next((path for path in files if path.is_file()), None)
    if file is not None:
        with contextlib.suppress(OSError):
            run.config_text = file.read_bytes()[:LONGEST].decode('utf-8', 'replace')
    if recorded is not None:
        run.config = recorded
        run.config_text = run.config_text or json.dumps(recorded, indent=1)
        return
    if not run.config_text:
        return
    try:
        run.config = unpacked(dict(cfg=run.config_text))
    except NoConfig as error:
        run.notes.append(Note(f'{shown(file.relative_to(run.folder))} {error}: it is shown as it is'))


# --- evaluation ---------------------------------------------------------------------------------------------------


def _read_details(run: Run) -> None:
    """`evaluation/details.json`, or a note that says how to get one."""
    command = EVALUATE.format(config=run.config_path(), checkpoint=run.checkpoint(), folder=run.folder)
    file = run.evaluation / FILE

    def note(text: str, severity: str = 'warning') -> None:
        run.notes.append(Note(text, severity, command))

    if not file.is_file():
        if run.evaluation.is_dir():
            note(f'{FOLDER}/ has no {FILE}: that evaluation was ended before it was whole')
        else:
            note('This run has no evaluation in detail: there are no intervals, no classes, no errors and no pictures',
                 'note')
        return
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return note(f'{FOLDER}/{FILE} is damaged ({str(error)[:120]}) and is left out')
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        written = content.get('format') if isinstance(content, dict) else None
        which = 'it names no format' if written is None else f'format {str(written)[:40]!r}'
        return note(f'{FOLDER}/{FILE} is of another version of this project ({which}, and {FORMAT} is known) and is '
                    'left out')
    if not _is_whole(content):
        return note(f'{FOLDER}/{FILE} is not whole and is left out')
    run.details = content


def _is_whole(details: Mapping[str, Any]) -> bool:
    """Whether all is there, and of the types that it was written with."""
    of_types = all(isinstance(details.get(name), kind) for name, kind in NEEDED.items()) and all(
        isinstance(details[name], kind) for name, kind in WHERE_THERE.items() if name in details)
    return of_types and bool(details['kinds']) and all(
        kind in KINDS and isinstance(details.get(kind), dict) for kind in details['kinds'])


# --- how it ended -------------------------------------------------------------------------------------------------


def _read_lock(run: Run) -> None:
    """Who holds the lock, and whether that process lives."""
    path = run.folder / LOCK_FILE
    try:
        age = time.time() - path.stat().st_mtime
        holder = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(holder, dict):
        return
    run.holder = holder
    here = holder.get('machine') == machine()
    with contextlib.suppress(TypeError, ValueError):
        run.alive = (process_start(int(holder['pid'])) == holder.get('started')
                     if here and 'pid' in holder else age < STALE_SECONDS)


def here() -> str:
    """The name of this machine."""
    return socket.gethostname()


def planned(config: Mapping[str, Any] | None) -> tuple[str, int] | None:
    """How long a run was meant to be: ('epoch', 12) or ('iteration', 160000)."""
    loop = (config or {}).get('train_cfg')
    for key, unit in (('max_epochs', 'epoch'), ('max_iters', 'iteration')):
        if isinstance(loop, Mapping) and isinstance(loop.get(key), int):
            return unit, loop[key]
    return None


def saved_at(folder: Path) -> Iterator[tuple[str, int]]:
    """What the names of the checkpoints say: ('epoch', 10), ('iteration', 400), ..."""
    for path in folder.iterdir():
        if match := re.fullmatch(r'(epoch|iter)_0*(\d+)(\.pth)?', path.name):
            yield dict(epoch='epoch', iter='iteration')[match[1]], int(match[2])
