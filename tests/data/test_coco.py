"""COCO-format data: labels follow names, and what is wrong with a file is said before the first step."""

from __future__ import annotations

import json
import logging

import pytest
from conftest import SHARED, needs_shared

mmdet = pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.datasets import CocoDataset as MMDetCocoDataset  # noqa: E402
from mmengine.registry import DATASETS  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402

from backbones.data.classes import check_same_classes  # noqa: E402
from backbones.data.coco import CocoDataset, category_ids  # noqa: E402

CATEGORIES = [dict(id=2, name='disc'), dict(id=5, name='box'), dict(id=9, name='Star')]


def annotation(number: int, image: int, category: int, **changes) -> dict:
    return (
        dict(
            id=number,
            image_id=image,
            category_id=category,
            iscrowd=0,
            area=100,
            bbox=[1, 2, 10, 10],
            segmentation=[[1, 2, 11, 2, 11, 12, 1, 12]],
        )
        | changes
    )


@pytest.fixture
def content() -> dict:
    images = [dict(id=n, file_name=f'{n}.jpg', height=40, width=50) for n in (1, 2, 3)]
    crowd = dict(size=[40, 50], counts=[1900, 100])
    return dict(
        images=images,
        categories=[dict(category) for category in CATEGORIES],
        annotations=[
            annotation(1, 1, 2),
            annotation(2, 1, 9),
            annotation(3, 2, 5),
            annotation(4, 2, 2, iscrowd=1, segmentation=crowd),
        ],
    )


@pytest.fixture
def load(tmp_path, content):
    """Write `content` (with three empty picture files) and load it as a data set."""
    (tmp_path / 'train').mkdir()
    for number in (1, 2, 3):
        (tmp_path / f'train/{number}.jpg').touch()

    def build(classes=None, **arguments) -> CocoDataset:
        (tmp_path / 'train.json').write_text(json.dumps(content))
        metainfo = None if classes is None else dict(classes=classes)
        return CocoDataset(
            **dict(
                data_root=str(tmp_path),
                ann_file='train.json',
                data_prefix=dict(img='train'),
                serialize_data=False,
                metainfo=metainfo,
                pipeline=[],
            )
            | arguments
        )

    return build


def names(dataset: CocoDataset) -> list[list[str]]:
    """Class name of every object of every picture, by its label."""
    classes = dataset.metainfo['classes']
    return [
        [classes[instance['bbox_label']] for instance in dataset[i]['instances']] for i in range(len(dataset))
    ]


def test_the_type_is_found_by_its_scoped_name(load):
    assert DATASETS.get('backbones.CocoDataset') is CocoDataset
    assert issubclass(CocoDataset, MMDetCocoDataset)


def test_class_names_come_from_the_file(load):
    assert load().metainfo['classes'] == ('disc', 'box', 'Star')


def test_files_that_list_categories_in_another_order_get_the_same_labels(load, content):
    before = names(load()), load().metainfo['classes']
    content['categories'].reverse()
    assert (names(load()), load().metainfo['classes']) == before


@pytest.mark.parametrize(
    'classes', [('disc', 'box', 'Star'), ('Star', 'disc', 'box'), ['box', 'Star', 'disc']]
)
def test_labels_follow_the_order_of_the_config_by_name(load, classes):
    dataset = load(classes)
    assert names(dataset) == [['disc', 'Star'], ['box', 'disc'], []]
    assert dataset.cat_ids == [dict(disc=2, box=5, Star=9)[name] for name in classes]


def test_a_subset_of_the_classes_leaves_out_the_other_objects(load):
    assert names(load(('Star',))) == [['Star'], [], []]


def test_crowds_are_kept_and_marked(load):
    flags = [[instance['ignore_flag'] for instance in data['instances']] for data in load()]
    assert flags == [[0, 0], [0, 1], []]


def test_pictures_without_objects_are_left_out_in_training_where_the_config_says_so(load):
    drop = dict(filter_empty_gt=True)
    assert [len(load()), len(load(filter_cfg=drop)), len(load(filter_cfg=drop, test_mode=True))] == [3, 2, 3]
    assert len(load(('Star',), filter_cfg=drop)) == 1


def test_a_misspelt_class_is_an_error_with_the_nearest_name_and_the_file(load):
    with pytest.raises(ValueError, match=r"'Disk' is not in .*train\.json; did you mean 'disc'\?"):
        load(('Disk', 'box'))


