"""Scores of label maps: mmseg's definitions, counted exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from backbones.analysis.segmentation_counts import (
    SegmentationCounts,
    checked_pair,
    count,
    count_in_bands,
    entries_of,
)
from backbones.analysis.segmentation_metrics import image_scores, segmentation_scores

CLASSES = tuple('abcdef')
NUMBER = len(CLASSES)


def drawn(pictures: int = 5, size: tuple[int, int] = (7, 9), seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label maps with ignored pixels and their predictions; e is predicted but never there, f is neither."""
    draw = np.random.default_rng(seed)
    pairs = []
    for _ in range(pictures):
        truth = draw.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
        predicted = np.where(draw.random(size) < 0.6, truth % 255, draw.integers(0, 5, size))
        pairs.append((truth, predicted))
    return pairs


def counted(pairs: list[tuple[np.ndarray, np.ndarray]], ignore_index: int = 255) -> SegmentationCounts:
    tables = (count(*checked_pair(*pair, NUMBER, ignore_index, 'x'), NUMBER) for pair in pairs)
    return SegmentationCounts.of_tables(CLASSES, [f'p{place}' for place in range(len(pairs))], tables)


@pytest.mark.parametrize('scope', ['backbones', 'mmseg'])
@pytest.mark.parametrize('ignore_index', [255, 3])
def test_the_means_are_those_of_the_metric(scope, ignore_index):
    pytest.importorskip('mmseg', reason='mmseg is not installed')
    from mmseg.evaluation import IoUMetric as MMSegIoUMetric

    from backbones.evaluation.iou_metric import IoUMetric

    pairs = drawn()
    if ignore_index != 255:
        pairs = [(np.where(truth == 255, 0, truth), predicted) for truth, predicted in pairs]
    kind = IoUMetric if scope == 'backbones' else MMSegIoUMetric
    metric = kind(iou_metrics=['mIoU', 'mDice', 'mFscore'], ignore_index=ignore_index)
    metric.dataset_meta = dict(classes=CLASSES)
    for truth, predicted in pairs:
        sample = dict(
            pred_sem_seg=dict(data=torch.as_tensor(predicted)[None]),
            gt_sem_seg=dict(data=torch.as_tensor(truth)[None]),
            img_path='x/a.jpg', seg_map_path='y/a.png')
        metric.process({}, [sample])
    theirs = metric.evaluate(len(pairs))
    ours = segmentation_scores(counted(pairs, ignore_index)).summary
    assert set(theirs) == set(ours)
    np.testing.assert_allclose([ours[name] for name in theirs], list(theirs.values()), atol=0.0051)  # theirs: 2 digits


def test_the_counts_are_those_of_a_loop_over_pixels():
    pairs = drawn(3)
    expected = [[0] * NUMBER for _ in range(NUMBER)]
    for truth, predicted in pairs:
        for true, found in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            if true != 255:
                expected[true][found] += 1
    found = counted(pairs).confusion()
    assert found.tolist() == expected and found.dtype == np.int64


def test_scores_are_those_of_sets_of_pixels():
    pairs = drawn(4)
    scores = segmentation_scores(counted(pairs))
    for place, name in enumerate(CLASSES):
        true, found = set(), set()
        for number, (truth, predicted) in enumerate(pairs):
            true |= {(number, *at) for at in np.argwhere(truth == place).tolist()}
            found |= {(number, *at) for at in np.argwhere((predicted == place) & (truth != 255)).tolist()}
        both = len(true & found)
        expected = dict(
            IoU=both / len(true | found) if true | found else np.nan,
            Dice=2 * both / (len(true) + len(found)) if true or found else np.nan,
            Precision=both / len(found) if found else np.nan, Recall=both / len(true) if true else np.nan)
        for score, value in expected.items():
            np.testing.assert_allclose(scores.per_class[score][place], 100 * value, err_msg=f'{score} of {name}')


def test_the_table_of_a_picture_comes_back():
    pairs = drawn(4)
    counts = counted(pairs)
    for place, pair in enumerate(pairs):
        assert (counts.of_image(place) == count(*checked_pair(*pair, NUMBER), NUMBER)).all()
    assert counts.select([2, 0]).names == ('p2', 'p0')
    assert (counts.select([2, 0]).confusion() == counts.of_image(0) + counts.of_image(2)).all()


def test_two_thousand_million_pixels_are_counted_exactly():
    table = np.zeros((NUMBER, NUMBER), np.int64)
    table[1, 1] = 1_000_003
    counts = SegmentationCounts.of_tables(CLASSES, [str(place) for place in range(2000)], [table] * 2000)
    assert segmentation_scores(counts).pixels == 2_000_006_000


