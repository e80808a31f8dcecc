"""Masks are cut out of bitmaps and run lengths as pycocotools decodes them."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from backbones.drawing.masks import cut_out


def encoded(bitmap: np.ndarray) -> dict:
    """COCO's run lengths of a bitmap."""
    return coco_mask.encode(np.asfortranarray(bitmap))


def put_back(mask: object, size: tuple[int, int]) -> np.ndarray:
    """The whole bitmap of what was cut out."""
    whole, found = np.zeros(size, np.uint8), cut_out(mask, size)
    if found is not None:
        left, top, part = found
        whole[top:top + part.shape[0], left:left + part.shape[1]] = part
    return whole


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (50, 1), (37, 53)])
@pytest.mark.parametrize('part', [0.0, 0.02, 0.5, 0.98, 1.0])
def test_what_is_cut_out_is_the_mask_whatever_its_form(size: tuple[int, int], part: float) -> None:
    bitmap = (np.random.default_rng(0).random(size) < part).astype(np.uint8)
    runs = encoded(bitmap)
    for form in (runs, dict(runs, counts=runs['counts'].decode()), bitmap, bitmap.astype(bool)):
        assert np.array_equal(put_back(form, size), bitmap)


def test_run_lengths_may_be_a_list() -> None:
    assert put_back(dict(size=[2, 3], counts=[1, 2, 3]), (2, 3)).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_only_the_box_of_a_small_mask_is_cut_out_of_a_huge_picture() -> None:
    bitmap = np.zeros((3000, 4000), np.uint8)
    bitmap[100:110, 200:230] = 1
    left, top, part = cut_out(encoded(bitmap), bitmap.shape)
    assert (left, top, part.shape) == (200, 100, (10, 30)) and part.all()


@pytest.mark.parametrize('counts', [[], [3], [1, -2, 7], [5, 5], b'', b'0'])
def test_damaged_run_lengths_are_told_of(counts: object) -> None:
    with pytest.raises(ValueError, match='do not fill its 2 x 3 pixels'):
        cut_out(dict(size=[2, 3], counts=counts), (2, 3))


def test_a_mask_of_another_size_is_told_of() -> None:
    with pytest.raises(ValueError, match='a mask of 2 x 3 pixels cannot be drawn over a picture of 3 x 2'):
        cut_out(np.ones((2, 3)), (3, 2))
