"""COCO annotation files, read as strict JSON and checked once: what passed is remembered by its content."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.fileio import get_local_path

from ..files import write_json
from . import coco_checks, coco_masks
from .files import is_local

# What has been parsed and checked, by the true path of the file, with its state before it was read; None: kept nowhere.
_handed_over: dict[str, tuple[tuple[int, ...], dict]] | None = None


def load_coco(file: str, backend_args: Mapping[str, Any] | None = None) -> dict:
    """Read and check an annotation file.

    A file that passed before (the same bytes, the same checks) is not checked again: see `cache_folder`.

    Raises:
        ValueError: naming the file, the entry, and what is wrong.
    """
    content = _taken(file, backend_args)
    if content is not None:
        return content
    raw = _read(file, backend_args)
    passed = cache_folder() / f'{hashlib.sha256(raw).hexdigest()}.{checks_version()}.json'
    known = passed.is_file()
    text = decode_json(raw, file)
    del raw  # with it the text would be there twice
    content, words = parse_json(text, file, unique_keys=not known)
    del text
    if known:
        content.setdefault('annotations', [])
        return content
    coco_checks.check_content(content, file)
    if words:
        raise ValueError(f'{file} holds the word {words[0]}, which is no number of JSON; correct or remove it')
    with suppress(OSError):  # a home that cannot be written to: checked again next time
        write_json(passed, dict(file=os.path.abspath(file), annotations=len(content['annotations'])))
    return content


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within it, the next `load_coco` of a file takes what `hand_over` was given of it; the rest is freed at the end.

    A file of the size of COCO's takes half a minute and 3 GB to parse, and preflight needs it for its checks and for
    the data set.
    """
    global _handed_over
    before, _handed_over = _handed_over, {}
    try:
        yield
    finally:
        _handed_over = before


def hand_over(file: str, state: tuple[int, ...] | None, content: dict) -> None:
    """Keep the content of a file that has passed all checks, where somebody wants it (`parsed_once`).

    Args:
        file: path.
        state: of the file before it was read, by `state_of_file`; another one by the time of loading is read anew.
        content: which the caller leaves as it is from now on.
    """
    if _handed_over is not None and state is not None:
        _handed_over[os.path.realpath(file)] = state, content


def _taken(file: str, backend_args: Mapping[str, Any] | None) -> dict | None:
    """What was handed over of a file that is still the same; it is given away, as who loads a file may change it."""
    if not _handed_over or not is_local(file, backend_args):
        return None
    state, content = _handed_over.pop(os.path.realpath(file), (None, None))
    return content if state is not None and state == state_of_file(file) else None


def state_of_file(file: str) -> tuple[int, ...] | None:
    """What changes when a file is written to or replaced; None where it is not there."""
    with suppress(OSError, ValueError):
        state = os.stat(file)
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
    return None


def cache_folder() -> Path:
    """Where it is remembered which files passed: `mmbackbones/annotations` in the user's folder for caches."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmbackbones' / 'annotations'


@cache
def checks_version() -> str:
    """Hash of the checks' own source: a change of them makes every file unknown again."""
    parts = (Path(file).read_bytes() for file in (coco_checks.__file__, coco_masks.__file__, __file__))
    return hashlib.sha256(b''.join(parts)).hexdigest()[:16]


def _read(file: str, backend_args: Mapping[str, Any] | None) -> bytes:
    with get_local_path(file, backend_args=backend_args) as path:
        return Path(path).read_bytes()


def decode_json(raw: bytes, file: str) -> str:
    """Return the text of a JSON file in UTF-8, -16 or -32."""
    try:
        return raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        raise ValueError(f'{file} is not readable as JSON, it is no text: {error}. Get or write it again') from error


def parse_json(text: str, file: str, unique_keys: bool = True) -> tuple[Any, list[str]]:
    """Parse JSON.

    Args:
        text: the file.
        file: its name, for the messages.
        unique_keys: refuse an object with a key twice, of which Python would keep the last.

    Returns:
        The content, and the words NaN, Infinity, -Infinity it holds: they are no JSON, but the checks name their place.

    Raises:
        ValueError: it is no JSON.
    """
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        made = dict(pairs)
        if len(made) != len(pairs) and not twice:
            twice.append(Counter(key for key, _ in pairs).most_common(1)[0][0])
        return made

    words: list[str] = []

    def note(word: str) -> float:
        words.append(word)
        return float(word)

    collects = gc.isenabled()
    gc.disable()  # no cycle can arise, and the collector would walk millions of numbers again and again
    try:
        content = json.loads(text, parse_constant=note, object_pairs_hook=unique if unique_keys else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{file} is not readable as JSON, it may be cut off or another file: {error}. Get or write it again'
        ) from error
    finally:
        if collects:
            gc.enable()
    if twice:
        raise ValueError(f'{file} has an object that holds {twice[0]!r:.40} twice; keep one of the two values')
    return content, words
