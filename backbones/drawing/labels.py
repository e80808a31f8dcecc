"""Label maps over a photograph: classes in their colours, boundaries, names in their regions, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .canvas import Canvas
from .styles import DARK, Colour
from .texts import PAD, TEXT, fitted, place_text, plate, plate_height

OVER = 0.6  # strength of the class colours over the photograph
HATCH = 8  # pixels between the lines over what is ignored
LEAST_NAMED = 0.015  # of the picture: smaller regions have their name in the legend only
COARSE = 128  # pixels of the longer side at which the middle of a region is looked for
GAP = 4  # pixels between the entries of a legend
LEGEND_LINES = 3
NARROWEST = 16  # letters: a legend below a narrower picture is this wide
IGNORED: Colour = (150, 150, 150)


def known_labels(labels: np.ndarray, count: int) -> np.ndarray:
    """Labels (H, W) as uint16: `count` where they are none of 0 to `count` - 1."""
    return np.where((labels >= 0) & (labels < count), labels, count).astype(np.uint16)


def shares_of(labels: np.ndarray, count: int) -> np.ndarray:
    """Pixels of each class of `known_labels`, (count + 1,), the last for none of them."""
    return np.bincount(labels.ravel(), minlength=count + 1)


def overlay(
    canvas: Canvas, labels: np.ndarray, classes: Sequence[str], colours: Sequence[Colour], opacity: float = OVER,
    ignored: np.ndarray | None = None, names: bool = True,
) -> Image.Image:
    """The classes in their colours, their boundaries, and their names where there is room.

    Args:
        canvas: with the photograph.
        labels: (h, w) `known_labels` at the size of the canvas.
        classes: names.
        colours: of them.
        opacity: of the colours.
        ignored: (h, w) bool, what is hatched; None: what has no class shows the photograph.
        names: write them.
    """
    none = len(classes)
    table = np.array([*colours[:none], IGNORED], np.uint8)
    own = cv2.addWeighted(canvas.pixels, 1 - opacity, coloured(labels, table), opacity, -0.499)  # rounds down
    own = cv2.copyTo(np.full_like(own, DARK[0]), boundaries(labels).view(np.uint8), own)
    if ignored is None:
        own = cv2.copyTo(canvas.pixels, (labels == none).view(np.uint8), own)
    else:
        hatch(own, ignored)
    image = Image.fromarray(own)
    if names:
        _name_regions(image, labels, classes, colours, canvas.text)
    return image


def _name_regions(
    image: Image.Image, labels: np.ndarray, classes: Sequence[str], colours: Sequence[Colour], letters: int
) -> None:
    """Write the names into the middle of the largest region of each class, looked for in a coarse map."""
    taken: list[Any] = []
    zoom = max(1.0, max(image.size) / COARSE)
    coarse = cv2.resize(labels, [max(1, round(side / zoom)) for side in image.size], interpolation=cv2.INTER_NEAREST)
    wide, high = image.width / coarse.shape[1], image.height / coarse.shape[0]
    for number in np.flatnonzero(shares_of(coarse, len(classes))[:-1] >= LEAST_NAMED * coarse.size).tolist():
        middle = _middle(coarse == number)
        if middle is not None:
            x, y = (middle[0] + 0.5) * wide, (middle[1] + 0.5) * high
            top = y - letters / 2 - PAD
            place_text(image, classes[number], colours[number], (x, top + letters + 2 * PAD + 2, x, top), taken,
                       must=False, tips=(x, x), size=letters)


def _middle(inside: np.ndarray) -> tuple[int, int] | None:
    """Column and row farthest from the border of the largest region; None where that is small."""
    number, parts, facts, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    if number < 2:
        return None
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    if facts[largest, cv2.CC_STAT_AREA] < LEAST_NAMED * inside.size:
        return None
    distance = cv2.distanceTransform(np.pad((parts == largest).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


def coloured(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The colours (h, w, 3) that a table (c, 3) has for labels (h, w)."""
    if len(table) > 256:
        return table[labels]
    whole = np.zeros((1, 256, 3), np.uint8)
    whole[0, :len(table)] = table
    return cv2.LUT(cv2.merge([labels.astype(np.uint8)] * 3), whole)


def hatch(pixels: np.ndarray, ignored: np.ndarray) -> None:
    """Grey with slanting lines where nothing counts."""
    rows, columns = np.nonzero(ignored)
    pixels[rows, columns] = pixels[rows, columns] // 3 + 70
    line = (rows + columns) % HATCH < 2
    pixels[rows[line], columns[line]] = 225


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another label, (h, w) bool."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def with_legend(
    image: Image.Image, entries: Sequence[tuple[str, Colour]], lines: int = LEGEND_LINES, letters: int = TEXT
) -> Image.Image:
    """The picture with names and colours below it, as many lines as are needed, `lines` at most."""
    width, high = max(image.width, NARROWEST * letters), plate_height(letters)
    placed, x, line = [], 0, 0
    for place, (name, colour) in enumerate(entries):
        text, long = fitted(name, width - 2 * PAD, letters)
        wide = long + 2 * PAD
        more = f'and {len(entries) - place} more'
        last = line == lines - 1
        room = width - (fitted(more, width, letters)[1] + GAP if last and place < len(entries) - 1 else 0)
        if x and x + wide > room:
            if last:
                placed.append((x, line, more, IGNORED, fitted(more, width, letters)[1] + 2 * PAD))
                break
            x, line = 0, line + 1
        placed.append((x, line, text, colour, wide))
        x += wide + GAP
    whole = Image.new('RGB', (width, image.height + (line + 1) * (high + GAP)), (255, 255, 255))
    whole.paste(image, (0, 0))
    for x, line, text, colour, wide in placed:
        whole.paste(plate(text, wide, tuple(colour), letters), (x, image.height + GAP + line * (high + GAP)))
    return whole
