"""The pictures of a detector's card: what is there, what was predicted, and where errors are small a part enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from backbones.drawing.canvas import Canvas, Mark
from backbones.drawing.styles import Colour, Line
from backbones.drawing.texts import Box

from .drawing_styles import ASIDE, ERRORS, LOW

SMALL = 0.2  # of the picture's side: an error that is shorter is enlarged
AROUND = 1.5  # of its longer side is shown around it, on either side
LEAST_REGION = 32  # pixels of the photograph
TRUE = Line((0, 0, 0))  # its colour is the class's


@dataclass(frozen=True)
class Seen:
    """What is known of one image.

    Attributes:
        row: of `images` in details.json.
        coco: index of the annotations.
        found: entries of predictions.json by place.
        errors: to draw, the costliest first.
        masks: draw masks.
        threshold: detections below it are drawn if they are among `errors` only.
        names: of the categories.
        colours: of the categories.
    """

    row: dict[str, Any]
    coco: Any
    found: dict[int, Any]
    errors: Sequence[Any]
    masks: bool
    threshold: float
    names: dict[int, str]
    colours: dict[int, Colour]


def card_drawings(photograph: np.ndarray, seen: Seen) -> list[tuple[str, Image.Image]]:
    """Ground truth, prediction, and an enlarged part where the worst error is small."""
    if photograph.shape[:2] != (seen.row['height'], seen.row['width']):  # a small ground in place of a huge picture
        seen = replace(seen, masks=False)
    left = Canvas(photograph)
    right = left.copy()
    left.draw(truth_marks(seen))
    right.draw(prediction_marks(seen))
    drawings = [('Ground truth', left.picture()), ('Prediction', right.picture())]
    region = zoomed_region(photograph.shape, seen)
    if region is not None:
        part = Canvas(photograph, region, right.size)
        worst = seen.errors[0]
        truth = [replace(one, fill=0, text=f'truth: {one.text}')
                 for one in truth_marks(seen, skip=worst.object_id if worst.kind == 'missed' else None)]
        part.draw([*truth, _error_mark(worst, seen)])
        drawings.append(('Worst error, enlarged', part.picture()))
    return drawings


def truth_marks(seen: Seen, skip: int | None = None) -> list[Mark]:
    """Objects, in the colours of their classes."""
    marks = []
    for one in seen.row['objects']:
        if one['id'] == skip:
            continue
        name, crowd = seen.names[one['category']], one['crowd']
        line = Line(seen.colours[one['category']], LOW if crowd else ())
        marks.append(Mark(one['box'], line, f'crowd: {name}' if crowd else name, _truth_mask(one['id'], seen)))
    return marks


def prediction_marks(seen: Seen) -> list[Mark]:
    """Detections, the errors by their kind, and what was missed."""
    wrong = {one.place for one in seen.errors if one.place is not None}
    marks = [_error_mark(one, seen, rank) for rank, one in enumerate(seen.errors)]
    for one in seen.row['detections']:
        if one['score'] < seen.threshold or one['place'] in wrong:
            continue
        name = seen.names[one['category']]
        if one['right']:
            marks.append(Mark(one['box'], Line(seen.colours[one['category']]), f'{name} {one["score"]:.2f}',
                              _found_mask(one['place'], seen)))
        else:
            marks.append(Mark(one['box'], ASIDE, '', _found_mask(one['place'], seen), fill=0))
    return marks + _low_marks(seen, wrong)


def _low_marks(seen: Seen, wrong: set[int]) -> list[Mark]:
    """Right detections below the threshold: the object is there, and at this score nothing is said of it."""
    return [Mark(one['box'], Line(seen.colours[one['category']], LOW), f'{seen.names[one["category"]]} '
                 f'{one["score"]:.2f}', _found_mask(one['place'], seen), fill=0)
            for one in seen.row['detections']
            if one['right'] and one['score'] < seen.threshold and one['place'] not in wrong]


def _error_mark(error: Any, seen: Seen, rank: int = 0) -> Mark:
    name, line = seen.names[error.category], ERRORS[error.kind]
    if error.kind == 'missed':
        return Mark(_object_box(error.object_id, seen), line, f'missed: {name}', _truth_mask(error.object_id, seen),
                    rank=rank, fill=0)
    return Mark(_found_box(error.place, seen), line, f'{error.kind}: {name} {error.score:.2f}',
                _found_mask(error.place, seen), rank=rank)


def _object_box(number: int, seen: Seen) -> Box:
    return seen.coco.anns[number]['bbox']


def _found_box(place: int, seen: Seen) -> Box:
    return next(one['box'] for one in seen.row['detections'] if one['place'] == place)


def _truth_mask(number: int, seen: Seen) -> dict | None:
    annotation = seen.coco.anns[number]
    return seen.coco.annToRLE(annotation) if seen.masks and annotation.get('segmentation') else None


def _found_mask(place: int, seen: Seen) -> dict | None:
    return seen.found[place]['segmentation'] if seen.masks else None


def zoomed_region(shape: Sequence[int], seen: Seen) -> tuple[int, int, int, int] | None:
    """Part of the photograph around the worst error, of the photograph's form; None where the error is large."""
    if not seen.errors:
        return None
    worst, (height, width) = seen.errors[0], shape[:2]
    boxes = [_found_box(worst.place, seen)] if worst.place is not None else []
    if worst.object_id is not None:
        boxes.append(_object_box(worst.object_id, seen))
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], float)
    left, top = corners[:, :2].min(axis=0).clip(0, (width, height))
    right, bottom = corners[:, 2:].max(axis=0).clip(0, (width, height))
    if max((right - left) / width, (bottom - top) / height) > SMALL:
        return None
    side = max((right - left) / width, (bottom - top) / height) * (1 + 2 * AROUND)  # as a part of the picture's
    side = min(1.0, max(side, LEAST_REGION / max(width, height)))
    wide, high = max(1, round(side * width)), max(1, round(side * height))
    x = int(np.clip(round((left + right - wide) / 2), 0, width - wide))
    y = int(np.clip(round((top + bottom - high) / 2), 0, height - high))
    return x, y, x + wide, y + high
