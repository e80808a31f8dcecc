"""Colours and line styles: one colour a class, and shades of it for the objects of one class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from backbones.data.palette import make_palette

Colour = tuple[int, int, int]  # RGB
DARK: Colour = (16, 16, 16)


@dataclass(frozen=True)
class Line:
    """How an outline is drawn.

    Attributes:
        colour: RGB.
        dashes: lengths of line and gap by turns, in pixels; () for a solid line.
        width: in pixels.
        double: two lines side by side.
        name: of the style, for a caption.
        halo: pixels of a dark line on either side of it.
    """

    colour: Colour
    dashes: tuple[int, ...] = ()
    width: int = 2
    double: bool = False
    name: str = 'solid'
    halo: int = 1


# After Okabe and Ito, and Tol (https://personal.sron.nl/~pault/): apart in lightness as well as in hue.
_FIRST: tuple[Colour, ...] = (
    (86, 180, 233), (0, 158, 115), (204, 160, 60), (0, 80, 170), (214, 130, 180), (236, 222, 140), (119, 102, 204),
    (120, 120, 30), (140, 80, 40), (150, 50, 95), (180, 220, 150), (205, 195, 240))
# Of the objects of one class, by turns: towards white (above 0) or black, and a turn of the hue.
_SHADES = ((0.0, 0.0), (0.45, 0.03), (-0.25, -0.03), (0.2, -0.06), (-0.12, 0.06), (0.6, -0.03), (0.3, 0.06))


def class_colours(count: int) -> list[Colour]:
    """A colour for each of `count` classes: the same for the same place, whatever the picture."""
    return [*_FIRST[:count], *make_palette(count)[len(_FIRST):]]


def chosen_colours(palette: object, count: int) -> list[Colour]:
    """The colours of `palette` where it has one for each of `count` classes, else those of `backbones.data.palette`."""
    return usable_palette(palette, count) or make_palette(max(count, 1))


def usable_palette(palette: object, count: int) -> list[Colour] | None:
    """`palette` as colours of `count` classes; None where it is none."""
    if not isinstance(palette, Sequence) or isinstance(palette, str) or len(palette) < count:
        return None
    try:
        colours = [tuple(int(value) for value in one) for one in palette[:count]]
    except (TypeError, ValueError):
        return None
    return colours if all(len(one) == 3 and all(0 <= value <= 255 for value in one) for one in colours) else None


def shade(colour: Colour, number: int) -> Colour:
    """The colour of a class for its object `number`: that of number 0 is the class's own."""
    strength, turn = _SHADES[number % len(_SHADES)]
    if not strength:
        return tuple(colour)
    hue, saturation, value = colorsys.rgb_to_hsv(*(one / 255 for one in colour))
    turned = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    target = 1.0 if strength > 0 else 0.0
    return tuple(round(255 * (one + (target - one) * abs(strength))) for one in turned)


def ink(ground: Colour) -> Colour:
    """Black or white, whichever is read better on `ground`."""
    red, green, blue = ((value / 255) ** 2.2 for value in ground)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)
