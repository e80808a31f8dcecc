"""A picture to draw on: outlines with dashes, filled masks, texts on plates that stay inside and apart.

Shapes: H W rows and columns of the photograph, h w those of the drawing. Boxes are x, y, width, height in pixels of the
photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .masks import cut_out
from .styles import DARK, Colour, Line
from .texts import TEXT, Box, place_text

LONGEST = 640  # pixels of a drawing
MOST_ENLARGED = 16
FILL = 0.25  # of a mask
MOST_PLATES = 0.15  # of the picture that plates may hide before the less important ones are left out
SURE = 3  # texts that are never left out
_SHIFT = 3  # bits of a pixel's fraction for OpenCV

Area = tuple[int, int, np.ndarray]  # left and top in the drawing, (h, w) uint8 of 0 and 1


@dataclass(frozen=True)
class Mark:
    """An object or a detection to draw.

    Attributes:
        box: around it.
        line: of its outline.
        text: on its plate; '' for none.
        mask: its pixels, a bitmap (H, W) or run lengths; None draws the box.
        rank: place among the important ones, which are drawn above the others, 0 above all; None: it is none of them.
        fill: how strongly its mask is shaded, from 0 to 1.
        box_line: of its box, where that is drawn besides the mask.
    """

    box: Box
    line: Line
    text: str = ''
    mask: Any = None
    rank: int | None = None
    fill: float = FILL
    box_line: Line | None = None


class Canvas:
    """A part of a photograph, enlarged or reduced.

    Args:
        photograph: (H, W, 3) uint8 RGB.
        region: left, top, right, bottom of the part, whole numbers; None for all.
        size: width and height of the drawing; None: the longer side is `LONGEST`.
        text: pixels of the letters.
        plates: part of the picture that plates may hide.
    """

    def __init__(
        self, photograph: np.ndarray, region: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None, text: int = TEXT, plates: float = MOST_PLATES,
    ) -> None:
        height, width = photograph.shape[:2]
        self.text, self.plates = text, plates
        self.bounds = (0, 0, width, height)
        self.region = region or self.bounds
        left, top, right, bottom = self.region
        scale = min(LONGEST / max(right - left, bottom - top), MOST_ENLARGED)
        self.size = size or (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))  # w, h
        self.scale = np.array([self.size[0] / (right - left), self.size[1] / (bottom - top)])
        part = np.ascontiguousarray(photograph[top:bottom, left:right])
        self.pixels = _resized(part, self.size, self.scale.max(), cv2.INTER_CUBIC)
        self._texts: list[tuple[float, str, Colour, Box, tuple[float, float] | None]] = []

    def copy(self) -> Canvas:
        """The same picture to draw something else on."""
        other = object.__new__(Canvas)
        other.__dict__ = self.__dict__ | dict(pixels=self.pixels.copy(), _texts=list(self._texts))
        return other

    def draw(self, marks: Sequence[Mark]) -> None:
        """Draw marks, the important ones above the others."""
        for mark in sorted(marks, key=_order, reverse=True):
            corners, tips = self._corners(mark.box, (mark.box_line or mark.line).width), None
            if corners is None:
                continue
            area = self._area(mark.mask) if mark.mask is not None else None
            if area is not None:
                self._draw_mask(area, mark)
            elif mark.mask is not None and self.region != self.bounds:
                continue  # only its box reaches into this part
            if area is None or mark.box_line:
                self.box(corners, mark.box_line or mark.line)
            else:
                corners, tips = _extent(area)
            if mark.text:
                self._texts.append((_order(mark), mark.text, mark.line.colour, corners, tips))

    def box(self, corners: Box, line: Line) -> None:
        """Draw the box of left, top, right, bottom in pixels of the drawing."""
        left, top, right, bottom = corners
        if not (line.halo or line.dashes or line.double):  # sharp: along rows and columns nothing is to be smoothed
            _frame(self.pixels, [round(value) for value in corners], line)
            return
        self.outline(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), line)

    def outline(self, points: np.ndarray, line: Line) -> None:
        """Draw the closed outline through `points` (n, 2), in pixels of the drawing, over a dark one."""
        closed = np.concatenate([points, points[:1]])
        if line.halo:
            self._polyline(closed, DARK, line.width + 2 * line.halo)
        for part in dashes(closed, line.dashes) if line.dashes else [closed]:
            self._polyline(part, line.colour, line.width)
        if line.double:
            self._polyline(closed, DARK, 1)

    def picture(self) -> Image.Image:
        """What was drawn, with its texts."""
        image = Image.fromarray(self.pixels)
        taken: list[Box] = []
        room = self.plates * self.size[0] * self.size[1]
        for number, (_, text, colour, corners, tips) in enumerate(sorted(self._texts, key=lambda one: one[0])):
            if number >= SURE and room <= 0:
                break
            if place_text(image, text, colour, corners, taken, number < SURE, tips, self.text):
                room -= (taken[-1][2] - taken[-1][0]) * (taken[-1][3] - taken[-1][1])
        return image

    def _corners(self, box: Box, width: int) -> tuple[float, float, float, float] | None:
        """Corners in the drawing: inside of the photograph, and not far outside of the region; None: not there."""
        left, top, wide, high = box
        corners = np.array([[left, top], [left + wide, top + high]], float)
        if not np.isfinite(corners).all():
            return None
        corners = corners.clip(self.bounds[:2], self.bounds[2:])
        if (corners[1] <= self.region[:2]).any() or (corners[0] >= self.region[2:]).any():
            return None
        drawn = (corners - self.region[:2]) * self.scale
        whole = self.region == self.bounds
        margin = max(2, width // 2) if whole else -8  # lines along the border stay in sight, but a part has no border
        (left, top), (right, bottom) = drawn.clip(margin, np.array(self.size) - 1 - margin)
        return left, top, max(right, left + 3), max(bottom, top + 3)

    def _area(self, mask: Any) -> Area | None:
        """The pixels of a mask in the drawing."""
        found = cut_out(mask, (self.bounds[3], self.bounds[2]))
        if found is None:
            return None
        left, top, part = found
        limits = np.array(self.region).reshape(2, 2)
        corners = np.array([[left, top], [left + part.shape[1], top + part.shape[0]]])
        first, last = np.maximum(corners[0], limits[0]), np.minimum(corners[1], limits[1])
        if (first >= last).any():
            return None
        part = part[first[1] - top:last[1] - top, first[0] - left:last[0] - left]
        if (self.scale == 1).all():
            return (*(first - limits[0]).tolist(), part)
        outer = np.maximum(first - 1, limits[0]), np.minimum(last + 1, limits[1])  # an empty border rounds its edges
        before, after = first - outer[0], outer[1] - last
        part = np.pad(part, ((before[1], after[1]), (before[0], after[0]))) * np.uint8(255)
        start = np.minimum(((outer[0] - limits[0]) * self.scale).round().astype(int), np.array(self.size) - 1)
        end = np.maximum(((outer[1] - limits[0]) * self.scale).round().astype(int), start + 1)
        scaled = _resized(part, tuple((end - start).tolist()), self.scale.max(), cv2.INTER_LINEAR)
        scaled = scaled >= 128 if (scaled >= 128).any() else scaled > 0
        return (*start.tolist(), scaled.view(np.uint8)) if scaled.any() else None

    def _draw_mask(self, area: Area, mark: Mark) -> None:
        left, top, inside = area
        if mark.fill:
            own = self.pixels[top:top + inside.shape[0], left:left + inside.shape[1]]
            mixed(own, inside, mark.line.colour, mark.fill)
        how = cv2.CHAIN_APPROX_NONE if mark.line.dashes else cv2.CHAIN_APPROX_SIMPLE
        loops, _ = cv2.findContours(inside, cv2.RETR_CCOMP, how)
        for loop in loops:
            self.outline(loop[:, 0] + np.array([left, top], float), mark.line)

    def _polyline(self, points: np.ndarray, colour: Colour, width: int) -> None:
        fixed = (points * (1 << _SHIFT)).round().astype(np.int32)[:, None]
        cv2.polylines(self.pixels, [fixed], False, colour, width, cv2.LINE_AA, _SHIFT)


def _frame(pixels: np.ndarray, corners: Sequence[int], line: Line) -> None:
    """Draw a box's sides of exactly the line's width; OpenCV's of width 2 have 3 pixels."""
    before, after = line.width // 2, line.width - line.width // 2
    left, top, right, bottom = corners
    columns = slice(max(left - before, 0), right + after)
    rows = slice(max(top - before, 0), bottom + after)
    for at in (top, bottom):
        pixels[max(at - before, 0):max(at + after, 0), columns] = line.colour
    for at in (left, right):
        pixels[rows, max(at - before, 0):max(at + after, 0)] = line.colour


def mixed(pixels: np.ndarray, inside: np.ndarray, colour: Colour, strength: float) -> None:
    """Mix `colour` into the pixels (h, w, 3), in place, where `inside` (h, w) is 1."""
    steps = np.arange(256)[:, None] * (1 - strength) + np.array(colour) * strength
    tinted = cv2.LUT(pixels, steps.astype(np.uint8)[None])
    cv2.copyTo(tinted, np.ascontiguousarray(inside), pixels)


def _resized(pixels: np.ndarray, size: tuple[int, int], scale: float, enlarging: int) -> np.ndarray:
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels.copy()
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else enlarging)


def _order(mark: Mark) -> float:
    return np.inf if mark.rank is None else mark.rank


def _extent(area: Area) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    """Left, top, right, bottom of what is inside, and the columns of its highest and lowest pixels."""
    left, top, inside = area
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    tips = tuple(left + float(np.flatnonzero(inside[row]).mean()) for row in (rows[0], rows[-1]))
    return (left + float(columns[0]), top + float(rows[0]), left + float(columns[-1]), top + float(rows[-1])), tips


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
