"""What a COCO annotation file must be like to be trained or scored on.

pycocotools crashes, hangs or reads foreign memory on polygons that are no numbers or far away and on run
lengths that do not fill their picture, and keeps only the last of two pictures with one id; so all this is
looked at before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Sequence
from functools import partial
from typing import Any

from .coco_masks import check_mask, check_polygons, check_total, is_background, run_totals, usable_polygons
from .errors import DataError
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
        DataError: Naming the file, the entry, and what is wrong.
    """
    check_structure(content, file)
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    check_belonging(content['annotations'], images, file)
    strings = []
    for annotation in content['annotations']:
        check_category(annotation, categories, file)
        image = images.get(annotation['image_id'])
        if image is None:
            continue
        string = check_annotation(annotation, image, file)
        if string is not None:
            strings.append((annotation, image, string))
    totals = run_totals([string for _, _, string in strings])
    for (annotation, image, _), total in zip(strings, totals, strict=True):
        check_total(total, image['height'] * image['width'], name_of(annotation, image, file))


def check_belonging(annotations: list[dict], images: dict, file: str) -> None:
    """Raise where no annotation belongs to any picture: all would be left out, and training learn nothing."""
    if not annotations or not images or any(annotation['image_id'] in images for annotation in annotations):
        return
    named, listed = (some(map(repr, ids)) for ids in ({entry['image_id']: 0 for entry in annotations}, images))
    raise DataError(
        f'none of the {len(annotations)} annotations in {file} belongs to a picture: their image_id are {named} while '
        f"'images' has the ids {listed} (a number in quotes is a word)", 'correct either',
        kind='picture unknown', field='image_id', value=named,
    )


def check_structure(content: Any, file: str) -> None:
    """Check the lists of a COCO file and the ids in them; where 'annotations' is missing, it becomes empty.

    Raises:
        DataError: Naming the file, the list and the entry.
    """
    _, errors = sift(content, file)
    if errors:
        raise errors[0]


def sift(content: Any, file: str) -> tuple[dict[str, list], list[DataError]]:
    """Tell the entries of a COCO file whose keys, ids, sizes and names are right from those that are not.

    Returns:
        The right entries, by list, those that bear an id twice among them; and all errors in the order of the checks.
        No list at all where the file is not one of COCO's.
    """
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'categories')
    ) or not isinstance(content.setdefault('annotations', []), list):
        return {}, [DataError(
            f'{file} is no COCO file', "it must hold the lists 'images', 'annotations' and 'categories'",
            kind='not COCO', value=some(content, 8) if isinstance(content, dict) else type(content).__name__,
        )]
    right, errors = {}, []
    for kind, keys in FIELDS.items():
        needed = set(keys)
        entries, places = content[kind], range(len(content[kind]))
        faults = {
            place: _bad_entry(entry, place, kind, keys, file)
            for place, entry in enumerate(entries)
            if not isinstance(entry, dict) or not needed <= entry.keys()
        }
        entries, places = _without(faults, entries, places, errors)
        for key in keys:
            if key.endswith('id'):
                entries, places = _without(_bad_ids(entries, places, key, kind, file), entries, places, errors)
        errors += _repeated(entries, places, 'id', kind, file)
        right[kind] = entries
    for kind, check in (('images', _bad_image), ('categories', _bad_category)):
        faults = {place: error for place, entry in enumerate(right[kind]) if (error := check(entry, file))}
        right[kind], places = _without(faults, right[kind], range(len(right[kind])), errors)
    errors += _repeated(right['categories'], places, 'name', 'categories', file)
    if not content['categories']:
        errors.append(DataError(
            f'{file} lists no categories', "add them, [{'id': 1, 'name': ...}, ...]",
            kind='no categories', field='categories', value=[],
        ))
    return right, errors


def _without(
    faults: dict[int, DataError], entries: list, places: Sequence[int], errors: list[DataError]
) -> tuple[list, Sequence[int]]:
    """Move the `faults` (by place in the file) to the `errors`, and their entries out."""
    if not faults:
        return entries, places
    errors += faults.values()
    kept = [(entry, place) for entry, place in zip(entries, places, strict=True) if place not in faults]
    return [entry for entry, _ in kept], [place for _, place in kept]


