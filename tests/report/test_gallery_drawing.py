"""What only the report's pictures have: lines of errors, and JPEGs that keep to a budget."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backbones.drawing.styles import ink
from backbones.report.drawing_pictures import Purse
from backbones.report.drawing_styles import ERRORS


def test_colours_of_errors_differ_from_each_other_and_in_their_lines() -> None:
    assert len({line.colour for line in ERRORS.values()}) == len({line.name for line in ERRORS.values()}) == 6


@pytest.mark.parametrize('colour', [line.colour for line in ERRORS.values()])
def test_texts_stand_out_from_their_plates(colour: tuple[int, int, int]) -> None:
    def light(one: tuple[int, int, int]) -> float:
        return float(np.dot((np.array(one) / 255) ** 2.2, (0.2126, 0.7152, 0.0722))) + 0.05

    ratio = light(ink(colour)) / light(colour)
    assert max(ratio, 1 / ratio) >= 4.5


def test_a_purse_gives_what_a_card_leaves_to_the_next() -> None:
    purse = Purse(200_000, 2)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))
    plain = purse.encode([('plain', Image.new('RGB', (64, 64)))])
    noisy = purse.encode([('noise', noise)])
    assert 100_000 < len(noisy[0].jpeg) <= 200_000 - len(plain[0].jpeg)
