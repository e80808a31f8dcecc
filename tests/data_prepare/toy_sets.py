"""A data set of a few tiny pictures in zip archives, and folders in foreign formats, for the tests of data_prepare."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from backbones.data_prepare.archives import Archive, DataSet

BOX = '0 0.5 0.5 0.25 0.2'  # a line of YOLO; of 40 x 30 pixels: 15, 12, 10, 6
TRAIN = {f'train2017/{number:012}.jpg': bytes([number]) * (1000 + number) for number in range(1, 9)}
VAL = {f'val2017/{number:012}.jpg': bytes([number]) * 700 for number in range(1, 4)}
FILES = {f'annotations/instances_{part}2017.json': b'{"images": []}' for part in ('train', 'val')}
OTHERS = {'annotations/captions_val2017.json': b'{}'}  # lies in the archive and is not wanted


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, 'w', compression) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)  # with the date of all archives of any process
            info.compress_type = compression
            archive.writestr(info, content)
    return made.getvalue()


CONTENTS = {
    'annotations_trainval2017.zip': zipped({**FILES, **OTHERS}),
    'val2017.zip': zipped(VAL),
    'train2017.zip': zipped(TRAIN),
}


def toy_set(address: str = 'http://127.0.0.1:9', contents: Mapping[str, bytes] = CONTENTS) -> DataSet:
    """Describe a COCO of 8 + 3 pictures whose archives lie at `address`."""
    fills = {'annotations_trainval2017.zip': tuple(FILES), 'val2017.zip': ('val2017',), 'train2017.zip': ('train2017',)}
    wanted = {
        'annotations_trainval2017.zip': r'annotations/instances_(train|val)2017\.json',
        'val2017.zip': r'val2017/\d{12}\.jpg',
        'train2017.zip': r'train2017/\d{12}\.jpg',
    }
    archives = tuple(
        Archive(
            url=f'{address}/{name}', size=len(content), digests=dict(sha256=hashlib.sha256(content).hexdigest()),
            wanted=wanted[name], fills=fills[name], unpacked=10_000, most=100_000,
        )
        for name, content in contents.items()
    )
    return DataSet(
        title='toy COCO', folder='coco', archives=archives,
        pictures={'train2017': ('.jpg', len(TRAIN)), 'val2017': ('.jpg', len(VAL))}, files=tuple(FILES),
        home='http://127.0.0.1', check='coco', config='configs/toy.py',
    )


def write_all(folder: Path, members: Mapping[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def picture(path: Path, width: int = 40, height: int = 30, turn: int = 1) -> Path:
    """Write a picture, with an EXIF note that turns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turn > 1:
        exif[0x112] = turn
    Image.new('RGB', (width, height), (90, 120, 60)).save(path, exif=exif)
    return path


def write_voc(folder: Path, stem: str, objects: str = '', size: tuple[int, int] = (40, 30)) -> Path:
    """Write a picture and its VOC file."""
    picture(folder / 'JPEGImages' / f'{stem}.jpg')
    file = folder / 'Annotations' / f'{stem}.xml'
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'<annotation><filename>{stem}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>'
        f'{objects}</annotation>'
    )
    return file


def voc_object(name: str, x0: float, y0: float, x1: float, y1: float, more: str = '') -> str:
    return (
        f'<object><name>{name}</name>{more}<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>'
        f'<ymax>{y1}</ymax></bndbox></object>'
    )


def write_labelme(folder: Path, stem: str, shapes: list[dict], **more: object) -> Path:
    """Write a picture and its LabelMe file."""
    picture(folder / f'{stem}.jpg')
    file = folder / f'{stem}.json'
    content = dict(version='5.5.0', flags={}, shapes=shapes, imagePath=f'{stem}.jpg', imageData=None,
                   imageHeight=30, imageWidth=40)
    file.write_text(json.dumps(content | more))
    return file


def shape(kind: str, points: list, label: str = 'cat', group: int | None = None, **more: object) -> dict:
    return dict(label=label, points=points, group_id=group, shape_type=kind, flags={}) | more


def write_yolo(folder: Path, labels: Mapping[str, str], names: str = '[cat, dog]') -> Path:
    """Write data.yaml, and a picture with its text for each of `labels`."""
    for stem, text in labels.items():
        picture(folder / 'images' / f'{stem}.jpg')
        file = folder / 'labels' / f'{stem}.txt'
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (folder / 'data.yaml').write_text(f'train: images\nval: images\nnames: {names}\n')
    return folder


def coco_folder(folder: Path, **changes: object) -> Path:
    """Two files of one picture each, with ids that have gaps."""
    for split, name in (('train', 'a'), ('valid', 'b')):
        picture(folder / split / f'{name}.jpg')
        entry = dict(id=9, image_id=70, category_id=5, bbox=[1, 1, 8, 6], iscrowd=0, area=40.0,
                     segmentation=[[1, 1, 9, 1, 9, 7]]) | changes
        content = dict(images=[dict(id=70, file_name=f'{name}.jpg', width=40, height=30)], annotations=[entry],
                       categories=[dict(id=7, name='dog'), dict(id=5, name='cat')])
        (folder / split / '_annotations.coco.json').write_text(json.dumps(content))
    return folder
