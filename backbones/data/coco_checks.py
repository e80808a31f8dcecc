"""What a COCO annotation file must be like to be trained or scored on.

pycocotools crashes, hangs or reads foreign memory on polygons that are no numbers or far away and on run
lengths that do not fill their picture, and keeps only the last of two pictures with one id; so all this is
looked at before.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from .coco_masks import check_mask, check_total, is_background, run_totals, usable_polygons
from .files import shown, some

MAX_ID = 2**63 - 1
FIELDS = dict(
    images=('id', 'file_name', 'height', 'width'),
    categories=('id', 'name'),
    annotations=('id', 'image_id', 'category_id', 'bbox'),
)


def check_content(content: Any, file: str) -> None:
    """Check a whole COCO file, and make 'annotations' an empty list where there is none.

    An annotation that belongs to no picture of the list is not looked into: nothing reads it.

    Raises:
        ValueError: Naming the file, the entry, and what is wrong.
    """
    check_structure(content, file)
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    _check_belonging(content['annotations'], images, file)
    strings = []
    for annotation in content['annotations']:
        if annotation['category_id'] not in categories:
            raise ValueError(
                f'annotation {annotation["id"]} in {file} has category_id {annotation["category_id"]}, which is not in '
                'its categories; correct the id or add the category'
            )
        image = images.get(annotation['image_id'])
        if image is None:
            continue
        string = _check_annotation(annotation, image, file)
        if string is not None:
            strings.append((annotation, image, string))
    totals = run_totals([string for _, _, string in strings])
    for (annotation, image, _), total in zip(strings, totals, strict=True):
        check_total(total, image['height'] * image['width'], _name(annotation, image, file))


def _check_belonging(annotations: list[dict], images: dict, file: str) -> None:
    """Raise where no annotation belongs to any picture: all would be left out, and training learn nothing."""
    if not annotations or not images or any(annotation['image_id'] in images for annotation in annotations):
        return
    named, listed = (some(map(repr, ids)) for ids in ({entry['image_id']: 0 for entry in annotations}, images))
    raise ValueError(
        f'none of the {len(annotations)} annotations in {file} belongs to a picture: their image_id are {named} while '
        f"'images' has the ids {listed} (a number in quotes is a word); correct either"
    )


def check_structure(content: Any, file: str) -> None:
    """Check the lists of a COCO file and the ids in them; where 'annotations' is missing, it becomes empty.

    Raises:
        ValueError: Naming the file, the list and the entry.
    """
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'categories')
    ) or not isinstance(content.setdefault('annotations', []), list):
        raise ValueError(
            f"{file} is no COCO file: it must hold the lists 'images', 'annotations' and 'categories'"
        )
    for kind, keys in FIELDS.items():
        needed = set(keys)
        for place, entry in enumerate(content[kind]):
            if not isinstance(entry, dict) or not needed <= entry.keys():
                _refuse_entry(entry, place, kind, keys, file)
        for key in keys:
            if key.endswith('id'):
                _check_ids(content[kind], key, kind, file)
        _check_unique(content[kind], 'id', kind, file)
    _check_images(content['images'], file)
    _check_categories(content['categories'], file)


def _refuse_entry(entry: Any, place: int, kind: str, keys: tuple[str, ...], file: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f'entry {place} of {kind!r} in {file} is {entry!r:.40}; it must be an object in braces')
    key = next(key for key in keys if key not in entry)
    raise ValueError(f'entry {place} of {kind!r} in {file} has no {key!r}; every one needs {", ".join(keys)}')


def _check_ids(entries: list[dict], key: str, kind: str, file: str) -> None:
    kinds = {type(entry[key]) for entry in entries}
    if kinds <= {int} and all(-MAX_ID <= entry[key] <= MAX_ID for entry in entries):
        return
    for place, entry in enumerate(entries):
        value = entry[key]
        # with numbers and words mixed, COCOeval would turn all into words and find none of the numbers
        if not (isinstance(value, str) and kinds == {str}) and not (type(value) is int and -MAX_ID <= value <= MAX_ID):
            raise ValueError(
                f'entry {place} of {kind!r} in {file} has the {key} {value!r:.40}; ids must be whole numbers of 64 bits'
            )


def _check_unique(entries: list[dict], key: str, kind: str, file: str) -> None:
    if len({entry[key] for entry in entries}) == len(entries):
        return
    value, times = Counter(entry[key] for entry in entries).most_common(1)[0]
    raise ValueError(
        f'{kind!r} in {file} has the {key} {value!r} {times} times; every {key} must be there once'
    )


def _check_images(images: list[dict], file: str) -> None:
    for image in images:
        width, height, name = image['width'], image['height'], image['file_name']
        if type(width) is not int or type(height) is not int or width < 1 or height < 1:
            raise ValueError(
                f'picture {image["id"]} ({name!r:.80}) in {file} has width {width!r:.20} and height {height!r:.20}; '
                'both must be whole numbers of 1 or more'
            )
        if not isinstance(name, str) or not name or '\0' in name:
            raise ValueError(f'picture {image["id"]} in {file} has the file_name {name!r:.80}; it must be a name')


def _check_categories(categories: list[dict], file: str) -> None:
    for category in categories:
        if not isinstance(category['name'], str) or type(category['id']) is not int:
            raise ValueError(
                f"'categories' in {file} has the id {category['id']!r:.40} with the name {category['name']!r:.40}; ids "
                'must be whole numbers and names words'
            )
    _check_unique(categories, 'name', 'categories', file)
    if not categories:
        raise ValueError(f"{file} lists no categories; add them, [{{'id': 1, 'name': ...}}, ...]")


def _name(annotation: dict, image: dict, file: str) -> str:
    return f'annotation {annotation["id"]} (picture {shown(image["file_name"])}) in {file}'


def _check_annotation(annotation: dict, image: dict, file: str) -> str | None:
    """Check box and mask; return run lengths in a string, which are checked many at a time."""
    try:
        x, y, width, height = annotation['bbox']
        area = annotation.get('area', 0)
        finite = math.isfinite(x + y + width + height) and math.isfinite(area)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f'{_name(annotation, image, file)} has bbox {annotation["bbox"]!r:.80} and area '
            f'{annotation.get("area")!r:.40}; the box must be four numbers, x, y, width, height, and the area one'
        ) from None
    if not finite:
        raise ValueError(
            f'{_name(annotation, image, file)} has bbox {annotation["bbox"]} and area {area}; all must be finite '
            'numbers: correct or remove the annotation'
        )
    for key in ('iscrowd', 'ignore'):
        if annotation.get(key, 0) not in (0, 1):
            raise ValueError(
                f'{_name(annotation, image, file)} has {key} {annotation[key]!r:.40}; it must be 0 or 1'
            )
    side = max(image['width'], image['height'])
    if max(x + width, y + height) > 2 * side or min(x, y) < -side:
        _refuse_far_box(annotation, image, file)
    mask = annotation.get('segmentation')
    if not mask:
        return None
    return check_mask(mask, image['height'], image['width'], _Lazy(annotation, image, file))


def _refuse_far_box(annotation: dict, image: dict, file: str) -> None:
    """Raise where a box that is used reaches far outside; one wholly outside is left out later, and counted."""
    x, y, width, height = annotation['bbox']
    inside = min(x + width, image['width']) > max(x, 0) and min(y + height, image['height']) > max(y, 0)
    if inside and width > 0 and height > 0:
        raise ValueError(
            f'{_name(annotation, image, file)} has bbox {annotation["bbox"]}, far outside its picture of '
            f'{image["width"]}x{image["height"]} (width x height); correct or remove the annotation'
        )


class _Lazy:
    """The name of an annotation, put together only for a message: 860,000 of them take a second."""

    def __init__(self, *parts) -> None:
        self.parts = parts

    def __str__(self) -> str:
        return _name(*self.parts)


def sort_out(annotation: dict, image: dict) -> tuple[dict, list[str], bool]:
    """Decide what becomes of an annotation that `check_content` has passed.

    Returns:
        The annotation, with `area` filled in from the box where it is missing and without masks that hold no pixel
        (polygons of fewer than three points or without an area, run lengths of background only); what is odd about it;
        and whether it must be left out.
    """
    x, y, width, height = annotation['bbox']
    if 'area' not in annotation:
        annotation = {**annotation, 'area': width * height}
    notices = []
    mask = annotation.get('segmentation')
    if isinstance(mask, dict) and mask and is_background(mask):
        annotation = {**annotation, 'segmentation': []}
    elif mask and isinstance(mask, list):
        usable = usable_polygons(mask)
        if len(usable) < len(mask):
            annotation = {**annotation, 'segmentation': usable}
            if usable:
                notices.append('have polygons of fewer than three points, half a point or no area, which are left out')
    if width < 1 or height < 1 or annotation['area'] <= 0:
        return annotation, ['are left out: their box is less than a pixel wide or high, or their area is 0'], True
    inner_width = min(x + width, image['width']) - max(x, 0)
    inner_height = min(y + height, image['height']) - max(y, 0)
    if inner_width <= 0 or inner_height <= 0:
        return annotation, ['are left out: their box lies outside the picture'], True
    if min(x, y, image['width'] - x - width, image['height'] - y - height) < -1:
        notices.append('have a box that reaches more than a pixel beyond the picture')
    return annotation, notices, False
