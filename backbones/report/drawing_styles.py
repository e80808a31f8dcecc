"""Colours and line styles of the report's pictures: one colour a class, and a colour and a line a kind of error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backbones.data.palette import make_palette

Colour = tuple[int, int, int]  # RGB


@dataclass(frozen=True)
class Line:
    """How an outline is drawn.

    Attributes:
        colour: RGB.
        dashes: lengths of line and gap by turns, in pixels; () for a solid line.
        width: in pixels.
        double: two lines side by side.
        name: of the style, for the caption.
    """

    colour: Colour
    dashes: tuple[int, ...] = ()
    width: int = 2
    double: bool = False
    name: str = 'solid'


# The hues that the report's charts give these kinds, stronger, to be seen on photographs; and each has its own line.
ERRORS = dict(
    classification=Line((255, 165, 0), (16, 5, 3, 5), 3, name='dash and dot'),
    localisation=Line((50, 130, 255), (16, 7), 3, name='long dashes'),
    both=Line((235, 95, 205), (14, 4, 3, 4, 3, 4), 3, name='dash and two dots'),
    duplicate=Line((90, 210, 255), (), 5, double=True, name='double'),
    background=Line((245, 70, 0), (3, 6), 3, name='dots'),
    missed=Line((0, 235, 140), (8, 6), 3, name='short dashes'))
ASIDE = Line((170, 170, 170), (), 1, name='thin grey')  # neither right nor wrong: in a crowd
LOW = (2, 4)  # dashes of an object that is found below the threshold only

# After Okabe and Ito, and Tol (https://personal.sron.nl/~pault/): apart in lightness as well as in hue.
_FIRST: tuple[Colour, ...] = (
    (86, 180, 233), (0, 158, 115), (204, 160, 60), (0, 80, 170), (214, 130, 180), (236, 222, 140), (119, 102, 204),
    (120, 120, 30), (140, 80, 40), (150, 50, 95), (180, 220, 150), (205, 195, 240))


def class_colours(count: int) -> list[Colour]:
    """A colour for each of `count` classes: the same for the same place, whatever the picture."""
    return [*_FIRST[:count], *make_palette(count)[len(_FIRST):]]


def muted(colour: Colour) -> Colour:
    """A paler `colour`, which none of the errors has."""
    return tuple((3 * value + 2 * 140) // 5 for value in colour)


def usable_palette(palette: object, count: int) -> list[Colour] | None:
    """`palette` as colours of `count` classes; None where it is none."""
    if not isinstance(palette, Sequence) or isinstance(palette, str) or len(palette) < count:
        return None
    try:
        colours = [tuple(int(value) for value in one) for one in palette[:count]]
    except (TypeError, ValueError):
        return None
    return colours if all(len(one) == 3 and all(0 <= value <= 255 for value in one) for one in colours) else None


def ink(ground: Colour) -> Colour:
    """Black or white, whichever is read better on `ground`."""
    red, green, blue = ((value / 255) ** 2.2 for value in ground)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)
