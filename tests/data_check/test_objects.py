"""Counts and sizes of objects, held against anchors and strides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from backbones.data_check.annotations import Annotations
from backbones.data_check.objects import anchor_sizes, best_iou, check_objects

ANCHORS = dict(strides=[4, 8, 16, 32, 64], scales=[8], ratios=[0.5, 1.0, 2.0])


def split(sides: np.ndarray, classes: int = 2, pictures: int = 10, size: tuple = (640, 480)) -> Annotations:
    """Objects (M, 2) width and height, one after the other over classes and pictures; the last picture stays empty."""
    sides = np.asarray(sides, np.float64).reshape(-1, 2)
    count = len(sides)
    return Annotations(
        'a.json', tuple(f'class {k}' for k in range(classes)), tuple(range(1, classes + 1)),
        [f'{n}.jpg' for n in range(pictures)], list(range(pictures)), np.full(pictures, float(size[0])),
        np.full(pictures, float(size[1])), list(range(count)), np.arange(count) % max(pictures - 1, 1),
        np.arange(count) % classes, np.concatenate([np.zeros((count, 2)), sides], 1), sides.prod(1),
        np.zeros(count, bool), np.ones(count, bool))


def test_classes_pictures_and_sizes_are_counted():
    outcome = check_objects(split([(10, 10), (50, 50), (200, 200), (10, 20)], classes=2, pictures=4))
    figures = outcome.figures
    assert figures['class_histogram'] == {'class 0': 2, 'class 1': 2}
    assert (figures['pictures'], figures['objects'], figures['pictures_without_objects']) == (4, 4, 1)
    assert figures['sizes'] == dict(small=2, medium=1, large=1)
    assert figures['most_objects'] == 2
    assert figures['objects_per_picture']['counts'][:3] == [1, 2, 1]
    assert outcome.findings == []
    assert '1 pictures without' in outcome.summary


def test_the_table_is_aligned():
    lines = check_objects(split([(10, 10)] * 5)).details[:3]
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ['class', '0', '3', '60.0%', '3', '3', '0', '0']


def test_crowds_are_counted_and_left_out():
    read = dataclasses.replace(split([(10, 10)] * 4), crowd=np.array([True, False, False, False]))
    figures = check_objects(read).figures
    assert (figures['objects'], figures['crowds']) == (3, 1)


@pytest.mark.parametrize('pictures', [0, 3])
def test_a_split_without_objects_is_counted(pictures):
    outcome = check_objects(split([], pictures=pictures), input_size=(1333, 800), anchors=ANCHORS)
    assert outcome.figures['objects'] == 0 and outcome.findings == []


def test_anchors_are_those_of_mmdet():
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    from mmdet.models.task_modules.prior_generators import AnchorGenerator

    for changes in (dict(), dict(base_sizes=[10, 20, 30, 40, 50]), dict(ratios=[0.3, 3.0], scales=[2, 5]),
                    dict(scales=None, octave_base_scale=4, scales_per_octave=3)):
        arguments = {**ANCHORS, **changes}
        boxes = np.concatenate([level.numpy() for level in AnchorGenerator(**arguments).base_anchors])
        expected = sorted(map(tuple, np.round(boxes[:, 2:] - boxes[:, :2], 2).tolist()))
        found = sorted(map(tuple, np.round(anchor_sizes(arguments), 2).tolist()))
        assert np.allclose(found, expected, atol=0.02), changes


def test_the_best_iou_is_that_of_mmdet():
    pytest.importorskip('mmdet', reason='mmdet is not installed')
    import torch
    from mmdet.structures.bbox import bbox_overlaps

    draw = np.random.default_rng(0)
    boxes = draw.uniform(2, 600, (50, 2))
    sizes = anchor_sizes(ANCHORS)
    centred = [torch.from_numpy(np.concatenate([-half, half], 1)) for half in (boxes / 2, sizes / 2)]
    assert np.allclose(best_iou(boxes, sizes), bbox_overlaps(*centred).max(1).values.numpy())


def test_objects_too_small_for_the_anchors_are_a_warning_where_there_are_enough():
    def told(count: int, **arguments) -> list:
        read = split([(9, 9)] * count)
        return [(one.severity, one.kind) for one in check_objects(read, anchors=ANCHORS, **arguments).findings]

    assert told(600) == [('warning', 'anchors')]
    assert told(400) == []
    assert told(600, input_size=(2666, 1600)) == []  # 30 pixels


def test_the_advice_follows_the_sizes():
    small, large, long = (
        check_objects(split([box] * 600, size=(4000, 4000)), anchors=ANCHORS).findings[0].remedy
        for box in ((8, 8), (3000, 3000), (1000, 20)))
    assert 'smaller scales' in small and 'larger scales' in large and 'ratios' in long


def test_objects_below_the_finest_stride_are_a_warning():
    kinds = [one.kind for one in check_objects(split([(3, 30)] * 600), anchors=ANCHORS).findings]
    assert 'objects below a stride' in kinds
    assert check_objects(split([(3, 30)] * 60 + [(30, 30)] * 600), anchors=ANCHORS).findings == []


@pytest.mark.parametrize('size, factor', [((1333, 800), 800 / 480), ([800, 1333], 800 / 480), (1280, 2), (None, 1),
                                          ((700, 800), 800 / 640), ((640, 640), 1)])
def test_sizes_are_those_of_the_resized_picture(size, factor):
    outcome = check_objects(split([(20, 20)] * 3), input_size=size)
    assert f'{20 * factor:.0f}, {20 * factor:.0f}, {20 * factor:.0f} pixels' in outcome.details[-1]


@pytest.mark.parametrize('arguments, said', [
    (dict(input_size=(1, 2, 3)), 'one positive number or two'), (dict(input_size=0), 'one positive number or two'),
    (dict(input_size='large'), 'one positive number or two'), (dict(anchors=dict(scales=[8])), "no 'strides'"),
    (dict(anchors=dict(ANCHORS, strides=[0])), 'give positive numbers')])
def test_wrong_arguments_are_explained(arguments, said):
    with pytest.raises(ValueError, match=said):
        check_objects(split([(20, 20)]), **arguments)


def test_a_class_without_objects_is_a_note_in_a_large_split_only():
    read = split([(20, 20)] * 80, classes=2)
    read = dataclasses.replace(read, category=np.zeros(80, np.int64))
    assert [(one.severity, one.id) for one in check_objects(read).findings] == [('note', 2)]
    read = split([(20, 20)] * 10, classes=2)
    assert check_objects(dataclasses.replace(read, category=np.zeros(10, np.int64))).findings == []
