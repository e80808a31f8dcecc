"""A folder of pictures with annotations of another format -> COCO's format in our layout.

    OUT/annotations/instances_{train,val}.json      and      OUT/images/{train,val}/

Our own readers (`read_*.py`) stand on safe parsers: expat without DOCTYPE, yaml.safe_load, our strict JSON. Converter
libraries were tried before, on one toy folder of each format, and none keeps masks and faults as training needs it:

- supervision 0.31 (MIT; clear errors, safe XML, boxes right): draws polygons as bitmaps at rounded corners and traces
  them anew, so that a disc of radius 5 has an IoU of 0.93 with itself and grows from 77.6 to 92 pixels; leaves out
  LabelMe's circles; takes YOLO values in pixels; needs PyAV, 104 MB of video codecs.
- labelformat 0.1.17 (MIT; masks exact): YOLO lines that it cannot read, unknown classes included, vanish with a log
  line; VOC boxes begin one pixel late and have no masks; no LabelMe.
- datumaro 1.13 (MIT; 563 MB installed): its LabelMe is the older XML format; imported neither the VOC nor the YOLO
  folder.
- globox 2.9 (MIT): boxes only. pylabel 0.1.55 requires opencv-python, which clashes with the headless one.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from backbones.data.coco_files import decode_json, load_coco, parse_json
from backbones.data.files import IMAGE_SUFFIXES
from backbones.data_prepare.read_coco import read_coco
from backbones.data_prepare.read_labelme import read_labelme
from backbones.data_prepare.read_voc import read_voc
from backbones.data_prepare.read_yolo import class_file, read_yolo, yaml_file
from backbones.data_prepare.records import Picture, Reading, Thing, check_classes
from backbones.files import write_json

FORMATS = ('coco', 'voc', 'yolo', 'labelme')
PROBES = 20  # files that are looked into to tell a format
PARTS = ('train', 'val')


def convert(
    folder: Path, out: Path, *, form: str = 'auto', val_share: float = 0.1, seed: int = 0, copy: bool = False,
    classes: Sequence[str] | None = None, progress: bool = True,
) -> list[str]:
    """Convert a folder; `out` appears when all is written, or not at all.

    Args:
        folder: pictures and annotations, at any depth.
        out: folder to make; it must not exist, or be empty.
        form: one of `FORMATS`, or 'auto'.
        val_share: part of the pictures that validates, where the folder has no split of its own.
        seed: of that choice.
        copy: copy the pictures instead of linking them.
        classes: names in their order; other names are errors.
        progress: show a bar.

    Returns:
        Lines for the user: what was read, what was odd, and a config block.

    Raises:
        ValueError: naming the file, what is wrong, and what to do.
    """
    _check_arguments(folder, out, val_share)
    form, files = detect(folder, form)
    wanted = check_classes(list(classes), '--classes') if classes is not None else None
    reading = _read(folder, form, files, wanted)
    train, val, said = _split(reading, val_share, seed)
    made = out.with_name(f'.{out.name}.partial')
    if made.exists():
        shutil.rmtree(made)  # of a conversion that was killed
    try:
        for part, pictures in zip(PARTS, (train, val), strict=True):
            _write(made, part, pictures, reading.classes, copy, progress)
            load_coco(str(made / 'annotations' / f'instances_{part}.json'))
        if out.is_dir():
            out.rmdir()
        os.replace(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return _report(reading, form, folder, out, train, val, said)


def _check_arguments(folder: Path, out: Path, val_share: float) -> None:
    if not folder.is_dir():
        raise ValueError(f'--custom {folder} is no folder; name the one with the pictures and annotations')
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ValueError(f'--out {out} is there already; name another one, nothing is overwritten')
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f'--out {out} lies in {folder}, whose pictures would be found twice; name one outside')
    if not 0 < val_share < 1:
        raise ValueError(f'--val-share {val_share} must be more than 0 and less than 1, such as 0.1')


def detect(folder: Path, form: str) -> tuple[str, list[Path]]:
    """Tell the format of a folder, and find its files.

    Raises:
        ValueError: there is none, or there are several.
    """
    found: dict[str, list[Path]] = {}
    xml = _files(folder, '.xml')
    if form in ('auto', 'voc') and any(b'<annotation' in _start(path) for path in xml[:PROBES]):
        found['voc'] = xml
    found |= {kind: files for kind, files in _json_kinds(_files(folder, '.json'), form).items() if files}
    if form == 'yolo' or (form == 'auto' and _looks_like_yolo(folder)):
        found['yolo'] = []
    if len(found) > 1:
        raise ValueError(f'{folder} holds annotations of several formats: {", ".join(found)}; choose one by --format')
    if not found:
        looked = dict(
            voc='XML files with <annotation>', coco="JSON files with 'images' and 'annotations'",
            labelme="JSON files with 'shapes'", yolo='data.yaml or classes.txt',
        )
        what = ', '.join(looked.values()) if form == 'auto' else looked[form]
        raise ValueError(f'{folder} holds no annotations: looked for {what}; name another folder or --format')
    return next(iter(found.items()))


def _start(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(1 << 16)


def _files(folder: Path, suffix: str) -> list[Path]:
    return [path for path in sorted(folder.rglob(f'*{suffix}')) if not path.name.startswith('.')]


def _json_kinds(files: list[Path], form: str) -> dict[str, list[Path]]:
    """Sort JSON files: LabelMe has one for each picture, so a look at some of them tells; COCO has few."""
    labelme = form == 'labelme' or (form == 'auto' and any(_has(path, {'shapes'}) for path in files[:PROBES]))
    looked = files[:PROBES] if labelme else files if form in ('auto', 'coco') else []
    coco = [path for path in looked if _has(path, {'images', 'annotations'})]
    coco = coco or (files if form == 'coco' and len(files) == 1 else [])  # the reader says what is wrong with it
    return dict(labelme=files if labelme else [], coco=coco if form in ('auto', 'coco') else [])


def _looks_like_yolo(folder: Path) -> bool:
    """Tell whether there are class names, and a text file with the name of a picture."""
    if yaml_file(folder) is None and class_file(folder) is None:
        return False
    stems = {path.stem for path in folder.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES}
    return any(path.stem in stems for path in folder.rglob('*.txt'))


def _has(path: Path, keys: set[str]) -> bool:
    """Tell whether a JSON file has some keys; a look at the text spares reading the others."""
    content = path.read_bytes()
    if not all(f'"{key}"'.encode() in content for key in keys) and b'\0' not in content[:4]:
        return False
    try:
        found, _ = parse_json(decode_json(content, str(path)), str(path), unique_keys=False)
    except ValueError:
        return True  # the reader names what is wrong with it
    return isinstance(found, dict) and keys <= found.keys()


def _read(folder: Path, form: str, files: list[Path], classes: list[str] | None) -> Reading:
    if form == 'coco':
        reading = read_coco(folder, files)
        for path in _files(folder, '.json'):
            if path not in files:
                reading.notes.add("JSON files without 'images' and 'annotations' are not read", str(path))
        if classes is not None:
            unknown = [name for name in reading.classes if name not in classes]
            if unknown:
                raise ValueError(f'--classes lacks {unknown[0]!r}, a category of {files[0]}; add it or rename that')
            reading.classes = classes
        return reading
    if form == 'yolo':
        return read_yolo(folder, classes)
    return (read_voc if form == 'voc' else read_labelme)(folder, files, classes)


def _split(reading: Reading, val_share: float, seed: int) -> tuple[list[Picture], list[Picture], str]:
    """Return the pictures of both parts, and how they were told."""
    pictures = sorted(reading.pictures, key=lambda picture: picture.name)
    parts = {part: [picture for picture in pictures if picture.split == part] for part in PARTS}
    if all(parts.values()):
        for picture in pictures:
            if picture.split not in PARTS:
                reading.notes.add('pictures are in neither train nor val and are left out', str(picture.path))
        return parts['train'], parts['val'], 'the split of the folder'
    for picture in pictures if any(parts.values()) else []:
        if picture.split == 'test':
            reading.notes.add('pictures of the test part are left out', str(picture.path))
    pictures = [picture for picture in pictures if picture.split != 'test' or not any(parts.values())]
    if len(pictures) < 2:
        raise ValueError(f'{len(pictures)} picture with annotations was found; it takes two, to train and to score')
    count = min(max(round(val_share * len(pictures)), 1), len(pictures) - 1)
    chosen = set(random.Random(seed).sample(range(len(pictures)), count))
    train = [picture for index, picture in enumerate(pictures) if index not in chosen]
    val = [pictures[index] for index in sorted(chosen)]
    return train, val, f'chosen at random, --val-share {val_share} --seed {seed}'


def _write(made: Path, part: str, pictures: list[Picture], classes: list[str], copy: bool, progress: bool) -> None:
    from tqdm import tqdm

    images, annotations = [], []
    numbers = {name: number for number, name in enumerate(classes, 1)}
    for picture in tqdm(pictures, desc=part, unit=' pictures', disable=not progress):
        target = made / 'images' / part / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(picture.path, target)
        else:
            target.symlink_to(picture.path.resolve())
        image = dict(id=len(images) + 1, file_name=picture.name, width=picture.width, height=picture.height)
        images.append(image)
        for thing in picture.things:
            entry = dict(id=len(annotations) + 1, image_id=image['id'], category_id=numbers[thing.label])
            annotations.append(entry | _mask_and_box(thing) | dict(iscrowd=int(thing.crowd)))
    (made / 'images' / part).mkdir(parents=True, exist_ok=True)
    categories = [dict(id=number, name=name) for name, number in numbers.items()]
    content = dict(images=images, annotations=annotations, categories=categories)
    write_json(made / 'annotations' / f'instances_{part}.json', content)


def _mask_and_box(thing: Thing) -> dict:
    """Give box, mask and area; where there is only a box, it is the mask, too: all our models learn masks."""
    from pycocotools import mask as coco_mask

    x, y, width, height = box = [round(value, 3) for value in thing.box]
    if thing.runs is not None:
        runs = thing.runs
        counts = runs['counts']
        area = float(coco_mask.area(runs)) if isinstance(counts, str) else float(sum(counts[1::2]))
        return dict(bbox=box, segmentation=runs, area=area)
    polygons = [[round(value, 3) for value in polygon] for polygon in thing.polygons]
    polygons = polygons or [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return dict(bbox=box, segmentation=polygons, area=round(sum(map(_area, polygons)), 3))


def _area(polygon: list[float]) -> float:
    xs, ys = polygon[::2], polygon[1::2]
    corners = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in corners)) / 2


def _report(
    reading: Reading, form: str, folder: Path, out: Path, train: list[Picture], val: list[Picture], said: str
) -> list[str]:
    lines = [f'{folder} read as {form}: {len(reading.classes)} classes ({", ".join(reading.classes[:8])}'
             + (', ...)' if len(reading.classes) > 8 else ')')]
    things = [thing for picture in (*train, *val) for thing in picture.things]
    boxes = sum(not thing.polygons and thing.runs is None for thing in things)
    for part, pictures in zip(PARTS, (train, val), strict=True):
        count, empty = sum(len(picture.things) for picture in pictures), sum(not picture.things for picture in pictures)
        lines.append(f'{part}: {len(pictures):,} pictures, {count:,} objects, {empty:,} pictures without any')
    lines.append(f'which picture is in which part: {said}')
    lines += [f'note: {line}' for line in reading.notes.lines()]
    if boxes:
        lines.append(f'note: {boxes:,} of {len(things):,} objects have a box only, which is their mask, too'
                     + ('; the mask AP says nothing about this data' if boxes == len(things) else ''))
    unseen = sorted({thing.label for picture in val for thing in picture.things}
                    - {thing.label for picture in train for thing in picture.things})
    lines += [f'note: {name} is in val only, and cannot be learned' for name in unseen]
    return [*lines, '', f'written: {out}', f'to check it:  python tools/check_data.py {out}', '',
            'at the end of a copy of a config (configs/README.md says where the copy must lie):', '',
            *config_block(out, len(reading.classes)).splitlines()]


def config_block(out: Path, classes: int) -> str:
    """Return the lines that make a config of ours train on the folder."""
    return f"""data_root = {str(out)!r}
train_dataloader = dict(dataset=dict(
    type='backbones.CocoDataset', data_root=data_root,
    ann_file='annotations/instances_train.json', data_prefix=dict(img='images/train')))
val_dataloader = dict(dataset=dict(
    type='backbones.CocoDataset', data_root=data_root,
    ann_file='annotations/instances_val.json', data_prefix=dict(img='images/val')))
val_evaluator = dict(type='backbones.CocoMetric', ann_file=f'{{data_root}}/annotations/instances_val.json')
test_dataloader, test_evaluator = val_dataloader, val_evaluator
classes = 'annotations'  # the {classes} of the files, for every head: docs/classes.md"""
