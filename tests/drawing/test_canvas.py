"""Texts, lines and colours: inside, apart, readable."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backbones.drawing.canvas import Canvas, Mark, dashes
from backbones.drawing.styles import Line, class_colours, ink, usable_palette
from backbones.drawing.texts import place_text

RED = (230, 30, 30)


@pytest.mark.parametrize('box', [
    [-50, -50, 20, 20], [1e9, 0, 1e9, 5], [0, 0, 1e12, 1e12], [float('nan'), 0, 5, 5], [5, 5, 0, 0],
    [-5, -5, 300, 300]])
def test_boxes_outside_of_the_picture_do_no_harm(box: list[float]) -> None:
    canvas = Canvas(np.zeros((40, 60, 3), np.uint8))
    canvas.draw([Mark(box, Line(RED, (3, 6), 3), 'text', rank=0)])
    assert canvas.picture().size == canvas.size


@pytest.mark.parametrize('corners', [(0, 0, 5, 5), (195, 95, 200, 100), (-30, -30, -10, -10), (500, 500, 600, 600)])
def test_plates_stay_inside(corners: tuple[int, ...]) -> None:
    image, taken = Image.new('RGB', (200, 100)), []
    place_text(image, 'localisation: car 0.83', RED, corners, taken)
    left, top, right, bottom = taken[0]
    assert left >= 0 and top >= 0 and right <= 200 and bottom <= 100


def test_a_long_text_is_shortened_to_the_picture() -> None:
    image, taken = Image.new('RGB', (50, 40)), []
    place_text(image, 'a very long name of a class', RED, (0, 0, 5, 5), taken)
    assert taken[0][2] - taken[0][0] <= 50


def test_texts_of_two_things_at_one_place_lie_apart() -> None:
    image, taken = Image.new('RGB', (300, 200)), []
    for _ in range(2):
        place_text(image, 'car 0.83', RED, (100, 100, 140, 140), taken)
    one, other = taken
    assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])


def test_a_less_important_text_is_left_out_where_all_is_taken() -> None:
    image, taken = Image.new('RGB', (80, 40)), [(0, 0, 80, 40)]
    assert not place_text(image, 'car', RED, (10, 10, 30, 30), taken, must=False)


def test_dashes_have_the_lengths_of_their_pattern() -> None:
    parts = dashes(np.array([[0, 0], [10, 0], [10, 10]], float), (6, 4))
    lengths = [float(np.hypot(*np.diff(part, axis=0).T).sum()) for part in parts]
    assert lengths == pytest.approx([6, 6])


def test_a_part_is_drawn_at_the_size_asked_for() -> None:
    photograph = np.zeros((100, 200, 3), np.uint8)
    canvas = Canvas(photograph, (10, 10, 30, 21), (640, 320))
    canvas.draw([Mark([12, 12, 5, 5], Line(RED), rank=0)])
    picture = np.asarray(canvas.picture())
    assert picture.shape == (320, 640, 3) and (picture[..., 0] > 200).any()


def test_a_class_keeps_its_colour_whatever_the_others() -> None:
    assert class_colours(80)[:5] == class_colours(5) and len(set(class_colours(80))) == 80


@pytest.mark.parametrize('colour', class_colours(30))
def test_texts_stand_out_from_their_plates(colour: tuple[int, int, int]) -> None:
    def light(one: tuple[int, int, int]) -> float:
        return float(np.dot((np.array(one) / 255) ** 2.2, (0.2126, 0.7152, 0.0722))) + 0.05

    ratio = light(ink(colour)) / light(colour)
    assert max(ratio, 1 / ratio) >= 4.5


@pytest.mark.parametrize('palette', [None, 'red', [[1, 2]], [[1, 2, 300], [1, 2, 3]], [None, None], [[0, 0, 0]]])
def test_a_strange_palette_is_not_used(palette: object) -> None:
    assert usable_palette(palette, 2) is None
