"""A repaired copy of a data set: what can be put right without a guess is, all else is left alone and listed."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.files import missing_files, shown, some
from ..data.label_files import read_label_map
from ..files import write_bytes
from .check import check_root
from .label_facts import colours_of
from .label_maps import Maps, look_at_maps, pair
from .label_reading import ClassList, Reading, choose_reading, read_classes
from .layout import CocoSplit, Layout, picture_folder, recognise
from .looking import Looker
from .pictures import look_at_picture

Lines = tuple[list[str], list[str]]


def check_out(root: str, out: str) -> None:
    """Refuse a place for the copy before the work.

    Raises:
        ValueError: it is there and not empty, lies in the data set, or its parent is not there.
    """
    target = Path(out)
    if Path(os.path.realpath(root)) in [Path(os.path.realpath(out)), *Path(os.path.realpath(out)).parents]:
        raise ValueError(f'--fix {out} lies in the data set itself; name a new folder outside of {root}')
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f'--fix {out} is there already and is no empty folder; name a new one')
    if not target.absolute().parent.is_dir():
        raise ValueError(f'--fix {out}: the folder {target.parent} does not exist; make it first')


def repair_root(root: str, out: str, looker: Looker) -> Lines:
    """Write a repaired copy of the data set under `root` to `out`; pictures are hard links where that is possible.

    Returns:
        What was repaired, and what was left alone: files that are not copied, and the errors and warnings that a look
        at the copy finds; lines.
    """
    try:
        layout = recognise(root)
    except ValueError as error:
        return [], [str(error)]
    check_out(root, out)
    os.makedirs(out, exist_ok=True)
    copied: set[str] = set()
    done: list[str] = []
    left: list[str] = []
    for split in layout.coco:
        _add((done, left), _repair_coco(split, layout, out, looker, copied))
    if layout.label_maps:
        _add((done, left), _repair_label_maps(layout, out, looker, copied))
    found = [finding for outcome in check_root(out, looker=looker) for finding in outcome.findings]
    left += [f'{shown(finding.file or out)}{"" if finding.id is None else f", id {shown(finding.id)}"}: '
             f'{finding.message}; {finding.remedy}' for finding in found if finding.severity != 'note']
    return done, left


def _add(lines: Lines, more: Lines) -> None:
    for mine, new in zip(lines, more, strict=True):
        mine.extend(new)


def _inside(path: str, root: str) -> str | None:
    """Return the path relative to `root`, or None where it leads out of it."""
    relative = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
    return None if relative.split(os.sep)[0] == os.pardir else relative


def _link(path: str, target: str, copied: set[str]) -> None:
    """Put a file into the copy, as a hard link where the file system can."""
    if target in copied:
        return
    copied.add(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    source = os.path.realpath(path)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy_pictures(paths: Iterable[str], root: str, out: str, copied: set[str]) -> list[str]:
    """Copy the pictures that are there and lie in the data set; return a line about those outside."""
    paths = list(dict.fromkeys(paths))
    missing = set(missing_files(paths))
    outside = []
    for path in paths:
        relative = _inside(path, root)
        if relative is None:
            outside.append(path)
        elif path not in missing:
            _link(path, os.path.join(out, relative), copied)
    where = f'{len(outside)} pictures lie outside of the data set and are not copied, such as {some(outside)}'
    return [where] if outside else []


def _repair_coco(split: CocoSplit, layout: Layout, out: str, looker: Looker, copied: set[str]) -> Lines:
    from .annotations import read_annotations
    from .repair_coco import repair_coco

    target = os.path.join(out, os.path.relpath(split.file, layout.root))
    content, _, _ = read_annotations(split.file)
    stated = _stated_sizes(content)
    folder = picture_folder(split, list(stated))
    done, _ = repair_coco(split.file, target, _true_sizes(stated, folder, split.name, looker))
    if not os.path.isfile(target):
        _link(split.file, target, copied)
    kept = _stated_sizes(read_annotations(target)[0])
    return list(done), _copy_pictures((os.path.join(folder, name) for name in kept), layout.root, out, copied)


def _stated_sizes(content: Any) -> dict[str, Any]:
    """Return (width, height) of the pictures of an annotation file by their names, whatever else the file holds."""
    images = content.get('images') if isinstance(content, dict) else None
    entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
    return {entry['file_name']: (entry.get('width'), entry.get('height')) for entry in entries
            if isinstance(entry.get('file_name'), str) and entry['file_name'] and '\0' not in entry['file_name']}


def _true_sizes(stated: Mapping[str, Any], folder: str, name: str, looker: Looker) -> dict[str, tuple[int, int]]:
    """Return the sizes of the pictures that can be read."""
    paths = {file: os.path.join(folder, file) for file in stated}
    missing = set(missing_files(paths.values()))
    there = [file for file, path in paths.items() if path not in missing]
    found = looker.look(look_at_picture, [paths[file] for file in there], f'pictures {name}')
    return {file: stated[file] if stated[file] in facts.sizes() else facts.sizes()[0]
            for file, facts in zip(there, found, strict=True) if facts.fault is None}


def _repair_label_maps(layout: Layout, out: str, looker: Looker, copied: set[str]) -> Lines:
    all_maps, left = [], []
    for split in layout.label_maps:
        maps = pair(split)
        left += [f'{shown(finding.file)}: {finding.message}; it is not copied' for finding in maps.findings]
        look_at_maps(maps, looker, None)
        left += _copy_pictures(maps.pictures, layout.root, out, copied)
        all_maps.append(maps)
    classes = read_classes(layout.classes_file)
    values = [[value for value, _ in facts.values] for maps in all_maps for facts in maps.facts.values()
              if facts.fault is None]
    reading = choose_reading(values, classes)
    done = _repair_classes(classes, layout.classes_file, out, copied)
    for maps in all_maps:
        done += _repair_maps(maps, layout.root, out, classes, reading, copied)
    return done, left


def _repair_classes(classes: ClassList, file: str, out: str, copied: set[str]) -> list[str]:
    target = os.path.join(out, os.path.basename(file))
    if classes.colours:
        write_bytes(target, ('\n'.join(classes.names) + '\n').encode())
        return [f'{shown(file)}: the colours are taken out']
    if os.path.isfile(file):
        _link(file, target, copied)
    return []


def _repair_maps(maps: Maps, root: str, out: str, classes: ClassList, reading: Reading, copied: set[str]) -> list[str]:
    done = []
    for path, facts in maps.facts.items():
        target = os.path.join(out, _inside(path, root) or os.path.basename(path))
        labels = None
        if facts.colours and classes.colours:
            labels, line = _from_colours(path, classes, reading), 'its colours are now the numbers of the classes'
        elif facts.fault is None and facts.mode.startswith(('I', 'F')) and not any(
                reading.is_wrong(value) for value, _ in facts.values) and facts.distinct <= len(facts.values):
            labels, line = read_label_map(path), f'8 bits a pixel in place of mode {facts.mode}'
        if labels is None:
            _link(path, target, copied)
        else:
            write_bytes(target, _as_png(labels.astype(np.uint8)))
            done.append(f'{shown(path)}: {line}')
    return done


def _from_colours(path: str, classes: ClassList, reading: Reading) -> np.ndarray | None:
    """Return the numbers of the classes (H, W), or None where a colour is not listed or is that of two classes."""
    found = colours_of(Path(path).read_bytes())  # (H, W)
    numbers = {red << 16 | green << 8 | blue: place + reading.reduce_zero_label
               for place, (red, green, blue) in enumerate(classes.colours)}
    if len(numbers) < len(classes.colours) or not set(np.unique(found).tolist()) <= set(numbers):
        return None
    labels = np.zeros(found.shape, np.uint8)
    for colour, value in numbers.items():
        labels[found == colour] = value
    return labels


def _as_png(labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, 'PNG')
    return buffer.getvalue()