def test_two_thousand_pictures_of_150_classes_take_a_few_megabytes():
    draw = np.random.default_rng(0)
    tables = (np.bincount(draw.integers(0, 22500, 100), minlength=22500).reshape(150, 150) for _ in range(2000))
    counts = SegmentationCounts.of_tables([str(i) for i in range(150)], [str(i) for i in range(2000)], tables)
    assert counts.offsets.nbytes + counts.pairs.nbytes + counts.pixels.nbytes < 4e6


def test_a_class_that_is_nowhere_has_no_score_and_no_part_in_the_mean():
    scores = segmentation_scores(counted(drawn()))
    assert np.isnan(scores.per_class['IoU'][5])
    assert scores.summary['mIoU'] == pytest.approx(np.mean(scores.per_class['IoU'][:5]))


def test_a_class_that_is_only_predicted_counts_as_nothing_in_iou_and_not_in_accuracy():
    scores = segmentation_scores(counted(drawn()))
    assert scores.per_class['IoU'][4] == 0 and np.isnan(scores.per_class['Acc'][4])
    assert scores.summary['mAcc'] == pytest.approx(np.mean(scores.per_class['Acc'][:4]))


def test_what_is_lost_adds_up():
    scores = segmentation_scores(counted(drawn())).per_class
    lost = scores['lost_to_missing'] + scores['lost_to_inventing']
    np.testing.assert_allclose(lost, 100 - scores['IoU'])


def test_predictions_where_nothing_counts_do_not_matter():
    truth, predicted = drawn(1)[0]
    other = np.where(truth == 255, 200, predicted)
    assert (counted([(truth, other)]).confusion() == counted([(truth, predicted)]).confusion()).all()


@pytest.mark.parametrize('truth, predicted, words', [
    ([[0, 6]], [[0, 0]], 'label map of x holds the value 6 in 1 pixels'),
    ([[0, 0]], [[0, 6]], 'counted from 1'),
    ([[0, 0]], [[0, 300]], 'prediction of x holds the value 300'),
    ([[0, 0]], [[0, -1]], 'the value -1'),
    ([[0, 0]], [[0.0, 1.0]], 'float64'),
    ([[0, 0]], [[0], [0]], '1x2 .width x height. while its label map is 2x1'),
    ([0, 0], [0, 0], 'shape'),
])
def test_what_cannot_be_counted_is_refused(truth, predicted, words):
    with pytest.raises(ValueError, match=words):
        checked_pair(np.array(truth), np.array(predicted), NUMBER, 255, 'x')


def test_values_are_told_as_they_stand_in_the_file():
    with pytest.raises(ValueError, match=r'holds the value 0 in 1 pixels that count, but 1 to 6 .* counted from 0'):
        checked_pair(np.array([[0]]), np.array([[0]]) - 1, NUMBER, 255, 'x', first=1)


def test_more_classes_than_8_bits_hold_are_counted():
    truth, predicted = checked_pair(np.array([[299, 255, 1000]]), np.array([[299, 3, 5]]), 300, 1000)
    table = count(truth, predicted, 300)
    assert table[299, 299] == 1 and table[255, 3] == 1 and table.sum() == 2


def test_bands_add_up_to_the_whole():
    truth, predicted = checked_pair(*drawn(1)[0], NUMBER)
    bands = np.arange(truth.size).reshape(truth.shape) % 3
    tables = count_in_bands(truth, predicted, bands, NUMBER, 3)
    assert (tables.sum(0) == count(truth, predicted, NUMBER)).all()
    here = (bands == 1) & (truth < NUMBER)
    assert tables[1].trace() == ((truth == predicted) & here).sum()


def test_a_set_without_a_pixel_that_counts_has_no_score():
    with pytest.raises(ValueError, match='no label map of the 1 pictures'):
        segmentation_scores(counted([(np.full((2, 2), 255), np.zeros((2, 2), int))]))


def test_pictures_of_one_name_are_refused():
    empty = entries_of(np.zeros((NUMBER, NUMBER)))
    with pytest.raises(ValueError, match="twice: \\['p'\\]"):
        SegmentationCounts.of_entries(CLASSES, ['p', 'p'], [empty, empty])


def test_pictures_are_ordered_from_the_worst():
    right, wrong, nothing = np.zeros((2, 2), int), np.ones((2, 2), int), np.full((2, 2), 255)
    scores = image_scores(counted([(right, right), (nothing, right), (right, wrong)]))
    assert scores.order() == [2, 0] and scores.wrong.tolist() == [0, 0, 4]
    np.testing.assert_array_equal(scores.mIoU, [100, np.nan, 0])
    with pytest.raises(ValueError, match="choose 'mIoU' or 'aAcc'"):
        scores.order('IoU')


def test_scores_are_plain_data():
    found = segmentation_scores(counted(drawn())).as_dict()
    json.dumps(found, allow_nan=False)
    assert found['per_class'][5]['class'] == 'f' and found['per_class'][5]['IoU'] is None
    assert found['per_class'][0]['images'] == 5
