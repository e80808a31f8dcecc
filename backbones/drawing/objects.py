"""Objects over a photograph: see-through masks, boxes, and names on plates; each object has a shade of its class.

Shapes: H W rows and columns of the photograph, n objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .canvas import Canvas, Mark
from .styles import Colour, Line, chosen_colours, shade
from .texts import written

OPACITY = 0.45  # of masks
PLATES = 0.3  # of the picture that plates may hide
OUTLINE, FRAME = 800, 320  # the lines around masks and of boxes are this part of the longer side, at least a pixel
LETTERS, PER_LETTER = 12, 90  # likewise the letters, at least 12 pixels


@dataclass
class Objects:
    """Objects of one picture, in its own pixels.

    Attributes:
        boxes: (n, 4) x1 y1 x2 y2.
        labels: (n,).
        scores: (n,), or None for true objects.
        masks: n bitmaps (H, W) or run lengths, those of the first objects, or none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: Sequence[Any] = field(default_factory=list)


def objects_of(instances: Any, threshold: float | None = None, most: int | None = None) -> Objects:
    """MMEngine's instances, predicted or true, as what is drawn here: the surest first.

    Args:
        instances: with `bboxes`, `labels`, and perhaps `scores` and `masks` (bitmaps, run lengths, or mmdet's).
        threshold: objects whose score is no higher are left out; None: true objects, which have no score.
        most: so many at most.
    """
    boxes, labels = _array(instances.bboxes).reshape(-1, 4), _array(instances.labels)
    masks = _each_mask(instances.masks) if 'masks' in instances else []
    if threshold is None:
        return Objects(boxes[:most], labels[:most], None, masks[:most])
    scores = _array(instances.scores)
    chosen = [place for place in np.argsort(-scores, kind='stable') if scores[place] > threshold][:most]
    return Objects(boxes[chosen], labels[chosen], scores[chosen], [masks[n] for n in chosen] if len(masks) else [])


def letters_of(size: tuple[int, int]) -> int:
    """Height of the letters in a drawing of that width and height: legible where all of it is on the screen."""
    return max(LETTERS, round(max(size) / PER_LETTER))


def draw_objects(
    image: np.ndarray, objects: Objects, classes: Sequence[str], palette: object = None,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """Draw objects over a picture (H, W, 3) of RGB, at the width and height `size`; None: its own.

    Args:
        image: the picture.
        objects: to draw; the first ones are drawn above the others.
        classes: names of the labels.
        palette: colours of the labels; None, or what is none: our own.
        size: of the drawing.
    """
    size = size or (image.shape[1], image.shape[0])
    canvas = Canvas(image, size=size, text=letters_of(size), plates=PLATES)
    canvas.draw(_marks(objects, classes, chosen_colours(palette, len(classes)), size))
    return canvas.picture()


def _marks(objects: Objects, classes: Sequence[str], colours: Sequence[Colour], size: tuple[int, int]) -> list[Mark]:
    marks, before = [], Counter()
    longer = max(size)
    frame, outline = max(1, round(longer / FRAME)), max(1, round(longer / OUTLINE))
    ranks = np.arange(len(objects.boxes)) if objects.scores is not None else _by_area(objects.boxes)
    for place, (box, label) in enumerate(zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True)):
        label = int(label)
        colour = shade(colours[label % len(colours)], before[label])
        before[label] += 1
        left, top, right, bottom = (min(max(value, -1e9), 1e9) if value == value else 0 for value in box)
        left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        text = written(classes[label] if 0 <= label < len(classes) else f'label {label}')
        if objects.scores is not None:
            text = f'{text[:34]} {objects.scores[place]:.2f}'
        marks.append(Mark(
            (left, top, right - left, bottom - top), Line(colour, (), outline, halo=0), text,
            objects.masks[place] if place < len(objects.masks) else None, int(ranks[place]), OPACITY,
            Line(colour, (), frame, halo=0)))
    return marks


def _by_area(boxes: np.ndarray) -> np.ndarray:
    """Rank of each box, the smallest first: it is drawn above the larger ones."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.argsort(np.argsort(areas, kind='stable'), kind='stable')


def _each_mask(masks: Any) -> Sequence[Any]:
    """Masks of any form one by one: bitmaps stay what they are, polygons become run lengths."""
    own = getattr(masks, 'masks', masks)  # of mmdet's two kinds
    if own is masks or isinstance(own, np.ndarray):
        return own
    from pycocotools import mask as coco_mask

    height, width = masks.height, masks.width
    polygons = [[part.reshape(-1).tolist() for part in one if part.size >= 6] for one in own]
    return [coco_mask.merge(coco_mask.frPyObjects(parts, height, width)) if parts else
            coco_mask.encode(np.zeros((height, width), np.uint8, order='F')) for parts in polygons]


def _array(value: Any) -> np.ndarray:
    """Tensors of any device and precision, and boxes of mmdet."""
    value = getattr(value, 'tensor', value)
    if hasattr(value, 'detach'):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)
