"""Boundaries: the official algorithm for each class, and bands by distance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from backbones.analysis.boundary import (
    bands_around_boundaries,
    boundary_areas,
    dilation_of,
    near_boundary,
)
from backbones.analysis.segmentation_counts import checked_pair

SHAPES = [(1, 1), (1, 40), (40, 1), (30, 41), (120, 90)]


def blobs(shape: tuple[int, int], classes: int, seed: int, ignored: float = 0.1) -> np.ndarray:
    """A label map of smooth blobs with ignored patches (255)."""
    draw = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(draw.standard_normal((classes, *shape)), (0, 5, 5))
    labels = fields.argmax(0)
    labels[ndimage.gaussian_filter(draw.random(shape), 3) < np.quantile(draw.random(999), ignored) * 0.9] = 255
    return labels


def official_boundary(mask: np.ndarray, ratio: float = 0.02) -> np.ndarray:
    """The paper's mask_to_boundary by another library: erode `dilation` times by 3 x 3, nothing outside."""
    dilation = max(1, round(ratio * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=dilation, border_value=0)
    return mask & ~inner


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('ratio', [0.005, 0.02, 0.2, 0.9])
def test_all_classes_at_once_are_the_official_algorithm_for_each(shape, ratio):
    truth, predicted = checked_pair(blobs(shape, 4, 0), blobs(shape, 4, 1, 0), 5, 255)
    found = boundary_areas(truth, predicted, 5, ratio)
    for class_ in range(5):
        true_edge = official_boundary(truth == class_, ratio)
        found_edge = official_boundary(predicted == class_, ratio)
        expected = (true_edge & found_edge).sum(), found_edge.sum(), true_edge.sum()
        assert tuple(area[class_] for area in found) == expected


def test_a_picture_of_one_class_has_a_frame_as_boundary():
    labels = np.zeros((100, 100), np.uint8)
    assert dilation_of((100, 100)) == 3
    assert near_boundary(labels, 3, 1).sum() == 100**2 - 94**2


def test_a_square_moved_by_one_pixel_has_the_iou_of_its_rings():
    truth, predicted = np.zeros((100, 100), int), np.zeros((100, 100), int)
    truth[30:70, 30:70] = 1
    predicted[30:70, 31:71] = 1
    both, found, true = (int(area[1]) for area in boundary_areas(*checked_pair(truth, predicted, 2), 2))
    ring = 40**2 - 34**2
    assert true == found == ring
    sides, caps = 2 * 2 * 34, 2 * 3 * 39  # left and right sides share 2 of 3 columns, top and bottom 39 of 40 pixels
    assert both == sides + caps


def test_a_perfect_prediction_of_what_counts_has_all_of_the_boundary():
    truth = blobs((60, 80), 4, 3, 0.3)
    predicted = np.where(truth == 255, 2, truth)
    both, found, true = boundary_areas(*checked_pair(truth, predicted, 4), 4)
    assert both.tolist() == found.tolist() == true.tolist() and both.sum()


def test_the_numbering_of_the_classes_does_not_matter():
    truth, predicted = blobs((60, 80), 4, 3), blobs((60, 80), 4, 4, 0)
    areas = boundary_areas(*checked_pair(truth, predicted, 4), 4)
    turn = np.array([2, 0, 3, 1] + [255] * 252)
    turned = boundary_areas(*checked_pair(turn[truth], turn[predicted], 4), 4)
    assert [area[turn[:4]].tolist() for area in turned] == [area.tolist() for area in areas]


def test_classes_beyond_8_bits_have_boundaries():
    truth = np.where(blobs((40, 50), 3, 0, 0) == 0, 299, 43)  # the same in 8 bits
    both, _, true = boundary_areas(*checked_pair(truth, truth, 300), 300)
    assert true[299] == official_boundary(truth == 299).sum() and both[43] == official_boundary(truth == 43).sum()


@pytest.mark.parametrize('shape, pixels', [((512, 683), 17), ((360, 480), 12), ((10, 10), 1), ((1, 1), 1)], ids=str)
def test_the_width_is_two_percent_of_the_diagonal(shape, pixels):
    assert dilation_of(shape) == pixels


def test_bands_lie_on_both_sides_of_a_boundary():
    truth = np.zeros((5, 20), np.uint8)
    truth[:, 10:] = 1
    bands = bands_around_boundaries(truth, (1, 3))
    assert bands[2].tolist() == [2] * 7 + [1] * 2 + [0] * 2 + [1] * 2 + [2] * 7


def test_bands_are_those_of_all_distances():
    truth = blobs((30, 41), 4, 5)
    edge = np.zeros(truth.shape, bool)
    for row, column in np.ndindex(truth.shape):
        for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= other[0] < 30 and 0 <= other[1] < 41:
                edge[row, column] |= truth[other] != truth[row, column]
    places, points = np.indices(truth.shape), np.argwhere(edge)
    distance = np.sqrt(((places[..., None] - points.T[:, None, None]) ** 2).sum(0)).min(-1)
    expected = sum((distance >= width).astype(int) for width in (2, 5, 10))
    assert (bands_around_boundaries(truth, (2, 5, 10)) == expected).all()


@pytest.mark.parametrize('shape', [(1, 1), (3, 4), (0, 4)], ids=str)
def test_a_picture_without_boundary_is_all_interior(shape):
    assert (bands_around_boundaries(np.zeros(shape, np.uint8), (2, 5)) == 2).all() or 0 in shape


def test_an_empty_picture_has_no_boundary():
    empty = np.zeros((0, 4), np.uint8)
    assert sum(area.sum() for area in boundary_areas(empty, empty, 2)) == 0
