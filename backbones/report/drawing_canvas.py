"""A picture to draw on: outlines with dashes, filled masks, texts on plates that stay inside and apart.

Shapes: H W rows and columns of the photograph, h w those of the drawing. Boxes are x, y, width, height in pixels of the
photograph.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing_styles import Colour, Line, ink

LONGEST = 640  # pixels of a drawing
MOST_ENLARGED = 16
TEXT, PAD = 16, 2  # pixels: still read where the drawing is shown at two thirds of its size
MOST_SIGNS = 40  # of a text
DARK = (16, 16, 16)
FILL = 0.25  # of a mask
HIDDEN = 0.15  # part of a plate that others may cover before it is left out
MOST_PLATES = 0.15  # of the picture that plates may hide before the less important ones are left out
SURE = 3  # texts that are never left out
_SHIFT = 3  # bits of a pixel's fraction for OpenCV

Box = Sequence[float]


@dataclass(frozen=True)
class Mark:
    """An object or a detection to draw.

    Attributes:
        box: around it.
        line: of its outline.
        text: on its plate; '' for none.
        mask: run lengths of its pixels; None draws the box.
        rank: place among the important ones, which are drawn above the others, 0 above all; None: it is none of them.
        filled: shade its mask.
    """

    box: Box
    line: Line
    text: str = ''
    mask: dict | None = None
    rank: int | None = None
    filled: bool = True


class Canvas:
    """A part of a photograph, enlarged or reduced.

    Args:
        photograph: (H, W, 3) uint8 RGB.
        region: left, top, right, bottom of the part, whole numbers; None for all.
        size: width and height of the drawing; None: the longer side is `LONGEST`.
    """

    def __init__(
        self, photograph: np.ndarray, region: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        height, width = photograph.shape[:2]
        self.bounds = (0, 0, width, height)
        self.region = region or self.bounds
        left, top, right, bottom = self.region
        scale = min(LONGEST / max(right - left, bottom - top), MOST_ENLARGED)
        self.size = size or (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))  # w, h
        self.scale = np.array([self.size[0] / (right - left), self.size[1] / (bottom - top)])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        self.pixels = cv2.resize(np.ascontiguousarray(photograph[top:bottom, left:right]), self.size, interpolation=how)
        self._texts: list[tuple[float, str, Colour, Box, tuple[float, float] | None]] = []

    def copy(self) -> Canvas:
        """The same picture to draw something else on."""
        other = object.__new__(Canvas)
        other.__dict__ = self.__dict__ | dict(pixels=self.pixels.copy(), _texts=list(self._texts))
        return other

    def draw(self, marks: Sequence[Mark]) -> None:
        """Draw marks, the important ones above the others."""
        for mark in sorted(marks, key=_order, reverse=True):
            corners = self._corners(mark.box)
            if corners is None:
                continue
            inside, tips = self._bitmap(mark.mask) if mark.mask is not None else None, None
            if inside is not None and inside.any():
                self._draw_mask(inside, mark)
                corners, tips = _extent(inside)
            elif inside is not None and self.region != self.bounds:
                continue  # only its box reaches into this part
            else:
                left, top, right, bottom = corners
                self.outline(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), mark.line)
            if mark.text:
                self._texts.append((_order(mark), mark.text, mark.line.colour, corners, tips))

    def outline(self, points: np.ndarray, line: Line) -> None:
        """Draw the closed outline through `points` (n, 2), in pixels of the drawing, over a dark one."""
        closed = np.concatenate([points, points[:1]])
        self._polyline(closed, DARK, line.width + 2)
        for part in dashes(closed, line.dashes) if line.dashes else [closed]:
            self._polyline(part, line.colour, line.width)
        if line.double:
            self._polyline(closed, DARK, 1)

    def picture(self) -> Image.Image:
        """What was drawn, with its texts."""
        image = Image.fromarray(self.pixels)
        taken: list[Box] = []
        room = MOST_PLATES * self.size[0] * self.size[1]
        for rank, text, colour, corners, tips in sorted(self._texts, key=lambda one: one[0]):
            if rank < SURE or sum((one[2] - one[0]) * (one[3] - one[1]) for one in taken) < room:
                place_text(image, text, colour, corners, taken, rank < SURE, tips)
        return image

    def _corners(self, box: Box) -> tuple[float, float, float, float] | None:
        """Corners in the drawing: inside of the photograph, and not far outside of the region; None: not there."""
        left, top, width, height = box
        corners = np.array([[left, top], [left + width, top + height]], float)
        if not np.isfinite(corners).all():
            return None
        corners = corners.clip(self.bounds[:2], self.bounds[2:])
        if (corners[1] <= self.region[:2]).any() or (corners[0] >= self.region[2:]).any():
            return None
        drawn = (corners - self.region[:2]) * self.scale
        whole = self.region == self.bounds
        margin = 2 if whole else -8  # lines along the border stay in sight, but a part shows no border of its own
        (left, top), (right, bottom) = drawn.clip(margin, np.array(self.size) - 1 - margin)
        return left, top, max(right, left + 3), max(bottom, top + 3)

    def _bitmap(self, mask: dict) -> np.ndarray:
        """Pixels of a mask in the drawing, (h, w) bool."""
        from pycocotools import mask as coco_mask

        left, top, right, bottom = self.region
        part = np.ascontiguousarray(coco_mask.decode(mask)[top:bottom, left:right]) * np.uint8(255)
        how = cv2.INTER_AREA if self.scale[0] < 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(part, self.size, interpolation=how)
        return scaled >= 128 if (scaled >= 128).any() else scaled > 0

    def _draw_mask(self, inside: np.ndarray, mark: Mark) -> None:
        if mark.filled:
            self.shade(inside, mark.line.colour, FILL)
        loops, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for loop in loops:
            self.outline(loop[:, 0].astype(float), mark.line)

    def shade(self, inside: np.ndarray, colour: Colour, strength: float) -> None:
        """Mix `colour` into the pixels `inside` (h, w)."""
        own = self.pixels[inside].astype(np.float32)
        self.pixels[inside] = (own * (1 - strength) + np.array(colour, np.float32) * strength).round().astype(np.uint8)

    def _polyline(self, points: np.ndarray, colour: Colour, width: int) -> None:
        fixed = (points * (1 << _SHIFT)).round().astype(np.int32)[:, None]
        cv2.polylines(self.pixels, [fixed], False, colour, width, cv2.LINE_AA, _SHIFT)


def _order(mark: Mark) -> float:
    return np.inf if mark.rank is None else mark.rank


def _extent(inside: np.ndarray) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    """Left, top, right, bottom of what is `inside` (h, w), and the columns of its highest and lowest pixels."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    tips = tuple(float(np.flatnonzero(inside[row]).mean()) for row in (rows[0], rows[-1]))
    return (float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])), tips


