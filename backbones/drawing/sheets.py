"""Whole drawings of one picture: objects or a label map, the truth beside the prediction, as pixels or as a PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .canvas import Canvas
from .labels import known_labels, overlay, shares_of, with_legend
from .objects import OPACITY, Objects, draw_objects, letters_of
from .styles import chosen_colours
from .texts import font

SMALLEST_DRAWN = 384  # pixels; a picture with a shorter side is enlarged before it is drawn
LARGEST_DRAWN = 2048  # pixels; but not so far that its longer side passes this
GAP, ABOVE = 4, 8  # pixels between two drawings, and around a title's letters


def drawn_size(height: int, width: int) -> tuple[int, int]:
    """Width and height at which a picture is drawn: whole times its own, so that lines and words find room."""
    wanted = math.ceil(SMALLEST_DRAWN / min(height, width))
    zoom = max(1, min(wanted, LARGEST_DRAWN // max(height, width)))  # a strip of 2 rows stays a strip
    return zoom * width, zoom * height


def draw_sheet(
    image: np.ndarray, drawn: Mapping[str, Any], classes: Sequence[str], palette: object = None,
    size: tuple[int, int] | None = None, names: bool = True,
) -> Image.Image:
    """Draw over a picture (H, W, 3) of RGB.

    Args:
        image: the picture.
        drawn: by title, from left to right, what is drawn over it: `Objects`, or a label map (H, W). A title is
            written above unless it is ''.
        classes: names of the labels.
        palette: their colours; None, or what is none: our own.
        size: width and height of each drawing; None: `drawn_size`.
        names: of a label map, write those of classes into their regions, and a legend.
    """
    size = size or drawn_size(*image.shape[:2])
    colours, panels = chosen_colours(palette, len(classes)), {}
    maps = {title: known_labels(what, len(classes)) for title, what in drawn.items() if not isinstance(what, Objects)}
    for title, what in drawn.items():
        if title in maps:
            canvas = Canvas(image, size=size, text=letters_of(size))
            labels = cv2.resize(maps[title], size, interpolation=cv2.INTER_NEAREST)
            panels[title] = overlay(canvas, labels, classes, colours, OPACITY, names=names)
        else:
            panels[title] = draw_objects(image, what, classes, colours, size)
    sheet = beside(panels, letters_of(size))
    pixels = sum((shares_of(one, len(classes)) for one in maps.values()), np.zeros(len(classes) + 1, np.int64))[:-1]
    entries = [(classes[n], colours[n]) for n in np.argsort(-pixels, kind='stable') if pixels[n]]
    if not entries or not names:
        return sheet
    return with_legend(sheet, entries, max(3, sheet.height // (2 * letters_of(size))), letters_of(size))


def beside(panels: Mapping[str, Image.Image], letters: int) -> Image.Image:
    """Pictures of one size side by side, each with its title above."""
    width, height = next(iter(panels.values())).size
    above = letters + ABOVE if any(panels) else 0
    if len(panels) == 1 and not above:
        return next(iter(panels.values()))
    sheet = Image.new('RGB', (len(panels) * (width + GAP) - GAP, height + above), 'white')
    pen = ImageDraw.Draw(sheet)
    for place, (title, panel) in enumerate(panels.items()):
        pen.text((place * (width + GAP) + 2, 2), title, fill='black', font=font(letters))
        sheet.paste(panel, (place * (width + GAP), above))
    return sheet


def as_png(image: Image.Image) -> bytes:
    """A PNG; OpenCV's own settings are its fastest that compress: 20 ms in place of Pillow's 100."""
    done, content = cv2.imencode('.png', cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f'a drawing of {image.width} x {image.height} pixels cannot be made a PNG')
    return content.tobytes()
