"""The folder that a prediction writes: results, and a record of what is whole, so that a killed run can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.structures import BaseDataElement

from backbones.config import is_segmenter
from backbones.evaluation.inputs import Picture
from backbones.evaluation.outputs import coco_results, label_png, save_overlay
from backbones.files import unfinished, write_bytes, write_json

RECORD, FORMAT = 'progress.jsonl', 'backbones.predict/1'


def open_out(out: Path, resume: bool) -> list[dict[str, Any]]:
    """Check the folder `out` before any work; give the lines of its record, the first of which says what made it.

    Raises:
        ValueError: it holds something and `resume` is False, or holds something else than predictions.
    """
    filled = out.is_file() or (out.is_dir() and any(out.iterdir()))
    if not filled:
        return []
    if not resume or out.is_file():
        raise ValueError(
            f'--out {out} exists and is not an empty folder; choose a new one, or add --resume to go on with what '
            'tools/predict.py began there')
    lines = _lines(out / RECORD)
    left = unfinished(out) if lines or not (out / RECORD).exists() else []
    if not lines and set(out.iterdir()) == set(left):  # killed before the record was there
        lines = [dict(format=FORMAT)]
    if not lines or lines[0].get('format') != FORMAT:
        raise ValueError(f'--resume: {out} holds no predictions to go on with ({RECORD}); choose a new --out')
    for path in left:
        path.unlink()
    return lines


def _lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a record that are whole."""
    found = []
    try:
        with file.open('rb') as lines:
            for line in lines:
                try:
                    value = json.loads(line) if line.endswith(b'\n') else None
                except ValueError:  # a kill may leave a part of a line
                    continue
                if isinstance(value, dict):
                    found.append(value)
    except FileNotFoundError:
        pass
    return found


class Folder:
    """Writes results of pictures in any order and knows which are there.

    Args:
        out: where to.
        cfg: of the model.
        classes: its class names.
        made_by: what must be the same when a run goes on.
        lines: what `open_out` gave.
        score_threshold: objects below it are not drawn.

    Raises:
        ValueError: the folder was made by another model or with other settings.
    """

    def __init__(self, out: Path, cfg: Config, classes: tuple[str, ...], made_by: dict[str, Any],
                 lines: list[dict[str, Any]], score_threshold: float) -> None:
        self.out, self.classes, self.segments, self._threshold = out, classes, is_segmenter(cfg), score_threshold
        self._header = dict(format=FORMAT, made_by=json.loads(json.dumps(made_by)))
        self._check(lines)
        self._entries = self._whole(lines[1:])
        self._ids = {entry['id'] for entry in self._entries.values()}
        self._record()
        self._file = (out / RECORD).open('ab')

    def _check(self, lines: list[dict[str, Any]]) -> None:
        before = lines[0].get('made_by') if lines else None
        if before is None or before == self._header['made_by']:
            return
        mine = self._header['made_by']
        other = [key for key in mine if not isinstance(before, dict) or before.get(key) != mine[key]]
        raise ValueError(
            f'--resume: {self.out} was begun with another {" and ".join(other) or "record"}; go on with the same, or '
            'choose a new --out')

    def _whole(self, lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The pictures whose results are all there, by title."""
        found: dict[str, dict[str, Any]] = {}
        kept = self._results_by_id() if any(line.get('results') is None for line in lines) else {}
        for line in lines:
            if not {'title', 'name', 'id', 'stamp'} <= set(line):
                continue
            if not self.segments and line.get('results') is None:
                if line['id'] not in kept and kept.get(None) is None:
                    continue
                line['results'] = kept.get(line['id'], [])
            if all(file.is_file() and file.stat().st_size for file in self._files(line['name'])):
                found[line['title']] = line
        return found

    def _results_by_id(self) -> dict[Any, Any]:
        """What a finished run has in `results.json`, by image; with the key None if the file is whole."""
        try:
            content = json.loads((self.out / 'results.json').read_bytes())
            found: dict[Any, Any] = {None: True}
            for entry in content:
                found.setdefault(entry['image_id'], []).append(entry)
            return found
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def _files(self, name: str) -> list[Path]:
        overlay = self.out / 'overlays' / f'{name}.png'
        return [overlay, self.out / 'labels' / f'{name}.png'] if self.segments else [overlay]

    def names(self) -> dict[str, str]:
        """The names that files (videos, not their frames) have in this folder."""
        return {_file(title): _video(entry) for title, entry in self._entries.items()}

    def has(self, title: str) -> bool:
        """Whether the results of a picture are there, and it has not changed since."""
        entry = self._entries.get(title)
        return entry is not None and entry['stamp'] == _stamp(Path(_file(title)))

    def id_of(self, picture: Picture, place: int) -> int:
        """Number of a picture: that it had, else its place among all, else the next that is free."""
        if picture.title in self._entries:
            return self._entries[picture.title]['id']
        number = place if place not in self._ids else max(self._ids) + 1
        self._ids.add(number)
        return number

    def add(self, sample: BaseDataElement, picture: Picture, image_id: int) -> None:
        """Write what was predicted for one picture, then note that it is whole."""
        height, width = sample.ori_shape[:2]
        results = None
        if self.segments:
            write_bytes(self.out / 'labels' / f'{picture.name}.png', label_png(sample, zero_is_ignored=True))
        else:
            results = coco_results(sample, range(1, len(self.classes) + 1), image_id)
        save_overlay(
            sample, self.out / 'overlays' / f'{picture.name}.png', self.classes, score_threshold=self._threshold)
        entry = dict(
            title=picture.title, name=picture.name, id=image_id, height=int(height), width=int(width),
            stamp=_stamp(picture.file), results=results)
        self._entries[picture.title] = entry
        self._file.write(json.dumps(entry).encode() + b'\n')
        self._file.flush()

    def close(self) -> None:
        """Write what stands for all pictures together."""
        self._file.close()
        entries = sorted(self._entries.values(), key=lambda entry: entry['id'])
        if self.segments:
            write_bytes(self.out / 'classes.txt', ''.join(f'{name}\n' for name in self.classes).encode())
        else:
            images = [dict(id=entry['id'], file_name=entry['title'], height=entry['height'], width=entry['width'])
                      for entry in entries]
            categories = [dict(id=number, name=name) for number, name in enumerate(self.classes, start=1)]
            write_json(self.out / 'results.json', [result for entry in entries for result in entry['results']])
            write_json(self.out / 'images.json', dict(images=images, categories=categories), indent=1)
        for entry in entries:
            entry['results'] = None  # they are in results.json
        self._record()

    def _record(self) -> None:
        lines = [self._header, *self._entries.values()]
        write_bytes(self.out / RECORD, b''.join(json.dumps(line).encode() + b'\n' for line in lines))


def _file(title: str) -> str:
    """The file of a picture's title, which for a frame is `file#number`."""
    file, _, number = title.rpartition('#')
    return file if file and number.isdigit() and not os.path.exists(title) else title


def _video(entry: dict[str, Any]) -> str:
    return entry['name'] if _file(entry['title']) == entry['title'] else entry['name'].rpartition('/')[0]


def _stamp(file: Path) -> list[int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
