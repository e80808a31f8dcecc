"""A data set with weights scores as one that holds copies, for AP, AR and the numbers at a threshold."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='mmdet is not installed')

from detection_helpers import STATS, draw_entries, draw_truth, flat, index, reference

from backbones.analysis.bootstrap import intervals
from backbones.analysis.detection_compare import compare_detections, detection_replicates, images_behind
from backbones.analysis.detection_matches import match, overlaps_of
from backbones.analysis.detection_points import operating_points, point_replicates
from backbones.analysis.detection_replicates import WeightedCoco, coco_replicates


def drawn(seed: int, images: int = 12, **kwargs) -> tuple[dict, list[dict]]:
    draw = np.random.default_rng(seed)
    truth = draw_truth(draw, images)
    return truth, draw_entries(truth, draw, **kwargs)


def apart_within_images(entries: list[dict]) -> list[dict]:
    """Equal scores in different images only."""
    seen: dict[tuple, int] = {}
    for entry in entries:
        key = entry['image_id'], entry['category_id']
        seen[key] = seen.get(key, 0) + 1
        entry['score'] = (seen[key] * 7 % 997) / 1000
    return entries


def copies(truth: dict, entries: list[dict], weights: np.ndarray) -> tuple[dict, list[dict]]:
    """Data set and results with each image as often as its weight, copies side by side in the order of ids."""
    pictures, annotations, results = [], [], []
    for picture, weight in zip(sorted(truth['images'], key=lambda one: one['id']), weights.tolist(), strict=True):
        for _ in range(weight):
            number = len(pictures) + 1
            pictures.append(picture | dict(id=number))
            for entry in truth['annotations']:
                if entry['image_id'] == picture['id']:
                    annotations.append(entry | dict(id=len(annotations) + 1, image_id=number))
            results += [entry | dict(image_id=number) for entry in entries if entry['image_id'] == picture['id']]
    return truth | dict(images=pictures, annotations=annotations), results


@pytest.mark.parametrize('masks', [False, True], ids=['boxes', 'masks'])
@pytest.mark.parametrize('seed', range(4))
def test_weights_score_as_copies_of_the_images(seed: int, masks: bool) -> None:
    truth, entries = drawn(seed)
    entries = apart_within_images(entries)
    weights = np.random.default_rng(seed + 10).multinomial(12, np.full(12, 1 / 12), 2).astype(np.int32)
    found = WeightedCoco(match(overlaps_of(index(truth), flat(entries, masks))))(weights)
    for place, own in enumerate(weights):
        expected = reference(*copies(truth, entries, own), masks).stats
        values = [found[name][place] for name in STATS]
        assert np.nan_to_num(values, nan=-1).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_weights_score_each_class_as_copies_do() -> None:
    truth, entries = drawn(5)
    entries = apart_within_images(entries)
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12)).astype(np.int32)
    found = WeightedCoco(match(overlaps_of(index(truth), flat(entries))))(weights[None])
    counted = reference(*copies(truth, entries, weights)).eval['precision'][..., 0, 2].mean(axis=(0, 1))
    assert np.nan_to_num(found['AP/class'][0], nan=-1).tolist() == pytest.approx(counted.tolist(), abs=1e-12)


def test_weights_of_0_leave_a_class_undefined() -> None:
    truth, entries = drawn(0)
    found = WeightedCoco(match(overlaps_of(index(truth), flat(entries))))(np.zeros((1, 12), np.int32))
    assert np.isnan(found['AP'][0]) and np.isnan(found['AP/class']).all()


def test_many_weights_at_once_score_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, entries = drawn(1)
    weighted = WeightedCoco(match(overlaps_of(index(truth), flat(entries))))
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 9).astype(np.int32)
    together = weighted(weights)
    monkeypatch.setattr('backbones.analysis.detection_replicates.SMALL', 300)  # blocks of a replicate or two
    alone = weighted(weights)
    assert all(np.array_equal(together[name], alone[name], equal_nan=True) for name in together)


def test_points_of_weights_are_those_of_copies() -> None:
    truth, entries = drawn(2)
    matches = match(overlaps_of(index(truth), flat(entries)), (0.5,), ('all',))
    found = point_replicates(matches, replicates=3, seed=1)
    point = operating_points(matches).overall
    assert [found.values[name] for name in ('precision', 'recall', 'f1')] == pytest.approx(
        [point.precision, point.recall, point.f1])
    from backbones.analysis.bootstrap import draw_weights
    for place, weights in enumerate(next(draw_weights(12, 3, 1))):
        again, results = copies(truth, entries, weights)
        point = operating_points(match(overlaps_of(index(again), flat(results)), (0.5,), ('all',))).overall
        assert found.samples['f1'][place] == pytest.approx(point.f1)
        assert found.samples['precision'][place] == pytest.approx(point.precision)


def test_matches_of_other_sizes_or_limits_are_refused() -> None:
    truth, entries = drawn(0)
    overlaps = overlaps_of(index(truth), flat(entries))
    with pytest.raises(ValueError, match='match with the default ones'):
        coco_replicates(match(overlaps, (0.5,)))
    with pytest.raises(ValueError, match='from 1 to 100'):
        coco_replicates(match(overlaps), limits=(300,))


def test_every_number_has_an_interval_around_it() -> None:
    truth, entries = drawn(3, 30)
    overlaps = overlaps_of(index(truth), flat(entries))
    found = intervals(detection_replicates(overlaps, replicates=60), images_behind(overlaps))
    assert found['AP'].low < found['AP'].value < found['AP'].high
    assert [one.low is None for one in found['AP/class']] == [False, False, False, True, True]
    assert found['AP_large'].images < found['AP'].images == 30
    json.dumps({name: one.as_dict() for name, one in found.items() if not isinstance(one, list)}, allow_nan=False)


def test_a_better_detector_is_told_from_a_worse_one() -> None:
    truth, entries = drawn(4, 40, ties=False)
    worse = [entry for place, entry in enumerate(entries) if place % 3]
    found = compare_detections(index(truth), flat(worse), flat(entries), replicates=100)
    assert found.overall['AR@100'].value > 0 and found.overall['AR@100'].beyond
    same = compare_detections(index(truth), flat(entries), flat(entries), replicates=20)
    assert not any(one.beyond for one in same.overall.values())
    json.dumps(found.as_dict(), allow_nan=False)


def test_boxes_are_not_compared_with_masks() -> None:
    truth, entries = drawn(0)
    with pytest.raises(ValueError, match='boxes with boxes'):
        compare_detections(index(truth), flat(entries), flat(entries, masks=True))


def test_empty_predictions_have_intervals_of_0() -> None:
    truth, _ = drawn(0, 20)
    overlaps = overlaps_of(index(truth), flat([]))
    found = intervals(detection_replicates(overlaps, replicates=20), images_behind(overlaps))
    assert (found['AP'].value, found['AP'].low, found['AP'].high) == (0, 0, 0)
    assert found['precision'].value is None
