"""The generated demo data set: COCO files and ADE20K-style label maps of the same pictures, no download.

Every picture shows one to three textured grounds (stuff) and up to eight shaded, turned and partly hidden
shapes (things). Layout under the chosen folder, one copy of the pictures for both kinds of annotation::

    images/{training,validation}/000001.jpg         the pictures
    annotations/instances_{train,val}.json          COCO: the things, crowds included; category ids have gaps
    annotations/{training,validation}/000001.png    label maps: value n is line n of classes.txt, 0 is ignored
    classes.txt                                     the things, then the stuff, one name a line
    demo.json                                       the parameters the set was made with

Things in front hide those behind: masks are the visible parts and never overlap. H W: rows and columns.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .demo_paint import GROUNDS, Look, Shape, choose_look, draw_shape, paint_shape, smooth_noise
from .polygons import encode_mask

THINGS = {'disc': 2, 'ring': 3, 'box': 5, 'triangle': 9, 'star': 12, 'cross': 17}  # name: COCO category id
STUFF = tuple(GROUNDS)
CLASSES = (*THINGS, *STUFF)  # label map value = place in this list + 1
SPLITS = {'train': 'training', 'val': 'validation'}  # name in COCO's files: name of the folders
VERSION = 2  # to be raised with every change of the pixels or files made here

EMPTY, CROWDED = 3, 6  # of every ten pictures, this one has no object and this one has a crowd
DIAMETERS = (15, 84)  # pixels, drawn log-uniformly
MIN_VISIBLE_PART, MIN_VISIBLE_PIXELS = 0.35, 30  # an object shows at least this much of itself


class Thing(NamedTuple):
    """An object to be annotated, or a crowd of tiny ones. `full_area` counts hidden pixels too."""

    name: str
    full_area: int
    crowd: bool


class Scene(NamedTuple):
    """A picture in the making: the painting so far and, for each pixel (H, W), what is seen there."""

    canvas: np.ndarray  # (H, W, 3), 0 to 1
    owner: np.ndarray  # 0 is the ground, n the n-th thing
    ground: np.ndarray  # label value of the ground
    unclear: np.ndarray  # True where a border makes the label uncertain
    things: list[Thing]


class Picture(NamedTuple):
    """A picture: `image` (H, W, 3) uint8, `labels` (H, W) uint8, and a mask (H, W) bool per thing."""

    image: np.ndarray
    labels: np.ndarray
    things: list[Thing]
    masks: list[np.ndarray]


def generate_demo(
    root: str | os.PathLike,
    *,
    num_train: int = 320,
    num_val: int = 80,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write the demo data set into the folder `root`, and do nothing where it is already there.

    The same arguments give the same bytes. The set is written into a temporary folder beside `root` and
    renamed when complete, so an interrupted run leaves no half-written set behind.

    Args:
        root: The folder to make. If it exists, it must be empty or hold this very set.
        num_train: Number of training pictures.
        num_val: Number of validation pictures.
        size: Height and width of every picture in pixels, each 64 to 1024.
        seed: Picture i of a split depends on the seed, the split and i only.
        progress: Whether to report on stderr.

    Returns:
        `root` as a path.

    Raises:
        ValueError: If an argument is out of range, or `root` holds anything but this set.
    """
    parameters = _checked_parameters(num_train, num_val, size, seed)
    root = Path(root)
    if _is_complete(root, parameters):
        return root
    temporary = root.with_name(f'.{root.name}.{os.getpid()}.tmp')
    try:
        for split, count in (('train', num_train), ('val', num_val)):
            _write_split(temporary, split, count, parameters, progress)
        (temporary / 'classes.txt').write_text(''.join(f'{name}\n' for name in CLASSES))
        (temporary / 'demo.json').write_text(json.dumps(parameters, indent=2) + '\n')
        try:
            os.replace(temporary, root)  # works on a missing or empty folder only, and is atomic
        except OSError:
            if not _is_complete(root, parameters):  # unless another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _checked_parameters(num_train: int, num_val: int, size: tuple[int, int], seed: int) -> dict:
    for name, count in (('num_train', num_train), ('num_val', num_val)):
        if not 1 <= int(count) <= 100_000:
            raise ValueError(f'{name}={count} is not allowed; choose 1 to 100000 pictures')
    if len(size) != 2 or not all(64 <= int(side) <= 1024 for side in size):
        raise ValueError(f'size={size} is not allowed; give (height, width), each 64 to 1024 pixels')
    if seed < 0:
        raise ValueError(f'seed={seed} is not allowed; choose 0 or more')
    return dict(
        generator='backbones.data.demo',
        version=VERSION,
        num_train=int(num_train),
        num_val=int(num_val),
        size=[int(side) for side in size],
        seed=int(seed),
    )


