"""A repaired copy: what is safe is repaired, the rest is listed, and the copy passes but for that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_toys import INF, NAN, H, W, annotation, at, content, copy_of, first, random_content, runs, square, write
from conftest import SHARED, needs_shared
from PIL import Image

from backbones.data_check.annotations import check_annotations
from backbones.data_check.repair_coco import repair_coco

BROKEN = SHARED / 'data' / 'broken'


def repaired(tmp_path: Path, file: dict, sizes: dict | None = None) -> tuple[dict, list[str], list[str]]:
    done, left = repair_coco(write(tmp_path / 'a.json', file), tmp_path / 'out' / 'a.json', sizes)
    return json.loads((tmp_path / 'out' / 'a.json').read_text()), done, left


def entry(file: dict, number: int) -> dict | None:
    return next((one for one in file['annotations'] if one['id'] == number), None)


@pytest.mark.parametrize('file', [content(), random_content(3)], ids=['toy', 'random'])
def test_a_sound_file_is_copied_as_it_is(tmp_path, file):
    assert repaired(tmp_path, file) == (file, [], [])


# change of the sound file: what annotation 1 becomes (None: dropped), and a part of the line that says so
GONE = 'dropped'
REPAIRS = {
    'box with NaN': (first(bbox=[1, NAN, 10, 10]), dict(bbox=[1, 2, 10, 10]), 'that of its mask'),
    'box of words': (first(bbox='box'), dict(bbox=[1, 2, 10, 10]), 'that of its mask'),
    'box of negative width': (first(bbox=[11, 2, -10, 10]), dict(bbox=[1, 2, 10, 10]), 'that of its mask'),
    'box without area': (first(bbox=[1, 2, 0, 0], area=0), dict(bbox=[1, 2, 10, 10], area=100), 'that of its mask'),
    'box of runs': (first(bbox=[0] * 4, area=30, segmentation=runs(3, 4, 5, 6)), dict(bbox=[3, 4, 5, 6]),
                    'that of its mask'),
    'empty box without mask': (first(bbox=[1, 2, 0, 0], segmentation=[]), None, 'no mask tells it; it is dropped'),
    'box elsewhere without mask': (first(bbox=[90, 2, 5, 5], segmentation=...), None, GONE),
    'box beyond the edge': (first(bbox=[40, 30, 15, 20], segmentation=[square(40, 30, 15, 20)]),
                            dict(bbox=[40, 30, 10, 10]), 'clipped to the picture'),
    'box beyond the edge, mask elsewhere': (first(bbox=[40, 2, 15, 10]), dict(bbox=[1, 2, 10, 10]), 'of its mask'),
    'polygon with NaN': (first(segmentation=[[1, 2, NAN, 2, 3, 3]]), None, GONE),
    'polygon far away': (first(segmentation=[[1, 2, 1e8, 2, 3, 3]]), None, GONE),
    'polygon of two points beside a good one': (first(segmentation=[[1, 2, 3, 4], square(1, 2, 10, 10)]),
                                                dict(segmentation=[square(1, 2, 10, 10)]), '1 of 2 polygons'),
    'one flat list': (first(segmentation=square(1, 2, 10, 10)), dict(segmentation=[square(1, 2, 10, 10)]), 'lists of'),
    'points in pairs': (first(segmentation=[[[1, 2], [11, 2], [11, 12], [1, 12]]]),
                        dict(segmentation=[[1, 2, 11, 2, 11, 12, 1, 12]]), 'lists of'),
    'area missing': (first(area=...), dict(area=100), 'area was missing and is now 100, that of its mask'),
    'area of a box': (lambda file: [at('annotations', n, segmentation=..., area=...)(file) for n in range(1, 6)],
                      dict(area=100), 'that of its box'),
    'area NaN': (first(area=NAN), dict(area=100), 'area was nan'),
    'area of words': (first(area='big'), dict(area=100), "area was 'big'"),
    'crowd missing': (first(iscrowd=...), dict(iscrowd=0), 'iscrowd was missing'),
    'unknown picture': (first(image_id=99), None, 'image_id 99, which is not in the file: dropped'),
    'unknown class': (first(category_id=99), None, 'category_id 99, which is not in the file: dropped'),
    'picture missing': (first(image_id=...), None, GONE),
}


@pytest.mark.parametrize('name', REPAIRS)
def test_what_is_safe_is_repaired_and_said_and_the_copy_passes(tmp_path, name):
    change, expected, said = REPAIRS[name]
    file = content()
    change(file)
    again, done, left = repaired(tmp_path, file)
    assert left == []
    assert any(said in line and 'annotation 1' in line for line in done), done
    assert {one.severity for one in check_annotations(tmp_path / 'out' / 'a.json')[0]} <= {'note'}
    if expected is None:
        assert entry(again, 1) is None and len(again['annotations']) == 4
    else:
        assert {key: entry(again, 1)[key] for key in expected} == expected


LEFT = {
    'mask missing': first(segmentation=[]),
    'only polygon of two points': first(segmentation=[[1, 2, 11, 12]]),
    'runs too short': first(segmentation=dict(size=[H, W], counts=[7])),
    'string too short': first(segmentation=dict(size=[H, W], counts='1')),
    'runs of another size': first(segmentation=dict(size=[W, H], counts=[H * W])),
    'runs of background only': first(segmentation=dict(size=[H, W], counts=[H * W])),
    'crowd of words': first(iscrowd='no'),
    'mask elsewhere': first(segmentation=[square(30, 20, 10, 10)]),
    'mask of another kind': first(segmentation='mask.png'),
}


@pytest.mark.parametrize('name', LEFT)
def test_what_is_not_safe_stays_and_is_listed_with_its_id(tmp_path, name):
    file = content()
    LEFT[name](file)
    again, done, left = repaired(tmp_path, file)
    assert (again, done) == (file, [])
    assert len(left) == 1 and 'annotation 1 ' in left[0]


def test_an_id_that_is_there_twice_is_numbered_anew_and_a_whole_copy_goes(tmp_path):
    file = content()
    copy_of('annotations', 1, image_id=2)(file)
    copy_of('annotations', 2)(file)
    copy_of('images', 3)(file)
    copy_of('categories', 3)(file)
    again, done, left = repaired(tmp_path, file)
    assert [one['id'] for one in again['annotations']] == [1, 2, 3, 4, 5, 6]
    assert len(again['images']) == len(again['categories']) == 3
    assert len(done) == 4 and left == []


@pytest.mark.parametrize('number', [None, 'a', 1.5, True, [1], 2**70])
def test_an_id_that_is_none_is_numbered_anew(tmp_path, number):
    file = content()
    first(id=number)(file)
    again, done, left = repaired(tmp_path, file)
    assert [one['id'] for one in again['annotations']] == [6, 2, 3, 4, 5]
    assert len(done) == 1 and left == []


def test_ids_that_fit_no_picture_at_all_are_left(tmp_path):
    file = content()
    for one in file['annotations']:
        one['image_id'] += 50
    again, done, left = repaired(tmp_path, file)
    assert (again, done) == (file, []) and 'none of the 5 annotations' in left[0]


def test_the_size_of_a_picture_is_corrected_where_all_its_objects_fit(tmp_path):
    file = content()
    at('images', 1, width=500, height=400)(file)
    again, done, left = repaired(tmp_path, file, {'1.png': (W, H)})
    assert (again['images'][0]['width'], again['images'][0]['height']) == (W, H)
    assert done == ['picture 1 (1.png): its size 500x400 is corrected to 50x40 (width x height)'] and left == []


@pytest.mark.parametrize('size', [(30, 40), (50, 30), (40, 50)])
def test_the_size_of_a_picture_is_left_where_an_object_contradicts(tmp_path, size):
    again, done, left = repaired(tmp_path, content(), {'2.png': size, '1.png': (W, H)})
    assert (again, done) == (content(), [])
    assert len(left) == 1 and 'picture 2 (2.png)' in left[0] and f'{size[0]}x{size[1]}' in left[0]


def test_objects_of_a_picture_of_doubtful_size_are_left_alone(tmp_path):
    file = content()
    at('annotations', 3, bbox=[45, 5, 20, 10])(file)
    again, done, left = repaired(tmp_path, file, {'2.png': (60, 60)})
    assert entry(again, 3)['bbox'] == [45, 5, 20, 10] and done == []
    assert any('picture 2 (2.png)' in line for line in left) and any('annotation 3 ' in line for line in left)


def test_nan_elsewhere_becomes_null_and_is_said(tmp_path):
    file = {**content(), 'info': dict(version=NAN)}
    again, done, left = repaired(tmp_path, file)
    assert again['info'] == dict(version=None) and done == ['info.version: nan is now null'] and left == []


def test_nothing_is_overwritten(tmp_path):
    path = write(tmp_path / 'a.json', content())
    for out in (path, tmp_path / 'link'):
        if not out.exists():
            out.symlink_to(tmp_path / 'nowhere')
        with pytest.raises(ValueError, match='exists; choose another file'):
            repair_coco(path, out)


@pytest.mark.parametrize('text', [b'', b'{"images": [', b'[]', b'null', b'{"images": [], "categories": 3}'])
def test_a_file_that_cannot_be_read_is_left_without_a_copy(tmp_path, text):
    (tmp_path / 'a.json').write_bytes(text)
    done, left = repair_coco(tmp_path / 'a.json', tmp_path / 'b.json')
    assert done == [] and len(left) == 1 and not (tmp_path / 'b.json').exists()


@pytest.mark.parametrize('file', [
    dict(images=[None, {}, 7], categories=[None], annotations=[None, {}, 'x']),
    dict(images=[dict(id={}, file_name={}, height={}, width={})], categories=[dict(id={}, name={})],
         annotations=[dict(id={}, image_id={}, category_id={}, bbox={}, segmentation=[{}])]),
    {**content(), 'annotations': [annotation(n, bbox=box, segmentation=mask) for n, (box, mask) in enumerate([
        (None, None), ([], {}), ([INF] * 4, [[INF] * 6]), ({'a': 1}, 7), ([1, 2, 3, 4], [[], []]),
        ([1e308] * 4, [[1e308] * 6]), ([10**400] * 4, [10**400]), ([True] * 4, [[True] * 6]), ([1, 2, 3, 4], [{}])])]},
])
def test_strange_content_is_told_and_never_raises(tmp_path, file):
    for number, sizes in enumerate([{'1.png': (3, 3)}, None]):
        _, left = repair_coco(write(tmp_path / 'a.json', file), tmp_path / f'b{number}.json', sizes)
        findings, _ = check_annotations(tmp_path / f'b{number}.json')
        doubtful = [line for line in left if 'does not fit' in line]
        assert len(left) == len([one for one in findings if one.severity != 'note']) + len(doubtful)


@needs_shared
@pytest.mark.parametrize('case', [path.name for path in sorted(BROKEN.glob('coco_*'))])
def test_the_copy_of_a_shared_case_passes_but_for_what_is_listed(tmp_path, case):
    sizes = {path.name: Image.open(path).size for path in (BROKEN / case / 'train2017').iterdir()}
    out = tmp_path / 'a.json'
    done, left = repair_coco(BROKEN / case / 'annotations' / 'instances_train2017.json', out, sizes)
    unsafe = {'coco_polygon_four_numbers': 1, 'coco_rle_too_short': 1, 'coco_rle_wrong_size': 1,
              'coco_segmentation_partly_missing': 2, 'coco_truncated_json': 1}
    assert len(left) == unsafe.get(case, 0)
    if case != 'coco_truncated_json':
        assert len([one for one in check_annotations(out)[0] if one.severity != 'note']) == len(left)
    sound = {'coco_control', 'coco_category_order_permuted', 'coco_image_without_annotations',
             'coco_category_misspelt', 'coco_image_file_missing'}
    assert bool(done) == (case not in sound and case not in unsafe)
