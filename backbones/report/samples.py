"""Where there is no evaluation in detail: the newest sample predictions that the training drew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .parts import Card, Gallery, Part, Picture
from .run_folder import Run

FOLDER = 'vis_data/samples'  # as `backbones.SamplePredictionsHook` writes it, in the folder of a start
STEPS = re.compile(r'iter_(\d+)$')
MOST = 24  # pictures


def sample_parts(run: Run, budget: int) -> Sequence[Part]:
    """A gallery of the latest evaluation while training that left pictures; nothing where none did.

    Args:
        run: whose pictures.
        budget: bytes that they may take.
    """
    for folder in _newest_first(run):
        cards = []
        for file in sorted(folder.glob('*.jpg'))[:MOST]:
            card = _card(file, budget)
            if card is not None:
                cards.append(card)
                budget -= len(card.pictures[0].jpeg)
        if cards:
            steps = int(STEPS.search(folder.name)[1])
            return [Gallery('Sample predictions of the training', cards,
                            f'Drawn by the validation at iteration {steps:,}: the same few images each time, neither '
                            'the worst nor the best. Ground truth beside prediction.')]
    return []


def _newest_first(run: Run) -> Sequence[Path]:
    """Folders of pictures, those of the latest start first, of each the latest step."""
    found = []
    for start in run.starts[::-1]:
        steps = [(int(match[1]), path) for path in start.glob(f'{FOLDER}/*') if (match := STEPS.fullmatch(path.name))]
        found += [path for _, path in sorted(steps, reverse=True)]
    return found


def _card(file: Path, budget: int) -> Card | None:
    """A card of a file; None of one that is torn, unreadable or too large."""
    import cv2

    try:
        jpeg = file.read_bytes()
    except OSError:
        return None
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if pixels is None or len(jpeg) > budget or not jpeg.endswith(b'\xff\xd9'):
        return None
    return Card(file.stem, [Picture('Ground truth and prediction', jpeg, pixels.shape[1], pixels.shape[0])])
