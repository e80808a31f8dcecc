"""Objects that are cut by tiles and seen perfectly in each of them come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coder

pytest.importorskip('mmdet', reason='mmdet is not installed')

from backbones.evaluation.tiles import Tiles
from backbones.evaluation.tiles_model import merge_views

CLASSES = 2


def scene(
    draw: np.random.Generator, size: tuple[int, int], largest: tuple[float, float], round_ones: float = 0.5
) -> list[np.ndarray]:
    """Masks (H, W) of rectangles and ellipses whose boxes do not touch, of at most `largest` (width, height)."""
    rows, columns = np.mgrid[:size[0], :size[1]]
    taken, masks = np.zeros(size, bool), []
    for _ in range(20):
        sides = [int(draw.integers(2, max(3, min(most, side) + 1))) for most, side in zip(
            (int(one) for one in largest), size[::-1], strict=True)]
        x, y = (int(draw.integers(0, side - own + 1)) for own, side in zip(sides, size[::-1], strict=True))
        place = slice(max(0, y - 1), y + sides[1] + 1), slice(max(0, x - 1), x + sides[0] + 1)
        if taken[place].any():
            continue
        taken[place] = True
        mask = np.zeros(size, bool)
        mask[y:y + sides[1], x:x + sides[0]] = True
        if draw.random() < round_ones:
            mask &= (((columns + 0.5 - x) / sides[0] - 0.5) ** 2 + ((rows + 0.5 - y) / sides[1] - 0.5) ** 2) <= 0.25
        if mask.any():
            masks.append(mask)
    return masks


def box_of(mask: np.ndarray) -> list[int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def seen(draw: np.random.Generator, masks: list[np.ndarray], frame: tuple[int, ...]) -> InstanceData:
    """What a perfect detector finds in a frame, whatever its scores."""
    x0, y0, x1, y1 = frame
    parts = [(mask[y0:y1, x0:x1], number % CLASSES) for number, mask in enumerate(masks)]
    parts = [(part, label) for part, label in parts if part.any()]
    return InstanceData(
        bboxes=torch.tensor([box_of(part) for part, _ in parts], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(draw.uniform(0.5, 1, len(parts)), dtype=torch.float32),
        labels=torch.tensor([label for _, label in parts], dtype=torch.long),
        masks=[coder.encode(np.asfortranarray(part.astype(np.uint8))) for part, _ in parts])


def check(draw: np.random.Generator, tiles: Tiles, size: tuple[int, int], masks: list[np.ndarray]) -> None:
    """Cut, look, merge, and compare."""
    frames = tiles.frames(size)
    frames += [(0, 0, size[1], size[0])] if tiles.whole and len(frames) > 1 else []
    found = merge_views([(frame, seen(draw, masks, frame)) for frame in frames], size)
    expected = sorted((box_of(mask), number % CLASSES, number) for number, mask in enumerate(masks))
    order = sorted(range(len(found)), key=lambda place: (found.bboxes[place].tolist(), int(found.labels[place])))
    assert [found.bboxes[place].tolist() for place in order] == [box for box, _, _ in expected]
    assert [int(found.labels[place]) for place in order] == [label for _, label, _ in expected]
    for place, (_, _, number) in zip(order, expected, strict=True):
        own = coder.encode(np.asfortranarray(masks[number].astype(np.uint8)))
        assert coder.iou([found.masks[place]], [own], [0])[0, 0] > 0.99


def drawn(seed: int) -> tuple[np.random.Generator, tuple[int, int], tuple[int, int], float]:
    """Sides of a tile (width, height), size (H, W) of a picture, overlap."""
    draw = np.random.default_rng(seed)
    tile = tuple(int(side) for side in draw.integers(32, 80, 2))
    size = tuple(int(side) for side in draw.integers(20, 220, 2))
    return draw, tile, size, float(draw.uniform(0.1, 0.6))


@pytest.mark.parametrize('whole', [False, True], ids=['tiles', 'and the whole'])
@pytest.mark.parametrize('seed', range(40))
def test_objects_smaller_than_the_overlap_come_back(seed, whole):
    draw, tile, size, overlap = drawn(seed)
    tiles = Tiles(*tile, overlap, whole)
    check(draw, tiles, size, scene(draw, size, tiles.overlaps))


@pytest.mark.parametrize('seed', range(40))
def test_objects_of_any_size_come_back_with_the_whole_view(seed):
    draw, tile, size, overlap = drawn(seed)
    check(draw, Tiles(*tile, overlap), size, scene(draw, size, size[::-1]))


@pytest.mark.parametrize('seed', range(40))
def test_rectangles_of_any_size_come_back_from_their_pieces(seed):
    draw, tile, size, overlap = drawn(seed)
    check(draw, Tiles(*tile, overlap, whole=False), size, scene(draw, size, size[::-1], round_ones=0))
