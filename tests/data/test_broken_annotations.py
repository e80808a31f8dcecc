"""Eighty ways to break a COCO file, each with its outcome: no crash, no hang, no mask of anything but 0 and 1.

Every case runs in a process of its own with a limit of 5 seconds: pycocotools dies of some of them.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from PIL import Image

mmdet = pytest.importorskip('mmdet', reason='mmdet is not installed')

from pycocotools import mask as coco_mask  # noqa: E402

from backbones.data.coco import CocoDataset  # noqa: E402
from backbones.evaluation.coco_api import CheckedCoco  # noqa: E402

H, W = 40, 50
SECONDS = 5
NAN, INF = float('nan'), float('inf')
SQUARE = [1, 2, 11, 2, 11, 12, 1, 12]


def runs(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask))['counts'].decode()


PART = np.zeros((H, W), np.uint8)
PART[5:20, 10:30] = 1
STRING = runs(PART)


def content() -> dict:
    def annotation(number: int, image: int, **changes) -> dict:
        return dict(id=number, image_id=image, category_id=2, iscrowd=0, area=100, bbox=[1, 2, 10, 10],
                    segmentation=[list(SQUARE)]) | changes

    return dict(
        images=[dict(id=n, file_name=f'{n}.png', height=H, width=W) for n in (1, 2)],
        categories=[dict(id=2, name='disc'), dict(id=5, name='box')],
        annotations=[annotation(1, 1), annotation(2, 1, category_id=5), annotation(3, 2)],
    )


def first(**changes) -> Callable[[dict], None]:
    """Change the first annotation; a value of None takes the key away."""

    def change(file: dict) -> None:
        entry = file['annotations'][0]
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del entry[key]

    return change


def rle(counts: list | str, size: object = (H, W)) -> Callable[[dict], None]:
    return first(segmentation=dict(counts=counts, size=list(size) if isinstance(size, tuple) else size))


def image(**changes) -> Callable[[dict], None]:
    return lambda file: file['images'][0].update(changes)


def polygon(*values: object) -> Callable[[dict], None]:
    return first(segmentation=[list(values)])


def orphan(file: dict) -> None:
    file['annotations'][0]['image_id'] = 99


def all_orphans(file: dict) -> None:
    for entry in file['annotations']:
        entry['image_id'] += 98


def quoted(file: dict) -> None:
    for entry in file['images']:
        entry['id'] = str(entry['id'])


def twice(kind: str) -> Callable[[dict], None]:
    return lambda file: file[kind].append(dict(file[kind][0]))


# name: (change, what training says, or the number of objects of picture 1 that count; the same of the evaluator)
NO_MASK = 'have no segmentation'
CASES = {
    'sound': (lambda file: None, 2, 2),
    'polygon with NaN': (polygon(1, 2, NAN, 4, 5, 6), 'no finite number', None),
    'polygon with infinity': (polygon(1, 2, INF, 4, 5, 6), 'no finite number', None),
    'polygon with both infinities': (polygon(1, 2, INF, 4, -INF, 6), 'no finite number', None),
    'polygon at 1e8': (polygon(1, 2, 1e8, 1e8, 5, 6), 'far outside', None),
    'polygon at -1e8': (polygon(1, 2, -1e8, 4, 5, 6), 'far outside', None),
    'polygon of words': (polygon('1', '2', '3', '4', '5', '6'), 'no finite number', None),
    'polygon with null': (polygon(1, 2, None, 4, 5, 6), 'no finite number', None),
    'polygon with a huge whole number': (polygon(1, 2, 10**400, 4, 5, 6), 'no finite number', None),
    'polygon not in a list': (first(segmentation=list(SQUARE)), 'no finite number', None),
    'points in pairs': (first(segmentation=[[[1, 2], [11, 2], [11, 12]]]), 'no finite number', None),
    'polygon of four numbers': (polygon(1, 2, 3, 4), 1, 2),
    'polygon of seven numbers': (polygon(1, 2, 3, 4, 5, 6, 7), 1, 2),
    'polygon of no numbers': (polygon(), 1, 2),
    'a short polygon beside a good one': (first(segmentation=[[1, 2, 3, 4], list(SQUARE)]), 2, 2),
    'polygon a little outside': (polygon(-20, -20, 60, -20, 60, 60, -20, 60), 2, 2),
    'mask missing': (first(segmentation=None), 1, NO_MASK),
    'mask empty': (first(segmentation=[]), 1, NO_MASK),
    'mask of another kind': (first(segmentation='mask.png'), 'neither polygons nor', None),
    'runs too short': (rle([100, 100]), 'add up to 200 pixels', None),
    'runs too long': (rle([100, 5000]), 'add up to 5100 pixels', None),
    'runs of another size': (rle([H * W], (W, H)), r'run-length mask of size \[50, 40\]', None),
    'runs of a size that is no list': (rle([H * W], 2000), 'run-length mask of size 2000', None),
    'negative run': (rle([-100, H * W + 100]), 'no whole number of 0 or more', None),
    'broken run': (rle([0.5, H * W - 0.5]), 'no whole number of 0 or more', None),
    'no runs': (rle([]), 'add up to 0 pixels', None),
    'runs as a list': (rle([100, 50, H * W - 150]), 2, 2),
    'runs as a string': (rle(STRING), 2, 2),
    'string too short': (rle(runs(PART[:, :40])), 'add up to 1600 pixels', None),
    'string too long': (rle(runs(np.pad(PART, ((0, 0), (0, 9))))), 'add up to 2360 pixels', None),
    'string cut within a number': (rle(STRING + 'o'), "no string of COCO's kind", None),
    'string of other signs': (rle('!!! ' + STRING), "no string of COCO's kind", None),
    'string of foreign letters': (rle(STRING + '\u00fc'), "no string of COCO's kind", None),
    'string of one endless number': (rle('o' * 500 + '0'), "no string of COCO's kind", None),
    'box with NaN': (first(bbox=[1, NAN, 3, 4]), 'finite', None),
    'box with infinity': (first(bbox=[1, 2, INF, 4]), 'finite', None),
    'box of three': (first(bbox=[1, 2, 3]), 'must be four numbers', None),
    'box with a huge whole number': (first(bbox=[1, 2, 10**400, 4]), 'must be four numbers', None),
    'box at 1e8': (first(bbox=[1, 2, 1e8, 4]), 'far outside its picture', None),
    'box of negative width and polygon of two numbers': (first(bbox=[9, 2, -5, 10], segmentation=[[1, 2]]), 1, 2),
    'box of negative width': (first(bbox=[9, 2, -5, 10]), 1, 2),
    'box without area': (first(bbox=[9, 2, 0, 10]), 1, 2),
    'box outside': (first(bbox=[80, 2, 10, 10]), 1, 2),
    'area that is none': (first(area='large'), 'must be four numbers', None),
    'area missing': (first(area=None), 2, 2),
    'crowd not told': (first(iscrowd=None), 2, 2),
    'annotation id twice': (twice('annotations'), 'the id 1 2 times', None),
    'image id twice': (twice('images'), 'the id 1 2 times', None),
    'class id twice': (twice('categories'), 'the id 2 2 times', None),
    'id 0': (first(id=0), 2, 2),
    'id that is a list': (first(id=[1]), 'ids must be whole numbers', None),
    'class id that is a list': (first(category_id=[2]), 'ids must be whole numbers', None),
    'image id that is a list': (first(image_id=[1]), 'ids must be whole numbers', None),
    'ids of numbers and words': (image(id='a'), 'ids must be whole numbers', None),
    'crowd of words': (first(iscrowd='no'), 'iscrowd .no.; it must be 0 or 1', None),
    'unknown class': (first(category_id=7), 'category_id 7, which is not', None),
    'unknown image': (orphan, 1, 1),
    'all images unknown': (all_orphans, 'none of the 3 annotations .* belongs to a picture', None),
    'image ids in quotes': (quoted, r"image_id are 1, 2 while 'images' has the ids '1', '2'", None),
    'ignored': (first(ignore=1), 1, 2),
    'not ignored': (first(ignore=0), 2, 2),
    'ignored by a word': (first(ignore='no'), "ignore 'no'; it must be 0 or 1", None),
    'ignored twice': (first(ignore=2), 'ignore 2; it must be 0 or 1', None),
    'polygon of one point': (polygon(10, 10, 10, 10, 10, 10), 1, 2),
    'polygon there and back': (polygon(10, 10, 30, 20, 10, 10), 1, 2),
    'polygon on a line of broken numbers': (polygon(0.1, 0.1, 10.2, 20.3, 20.3, 40.5), 1, 2),
    'polygon that begins on a line': (polygon(1, 2, 5, 2, 11, 2, 11, 12), 2, 2),
    'polygon whose first points are one': (polygon(1, 2, 1, 2, 1, 2, 11, 2, 11, 12), 2, 2),
    'polygon that crosses itself': (polygon(10, 10, 30, 30, 30, 10, 10, 30), 2, 2),
    'a flat polygon beside a good one': (first(segmentation=[[1, 2, 5, 2, 11, 2], list(SQUARE)]), 2, 2),
    'runs of background only': (rle([H * W]), 1, 2),
    'many runs of background only': (rle([100, 0, H * W - 100, 0]), 1, 2),
    'string of background only': (rle(runs(np.zeros((H, W), np.uint8))), 1, 2),
    'width of words': (image(width='50'), 'must be whole numbers of 1', None),
    'width of 0': (image(width=0), 'must be whole numbers of 1', None),
    'file name that is none': (image(file_name=None), 'it must be a name', None),
    'annotation that is a number': (lambda file: file['annotations'].append(7), 'must be an object', None),
    'annotations that are an object': (lambda file: file.update(annotations={}), 'must hold the lists', None),
    'NaN elsewhere': (image(score=NAN), 'the word NaN', None),
}


def in_process(work: Callable[[], object]) -> object:
    """Run `work` in a forked process; a crash or a hang fails the test."""
    context = multiprocessing.get_context('fork')
    here, there = context.Pipe(duplex=False)

    def child() -> None:
        gc.freeze()  # a collection would copy all memory of the parent
        try:
            there.send((True, work()))
        except ValueError as error:
            there.send((False, str(error)))

    process = context.Process(target=child, daemon=True)
    process.start()
    there.close()
    try:
        assert here.poll(SECONDS), f'nothing after {SECONDS} s'
        return here.recv()
    except EOFError:
        process.join()
        pytest.fail(f'the process died: exit code {process.exitcode}')
    finally:
        process.kill()
        process.join()


def train(root: str, ann_file: str = 'a.json', images: str = '') -> list[int]:
    """Load everything as in training; return how many objects of each picture count."""
    pipeline = [dict(type='backbones.LoadImageFromFile'),
                dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]
    dataset = CocoDataset(data_root=root, ann_file=ann_file, data_prefix=dict(img=images), pipeline=pipeline)
    counts = []
    for i in range(len(dataset)):
        sample = dataset[i]
        assert set(np.unique(sample['gt_masks'].masks).tolist()) <= {0, 1}
        assert np.isfinite(sample['gt_bboxes'].tensor.numpy()).all()
        counts.append(int((~sample['gt_ignore_flags']).sum()))
    return counts


def score(file: str) -> list[int]:
    """Index and decode everything as in evaluation; return the number of objects of each picture."""
    truth = CheckedCoco(file, masks=True)
    for entry in truth.dataset['annotations']:
        assert set(np.unique(truth.annToMask(entry)).tolist()) <= {0, 1}
        assert entry['id'] > 0 and 'area' in entry and 'iscrowd' in entry
    return [len(truth.getAnnIds(imgIds=[number])) for number in sorted(truth.imgs)]


def check(outcome: tuple[bool, object], expected: str | int, file: str) -> None:
    fine, result = outcome
    if isinstance(expected, str):
        assert not fine, f'accepted with {result}'
        assert re.search(expected, result) and file in result, result
    else:
        assert fine, result
        assert result[0] == expected


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.mark.parametrize('name', CASES)
def test_a_broken_file_has_its_outcome_in_training_and_in_evaluation(tmp_path, name):
    change, training, evaluation = CASES[name]
    for number in (1, 2):
        Image.new('RGB', (W, H)).save(tmp_path / f'{number}.png')
    broken = content()
    change(broken)
    (tmp_path / 'a.json').write_text(json.dumps(broken))
    check(in_process(lambda: train(str(tmp_path))), training, 'a.json')
    check(in_process(lambda: score(str(tmp_path / 'a.json'))), training if evaluation is None else evaluation, 'a.json')


@pytest.mark.parametrize('text', [
    b'', b'{"images": [', b'<html>', b'\xff\xfe\x00\xd8', b'[' * 100_000, b'{"images": ' + b'9' * 5000 + b'}', b'7',
    b'null',
], ids=['empty', 'cut', 'html', 'no text', 'brackets', 'digits', 'number', 'null'])
def test_what_is_no_annotation_file_is_refused(tmp_path, text):
    (tmp_path / 'a.json').write_bytes(text)
    check(in_process(lambda: score(str(tmp_path / 'a.json'))), 'not readable as JSON|no COCO file', 'a.json')


@pytest.mark.parametrize('old, new', [
    ('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 1'), ('"categories"', '"images": [], "categories"')])
def test_a_key_that_is_there_twice_is_an_error(tmp_path, old, new):
    (tmp_path / 'a.json').write_text(json.dumps(content()).replace(old, new, 1))
    key = old.split('"')[1] if 'iscrowd' in old else 'images'
    check(in_process(lambda: score(str(tmp_path / 'a.json'))), f"an object that holds '{key}' twice", 'a.json')


SAID = {
    'ignored': "1 annotations are left out: they have ignore 1, which COCO's score does not look at; ids 1",
    'polygon of one point': '1 annotations have no mask, or none with a pixel',
    'string of background only': '1 annotations have no mask, or none with a pixel',
    'a flat polygon beside a good one': 'half a point or no area, which are left out; ids 1',
}


@pytest.mark.parametrize('name', SAID)
def test_what_does_not_count_is_said(tmp_path, name):
    for number in (1, 2):
        Image.new('RGB', (W, H)).save(tmp_path / f'{number}.png')
    broken = content()
    CASES[name][0](broken)
    (tmp_path / 'a.json').write_text(json.dumps(broken))
    fine, notices = in_process(lambda: said(tmp_path, 'a.json', ''))
    assert fine and len(notices) == 1 and SAID[name] in notices[0]


DEFECTS = {  # of the shared cases: what training says, or None where it counts and goes on
    'coco_bbox_outside_partly': None,
    'coco_dangling_image_id': None,
    'coco_duplicate_annotation_id': 'the id 2 2 times',
    'coco_huge_coordinates': 'annotation 2 .* far outside',
    'coco_image_file_missing': '000000000208.jpg',
    'coco_image_size_mismatch': '000000000165.jpg is 160x134 .* for 640x536',
    'coco_nan_bbox': 'annotation 1 .* finite',
    'coco_nan_polygon': 'annotation 2 .* no finite number',
    'coco_negative_width': None,
    'coco_polygon_four_numbers': None,
    'coco_rle_too_short': 'annotation 2 .* add up to 21167',
    'coco_rle_wrong_size': 'annotation 2 .* run-length mask of size',
    'coco_segmentation_partly_missing': None,
    'coco_truncated_json': 'not readable as JSON',
    'coco_zero_area_box': None,
    'image_html_as_jpg': '000000000208.jpg is a web page',
}
REPORTED = {
    'coco_bbox_outside_partly': 'reaches more than a pixel beyond',
    'coco_dangling_image_id': 'no picture of their image_id',
    'coco_negative_width': 'less than a pixel',
    'coco_polygon_four_numbers': 'have no mask, or none with a pixel',
    'coco_segmentation_partly_missing': 'have no mask, or none with a pixel',
    'coco_zero_area_box': 'less than a pixel',
}


def shared_cases() -> list[str]:
    folders = (SHARED / 'data' / 'broken').glob('*/annotations/instances_train2017.json')
    return sorted(path.parts[-3] for path in folders)


@needs_shared
@pytest.mark.parametrize('case', shared_cases())
def test_a_shared_case_has_its_verdict(case):
    root = SHARED / 'data' / 'broken' / case
    verdict = (root / 'expected.txt').read_text().split(':')[0]
    ann_file = 'annotations/instances_train2017.json'
    outcome = in_process(lambda: (train(str(root), ann_file, 'train2017'), said(root, ann_file)))
    message = DEFECTS.get(case)
    if message:
        assert verdict == 'Defect'
        check(outcome, message, '')
    else:
        assert outcome[0], outcome[1]
        notices = outcome[1][1]
        assert bool(notices) == (case in REPORTED), notices
        assert REPORTED.get(case, '') in ' '.join(notices)
        assert (verdict == 'Defect') == (case in REPORTED) or case == 'coco_category_misspelt'  # the splits disagree


def said(root: Path, ann_file: str, images: str = 'train2017') -> list[str]:
    """The warnings of loading."""
    from backbones.data import coco

    notices: list[str] = []
    coco.print_log = lambda text, logger, level: notices.append(text)  # in the forked process only
    CocoDataset(data_root=str(root), ann_file=ann_file, data_prefix=dict(img=images), pipeline=[])
    return notices
