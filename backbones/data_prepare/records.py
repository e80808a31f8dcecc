"""What the readers of annotation formats give, and what they share: pictures and their sizes, boxes, masks, notes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.data.coco_masks import is_flat
from backbones.data.files import IMAGE_SUFFIXES, shown
from backbones.data.image_headers import read_header
from backbones.data.images import FORMATS, MAX_PIXELS

START = 1 << 18  # bytes of a picture that hold its header, nearly always
NOT_PICTURES = {'SegmentationClass', 'SegmentationObject'}  # folders of VOC with masks that are PNG files


@dataclass
class Thing:
    """One object: box x, y, width, height in pixels from the upper left corner, and polygons or run lengths."""

    label: str
    box: list[float]
    polygons: list[list[float]] = field(default_factory=list)
    runs: dict | None = None
    crowd: bool = False


@dataclass
class Picture:
    """One picture: `name` is its path below the folder; `split` 'train', 'val', another one, or None."""

    path: Path
    name: str
    width: int
    height: int
    things: list[Thing] = field(default_factory=list)
    split: str | None = None


class Notes:
    """What was met and is read correctly, or left out: counted, with the first place."""

    def __init__(self) -> None:
        self._found: dict[str, list[Any]] = {}

    def add(self, text: str, place: str) -> None:
        self._found.setdefault(text, [0, place])[0] += 1

    def lines(self) -> list[str]:
        return [f'{count:,} x {text} (first: {place})' for text, (count, place) in self._found.items()]


@dataclass
class Reading:
    """A folder that was read: class names in their order, and the pictures."""

    classes: list[str]
    pictures: list[Picture]
    notes: Notes


class Pictures:
    """The picture files below a folder, found by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith('.') and name not in NOT_PICTURES)
            for name in sorted(files):
                if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.'):
                    path = Path(parent, name)
                    self.paths.append(path)
                    self._by_name.setdefault(name, []).append(path)
                    self._by_stem.setdefault(path.stem, []).append(path)
        if not self.paths:
            raise ValueError(
                f'{folder} holds no pictures; name a folder with {", ".join(IMAGE_SUFFIXES)} files in it or below '
                '(links to folders are not followed)'
            )

    def find(self, name: str, file: Path) -> Path:
        """Find the picture that an annotation file calls `name`, which may be a path of another computer.

        Raises:
            ValueError: it is not there, or several are.
        """
        name = name.replace('\\', '/')
        for place in (file.parent / name, self.folder / name):
            normal = Path(os.path.normpath(place))
            if normal.is_relative_to(os.path.normpath(self.folder)) and normal.is_file():
                return normal
        return self._only(self._by_name.get(name.rpartition('/')[2], []), name, file)

    def beside(self, file: Path) -> Path:
        """Find the picture with the name of an annotation file: best in its folder.

        Raises:
            ValueError: it is not there, or several are.
        """
        found = self._by_stem.get(file.stem, [])
        near = [path for path in found if path.parent == file.parent]
        return self._only(near or found, f'{file.stem}.*', file)

    def _only(self, found: list[Path], name: str, file: Path) -> Path:
        if not found:
            raise ValueError(
                f'{file} is about the picture {shown(name)}, which is not below {self.folder}; put it there, or remove '
                'the annotation file'
            )
        if len(found) > 1:
            raise ValueError(
                f'{file} is about the picture {shown(name)}, of which there are {len(found)} ({found[0]}, {found[1]}); '
                'give them different names, or convert the folders one by one'
            )
        return found[0]

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def picture_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) as stored and as displayed, turned as the EXIF note says; only the header is read.

    Raises:
        ValueError: it is no picture that training reads.
    """
    try:
        with path.open('rb') as file:
            content = file.read(START)
            try:
                header = read_header(content)
            except ValueError:
                content += file.read()
                header = read_header(content)
    except ValueError as error:
        raise ValueError(f'the picture {shown(path)} {error}; replace or remove it') from None
    if header.format not in FORMATS:
        raise ValueError(
            f'the picture {shown(path)} is a {header.format}; training reads {", ".join(FORMATS)}: convert it'
        )
    width, height = header.width, header.height
    if not 1 <= width * height <= MAX_PIXELS:
        raise ValueError(f'the picture {shown(path)} says that it is {width}x{height} pixels; replace or reduce it')
    turned = (height, width) if _orientation(content) >= 5 else (width, height)
    return (width, height), turned


def _orientation(content: bytes) -> int:
    """EXIF orientation, 1 to 8; 5 and more swap width and height. CIPA DC-008, 4.6.4."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            found = picture.getexif().get(0x112, 1)
    except Exception:  # Pillow's parsers raise whatever comes on damaged files
        return 1
    return found if found in range(1, 9) else 1


