"""What is told of detections: pycocotools' numbers, exact files, errors with their images; nothing and little, too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='mmdet is not installed')

from detection_helpers import CATEGORIES, STATS, draw_entries, draw_truth, flat, index, reference

from backbones.analysis.detection_matches import read_results
from backbones.evaluation.coco_scoring import Detections
from backbones.evaluation.details import write_details
from backbones.evaluation.details_detection import (
    analyse_detections,
    only_classes,
    steps_of,
    write_predictions,
)

QUICK = dict(resamplings=100)
kinds = pytest.mark.parametrize('kind', ['boxes', 'masks'])


@pytest.fixture(scope='module')
def drawn() -> tuple[dict, list[dict]]:
    draw = np.random.default_rng(5)
    truth = draw_truth(draw, images=14)
    return truth, draw_entries(truth, draw)


def found_of(entries: list[dict]) -> dict[str, Detections]:
    return dict(boxes=flat(entries), masks=flat(entries, masks=True))


@pytest.fixture(scope='module')
def told(drawn: tuple[dict, list[dict]]) -> dict[str, dict]:
    truth, entries = drawn
    return {kind: analyse_detections(index(truth), found_of(entries), kind, **QUICK) for kind in ('boxes', 'masks')}


@kinds
def test_averages_and_the_middle_of_their_intervals_are_those_of_pycocotools(
    told: dict, drawn: tuple[dict, list[dict]], kind: str
) -> None:
    expected = reference(*drawn, kind == 'masks').stats.tolist()
    averages = told[kind]['metrics']['averages']
    names = 'ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large'
    assert [averages[name] for name in names] == pytest.approx(expected[:6], abs=1e-12)
    assert [told[kind]['intervals'][name]['value'] for name in STATS] == pytest.approx(expected, abs=1e-12)


@kinds
def test_an_interval_holds_its_number(told: dict, kind: str) -> None:
    for name in ('AP', 'AP50', 'AR@100', 'f1'):
        found = told[kind]['intervals'][name]
        assert found['low'] < found['value'] < found['high'] and found['replicates'] == 100


@kinds
def test_ap_and_ar_at_chosen_limits_are_those_of_pycocotools(drawn: tuple[dict, list[dict]], kind: str) -> None:
    truth, entries = drawn
    metrics = analyse_detections(index(truth), found_of(entries), kind, max_dets=(2, 130), **QUICK)['metrics']
    expected = reference(truth, entries, kind == 'masks', limits=(2, 130)).eval
    for place, limit in enumerate((2, 130)):
        precision, recall = expected['precision'][:, :, :, 0, place], expected['recall'][:, :, 0, place]
        assert metrics['ap_at'][limit] == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
        assert metrics['averages']['ar'][limit] == pytest.approx(recall[recall > -1].mean(), abs=1e-12)


def test_without_a_score_the_threshold_is_where_f1_is_best(told: dict, drawn: tuple[dict, list[dict]]) -> None:
    points = told['boxes']['points']
    assert points['chosen_by'] == 'best F1' and points['overall']['f1'] == points['overall']['best_f1']
    given = analyse_detections(index(drawn[0]), found_of(drawn[1]), 'boxes', threshold=0.3, **QUICK)
    assert given['points']['score'] == given['confusion']['score'] == 0.3
    assert given['points']['chosen_by'] == 'given' and given['points']['overall']['f1'] < points['overall']['f1']


def test_the_rows_of_the_confusion_matrix_are_the_objects(told: dict) -> None:
    for kind in told.values():
        objects = [one['objects'] for one in kind['metrics']['classes']]
        assert [sum(row) for row in kind['confusion']['counts'][:-1]] == objects


@kinds
def test_images_of_all_errors_are_there_with_name_boxes_and_what_was_found(told: dict, kind: str) -> None:
    errors, images = told[kind]['errors'], {image['id']: image for image in told[kind]['images']}
    for one in [each for part in errors['worst_images'].values() for each in part]:
        assert one['file_name'] == images[one['image']]['file_name'] == f'{one["image"]}.jpg'
        assert one['shown']
        for error in one['shown']:
            boxes = [each['box'] for each in images[one['image']]['detections']]
            assert error['box'] is None or error['box'] in boxes
            assert error['object_box'] is None or error['object_box'] in [
                each['box'] for each in images[one['image']]['objects']]
            assert error['box'] is not None or error['kind'] == 'missed'


def test_every_image_has_a_row_and_the_rows_add_up_to_the_errors(told: dict, drawn: tuple[dict, list[dict]]) -> None:
    errors = told['boxes']['errors']
    rows = errors['by_image']
    assert sorted(rows['image']) == sorted(one['id'] for one in drawn[0]['images']) and rows['left_out'] == 0
    assert {kind: sum(rows[kind]) for kind in errors['counts']} == errors['counts']
    assert rows['cost'] == sorted(rows['cost'], reverse=True)


def test_a_found_object_has_a_right_detection(told: dict) -> None:
    for image in told['boxes']['images']:
        right = sum(one['right'] for one in image['detections'])
        assert sum(one['found'] for one in image['objects']) == right or len(image['detections']) == 100


@kinds
def test_the_file_of_predictions_gives_back_what_was_scored_to_the_last_bit(
    drawn: tuple[dict, list[dict]], kind: str, tmp_path: Path
) -> None:
    truth, entries = drawn
    found = found_of(entries)
    file = tmp_path / write_predictions(tmp_path, found)[kind]
    read = read_results(index(truth), file, kind == 'masks')
    for name in ('images', 'categories', 'scores'):
        assert np.array_equal(getattr(read, name), getattr(found[kind], name))
    assert kind == 'masks' or np.array_equal(read.boxes, found['boxes'].boxes)
    assert kind == 'boxes' or [one['counts'].encode() for one in read.masks] == [
        one['counts'] for one in found['masks'].masks]


def test_masks_with_scores_of_their_own_get_a_file_of_their_own(
    drawn: tuple[dict, list[dict]], tmp_path: Path
) -> None:
    found = found_of(drawn[1])
    found['masks'] = replace(found['masks'], scores=found['boxes'].scores / 2)
    files = write_predictions(tmp_path, found)
    assert files['masks'] != files['boxes']
    read = [read_results(index(drawn[0]), tmp_path / files[kind], kind == 'masks') for kind in ('boxes', 'masks')]
    assert np.array_equal(read[0].scores, 2 * read[1].scores)


def test_categories_that_the_model_does_not_know_count_neither_as_objects_nor_as_classes(
    drawn: tuple[dict, list[dict]]
) -> None:
    truth, entries = drawn
    known = CATEGORIES[:2]
    coco = only_classes(index(truth), known)
    own = [one for one in entries if one['category_id'] in known]
    metrics = analyse_detections(coco, found_of(own), 'boxes', **QUICK)['metrics']
    fewer = truth | dict(categories=[one for one in truth['categories'] if one['id'] in known],
                         annotations=[one for one in truth['annotations'] if one['category_id'] in known])
    assert metrics['averages']['ap'] == pytest.approx(reference(fewer, own).stats[0], abs=1e-12)
    assert [one['id'] for one in metrics['classes']] == sorted(known)


@kinds
def test_a_model_that_detects_nothing_misses_everything_and_scores_zero(
    drawn: tuple[dict, list[dict]], kind: str, tmp_path: Path
) -> None:
    nothing = analyse_detections(index(drawn[0]), found_of([]), kind, **QUICK)
    assert nothing['metrics']['averages']['ap'] == 0 and nothing['intervals']['AP']['value'] == 0
    assert nothing['points']['score'] == 0.3 and nothing['points']['overall']['precision'] is None
    counts = nothing['errors']['counts']
    assert counts.pop('missed') == nothing['points']['overall']['missed'] > 0 and not any(counts.values())
    write_details(tmp_path / 'details.json', nothing)
    assert write_predictions(tmp_path, found_of([]))['masks'] == 'predictions.json'
    assert json.loads((tmp_path / 'predictions.json').read_text()) == []


def test_a_class_without_objects_has_no_ap_and_takes_no_part_in_the_mean(told: dict) -> None:
    classes = {one['id']: one for one in told['boxes']['metrics']['classes']}
    assert classes[40]['averages']['ap'] is None and classes[40]['objects'] == 0 and classes[40]['detections']
    known = [one['averages']['ap'] for one in classes.values() if one['objects']]
    assert told['boxes']['metrics']['averages']['ap'] == pytest.approx(np.mean(known), abs=1e-12)


def test_an_annotation_file_without_objects_has_no_ap_at_all(drawn: tuple[dict, list[dict]]) -> None:
    truth = drawn[0] | dict(annotations=[])
    told = analyse_detections(index(truth), found_of(drawn[1]), 'boxes', **QUICK)
    assert told['metrics']['averages']['ap'] is None and told['intervals']['AP']['value'] is None
    assert told['errors']['ap'] is None and told['errors']['counts']['background'] > 0


def test_each_step_is_told(drawn: tuple[dict, list[dict]]) -> None:
    ticks: list[str] = []
    analyse_detections(index(drawn[0]), found_of(drawn[1]), 'boxes', resamplings=150, tick=ticks.append)
    assert len(ticks) == steps_of(['boxes'], 150)
