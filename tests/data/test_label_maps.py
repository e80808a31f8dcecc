"""Label maps: paired, in range, of the right size, and zero taken away exactly once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from PIL import Image

mmseg = pytest.importorskip('mmseg', reason='mmseg is not installed')

from mmengine.registry import DATASETS, TRANSFORMS  # noqa: E402

from backbones.data.files import read_image  # noqa: E402
from backbones.data.label_maps import ADE20KDataset, LabelMapDataset, LoadLabelMap  # noqa: E402

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='backbones.LoadLabelMap')]
LABELS = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two pictures with labels 0 to 3 and a list of three classes."""
    (tmp_path / 'images/training').mkdir(parents=True)
    (tmp_path / 'annotations/training').mkdir(parents=True)
    for name in ('a', 'b'):
        Image.new('RGB', (3, 2)).save(tmp_path / f'images/training/{name}.jpg')
        Image.fromarray(LABELS).save(tmp_path / f'annotations/training/{name}.png')
    (tmp_path / 'classes.txt').write_text('road\nsky\ntree\n')
    return tmp_path


def load(root: Path, **arguments) -> LabelMapDataset:
    return LabelMapDataset(**dict(data_root=str(root), pipeline=PIPELINE, serialize_data=False) | arguments)


def save_labels(root: Path, labels: np.ndarray | Image.Image) -> Path:
    path = root / 'annotations/training/a.png'
    (labels if isinstance(labels, Image.Image) else Image.fromarray(labels)).save(path)
    return path


def test_the_types_are_found_by_their_scoped_names():
    assert DATASETS.get('backbones.LabelMapDataset') is LabelMapDataset
    assert DATASETS.get('backbones.ADE20KDataset') is ADE20KDataset
    assert TRANSFORMS.get('backbones.LoadLabelMap') is LoadLabelMap


def test_classes_come_from_the_list_and_every_class_has_its_own_colour(root):
    metainfo = load(root).metainfo
    assert metainfo['classes'] == ('road', 'sky', 'tree')
    assert len(set(metainfo['palette'])) == 3 and metainfo == load(root).metainfo


def test_zero_is_taken_away_exactly_once(root):
    assert load(root)[0]['gt_seg_map'].tolist() == [[255, 0, 1], [2, 2, 255]]


def test_loading_twice_takes_zero_away_once(root):
    data = load(root, pipeline=[*PIPELINE, PIPELINE[1]])[0]
    assert data['gt_seg_map'].tolist() == [[255, 0, 1], [2, 2, 255]]


def test_without_reduction_zero_is_a_class_and_255_is_ignored(root):
    save_labels(root, np.array([[0, 1, 2], [2, 255, 0]], np.uint8))
    assert load(root, reduce_zero_label=False)[0]['gt_seg_map'].tolist() == [[0, 1, 2], [2, 255, 0]]


def test_transform_and_data_set_that_disagree_about_zero_are_an_error(root):
    dataset = load(root, pipeline=[dict(type='backbones.LoadLabelMap', reduce_zero_label=False)])
    with pytest.raises(ValueError, match='reduce_zero_label=False and the data set has True'):
        dataset[0]


def test_a_loader_that_is_not_told_the_number_of_classes_says_so(root):
    step = LoadLabelMap(reduce_zero_label=True)
    path = str(root / 'annotations/training/a.png')
    with pytest.raises(ValueError, match='does not know the number of classes'):
        step(dict(seg_map_path=path))
    assert LoadLabelMap(True, num_classes=3)(dict(seg_map_path=path))['gt_seg_map'].max() == 255


@pytest.mark.parametrize('value, kind', [(4, np.uint8), (255, np.uint8), (300, np.uint16)])
def test_a_value_out_of_range_is_named_with_its_file(root, value, kind):
    labels = LABELS.astype(kind)
    labels[0, 0] = value
    path = save_labels(root, labels)
    with pytest.raises(
        ValueError, match=rf'{path} holds the value {value} in 1 pixels, but 0 is ignored and 1 to 3'
    ):
        load(root)[0]


def test_a_value_out_of_range_is_found_beside_ignored_pixels(root):
    path = save_labels(root, np.array([[0, 255, 3], [0, 0, 0]], np.uint8))
    with pytest.raises(
        ValueError, match=rf'{path} holds the value 3 in 1 pixels, but 0 to 2 are the classes and 255'
    ):
        load(root, reduce_zero_label=False)[0]


def test_labels_of_16_bits_are_read_as_they_are(root):
    save_labels(root, LABELS.astype(np.uint16))
    assert load(root)[0]['gt_seg_map'].tolist() == load(root)[1]['gt_seg_map'].tolist()


