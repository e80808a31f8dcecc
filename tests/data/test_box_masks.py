"""Masks kept as windows: the pixels of mmdet's bitmaps, bit by bit, in the memory of the objects."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.models.utils import mask2ndarray
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from backbones.data import mask_crops
from backbones.data.box_masks import BoxMasks

H, W = 61, 83


def bitmaps(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """(7, H, W) an empty and a full mask, one pixel, filled and speckled boxes, specks all over."""
    random = np.random.default_rng(seed)
    masks = np.zeros((7, height, width), np.uint8)
    masks[1] = 1
    masks[2, random.integers(height), random.integers(width)] = 1
    for i in (3, 4, 5):
        y0, y1 = np.sort(random.integers(0, height + 1, 2))
        x0, x1 = np.sort(random.integers(0, width + 1, 2))
        masks[i, y0:y1, x0:x1] = random.random((y1 - y0, x1 - x0)) < (1, 0.5, 0.9)[i - 3]
    masks[6] = random.random((height, width)) < 0.02
    return masks


def pair(seed: int, height: int = H, width: int = W) -> tuple[BitmapMasks, BoxMasks]:
    masks = bitmaps(seed, height, width)
    return BitmapMasks(masks, height, width), BoxMasks(masks, height, width)


def assert_same(theirs: BitmapMasks, ours: BoxMasks) -> None:
    assert (ours.height, ours.width, len(ours)) == (theirs.height, theirs.width, len(theirs))
    assert ours.to_ndarray().dtype == theirs.to_ndarray().dtype
    np.testing.assert_array_equal(ours.to_ndarray(), theirs.to_ndarray())


OPERATIONS: dict[str, Callable] = dict(
    resize_up=lambda masks: masks.resize((97, 211)),
    resize_down=lambda masks: masks.resize((13, 7)),
    resize_bilinear=lambda masks: masks.resize((40, 100), 'bilinear'),
    rescale_factor=lambda masks: masks.rescale(1.37),
    rescale_size=lambda masks: masks.rescale((50, 40)),
    flip_horizontal=lambda masks: masks.flip(),
    flip_vertical=lambda masks: masks.flip('vertical'),
    flip_diagonal=lambda masks: masks.flip('diagonal'),
    pad=lambda masks: masks.pad((70, 96)),
    pad_ones=lambda masks: masks.pad((70, 96), 1),
    crop=lambda masks: masks.crop(np.array([11, 7, 60, 200])),
    crop_one_pixel=lambda masks: masks.crop(np.array([-3, -3, 0, 0])),
    expand=lambda masks: masks.expand(90, 120, 8, 21),
    translate=lambda masks: masks.translate((H, W), -17),
    translate_both=lambda masks: masks.translate((50, 130), (9, -70), 'both'),
    translate_half_a_pixel=lambda masks: masks.translate((H, W), 2.5, 'vertical'),
    translate_white=lambda masks: masks.translate((H, W), 5, border_value=1),
    rotate=lambda masks: masks.rotate((H, W), 30.0),
    shear=lambda masks: masks.shear((H, W), 0.3),
    one=lambda masks: masks[3],
    some=lambda masks: masks[np.array([4, 4, 0])],
    true_ones=lambda masks: masks[np.arange(7) % 2 == 1],
    none=lambda masks: masks[np.zeros(7, bool)],
    part=lambda masks: masks[2:],
    cat=lambda masks: type(masks).cat([masks, masks[:2]]),
)


@pytest.mark.parametrize('name', OPERATIONS)
def test_every_operation_gives_the_pixels_of_bitmaps(name):
    for seed in range(10):
        theirs, ours = (OPERATIONS[name](masks) for masks in pair(seed))
        assert isinstance(ours, BoxMasks)
        assert_same(theirs, ours)


@pytest.mark.parametrize('name', [name for name in OPERATIONS if name not in ('one', 'some', 'true_ones', 'none')])
def test_no_masks_are_operated_on_as_well(name):
    theirs, ours = BitmapMasks([], H, W), BoxMasks([], H, W)
    assert_same(OPERATIONS[name](theirs), OPERATIONS[name](ours))


def test_operations_one_after_the_other_give_the_pixels_of_bitmaps():
    random = np.random.default_rng(0)
    names = ('resize_up', 'rescale_factor', 'resize_bilinear', 'flip_horizontal', 'flip_vertical', 'flip_diagonal',
             'translate', 'translate_both', 'part')
    for seed in range(30):
        theirs, ours = pair(seed)
        for name in random.choice(names, 4):
            theirs, ours = OPERATIONS[name](theirs), OPERATIONS[name](ours)
        assert_same(theirs, ours)


def test_nearest_resizing_takes_opencvs_pixels_at_any_size():
    random = np.random.default_rng(1)
    for seed in range(60):
        old, new = random.integers(1, 200, (2, 2)).tolist()
        theirs, ours = pair(seed, *old)
        assert_same(theirs.resize(tuple(new)), ours.resize(tuple(new)))


def test_areas_and_boxes_are_those_of_bitmaps():
    for seed in range(20):
        theirs, ours = (masks.crop(np.array([9, 9, 70, 50])) for masks in pair(seed))
        np.testing.assert_array_equal(ours.areas, theirs.areas, strict=True)
        assert torch.equal(ours.get_bboxes('hbox').tensor, theirs.get_bboxes('hbox').tensor)


def boxes_of(kind: str, random: np.random.Generator, count: int = 40) -> np.ndarray:
    corners = random.uniform(-0.3, 1.3, (count, 2, 2)) * (W, H)
    if kind == 'tiny':
        corners[:, 1] = corners[:, 0] + random.uniform(0, 1.5, (count, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    if kind == 'whole pixels':
        boxes = boxes.round()
    if kind == 'half pixels':
        boxes = (boxes * 2).round() / 2
    if kind == 'empty':
        boxes[:, 2:] = boxes[:, :2]
    if kind != 'outside':
        boxes = boxes.clip(0, [W, H, W, H])
    return boxes.astype(np.float32)


@pytest.mark.parametrize('binarize', [True, False])
@pytest.mark.parametrize('kind', ['anywhere', 'tiny', 'whole pixels', 'half pixels', 'empty', 'outside'])
def test_masks_are_cropped_and_resized_as_mmdet_does_bit_by_bit(kind, binarize):
    random = np.random.default_rng(2)
    for seed in range(8):
        theirs, ours = pair(seed)
        boxes, indices = boxes_of(kind, random), random.integers(0, 7, 40)
        for shape in ((28, 28), (7, 11), (1, 1)):
            expected, given = (
                masks.crop_and_resize(boxes, shape, indices, 'cpu', binarize=binarize).masks for masks in (theirs, ours)
            )
            np.testing.assert_array_equal(given, expected, strict=True)


@pytest.mark.parametrize(('kind', 'least', 'most'), [('anywhere', 0, 5), ('half pixels', 1, 40)])
def test_the_kernel_is_asked_only_where_rounding_could_decide(kind, least, most, monkeypatch):
    asked = []
    kernel = mask_crops.roi_align
    monkeypatch.setattr(mask_crops, 'roi_align', lambda *args: (asked.append(len(args[1])), kernel(*args))[1])
    random = np.random.default_rng(3)
    pair(0)[1].crop_and_resize(boxes_of(kind, random, 400), (28, 28), random.integers(0, 7, 400))
    assert least <= sum(asked) <= most


def test_averages_of_one_half_fall_on_the_side_that_the_kernel_rounds_them_to():
    masks = (np.indices((1, 300, 300)).sum(0) % 2).astype(np.uint8)  # a chessboard
    random = np.random.default_rng(7)
    corners = np.sort(random.integers(0, 301, (60, 2, 2)), 1)
    boxes, indices = corners.reshape(60, 4).astype(np.float32), np.zeros(60, int)
    expected, given = (
        kind(masks, 300, 300).crop_and_resize(boxes, (28, 28), indices, 'cpu').masks for kind in (BitmapMasks, BoxMasks)
    )
    np.testing.assert_array_equal(given, expected)


def test_masks_of_other_values_than_0_and_1_are_cropped_by_the_kernel():
    random = np.random.default_rng(4)
    masks = bitmaps(0) * np.uint8(200)
    boxes, indices = boxes_of('anywhere', random), random.integers(0, 7, 40)
    expected, given = (
        kind(masks, H, W).crop_and_resize(boxes, (28, 28), indices, 'cpu').masks for kind in (BitmapMasks, BoxMasks)
    )
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize('boxes', [5, 0])
def test_mask_targets_are_those_of_bitmaps(boxes):
    random = np.random.default_rng(5)
    proposals = [torch.from_numpy(boxes_of('outside', random, boxes)) for _ in range(2)]
    indices = [torch.from_numpy(random.integers(0, 7, boxes)) for _ in range(2)]
    pairs = [pair(seed) for seed in range(2)]
    for soft in (False, True):
        settings = ConfigDict(mask_size=28, soft_mask_target=soft)
        expected, given = (
            mask_target([each.clone() for each in proposals], indices, [each[i] for each in pairs], settings)
            for i in (0, 1)
        )
        assert torch.equal(given, expected)


def test_no_masks_give_no_targets():
    targets = BoxMasks([], H, W).crop_and_resize(np.zeros((3, 4), np.float32), (28, 28), np.zeros(3, int), 'cpu')
    assert targets.masks.shape == (0, 28, 28)


def test_a_worker_sends_one_buffer_of_bits():
    masks = pair(0)[1]
    copy = pickle.loads(pickle.dumps(masks))
    assert_same(masks, copy)
    covered = sum(pixels.size for _, _, pixels in masks.windows)
    assert sum(isinstance(value, np.ndarray) for value in masks.__getstate__().values()) == 2
    assert len(pickle.dumps(masks)) < covered / 8 + 600


def test_values_that_are_no_bits_survive_a_worker():
    for masks in (bitmaps(0) * np.uint8(3), bitmaps(0).astype(np.float32), bitmaps(0).astype(bool)):
        assert_same(BitmapMasks(masks, H, W), pickle.loads(pickle.dumps(BoxMasks(masks, H, W))))


def test_300_objects_on_8000_x_8000_pixels_take_the_memory_of_the_objects():
    random = np.random.default_rng(6)
    corners = random.integers(0, 7940, (300, 2)).tolist()
    windows = [(x, y, random.integers(0, 2, (60, 60), np.uint8)) for x, y in corners]
    tracemalloc.start()
    masks = BoxMasks.from_windows(windows, 8000, 8000).flip().resize((6000, 6000)).crop(np.array([9, 9, 5900, 5900]))
    masks = pickle.loads(pickle.dumps(masks.pad((5920, 5920))[:200]))
    assert masks.areas.sum() and len(masks.get_bboxes('hbox')) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # bitmaps: 19,200 MB


def test_bitmaps_given_at_the_start_are_not_kept():
    whole = np.zeros((1, 500, 500), np.uint8)
    whole[0, 3:6, 4:9] = 1
    (x, y, pixels), = BoxMasks(whole, 500, 500).windows
    assert (x, y, pixels.shape) == (4, 3, (3, 5)) and pixels.base is None


def test_mmdet_takes_them_for_bitmaps():
    theirs, ours = pair(0)
    assert torch.equal(HorizontalBoxes.from_instance_masks(ours).tensor, theirs.get_bboxes('hbox').tensor)
    np.testing.assert_array_equal(mask2ndarray(ours), theirs.masks)
    np.testing.assert_array_equal(ours.masks, theirs.masks)
    np.testing.assert_array_equal(list(ours), list(theirs))
    assert torch.equal(ours.to_tensor(torch.float16, 'cpu'), theirs.to_tensor(torch.float16, 'cpu'))
    assert repr(ours) == repr(theirs).replace('BitmapMasks', 'BoxMasks')


def test_instances_are_chosen_with_their_masks():
    theirs, ours = (InstanceData(masks=masks) for masks in pair(0))
    chosen = torch.tensor([True, False, True, True, False, False, True])
    assert_same(theirs[chosen].masks, ours[chosen].masks)


def test_what_is_written_into_bitmaps_for_the_occasion_is_an_error_and_assigning_bitmaps_is_none():
    masks = BoxMasks.random(rng=0)
    with pytest.raises(ValueError, match='read-only'):
        masks.masks[:, 3:5] = 0
    masks.masks = np.where(np.arange(32) < 9, 0, masks.masks)
    assert masks.areas.any() and all(x >= 9 for x, _, _ in masks.windows)


@pytest.mark.parametrize(('mistake', 'words'), [
    (lambda masks: masks.flip('upwards'), "'upwards' is unknown; choose one of"),
    (lambda masks: masks.pad((10, 100)), 'cannot be padded'),
    (lambda masks: masks.crop(np.array([W, 3, W + 9, 9])), 'outside the masks'),
    (lambda masks: masks.expand(H, W, 1, 0), 'do not fit'),
    (lambda masks: BoxMasks.cat([masks, masks.pad((H + 1, W))]), 'different pictures'),
    (lambda masks: BoxMasks.cat([]), 'one at least'),
    (lambda masks: BoxMasks(masks.masks, W, H), 'all must be'),
])
def test_a_mistake_is_told(mistake, words):
    with pytest.raises(ValueError, match=words):
        mistake(pair(0)[1])


def test_boxes_of_a_lower_precision_are_pooled_in_single_precision():
    boxes = torch.tensor([[3.0, 4.0, 50.0, 41.0]])
    masks, index = pair(0)[1], torch.tensor([4])
    expected, given = (masks.crop_and_resize(each, (28, 28), index).masks for each in (boxes, boxes.bfloat16()))
    np.testing.assert_array_equal(given, expected)
