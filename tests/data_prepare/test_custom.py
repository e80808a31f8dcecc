"""What is the same for all formats: the split, the pictures, the notes, the printed block, and nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_prepare.conversions import converted, refused, said
from data_prepare.toy_sets import BOX, coco_folder, picture, shape, voc_object, write_labelme, write_voc, write_yolo

from backbones.data_prepare.custom import config_block, convert


def test_objects_outside_are_cut_or_left_out_and_counted(folder: Path) -> None:
    write_labelme(folder, 'a', [shape('rectangle', [[30, 20], [60, 50]]), shape('rectangle', [[50, 1], [60, 5]]),
                                shape('rectangle', [[3, 3], [3, 9]])])
    write_labelme(folder, 'b', [])
    assert [entry['bbox'] for entry in converted(folder)['objects']['a.jpg']] == [[30, 20, 10, 10]]
    text = said(folder)
    assert '1 x boxes that reach outside are cut' in text and '2 x objects without an area in their picture' in text


def test_the_random_split_is_that_of_the_seed(folder: Path) -> None:
    for number in range(20):
        write_labelme(folder, f'{number:02}', [shape('rectangle', [[1, 1], [5, 5]])])

    def chosen(**options: object) -> list[str]:
        objects = converted(folder, **options)['objects']
        return [name for name, entries in objects.items() if entries[0]['part'] == 'val']

    assert chosen(seed=1) == chosen(seed=1) != chosen(seed=2)
    assert len(chosen(val_share=0.25)) == 5 and len(chosen(val_share=0.001)) == 1


def test_pictures_are_linked_or_copied(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    for copy in (False, True):
        converted(folder, copy=copy)
        assert all(path.is_symlink() != copy for path in (folder.parent / 'out/images').rglob('*.jpg'))


def test_boxes_alone_become_masks_and_that_is_said(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    assert converted(folder)['objects']['images/a.jpg'][0]['segmentation'] == [[15, 12, 25, 12, 25, 18, 15, 18]]
    assert 'note: 2 of 2 objects have a box only, which is their mask, too; the mask AP says nothing' in said(folder)


def test_the_printed_block_makes_data_sets_that_load(folder: Path) -> None:
    from backbones.registry import DATASETS

    write_yolo(folder, {'a': BOX, 'b': BOX})
    converted(folder)
    out = folder.parent / 'out'
    config: dict = {}
    exec(config_block(out, 2), config)
    assert config_block(out, 2) in said(folder)
    for part in ('train', 'val'):
        data = DATASETS.build(config[f'{part}_dataloader']['dataset'] | dict(pipeline=[], test_mode=True))
        assert len(data) == 1 and data.metainfo['classes'] == ('cat', 'dog')
        assert Path(data.get_data_info(0)['img_path']).is_file()
    assert Path(config['val_evaluator']['ann_file']).is_file()
    assert config['classes'] == 'annotations' and 'model' not in config


def test_a_folder_of_several_formats_or_none_asks_for_the_right_one(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    write_labelme(folder / 'labelled', 'c', [])
    refused(folder, 'holds annotations of several formats: labelme, yolo; choose one by --format')
    shutil.rmtree(folder)
    picture(folder / 'a.jpg')
    refused(folder, 'holds no annotations: looked for XML files')


def test_a_list_of_classes_alone_does_not_make_a_folder_yolo(folder: Path) -> None:
    write_labelme(folder, 'a', [shape('rectangle', [[1, 1], [5, 5]])])
    write_labelme(folder, 'b', [])
    (folder / 'labels.txt').write_text('__ignore__\ncat\n')
    assert said(folder).startswith(f'{folder} read as labelme')


def test_a_json_file_that_is_not_read_is_mentioned(folder: Path) -> None:
    (coco_folder(folder) / 'train/licences.json').write_text('{"images": []}')
    assert "1 x JSON files without 'images' and 'annotations' are not read" in said(folder)


def test_a_part_for_tests_is_left_out_and_counted(folder: Path) -> None:
    coco_folder(folder)
    shutil.copytree(folder / 'train', folder / 'test')
    assert '1 x pictures are in neither train nor val' in said(folder)


def test_nothing_is_overwritten(folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    out = folder.parent / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('mine')
    with pytest.raises(ValueError, match=r'--out .*out is there already; name another one, nothing is overwritten'):
        convert(folder, out, progress=False)
    assert [path.name for path in out.iterdir()] == ['mine.txt']
    with pytest.raises(ValueError, match='whose pictures would be found twice'):
        convert(folder, folder / 'out', progress=False)


@pytest.mark.parametrize('content', [b'', b'<html>', b'\xff\xd8\xff', b'GIF89a'])
def test_a_picture_that_is_none_is_named(content: bytes, folder: Path) -> None:
    write_yolo(folder, {'a': BOX, 'b': BOX})
    (folder / 'images/a.jpg').write_bytes(content)
    refused(folder, r'the picture .*a\.jpg is .*; replace or remove it')


@pytest.mark.parametrize('turn', [1, 6, 8])
def test_a_turned_picture_keeps_the_size_that_its_file_states(turn: int, folder: Path) -> None:
    write_voc(folder, 'a', voc_object('cat', 2, 2, 9, 9))
    write_voc(folder, 'b', voc_object('cat', 2, 2, 9, 9), size=(30, 40) if turn > 1 else (40, 30))
    for name in 'ab':
        picture(folder / f'JPEGImages/{name}.jpg', turn=turn)
    sizes = converted(folder)['sizes']
    assert sizes == {'JPEGImages/a.jpg': (40, 30), 'JPEGImages/b.jpg': (30, 40) if turn > 1 else (40, 30)}


def test_names_in_any_script_are_kept(folder: Path) -> None:
    write_labelme(folder, 'жираф 長頸鹿 #1', [shape('rectangle', [[1, 1], [5, 5]], 'жираф')])
    write_labelme(folder, 'b', [])
    found = converted(folder)
    assert found['names'] == ['жираф'] and len(found['objects']['жираф 長頸鹿 #1.jpg']) == 1