def test_labels_with_a_palette_are_read_by_their_numbers(root):
    picture = Image.fromarray(LABELS).convert('P')
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    save_labels(root, picture)
    assert load(root)[0]['gt_seg_map'].tolist() == load(root)[1]['gt_seg_map'].tolist()


def test_a_colour_picture_for_labels_is_refused(root):
    path = save_labels(root, Image.new('RGB', (3, 2)))
    with pytest.raises(ValueError, match=f'{path} is a colour picture of 3 channels'):
        load(root)[0]


def test_a_file_that_is_no_picture_is_refused(root):
    path = root / 'annotations/training/a.png'
    path.write_text('<html>')
    with pytest.raises(ValueError, match=f'{path} cannot be read'):
        load(root)[0]


@pytest.mark.parametrize('cut', range(1, 40))
def test_a_cut_label_map_is_refused_unless_its_end_marker_only_is_missing(root, cut, caplog):
    path = save_labels(root, np.random.default_rng(0).integers(0, 4, (2, 3), dtype=np.uint8))
    whole = load(root)[0]['gt_seg_map'].tolist()
    path.write_bytes(path.read_bytes()[:-cut])
    if cut <= 12:
        assert load(root)[0]['gt_seg_map'].tolist() == whole
    else:
        with pytest.raises(ValueError, match=f'{path} cannot be read: .*cut off'):
            load(root)[0]


def test_a_label_map_without_end_marker_is_told_of(root, monkeypatch):
    path, told = save_labels(root, LABELS), []
    monkeypatch.setattr('backbones.data.label_files.notice_end', told.append)
    load(root)[0]
    assert told == []
    path.write_bytes(path.read_bytes()[:-3])
    load(root)[0]
    assert told == [str(path)]


def test_labels_of_another_size_than_the_picture_are_refused(root):
    path = save_labels(root, np.ones((4, 6), np.uint8))
    with pytest.raises(ValueError, match=f'{path} is 6x4 .* is 3x2'):
        load(root)[0]


def test_labels_loaded_after_a_resize_are_held_against_the_original_size(root):
    resize = dict(type='mmseg.Resize', scale=(12, 8), keep_ratio=True)
    assert load(root, pipeline=[PIPELINE[0], resize, PIPELINE[1]])[0]['gt_seg_map'].shape == (2, 3)


def test_pictures_without_label_map_are_counted_and_named(root):
    (root / 'annotations/training/b.png').unlink()
    with pytest.raises(ValueError, match=r'1 pictures of .*images/training have no label map .*: b\.'):
        load(root)


def test_label_maps_without_picture_are_counted_and_named(root):
    (root / 'images/training/a.jpg').unlink()
    with pytest.raises(ValueError, match=r'1 label maps of .*annotations/training have no picture .*: a\.'):
        load(root)


def test_pictures_without_any_label_folder_are_read(root):
    assert 'seg_map_path' not in load(root, data_prefix=dict(img_path='images/training'), pipeline=[])[0]


def test_a_list_of_names_chooses_pictures(root):
    (root / 'names.txt').write_text('b\n')
    dataset = load(root, ann_file='names.txt', pipeline=[])
    assert [Path(data['img_path']).name for data in dataset] == ['b.jpg']


def test_png_pictures_are_found_without_being_told(root):
    (root / 'images/training/a.jpg').unlink()
    Image.new('RGB', (3, 2)).save(root / 'images/training/a.png')
    assert len(load(root)) == 2


def test_two_pictures_of_one_name_are_refused(root):
    Image.new('RGB', (3, 2)).save(root / 'images/training/a.png')
    with pytest.raises(ValueError, match='differ by their suffix only'):
        load(root)


@pytest.mark.parametrize('key, folder', [('img_path', 'images/train'), ('seg_map_path', 'annotations/train')])
def test_a_missing_folder_is_named_with_what_is_there(root, key, folder):
    prefix = dict(img_path='images/training', seg_map_path='annotations/training') | {key: folder}
    with pytest.raises(ValueError, match=rf"folder .*/{folder} does not exist .*'{key}'.* holds training"):
        load(root, data_prefix=prefix)


def test_an_empty_folder_is_an_error(root):
    for path in root.rglob('*.*g'):
        path.unlink()
    with pytest.raises(ValueError, match='holds no pictures'):
        load(root)


def test_classes_that_contradict_the_list_are_an_error(root):
    load(root, metainfo=dict(classes=('road', 'sky', 'tree')))
    with pytest.raises(ValueError, match="class 2: 'ski' in metainfo and 'sky' in the file"):
        load(root, metainfo=dict(classes=('road', 'ski', 'tree')))