def agreed_size(path: Path, stated: tuple[Any, Any] | None, file: Path, notes: Notes) -> tuple[int, int]:
    """Return the (width, height) that the annotations belong to; training takes a picture either way.

    Raises:
        ValueError: the annotation file speaks of another size.
    """
    stored, turned = picture_sizes(path)
    if stored != turned:
        notes.add('pictures are turned by their EXIF note', str(path))
    if stated is None or stated in (turned, (0, 0)):  # some tools write 0 x 0
        return turned
    if stated == stored:
        return stored
    raise ValueError(
        f'{file} is about a picture of {stated[0]}x{stated[1]} (width x height), and {shown(path)} has '
        f'{turned[0]}x{turned[1]}; put the right picture there, or correct the size in the file'
    )


def fitted(thing: Thing, picture: Picture, place: str, notes: Notes) -> Thing | None:
    """Cut box and polygons to their picture; None, with a note, for an object of which nothing is left."""
    polygons = []
    for polygon in thing.polygons:
        if len(polygon) % 2:
            notes.add('polygons with half a point are left out', place)
            continue
        kept = [min(max(value, 0), limit) for value, limit in zip(polygon, _limits(picture, polygon), strict=True)]
        if len(kept) < 6 or is_flat(kept):
            notes.add('polygons without an area are left out', place)
        else:
            polygons.append(kept)
        if any(abs(old - new) > 1 for old, new in zip(polygon, kept, strict=True)):
            notes.add('polygons that reach outside are cut at the border', place)
    x0, y0, x1, y1 = thing.box[0], thing.box[1], thing.box[0] + thing.box[2], thing.box[1] + thing.box[3]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, picture.width), min(y1, picture.height)
    if right - left <= 0 or bottom - top <= 0:
        notes.add('objects without an area in their picture are left out', place)
        return None
    if max(left - x0, top - y0, x1 - right, y1 - bottom) > 1:
        notes.add('boxes that reach outside are cut at the border', place)
    return Thing(thing.label, [left, top, right - left, bottom - top], polygons, thing.runs, thing.crowd)


def _limits(picture: Picture, polygon: Sequence[float]) -> list[int]:
    return [picture.width, picture.height] * (len(polygon) // 2)


def box_of(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Return the box around polygons (x, y, x, y, ...)."""
    xs = [value for polygon in polygons for value in polygon[::2]]
    ys = [value for polygon in polygons for value in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def number(value: Any, what: str, place: str) -> float:
    """Read a finite number; `what` names it in the message.

    Raises:
        ValueError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found) or abs(found) > 1e6:
        raise ValueError(f'{place} has {what} {value!r:.40}, which is no coordinate; correct it')
    return found


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is no such text.
    """
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8 ({error}); save it as UTF-8') from None


def check_classes(names: Sequence[Any], file: Path | str) -> list[str]:
    """Check class names: words, each once.

    Raises:
        ValueError: naming the file.
    """
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if wrong or twice or not names:
        what = f'the class {twice[0]!r:.40} twice' if twice else 'no class'
        what = f'the class name {wrong[0]!r:.40}' if wrong else what
        raise ValueError(f'{file} has {what}; class names are words (in quotes where YAML needs it), each there once')
    return list(names)


SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}


def split_of_path(name: str) -> str | None:
    """Tell the split from the folders of a path: train/, val/, valid/, test/, train2017/, ..."""
    for part in reversed(name.split('/')[:-1]):
        word = part.lower().rstrip('0123456789')
        if word in SPLITS:
            return SPLITS[word]
    return None
