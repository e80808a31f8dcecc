"""Intervals of scores and differences of prediction sets: pictures are what is drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backbones.analysis.bootstrap import draw_weights
from backbones.analysis.boundary import BoundaryAreas
from backbones.analysis.segmentation_bootstrap import (
    compare_segmentation,
    segmentation_intervals,
    segmentation_replicates,
)
from backbones.analysis.segmentation_counts import SegmentationCounts
from backbones.analysis.segmentation_metrics import segmentation_scores


def tables(
    pictures: int = 40, classes: int = 4, right: float = 0.7, seed: int = 0, pixels: int = 500
) -> list[np.ndarray]:
    """Confusion matrices; the true classes depend on `seed // 100`, so that prediction sets share their label maps."""
    truth, draw = np.random.default_rng(seed // 100), np.random.default_rng(seed)
    found = []
    for _ in range(pictures):
        true = truth.integers(0, classes, pixels)
        hits = draw.random(pixels) < right + 0.1 * truth.standard_normal()
        predicted = np.where(hits, true, draw.integers(0, classes, pixels))
        found.append(np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes))
    return found


def counted(parts: list[np.ndarray]) -> SegmentationCounts:
    names = [f'p{place}' for place in range(len(parts))]
    return SegmentationCounts.of_tables([f'c{place}' for place in range(len(parts[0]))], names, parts)


def test_a_replicate_scores_the_pictures_that_were_drawn():
    parts = tables()
    drawn = segmentation_replicates(counted(parts), replicates=3, seed=5)
    for place, weights in enumerate(np.concatenate(list(draw_weights(40, 3, 5)))):
        again = [part for part, times in zip(parts, weights, strict=True) for _ in range(times)]
        scores = segmentation_scores(counted(again))
        for name, value in scores.summary.items():
            assert drawn.samples[name][place] == pytest.approx(value, abs=1e-12)
        np.testing.assert_allclose(drawn.samples['IoU'][place], scores.per_class['IoU'], atol=1e-12)


def test_the_error_of_the_accuracy_is_that_of_a_mean():
    parts = tables(60)
    accuracy = np.array([100 * part.trace() / part.sum() for part in parts])
    interval = segmentation_intervals(counted(parts), replicates=2000).summary['aAcc']
    assert interval.value == pytest.approx(accuracy.mean())
    assert interval.error == pytest.approx(accuracy.std() / np.sqrt(60), rel=0.08)
    assert interval.low < interval.value < interval.high


def test_a_seed_gives_the_same_intervals():
    one, two, other = (segmentation_intervals(counted(tables()), replicates=50, seed=seed) for seed in (1, 1, 2))
    assert one.as_dict() == two.as_dict() and one.summary['mIoU'].low != other.summary['mIoU'].low


def test_a_class_in_few_pictures_has_no_interval_and_a_remark_says_so():
    parts = tables()
    for part in parts[5:]:
        part[0] = 0
    found = segmentation_intervals(counted(parts), replicates=50)
    assert found.per_class['IoU'][0].low is None and found.per_class['IoU'][0].images == 5
    assert found.per_class['IoU'][1].low is not None
    assert found.remarks == ['classes in fewer than 10 pictures, which have no interval: 1']


def test_few_pictures_give_no_interval_and_a_remark():
    found = segmentation_intervals(counted(tables(3)), replicates=50)
    assert found.summary['mIoU'].value is not None and found.summary['mIoU'].low is None
    assert 'only 3 pictures' in found.remarks[0]


def test_groups_are_drawn_whole():
    parts = tables(20)
    groups = [f'video {place % 20}' for place in range(100)]
    once = segmentation_intervals(counted(parts), replicates=200).summary['mIoU']
    frames = segmentation_intervals(counted(parts * 5), replicates=200, groups=groups).summary['mIoU']
    apart = segmentation_intervals(counted(parts * 5), replicates=200).summary['mIoU']
    assert (once.low, once.high) == pytest.approx((frames.low, frames.high))
    assert apart.high - apart.low < 0.7 * (once.high - once.low)
    with pytest.raises(ValueError, match='names 3 groups for 20 pictures'):
        segmentation_intervals(counted(parts), groups=[1, 2, 3])


def test_boundaries_have_intervals():
    counts = counted(tables())
    boundary = BoundaryAreas(*counts.areas())
    found = segmentation_intervals(counts, boundary, replicates=50)
    assert found.summary['boundary_mIoU'].low == pytest.approx(found.summary['mIoU'].low)
    assert found.per_class['boundary_IoU'][2].high == pytest.approx(found.per_class['IoU'][2].high)


def test_equal_predictions_do_not_differ():
    found = compare_segmentation(counted(tables()), counted(tables()), replicates=100)
    assert found.summary['mIoU'].difference.value == 0 and found.summary['mIoU'].beyond_noise is False
    assert not any(one.beyond_noise or one.beyond_noise_among_all for one in found.per_class['IoU'])


def test_better_predictions_are_beyond_noise():
    found = compare_segmentation(counted(tables(seed=1, right=0.6)), counted(tables(seed=2, right=0.7)), replicates=300)
    whole = found.summary['mIoU']
    assert whole.beyond_noise and whole.difference.low > 5 and whole.chance < 0.01
    assert whole.difference.value == pytest.approx(whole.second - whole.first)
    assert all(one.beyond_noise_among_all for one in found.per_class['IoU'])


def test_predictions_that_differ_by_luck_are_seldom_beyond_noise():
    alarms, classes = 0, 0
    for seed in range(1, 21):
        found = compare_segmentation(
            counted(tables(seed=seed, classes=8)), counted(tables(seed=50 + seed, classes=8)), replicates=200)
        alarms += any(one.beyond_noise_among_all for one in found.per_class['IoU'])
        classes += sum(one.beyond_noise for one in found.per_class['IoU'])
    assert alarms <= 4 and 0 < classes <= 24  # of 20 comparisons, of 160 classes: 5 % and some more of few pictures


def test_pairing_makes_small_differences_visible():
    first = tables()
    second = [part.copy() for part in first]
    for part in second:  # one pixel better in each picture
        row, column = np.argwhere((part > 0) & ~np.eye(4, dtype=bool))[0]
        part[row, column] -= 1
        part[row, row] += 1
    found = compare_segmentation(counted(first), counted(second), replicates=200).summary['aAcc']
    assert found.difference.value == pytest.approx(0.2) and found.beyond_noise
    assert found.difference.error < 1e-9


def test_the_order_of_the_pictures_does_not_matter():
    first, second = counted(tables(seed=1)), counted(tables(seed=2))
    turned = second.select(range(39, -1, -1))
    one, two = (compare_segmentation(first, other, replicates=50).as_dict() for other in (second, turned))
    assert one == two


def test_a_rare_class_is_not_judged():
    first, second = tables(seed=1), tables(seed=2)
    for part in (*first[3:], *second[3:]):
        part[0] = 0
    found = compare_segmentation(counted(first), counted(second), replicates=50).per_class['IoU'][0]
    assert found.beyond_noise is None and found.beyond_noise_among_all is None
    assert found.remark == 'from 3 pictures or groups only'


def test_a_class_that_is_nowhere_is_not_judged():
    parts = [np.pad(part, (0, 1)) for part in tables()]
    found = compare_segmentation(counted(parts), counted(parts), replicates=50)
    assert found.per_class['IoU'][4].remark == 'not defined in both'
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize('change, words', [
    (lambda counts: counts.select(range(39)), "of other pictures: 1 are in the first only .'p39'."),
    (lambda counts: counted(tables(seed=100)), 'against other label maps: those of p0 differ'),
    (lambda counts: counted(tables(classes=5)), 'have 4 and 5 classes'),
])
def test_sets_that_cannot_be_compared_are_refused(change, words):
    counts = counted(tables())
    with pytest.raises(ValueError, match=words):
        compare_segmentation(counts, change(counts))


def test_boundaries_counted_in_one_set_only_are_refused():
    counts = counted(tables())
    with pytest.raises(ValueError, match=r'dilation_ratio of 0\.02 in the first prediction set and None'):
        compare_segmentation(counts, counts, BoundaryAreas(*counts.areas()))
