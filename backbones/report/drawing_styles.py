"""Lines of the report's pictures: a colour and a line for each kind of error, and paler colours for the classes."""

from __future__ import annotations

from backbones.drawing.styles import Colour, Line

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


def muted(colour: Colour) -> Colour:
    """A paler `colour`, which none of the errors has."""
    return tuple((3 * value + 2 * 140) // 5 for value in colour)
