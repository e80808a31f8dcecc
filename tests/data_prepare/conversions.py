"""A folder converted, and what came of it, for the tests of the readers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backbones.data.coco_files import load_coco
from backbones.data_prepare.custom import convert


def converted(folder: Path, **options: object) -> dict:
    """Convert a folder and give the content of both files together, file names as keys of the boxes."""
    out = folder.parent / 'out'
    shutil.rmtree(out, ignore_errors=True)
    convert(folder, out, progress=False, **options)
    contents = [load_coco(str(out / f'annotations/instances_{part}.json')) for part in ('train', 'val')]
    objects: dict[str, list[dict]] = {}
    names = {entry['id']: entry['name'] for entry in contents[0]['categories']}
    for part, content in zip(('train', 'val'), contents, strict=True):
        for image in content['images']:
            assert (out / 'images' / part / image['file_name']).is_file()
            objects[image['file_name']] = [
                entry | dict(label=names[entry['category_id']], part=part) for entry in content['annotations']
                if entry['image_id'] == image['id']
            ]
    sizes = {image['file_name']: (image['width'], image['height']) for c in contents for image in c['images']}
    return dict(objects=objects, sizes=sizes, names=list(names.values()))


def said(folder: Path, **options: object) -> str:
    out = folder.parent / 'out'
    shutil.rmtree(out, ignore_errors=True)
    return '\n'.join(convert(folder, out, progress=False, **options))


def refused(folder: Path, match: str, **options: object) -> None:
    """Convert a folder that cannot be; nothing is left behind."""
    with pytest.raises(ValueError, match=match):
        convert(folder, folder.parent / 'out', progress=False, **options)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
