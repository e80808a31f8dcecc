"""The ground truth given as prediction scores 1.000, and where it does not, the stage that loses it is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from rehearsal_helpers import DETECTOR, SEGMENTER, built, differences, kinds, make_data, state

from backbones.findings import Finding, Outcome
from backbones.preflight.truth import check_truth

TEST = 'val_dataloader.dataset.pipeline'
PACK = ('img_id', 'img_path', 'ori_shape', 'img_shape')


@TRANSFORMS.register_module()
class ReduceAgain(BaseTransform):
    """Lower all labels by one, as `reduce_zero_label` has done already."""

    def transform(self, results: dict) -> dict:
        results['gt_seg_map'] = results['gt_seg_map'] - np.uint8(1)
        return results


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp('data'))


def truth_of(
    config: Path, data: Path, folder: Path, changes: dict[str, Any] | None = None, images: int = 200
) -> Outcome:
    return check_truth(built(config, data, folder, changes), images=images)


def only(outcome: Outcome) -> Finding:
    assert len(outcome.findings) == 1, outcome.findings
    return outcome.findings[0]


def test_a_sound_detector_scores_one_and_its_runner_stays_as_it_was(data: Path, tmp_path: Path) -> None:
    runner = built(DETECTOR, data, tmp_path)
    before = copy.deepcopy(state(runner))
    outcome = check_truth(runner)
    assert outcome.findings == [] and outcome.figures['truth_scores'] == dict(bbox=1.0, segm=1.0)
    assert differences(before, state(runner)) == []


def test_a_sound_segmenter_scores_a_hundred_and_its_runner_stays_as_it_was(data: Path, tmp_path: Path) -> None:
    runner = built(SEGMENTER, data, tmp_path)
    before = copy.deepcopy(state(runner))
    outcome = check_truth(runner)
    assert outcome.findings == [] and outcome.figures['truth_scores']['mIoU'] == 100.0
    assert differences(before, state(runner)) == []


def test_the_evaluator_is_restricted_to_the_pictures_that_are_looked_at(data: Path, tmp_path: Path) -> None:
    outcome = truth_of(DETECTOR, data, tmp_path, images=2)
    assert outcome.findings == [] and outcome.figures['truth_images'] == 2


# --- boxes and masks --------------------------------------------------------------------------------


def annotations(data: Path, folder: Path, **changes: Any) -> str:
    """A changed copy of the validation's annotation file."""
    content = json.loads((data / 'annotations/instances_val.json').read_text())
    for key, change in changes.items():
        content[key] = change(content[key])
    path = folder / 'changed.json'
    path.write_text(json.dumps(content))
    return str(path)


def both(path: str) -> dict[str, str]:
    """Data set and evaluator with the same file."""
    return {'val_dataloader.dataset.ann_file': path, 'val_evaluator.ann_file': path}


def test_classes_in_another_order_in_training_are_named(data: Path, tmp_path: Path) -> None:
    turned = dict(classes=('ring', 'box', 'triangle', 'star', 'cross', 'disc'))
    finding = only(truth_of(DETECTOR, data, tmp_path, {'train_dataloader.dataset.metainfo': turned}))
    assert finding.kind == 'class order' and finding.severity == 'error'
    assert "label 0 is 'ring' in training and 'disc' in the validation" in finding.message


def test_an_evaluator_that_numbers_categories_by_the_order_of_the_file_is_named(data: Path, tmp_path: Path) -> None:
    path = annotations(data, tmp_path, categories=lambda entries: entries[::-1])
    changes = {'val_evaluator.type': 'mmdet.CocoMetric', **both(path)}
    finding = only(truth_of(DETECTOR, data, tmp_path, changes))
    assert finding.kind == 'class order' and "'disc' in the data set, as 'cross'" in finding.message


def test_a_pipeline_without_scale_factor_is_named(data: Path, tmp_path: Path) -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(192, 128), keep_ratio=True),
                dict(type='PackDetInputs', meta_keys=PACK)]
    finding = only(truth_of(DETECTOR, data, tmp_path, {TEST: pipeline}))
    assert finding.kind == 'no scale factor' and finding.field == TEST