def test_without_a_list_the_classes_must_be_given(root):
    (root / 'classes.txt').unlink()
    with pytest.raises(ValueError, match=r'there is no .*/classes\.txt and metainfo has none'):
        load(root)
    assert load(root, metainfo=dict(classes=('road', 'sky', 'tree')))[0]['gt_seg_map'].max() == 255


def test_a_missing_data_root_is_named_before_the_class_list(root):
    with pytest.raises(ValueError, match=r"folder .*/nowhere does not exist \(data_root=.*data/README.md"):
        load(root / 'nowhere')


@pytest.mark.parametrize('content', [b'stra\xdfe\nsky\ntree\n', b'\x80\x04K\x01.'], ids=['latin', 'pickle'])
def test_a_list_of_classes_that_is_no_text_is_named(root, content):
    (root / 'classes.txt').write_bytes(content)
    with pytest.raises(ValueError, match=r'classes\.txt is no text in UTF-8: .*save it as UTF-8'):
        load(root)


def test_a_byte_order_mark_is_no_part_of_a_class(root):
    (root / 'classes.txt').write_text('road\nsky\ntree\n', encoding='utf-8-sig')
    assert load(root).metainfo['classes'] == ('road', 'sky', 'tree')


@pytest.mark.parametrize('link, target', [('back', '.'), ('deep/back', '..')])
def test_a_folder_that_links_to_itself_is_walked_once(root, link, target):
    for folder in ('images/training', 'annotations/training'):
        (root / folder / 'deep').mkdir()
        (root / folder / link).symlink_to(target)
    assert len(load(root)) == 2
    assert len(load(root, data_prefix=dict(img_path='images/training/', seg_map_path='annotations/training/'))) == 2


def test_a_linked_folder_of_more_pictures_is_walked(root):
    for folder in ('images', 'annotations'):
        (root / f'{folder}/training').rename(root / f'{folder}/one')
        (root / f'{folder}/training').mkdir()
        for link in ('x', 'y'):  # the same pictures twice, as someone wished
            (root / f'{folder}/training/{link}').symlink_to('../one')
    assert len(load(root)) == 4


def test_ade20k_knows_its_150_classes_and_colours(root):
    metainfo = ADE20KDataset(data_root=str(root), pipeline=[]).metainfo
    assert len(metainfo['classes']) == len(metainfo['palette']) == 150 and metainfo['classes'][0] == 'wall'


def test_some_classes_of_ade20k_leave_the_others_ignored(root):
    dataset = ADE20KDataset(data_root=str(root), pipeline=PIPELINE, metainfo=dict(classes=('sky', 'wall')))
    assert dataset[0]['gt_seg_map'].tolist() == [[255, 1, 255], [0, 0, 255]]  # 1 is wall, 2 building, 3 sky


def test_a_picture_is_read_as_rgb(tmp_path):
    Image.new('RGB', (3, 2), (200, 100, 0)).save(tmp_path / 'a.png')
    assert read_image(tmp_path / 'a.png')[0, 0].tolist() == [200, 100, 0]


@needs_shared
@pytest.mark.parametrize('split, count', [('training', 367), ('validation', 101)])
def test_camvid_is_paired(split, count):
    prefix = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
    dataset = load(SHARED / 'data' / 'camvid', data_prefix=prefix)
    assert len(dataset) == count and len(dataset.metainfo['classes']) == 11
    assert set(np.unique(dataset[0]['gt_seg_map']).tolist()) <= {*range(11), 255}


@needs_shared
def test_real_ade20k_files_are_in_range():
    dataset = ADE20KDataset(data_root=str(SHARED / 'data' / 'ade_one'), pipeline=PIPELINE)
    assert len(dataset) == 3 and all(data['gt_seg_map'].max() <= 255 for data in dataset)


@needs_shared
@pytest.mark.parametrize(
    'case, message',
    [
        ('seg_value_out_of_range', 'holds the value 37 in 800 pixels'),
        ('seg_label_is_colour_picture', 'colour picture'),
        ('seg_label_missing', 'no label map'),
        ('seg_size_mismatch', 'is 480x360 .* is 240x180'),
    ],
)
def test_damaged_real_label_maps_are_refused_by_name(case, message):
    with pytest.raises(ValueError, match=message) as error:
        for _ in load(SHARED / 'data' / 'broken' / case):
            pass
    assert '0006R0_f03570' in str(error.value)


@needs_shared
def test_real_labels_of_16_bits_equal_those_of_8():
    wide, control = load(SHARED / 'data' / 'broken/seg_labels_16bit'), load(SHARED / 'data' / 'broken/seg_control')
    pairs = [(a['gt_seg_map'], b['gt_seg_map']) for a, b in zip(wide, control, strict=True)]
    assert len(pairs) == 3 and all(np.array_equal(a, b) for a, b in pairs)
