"""Which other format a folder may be in, by a look at a few of its files: what tools/prepare_data.py converts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

MOST_FOLDERS, MOST_FILES, DEEPEST = 100, 20, 3  # looked into; files of one suffix; folders below the root
START = 1 << 16  # bytes of a file
YOLO_LINE = re.compile(rb'\s*\d+([ \t]+[-+.\deE]+){4,}[ \t]*(\r?\n|$)')  # class, and a box or a polygon
SUFFIXES = ('.txt', '.xml', '.json')


def other_format(root: str) -> str:
    """Return 'YOLO', 'Pascal VOC' or 'LabelMe' where files under `root` look like it, or an empty word."""
    looked = dict.fromkeys(SUFFIXES, 0)
    for file, suffix in _files(root):
        if looked[suffix] < MOST_FILES:
            looked[suffix] += 1
            if found := _format_of(file, suffix):
                return found
    return ''


def is_labelme(file: str) -> bool:
    """Whether a JSON file is about the shapes in one picture."""
    return _format_of(file, '.json') == 'LabelMe'


def _files(root: str) -> Iterator[tuple[str, str]]:
    """The files of an annotation's suffix, those of a folder before those below it."""
    depth = root.rstrip(os.sep).count(os.sep)
    for place, (folder, folders, names) in enumerate(os.walk(root)):
        if place >= MOST_FOLDERS:
            return
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        if folder.rstrip(os.sep).count(os.sep) - depth >= DEEPEST:
            folders.clear()
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES and not name.startswith('.') and os.path.isfile(os.path.join(folder, name)):
                yield os.path.join(folder, name), suffix


def _format_of(file: str, suffix: str) -> str:
    try:
        with open(file, 'rb') as opened:
            start = opened.read(START)
    except OSError:
        return ''
    if suffix == '.txt':
        return 'YOLO' if YOLO_LINE.match(start) else ''
    if suffix == '.xml':
        return 'Pascal VOC' if b'<annotation' in start else ''
    return 'LabelMe' if b'"shapes"' in start and b'"annotations"' not in start else ''
