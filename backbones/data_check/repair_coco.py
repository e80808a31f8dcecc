"""A repaired copy of a COCO annotation file: what can be repaired without guessing, and a list of all the rest."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data import coco_checks
from ..data.coco_masks import run_totals, usable_polygons
from ..data.errors import DataError
from ..data.files import shown
from ..files import write_bytes, write_json
from .annotations import check_annotations, images_of, read_annotations, words_in
from .mask_facts import MaskFacts, polygon_facts, run_facts
from .object_rules import BEYOND, FIT_PIXELS, FIT_SHARE

Size = tuple[int, int]


def repair_coco(
    file: str | os.PathLike, out: str | os.PathLike, picture_sizes: Mapping[str, Size] | None = None
) -> tuple[list[str], list[str]]:
    """Write a copy of `file` with what can safely be repaired.

    An id that is there twice gets a new number (a copy of the whole entry is dropped); what belongs to no picture or
    class of the file, or has coordinates that are none, is dropped; boxes are clipped to the picture, and those
    without an area or of no numbers are made from the mask, or the object is dropped; polygons that enclose nothing go
    where another one remains; a missing or impossible area comes from the mask or the box, a missing iscrowd is 0.
    Masks are never invented, and classes never renamed.

    Args:
        file: annotation file.
        out: file to write.
        picture_sizes: true (width, height) of pictures by file name. Another size in the file is corrected where all
            objects of the picture fit into the true one.

    Returns:
        What was changed, and what is still wrong in the copy, each a line with the id. Without a copy (the file cannot
        be read), there is only the latter.

    Raises:
        ValueError: `out` exists.
    """
    file, out = os.fspath(file), os.fspath(out)
    if os.path.lexists(out):
        raise ValueError(f'{shown(out)} exists; choose another file, nothing is overwritten')
    content, _, findings = read_annotations(file)
    left = [f'{finding.message}; the last value is kept' for finding in findings if finding.kind == 'key twice']
    right = coco_checks.sift(content, file)[0] if content is not None else {}
    if not right:
        problems, _ = check_annotations(file)
        return [], [f'{finding.message}; {finding.remedy}' for finding in problems]
    repair = _Repair(content, file, picture_sizes or {})
    repair.run()
    left += repair.left
    repair.done += _write(Path(out), content)
    problems, _ = check_annotations(out)
    left += [
        f'{finding.message}; {finding.remedy}' for finding in problems if finding.severity in ('error', 'warning')
    ]
    return repair.done, left


def _write(out: Path, content: dict) -> list[str]:
    """Write the copy; return lines about NaN and Infinity outside of objects, which become null."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError:
        write_json(out, content)
        return [f'{".".join(map(str, path))}: {value} is now null' for path, _, value in words_in(content)]
    write_bytes(out, text.encode())
    return []


