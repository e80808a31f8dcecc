"""What a COCO annotation file must be like to be trained or scored on.

pycocotools crashes, hangs or reads foreign memory on polygons that are no numbers or far away and on run
lengths that do not fill their picture, and keeps only the last of two pictures with one id; so all this is
looked at before.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any


def check_structure(content: Any, file: str) -> None:
    """Check the lists of a COCO file and the ids in them; where 'annotations' is missing, it becomes empty.

    Raises:
        ValueError: Naming the file, the list and the entry.
    """
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'categories')
    ):
        raise ValueError(
            f"{file} is no COCO file: it must hold the lists 'images', 'annotations' and 'categories'"
        )
    content.setdefault('annotations', [])
    fields = dict(
        images=('id', 'file_name', 'height', 'width'),
        categories=('id', 'name'),
        annotations=('id', 'image_id', 'category_id', 'bbox'),
    )
    for kind, keys in fields.items():
        for place, entry in enumerate(content[kind]):
            for key in keys:
                if key not in entry:
                    raise ValueError(
                        f'entry {place} of {kind!r} in {file} has no {key!r}; every one needs '
                        f'{", ".join(keys)}'
                    )
        _check_unique(content[kind], 'id', kind, file)
    _check_unique(content['categories'], 'name', 'categories', file)
    wrong = [category['id'] for category in content['categories'] if not isinstance(category['id'], int)]
    if wrong:
        raise ValueError(f"'categories' in {file} has the id {wrong[0]!r}; ids must be whole numbers")
    if not content['categories']:
        raise ValueError(f"{file} lists no categories; add them, [{{'id': 1, 'name': ...}}, ...]")


def _check_unique(entries: list[dict], key: str, kind: str, file: str) -> None:
    if len({entry[key] for entry in entries}) == len(entries):
        return
    value, times = Counter(entry[key] for entry in entries).most_common(1)[0]
    raise ValueError(
        f'{kind!r} in {file} has the {key} {value!r} {times} times; every {key} must be there once'
    )


def check_annotation(annotation: dict, image: dict, file: str) -> tuple[dict, str, bool]:
    """Check one annotation against its picture.

    Returns:
        The annotation, with `area` filled in from the box where it is missing; what is odd about it, '' if
        nothing; and whether it must be left out.

    Raises:
        ValueError: For numbers that are none, and masks that pycocotools cannot safely read.
    """
    name = f'annotation {annotation["id"]} (picture {image["file_name"]}) in {file}'
    try:
        x, y, width, height = annotation['bbox']
        area = annotation.get('area', width * height)
        finite = math.isfinite(x + y + width + height) and math.isfinite(area)
    except (TypeError, ValueError):
        raise ValueError(
            f'{name} has bbox {annotation["bbox"]!r}; it must be four numbers: x, y, width, height'
        ) from None
    if not finite:
        raise ValueError(
            f'{name} has bbox {annotation["bbox"]} and area {area}; all must be finite numbers: correct or '
            'remove the annotation'
        )
    if 'area' not in annotation:
        annotation = {**annotation, 'area': area}
    mask = annotation.get('segmentation')
    if mask:
        _check_mask(mask, image, name)
        if isinstance(mask, list) and not any(
            len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask
        ):
            annotation = {**annotation, 'segmentation': []}

    if width < 1 or height < 1 or area <= 0:
        return (
            annotation,
            'are left out: their box is less than a pixel wide or high, or their area is 0',
            True,
        )
    inner_width = min(x + width, image['width']) - max(x, 0)
    inner_height = min(y + height, image['height']) - max(y, 0)
    if inner_width <= 0 or inner_height <= 0:
        return annotation, 'are left out: their box lies outside the picture', True
    if min(x, y, image['width'] - x - width, image['height'] - y - height) < -1:
        return annotation, 'have a box that reaches more than a pixel beyond the picture', False
    return annotation, '', False


def _check_mask(mask: Any, image: dict, name: str) -> None:
    height, width = image['height'], image['width']
    if isinstance(mask, list):
        _check_polygons(mask, max(height, width), name)
        return
    if not isinstance(mask, dict) or not isinstance(mask.get('counts'), (list, str)) or 'size' not in mask:
        raise ValueError(
            f"{name} has a segmentation that is neither polygons nor {{'size', 'counts'}}; correct it"
        )
    if list(mask['size']) != [height, width]:
        raise ValueError(
            f'{name} has a run-length mask of size {mask["size"]} while its picture is {[height, width]} '
            '(height, width); correct whichever is wrong'
        )
    if isinstance(mask['counts'], list) and sum(mask['counts']) != height * width:
        raise ValueError(
            f'{name} has run lengths that add up to {sum(mask["counts"])} pixels while its picture has '
            f'{height * width}; write the mask again'
        )


def _check_polygons(polygons: list, side: int, name: str) -> None:
    """`sum`, `min` and `max` run in C: 20 million coordinates of COCO take about a second."""
    for polygon in polygons:
        try:
            finite = math.isfinite(sum(polygon))
        except TypeError:
            finite = False
        if not finite:
            raise ValueError(
                f'{name} has a polygon with a value that is no finite number; correct or remove it'
            )
        if polygon and (min(polygon) < -side or max(polygon) > 2 * side):
            raise ValueError(
                f'{name} has a polygon from {min(polygon)} to {max(polygon)}, far outside its picture, '
                f'whose longer side is {side}; correct or remove it'
            )