def _is_complete(root: Path, parameters: dict) -> bool:
    """Return False where `root` is free, True where the set is there, and raise where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = 'choose another folder, or delete this one first'
    try:
        found = json.loads((root / 'demo.json').read_text())
    except (OSError, ValueError):
        raise ValueError(f'{root} holds other files and is not overwritten; {advice}') from None
    if found != parameters:
        raise ValueError(f'{root} holds a demo set made with {found}, not with {parameters}; {advice}')
    expected = ['classes.txt', *(f'annotations/instances_{split}.json' for split in SPLITS)]
    for split, folder in SPLITS.items():
        for number in range(1, parameters[f'num_{split}'] + 1):
            expected += [f'images/{folder}/{number:06d}.jpg', f'annotations/{folder}/{number:06d}.png']
    missing = [path for path in expected if not (root / path).is_file()]
    if missing:
        raise ValueError(
            f'{root} lacks {len(missing)} files of the demo set, the first is {missing[0]}; {advice}'
        )
    return True


def _write_split(root: Path, split: str, count: int, parameters: dict, progress: bool) -> None:
    folder = SPLITS[split]
    (root / 'images' / folder).mkdir(parents=True)
    (root / 'annotations' / folder).mkdir(parents=True)
    height, width = parameters['size']
    images, annotations = [], []
    for index in range(count):
        number = index + 1
        picture = make_picture(parameters['seed'], split, index, (height, width))
        # 4:4:4 and quality 95: thin coloured borders survive
        Image.fromarray(picture.image).save(
            root / f'images/{folder}/{number:06d}.jpg', quality=95, subsampling=0
        )
        Image.fromarray(picture.labels).save(root / f'annotations/{folder}/{number:06d}.png')
        images.append(dict(id=number, file_name=f'{number:06d}.jpg', height=height, width=width))
        for thing, mask in zip(picture.things, picture.masks, strict=True):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=THINGS[thing.name],
                    iscrowd=int(thing.crowd),
                    bbox=_box(mask),
                    area=int(mask.sum()),
                    segmentation=encode_mask(mask, crowd=thing.crowd),
                )
            )
        if progress and (number % 100 == 0 or number == count):
            print(f'demo data: {folder} {number}/{count}', file=sys.stderr, flush=True)
    categories = [dict(id=number, name=name, supercategory='shape') for name, number in THINGS.items()]
    content = dict(
        info=dict(description='generated demo data set', version=str(VERSION)),
        images=images,
        annotations=annotations,
        categories=categories,
    )
    (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))


def _box(mask: np.ndarray) -> list[int]:
    """Return x, y, width and height of the pixels that are set in `mask` (H, W)."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def make_picture(seed: int, split: str, index: int, size: tuple[int, int]) -> Picture:
    """Make picture `index` of a split: the ground first, then the things from back to front."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    scene = _lay_ground(rng, size)
    if index % 10 != EMPTY:
        if index % 10 == CROWDED:
            _place_crowd(rng, scene)
        _place_objects(rng, scene, first=list(THINGS)[index % len(THINGS)])

    light = rng.uniform(0.85, 1.1) * (1 + 0.08 * smooth_noise(rng, size, 2))
    image = scene.canvas * light[..., None] + rng.normal(0, 0.015, (*size, 3))
    values = np.array([0, *(0 if thing.crowd else CLASSES.index(thing.name) + 1 for thing in scene.things)])
    labels = np.where(scene.owner == 0, scene.ground, values[scene.owner])
    labels[scene.unclear] = 0
    masks = [scene.owner == number + 1 for number in range(len(scene.things))]
    return Picture(np.uint8(np.clip(image, 0, 1) * 255 + 0.5), np.uint8(labels), scene.things, masks)


def _lay_ground(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Start a scene with one to three grounds side by side, parted by wavy borders."""
    height, width = size
    kinds = [
        STUFF[kind] for kind in rng.permutation(len(STUFF))[: rng.choice((1, 2, 3), p=(0.25, 0.5, 0.25))]
    ]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    ramp = ((x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)) / min(size)
    ramp = ramp + 0.08 * smooth_noise(rng, size, 3) + rng.uniform(-0.15, 0.15)  # (H, W)

    canvas = GROUNDS[kinds[0]](rng, size)
    labels = np.full(size, CLASSES.index(kinds[0]) + 1)
    unclear = np.zeros(size, bool)
    borders = (0.0,) if len(kinds) == 2 else (-0.22, 0.22)
    for kind, border in zip(kinds[1:], borders, strict=False):
        distance = (ramp - border) * min(size)  # about pixels, positive on the new ground
        blend = np.clip(distance / 2 + 0.5, 0, 1)[..., None]
        canvas = canvas * (1 - blend) + GROUNDS[kind](rng, size) * blend
        labels[distance > 0] = CLASSES.index(kind) + 1
        unclear |= np.abs(distance) < 1
    return Scene(canvas, np.zeros(size, np.int32), labels, unclear, [])


