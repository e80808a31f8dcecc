"""How often each class occurs, by split, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backbones.preflight.drawing import BLUE, GREY, ORANGE, svg_of

COLOURS = (BLUE, ORANGE, GREY)
MOST = 150  # classes that are drawn
NO_CLASS = ('ignored', 'out of range')  # what the check of label maps says of other values


def class_shares(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of each class by split, read off the figures of the data checks.

    Args:
        figures: by name of the check; those of `objects SPLIT` and of `label maps SPLIT` are used.
    """
    shares = {}
    for name, values in figures.items():
        kind, _, split = name.rpartition(' ')
        histogram = values.get('class_histogram') if kind == 'objects' else None
        if kind == 'label maps':  # in pixels
            held = values.get('values', {}).values()
            histogram = {value['meaning']: value['pixels'] for value in held if value['meaning'] not in NO_CLASS}
        if histogram and sum(histogram.values()):
            total = sum(histogram.values())
            shares[split] = {label: count / total for label, count in histogram.items()}
    return shares


def draw_classes(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Bars of the share of each class in each split, the most frequent first; an empty text without any data."""
    shares = class_shares(figures)
    if not shares:
        return ''
    first = next(iter(shares.values()))
    names = sorted(dict.fromkeys(name for split in shares.values() for name in split), key=lambda name: -first.get(
        name, 0.0))[:MOST]
    places, width = np.arange(len(names)), 0.8 / len(shares)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, (split, share) in enumerate(shares.items()):
            shifted = places + (number - (len(shares) - 1) / 2) * width
            heights = [100 * share.get(name, 0.0) for name in names]
            axes.bar(shifted, heights, width, color=COLOURS[number % len(COLOURS)], label=split)
        axes.set_title('share of the classes in %')
        axes.set_xlim(-0.7, len(names) - 0.3)
        axes.set_xticks(places, names, rotation=90 if len(names) > 8 else 0, fontsize=8 if len(names) <= 40 else 5)
        if len(shares) > 1:
            axes.legend()

    return svg_of(draw, 9.0 if len(names) <= 40 else 14.0, 3.2)