class _Repair:
    """The repair of one file, list by list; `content` is changed in place."""

    def __init__(self, content: dict, file: str, sizes: Mapping[str, Size]) -> None:
        self.content, self.file, self.sizes = content, file, sizes
        self.done: list[str] = []
        self.left: list[str] = []
        self.unsure: set[int | str] = set()  # pictures whose size contradicts their objects

    def run(self) -> None:
        """Repair the pictures and classes first, then the annotations, for these are held against them."""
        for kind, word in (('images', 'picture'), ('categories', 'category')):
            self._drop_copies(kind, word)
        self._belonging()
        self._sizes()
        right, _ = coco_checks.sift(self.content, self.file)
        self.images = images_of(right)
        self._ids()
        self.content['annotations'] = [
            entry for entry in self.content['annotations'] if not isinstance(entry, dict) or self._annotation(entry)
        ]

    def _drop_copies(self, kind: str, word: str) -> None:
        kept: list[Any] = []
        first: dict[str, Any] = {}
        for entry in self.content[kind]:
            number = entry.get('id') if isinstance(entry, dict) else None
            known = first.setdefault(repr(number), entry)
            if number is not None and known is not entry and known == entry:
                self.done.append(f'{word} {number}: the second of two equal entries is dropped')
            else:
                kept.append(entry)
        self.content[kind] = kept

    def _belonging(self) -> None:
        """Drop what belongs to no picture or class, unless nothing does: then the ids themselves are wrong."""
        known = {
            kind: {
                entry['id'] for entry in self.content[kind]
                if isinstance(entry, dict) and type(entry.get('id')) in (int, str)
            } for kind in ('images', 'categories')}
        kept, dropped = [], []
        for place, entry in enumerate(self.content['annotations']):
            reason = None
            if not isinstance(entry, dict):
                reason = f'entry {place} of the annotations is no object in braces'
            else:
                for key, kind in (('image_id', 'images'), ('category_id', 'categories')):
                    value = entry.get(key)
                    if type(value) not in (int, str) or value not in known[kind]:
                        name = f'annotation {entry.get("id", f"at place {place}")!s:.40}'
                        reason = reason or f'{name} has the {key} {value!r:.40}, which is not in the file'
            if reason is None:
                kept.append(entry)
            else:
                dropped.append(f'{reason}: dropped')
        if kept or not dropped:
            self.content['annotations'] = kept
            self.done += dropped

    def _sizes(self) -> None:
        objects: dict[Any, list[dict]] = {}
        for entry in self.content['annotations']:
            if isinstance(entry, dict) and type(entry.get('image_id')) in (int, str):
                objects.setdefault(entry['image_id'], []).append(entry)
        for image in self.content['images']:
            name = image.get('file_name') if isinstance(image, dict) else None
            size = self.sizes.get(name) if isinstance(name, str) else None
            stated = (image.get('width'), image.get('height')) if size else None
            if size is None or (stated == tuple(size) and all(type(side) is int for side in stated)):
                continue
            width, height = map(int, size)
            place = f'picture {image.get("id")!s:.40} ({shown(name)})'
            now = f'{stated[0]!s:.20}x{stated[1]!s:.20}'
            number = image.get('id')
            own = objects.get(number, []) if type(number) in (int, str) else []
            misfit = next((entry for entry in own if not _fits(entry, width, height)), None)
            if misfit is None:
                image.update(width=width, height=height)
                self.done.append(f'{place}: its size {now} is corrected to {width}x{height} (width x height)')
            else:
                self.unsure.add(number)
                self.left.append(
                    f'{place} has the size {now} in the file and is {width}x{height}, but annotation '
                    f'{misfit.get("id")!s:.40} does not fit into that; correct the size or the annotations')

    def _ids(self) -> None:
        """Give new ids where one is missing, no id or there before; drop whole copies."""
        entries = [entry for entry in self.content['annotations'] if isinstance(entry, dict)]
        ids = [entry.get('id') for entry in entries]
        numbers = [one for one in ids if type(one) is int and abs(one) <= coco_checks.MAX_ID]
        words = not numbers and any(isinstance(one, str) for one in ids)
        following = max(numbers, default=0) + 1
        first: dict[Any, dict] = {}
        kept = []
        for entry in self.content['annotations']:
            if not isinstance(entry, dict):
                kept.append(entry)
                continue
            number = entry.get('id')
            right = isinstance(number, str) if words else type(number) is int and abs(number) <= coco_checks.MAX_ID
            if right and number not in first:
                first[number] = entry
            elif right and first[number] == entry:
                self.done.append(f'annotation {number}: the second of two equal entries is dropped')
                continue
            else:
                while str(following) in first or following in first:
                    following += 1
                old = f'{number!r:.40}' if number is not None else 'none'
                entry['id'] = str(following) if words else following
                first[entry['id']] = entry
                self.done.append(
                    f'annotation {old}: {"the second of this id" if right else "no usable id"}, it is now {following}')
            kept.append(entry)
        self.content['annotations'] = kept

    def _annotation(self, entry: dict) -> bool:
        """Repair one; return whether it is kept."""
        image = self.images.get(entry.get('image_id')) if type(entry.get('image_id')) in (int, str) else None
        if image is None or image['id'] in self.unsure:  # its picture has a fault itself, which is listed
            return True
        name = f'annotation {entry["id"]} (picture {shown(image["file_name"])})'
        if (mask := _in_one_list(entry.get('segmentation'))) is not None:
            entry['segmentation'] = mask
            self.done.append(f'{name}: its polygons are written as lists of x, y, x, y, ... now')
        errors = self._mask_errors(entry, image)
        if any(error.kind.startswith('polygon') for error in errors):
            self.done.append(f'{name}: a polygon has coordinates that are no numbers or far outside; it is dropped')
            return False
        if not errors:
            self._polygons(entry, name)
        facts = _facts(entry) if not errors else None
        if not self._box(entry, image, facts, name):
            return False
        if 'iscrowd' not in entry:
            entry['iscrowd'] = 0
            self.done.append(f'{name}: iscrowd was missing, it is 0')
        area = entry.get('area')
        if not _is_number(area) or area <= 0:
            width, height = entry['bbox'][2:]
            facts = _facts(entry) if not errors else None
            known = facts is not None and facts.areas[0] > 0
            entry['area'] = round(float(facts.areas[0]), 4) if known else width * height
            before = 'missing' if area is None else f'{area!r:.20}'
            self.done.append(
                f'{name}: its area was {before} and is now {entry["area"]:g}, that of its {"mask" if known else "box"}')
        return True

    def _mask_errors(self, entry: dict, image: dict) -> list[DataError]:
        """What strict reading refuses in the mask alone."""
        mask = entry.get('segmentation')
        box = dict(bbox=[0, 0, 1, 1], id=entry['id'])
        errors = coco_checks.annotation_errors({**box, 'segmentation': mask}, image, self.file)
        string = mask.get('counts') if isinstance(mask, dict) and not errors else None
        if isinstance(string, str) and run_totals([string])[0] != image['width'] * image['height']:
            errors.append(DataError('the run lengths do not fill the picture', kind='run lengths'))
        return errors

    def _polygons(self, entry: dict, name: str) -> None:
        mask = entry.get('segmentation')
        if not mask or not isinstance(mask, list):
            return
        usable = usable_polygons(mask)
        if usable and len(usable) < len(mask):
            entry['segmentation'] = usable
            self.done.append(f'{name}: {len(mask) - len(usable)} of {len(mask)} polygons enclose nothing, and are gone')

    def _box(self, entry: dict, image: dict, facts: MaskFacts | None, name: str) -> bool:
        """Repair the box; return whether the object is kept."""
        width, height = image['width'], image['height']
        box, reason, made = entry.get('bbox'), None, None
        if facts is not None and not np.isnan(facts.extents[0]).any():
            made = _clipped(facts.extents[0].tolist(), width, height)
        usable = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and min(box[2:]) > 0
        if usable:
            if _is_inside(box, width, height):
                return True
            clipped = _clipped([box[0], box[1], box[0] + box[2], box[1] + box[3]], width, height)
            side = max(width, height)
            far = max(box[0] + box[2], box[1] + box[3]) > 2 * side or min(box[:2]) < -side
            reason = 'far outside the picture' if far else 'outside the picture'
            if clipped is not None and not far and _agree(clipped, made):
                entry['bbox'] = clipped
                self.done.append(f'{name}: its bbox {box} is clipped to the picture, {clipped}')
                return True
        reason = reason or 'no box with an area'
        if made is None:
            self.done.append(f'{name}: its bbox {box!r:.80} is {reason}, and no mask tells it; it is dropped')
            return False
        entry['bbox'] = made
        self.done.append(f'{name}: its bbox {box!r:.80} is {reason}; it is now that of its mask, {made}')
        return True


