"""Everything that is wrong with a COCO annotation file, every place of it in one pass; pictures are not looked at.

What strict reading refuses at the first place is defined in `backbones/data/coco_checks.py` and `coco_masks.py`; all of
it is collected here. What strict reading leaves out and counts (dangling ids, empty boxes, masks without a pixel) is an
error here, object by object. `object_rules.py` has the rules that look at all sound objects at once.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import coco_checks
from ..data.coco_files import decode_json, hand_over, parse_json, state_of_file
from ..data.coco_masks import check_total, run_totals
from ..data.errors import DataError
from ..data.files import shown, some
from ..findings import Finding, finding_of
from .category_rules import category_findings
from .object_patterns import with_patterns
from .object_rules import Objects, object_findings
from .passed import remember_passed

NUMBERS_LOOKED_AT = {'bbox', 'area', 'segmentation'}  # of an annotation: their NaN are found with their place
LONGEST_SIDE = 2**31 - 1  # of a PNG, https://www.w3.org/TR/png-3/#11IHDR
DEEPEST = 30  # levels of a file that are searched for NaN


@dataclass(frozen=True)
class Annotations:
    """The sound entries of an annotation file, as training uses them; I pictures, M objects.

    Attributes:
        file: path.
        categories: names in the order of their ids, which is that of the labels where a config gives no classes.
        category_ids: their ids.
        file_names, image_ids: of the pictures, in the order of the file.
        widths, heights: (I,) as the file says.
        ids: of the objects.
        image, category: (M,) places of an object's picture and category in the above.
        boxes: (M, 4) x, y, width, height in pixels.
        areas: (M,) pixels; the box's where the file has none.
        crowd: (M,) whether iscrowd is 1.
        has_mask: (M,) whether there is a mask.
    """

    file: str
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    file_names: list[str]
    image_ids: list[int | str]
    widths: np.ndarray
    heights: np.ndarray
    ids: list[int | str]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    has_mask: np.ndarray


def check_annotations(file: str | os.PathLike) -> tuple[list[Finding], Annotations | None]:
    """Find all that is wrong with an annotation file.

    Returns:
        The findings in the order of the file's lists, and what is sound; None where nothing can be read.
    """
    file = os.fspath(file)
    collects = gc.isenabled()
    gc.disable()  # no cycle arises, and the collector would walk millions of numbers again and again
    try:
        return _check(file)
    finally:
        if collects:
            gc.enable()


def _check(file: str) -> tuple[list[Finding], Annotations | None]:
    state = state_of_file(file)
    content, words, findings = read_annotations(file)
    if content is None:
        return findings, None
    bare = isinstance(content, dict) and 'annotations' not in content
    right, errors = coco_checks.sift(content, file)
    findings += [from_error(error, file) for error in errors]
    if not right:
        return findings, None
    categories = {entry['id']: entry for entry in reversed(right['categories'])}  # the first of two with one id
    categories = dict(sorted(categories.items()))
    findings += category_findings(list(categories.values()), right['annotations'], file)
    findings += _picture_findings(right['images'], content, bare, file)
    images = images_of(right)
    errors, sound = sound_annotations(content, right, images, categories, file)
    findings += [from_error(error, file) for error in errors]
    objects = Objects.of(sound, images, categories)
    object_problems, usable = object_findings(objects, right['annotations'], file)
    findings += with_patterns(object_problems, objects, file)
    if words:
        findings += _stray_words(content, words, file)
    if not any(finding.severity == 'error' for finding in findings):
        remember_passed(file, state, len(content['annotations']))
        hand_over(file, state, content)
    return findings, Annotations(
        file, tuple(entry['name'] for entry in categories.values()), tuple(categories),
        [entry['file_name'] for entry in images.values()], list(images),
        np.array([entry['width'] for entry in images.values()], np.float64),
        np.array([entry['height'] for entry in images.values()], np.float64),
        **objects.columns(usable),
    )


def read_annotations(file: str) -> tuple[Any, list[str], list[Finding]]:
    """Read a JSON file; where it has a key twice, that is a finding, and the last value is kept.

    Returns:
        The content (None where it cannot be read), the words NaN and Infinity in it, and what is wrong.
    """
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            raise OSError(0, 'it is a folder or a pipe')  # which would wait for a writer
        raw = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, 'strerror', None) or str(error)
        message = f'the annotation file {shown(file)} cannot be read: {reason}'
        return None, [], [Finding('error', 'file unreadable', message, 'correct its name or its rights', file)]
    findings = []
    for unique_keys in (True, False):
        try:
            content, words = parse_json(decode_json(raw, file), file, unique_keys)
        except (ValueError, RecursionError) as error:
            line = getattr(error.__cause__, 'lineno', None)
            kind = 'key twice' if unique_keys and error.__cause__ is None else 'not JSON'
            findings = [replace(finding_of(error, kind), file=file, id=line)]
            if kind == 'not JSON':
                return None, [], findings
            continue
        if content is None:
            findings.append(
                Finding('error', 'not COCO', f'{shown(file)} holds nothing but null', 'get or write it again', file))
        return content, words, findings
    raise AssertionError('without unique keys there is nothing to refuse but JSON')


def images_of(right: dict[str, list]) -> dict[int | str, dict]:
    """Return sound pictures by id, the first where two have one, without those of a size that no picture has."""
    images = {entry['id']: entry for entry in reversed(right['images'])}
    return {
        number: entry for number, entry in reversed(images.items())
        if max(entry['width'], entry['height']) <= LONGEST_SIDE
    }


def from_error(error: DataError, file: str) -> Finding:
    """Turn an error of strict reading into a finding, which has the file's name apart."""
    message = error.message.replace(f' in {file}', '')
    if len(error.places) > 1:
        message = message.removesuffix(f' {len(error.places)} times')
        message += f' in {len(error.places)} entries, number {some(error.places, 8)}, counted from 0'
    return Finding('error', error.kind, message, error.remedy, file, plain_id(error.id), error.field, error.value)


