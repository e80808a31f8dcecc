"""The pictures of a segmenter's card: photograph, label map, prediction, and what the wrong pixels were taken for."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .drawing_canvas import PAD, TEXT, Canvas, fitted, font, place_text
from .drawing_styles import Colour, ink

OVER = 0.6  # strength of the class colours over the photograph
HATCH = 8  # pixels between the lines over what is ignored
LEAST_NAMED = 0.015  # of the picture: smaller regions have their name in the legend only
GAP = 4  # pixels between the entries of a legend
LEGEND_LINES = 3
IGNORED: Colour = (150, 150, 150)


def card_drawings(
    photograph: np.ndarray, truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], colours: Sequence[Colour],
) -> list[tuple[str, Image.Image]]:
    """Draw a card.

    Args:
        photograph: (H, W, 3) uint8 RGB.
        truth: (H, W) labels, the number of classes where nothing counts.
        predicted: likewise.
        classes: names.
        colours: of them.
    """
    canvas, none = Canvas(photograph), len(classes)
    truth, predicted = (cv2.resize(one, canvas.size, interpolation=cv2.INTER_NEAREST) for one in (truth, predicted))
    ignored = truth == none
    shown = np.union1d(np.unique(truth), np.unique(predicted)).tolist()
    entries = [(classes[n], colours[n]) for n in shown if n < none]
    entries += [('ignored', IGNORED)] if ignored.any() else []
    wrong = (truth != predicted) & ~ignored
    taken = [(f'taken for {classes[n]}', colours[n]) for n in np.unique(predicted[wrong]).tolist()]
    taken = taken or [('no wrong pixel', IGNORED)]
    drawings = [('Image', Image.fromarray(canvas.pixels))]
    for title, labels in (('Ground truth', truth), ('Prediction', predicted)):
        drawings.append((title, with_legend(overlay(canvas, labels, ignored, classes, colours), entries)))
    drawings.append(('Wrong pixels', with_legend(error_picture(canvas, predicted, wrong, ignored, colours), taken)))
    return drawings


def overlay(
    canvas: Canvas, labels: np.ndarray, ignored: np.ndarray, classes: Sequence[str], colours: Sequence[Colour]
) -> Image.Image:
    """The classes in their colours, their boundaries, and their names where there is room."""
    table = np.array([*colours, IGNORED], np.uint8)
    own = cv2.addWeighted(canvas.pixels, 1 - OVER, table[np.minimum(labels, len(classes))], OVER, 0)
    own[boundaries(labels)] = 16
    hatch(own, ignored)
    image = Image.fromarray(own)
    taken: list = []
    for number in np.unique(labels).tolist():
        if number < len(classes):
            _name_region(image, labels == number, classes[number], colours[number], taken)
    return image


def _name_region(image: Image.Image, inside: np.ndarray, name: str, colour: Colour, taken: list) -> None:
    """Write the name into the middle of the largest region."""
    number, parts, facts, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    if number < 2:
        return
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    if facts[largest, cv2.CC_STAT_AREA] < LEAST_NAMED * inside.size:
        return
    distance = cv2.distanceTransform(np.pad((parts == largest).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    top = y - TEXT / 2 - PAD
    place_text(image, name, colour, (x, top + TEXT + 2 * PAD + 2, x, top), taken, must=False, tips=(x, x))


def error_picture(
    canvas: Canvas, predicted: np.ndarray, wrong: np.ndarray, ignored: np.ndarray, colours: Sequence[Colour]
) -> Image.Image:
    """The wrong pixels in the colour of the class that they were taken for, over the photograph in dark grey."""
    own = np.repeat(cv2.cvtColor(canvas.pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    own = (own * 0.45 + 20).astype(np.uint8)
    table = np.array([*colours, IGNORED], np.uint8)
    own[wrong] = table[np.minimum(predicted[wrong], len(colours))]
    hatch(own, ignored)
    return Image.fromarray(own)


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


def with_legend(image: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The picture with names and colours below it, as many lines as are needed, `LEGEND_LINES` at most."""
    width, high = image.width, TEXT + 2 * PAD + 1
    placed, x, line = [], 0, 0
    for place, (name, colour) in enumerate(entries):
        text, long = fitted(name, width - 2 * PAD)
        wide = long + 2 * PAD
        more = f'and {len(entries) - place} more'
        room = width - (fitted(more, width)[1] + GAP if line == LEGEND_LINES - 1 and place < len(entries) - 1 else 0)
        if x and x + wide > room:
            if line == LEGEND_LINES - 1:
                placed.append((x, line, more, IGNORED, fitted(more, width)[1] + 2 * PAD))
                break
            x, line = 0, line + 1
        placed.append((x, line, text, colour, wide))
        x += wide + GAP
    whole = Image.new('RGB', (width, image.height + (line + 1) * (high + GAP)), (255, 255, 255))
    whole.paste(image, (0, 0))
    draw = ImageDraw.Draw(whole)
    for x, line, text, colour, wide in placed:
        y = image.height + GAP + line * (high + GAP)
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
        draw.text((x + PAD, y), text, fill=ink(colour), font=font())
    return whole
