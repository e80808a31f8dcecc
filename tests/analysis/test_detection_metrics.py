"""Averages, curves, precision, recall and confusion of detections are what pycocotools and a count by hand say."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from conftest import SHARED

pytest.importorskip('mmdet', reason='mmdet is not installed')

from detection_helpers import CATEGORIES, STATS, draw_entries, draw_truth, flat, index, reference, runs

from backbones.analysis.detection_matches import Matches, match, open_truth, overlaps_of
from backbones.analysis.detection_metrics import DetectionMetrics, detection_metrics
from backbones.analysis.detection_points import confusion_matrix, operating_points
from backbones.analysis.detection_replicates import WeightedCoco
from backbones.evaluation.coco_scoring import Detections

MINI = SHARED / 'data' / 'coco_mini' / 'annotations' / 'instances_val2017.json'
needs_mini = pytest.mark.skipif(not MINI.is_file(), reason='the sample of COCO is not here')
kinds = pytest.mark.parametrize('masks', [False, True], ids=['boxes', 'masks'])
seeds = pytest.mark.parametrize('seed', range(4))


def drawn(seed: int, **kwargs) -> tuple[dict, list[dict]]:
    draw = np.random.default_rng(seed)
    truth = draw_truth(draw)
    return truth, draw_entries(truth, draw, **kwargs)


def stats(found: DetectionMetrics) -> list[float]:
    one = found.averages
    return [one.ap, one.ap50, one.ap75, one.ap_small, one.ap_medium, one.ap_large, *one.ar.values(), one.ar_small,
            one.ar_medium, one.ar_large]


def matches_of(truth: dict, entries: list[dict], masks: bool = False, **kwargs) -> Matches:
    return match(overlaps_of(index(truth), flat(entries, masks)), **kwargs)


@kinds
@seeds
def test_the_averages_are_those_of_pycocotools(seed: int, masks: bool) -> None:
    truth, entries = drawn(seed)
    found = detection_metrics(index(truth), flat(entries, masks))
    assert stats(found) == pytest.approx(reference(truth, entries, masks).stats.tolist(), abs=1e-12)


@kinds
@seeds
def test_the_matches_count_to_the_averages_of_pycocotools(seed: int, masks: bool) -> None:
    truth, entries = drawn(seed)
    expected = reference(truth, entries, masks).stats.tolist()
    found = WeightedCoco(matches_of(truth, entries, masks))(np.ones((1, len(truth['images'])), np.int32))
    assert [found[name][0] for name in STATS] == pytest.approx(expected, abs=1e-12)


@seeds
def test_the_averages_of_a_class_are_those_of_pycocotools(seed: int) -> None:
    truth, entries = drawn(seed)
    found, counted = detection_metrics(index(truth), flat(entries)), reference(truth, entries).eval
    for place, one in enumerate(found.classes):
        precision, recall = counted['precision'][:, :, place, :, 2], counted['recall'][:, place]
        for name, part in (('ap', precision[..., 0]), ('ap50', precision[0, :, 0]), ('ap75', precision[5, :, 0]),
                           ('ap_small', precision[..., 1]), ('ap_medium', precision[..., 2]),
                           ('ap_large', precision[..., 3]), ('ar_large', recall[:, 3, 2])):
            expected = part[part > -1].mean() if (part > -1).any() else None
            assert getattr(one.averages, name) == (None if expected is None else pytest.approx(expected, abs=1e-12))
        for place_of_limit, limit in enumerate((1, 10, 100)):
            expected = recall[:, 0, place_of_limit].mean()
            assert one.averages.ar[limit] == (None if expected < 0 else pytest.approx(expected, abs=1e-12))


def test_recall_is_taken_at_any_number_of_detections() -> None:
    truth, entries = drawn(1, most=400)
    found = detection_metrics(index(truth), flat(entries), max_dets=(3, 300))
    counted = reference(truth, entries, limits=(3, 100, 300))
    recall = counted.eval['recall'][:, :, 0]
    expected = [recall[..., place][recall[..., place] > -1].mean() for place in (0, 2)]
    assert list(found.averages.ar) == [3, 300]
    assert list(found.averages.ar.values()) == pytest.approx(expected, abs=1e-12)
    assert found.averages.ap == pytest.approx(reference(truth, entries).stats[0], abs=1e-12)


def test_a_curve_is_that_of_pycocotools() -> None:
    truth, entries = drawn(2)
    found, counted = detection_metrics(index(truth), flat(entries)), reference(truth, entries).eval['precision']
    assert found.curve(0.75, 1) == pytest.approx(counted[5, :, 1, 0, 2].tolist(), abs=1e-12)
    known = counted[0, :, :, 0, 2]
    assert found.curve(0.5) == pytest.approx(known[:, known[0] > -1].mean(axis=1).tolist(), abs=1e-12)
    assert found.curve(0.5, 4) == [None] * 101


def test_the_metrics_are_plain_data() -> None:
    truth, entries = drawn(3)
    content = json.loads(json.dumps(detection_metrics(index(truth), flat(entries)).as_dict(), allow_nan=False))
    assert len(content['curves']['0.50']['classes']) == len(CATEGORIES)
    assert content['classes'][3]['averages']['ap'] is None


def test_what_there_is_of_a_class_is_counted() -> None:
    truth, entries = drawn(0)
    for one in detection_metrics(index(truth), flat(entries)).classes:
        own = [entry for entry in truth['annotations'] if entry['category_id'] == one.id and not entry['iscrowd']]
        assert (one.objects, one.images) == (len(own), len({entry['image_id'] for entry in own}))
        assert one.detections == sum(entry['category_id'] == one.id for entry in entries)


def test_empty_predictions_score_0() -> None:
    truth, _ = drawn(0)
    found = detection_metrics(index(truth), flat([]))
    assert set(stats(found)) == {0.0} and found.images_with_detections == 0
    assert operating_points(matches_of(truth, [])).overall.precision is None
    assert operating_points(matches_of(truth, [])).overall.recall == 0


def test_a_data_set_without_objects_has_no_average() -> None:
    truth, entries = drawn(0)
    found = detection_metrics(index(truth | dict(annotations=[])), flat(entries))
    assert set(stats(found)) == {None} and found.curve() == [None] * 101
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize('limits', [(), (0,), (1.5,)])
def test_a_number_of_detections_that_is_none_is_refused(limits: tuple) -> None:
    with pytest.raises(ValueError, match='max_dets'):
        detection_metrics(index(drawn(0)[0]), flat([]), max_dets=limits)


def test_a_curve_at_another_iou_is_refused() -> None:
    with pytest.raises(ValueError, match='has no curve'):
        detection_metrics(index(drawn(0)[0]), flat([])).curve(0.52)


# --- a sample of COCO --------------------------------------------------------------------------------


@needs_mini
@kinds
def test_the_averages_of_moved_objects_of_coco_are_those_of_pycocotools(masks: bool) -> None:
    coco, draw = open_truth(str(MINI), masks), np.random.default_rng(0)
    rows, regions = [], []
    for entry in coco.dataset['annotations']:
        for _ in range(int(draw.integers(0, 3))):
            box = np.abs(np.array(entry['bbox']) + draw.normal(0, 0.08, 4) * np.array(entry['bbox'])[[2, 3, 2, 3]])
            rows.append((entry['image_id'], entry['category_id'] if draw.random() < 0.9 else 1, draw.random()))
            shape = coco.imgs[entry['image_id']]
            regions.append(rectangle(box, shape['height'], shape['width']) if masks else box)
    columns = [np.array(column, kind) for column, kind in zip(zip(*rows, strict=True), (int, int, float), strict=True)]
    found = Detections(*columns, **({'masks': regions} if masks else {'boxes': np.array(regions)}))
    name = 'segmentation' if masks else 'bbox'
    entries = [dict(image_id=image, category_id=category, score=score) | {name: region if masks else region.tolist()}
               for (image, category, score), region in zip(rows, regions, strict=True)]
    expected = of_coco(coco.dataset, entries, masks)
    assert stats(detection_metrics(coco, found)) == pytest.approx(expected, abs=1e-12)
    counted = WeightedCoco(match(overlaps_of(coco, found)))(np.ones((1, len(coco.imgs)), np.int32))
    assert [counted[name][0] for name in STATS] == pytest.approx(expected, abs=1e-12)


def rectangle(box: np.ndarray, height: int, width: int) -> dict:
    from pycocotools import mask as coco_mask

    x, y, w, h = box.tolist()
    return coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], height, width)[0]


def of_coco(truth: dict, entries: list[dict], masks: bool) -> list[float]:
    import contextlib
    import io

    from pycocotools.cocoeval import COCOeval

    coco = index(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(entries)), 'segm' if masks else 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


# --- one threshold -----------------------------------------------------------------------------------


def by_hand(truth: dict, entries: list[dict], category: int, iou: float, score: float) -> tuple[int, int, int]:
    """Right, wrong and missed, one detection after another."""
    from pycocotools import mask as coco_mask

    right = wrong = objects = 0
    for picture in truth['images']:
        there = [entry for entry in truth['annotations']
                 if entry['image_id'] == picture['id'] and entry['category_id'] == category]
        objects += sum(not entry['iscrowd'] for entry in there)
        free = [entry for entry in there if not entry['iscrowd']]
        crowd = [entry for entry in there if entry['iscrowd']]
        found = sorted((entry for entry in entries if entry['image_id'] == picture['id']
                        and entry['category_id'] == category and entry['score'] >= score), key=lambda e: -e['score'])
        for entry in found[:100]:
            over = [coco_mask.iou([entry['bbox']], [one['bbox']], [0])[0, 0] for one in free]
            if over and max(over) >= iou:
                right += 1
                free.pop(len(over) - 1 - int(np.argmax(over[::-1])))
            elif not any(coco_mask.iou([entry['bbox']], [one['bbox']], [1])[0, 0] >= iou for one in crowd):
                wrong += 1
    return right, wrong, objects - right


@pytest.mark.parametrize('score', [0.0, 0.4, 0.95])
@pytest.mark.parametrize('iou', [0.5, 0.75])
def test_right_wrong_and_missed_are_those_counted_by_hand(iou: float, score: float) -> None:
    truth, entries = drawn(1)
    points = operating_points(matches_of(truth, entries), score=score, iou=iou)
    for category, point in zip(sorted(CATEGORIES), points.classes, strict=True):
        assert (point.right, point.wrong, point.missed) == by_hand(truth, entries, category, iou, score)
    assert points.overall.right == sum(point.right for point in points.classes)


def test_precision_recall_and_f1_follow_from_the_counts() -> None:
    truth, entries = drawn(2)
    point = operating_points(matches_of(truth, entries)).overall
    assert point.precision == pytest.approx(point.right / (point.right + point.wrong))
    assert point.recall == pytest.approx(point.right / (point.right + point.missed))
    assert point.f1 == pytest.approx(2 / (1 / point.precision + 1 / point.recall))


@seeds
def test_no_threshold_has_a_higher_f1_than_the_best_one(seed: int) -> None:
    truth, entries = drawn(seed)
    matches = matches_of(truth, entries, thresholds=(0.5,), areas=('all',))
    tried = [operating_points(matches, score=score) for score in sorted({entry['score'] for entry in entries})]
    for place, best in enumerate(tried[0].classes):
        if best.best_score is not None:
            assert best.best_f1 == pytest.approx(max(points.classes[place].f1 for points in tried))
            at = operating_points(matches, score=best.best_score).classes[place]
            assert at.f1 == pytest.approx(best.best_f1)


@seeds
def test_the_curve_over_the_thresholds_has_the_points_of_each(seed: int) -> None:
    matches = matches_of(*drawn(seed), thresholds=(0.5,), areas=('all',))
    curve = operating_points(matches).curve
    assert len(curve['score']) == 101
    for place, score in enumerate(curve['score']):
        point = operating_points(matches, score=score).overall
        for name in ('precision', 'recall', 'f1'):
            assert curve[name][place] == pytest.approx(getattr(point, name), abs=1e-5)


def test_a_curve_without_detections_has_no_precision() -> None:
    curve = operating_points(matches_of(drawn(0)[0], [])).curve
    assert set(curve['precision']) == {None}
    assert set(curve['recall']) == {0}


def test_a_class_that_is_never_right_has_no_best_threshold() -> None:
    truth, entries = drawn(0)
    point = operating_points(matches_of(truth, entries)).classes[-1]
    assert (point.best_score, point.precision, point.recall, point.f1) == (None, None, None, None)


@seeds
def test_the_confusion_matrix_adds_up_to_objects_and_detections(seed: int) -> None:
    truth, entries = drawn(seed)
    matches = matches_of(truth, entries)
    points, table = operating_points(matches, score=0.2), confusion_matrix(matches, score=0.2).counts
    assert np.diag(table).tolist() == [*(point.right for point in points.classes), 0]
    assert table[:-1].sum(axis=1).tolist() == [point.right + point.missed for point in points.classes]
    assert table[:, :-1].sum(axis=0).tolist() == [point.right + point.wrong for point in points.classes]


def test_a_detection_of_another_class_on_an_object_is_a_confusion() -> None:
    truth, _ = drawn(0, most=0)
    thing = dict(id=1, image_id=truth['images'][0]['id'], category_id=3, bbox=[10, 10, 40, 40], area=1600.0, iscrowd=0)
    rows = (5, [10, 10, 40, 41], 0.8), (9, [10, 10, 40, 40], 0.7), (9, [10, 10, 40, 40], 0.1)
    entries = [dict(image_id=thing['image_id'], category_id=category, bbox=box, score=score)
               for category, box, score in rows]
    table = confusion_matrix(matches_of(truth | dict(annotations=[thing]), entries)).counts
    assert table[0, 1] == 1  # the better one of category 5, the second in order, in place of 3, the first
    assert table[-1, 2] == 1 and table.sum() == 2


def test_an_iou_that_was_not_matched_is_refused() -> None:
    matches = matches_of(*drawn(0), thresholds=(0.5,), areas=('all',))
    with pytest.raises(ValueError, match=r'no iou=0\.6'):
        operating_points(matches, iou=0.6)
    with pytest.raises(ValueError, match='score=nan'):
        confusion_matrix(matches, score=float('nan'))


def test_the_masks_drawn_here_are_no_boxes() -> None:
    from pycocotools import mask as coco_mask

    assert coco_mask.area(runs([10, 10, 40, 40])) < 1600
