"""Texts on plates that stay inside of the picture and off each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .styles import Colour, ink

TEXT, PAD = 16, 2  # pixels: still read where the drawing is shown at two thirds of its size
MOST_SIGNS = 40  # of a text
HIDDEN = 0.15  # part of a plate that others may cover before it is left out

Box = Sequence[float]


@functools.cache
def font(size: int = TEXT) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings.

    It has the Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic and Lao scripts, and mathematical signs. It
    lacks Chinese, Japanese and Korean, Thai, Ethiopic and the scripts of India: their signs are drawn as empty boxes.
    """
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')), size)


def one_line(text: str) -> str:
    """A text that can be drawn: without line ends and control signs, and not too long."""
    clean = ''.join(sign if sign.isprintable() else ' ' for sign in text).strip() or '?'
    return clean if len(clean) <= MOST_SIGNS else clean[:MOST_SIGNS - 1] + '…'


def written(text: object) -> str:
    """A name from a file as any page can hold it: without halves of characters, which JSON may have."""
    return str(text).encode('utf-8', 'replace').decode()


@functools.lru_cache(maxsize=4096)
def fitted(text: str, room: float, size: int = TEXT) -> tuple[str, int]:
    """As much of `text` as `room` pixels hold, and its width."""
    text = one_line(text)
    while len(text) > 1 and font(size).getlength(text) > room:
        text = text[:-2] + '…'
    return text, int(np.ceil(font(size).getlength(text)))


def plate_height(size: int = TEXT) -> int:
    """Pixels from the upper to the lower border of a plate."""
    return size + 2 * PAD + 1


@functools.lru_cache(maxsize=256)
def plate(text: str, wide: int, colour: Colour, size: int) -> Image.Image:
    """A plate with its text; the names of classes are the same in each picture."""
    image = Image.new('RGB', (wide, plate_height(size)), colour)
    ImageDraw.Draw(image).text((PAD, 0), text, fill=ink(colour), font=font(size))
    return image


def place_text(
    image: Image.Image, text: str, colour: Colour, corners: Box, taken: list[Box], must: bool = True,
    tips: tuple[float, float] | None = None, size: int = TEXT,
) -> bool:
    """Write on a plate at `corners` (left, top, right, bottom), where fewest others lie; False: left out.

    `tips`: columns above and below which a thing that is no box is.
    """
    width, height = image.size
    text, long = fitted(text, width - 2 * PAD, size)
    wide, high = long + 2 * PAD, plate_height(size)
    left, top, right, bottom = corners
    sides = (left, right - wide) if tips is None else ()
    above, below = sides or (tips[0] - wide / 2,), sides or (tips[1] - wide / 2,)
    heights = ((top - high - 1, above), (bottom + 2, below), (top + 2, above), (bottom - high - 2, below))
    wanted = np.array([(x, y) for y, columns in heights for x in columns], float)  # (p, 2)
    kept = np.trunc(wanted.clip(0, (max(0, width - wide), max(0, height - high))))
    covered = _covered(kept, (wide, high), np.array(taken, float).reshape(-1, 4))
    cost = covered + 0.01 * np.abs(wanted - wanted.clip(0, (max(0, width - wide), max(0, height - high)))).sum(1) / high
    best = int(np.flatnonzero(cost <= cost.min() + 1e-9)[0])
    if not must and covered[best] > HIDDEN:
        return False
    x, y = (int(value) for value in kept[best])
    image.paste(plate(text, wide, tuple(colour), size), (x, y))
    taken.append((x, y, x + wide, y + high))
    return True


def _covered(places: np.ndarray, size: tuple[int, int], taken: np.ndarray) -> np.ndarray:
    """Part of a plate of `size`, at each of `places` (p, 2), that lies over the `taken` (t, 4) ones."""
    if not len(taken):
        return np.zeros(len(places))
    first = np.maximum(places[:, None], taken[None, :, :2])
    last = np.minimum(places[:, None] + size, taken[None, :, 2:])
    return (last - first).clip(0).prod(axis=2).sum(axis=1) / (size[0] * size[1])