def test_boxes_that_come_back_elsewhere_are_shown(data: Path, tmp_path: Path) -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(192, 128), keep_ratio=True),
                dict(type='RandomFlip', prob=1.0), dict(type='PackDetInputs', meta_keys=(*PACK, 'scale_factor'))]
    finding = only(truth_of(DETECTOR, data, tmp_path, {TEST: pipeline}))
    assert finding.kind == 'resize and back' and 'becomes [' in finding.message


def test_a_resize_that_does_not_keep_the_ratio_loses_nothing(data: Path, tmp_path: Path) -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(100, 133), keep_ratio=False),
                dict(type='PackDetInputs', meta_keys=(*PACK, 'scale_factor'))]
    assert truth_of(DETECTOR, data, tmp_path, {TEST: pipeline}).findings == []


def test_an_evaluator_with_the_file_of_another_split_is_named(data: Path, tmp_path: Path) -> None:
    path = annotations(data, tmp_path, images=lambda entries: [*entries[1:], dict(entries[0], id=99)])
    outcome = truth_of(DETECTOR, data, tmp_path, {'val_evaluator.ann_file': path})
    assert set(kinds(outcome)) == {('error', 'other pictures')}
    assert '1 of 4 pictures of the validation are not in the file' in outcome.findings[0].message


def test_pictures_that_the_model_never_sees_are_counted(data: Path, tmp_path: Path) -> None:
    finding = only(truth_of(DETECTOR, data, tmp_path, {'val_dataloader.dataset.indices': 2}))
    assert finding.kind == 'other pictures' and 'scores 2 pictures that the validation never shows' in finding.message


def test_objects_that_the_data_set_leaves_out_are_named(data: Path, tmp_path: Path) -> None:
    def ignored(entries: list[dict]) -> list[dict]:
        return [dict(entries[0], ignore=1), *entries[1:]]

    path = annotations(data, tmp_path, annotations=ignored)
    finding = only(truth_of(DETECTOR, data, tmp_path, {'val_dataloader.dataset.ann_file': path}))
    assert finding.kind == 'objects lost' and 'the evaluator counts' in finding.message


def test_boxes_beyond_the_border_lose_points_with_a_warning(data: Path, tmp_path: Path) -> None:
    def wide(entries: list[dict]) -> list[dict]:
        return [dict(entry, bbox=[-20, entry['bbox'][1], entry['bbox'][0] + entry['bbox'][2] + 20, entry['bbox'][3]])
                for entry in entries]

    path = annotations(data, tmp_path, annotations=wide)
    finding = only(truth_of(DETECTOR, data, tmp_path, {**both(path), 'val_evaluator.metric': ['bbox']}))
    assert (finding.severity, finding.kind) == ('warning', 'boxes outside') and '20 pixels' in finding.message


