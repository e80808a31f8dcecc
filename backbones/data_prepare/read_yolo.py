"""YOLO: a text file for each picture, a line for each object: class index, then a box or a polygon, from 0 to 1.

https://docs.ultralytics.com/datasets/detect/ and https://docs.ultralytics.com/datasets/segment/. Box: centre x,
centre y, width, height; five values with the class. Polygon: x y x y ..., seven and more. All are parts of the picture
as it is displayed, turned by its EXIF note (`exif_size`):
https://github.com/ultralytics/ultralytics/blob/36bac4534f975dd64db9a6f2e3825a95ebd6d492/ultralytics/data/utils.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backbones.data_prepare.records import (
    SPLITS,
    Notes,
    Picture,
    Pictures,
    Reading,
    Thing,
    agreed_size,
    box_of,
    check_classes,
    fitted,
    number,
    read_text,
    split_of_path,
)

CLASS_FILES = ('classes.txt', 'obj.names', 'labels.txt', 'class_names.txt')
NO_LABELS = {*CLASS_FILES, 'readme.txt', 'readme.roboflow.txt', 'readme.dataset.txt', 'license.txt', 'train.txt',
             'val.txt', 'test.txt', 'notes.txt', 'requirements.txt'}
SLACK = 0.01  # of the picture that a coordinate may lie outside; more is another unit
LARGEST_YAML = 1 << 20


def read_yolo(folder: Path, classes: list[str] | None) -> Reading:
    """Read a YOLO data set.

    Args:
        folder: where data.yaml or classes.txt, pictures and text files lie, at any depth.
        classes: class names in the order of their indexes, in place of what lies there.

    Raises:
        ValueError: naming the file and the line.
    """
    notes, found = Notes(), Pictures(folder)
    settings, file = _settings(folder)
    classes = classes if classes is not None else _classes(folder, settings, file)
    splits = _split_folders(settings, folder)
    labels = {path for path in folder.rglob('*.txt') if path.name.lower() not in NO_LABELS}
    labels = {path for path in labels if not any(part.startswith('.') for part in path.relative_to(folder).parts)}
    pictures, used = [], set()
    for path in found.paths:
        text = _labels_of(path, folder, labels)
        name = found.name(path)
        size = agreed_size(path, None, path, notes)
        picture = Picture(path, name, *size, split=_split(path, name, splits))
        pictures.append(picture)
        if text is None:
            notes.add('pictures have no text file: they are read as pictures without objects', str(path))
            continue
        used.add(text)
        picture.things = _read_labels(text, picture, classes, notes)
    for text in sorted(labels - used):
        raise ValueError(
            f'{text} has no picture {text.stem}.* beside it or in images/ in place of labels/; put it there, or remove '
            'the text file'
        )
    if not used:
        raise ValueError(f'{folder} holds no text file of a picture; YOLO has one beside it, or in labels/ for images/')
    return Reading(check_classes(classes, file or folder), pictures, notes)


def yaml_file(folder: Path) -> Path | None:
    """Find data.yaml, or the only other YAML file that speaks of names."""
    files = [folder / name for name in ('data.yaml', 'data.yml', 'dataset.yaml') if (folder / name).is_file()]
    files = files or sorted([*folder.glob('*.yaml'), *folder.glob('*.yml')])
    files = [file for file in files if 'names' in file.read_text(encoding='utf-8', errors='replace')]
    return files[0] if files else None


def class_file(folder: Path) -> Path | None:
    """Find classes.txt in the folder or below."""
    for name in CLASS_FILES:
        files = sorted(folder.rglob(name))
        if files:
            return files[0]
    return None


def _settings(folder: Path) -> tuple[dict, Path | None]:
    import yaml

    file = yaml_file(folder)
    if file is None:
        return {}, None
    if file.stat().st_size > LARGEST_YAML:
        raise ValueError(f'{file} has {file.stat().st_size:,} bytes; it should hold a few settings: remove it')
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f'{file} is not readable as YAML: {" ".join(str(error).split())[:200]}. Correct it') from None
    if not isinstance(content, dict):
        raise ValueError(f'{file} holds no settings such as names: [cat, dog]; correct it')
    return content, file


def _classes(folder: Path, settings: dict, file: Path | None) -> list[str]:
    names = settings.get('names')
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f'{file} has names for {list(names)!r:.80}; give one for each index from 0 on')
        names = [names[index] for index in range(len(names))]
    if isinstance(names, list):
        count = settings.get('nc', len(names))
        if count != len(names):
            raise ValueError(f'{file} has nc: {count!r:.20} and {len(names)} names; correct either')
        return check_classes(names, file)
    text = class_file(folder)
    if text is None or names is not None:
        raise ValueError(
            f"{file or folder} does not name the classes; add names: [cat, dog] to data.yaml, or a classes.txt with "
            'one name a line'
        )
    return check_classes([line.strip() for line in read_text(text).splitlines() if line.strip()], text)


def _split_folders(settings: dict, folder: Path) -> dict[Path, str]:
    """Where data.yaml says that the pictures of each split lie, as far as it is there."""
    roots = [folder, folder / str(settings.get('path') or '.')]
    folders: dict[Path, str] = {}
    for key, split in SPLITS.items():
        values: Any = settings.get(key)
        for value in values if isinstance(values, list) else [values]:
            for root in roots if isinstance(value, str) else []:
                for place in (root / value, root / value.removeprefix('../')):
                    if place.is_dir():
                        folders.setdefault(place.resolve(), split)
    if len(folders) < 2:  # all pictures in one folder for both: no split
        return {}
    return folders


def _split(path: Path, name: str, folders: dict[Path, str]) -> str | None:
    for parent in path.resolve().parents:
        if parent in folders:
            return folders[parent]
    return split_of_path(name)


def _labels_of(path: Path, folder: Path, labels: set[Path]) -> Path | None:
    """Find the text file of a picture: .../images/... -> .../labels/..., or beside it."""
    parts = path.relative_to(folder).with_suffix('.txt').parts
    places = [
        folder.joinpath(*parts[:index], 'labels', *parts[index + 1:])
        for index in reversed(range(len(parts) - 1)) if parts[index].lower() in ('images', 'obj_train_data')
    ]
    places += [path.with_suffix('.txt'), path.parent / 'labels' / path.with_suffix('.txt').name,
               folder / 'labels' / path.with_suffix('.txt').name]
    return next((place for place in places if place in labels), None)


def _read_labels(file: Path, picture: Picture, classes: list[str], notes: Notes) -> list[Thing]:
    things, seen = [], set()
    for line, text in enumerate(read_text(file).splitlines(), 1):
        place = f'line {line} of {file}'
        words = text.split()
        if not words:
            continue
        if tuple(words) in seen:
            notes.add('lines that are there twice are left out', place)
            continue
        seen.add(tuple(words))
        thing = _thing(words, picture, classes, place)
        kept = fitted(thing, picture, place, notes)
        things += [kept] if kept else []
    return things


def _thing(words: list[str], picture: Picture, classes: list[str], place: str) -> Thing:
    index = int(words[0]) if words[0].isdecimal() else -1
    if not 0 <= index < len(classes):
        raise ValueError(
            f'{place} begins with the class {words[0]!r:.20}; indexes go from 0 to {len(classes) - 1} ({classes[-1]}): '
            'correct the line, or the list of classes'
        )
    values = [number(word, 'the value', place) for word in words[1:]]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        hint = ' (six are those of a prediction with its score)' if len(values) == 5 else ''
        raise ValueError(
            f'{place} has {len(words)} values; a box has 5, a polygon of three or more points 7, 9, ...{hint}: '
            'correct it'
        )
    outside = [value for value in values if not -SLACK <= value <= 1 + SLACK]
    if outside:
        raise ValueError(
            f'{place} has the value {outside[0]:g}; all are parts of the picture, from 0 to 1: divide pixels by its '
            'width or height'
        )
    width, height = picture.width, picture.height
    if len(values) == 4:
        x, y, w, h = values
        if w < 0 or h < 0:
            raise ValueError(f'{place} has the width {w:g} and the height {h:g}; both are 0 to 1: correct it')
        return Thing(classes[index], [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height])
    polygon = [value * (height if place_in % 2 else width) for place_in, value in enumerate(values)]
    return Thing(classes[index], box_of([polygon]), [polygon])