def dashes(points: np.ndarray, pattern: Sequence[int]) -> list[np.ndarray]:
    """Parts of the way through `points` (n, 2): line and gap by turns, of the lengths of `pattern`."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])  # (n,)
    total, parts, start, turn = along[-1], [], 0.0, 0
    while start < total:
        end = min(start + pattern[turn % len(pattern)], total)
        if turn % 2 == 0:
            ends = [[np.interp(at, along, points[:, axis]) for axis in (0, 1)] for at in (start, end)]
            between = points[np.searchsorted(along, start, 'right'):np.searchsorted(along, end, 'left')]
            parts.append(np.concatenate([ends[:1], between, ends[1:]]))
        start, turn = end, turn + 1
    return parts


# --- texts -------------------------------------------------------------------------------------------


@functools.cache
def font(size: int = TEXT) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has far more signs than Pillow's own font."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')), size)


def one_line(text: str) -> str:
    """A text that can be drawn: without line ends and control signs, and not too long."""
    clean = ''.join(sign if sign.isprintable() else ' ' for sign in text).strip() or '?'
    return clean if len(clean) <= MOST_SIGNS else clean[:MOST_SIGNS - 1] + '…'


def written(text: object) -> str:
    """A name from a file as any page can hold it: without halves of characters, which JSON may have."""
    return str(text).encode('utf-8', 'replace').decode()


def fitted(text: str, room: float) -> tuple[str, int]:
    """As much of `text` as `room` pixels hold, and its width."""
    text = one_line(text)
    while len(text) > 1 and font().getlength(text) > room:
        text = text[:-2] + '…'
    return text, int(np.ceil(font().getlength(text)))


def place_text(
    image: Image.Image, text: str, colour: Colour, corners: Box, taken: list[Box], must: bool = True,
    tips: tuple[float, float] | None = None,
) -> bool:
    """Write on a plate at `corners` (left, top, right, bottom), where fewest others lie; False: left out.

    `tips`: columns above and below which a thing that is no box is.
    """
    width, height = image.size
    text, long = fitted(text, width - 2 * PAD)
    wide, high = long + 2 * PAD, TEXT + 2 * PAD + 1
    left, top, right, bottom = corners
    sides = (left, right - wide) if tips is None else ()
    above, below = sides or (tips[0] - wide / 2,), sides or (tips[1] - wide / 2,)
    heights = ((top - high - 1, above), (bottom + 2, below), (top + 2, above), (bottom - high - 2, below))
    places = [(x, y) for y, columns in heights for x in columns]
    best, least = None, np.inf
    for x, y in places:
        outside = abs(x - np.clip(x, 0, max(0, width - wide))) + abs(y - np.clip(y, 0, max(0, height - high)))
        x, y = int(np.clip(x, 0, max(0, width - wide))), int(np.clip(y, 0, max(0, height - high)))
        covered = sum(_common((x, y, x + wide, y + high), other) for other in taken) / (wide * high)
        cost = covered + 0.01 * outside / high
        if cost < least - 1e-9:
            best, least, hidden = (x, y, x + wide, y + high), cost, covered
    if not must and hidden > HIDDEN:
        return False
    draw = ImageDraw.Draw(image)
    draw.rectangle((best[0], best[1], best[2] - 1, best[3] - 1), fill=colour)
    draw.text((best[0] + PAD, best[1]), text, fill=ink(colour), font=font())
    taken.append(best)
    return True


def _common(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0)
