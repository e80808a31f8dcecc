"""Folders in foreign formats become COCO's: every box and mask where it was, one sentence for what cannot."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_shared
from data_prepare.conversions import converted, refused, said
from data_prepare.toy_sets import BOX, coco_folder, picture, shape, voc_object, write_labelme, write_voc, write_yolo
from PIL import Image
from pycocotools import mask as coco_mask

from backbones.data.coco_files import load_coco
from backbones.data_prepare.custom import convert

CIRCLE = [(20 + 5 * math.cos(turn / 12 * math.pi), 15 + 5 * math.sin(turn / 12 * math.pi)) for turn in range(24)]


# --- YOLO -----------------------------------------------------------------------------------------------------


def test_yolo_boxes_are_in_pixels_and_classes_count_from_one(folder: Path) -> None:
    found = converted(write_yolo(folder, {'a': BOX, 'b': '1 0.1 0.1 0.2 0.2'}))
    box, other = found['objects']['images/a.jpg'][0], found['objects']['images/b.jpg'][0]
    assert box['bbox'] == pytest.approx([15, 12, 10, 6]) and box['category_id'] == 1 and other['category_id'] == 2
    assert found['names'] == ['cat', 'dog']


def test_yolo_polygons_keep_their_corners(folder: Path) -> None:
    line = '1 ' + ' '.join(f'{x / 40:.8f} {y / 30:.8f}' for x, y in CIRCLE)
    entry = converted(write_yolo(folder, {'a': line, 'b': ''}))['objects']['images/a.jpg'][0]
    assert entry['segmentation'][0] == pytest.approx([value for point in CIRCLE for value in point], abs=1e-3)
    assert entry['bbox'] == pytest.approx([15, 10, 10, 10], abs=1e-3)


def test_yolo_is_relative_to_the_picture_as_displayed(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    picture(folder / 'images/a.jpg', turn=6)
    found = converted(folder)
    assert found['sizes'] == {'images/a.jpg': (30, 40), 'images/b.jpg': (40, 30)}
    assert found['objects']['images/a.jpg'][0]['bbox'] == pytest.approx([11.25, 16, 7.5, 8])


def test_yolo_takes_names_by_index_and_from_a_list_of_classes(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX}, names='{1: dog, 0: cat}')
    assert converted(folder)['names'] == ['cat', 'dog']
    (folder / 'data.yaml').unlink()
    (folder / 'classes.txt').write_text('sheep\ndog\n')
    assert converted(folder)['names'] == ['sheep', 'dog']


def test_yolo_files_beside_the_pictures_are_found(folder: Path) -> None:
    for name in 'ab':
        picture(folder / f'{name}.png')
        (folder / f'{name}.txt').write_text(BOX)
    (folder / 'classes.txt').write_text('cat\n')
    assert all(len(entries) == 1 for entries in converted(folder)['objects'].values())


def test_the_split_of_data_yaml_is_kept(folder: Path) -> None:
    for part in ('learn', 'score'):
        picture(folder / part / 'images' / f'{part}.jpg')
        (folder / part / 'labels').mkdir()
        (folder / part / 'labels' / f'{part}.txt').write_text(BOX)
    (folder / 'data.yaml').write_text('train: ../learn/images\nval: score/images\nnc: 1\nnames: [cat]\n')
    objects = converted(folder)['objects']
    assert objects['learn/images/learn.jpg'][0]['part'] == 'train'
    assert objects['score/images/score.jpg'][0]['part'] == 'val'


@pytest.mark.parametrize(
    ('line', 'says'),
    [
        ('2 0.5 0.5 0.1 0.1', r"line 1 of .*a\.txt begins with the class '2'; indexes go from 0 to 1 \(dog\)"),
        ('-1 0.5 0.5 0.1 0.1', "begins with the class '-1'"),
        ('cat 0.5 0.5 0.1 0.1', "begins with the class 'cat'"),
        ('0 nan 0.5 0.1 0.1', "has the value 'nan', which is no coordinate"),
        ('0 0.5 0.5 0.1', r'has 4 values; a box has 5'),
        ('0 0.5 0.5 0.1 0.1 0.9', r'has 6 values.*those of a prediction with its score'),
        ('0 20 15 10 6', 'has the value 20; all are parts of the picture, from 0 to 1: divide pixels'),
        ('0 0.5 0.5 -0.005 0.1', 'has the width -0.005'),
    ],
)
def test_a_yolo_line_that_cannot_be_read_is_named(line: str, says: str, folder: Path) -> None:
    refused(write_yolo(folder, {'a': line, 'b': BOX}), says)


def test_a_yolo_text_without_its_picture_is_named(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    (folder / 'images/b.jpg').unlink()
    refused(folder, r'labels/b\.txt has no picture b\.\*')


@pytest.mark.parametrize(
    ('yaml', 'says'),
    [
        ('names: [cat, cat]', "has the class 'cat' twice"),
        ('names: [no, dog]', r'has the class name False; class names are words \(in quotes'),
        ('names: {0: cat, 2: dog}', 'give one for each index from 0 on'),
        ('nc: 3\nnames: [cat, dog]', 'has nc: 3 and 2 names'),
        ('names: !!python/object/apply:os.system [echo]', 'is not readable as YAML'),
        ('names: [', 'is not readable as YAML'),
        ('names: 5', 'does not name the classes'),
    ],
)
def test_settings_that_cannot_be_read_are_named(yaml: str, says: str, folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    (folder / 'data.yaml').write_text(yaml)
    refused(folder, rf'data\.yaml.*{says}|{says}', form='yolo')


# --- VOC ------------------------------------------------------------------------------------------------------


def test_voc_boxes_count_from_one_and_include_the_last_pixel(folder: Path) -> None:
    write_voc(folder, 'a', voc_object('cat', 1, 1, 40, 30))
    write_voc(folder, 'b')
    found = converted(folder)
    assert found['objects']['JPEGImages/a.jpg'][0]['bbox'] == [0, 0, 40, 30]
    assert found['objects']['JPEGImages/b.jpg'] == []


def test_voc_files_that_count_from_zero_are_read_so_and_that_is_said(folder: Path) -> None:
    write_voc(folder, 'a', voc_object('cat', 0, 4, 10, 14))
    write_voc(folder, 'b', voc_object('cat', 5, 5, 10, 14))
    assert converted(folder)['objects']['JPEGImages/b.jpg'][0]['bbox'] == [5, 5, 5, 9]
    assert 'count pixels from 0' in said(folder)


def test_a_difficult_object_becomes_a_crowd(folder: Path) -> None:
    write_voc(folder, 'a', voc_object('cat', 2, 2, 9, 9, '<difficult>1</difficult>'))
    write_voc(folder, 'b', voc_object('cat', 2, 2, 9, 9, '<difficult>0</difficult>'))
    objects = converted(folder)['objects']
    assert [objects[f'JPEGImages/{name}.jpg'][0]['iscrowd'] for name in 'ab'] == [1, 0]


def test_voc_masks_are_those_of_segmentation_object_to_the_pixel(folder: Path) -> None:
    write_voc(folder, 'a', voc_object('cat', 1, 1, 9, 9) + voc_object('dog', 11, 11, 20, 20))
    write_voc(folder, 'b')
    values = np.zeros((30, 40), np.uint8)
    values[10:20, 10:20], values[12:14, 12:14], values[0:9, 0:9], values[20] = 2, 0, 1, 255
    (folder / 'SegmentationObject').mkdir()
    Image.fromarray(values).save(folder / 'SegmentationObject/a.png')
    entries = converted(folder)['objects']['JPEGImages/a.jpg']
    for entry, value in zip(entries, (1, 2), strict=True):
        mask = entry['segmentation']
        runs = mask if isinstance(mask, dict) else coco_mask.merge(coco_mask.frPyObjects(mask, 30, 40))
        assert np.array_equal(coco_mask.decode(runs), values == value)
        assert entry['area'] == pytest.approx((values == value).sum(), abs=1)  # of the polygon


def test_voc_polygons_are_masks(folder: Path) -> None:
    polygon = '<polygon><x1>3</x1><y1>3</y1><x2>11</x2><y2>3</y2><x3>11</x3><y3>9</y3></polygon>'
    write_voc(folder, 'a', voc_object('cat', 3, 3, 11, 9, polygon))
    write_voc(folder, 'b')
    assert converted(folder)['objects']['JPEGImages/a.jpg'][0]['segmentation'] == [[2, 2, 10, 2, 10, 8]]


def test_the_image_sets_of_voc_are_kept(folder: Path) -> None:
    for name in 'abc':
        write_voc(folder, name, voc_object('cat', 2, 2, 9, 9))
    sets = folder / 'ImageSets/Main'
    sets.mkdir(parents=True)
    (sets / 'train.txt').write_text('a\n')
    (sets / 'val.txt').write_text('c\n')
    objects = converted(folder)['objects']
    assert {name: entries[0]['part'] for name, entries in objects.items()} == {
        'JPEGImages/a.jpg': 'train', 'JPEGImages/c.jpg': 'val'}
    assert '1 x pictures are in neither train nor val' in said(folder)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_xml_that_defines_entities_is_not_parsed(encoding: str, folder: Path) -> None:
    file = write_voc(folder, 'a')
    entities = ''.join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    text = f'<!DOCTYPE annotation [<!ENTITY e0 "ha">{entities}]><annotation><filename>&e9;</filename></annotation>'
    file.write_text(text, encoding=encoding)
    write_voc(folder, 'b')
    refused(folder, r'a\.xml has a DOCTYPE, and may define entities', form='voc')


@pytest.mark.parametrize(
    ('objects', 'says'),
    [
        (voc_object('cat', 9, 2, 5, 9), r'object 1 in .*a\.xml \(cat\) has a box .*min and max are swapped'),
        (voc_object('', 1, 2, 5, 9), 'has no name of its class'),
        ('<object><name>cat</name></object>', 'has no bndbox'),
        (voc_object('cat', 'x', 2, 5, 9), "which is no coordinate"),
        ('<object>', r'a\.xml is not readable as XML'),
    ],
)
def test_a_voc_file_that_cannot_be_read_is_named(objects: str, says: str, folder: Path) -> None:
    write_voc(folder, 'a', objects)
    write_voc(folder, 'b', voc_object('cat', 2, 2, 9, 9))
    refused(folder, says)


def test_a_voc_file_of_another_size_or_without_picture_is_named(folder: Path) -> None:
    write_voc(folder, 'a', size=(80, 60))
    write_voc(folder, 'b', voc_object('cat', 2, 2, 9, 9))
    refused(folder, r'a\.xml is about a picture of 80x60 \(width x height\), and .*a\.jpg has 40x30')
    (folder / 'JPEGImages/a.jpg').unlink()
    refused(folder, r'a\.xml is about the picture a\.jpg, which is not below')


def test_a_class_that_is_not_wanted_is_named(folder: Path) -> None:
    write_voc(folder, 'a', voc_object('cat', 2, 2, 9, 9))
    write_voc(folder, 'b', voc_object('dgo', 2, 2, 9, 9))
    refused(folder, r"object 1 in .*b\.xml has the class 'dgo', which is not one of \['cat', 'dog'\]",
            classes=['cat', 'dog'])


# --- LabelMe --------------------------------------------------------------------------------------------------


def test_labelme_shapes_become_polygons(folder: Path) -> None:
    shapes = [shape('rectangle', [[10, 12], [3, 4]]), shape('circle', [[20, 15], [25, 15]], 'dog'),
              shape('polygon', [[1, 1], [5, 1], [5, 5]]),
              shape('oriented_rectangle', [[8, 1], [12, 4], [9, 8], [5, 5]])]
    write_labelme(folder, 'a', shapes)
    write_labelme(folder, 'b', [])
    box, disc, polygon, turned = converted(folder)['objects']['a.jpg']
    assert box['bbox'] == [3, 4, 7, 8] and box['area'] == 56
    assert disc['bbox'] == pytest.approx([15, 10, 10, 10]) and disc['area'] == pytest.approx(25 * math.pi, rel=2e-3)
    assert disc['label'] == 'dog' and polygon['segmentation'] == [[1, 1, 5, 1, 5, 5]]
    assert turned['bbox'] == [5, 1, 7, 7]


def test_shapes_of_one_label_and_group_are_one_object(folder: Path) -> None:
    parts = [[[1, 1], [5, 1], [5, 5]], [[10, 1], [15, 1], [15, 5]]]
    write_labelme(folder, 'a', [shape('polygon', part, group=7) for part in parts]
                  + [shape('polygon', parts[0], 'dog', 7), shape('polygon', parts[0])])
    write_labelme(folder, 'b', [])
    entries = converted(folder)['objects']['a.jpg']
    assert [len(entry['segmentation']) for entry in entries] == [2, 1, 1]
    assert entries[0]['bbox'] == [1, 1, 14, 4]


def test_a_labelme_mask_is_kept_to_the_pixel(folder: Path) -> None:
    piece = np.zeros((5, 6), np.uint8)
    piece[1:4, 0:5], piece[2, 2] = 1, 0
    content = io.BytesIO()
    Image.fromarray(piece).save(content, 'PNG')
    points = [[30.0, 20.0], [35.0, 24.0]]
    write_labelme(folder, 'a', [shape('mask', points, mask=base64.b64encode(content.getvalue()).decode())])
    write_labelme(folder, 'b', [])
    entry = converted(folder)['objects']['a.jpg'][0]
    expected = np.zeros((30, 40), np.uint8)
    expected[20:25, 30:36] = piece
    assert np.array_equal(coco_mask.decode(entry['segmentation']), expected)
    assert entry['bbox'] == [30, 21, 5, 3] and entry['area'] == 14


def test_shapes_without_area_are_left_out_and_counted(folder: Path) -> None:
    write_labelme(folder, 'a', [shape('point', [[1, 1]]), shape('line', [[1, 1], [5, 5]]),
                                shape('rectangle', [[1, 1], [5, 5]])])
    write_labelme(folder, 'b', [])
    text = said(folder)
    assert '1 x shapes of the type point have no area and are left out (first: shape 1 in ' in text
    assert 'type line' in text and 'train: 1 pictures, ' in text


def test_a_picture_that_windows_named_is_found(folder: Path) -> None:
    write_labelme(folder, 'a', [shape('rectangle', [[1, 1], [5, 5]])], imagePath='..\\photos\\a.jpg')
    write_labelme(folder, 'b', [])
    assert len(converted(folder)['objects']['a.jpg']) == 1


def test_a_path_that_leads_out_of_the_folder_is_not_followed(folder: Path) -> None:
    picture(folder.parent / 'elsewhere' / 'secret.jpg')
    write_labelme(folder, 'a', [], imagePath='../elsewhere/secret.jpg')
    (folder / 'a.jpg').unlink()
    write_labelme(folder, 'b', [shape('rectangle', [[1, 1], [5, 5]])])
    with pytest.raises(ValueError, match=r'a\.json is about the picture a\.\*?.*|secret\.jpg, which is not below'):
        convert(folder, folder.parent / 'out', progress=False)


@pytest.mark.parametrize(
    ('wrong', 'says'),
    [
        (shape('star', [[1, 1]]), "has the shape_type 'star'; known are rectangle"),
        (shape('polygon', [[1, 1], [2, 2]]), 'is a polygon of 2 points; it needs 3'),
        (shape('polygon', [[1, 1], [2, 2], [None, 3]]), 'has the point None, which is no coordinate'),
        (shape('polygon', [[1, 1], [2, 2], [float('nan'), 3]]), 'has the point nan, which is no coordinate'),
        (shape('polygon', 'here'), 'has points that are no pairs'),
        (shape('rectangle', [[1, 1], [5, 5]], label=None), 'has no label'),
        (shape('mask', [[1, 1], [5, 5]], mask='%%%'), 'has a mask that is no PNG in base64'),
        (shape('mask', [[1, 1], [5, 5]]), 'has a mask that is no PNG in base64'),
        (dict(shape('rectangle', [[1, 1], [5, 5]]), group_id=[1]), r'has the group_id \[1\]'),
        (5, 'has no label'),
    ],
)
def test_a_shape_that_cannot_be_read_is_named(wrong: object, says: str, folder: Path) -> None:
    write_labelme(folder, 'a', [shape('rectangle', [[1, 1], [5, 5]]), wrong])
    write_labelme(folder, 'b', [])
    refused(folder, rf'shape 2 in .*a\.json {says}')


# --- COCO -----------------------------------------------------------------------------------------------------


def test_coco_files_are_renumbered_and_keep_their_split_and_masks(folder: Path) -> None:
    found = converted(coco_folder(folder))
    entry = found['objects']['train/a.jpg'][0]
    assert found['names'] == ['cat', 'dog'] and entry['category_id'] == 1 and entry['part'] == 'train'
    assert entry['segmentation'] == [[1, 1, 9, 1, 9, 7]] and found['objects']['valid/b.jpg'][0]['part'] == 'val'


def test_run_lengths_of_coco_are_kept(folder: Path) -> None:
    runs = dict(size=[30, 40], counts=[30, 20, 1150])
    entry = converted(coco_folder(folder, segmentation=runs, iscrowd=1))['objects']['train/a.jpg'][0]
    assert entry['segmentation'] == runs and entry['iscrowd'] == 1 and entry['area'] == 20


def test_a_coco_file_that_training_would_refuse_is_refused(folder: Path) -> None:
    refused(coco_folder(folder, category_id=6), r'annotation 9 .*has category_id 6, which is not in')


@needs_shared
def test_the_sample_pictures_of_coco_convert_to_what_they_were(shared: Path, tmp_path: Path) -> None:
    source = shared / 'data' / 'broken' / 'coco_control'
    files = sorted(source.rglob('*.json'))
    assert files
    before = [load_coco(str(file)) for file in files if 'annotations' in json.loads(file.read_text())]
    lines = convert(source, tmp_path / 'out', form='coco', progress=False)
    after = [load_coco(str(file)) for file in sorted((tmp_path / 'out/annotations').iterdir())]
    count = sum(len(content['annotations']) for content in before)
    assert sum(len(content['annotations']) for content in after) == count, lines
    masks = [sorted(str(entry['segmentation']) for content in contents for entry in content['annotations'])
             for contents in (before, after)]
    assert masks[0] == masks[1]
