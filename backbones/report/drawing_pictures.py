"""Photographs as training reads them, a grey ground for those that cannot be, and JPEGs that keep to a budget."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.data.bad_samples import BadSampleError
from backbones.data.images import FORMATS, MAX_PIXELS, decode_image, read_content

from .parts import Picture

GREY = 118
LEAST = 16_000  # bytes of a card: with less for each, fewer cards are made
# Quality, then size, falls until a card keeps to its share: (longer side as a part of the drawing's, quality).
STEPS = ((1, 88), (1, 80), (1, 70), (1, 60), (1, 50), (0.75, 60), (0.75, 45), (0.5, 55), (0.5, 35))
FULL_COLOUR = 70  # quality from which on colours have as many pixels as the picture: thin lines stay sharp


def load_photograph(path: Path | str, size: tuple[int, int] | None) -> tuple[np.ndarray, str]:
    """Read a picture of `size` (H, W), turned as its annotations are.

    Returns:
        (H, W, 3) uint8 RGB, and '' or why it is a grey ground only.
    """
    try:
        content = read_content(path)
        image = decode_image(content, str(path), size=size, formats=(*FORMATS, 'TIFF'))
    except (BadSampleError, OSError, ValueError, MemoryError) as error:
        return grey(size), _short(error)
    return np.ascontiguousarray(image[..., ::-1]), ''


def grey(size: tuple[int, int] | None) -> np.ndarray:
    """A ground where there is no picture."""
    height, width = size or (96, 128)
    if height * width > MAX_PIXELS or min(height, width) < 1:
        height, width = 96, 128
    return np.full((height, width, 3), GREY, np.uint8)


def _short(error: Exception) -> str:
    """What is wrong, without what to do."""
    return str(error).split('; ')[0]


class Purse:
    """The bytes that all cards together may take, shared out evenly; what a card leaves goes to those after it.

    Args:
        budget: bytes.
        cards: how many are wanted.

    Attributes:
        cards: how many there are bytes for.
        reduced: how many were made smaller than drawn, or of a quality at which it shows.
        left_out: how many fitted at no size.
    """

    def __init__(self, budget: int, cards: int) -> None:
        self.cards = min(cards, max(0, budget) // LEAST)
        self._left, self._waiting, self._step = max(0, budget), self.cards, 0
        self.reduced = self.left_out = 0

    def encode(self, drawings: Sequence[tuple[str, Image.Image]]) -> list[Picture] | None:
        """JPEGs of the drawings of a card, each with its label; None where its share is too small for any size."""
        share = self._left // max(1, self._waiting)
        self._waiting -= 1
        for step in range(max(0, self._step - 1), len(STEPS)):
            pictures = [_encoded(label, drawing, *STEPS[step]) for label, drawing in drawings]
            total = sum(len(one.jpeg) for one in pictures)
            if total <= share:
                self._left -= total
                self._step = step
                self.reduced += STEPS[step] < (1, FULL_COLOUR)
                return pictures
        self.left_out += 1
        return None


def _encoded(label: str, drawing: Image.Image, part: float, quality: int) -> Picture:
    if part < 1:
        drawing = drawing.resize([max(1, round(side * part)) for side in drawing.size], Image.Resampling.LANCZOS)
    target = io.BytesIO()
    drawing.save(target, 'JPEG', quality=quality, subsampling=0 if quality >= FULL_COLOUR else 2)
    return Picture(label, target.getvalue(), *drawing.size)
