"""A whole root is looked at: what is broken is named, what is sound is silent."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import SHARED, needs_shared
from data_check_helpers import findings_of, kinds, looker, make_coco, make_label_maps, picture, save

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from backbones.data_check.check import check_coco, check_label_maps, check_root
from backbones.data_check.layout import CocoSplit, LabelMapSplit
from backbones.findings import exit_code

TRAIN, VAL = 'instances_train2017.json', 'instances_val2017.json'
# of each broken case: end of the file's name and the id in it that the error must name
PLACES = dict(
    coco_bbox_outside_partly=(TRAIN, 2), coco_category_misspelt=(VAL, 1), coco_dangling_image_id=(TRAIN, 3),
    coco_duplicate_annotation_id=(TRAIN, 2), coco_huge_coordinates=(TRAIN, 2),
    coco_image_file_missing=('000000000208.jpg', 208), coco_image_size_mismatch=('000000000165.jpg', 165),
    coco_nan_bbox=(TRAIN, 1), coco_nan_polygon=(TRAIN, 2), coco_negative_width=(TRAIN, 2),
    coco_polygon_four_numbers=(TRAIN, 2), coco_rle_too_short=(TRAIN, 2), coco_rle_wrong_size=(TRAIN, 2),
    coco_segmentation_partly_missing=(TRAIN, 2), coco_truncated_json=(TRAIN, 1), coco_zero_area_box=(TRAIN, 3),
    image_html_as_jpg=('000000000208.jpg', 208), seg_label_is_colour_picture=('0006R0_f03570.png', None),
    seg_label_missing=('0006R0_f03570.jpg', None), seg_size_mismatch=('0006R0_f03570.png', None),
    seg_value_out_of_range=('0006R0_f03570.png', None))
OTHER_PLACES = dict(coco_segmentation_partly_missing=[(TRAIN, 4)])  # that the error is about, too


def cases() -> list[tuple[str, str]]:
    index = SHARED / 'data' / 'broken' / 'INDEX.tsv'
    if not index.is_file():
        return []
    return [(row['case'], row['verdict']) for row in csv.DictReader(index.open(), delimiter='\t')]


@needs_shared
@pytest.mark.parametrize(('case', 'verdict'), cases())
def test_a_defect_is_an_error_at_its_place_an_oddity_a_note_and_a_sound_set_silent(case, verdict):
    found = findings_of(check_root(str(SHARED / 'data' / 'broken' / case), looker=looker()))
    serious = [finding for finding in found if finding.severity != 'note']
    if verdict == 'valid':
        assert found == []
    elif verdict == 'unusual':
        assert serious == []
        assert found
    else:
        end, name = PLACES[case]
        assert any(finding.severity == 'error' and str(finding.file).endswith(end) and finding.id == name
                   for finding in serious), serious
        allowed = [(end, name), *OTHER_PLACES.get(case, [])]
        assert [finding for finding in serious if not any(
            str(finding.file).endswith(other) and finding.id == number for other, number in allowed)] == []
        assert all(finding.remedy for finding in serious)


@needs_shared
@pytest.mark.parametrize('name', ['coco_mini', 'camvid', 'ade_one'])
def test_real_data_sets_have_neither_errors_nor_warnings(name):
    outcomes = check_root(str(SHARED / 'data' / name), sample=40, looker=looker())
    assert findings_of(outcomes, 'error', 'warning') == []


def test_a_folder_that_is_no_data_set_is_one_error(tmp_path):
    found = findings_of(check_root(str(tmp_path), looker=looker()))
    assert kinds(found) == ['error: layout']
    assert 'nothing' in found[0].message
    assert exit_code(found) == 2


def test_sound_small_data_sets_are_silent(tmp_path):
    assert findings_of(check_root(str(make_coco(tmp_path / 'coco')), looker=looker())) == []
    assert findings_of(check_root(str(make_label_maps(tmp_path / 'maps')), looker=looker())) == []


def test_pictures_of_a_root_with_boxes_and_label_maps_are_reported_once(tmp_path):
    root = make_coco(tmp_path)
    for split, other in (('train', 'training'), ('val', 'validation')):
        (root / 'images' / split).rename(root / 'images' / other)
    grey = save(root / 'images' / 'training' / '1.png', picture(1)[..., 0])
    for split, numbers in (('training', (1, 2)), ('validation', (101, 102))):
        for number in numbers:
            save(root / 'annotations' / split / f'{number}.png', picture(0)[..., 0] % 3)
    (root / 'classes.txt').write_text('a\nb\n')
    found = findings_of(check_root(str(root), looker=looker()))
    assert kinds(found) == ['note: grey picture']
    assert found[0].file == str(grey)


def test_a_sample_says_so_and_looks_at_no_more(tmp_path):
    root = make_coco(tmp_path, count=20)
    outcomes = {outcome.name: outcome for outcome in check_root(str(root), sample=3, looker=looker())}
    assert outcomes['pictures train'].figures['looked_at'] == 3
    assert '3 of them, evenly chosen' in outcomes['pictures train'].summary


@pytest.mark.parametrize('sample', [0, -1, 2.5])
def test_a_sample_of_no_files_is_refused(tmp_path, sample):
    with pytest.raises(ValueError, match='whole number of 1 or more'):
        check_root(str(tmp_path), sample=sample)


def test_splits_of_a_config_are_checked_without_a_root(tmp_path):
    root = make_coco(tmp_path)
    (root / 'images' / 'val' / '102.png').unlink()
    splits = [CocoSplit(name, str(root / 'annotations' / f'instances_{name}.json'), str(root / 'images' / name))
              for name in ('train', 'val')]
    outcomes = check_coco([*splits, splits[1]], looker=looker())
    assert kinds(findings_of(outcomes)) == ['error: picture missing']
    assert 'data set block' not in [outcome.name for outcome in outcomes]


def test_a_reading_that_the_config_gives_is_held_against_the_maps(tmp_path):
    root = make_label_maps(tmp_path, values=(0, 1, 255))
    splits = [LabelMapSplit('training', str(root / 'images' / 'training'), str(root / 'annotations' / 'training'))]
    found = findings_of(check_label_maps(splits, classes=('sky', 'road'), reduce_zero_label=True, looker=looker()))
    assert 'error: reduce_zero_label' in kinds(found)
    assert findings_of(check_label_maps(splits, classes=('sky', 'road'), reduce_zero_label=False,
                                        looker=looker())) == []


def test_a_list_of_names_chooses_the_pairs_that_are_looked_at(tmp_path):
    root = make_label_maps(tmp_path, count=3)
    split = LabelMapSplit('training', str(root / 'images' / 'training'), str(root / 'annotations' / 'training'),
                          names=['0', '2', 'gone'])
    outcomes = check_label_maps([split, split], classes=('sky', 'road'), looker=looker())
    assert kinds(findings_of(outcomes)) == ['error: picture missing']
    assert [outcome.figures['pairs'] for outcome in outcomes if outcome.name == 'label maps training'] == [2]


def test_classes_that_are_given_are_held_against_the_file(tmp_path):
    root = make_label_maps(tmp_path)
    found = findings_of(check_root(str(root), classes=('sky', 'raod'), looker=looker()))
    assert kinds(found) == ['error: classes disagree']
    assert (found[0].id, found[0].value) == (2, 'road')


def test_a_folder_without_rights_or_with_strange_names_becomes_findings(tmp_path):
    root = make_label_maps(tmp_path / 'a\nb ü')
    (root / 'annotations' / 'training' / '0.png').rename(root / 'annotations' / 'training' / 'x\ny.png')
    found = findings_of(check_root(str(root), looker=looker()))
    assert sorted(kinds(found)) == ['error: label map missing', 'error: picture missing']
    assert Path(found[0].file).is_file()
