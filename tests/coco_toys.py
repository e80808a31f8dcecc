"""Toy annotation files for the tests of this folder: a sound one, random sound ones, and ways to spoil them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

H, W = 40, 50
NAN, INF = float('nan'), float('inf')
CLASSES = ('disc', 'box', 'star')


def square(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def runs(x: int, y: int, width: int, height: int, string: bool = True) -> dict:
    """Run lengths of a rectangle."""
    mask = np.zeros((H, W), np.uint8, order='F')
    mask[y:y + height, x:x + width] = 1
    if string:
        return dict(size=[H, W], counts=coco_mask.encode(mask)['counts'].decode())
    flat = np.concatenate([[0], mask.ravel(order='F'), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return dict(size=[H, W], counts=np.diff(np.concatenate([[0], ends])).tolist())


def annotation(number: int, image: int = 1, category: int = 1, box: tuple = (1, 2, 10, 10), **changes) -> dict:
    return dict(id=number, image_id=image, category_id=category, iscrowd=0, area=box[2] * box[3], bbox=list(box),
                segmentation=[square(*box)]) | changes


def content() -> dict:
    """Three pictures, the last without objects; polygons, run lengths of both forms, and a crowd."""
    return dict(
        images=[dict(id=n, file_name=f'{n}.png', height=H, width=W) for n in (1, 2, 3)],
        categories=[dict(id=n + 1, name=name) for n, name in enumerate(CLASSES)],
        annotations=[
            annotation(1, 1, 1), annotation(2, 1, 2, (20, 5, 12, 30)),
            annotation(3, 2, 3, (5, 5, 20, 10), segmentation=runs(5, 5, 20, 10)),
            annotation(4, 2, 1, (10, 20, 30, 15), segmentation=runs(10, 20, 30, 15, False), iscrowd=1),
            annotation(5, 2, 2, (0, 0, 8, 8), segmentation=[square(0, 0, 8, 3), square(0, 5, 8, 3)], area=48),
        ])


def random_content(seed: int) -> dict:
    draw = random.Random(seed)
    images = [dict(id=n * 7, file_name=f'p{n}.png', height=H, width=W) for n in range(1, 6)]
    annotations = []
    for number in draw.sample(range(1, 500), 12):
        x, y = draw.randint(0, W - 12), draw.randint(0, H - 12)
        width, height = draw.randint(2, W - x), draw.randint(2, H - y)
        form = draw.choice(['polygon', 'string', 'list'])
        mask = [square(x, y, width, height)] if form == 'polygon' else runs(x, y, width, height, form == 'string')
        annotations.append(annotation(
            number, draw.choice(images)['id'], draw.randint(1, 3), (x, y, width, height), segmentation=mask,
            iscrowd=0 if form == 'polygon' else draw.randint(0, 1)))
    return dict(images=images, categories=content()['categories'], annotations=annotations)


def write(path: Path, file: dict) -> Path:
    path.write_text(json.dumps(file))
    return path


def at(kind: str, number: int, **changes) -> Callable[[dict], None]:
    """Change the entry of this id; a value of `...` takes the key away."""

    def change(file: dict) -> None:
        entry = next(entry for entry in file[kind] if entry['id'] == number)
        for key, value in changes.items():
            if value is ...:
                del entry[key]
            else:
                entry[key] = value

    return change


def first(**changes) -> Callable[[dict], None]:
    """Change annotation 1 (polygon, box 1, 2, 10, 10)."""
    return at('annotations', 1, **changes)


def copy_of(kind: str, number: int, **changes) -> Callable[[dict], None]:
    def change(file: dict) -> None:
        entry = next(entry for entry in file[kind] if entry['id'] == number)
        file[kind].append({**json.loads(json.dumps(entry)), **changes})

    return change
