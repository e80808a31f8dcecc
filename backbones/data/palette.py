"""Colours for classes that come without any."""

from __future__ import annotations

import colorsys


def make_palette(count: int) -> list[tuple[int, int, int]]:
    """Return `count` RGB colours that are the same on every run and far apart for neighbouring classes."""
    golden = 0.618034  # steps of the golden ratio never come close to an earlier hue soon
    colours = (
        colorsys.hsv_to_rgb(
            (0.02 + golden * place) % 1, (0.85, 0.55)[place % 2], (0.95, 0.75, 0.55)[place % 3]
        )
        for place in range(count)
    )
    return [tuple(round(255 * channel) for channel in colour) for colour in colours]