def test_wrong_capitals_are_an_error_with_the_right_ones(load):
    with pytest.raises(ValueError, match=r"'star' is not in .* did you mean 'Star'"):
        load(('disc', 'star'))


def test_one_string_for_the_classes_is_explained():
    with pytest.raises(ValueError, match=r"write a tuple of names, such as \('disc',\)"):
        category_ids(CATEGORIES, 'disc')


def test_category_ids_follow_the_classes_where_pycocotools_follows_the_file(tmp_path, content):
    (tmp_path / 'a.json').write_text(json.dumps(content))
    coco = COCO(tmp_path / 'a.json')
    assert coco.getCatIds(catNms=['Star', 'disc']) == [2, 9]
    assert category_ids(coco, ['Star', 'disc']) == [9, 2]


def test_splits_that_disagree_are_an_error():
    check_same_classes(train=('a', 'b'), val=['a', 'b'])
    with pytest.raises(ValueError, match="label 1 is 'b' in train and 'bb' in val"):
        check_same_classes(train=('a', 'b'), val=('a', 'bb'))
    with pytest.raises(ValueError, match="label 1 is 'b' in train and None in val"):
        check_same_classes(train=('a', 'b'), val=('a',))


def test_a_missing_annotation_file_is_named(load):
    with pytest.raises(ValueError, match=r'annotation file .*/absent\.json does not exist'):
        load(ann_file='absent.json')


def test_a_missing_image_folder_is_named_with_what_is_there(load):
    with pytest.raises(
        ValueError, match=r"folder .*/valid does not exist .*data_prefix\['img'\].*holds train, train"
    ):
        load(data_prefix=dict(img='valid'))


def test_missing_pictures_are_counted_and_named(load, tmp_path):
    (tmp_path / 'train/2.jpg').unlink()
    with pytest.raises(ValueError, match=r'1 of the 3 pictures .*train/2\.jpg'):
        load()
    assert len(load(check_files=False)) == 3


BOTH = dict(size=[40, 50])
BREAKAGES = {  # name: (change of the content, what the message must hold)
    'image id twice': (lambda c: c['images'][2].update(id=2), "'images' in .* the id 2 2 times"),
    'annotation id twice': (
        lambda c: c['annotations'][2].update(id=1),
        "'annotations' in .* the id 1 2 times",
    ),
    'name twice': (
        lambda c: c['categories'][1].update(name='disc'),
        "'categories' in .* the name 'disc' 2 times",
    ),
    'unknown category': (
        lambda c: c['annotations'][0].update(category_id=7),
        'annotation 1 .* category_id 7',
    ),
    'no size': (lambda c: c['images'][1].pop('width'), "entry 1 of 'images' in .* has no 'width'"),
    'NaN box': (
        lambda c: c['annotations'][0].update(bbox=[0, 0, float('nan'), 5]),
        r'annotation 1 \(picture 1.*finite',
    ),
    'infinite area': (lambda c: c['annotations'][0].update(area=float('inf')), 'annotation 1 .* finite'),
    'box of words': (lambda c: c['annotations'][0].update(bbox=list('abcd')), 'annotation 1 .* four numbers'),
    'box of three': (lambda c: c['annotations'][0].update(bbox=[1, 2, 3]), 'annotation 1 .* four numbers'),
    'NaN polygon': (
        lambda c: c['annotations'][0].update(segmentation=[[1, 2, float('nan'), 4, 5, 6]]),
        'annotation 1 .* no finite number',
    ),
    'far polygon': (lambda c: c['annotations'][0].update(segmentation=[[1, 2, 1e8, 4, 5, 6]]), 'far outside'),
    'short runs': (
        lambda c: c['annotations'][3].update(segmentation=BOTH | dict(counts=[100, 100])),
        'add up to 200',
    ),
    'runs of another size': (
        lambda c: c['annotations'][3].update(segmentation=dict(size=[50, 40], counts=[2000])),
        r'size \[50, 40\] while its picture is \[40, 50\]',
    ),
    'no categories': (lambda c: c['categories'].clear(), 'lists no categories'),
    'no images': (lambda c: c.pop('images'), 'must hold the lists'),
    'other objects only': (lambda c: c['annotations'].clear(), 'no picture of .* is left'),
}


@pytest.mark.parametrize('name', BREAKAGES)
def test_a_broken_file_is_refused_by_name(load, content, name):
    change, message = BREAKAGES[name]
    change(content)
    with pytest.raises(ValueError, match=message) as error:
        load(filter_cfg=dict(filter_empty_gt=True))
    assert 'train.json' in str(error.value)


