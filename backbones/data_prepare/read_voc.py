"""Pascal VOC: one XML file for each picture, and masks in SegmentationObject/ or as polygons.

VOC counts pixels from 1 and the last one is part of the box:
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html. A file with a 0 in it was written by a tool that
counts from 0; then all files of the folder are read so.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
import xml.parsers.expat
from pathlib import Path

from backbones.data_prepare.records import (
    Notes,
    Picture,
    Pictures,
    Reading,
    Thing,
    agreed_size,
    check_classes,
    fitted,
    number,
    read_text,
    split_of_path,
)

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
LARGEST = 16 << 20  # bytes of one XML file


def read_voc(folder: Path, files: list[Path], classes: list[str] | None) -> Reading:
    """Read VOC files.

    Args:
        folder: where files and pictures lie, at any depth.
        files: the XML files.
        classes: the only names allowed, in their order; None takes those that are met, in alphabetical order.

    Raises:
        ValueError: naming the file and the object.
    """
    notes, found = Notes(), Pictures(folder)
    roots = {file: parse_xml(file) for file in files}
    from_zero = _counts_from_zero(roots, notes)
    splits = _image_sets(folder)
    pictures: dict[Path, Picture] = {}
    for file, root in roots.items():
        named = (root.findtext('filename') or '').strip()
        path = _picture_of(file, named, found)
        if path in pictures:
            raise ValueError(f'{file} is about the picture {path}, as another file is; keep one of them')
        size = agreed_size(path, _stated_size(root, file), file, notes)
        name = found.name(path)
        picture = Picture(path, name, *size, split=splits.get(path.stem) if splits else split_of_path(name))
        pictures[path] = picture
        masks = _object_masks(file, size)
        for index, entry in enumerate(root.iter('object')):
            place = f'object {index + 1} in {file}'
            thing = _thing(entry, from_zero, place)
            if classes is not None and thing.label not in classes:
                raise ValueError(f'{place} has the class {thing.label!r}, which is not one of {classes}; correct it')
            if masks is not None:
                _take_mask(thing, masks, index + 1, place, notes)
            if thing.crowd:
                notes.add("objects marked 'difficult' become iscrowd: neither learned nor counted as a miss", place)
            kept = fitted(thing, picture, place, notes)
            picture.things += [kept] if kept else []
    for path in found.paths:
        if path not in pictures:
            notes.add('pictures have no XML file and are left out', str(path))
    met = sorted({thing.label for picture in pictures.values() for thing in picture.things})
    return Reading(check_classes(classes if classes is not None else met, folder), list(pictures.values()), notes)


def parse_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file that defines no entities, so that it cannot grow or reach for other files.

    Raises:
        ValueError: naming the file.
    """
    if file.stat().st_size > LARGEST:
        raise ValueError(f'{file} has {file.stat().st_size:,} bytes; an annotation of one picture has less: remove it')

    def refuse(*_: object) -> None:
        raise ValueError(f'{file} has a DOCTYPE, and may define entities, which annotations need not; remove it')

    content = file.read_bytes()
    try:
        looking = xml.parsers.expat.ParserCreate()
        looking.StartDoctypeDeclHandler = refuse
        looking.Parse(content, True)
        root = ElementTree.fromstring(content)
    except (xml.parsers.expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(f'{file} is not readable as XML: {error}. Get or write it again') from None
    if root.tag != 'annotation':
        raise ValueError(f'{file} is no Pascal VOC file: it begins with <{root.tag}>, not <annotation>; remove it')
    return root


def _picture_of(file: Path, named: str, found: Pictures) -> Path:
    """Find the picture: of the name of the XML file, which tools keep right, else as the file says."""
    try:
        return found.beside(file)
    except ValueError:
        if not named:
            raise
        return found.find(named, file)


def _stated_size(root: ElementTree.Element, file: Path) -> tuple[int, int] | None:
    size = root.find('size')
    if size is None:
        return None
    width, height = (number(size.findtext(key), key, f'the size in {file}') for key in ('width', 'height'))
    return int(width), int(height)


def _counts_from_zero(roots: dict[Path, ElementTree.Element], notes: Notes) -> bool:
    for file, root in roots.items():
        for box in root.iter('bndbox'):
            for key in CORNERS[:2]:
                if number(box.findtext(key), key, f'a box in {file}') < 1:
                    notes.add('files count pixels from 0, not from 1 as VOC; all are read so', str(file))
                    return True
    return False


def _thing(entry: ElementTree.Element, from_zero: bool, place: str) -> Thing:
    label, box = (entry.findtext('name') or '').strip(), entry.find('bndbox')
    if not label:
        raise ValueError(f'{place} has no name of its class; add it')
    if box is None:
        raise ValueError(f'{place} ({label}) has no bndbox; add it')
    x0, y0, x1, y1 = (number(box.findtext(key), key, f'{place} ({label})') for key in CORNERS)
    if x1 < x0 or y1 < y0:
        raise ValueError(f'{place} ({label}) has a box from {x0:g}, {y0:g} to {x1:g}, {y1:g}: min and max are swapped')
    first, extra = (0, 0) if from_zero else (1, 1)
    box = [x0 - first, y0 - first, x1 - x0 + extra, y1 - y0 + extra]
    difficult = (entry.findtext('difficult') or '0').strip() not in ('0', '')
    return Thing(label, box, _polygons(entry, first, place), crowd=difficult)


def _polygons(entry: ElementTree.Element, first: int, place: str) -> list[list[float]]:
    """Read <polygon><x1>..</x1><y1>..</y1>...</polygon>, or <pt><x>..</x><y>..</y></pt> in it."""
    polygons = []
    for element in entry.findall('polygon'):
        points = [(point.findtext('x'), point.findtext('y')) for point in element.findall('pt')]
        count = 1
        while not element.findall('pt') and element.find(f'x{count}') is not None:
            points.append((element.findtext(f'x{count}'), element.findtext(f'y{count}')))
            count += 1
        polygons.append([number(value, 'in its polygon', place) - first for point in points for value in point])
    return [polygon for polygon in polygons if polygon]


def _object_masks(file: Path, size: tuple[int, int]):
    """Read SegmentationObject/NAME.png (H, W), where pixel n belongs to object n; None if there is none."""
    import numpy as np
    from PIL import Image

    path = file.parent.parent / 'SegmentationObject' / f'{file.stem}.png'
    if not path.is_file():
        return None
    try:
        with Image.open(path) as picture:
            if picture.size != tuple(size):
                raise ValueError(
                    f'{path} is {picture.size[0]}x{picture.size[1]}, and its picture {size[0]}x{size[1]}; put the '
                    'right one there'
                )
            if picture.mode not in ('P', 'L'):
                raise ValueError(f'{path} has colours of mode {picture.mode}; give the palette PNG of VOC')
            return np.array(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path} is not readable as a PNG ({error}); get it again') from None


def _take_mask(thing: Thing, masks, value: int, place: str, notes: Notes) -> None:
    from backbones.data.polygons import encode_mask

    mask = masks == value
    if not mask.any():
        notes.add('objects have no pixel in SegmentationObject; their mask is their box', place)
        return
    made = encode_mask(mask)
    thing.polygons, thing.runs = (made, None) if isinstance(made, list) else ([], made)


def _image_sets(folder: Path) -> dict[str, str]:
    """Read ImageSets/*/train.txt and val.txt: the stem of a picture -> its split."""
    splits: dict[str, str] = {}
    for split in ('val', 'train'):
        for file in sorted(folder.glob(f'**/ImageSets/*/{split}.txt')):
            for line in read_text(file).splitlines():
                if line.strip():
                    splits[line.split()[0]] = split
    return splits
