"""Every fault of an annotation file is found at its place, in one pass; what is sound is silent."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from coco_toys import (
    CLASSES,
    INF,
    NAN,
    H,
    W,
    annotation,
    at,
    content,
    copy_of,
    first,
    random_content,
    runs,
    square,
    write,
)
from conftest import SHARED, needs_shared

from backbones.data import coco_checks, errors
from backbones.data_check import object_rules
from backbones.data_check.annotations import check_annotations
from backbones.data_check.mask_facts import polygon_facts, run_facts

BROKEN = SHARED / 'data' / 'broken'


def findings_of(tmp_path: Path, file: dict) -> list:
    return check_annotations(write(tmp_path / 'a.json', file))[0]


def test_a_sound_file_gives_no_finding_and_its_columns(tmp_path):
    findings, read = check_annotations(write(tmp_path / 'a.json', content()))
    assert findings == []
    assert (read.categories, read.category_ids) == (CLASSES, (1, 2, 3))
    assert (read.file_names, read.image_ids) == (['1.png', '2.png', '3.png'], [1, 2, 3])
    assert (read.widths.tolist(), read.heights.tolist()) == ([W] * 3, [H] * 3)
    assert read.ids == [1, 2, 3, 4, 5]
    assert read.image.tolist() == [0, 0, 1, 1, 1]
    assert read.category.tolist() == [0, 1, 2, 0, 1]
    assert read.boxes[1].tolist() == [20, 5, 12, 30]
    assert read.areas.tolist() == [100, 360, 200, 450, 48]
    assert read.crowd.tolist() == [False, False, False, True, False]
    assert read.has_mask.all()


@pytest.mark.parametrize('seed', range(8))
def test_a_random_sound_file_gives_no_finding(tmp_path, seed):
    assert findings_of(tmp_path, random_content(seed)) == []


# change of the sound file: severity, kind, id and field of the finding it gives, one only
CASES = {
    'box with NaN': (first(bbox=[1, NAN, 3, 4]), 'error', 'box value', 1, 'bbox'),
    'box with infinity': (first(bbox=[1, 2, INF, 4]), 'error', 'box value', 1, 'bbox'),
    'box of three': (first(bbox=[1, 2, 3]), 'error', 'box value', 1, 'bbox'),
    'box of words': (first(bbox=['1', '2', '3', '4']), 'error', 'box value', 1, 'bbox'),
    'box that is none': (first(bbox=None), 'error', 'box value', 1, 'bbox'),
    'box of a huge number': (first(bbox=[1, 2, 10**400, 4]), 'error', 'box value', 1, 'bbox'),
    'box missing': (first(bbox=...), 'error', 'key missing', 1, 'bbox'),
    'box of negative width': (first(bbox=[11, 2, -10, 10]), 'error', 'box negative', 1, 'bbox'),
    'box of width 0': (first(bbox=[1, 2, 0, 10], area=0), 'error', 'box empty', 1, 'bbox'),
    'box of height 0': (first(bbox=[1, 2, 10, 0]), 'error', 'box empty', 1, 'bbox'),
    'box beyond the right edge': (first(bbox=[45, 2, 10, 10]), 'error', 'box outside', 1, 'bbox'),
    'box beyond the top': (first(bbox=[1, -2, 10, 10]), 'error', 'box outside', 1, 'bbox'),
    'box elsewhere': (first(bbox=[80, 2, 10, 10]), 'error', 'box outside', 1, 'bbox'),
    'box far outside': (first(bbox=[1, 2, 1e8, 10]), 'error', 'box outside', 1, 'bbox'),
    'box of half a pixel': (first(bbox=[1, 2, 0.5, 10], area=5, segmentation=[square(1, 2, 0.5, 10)]),
                            'note', 'box below a pixel', 1, 'bbox'),
    'area NaN': (first(area=NAN), 'error', 'box value', 1, 'area'),
    'area of words': (first(area='large'), 'error', 'box value', 1, 'area'),
    'area 0': (first(area=0), 'error', 'area', 1, 'area'),
    'area below the mask': (first(area=20), 'warning', 'area', 1, 'area'),
    'area above the box': (first(area=500), 'warning', 'area', 1, 'area'),
    'area missing': (first(area=...), 'note', 'area missing', 1, 'area'),
    'crowd missing': (first(iscrowd=...), 'note', 'iscrowd missing', 1, 'iscrowd'),
    'crowd of words': (first(iscrowd='no'), 'error', 'iscrowd', 1, 'iscrowd'),
    'crowd with polygons': (first(iscrowd=1), 'warning', 'crowd polygons', 1, 'iscrowd'),
    'ignored': (first(ignore=1), 'note', 'ignore', 1, 'ignore'),
    'ignored twice': (first(ignore=2), 'error', 'ignore', 1, 'ignore'),
    'mask missing': (first(segmentation=...), 'error', 'mask missing', 1, 'segmentation'),
    'mask empty': (first(segmentation=[]), 'error', 'mask missing', 1, 'segmentation'),
    'mask null': (first(segmentation=None), 'error', 'mask missing', 1, 'segmentation'),
    'mask a file': (first(segmentation='mask.png'), 'error', 'mask form', 1, 'segmentation'),
    'mask of runs without size': (first(segmentation=dict(counts=[1])), 'error', 'mask form', 1, 'segmentation'),
    'mask elsewhere': (first(segmentation=[square(30, 20, 10, 10)]), 'warning', 'box and mask', 1, 'bbox'),
    'runs elsewhere': (first(segmentation=runs(30, 20, 10, 10)), 'warning', 'box and mask', 1, 'bbox'),
    'polygon with NaN': (first(segmentation=[[1, 2, NAN, 2, 11, 12]]), 'error', 'polygon value', 1,
                         'segmentation[0][2]'),
    'polygon with null': (first(segmentation=[[1, 2, 3, None, 11, 12]]), 'error', 'polygon value', 1,
                          'segmentation[0][3]'),
    'polygon not in a list': (first(segmentation=square(1, 2, 10, 10)), 'error', 'polygon value', 1,
                              'segmentation[0]'),
    'polygon far outside': (first(segmentation=[[1, 2, 1e8, 2, 11, 12]]), 'error', 'polygon outside', 1,
                            'segmentation[0][2]'),
    'polygon of two points': (first(segmentation=[[1, 2, 11, 12]]), 'error', 'polygon short', 1, 'segmentation[0]'),
    'polygon of half a point': (first(segmentation=[[1, 2, 11, 2, 11, 12, 1]]), 'error', 'polygon short', 1,
                                'segmentation[0]'),
    'short polygon beside a good one': (first(segmentation=[square(1, 2, 10, 10), [1, 2]]), 'error', 'polygon short',
                                        1, 'segmentation[1]'),
    'polygon on a line': (first(segmentation=[[1, 2, 5, 2, 11, 2]]), 'error', 'polygon flat', 1, 'segmentation[0]'),
    'flat polygon beside a good one': (first(segmentation=[[1, 2, 5, 2, 11, 2], square(1, 2, 10, 10)]), 'note',
                                       'polygon flat', 1, 'segmentation[0]'),
    'runs too short': (first(segmentation=dict(size=[H, W], counts=[100, 100])), 'error', 'run lengths', 1,
                       'segmentation.counts'),
    'string too short': (first(segmentation=dict(runs(1, 2, 10, 10), counts='1')), 'error', 'run lengths', 1,
                         'segmentation.counts'),
    'string of other signs': (first(segmentation=dict(size=[H, W], counts='!!!')), 'error', 'run lengths', 1,
                              'segmentation.counts'),
    'negative run': (first(segmentation=dict(size=[H, W], counts=[-1, H * W + 1])), 'error', 'run lengths', 1,
                     'segmentation.counts'),
    'runs of another size': (first(segmentation=dict(size=[W, H], counts=[H * W])), 'error', 'mask size', 1,
                             'segmentation.size'),
    'runs of background only': (first(segmentation=dict(size=[H, W], counts=[H * W])), 'error', 'mask empty', 1,
                                'segmentation'),
    'unknown picture': (first(image_id=99), 'error', 'picture unknown', 1, 'image_id'),
    'unknown class': (first(category_id=99), 'error', 'category unknown', 1, 'category_id'),
    'picture id a list': (first(image_id=[1]), 'error', 'id', 1, 'image_id'),
    'picture id a word': (first(image_id='1'), 'error', 'id', 1, 'image_id'),
    'annotation id a fraction': (first(id=1.5), 'error', 'id', '1.5', 'id'),
    'annotation id 0': (first(id=0), 'note', 'annotation id 0', 0, 'id'),
    'annotation id twice': (copy_of('annotations', 1, image_id=2), 'error', 'id twice', 1, 'id'),
    'picture id twice': (copy_of('images', 1, file_name='x.png'), 'error', 'id twice', 1, 'id'),
    'class id twice': (copy_of('categories', 1, name='ring'), 'error', 'id twice', 1, 'id'),
    'class name twice': (copy_of('categories', 1, id=4), 'error', 'name twice', 4, 'name'),
    'class names alike': (copy_of('categories', 1, id=4, name='Disc '), 'warning', 'class name', 4, 'name'),
    'class without a name': (copy_of('categories', 1, id=4, name=' '), 'warning', 'class name', 4, 'name'),
    'class name a number': (copy_of('categories', 1, id=4, name=7), 'error', 'category', 4, 'name'),
    'class id 0': (copy_of('categories', 1, id=0, name='things'), 'note', 'class id 0', 0, 'id'),
    'class id gaps': (copy_of('categories', 1, id=9, name='ring'), 'note', 'class id gaps', None, 'id'),
    'class id negative': (copy_of('categories', 1, id=-1, name='ring'), 'warning', 'class id', -1, 'id'),
    'width of words': (at('images', 3, width='50'), 'error', 'picture size', 3, 'width'),
    'height of 400 digits': (at('images', 3, height=10**400), 'error', 'picture size', 3, 'height'),
    'box of 1e308': (first(bbox=[1e308, 1, 1, 1]), 'error', 'box outside', 1, 'bbox'),
    'height 0': (at('images', 3, height=0), 'error', 'picture size', 3, 'height'),
    'file name that is none': (at('images', 3, file_name=None), 'error', 'file name', 3, 'file_name'),
    'file name missing': (at('images', 3, file_name=...), 'error', 'key missing', 3, 'file_name'),
    'file name twice': (at('images', 3, file_name='1.png'), 'warning', 'file name twice', 3, 'file_name'),
    'NaN elsewhere': (at('images', 3, score=NAN), 'error', 'word NaN', 3, 'score'),
    'annotation that is a number': (lambda file: file['annotations'].append(7), 'error', 'entry', None,
                                    'annotations'),
    'no annotations': (lambda file: file.pop('annotations'), 'warning', 'no objects', None, 'annotations'),
    'annotations an object': (lambda file: file.update(annotations={}), 'error', 'not COCO', None, None),
}


@pytest.mark.parametrize('name', CASES)
def test_a_single_fault_gives_a_single_finding_at_its_place(tmp_path, name):
    change, *expected = CASES[name]
    file = content()
    change(file)
    findings = findings_of(tmp_path, file)
    assert [[one.severity, one.kind, one.id, one.field] for one in findings] == [expected], findings
    one = findings[0]
    assert one.file == str(tmp_path / 'a.json')
    assert one.remedy or one.severity == 'note'
    assert not one.message.endswith('.')
    assert str(tmp_path) not in one.message or one.id is None
    json.dumps(one.as_dict(), allow_nan=False)


SPOILERS = [
    dict(bbox=[1, NAN, 3, 4]), dict(bbox=[9, 2, -5, 4]), dict(bbox=[9, 2, 5, 0]), dict(bbox=[W - 2, 2, 5, 6]),
    dict(bbox=[1e9, 0, 1, 1]), dict(bbox=[]), dict(area=-1), dict(area=INF), dict(area=1e6), dict(iscrowd=2),
    dict(segmentation=[]), dict(segmentation=[[1, 2, 3, 4]]), dict(segmentation=[[1, 2, 3, 4, INF, 6]]),
    dict(segmentation=[[1, 2, 3, 3, 5, 4]]), dict(segmentation=dict(size=[H, W], counts=[7])),
    dict(segmentation=dict(size=[H, W], counts='no')), dict(segmentation=dict(size=[H], counts=[H])),
    dict(image_id=6), dict(category_id=4), dict(ignore='yes'),
]


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('changes', SPOILERS, ids=str)
def test_a_fault_in_a_random_file_names_its_id(tmp_path, changes, seed):
    file = random_content(seed)
    entry = random.Random(seed).choice(file['annotations'])
    entry.update(changes)
    findings = findings_of(tmp_path, file)
    assert {one.id for one in findings} == {entry['id']}
    assert {one.severity for one in findings} <= {'error', 'warning'}


def test_five_hundred_faults_give_five_hundred_findings(tmp_path):
    file = content()
    file['annotations'] += [annotation(100 + n, bbox=[1, 2, -n - 1, 4]) for n in range(500)]
    findings = findings_of(tmp_path, file)
    assert [(one.kind, one.id) for one in findings] == [('box negative', 100 + n) for n in range(500)]


def test_all_faults_of_one_annotation_are_found(tmp_path):
    file = content()
    first(bbox=[1, NAN, 3, 4], iscrowd=7, segmentation=[[1, NAN, 3, 4, 5, 6], square(1, 2, 3, 4), [INF] * 6])(file)
    assert [(one.id, one.field) for one in findings_of(tmp_path, file)] == [
        (1, 'bbox'), (1, 'iscrowd'), (1, 'segmentation[0][1]'), (1, 'segmentation[2][0]')]


def test_all_ids_that_are_there_twice_are_named_with_their_places(tmp_path):
    file = content()
    copy_of('annotations', 1)(file)
    copy_of('annotations', 4)(file)
    findings = findings_of(tmp_path, file)
    assert [(one.id, one.value) for one in findings] == [(1, 1), (4, 4)]
    assert findings[0].message == "'annotations' has the id 1 in 2 entries, number 0, 5, counted from 0"


def test_a_broken_entry_does_not_hide_what_is_wrong_with_the_others(tmp_path):
    file = content()
    at('images', 3, width=-1)(file)
    copy_of('categories', 1, id=4)(file)
    at('annotations', 5, bbox=[0, 0, 0, 8])(file)
    file['annotations'].insert(0, 'nothing')
    assert sorted((one.kind, one.id) for one in findings_of(tmp_path, file) if one.id) == [
        ('box empty', 5), ('name twice', 4), ('picture size', 3)]


def test_objects_of_a_picture_with_a_fault_are_not_called_dangling(tmp_path):
    file = content()
    at('images', 1, width=0)(file)
    findings, read = check_annotations(write(tmp_path / 'a.json', file))
    assert [(one.kind, one.id) for one in findings] == [('picture size', 1)]
    assert read.ids == [3, 4, 5] and read.image_ids == [2, 3]


def test_ids_that_fit_no_picture_at_all_are_one_finding(tmp_path):
    file = content()
    for image in file['images']:
        image['id'] = str(image['id'])
    findings = findings_of(tmp_path, file)
    assert [(one.kind, one.field) for one in findings] == [('picture unknown', 'image_id')]
    assert "'images' has the ids '1', '2', '3'" in findings[0].message


def test_objects_with_an_error_ignored_ones_and_tiny_ones_are_in_no_column(tmp_path):
    file = content()
    first(bbox=[1, 2, 0, 3])(file)
    at('annotations', 2, ignore=1)(file)
    at('annotations', 5, bbox=[0, 0, 0.5, 8], area=4)(file)
    assert check_annotations(write(tmp_path / 'a.json', file))[1].ids == [3, 4]


def test_a_file_without_any_mask_is_silent(tmp_path):
    file = content()
    for entry in file['annotations']:
        del entry['segmentation']
    findings, read = check_annotations(write(tmp_path / 'a.json', file))
    assert findings == [] and not read.has_mask.any()


def test_the_area_of_the_box_is_silent(tmp_path):
    file = content()
    at('annotations', 5, area=64)(file)
    assert findings_of(tmp_path, file) == []


def test_a_box_a_pixel_beyond_its_picture_is_silent(tmp_path):
    file = content()
    first(bbox=[40, 2, 11, 10], segmentation=[square(40, 2, 11, 10)], area=110)(file)
    assert findings_of(tmp_path, file) == []


@pytest.mark.parametrize('ids', [(1, 2, 13), (1, 44, 90)])
def test_gaps_that_coco_has_itself_are_silent(tmp_path, ids):
    file = content()
    names = {1: 'person', 2: 'bicycle', 13: 'stop sign', 44: 'bottle', 90: 'toothbrush'}
    file['categories'] = [dict(id=number, name=names[number]) for number in ids]
    for entry in file['annotations']:
        entry['category_id'] = ids[entry['category_id'] - 1]
    if ids == (1, 44, 90):
        pytest.importorskip('mmdet', reason='mmdet is not installed, which has the names of COCO')
    assert findings_of(tmp_path, file) == []


def test_the_two_slips_of_coco_itself_are_notes(tmp_path):
    file = content()
    file['images'].append(dict(id=200365, file_name='200365.jpg', width=640, height=480))
    x, y = 296.65, 388.33
    file['annotations'].append(annotation(
        918, 200365, bbox=[x, y, 1.03, 0.0], area=0.0, segmentation=[[x, y, x, y, x + 1.03, y, x + 1.03, y]]))
    findings, read = check_annotations(write(tmp_path / 'a.json', file))
    assert [(one.severity, one.id) for one in findings] == [('note', 918)]
    assert 918 not in read.ids
    file['annotations'][-1]['image_id'] = 1
    assert {one.severity for one in findings_of(tmp_path, file) if one.id == 918} == {'error'}
    assert len(object_rules.COCO_ERRATA) == 2


BAD_FILES = [
    b'', b' ', b'{"images": [', b'<html>', b'\xff\xfe\x00\xd8', b'[' * 100_000, b'{"images": ' + b'9' * 5000 + b'}',
    b'7', b'null', b'[]', b'"text"', b'{}', b'{"images": {}, "categories": []}', b'NaN', b'\x00' * 10,
    json.dumps(content()).encode()[:-30],
]


@pytest.mark.parametrize('text', BAD_FILES, ids=range(len(BAD_FILES)))
def test_what_is_no_annotation_file_is_one_error(tmp_path, text):
    (tmp_path / 'a.json').write_bytes(text)
    findings, read = check_annotations(tmp_path / 'a.json')
    assert [one.severity for one in findings] == ['error'] and read is None
    assert findings[0].file == str(tmp_path / 'a.json') and findings[0].remedy


@pytest.mark.parametrize('name', ['absent.json', '.', 'a\0b', 'x' * 300])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path, name):
    findings, read = check_annotations(os.path.join(tmp_path, name))
    assert [(one.severity, one.kind) for one in findings] == [('error', 'file unreadable')] and read is None


def test_a_cut_file_names_the_line(tmp_path):
    text = json.dumps(content(), indent=1)
    (tmp_path / 'a.json').write_text(text[:len(text) // 2])
    findings, _ = check_annotations(tmp_path / 'a.json')
    assert findings[0].kind == 'not JSON' and findings[0].id == len(text[:len(text) // 2].splitlines())


def test_a_key_that_is_there_twice_does_not_end_the_search(tmp_path):
    file = content()
    first(bbox=[1, 2, 0, 3])(file)
    (tmp_path / 'a.json').write_text(json.dumps(file).replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 1', 1))
    findings, _ = check_annotations(tmp_path / 'a.json')
    assert [one.kind for one in findings][:2] == ['key twice', 'box empty']


@pytest.mark.parametrize('file', [
    dict(images=[], categories=[], annotations=[]),
    dict(images=[None], categories=[None], annotations=[None]),
    dict(images=[{}], categories=[{}], annotations=[{}]),
    dict(images=[[]], categories=[7], annotations=['x'], info=NAN),
    dict(images=[dict(id=1, file_name='\u00e4\n.png', height=10**9, width=10**9)],
         categories=[dict(id=1, name='\u732b')],
         annotations=[annotation(1, segmentation=dict(size=[10**9] * 2, counts=[10**18 - 5, 5]))]),
    dict(images=[dict(id=1, file_name='a', height=10**30, width=1)], categories=[dict(id=10**30, name='a')],
         annotations=[annotation(1, segmentation=[[True] * 6], bbox=[True] * 4)]),
    dict(images=[dict(id={}, file_name={}, height={}, width={})], categories=[dict(id={}, name={})],
         annotations=[dict(id={}, image_id={}, category_id={}, bbox={}, segmentation=[{}])]),
])
def test_strange_content_is_told_and_never_raises(tmp_path, file):
    findings, _ = check_annotations(write(tmp_path / 'a.json', file))
    assert any(one.severity == 'error' for one in findings) or file['annotations'][0]['id'] == 1
    for one in findings:
        json.dumps(one.as_dict(), allow_nan=False)


def test_strict_reading_refuses_nothing_that_passes_here(tmp_path):
    for name, (change, severity, *_) in CASES.items():
        file = content()
        change(file)
        try:
            coco_checks.check_content(file, 'a.json')
        except errors.DataError:
            assert severity == 'error', name


def test_the_facts_of_masks_agree_between_polygons_and_both_forms_of_runs():
    polygons = polygon_facts([[square(5, 6, 20, 10)], [[1, 2]], [square(1, 1, 2, 2), square(30, 20, 9, 9), []]])
    assert polygons.extents[0].tolist() == [5, 6, 25, 16] and np.isnan(polygons.extents[1]).all()
    assert polygons.extents[2].tolist() == [1, 1, 39, 29]
    assert polygons.areas.tolist() == [200, 0, 81] and polygons.short == [(1, 0), (2, 2)]
    both = run_facts([runs(5, 6, 20, 10), runs(5, 6, 20, 10, False), runs(49, 39, 1, 1), runs(0, 0, W, H, False)])
    assert both.extents.tolist() == [[5, 6, 25, 16], [5, 6, 25, 16], [49, 39, 50, 40], [0, 0, W, H]]
    assert both.areas.tolist() == [200, 200, 1, H * W]


def test_a_data_error_survives_the_way_between_processes():
    import pickle

    error = errors.DataError('what', 'do', kind='k', id=3, field='f', value=[1], places=(1, 2))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == 'what; do' and vars(again) == vars(error)


@needs_shared
@pytest.mark.parametrize('case', [path.name for path in sorted(BROKEN.glob('coco_*'))])
def test_a_shared_case_has_its_outcome(case):
    where = dict(
        coco_bbox_outside_partly=[(2, 'bbox')], coco_dangling_image_id=[(3, 'image_id')],
        coco_duplicate_annotation_id=[(2, 'id')], coco_huge_coordinates=[(2, 'segmentation[0][4]')],
        coco_nan_bbox=[(1, 'bbox')], coco_nan_polygon=[(2, 'segmentation[0][5]')], coco_negative_width=[(2, 'bbox')],
        coco_polygon_four_numbers=[(2, 'segmentation[0]')], coco_rle_too_short=[(2, 'segmentation.counts')],
        coco_rle_wrong_size=[(2, 'segmentation.size')],
        coco_segmentation_partly_missing=[(2, 'segmentation'), (4, 'segmentation')],
        coco_truncated_json=[(1, None)], coco_zero_area_box=[(3, 'bbox')])
    for split in ('train', 'val'):
        findings, _ = check_annotations(BROKEN / case / 'annotations' / f'instances_{split}2017.json')
        assert [(one.id, one.field) for one in findings] == (where.get(case, []) if split == 'train' else [])
        assert {one.severity for one in findings} <= {'error'}