def test_a_misspelt_filter_is_an_error(load):
    with pytest.raises(ValueError, match="'filter_empty'; allowed are filter_empty_gt, min_size"):
        load(filter_cfg=dict(filter_empty=True))


MASKS = [dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]


def test_an_object_without_mask_among_others_becomes_ignored(load, content):
    del content['annotations'][0]['segmentation']
    content['annotations'][1]['segmentation'] = [[1, 2, 3, 4]]  # two points
    dataset = load(pipeline=MASKS)
    loaded = dataset.pipeline({**dataset.get_data_info(0), 'ori_shape': (40, 50)})
    assert loaded['gt_ignore_flags'].tolist() == [True, True] and len(loaded['gt_masks']) == 2


def test_masks_wanted_from_a_file_without_any_are_an_error(load, content):
    for entry in content['annotations']:
        del entry['segmentation']
    assert len(load()) == 3
    with pytest.raises(ValueError, match=r"no annotation of .* has a 'segmentation'"):
        load(pipeline=MASKS)


def test_a_missing_area_is_that_of_the_box(load, content):
    del content['annotations'][0]['area']
    assert names(load())[0] == ['disc', 'Star']


def test_what_is_left_out_is_counted_in_a_warning(load, content, monkeypatch):
    content['annotations'][0]['bbox'] = [1, 2, -5, 10]
    content['annotations'][2]['bbox'] = [60, 2, 10, 10]
    said = []
    monkeypatch.setattr(
        'backbones.data.coco.print_log', lambda text, logger, level: said.append((level, text))
    )
    assert names(load()) == [['Star'], ['disc'], []]
    assert [level for level, _ in said] == [logging.WARNING] * 2
    assert 'less than a pixel' in said[0][1] and 'ids 1' in said[0][1]
    assert 'outside the picture' in said[1][1] and 'ids 3' in said[1][1]


def test_a_file_without_annotations_is_a_test_set(load, content):
    del content['annotations']
    assert len(load(test_mode=True)) == 3


@needs_shared
def test_real_coco_pictures_are_read_as_mmdet_reads_them():
    arguments = dict(
        data_root=str(SHARED / 'data' / 'coco_mini'),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=[],
    )
    ours, theirs = CocoDataset(**arguments), MMDetCocoDataset(**arguments)
    assert len(ours) == 98 and ours.metainfo['classes'] == MMDetCocoDataset.METAINFO['classes']
    assert ours.metainfo['palette'] == theirs.metainfo['palette']
    assert [ours[i] for i in range(98)] == [theirs[i] for i in range(98)]


def broken(case: str, split: str = 'train', **arguments) -> CocoDataset:
    return CocoDataset(
        **dict(
            data_root=str(SHARED / 'data' / 'broken' / case),
            pipeline=[],
            ann_file=f'annotations/instances_{split}2017.json',
            data_prefix=dict(img=f'{split}2017'),
        )
        | arguments
    )


@needs_shared
def test_permuted_categories_of_a_real_file_change_nothing():
    permuted, control = broken('coco_category_order_permuted'), broken('coco_control')
    assert permuted.metainfo['classes'] == control.metainfo['classes']
    assert names(permuted) == names(control) and sum(map(len, names(control))) > 0


@needs_shared
def test_a_misspelt_category_of_one_split_is_found():
    train, val = broken('coco_category_misspelt'), broken('coco_category_misspelt', 'val')
    with pytest.raises(ValueError, match="label 0 is 'person' in train and 'persn' in val"):
        check_same_classes(train=train.metainfo['classes'], val=val.metainfo['classes'])
    with pytest.raises(ValueError, match=r"'person' is not in .*; did you mean 'persn'"):
        broken('coco_category_misspelt', 'val', metainfo=dict(classes=train.metainfo['classes']))


@needs_shared
@pytest.mark.parametrize(
    'case, message',
    [
        ('coco_image_file_missing', '000000000208.jpg'),
        ('coco_nan_bbox', 'annotation 1'),
        ('coco_nan_polygon', 'annotation 2'),
        ('coco_huge_coordinates', 'annotation 2'),
        ('coco_rle_too_short', 'annotation 2'),
        ('coco_rle_wrong_size', 'annotation 2'),
        ('coco_duplicate_annotation_id', 'id 2 2 times'),
        ('coco_truncated_json', 'not readable as JSON'),
    ],
)
def test_a_damaged_real_file_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        broken(case)
