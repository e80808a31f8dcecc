"""Whether the pictures of an evaluation are frames of videos: not independent of each other, intervals too narrow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.evaluation.compare_files import locate

from .parts import Note

PAIRS = 24  # neighbours that are looked at
SIDE = 32  # pixels of the small pictures that are compared
LIKE = 0.5  # neighbours of a video differ by less than this share of what other pairs differ by
ENDINGS = ('.jpg', '.png', '.jpeg', '.bmp', '.tif')


def frames_of_video(details: Mapping[str, Any]) -> Note | None:
    """A warning where pictures whose names follow each other look alike, and others do not."""
    try:
        files = _files(details)
        if len(files) < 10:
            return None
        near, far = _differences(files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if len(near) < 5 or len(far) < 5 or np.median(near) > LIKE * np.median(far):
        return None
    return Note('The pictures of this evaluation seem to be frames of videos: neighbours by name look alike. Such '
                'pictures are not independent of each other, so the intervals are too narrow; evaluate on frames that '
                'lie far apart, or on other scenes.', 'warning')


def _files(details: Mapping[str, Any]) -> list[Path]:
    """The pictures, by name."""
    data = details['data']
    folder = Path(locate(str(data['image_folder']), str(data.get('folder', ''))))
    if details['task'] == 'segmentation':
        names = sorted(str(one['name']) for one in details['labels']['images'])
    else:
        names = sorted(map(str, details[details['kinds'][0]]['errors']['by_image']['file_name']))
    names = [name for name in names if re.search(r'\d', name)]
    step = max(1, len(names) // PAIRS)
    chosen = [name for place in range(0, len(names) - 1, step) for name in names[place:place + 2]][:2 * PAIRS]
    found = [_picture(folder, name) for name in chosen]
    return [one for one in found if one is not None] if None not in found else []


def _picture(folder: Path, name: str) -> Path | None:
    places = [folder / name, *(folder / f'{name}{ending}' for ending in ENDINGS)]
    return next((place for place in places if place.is_file()), None)


def _differences(files: Sequence[Path]) -> tuple[list[float], list[float]]:
    """How much neighbours differ, and how much pictures that stand far apart do."""
    small = [_small(file) for file in files]
    near = [_difference(small[place], small[place + 1]) for place in range(0, len(small) - 1, 2)]
    half = len(small) // 2
    far = [_difference(small[place], small[(place + half) % len(small)]) for place in range(0, half)]
    return [one for one in near if one is not None], [one for one in far if one is not None]


def _small(file: Path) -> np.ndarray | None:
    import cv2

    picture = cv2.imread(str(file), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    return None if picture is None else cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(float)


def _difference(first: np.ndarray | None, second: np.ndarray | None) -> float | None:
    return None if first is None or second is None else float(np.abs(first - second).mean())