def _bad_entry(entry: Any, place: int, kind: str, keys: tuple[str, ...], file: str) -> DataError:
    if not isinstance(entry, dict):
        return DataError(
            f'entry {place} of {kind!r} in {file} is {entry!r:.40}', 'it must be an object in braces',
            kind='entry', field=kind, value=entry, places=(place,),
        )
    key = next(key for key in keys if key not in entry)
    return DataError(
        f'entry {place} of {kind!r} in {file} has no {key!r}', f'every one needs {", ".join(keys)}',
        kind='key missing', id=entry.get('id'), field=key, places=(place,),
    )


def _bad_ids(entries: list[dict], places: Sequence[int], key: str, kind: str, file: str) -> dict[int, DataError]:
    kinds = {type(entry[key]) for entry in entries}
    if kinds <= {int} and all(-MAX_ID <= entry[key] <= MAX_ID for entry in entries):
        return {}
    faults = {}
    for place, entry in zip(places, entries, strict=True):
        value = entry[key]
        # with numbers and words mixed, COCOeval would turn all into words and find none of the numbers
        if not (isinstance(value, str) and kinds == {str}) and not (type(value) is int and -MAX_ID <= value <= MAX_ID):
            faults[place] = DataError(
                f'entry {place} of {kind!r} in {file} has the {key} {value!r:.40}',
                'ids must be whole numbers of 64 bits', kind='id', id=entry['id'], field=key, value=value,
                places=(place,),
            )
    return faults


def _repeated(entries: list[dict], places: Sequence[int], key: str, kind: str, file: str) -> list[DataError]:
    if len({entry[key] for entry in entries}) == len(entries):
        return []
    where = defaultdict(list)
    for place, entry in zip(places, entries, strict=True):
        where[entry[key]].append((place, entry))
    return [
        DataError(
            f'{kind!r} in {file} has the {key} {value!r} {len(found)} times', f'every {key} must be there once',
            kind=f'{key} twice', id=found[-1][1]['id'], field=key, value=value,
            places=tuple(place for place, _ in found),
        )
        for value, found in sorted(where.items(), key=lambda item: -len(item[1])) if len(found) > 1
    ]


def _bad_image(image: dict, file: str) -> DataError | None:
    width, height, name = image['width'], image['height'], image['file_name']
    if type(width) is not int or type(height) is not int or width < 1 or height < 1:
        wrong = 'width' if type(width) is not int or width < 1 else 'height'
        return DataError(
            f'picture {image["id"]} ({name!r:.80}) in {file} has width {width!r:.20} and height {height!r:.20}',
            'both must be whole numbers of 1 or more',
            kind='picture size', id=image['id'], field=wrong, value=image[wrong],
        )
    if not isinstance(name, str) or not name or '\0' in name:
        return DataError(
            f'picture {image["id"]} in {file} has the file_name {name!r:.80}', 'it must be a name',
            kind='file name', id=image['id'], field='file_name', value=name,
        )
    return None


def _bad_category(category: dict, file: str) -> DataError | None:
    if isinstance(category['name'], str) and type(category['id']) is int:
        return None
    return DataError(
        f"'categories' in {file} has the id {category['id']!r:.40} with the name {category['name']!r:.40}",
        'ids must be whole numbers and names words', kind='category', id=category['id'],
        field='id' if isinstance(category['name'], str) else 'name',
        value=category['id'] if isinstance(category['name'], str) else category['name'],
    )


def name_of(annotation: dict, image: dict, file: str) -> str:
    """Name an annotation as a message begins."""
    return f'annotation {annotation["id"]} (picture {shown(image["file_name"])}) in {file}'


def check_category(annotation: dict, categories: Container[int], file: str) -> None:
    """Raise where an annotation's class is not in the file."""
    if annotation['category_id'] not in categories:
        raise DataError(
            f'annotation {annotation["id"]} in {file} has category_id {annotation["category_id"]}, which is not in '
            'its categories', 'correct the id or add the category',
            kind='category unknown', id=annotation['id'], field='category_id', value=annotation['category_id'],
        )