def plain_id(value: Any) -> int | str | None:
    """Return an id as it is where it is one, else as words."""
    return value if value is None or type(value) in (int, str) else f'{value!r:.40}'


def sound_annotations(
    content: dict, right: dict[str, list], images: dict, categories: dict, file: str
) -> tuple[list[DataError], list[dict]]:
    """Tell the annotations that strict reading passes, and that belong to a picture and a class, from the others.

    Returns:
        All that is wrong with the others, and the sound ones. Where a picture or a class has a fault itself, what
        belongs to it is in neither.
    """
    known = {kind: _ids_of(content[kind]) for kind in ('images', 'categories')}
    errors: list[DataError] = []
    try:
        coco_checks.check_belonging(right['annotations'], known['images'], file)
        no_picture_fits = False
    except DataError as error:
        errors.append(error)
        no_picture_fits = True
    sound, strings = [], []
    for annotation in right['annotations']:
        image = images.get(annotation['image_id'])
        if image is None or annotation['category_id'] not in categories:
            errors += _dangling(annotation, known, no_picture_fits, file)
            if image is None:
                continue
        try:
            string = coco_checks.check_annotation(annotation, image, file)
        except DataError:
            errors += coco_checks.annotation_errors(annotation, image, file)
            continue
        if string is not None:
            strings.append((len(sound), annotation, image, string))
        sound.append(annotation)
    wrong = set()
    totals = run_totals([string for *_, string in strings])
    for (place, annotation, image, _), total in zip(strings, totals, strict=True):
        try:
            check_total(total, image['height'] * image['width'], coco_checks.Name(annotation, image, file))
        except DataError as error:
            error.id = annotation['id']
            errors.append(error)
            wrong.add(place)
    fine = [
        annotation for place, annotation in enumerate(sound)
        if place not in wrong and annotation['category_id'] in categories
    ]
    return errors, fine


def _ids_of(entries: list) -> dict:
    """Ids of all entries of a list, those with another fault included; in a dict, which keeps their order."""
    ids = (entry.get('id') for entry in entries if isinstance(entry, dict))
    return {value: None for value in ids if type(value) in (int, str)}


def _dangling(annotation: dict, known: dict, no_picture_fits: bool, file: str) -> Iterator[DataError]:
    image_id = annotation['image_id']
    if image_id not in known['images'] and not no_picture_fits:
        yield DataError(
            f'annotation {annotation["id"]} in {file} has image_id {image_id!r}, which is not in its images',
            'correct the id, add the picture or remove the annotation: training leaves it out',
            kind='picture unknown', id=annotation['id'], field='image_id', value=image_id,
        )
    try:
        coco_checks.check_category(annotation, known['categories'], file)
    except DataError as error:
        yield error


def _picture_findings(images: list[dict], content: dict, bare: bool, file: str) -> Iterator[Finding]:
    if not content['images']:
        yield Finding('error', 'no pictures', f'{file} lists no pictures', 'add them, or use another file', file,
                      field='images', value='[]')
    elif not content['annotations']:
        there = "has no list 'annotations'" if bare else "has an empty list 'annotations'"
        yield Finding('warning', 'no objects', f'{file} {there}: nothing can be learnt from it or scored on it',
                      'use the file that has the objects', file, field='annotations')
    seen: dict[str, Any] = {}
    for image in images:
        side = max(image['width'], image['height'])
        if side > LONGEST_SIDE:
            field = 'width' if side == image['width'] else 'height'
            yield Finding('error', 'picture size', f'picture {image["id"]} has the {field} {side!r:.20}, and no '
                          f'picture is longer than {LONGEST_SIDE}', 'write the true size', file, image['id'], field,
                          f'{side!r:.40}')
        first = seen.setdefault(image['file_name'], image['id'])
        if first != image['id']:
            yield Finding(
                'warning', 'file name twice',
                f'picture {image["id"]} has the file_name {shown(image["file_name"])} of picture {first}',
                'keep one of them, with the objects of both', file, image['id'], 'file_name', image['file_name'])


def _stray_words(content: dict, words: list[str], file: str) -> Iterator[Finding]:
    """Say where NaN or Infinity stand, but for the boxes, areas and masks that have been looked at."""
    found = False
    for path, entry_id, value in words_in(content):
        found = True
        if path[0] == 'annotations' and NUMBERS_LOOKED_AT.intersection(map(str, path)):
            continue
        place = '.'.join(map(str, path))
        yield Finding(
            'error', 'word NaN', f'{place} is {value}, which is no number of JSON', 'correct or remove it', file,
            plain_id(entry_id), str(path[-1]), value)
    if not found:
        yield Finding('error', 'word NaN', f'the file holds the word {words[0]}, which is no number of JSON',
                      'correct or remove it', file, value=words[0])


def words_in(value: Any, path: tuple = (), entry_id: Any = None) -> Iterator[tuple[tuple, Any, float]]:
    """Walk to all numbers that are not finite; of a list within an annotation, the path names the list only."""
    if len(path) > DEEPEST:
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            yield path, entry_id, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from words_in(inner, (*path, key), value.get('id', entry_id))
    elif isinstance(value, list):
        in_annotation = path[:1] == ('annotations',) and len(path) > 2
        for place, inner in enumerate(value):
            below = path if in_annotation and not isinstance(inner, list) else (*path, place)
            yield from words_in(inner, below, entry_id)
