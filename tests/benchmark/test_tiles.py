"""Large pictures of known objects, and the ways to merge that ours is held against."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='mmdet is not installed')

from backbones.benchmark.tiles import SIDE, WAYS, enlarged_of, mosaics_of
from backbones.evaluation.tiles_merge import Found


def small(number: int) -> tuple[list[np.ndarray], list[list[dict]]]:
    """Pictures of 6 x 8 pixels, each with its number as colour, and one object each."""
    pictures = [np.full((6, 8, 3), value, np.uint8) for value in range(number)]
    return pictures, [[dict(bbox=[1, 2, 3, 4], category_id=1, iscrowd=0)] for _ in pictures]


def test_a_mosaic_holds_each_picture_and_its_object_in_its_place():
    pictures, objects = small(SIDE**2 + 3)
    (mosaic,) = mosaics_of(pictures, objects)
    assert mosaic.pixels.shape == (6 * SIDE, 8 * SIDE, 3) and len(mosaic.boxes) == SIDE**2
    for place, (x, y, width, height) in enumerate(mosaic.boxes):
        assert (width, height) == (3, 4) and (mosaic.pixels[y:y + height, x:x + width] == place).all()


def test_enlarged_pictures_have_enlarged_boxes():
    (one,) = enlarged_of(*small(1))
    assert one.pixels.shape == (12, 16, 3) and one.boxes == [[2, 4, 6, 8]]


@pytest.mark.parametrize(('way', 'expected'), [
    ('nms_iou', [[0, 0, 10, 10], [6, 0, 14, 10], [8, 8, 10, 10]]),
    ('nms_ios', [[0, 0, 10, 10]]),
    ('greedynmm_ios', [[0, 0, 14, 10]]),
])
def test_others_merge_as_they_are_known_to(way, expected):
    found = Found(
        boxes=np.array([[0, 0, 10, 10], [6, 0, 14, 10], [8, 8, 10, 10]], float), scores=np.array([0.9, 0.8, 0.7]),
        labels=np.zeros(3, int), frames=np.tile([0, 0, 20, 20], (3, 1)).astype(float))
    assert [box.tolist() for _, box in WAYS[way](found, (20, 20))] == expected