def _place_objects(rng: np.random.Generator, scene: Scene, first: str) -> None:
    """Put one to eight objects into the scene, `first` among them; big ones tend to lie behind small ones."""
    size = scene.owner.shape
    count = int(np.clip(rng.poisson(4), 1, 8))
    names = [first, *map(str, rng.choice(list(THINGS), count - 1))]
    low, high = DIAMETERS
    diameters = low * (min(high, 0.62 * min(size)) / low) ** rng.uniform(0, 1, count)
    for place in np.argsort(-diameters * rng.uniform(0.6, 1.6, count), kind='stable'):
        name = names[place]
        for _ in range(30):
            margin = 0.3 * diameters[place]  # some objects reach beyond the edge, by a part only
            centre = tuple(rng.uniform(margin, side - margin) for side in size)
            shape = draw_shape(rng, name, diameters[place] / 2, centre, size)
            if _all_stay_visible(shape, scene):
                scene.things.append(Thing(name, shape.full_area, crowd=False))
                _put_on_top(rng, scene, shape, choose_look(rng, name))
                break


def _all_stay_visible(shape: Shape, scene: Scene) -> bool:
    """Tell whether the new object and all older ones show enough when `shape` is put on top."""
    inside = shape.distance < 0
    if inside.sum() < _enough(shape.full_area):
        return False
    shown = np.bincount(scene.owner[~inside], minlength=len(scene.things) + 1)[1:]
    return all(pixels >= _enough(thing.full_area) for pixels, thing in zip(shown, scene.things, strict=True))


def _enough(full_area: int) -> float:
    return max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_PART * full_area)


def _place_crowd(rng: np.random.Generator, scene: Scene) -> None:
    """Put many tiny objects of one class close together, as one crowd."""
    name = str(rng.choice(list(THINGS)))
    size = scene.owner.shape
    middle = rng.uniform(0.25, 0.75, 2) * size
    extent = rng.uniform(0.06, 0.1) * min(size) * np.array((1, 1.5))
    look = choose_look(rng, name)
    scene.things.append(Thing(name, 0, crowd=True))
    for centre in rng.normal(middle, extent, (int(rng.integers(14, 30)), 2)):
        _put_on_top(rng, scene, draw_shape(rng, name, rng.uniform(3.5, 5), tuple(centre), size), look)
    scene.things[-1] = Thing(name, int((scene.owner == len(scene.things)).sum()), crowd=True)


def _put_on_top(rng: np.random.Generator, scene: Scene, shape: Shape, look: Look) -> None:
    """Paint `shape` as the newest thing of the scene; its edge, where two colours blend, is unclear."""
    paint_shape(rng, scene.canvas, shape, look)
    scene.owner[shape.distance < 0] = len(scene.things)
    scene.unclear[shape.distance < 0] = False
    scene.unclear[np.abs(shape.distance) < 0.5] = True
