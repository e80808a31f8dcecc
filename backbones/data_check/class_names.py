"""Class names that are hardly meant to be two: 'traffic light', 'traffic_light' and 'Traffic Light'."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

HOW = 'they differ only by capitals, blanks, hyphens or underscores'
REMEDY = 'make them one, or name them apart'


def names_alike(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places of names that are spelt like an earlier one, each with the place of that."""
    seen: dict[str, int] = {}
    pairs = []
    for place, name in enumerate(names):
        if not isinstance(name, str):  # which is said elsewhere
            continue
        first = seen.setdefault(_core(name), place)
        if names[first] != name:
            pairs.append((place, first))
    return pairs


def _core(name: str) -> str:
    """What is left of a name without its spelling; 'lot 1-1' and 'lot 11' stay two."""
    words = [word for word in re.split(r'[\s_\-]+', unicodedata.normalize('NFKC', name).casefold()) if word]
    numbered = any(character.isdigit() for word in words for character in word)
    return (' ' if numbered else '').join(words) or name
