"""Faults on purpose while checkpoints are written, to rehearse what docs/checkpoints.md promises: `kill@save:0.37`.

    KIND@PLACE[:WHERE[:NUMBER]]
        KIND    kill (SIGKILL), or what the system would say: enospc, edquot, efbig, erofs, eacces, eio
        PLACE   save, last, best, export, rotate
        WHERE   a share of the bytes, 0 to 1 (default 0.5), or a step: mkdir, open, write, fsync, manifest,
                sync-folder, verify, rename, sync-parent, done, trash, remove, rmdir
        NUMBER  in which save, rotation, ... of the process; default: in each

Several are separated by commas. Faults in the training loop (`nan@120`) are in `inject_run.py`.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from backbones.checkpoints import faults
from backbones.checkpoints.faults import reach as fault

__all__ = ['Fault', 'configure', 'fault', 'is_for_files', 'parse']

ERRORS = {name: getattr(errno, name.upper()) for name in ('enospc', 'edquot', 'efbig', 'erofs', 'eacces', 'eio')}
FIRST = dict(save='mkdir', last='open', best='open', export='open', rotate='trash')  # the first step of each place
PLACES = tuple(FIRST)
STEPS = ('mkdir', 'open', 'write', 'fsync', 'manifest', 'sync-folder', 'verify', 'rename', 'sync-parent', 'done',
         'trash', 'remove', 'rmdir')
FORM = re.compile(r'(?P<kind>[a-z]+)@(?P<place>[a-z]+)(:(?P<where>[\d.]+|[a-z-]+)(:(?P<number>\d{1,9}))?)?')


@dataclass(frozen=True)
class Fault:
    """What happens, and where: at a step, or when a share of the bytes is written."""

    kind: str
    place: str
    fraction: float = 0.5
    step: str | None = None
    number: int | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f'{self.kind}@{self.place}:{self.step or self.fraction}' + (f':{self.number}' if self.number else '')


_faults: list[Fault] = []
_happened: list[Fault] = []
_passes: dict[str, int] = {}  # by place, how many were begun
_stop_listening = None


def parse(text: str) -> list[Fault]:
    """Read `kill@save:0.37,enospc@export`.

    Raises:
        ValueError: naming the part that means nothing.
    """
    return [_parse_one(part.strip()) for part in text.split(',') if part.strip()]


def _parse_one(text: str) -> Fault:
    match = FORM.fullmatch(text)
    kind, place = (match['kind'], match['place']) if match else ('', '')
    if place in PLACES and (kind == 'kill' or kind in ERRORS):
        where, number = match['where'] or '0.5', match['number'] and int(match['number'])
        if where in STEPS:
            return Fault(kind, place, step=where, number=number)
        if re.fullmatch(r'[01]|[01]?\.\d+', where) and float(where) <= 1:
            return Fault(kind, place, fraction=float(where), number=number)
    raise ValueError(
        f'fault {text!r}: write KIND@PLACE:WHERE, such as kill@save:0.37, with kill, {", ".join(ERRORS)} at one of '
        f'{", ".join(PLACES)} and a share of the bytes or a step ({", ".join(STEPS)})'
    )


def is_for_files(text: str) -> bool:
    """Whether a fault is one of this module: its place is a word, not the number of an iteration."""
    return re.fullmatch(r'[^@]*@[a-z].*', text.strip()) is not None


def configure(given: str | Iterable[Fault]) -> list[Fault]:
    """Set the faults of this process, in place of those before.

    Returns:
        What is set; an empty list if nothing is.
    """
    global _stop_listening
    found = parse(given) if isinstance(given, str) else list(given)
    _faults[:] = found
    _happened.clear()
    _passes.clear()
    if _stop_listening is not None:
        _stop_listening()
    _stop_listening = faults.listen(_on_reach) if found else None
    return found


def not_happened() -> list[Fault]:
    """The faults of this process that were set and whose place was never reached."""
    return [one for one in _faults if one not in _happened]


def _on_reach(place: str, fraction: float, step: str) -> None:
    """Do what was asked for at this step of a write."""
    if step == FIRST[place]:
        _passes[place] = _passes.get(place, 0) + 1
    for one in _faults:
        there = step == one.step if one.step else fraction >= one.fraction
        if one.place == place and there and one.number in (None, _passes.get(place, 0)):
            _happened.append(one)
            if one.kind == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(ERRORS[one.kind], f'{os.strerror(ERRORS[one.kind])} (injected)')
