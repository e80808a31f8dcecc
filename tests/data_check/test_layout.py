"""What lies under a folder is recognised, and a wrong folder is answered with what is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from data_check_helpers import labels, make_coco, make_label_maps, picture, save

pytest.importorskip('mmcv', reason='mmcv is not installed')

from backbones.data_check.layout import picture_folder, recognise


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'{}' if name.endswith('.json') else b'x')
    return root


def test_coco_is_recognised_training_first(tmp_path):
    layout = recognise(str(make_coco(tmp_path)))
    assert [split.name for split in layout.coco] == ['train', 'val']
    assert layout.label_maps == []


def test_label_maps_are_recognised_without_a_list_of_classes(tmp_path):
    layout = recognise(str(make_label_maps(tmp_path, classes=None)))
    assert [split.name for split in layout.label_maps] == ['training', 'validation']
    assert layout.coco == []


def test_both_kinds_in_one_root_are_found(tmp_path):
    layout = recognise(str(make_label_maps(make_coco(tmp_path))))
    assert len(layout.coco) == len(layout.label_maps) == 2


def test_other_annotations_of_coco_and_its_panoptic_maps_are_left_aside(tmp_path):
    root = touch(tmp_path, 'annotations/instances_train2017.json', 'annotations/captions_train2017.json',
                 'annotations/person_keypoints_val2017.json', 'train2017/1.jpg', 'images/train/1.jpg')
    save(root / 'annotations' / 'panoptic_train2017' / '1.png', labels((0, 1)))
    layout = recognise(str(root))
    assert [split.name for split in layout.coco] == ['train2017']
    assert layout.label_maps == []


@pytest.mark.parametrize(('files', 'split', 'folder'), [
    (('annotations/instances_train2017.json', 'train2017/a.jpg'), 'train2017', 'train2017'),
    (('annotations/instances_train2017.json', 'images/train2017/a.jpg'), 'train2017', 'images/train2017'),
    (('annotations/instances_val.json', 'images/validation/a.jpg', 'val/b.jpg'), 'val', 'images/validation'),
    (('annotations/instances_all.json', 'images/a.jpg'), 'all', 'images'),
    (('annotations/train.json', 'a.jpg'), 'train', ''),
    (('train.json', 'val.json', 'train/a.jpg'), 'train', 'train'),
    (('annotations/instances_train.json', 'train_images/a.jpg'), 'train', 'train_images'),
    (('valid/_annotations.coco.json', 'valid/a.jpg'), 'valid', 'valid'),
])
def test_the_pictures_are_found_by_their_names(tmp_path, files, split, folder):
    layout = recognise(str(touch(tmp_path, *files)))
    found = next(one for one in layout.coco if one.name == split)
    assert os.path.relpath(picture_folder(found, ['a.jpg']), tmp_path) == (folder or '.')


def test_where_no_picture_is_found_the_usual_folder_is_named(tmp_path):
    (split,) = recognise(str(touch(tmp_path, 'annotations/instances_train.json'))).coco
    assert picture_folder(split, ['a.jpg']) == str(tmp_path / 'train')


def test_pictures_and_maps_without_splits_are_one_split(tmp_path):
    save(tmp_path / 'images' / 'a.png', picture(0))
    save(tmp_path / 'masks' / 'a.png', labels((0, 1)))
    (split,) = recognise(str(tmp_path)).label_maps
    assert (split.name, split.labels) == ('all', str(tmp_path / 'masks'))


def test_a_training_part_without_label_maps_is_not_passed_over(tmp_path):
    root = make_label_maps(tmp_path)
    for file in (root / 'annotations' / 'validation').iterdir():
        file.unlink()
    (root / 'annotations' / 'validation').rmdir()
    save(root / 'images' / 'test' / 'a.png', picture(9))
    layout = recognise(str(root))
    assert [split.name for split in layout.label_maps] == ['training', 'validation']
    assert 'images/test has no label maps' in layout.rest[0]


@pytest.mark.parametrize('below', ['coco', 'data/coco'])
def test_a_folder_too_high_is_answered_with_the_one_that_is_meant(tmp_path, below):
    make_coco(tmp_path / below)
    with pytest.raises(ValueError, match=f'is no data set, but {tmp_path / below} is; give that folder'):
        recognise(str(tmp_path))


@pytest.mark.parametrize('inside', ['annotations', 'images', 'images/train'])
def test_a_folder_too_deep_is_answered_with_the_one_that_is_meant(tmp_path, inside):
    make_coco(tmp_path / 'coco')
    with pytest.raises(ValueError, match=f'but {tmp_path / "coco"} is'):
        recognise(str(tmp_path / 'coco' / inside))


def test_a_folder_of_something_else_is_answered_with_what_it_holds(tmp_path):
    touch(tmp_path, 'notes.txt', 'labels/a.txt')
    with pytest.raises(ValueError, match=r'which holds labels/, notes.txt; expected is annotations/instances_train'):
        recognise(str(tmp_path))


@pytest.mark.parametrize(('name', 'word'), [('nothing', 'does not exist'), ('file', 'is a file')])
def test_no_folder_is_said(tmp_path, name, word):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(ValueError, match=word):
        recognise(str(tmp_path / name))


def test_a_link_to_a_data_set_is_followed(tmp_path):
    make_coco(tmp_path / 'real')
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    assert len(recognise(str(tmp_path / 'link')).coco) == 2


def test_a_json_that_is_no_split_is_not_taken_for_one(tmp_path):
    root = make_label_maps(tmp_path)
    (root / 'settings.json').write_text(json.dumps({}))
    assert recognise(str(root)).coco == []


@pytest.mark.parametrize(('name', 'content', 'form'), [
    ('labels/train/a.txt', '0 0.5 0.5 0.1 0.2\n1 0.2 0.3 0.1 0.1\n', 'YOLO'),
    ('train/labels/a.txt', '3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2', 'YOLO'),
    ('Annotations/a.xml', '<annotation><object/></annotation>', 'Pascal VOC'),
    ('VOCdevkit/VOC2012/Annotations/a.xml', '<annotation/>', 'Pascal VOC'),
    ('a.json', '{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}', 'LabelMe'),
    ('annotations/train.json', '{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}', 'LabelMe'),
])
def test_another_format_is_answered_with_the_tool_that_converts_it(tmp_path, name, content, form):
    root = tmp_path / 'my data'
    (root / name).parent.mkdir(parents=True)
    (root / name).write_text(content)
    with pytest.raises(ValueError, match=f"looks like {form}; `python tools/prepare_data.py --custom '{root}' --out "):
        recognise(str(root))


@pytest.mark.parametrize(('name', 'content'), [
    ('classes.txt', 'cat\ndog\n'), ('readme.txt', '12 pictures of cats and dogs\n'), ('a.xml', '<other/>'),
    ('a.json', '{"annotations": [], "shapes": []}'), ('a.txt', ''), ('a/b/c/d/e.txt', '0 0.5 0.5 0.1 0.2\n'),
])
def test_what_looks_like_no_format_gets_no_advice(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match='no data set is recognised') as caught:
        recognise(str(tmp_path))
    assert 'prepare_data' not in str(caught.value)


def test_a_data_set_below_is_named_before_another_format(tmp_path):
    (tmp_path / 'mine' / 'annotations').mkdir(parents=True)
    (tmp_path / 'mine' / 'annotations' / 'instances_train.json').write_text('{}')
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'a.txt').write_text('0 0.5 0.5 0.1 0.2\n')
    with pytest.raises(ValueError, match=f'but {tmp_path / "mine"} is; give that folder'):
        recognise(str(tmp_path))


def test_empty_folders_beside_labels_of_text_are_no_label_maps(tmp_path):
    for name in ('images/train', 'images/val', 'labels/train', 'labels/val'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'labels/train/a.txt').write_text('0 0.5 0.5 0.1 0.2\n')
    with pytest.raises(ValueError, match='looks like YOLO'):
        recognise(str(tmp_path))
