"""Objects and label maps over a picture: colours, shades, words, legend, sizes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from backbones.drawing import labels as label_drawing
from backbones.drawing import sheets
from backbones.drawing.objects import OPACITY, Objects, draw_objects
from backbones.drawing.sheets import GAP, as_png, draw_sheet
from backbones.drawing.styles import chosen_colours, shade

CLASSES, PALETTE = ('cat', 'dog', 'sky'), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def grey(height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3)."""
    return np.full((height, width, 3), 100, np.uint8)


def one_object(box: list[float], score: float | None = 0.9, label: int = 0, mask: object = None) -> Objects:
    """An object alone."""
    return Objects(np.array([box]), np.array([label]), None if score is None else np.array([score]),
                   [] if mask is None else [mask])


@pytest.mark.parametrize('size', [(120, 90), (240, 180), (60, 45)])
def test_a_mask_is_mixed_in_at_any_size_of_the_drawing(size: tuple[int, int]) -> None:
    mask = np.zeros((90, 120), bool)
    mask[30:80, 40:100] = True
    image = np.asarray(draw_objects(grey(90, 120), one_object([40, 30, 100, 80], mask=mask), CLASSES, PALETTE, size))
    zoom = size[0] / 120
    tinted = (image == np.array([169, 55, 55])).all(axis=2)
    rows, columns = np.flatnonzero(tinted.any(axis=1)), np.flatnonzero(tinted.any(axis=0))
    assert image.shape == (size[1], size[0], 3) and OPACITY == 0.45
    assert np.allclose((columns[0], columns[-1], rows[-1]), np.array([40, 100, 80]) * zoom, atol=3)


def test_the_first_object_of_a_class_has_its_colour_and_the_others_shades_of_it() -> None:
    shades = [shade((200, 40, 40), number) for number in range(7)]
    assert shades[0] == (200, 40, 40) and len(set(shades)) == 7
    apart = [np.abs(np.subtract(one, other)).max() for one in shades for other in shades if one is not other]
    assert min(apart) >= 15


def test_a_box_has_sides_of_its_colour_and_nothing_in_it() -> None:
    image = np.asarray(draw_objects(grey(200, 300), one_object([50, 60, 250, 160], label=1), CLASSES, PALETTE))
    green = (image == np.array([0, 255, 0])).all(axis=2)
    assert green[60, 60:240].all() and green[160, 50:250].all() and green[70:150, 50].all() and green[70:150, 250].all()
    assert (image[80:150, 60:240] == 100).all()


@pytest.mark.parametrize('label', [-1, 3, 10**6])
def test_a_label_without_a_class_has_its_number_for_a_name(label: int) -> None:
    assert draw_objects(grey(50, 80), one_object([5, 5, 20, 20], label=label), CLASSES, PALETTE).size == (80, 50)


@pytest.mark.parametrize('box', [
    [float('nan')] * 4, [1e30, 0, -1e30, 5], [20, 20, 5, 5], [float('inf'), 0, 5, 5], [-9, -9, -5, -5]])
def test_strange_boxes_do_no_harm(box: list[float]) -> None:
    assert draw_objects(grey(50, 80), one_object(box), CLASSES, PALETTE).size == (80, 50)


def test_letters_grow_with_the_picture() -> None:
    def plate(side: int) -> int:
        objects = one_object([side / 4, side / 2, side / 2, side * 0.9])
        drawn = np.asarray(draw_objects(grey(side, side), objects, CLASSES, PALETTE))
        return int((drawn[:side // 2 - 8] == np.array([255, 0, 0])).all(axis=2).any(axis=1).sum())

    assert plate(3000) > 2 * plate(900) > 0


def test_the_legend_names_the_classes_that_are_there_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sheets, 'with_legend', lambda image, entries, *_: seen.extend(entries) or image)
    labels = np.full((60, 80), 255)
    labels[:, :30], labels[:10, :30] = 2, 0
    draw_sheet(grey(60, 80), {'': labels}, CLASSES, PALETTE)
    assert seen == [('sky', (0, 0, 255)), ('cat', (255, 0, 0))]


def test_all_classes_find_room_in_the_legend() -> None:
    classes = [f'class number {number}' for number in range(20)]
    labels = np.arange(400 * 600).reshape(400, 600) // 12000
    sheet = np.asarray(draw_sheet(grey(400, 600), {'': labels}, classes))
    legend = {tuple(pixel) for pixel in sheet[400:].reshape(-1, 3).tolist()}
    assert sheet.shape[1] == 600 and set(chosen_colours(None, 20)) <= legend


def test_pixels_without_a_class_show_the_picture() -> None:
    labels = np.full((400, 600), 255)
    labels[:, :300] = 1
    sheet = np.asarray(draw_sheet(grey(400, 600), {'': labels}, CLASSES, PALETTE))
    assert tuple(sheet[10, 10]) == (55, 169, 55) and (sheet[:400, 301:] == 100).all()


@pytest.mark.parametrize('labels', [np.full((40, 60), -1), np.full((40, 60), 70000), np.zeros((20, 30), np.int64)])
def test_label_maps_of_any_values_and_sizes_are_drawn(labels: np.ndarray) -> None:
    assert draw_sheet(grey(40, 60), {'': labels}, CLASSES, PALETTE).width == 600


def test_two_drawings_have_their_titles_and_one_legend() -> None:
    labels = np.zeros((400, 400), int)
    sheet = draw_sheet(grey(400, 400), dict(Truth=labels, Prediction=labels + 1), CLASSES, PALETTE)
    above, legend = 20, label_drawing.plate_height(12) + label_drawing.GAP
    assert sheet.size == (2 * 400 + GAP, above + 400 + legend)
    pixels = np.asarray(sheet)
    assert (pixels[:above, :400] < 100).any() and (pixels[:above, 404:] < 100).any()
    assert tuple(pixels[above + 5, 5]) == (169, 55, 55) and tuple(pixels[above + 5, 409]) == (55, 169, 55)


@pytest.mark.parametrize('palette', [None, 'random', [(1, 2)], [(0, 0, 999)] * 3, [(0, 0, 0)]])
def test_what_is_no_palette_gives_our_own(palette: object) -> None:
    assert chosen_colours(palette, 3) == chosen_colours(None, 3) and len(chosen_colours(palette, 0)) == 1


def test_a_png_holds_the_drawing() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(as_png(noise)))), np.asarray(noise))
