"""LabelMe: one JSON file for each picture, with shapes.

Shapes with one label and one group_id are one object, a circle is given by its centre and a point on it, and a mask by
its first and its last pixel and a PNG:
https://github.com/wkentaro/labelme/blob/c628c0ee4dae9967e46f890d1654697e368d6c5d/labelme/utils/shape.py.
LabelMe turns pictures as their EXIF note says before it shows them.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

from backbones.data.coco_files import decode_json, parse_json
from backbones.data_prepare.records import (
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
    split_of_path,
)

POINTS = dict(rectangle=(2, 4), circle=(2, 2), polygon=(3, None), oriented_rectangle=(4, 4), mask=(2, 2))
WITHOUT_AREA = ('point', 'points', 'line', 'linestrip')
CIRCLE = 64  # corners of the polygon that stands for a circle; its area is 0.16 % too small


def read_labelme(folder: Path, files: list[Path], classes: list[str] | None) -> Reading:
    """Read LabelMe files.

    Args:
        folder: where files and pictures lie, at any depth.
        files: the JSON files.
        classes: the only labels allowed, in their order; None takes those that are met, in alphabetical order.

    Raises:
        ValueError: naming the file and the shape.
    """
    notes, found = Notes(), Pictures(folder)
    pictures: dict[Path, Picture] = {}
    for file in files:
        content, _ = parse_json(decode_json(file.read_bytes(), str(file)), str(file))
        shapes = content.get('shapes') if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            raise ValueError(f"{file} is no LabelMe file: it has no list 'shapes'; remove it")
        path = _picture_of(content, file, found)
        if path in pictures:
            raise ValueError(f'{file} is about the picture {path}, as another file is; keep one of them')
        stated = (content.get('imageWidth'), content.get('imageHeight'))
        size = agreed_size(path, None if None in stated else stated, file, notes)
        name = found.name(path)
        picture = pictures[path] = Picture(path, name, *size, split=split_of_path(name))
        for thing, place in _things(shapes, picture, file, notes):
            if classes is not None and thing.label not in classes:
                raise ValueError(f'{place} has the label {thing.label!r}, which is not one of {classes}; correct it')
            kept = fitted(thing, picture, place, notes)
            picture.things += [kept] if kept else []
    for path in found.paths:
        if path not in pictures:
            notes.add('pictures have no JSON file and are left out', str(path))
    met = sorted({thing.label for picture in pictures.values() for thing in picture.things})
    return Reading(check_classes(classes if classes is not None else met, folder), list(pictures.values()), notes)


def _picture_of(content: dict, file: Path, found: Pictures) -> Path:
    named = content.get('imagePath')
    try:
        return found.find(named, file) if isinstance(named, str) and named else found.beside(file)
    except ValueError as error:
        try:
            return found.beside(file)
        except ValueError:
            if content.get('imageData'):
                raise ValueError(f'{error} (its imageData holds the picture: labelme_export_json writes it)') from None
            raise error from None


def _things(shapes: list, picture: Picture, file: Path, notes: Notes) -> list[tuple[Thing, str]]:
    """Read the shapes of one file; those of one group become one object."""
    groups: dict[Any, list[tuple[dict, str]]] = {}
    for index, shape in enumerate(shapes):
        place = f'shape {index + 1} in {file}'
        if not isinstance(shape, dict) or not isinstance(shape.get('label'), str) or not shape['label'].strip():
            raise ValueError(f'{place} has no label; give it one, or remove it')
        kind, group = shape.get('shape_type') or 'polygon', shape.get('group_id')
        if kind in WITHOUT_AREA:
            notes.add(f'shapes of the type {kind} have no area and are left out', place)
            continue
        if kind not in POINTS:
            known = ', '.join([*POINTS, *WITHOUT_AREA])
            raise ValueError(f'{place} has the shape_type {kind!r:.40}; known are {known}')
        if not isinstance(group, int | str | None):
            raise ValueError(f'{place} has the group_id {group!r:.40}; it must be a number or null')
        key = (index,) if group is None else (shape['label'], group)
        groups.setdefault(key, []).append((shape, place))
    return [(_thing(members, picture, notes), members[0][1]) for members in groups.values()]


def _thing(members: list[tuple[dict, str]], picture: Picture, notes: Notes) -> Thing:
    label = members[0][0]['label'].strip()
    if len(members) > 1:
        notes.add('groups of shapes became one object each', members[0][1])
    if any(shape.get('shape_type') == 'mask' for shape, _ in members):
        return _masked(members, picture, label)
    polygons = [_polygon(shape, place) for shape, place in members]
    return Thing(label, box_of(polygons), polygons)


def _points(shape: dict, place: str) -> list[tuple[float, float]]:
    kind, points = shape.get('shape_type') or 'polygon', shape.get('points')
    least, most = POINTS[kind]
    if not isinstance(points, list) or any(not isinstance(point, list) or len(point) != 2 for point in points):
        raise ValueError(f'{place} has points that are no pairs x, y; correct or remove it')
    if len(points) < least or (most is not None and len(points) > most):
        raise ValueError(f'{place} is a {kind} of {len(points)} points; it needs {least}: correct or remove it')
    return [(number(x, 'the point', place), number(y, 'the point', place)) for x, y in points]


def _polygon(shape: dict, place: str) -> list[float]:
    points, kind = _points(shape, place), shape.get('shape_type') or 'polygon'
    if kind == 'rectangle':
        x, y, width, height = box_of([[value for point in points for value in point]])
        points = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    elif kind == 'circle':
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        turns = [2 * math.pi * step / CIRCLE for step in range(CIRCLE)]
        points = [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
    return [value for point in points for value in point]


def _masked(members: list[tuple[dict, str]], picture: Picture, label: str) -> Thing:
    """Put the shapes of an object with a mask into one mask."""
    import numpy as np
    from PIL import Image, ImageDraw

    from backbones.data.polygons import encode_mask

    canvas = Image.new('1', (picture.width, picture.height))
    for shape, place in members:
        if shape.get('shape_type') == 'mask':
            points = _points(shape, place)
            piece = _png(shape.get('mask'), place, picture)
            canvas.paste(1, (int(points[0][0]), int(points[0][1])), piece)
        else:
            ImageDraw.Draw(canvas).polygon(_polygon(shape, place), fill=1, outline=1)
    mask = np.array(canvas)
    if not mask.any():
        return Thing(label, [0, 0, 0, 0])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1]
    made = encode_mask(mask)
    return Thing(label, box, *((made, None) if isinstance(made, list) else ([], made)))


def _png(text: Any, place: str, picture: Picture):
    """Decode the PNG of a mask, which cannot be larger than its picture."""
    from PIL import Image

    try:
        piece = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=('PNG',))
        if piece.width <= picture.width and piece.height <= picture.height:
            return piece.convert('L').point(lambda value: 255 if value else 0, '1')
    except (TypeError, binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{place} has a mask that is no PNG in base64 ({error}); draw it again') from None
    raise ValueError(f'{place} has a mask larger than its picture; draw it again')
