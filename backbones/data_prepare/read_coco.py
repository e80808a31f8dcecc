"""COCO files, wherever their pictures lie: read strictly, as in training, and brought into one numbering."""

from __future__ import annotations

import re
from pathlib import Path

from backbones.data.coco_files import load_coco
from backbones.data_prepare.records import Notes, Picture, Pictures, Reading, Thing, agreed_size, fitted, split_of_path


def read_coco(folder: Path, files: list[Path]) -> Reading:
    """Read COCO files; the split is told by the name of a file or its folder.

    Raises:
        ValueError: naming the file and the entry.
    """
    instances = [file for file in files if file.name.startswith('instances_')]
    found, notes = Pictures(folder), Notes()
    classes: list[str] = []
    pictures: dict[str, Picture] = {}
    for file in files if instances else []:
        if file not in instances:
            notes.add('COCO files besides those called instances_* are not read', str(file))
    for file in instances or files:
        content = load_coco(str(file))
        names = {entry['id']: entry['name'] for entry in sorted(content['categories'], key=lambda entry: entry['id'])}
        classes += [name for name in names.values() if name not in classes]
        entries: dict[int | str, list[dict]] = {}
        for entry in content['annotations']:
            entries.setdefault(entry['image_id'], []).append(entry)
        for image in content['images']:
            path = found.find(image['file_name'], file)
            size = agreed_size(path, (image['width'], image['height']), file, notes)
            picture = Picture(path, found.name(path), *size, split=_split_of(file, folder))
            if picture.name in pictures:
                raise ValueError(f'{file} has the picture {picture.name}, which was there before; keep one of the two')
            pictures[picture.name] = picture
            for entry in entries.pop(image['id'], []):
                thing = _thing(entry, names)
                kept = fitted(thing, picture, f'annotation {entry["id"]} in {file}', notes)
                picture.things += [kept] if kept else []
        for image_id in entries:
            notes.add('annotations of pictures that are not listed are left out', f'image_id {image_id} in {file}')
    for path in found.paths:
        if found.name(path) not in pictures:
            notes.add('pictures are in no COCO file and are left out', str(path))
    return Reading(classes, list(pictures.values()), notes)


def _thing(entry: dict, names: dict[int, str]) -> Thing:
    mask = entry.get('segmentation') or []
    return Thing(
        names[entry['category_id']], list(entry['bbox']), polygons=mask if isinstance(mask, list) else [],
        runs=mask if isinstance(mask, dict) else None, crowd=bool(entry.get('iscrowd', 0)),
    )


def _split_of(file: Path, folder: Path) -> str | None:
    words = re.findall('train|val|test', file.stem.lower())
    return words[-1] if words else split_of_path(file.relative_to(folder).as_posix())