def test_more_than_a_hundred_objects_of_a_class_are_a_note(data: Path, tmp_path: Path) -> None:
    def many(entries: list[dict]) -> list[dict]:
        return [dict(id=n + 1, image_id=entries[0]['image_id'], category_id=2, iscrowd=0, area=9,
                     bbox=[4 * (n % 20), 4 * (n // 20), 3, 3]) for n in range(130)]

    path = annotations(data, tmp_path, annotations=many)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=PACK)]
    changes = {**both(path), 'val_evaluator.metric': ['bbox'], TEST: pipeline}
    finding = only(truth_of(DETECTOR, data, tmp_path, changes))
    assert (finding.severity, finding.kind) == ('note', 'many objects') and 'has 130 objects of one' in finding.message


def test_an_evaluator_without_annotation_file_scores_one(data: Path, tmp_path: Path) -> None:
    changes = {'val_evaluator.ann_file': None, 'val_evaluator.metric': ['bbox']}
    outcome = truth_of(DETECTOR, data, tmp_path, changes)
    assert outcome.findings == [] and outcome.figures['truth_scores'] == dict(bbox=1.0)


def test_a_validation_without_objects_is_said(data: Path, tmp_path: Path) -> None:
    path = annotations(data, tmp_path, annotations=lambda entries: [])
    outcome = truth_of(DETECTOR, data, tmp_path, {**both(path), 'val_evaluator.metric': ['bbox']})
    assert outcome.findings == [] and outcome.skipped == 'none of the 4 pictures that were looked at has an object'


def test_prediction_files_of_the_evaluator_are_not_written(data: Path, tmp_path: Path) -> None:
    outcome = truth_of(DETECTOR, data, tmp_path, {'val_evaluator.outfile_prefix': str(tmp_path / 'results')})
    assert outcome.findings == [] and not list(tmp_path.glob('results*'))


# --- label maps -------------------------------------------------------------------------------------


def label_pipeline(*steps: dict) -> list[dict]:
    return [dict(type='LoadImageFromFile'), *steps, dict(type='PackSegInputs')]


RESIZE, LOAD = dict(type='Resize', scale=(64, 40), keep_ratio=True), dict(type='backbones.LoadLabelMap')


def test_labels_lowered_twice_in_the_evaluation_are_named(data: Path, tmp_path: Path) -> None:
    changes = {TEST: label_pipeline(RESIZE, LOAD, dict(type='ReduceAgain'))}
    finding = only(truth_of(SEGMENTER, data, tmp_path, changes))
    assert finding.kind == 'label shifted' and finding.field == TEST
    assert 'in evaluation value' in finding.message and finding.message.endswith('reduce_zero_label is applied twice')


def test_labels_lowered_twice_in_training_are_named(data: Path, tmp_path: Path) -> None:
    changes = {'train_dataloader.dataset.pipeline': label_pipeline(LOAD, dict(type='ReduceAgain'))}
    finding = only(truth_of(SEGMENTER, data, tmp_path, changes))
    assert finding.field == 'train_dataloader.dataset.pipeline' and 'applied twice' in finding.message


def test_another_meaning_of_zero_in_the_evaluation_is_named(data: Path, tmp_path: Path) -> None:
    changes = {'val_dataloader.dataset.reduce_zero_label': False,
               TEST: label_pipeline(RESIZE, dict(type='LoadAnnotations', reduce_zero_label=False))}
    finding = only(truth_of(SEGMENTER, data, tmp_path, changes))
    assert finding.kind == 'label shifted' and 'in training and' in finding.message


def test_labels_that_are_resized_with_the_picture_are_named(data: Path, tmp_path: Path) -> None:
    finding = only(truth_of(SEGMENTER, data, tmp_path, {TEST: label_pipeline(LOAD, RESIZE)}))
    assert finding.kind == 'labels resized' and 'load the labels behind the Resize' in finding.remedy


def test_classes_in_another_order_in_the_validation_are_named(data: Path, tmp_path: Path) -> None:
    names = (data / 'classes.txt').read_text().split()
    changes = {'val_dataloader.dataset.metainfo': dict(classes=[names[1], names[0], *names[2:]]),
               'val_dataloader.dataset.classes_file': None}
    finding = only(truth_of(SEGMENTER, data, tmp_path, changes))
    assert finding.kind == 'class order' and "label 0 is 'disc' in training and 'ring' in" in finding.message


@pytest.mark.parametrize(('key', 'value', 'words'), [
    ('val_evaluator.ignore_index', 0, 'the evaluator ignores 0'),
    ('model.decode_head.ignore_index', 7, 'model.decode_head ignores 7')])
def test_another_ignore_label_is_named(data: Path, tmp_path: Path, key: str, value: int, words: str) -> None:
    finding = only(truth_of(SEGMENTER, data, tmp_path, {key: value}))
    assert finding.kind == 'ignore label' and words in finding.message and finding.field == key


def test_an_evaluation_without_labels_is_named(data: Path, tmp_path: Path) -> None:
    finding = only(truth_of(SEGMENTER, data, tmp_path, {TEST: label_pipeline(RESIZE)}))
    assert finding.kind == 'no labels' and 'in evaluation the pipeline loads no label map' in finding.message


def test_a_run_without_validation_is_left_out(data: Path, tmp_path: Path) -> None:
    runner: Runner = built(SEGMENTER, data, tmp_path)
    runner._val_loop = None
    assert check_truth(runner).skipped == 'the config has no validation'
