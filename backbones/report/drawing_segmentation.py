"""The pictures of a segmenter's card: photograph, label map, prediction, and what the wrong pixels were taken for."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from backbones.drawing.canvas import Canvas
from backbones.drawing.labels import IGNORED, hatch, known_labels, overlay, with_legend
from backbones.drawing.styles import Colour


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
    truth, predicted = (cv2.resize(known_labels(one, none), canvas.size, interpolation=cv2.INTER_NEAREST)
                        for one in (truth, predicted))
    ignored = truth == none
    shown = np.union1d(np.unique(truth), np.unique(predicted)).tolist()
    entries = [(classes[n], colours[n]) for n in shown if n < none]
    entries += [('ignored', IGNORED)] if ignored.any() else []
    wrong = (truth != predicted) & ~ignored
    taken = [(f'taken for {classes[n]}', colours[n]) for n in np.unique(predicted[wrong]).tolist()]
    taken = taken or [('no wrong pixel', IGNORED)]
    drawings = [('Image', Image.fromarray(canvas.pixels))]
    for title, labels in (('Ground truth', truth), ('Prediction', predicted)):
        drawings.append((title, with_legend(overlay(canvas, labels, classes, colours, ignored=ignored), entries)))
    drawings.append(('Wrong pixels', with_legend(error_picture(canvas, predicted, wrong, ignored, colours), taken)))
    return drawings


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