def _agree(box: list[float], other: list[float] | None) -> bool:
    """Tell whether a box fits that of its mask, where that is known."""
    if other is None:
        return True
    corners = np.array([[one[0], one[1], one[0] + one[2], one[1] + one[3]] for one in (box, other)])
    return bool((np.abs(corners[0] - corners[1]) <= np.maximum(FIT_PIXELS, FIT_SHARE * np.tile(box[2:], 2))).all())


def _in_one_list(mask: Any) -> list[list[float]] | None:
    """Return polygons that are one flat list, or lists of points [x, y], in COCO's form; None for all else."""
    if not isinstance(mask, list) or not mask:
        return None
    if all(map(_is_number, mask)):
        return [mask] if len(mask) >= 6 and len(mask) % 2 == 0 else None
    points = [point for polygon in mask if isinstance(polygon, list) for point in polygon]
    pairs = all(isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in points)
    if not points or not pairs or not all(isinstance(polygon, list) for polygon in mask):
        return None
    return [[value for point in polygon for value in point] for polygon in mask]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_inside(box: list[float], width: int, height: int) -> bool:
    x, y, w, h = box
    return min(x, y, width - x - w, height - y - h) >= -BEYOND


def _clipped(corners: list[float], width: int, height: int) -> list[float] | None:
    """Clip x0, y0, x1, y1 to the picture and return x, y, width, height; None where nothing is left."""
    x0, y0 = max(corners[0], 0), max(corners[1], 0)
    x1, y1 = min(corners[2], width), min(corners[3], height)
    return [round(value, 4) for value in (x0, y0, x1 - x0, y1 - y0)] if x1 > x0 and y1 > y0 else None


def _facts(entry: dict) -> MaskFacts | None:
    """Extent and area of a sound mask."""
    mask = entry.get('segmentation')
    if not mask:
        return None
    return polygon_facts([mask]) if isinstance(mask, list) else run_facts([mask])


def _fits(entry: dict, width: int, height: int) -> bool:
    """Tell whether box and mask of an annotation, as far as they are sound, lie in a picture of this size."""
    box = entry.get('bbox')
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and not _is_inside(box, width, height):
        return False
    mask = entry.get('segmentation')
    if isinstance(mask, dict) and mask.get('size') != [height, width]:
        return False
    try:
        values = [value for polygon in mask for value in polygon] if isinstance(mask, list) else []
        return not values or (
            min(values) >= -BEYOND and max(values) <= max(width, height) + BEYOND and
            all(max(polygon[::2]) <= width + BEYOND and max(polygon[1::2]) <= height + BEYOND
                for polygon in mask if len(polygon) > 1))
    except (TypeError, ValueError):
        return False