def check_annotation(annotation: dict, image: dict, file: str) -> str | None:
    """Check box and mask; return run lengths in a string, which are checked many at a time.

    Raises:
        DataError: the first that is wrong; `annotation_errors` gives all.
    """
    check_box(annotation, image, file)
    check_flags(annotation, image, file)
    mask = annotation.get('segmentation')
    if not mask:
        return None
    return check_mask(mask, image['height'], image['width'], Name(annotation, image, file))


def annotation_errors(annotation: dict, image: dict, file: str) -> list[DataError]:
    """Return all that `check_annotation` refuses in an annotation, every polygon looked at."""
    name, mask, errors = Name(annotation, image, file), annotation.get('segmentation'), []
    checks = [lambda: check_box(annotation, image, file), lambda: check_flags(annotation, image, file)]
    if mask and isinstance(mask, list):
        side = max(image['height'], image['width'])
        lists = [(number, polygon) for number, polygon in enumerate(mask) if isinstance(polygon, list)]
        lists += [(number, polygon) for number, polygon in enumerate(mask) if not isinstance(polygon, list)][:1]
        checks += [partial(check_polygons, [polygon], side, name, number) for number, polygon in lists]
    elif mask:
        checks.append(lambda: check_mask(mask, image['height'], image['width'], name))
    for check in checks:
        try:
            check()
        except DataError as error:
            error.id = annotation['id']
            errors.append(error)
    return errors


def check_box(annotation: dict, image: dict, file: str) -> None:
    """Raise where the box or the area is not made of finite numbers, or the box reaches far outside the picture."""
    try:
        x, y, width, height = annotation['bbox']
        area = annotation.get('area', 0)
        finite = math.isfinite(x + y + width + height) and math.isfinite(area)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f'{name_of(annotation, image, file)} has bbox {annotation["bbox"]!r:.80} and area '
            f'{annotation.get("area")!r:.40}', 'the box must be four numbers, x, y, width, height, and the area one',
            kind='box value', **_wrong_number(annotation),
        ) from None
    if not finite:
        raise DataError(
            f'{name_of(annotation, image, file)} has bbox {annotation["bbox"]} and area {area}',
            'all must be finite numbers: correct or remove the annotation',
            kind='box value', **_wrong_number(annotation),
        )
    side = max(image['width'], image['height'])
    if max(x + width, y + height) > 2 * side or min(x, y) < -side:
        _refuse_far_box(annotation, image, file)


def _wrong_number(annotation: dict) -> dict:
    """Field and value for an error about box or area: the area where the box is made of four finite numbers."""
    try:
        x, y, width, height = annotation['bbox']
        area = math.isfinite(x + y + width + height)
    except (TypeError, ValueError, OverflowError):
        area = False
    field = 'area' if area else 'bbox'
    return dict(field=field, value=annotation.get(field), id=annotation['id'])


def check_flags(annotation: dict, image: dict, file: str) -> None:
    """Raise where `iscrowd` or `ignore` is anything but 0 or 1."""
    for key in ('iscrowd', 'ignore'):
        if annotation.get(key, 0) not in (0, 1):
            raise DataError(
                f'{name_of(annotation, image, file)} has {key} {annotation[key]!r:.40}', 'it must be 0 or 1',
                kind=key, id=annotation['id'], field=key, value=annotation[key],
            )


def _refuse_far_box(annotation: dict, image: dict, file: str) -> None:
    """Raise where a box that is used reaches far outside; one wholly outside is left out later, and counted."""
    x, y, width, height = annotation['bbox']
    inside = min(x + width, image['width']) > max(x, 0) and min(y + height, image['height']) > max(y, 0)
    if inside and width > 0 and height > 0:
        raise DataError(
            f'{name_of(annotation, image, file)} has bbox {annotation["bbox"]}, far outside its picture of '
            f'{image["width"]}x{image["height"]} (width x height)', 'correct or remove the annotation',
            kind='box outside', id=annotation['id'], field='bbox', value=annotation['bbox'],
        )


class Name:
    """The name of an annotation, put together only for a message: 860,000 of them take a second."""

    def __init__(self, *parts) -> None:
        self.parts = parts

    def __str__(self) -> str:
        return name_of(*self.parts)


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
