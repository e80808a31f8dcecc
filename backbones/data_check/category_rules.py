"""What is unusual about the categories of a COCO annotation file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from ..data.files import shown, some
from ..findings import Finding
from .class_names import HOW, REMEDY, names_alike

COCO_LEAVES_OUT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids of 1 to 90 in instances_*2017.json: 80 classes
COCO_IDS = [number for number in range(1, 91) if number not in COCO_LEAVES_OUT]


def category_findings(categories: Sequence[dict], annotations: Sequence[dict], file: str) -> Iterator[Finding]:
    """Look at sound categories, sorted by id."""
    ids = [entry['id'] for entry in categories]
    for entry in categories:
        if not entry['name'].strip():
            yield Finding('warning', 'class name', f'category {entry["id"]} has no name but {entry["name"]!r}',
                          'name it', file, entry['id'], 'name', entry['name'])
    named = [entry for entry in categories if entry['name'].strip()]
    for later, first in names_alike([entry['name'] for entry in named]):
        one, other = named[later], named[first]
        yield Finding(
            'warning', 'class name',
            f'category {one["id"]} is {one["name"]!r} and category {other["id"]} {other["name"]!r}: {HOW}', REMEDY,
            file, one['id'], 'name', one['name'])
    if not ids:
        return
    if ids[0] < 0:
        yield Finding('warning', 'class id', f'category {shown(categories[0]["name"])} has the id {ids[0]}, less than '
                      '0', 'number the categories from 1', file, ids[0], 'id', ids[0])
    elif ids[0] == 0:
        used = any(entry['category_id'] == 0 for entry in annotations)
        name = shown(categories[0]["name"])
        message = (
            f'category ids start at 0 ({name}), which is read correctly here; some tools take 0 for the background'
            if used else f'category 0 ({name}) has no object, as the heading of the classes that some tools export; it '
            'counts as a class here')
        remedy = '' if used else 'leave it out of classes in the config, or remove it from the file'
        yield Finding('note', 'class id 0', message, remedy, file, 0, 'id', 0)
    yield from _gaps(categories, ids, file)


def _gaps(categories: Sequence[dict], ids: list[int], file: str) -> Iterator[Finding]:
    if ids[0] < 0 or ids[-1] - min(ids[0], 1) + 1 == len(ids):
        return
    if _is_part_of_coco(categories, ids):
        return
    absent = ids[-1] - min(ids[0], 1) + 1 - len(ids)
    some_absent, known = [], set(ids)
    number = min(ids[0], 1)
    while len(some_absent) < min(absent, 4):
        if number not in known:
            some_absent.append(number)
        number += 1
    yield Finding(
        'note', 'class id gaps',
        f'the {len(ids)} category ids lie between {ids[0]} and {ids[-1]} and leave out {some(some_absent)}: labels '
        'follow the order of the ids here, and are not the ids less 1', '', file, None, 'id', some(ids, 8))


def _is_part_of_coco(categories: Sequence[dict], ids: list[int]) -> bool:
    """Tell whether the gaps are those of COCO, or the classes a choice of COCO's with their ids kept."""
    if ids[-1] <= 90 and set(range(min(ids[0], 1), ids[-1] + 1)) - set(ids) <= COCO_LEAVES_OUT:
        return True
    if not set(ids) <= set(COCO_IDS) or find_spec('mmdet') is None:
        return False
    from mmdet.datasets import CocoDataset  # takes seconds; only for such files

    names = dict(zip(COCO_IDS, CocoDataset.METAINFO['classes'], strict=True))
    return all(names[entry['id']] == entry['name'] for entry in categories)
