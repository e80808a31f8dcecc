"""The generated demo data set: the same bytes every time, and true COCO and ADE20K-style files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.data.demo import CLASSES, STUFF, THINGS, generate_demo
from backbones.data.polygons import encode_mask, run_lengths, trace_borders

SMALL = dict(num_train=20, num_val=4, size=(96, 112), progress=False)


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def demo(tmp_path_factory) -> Path:
    return generate_demo(tmp_path_factory.mktemp('demo') / 'set', **SMALL)


@pytest.fixture(scope='module')
def coco(demo) -> COCO:
    return COCO(demo / 'annotations/instances_train.json')


@pytest.fixture(scope='module')
def annotations(coco) -> list[dict]:
    return coco.dataset['annotations']


def test_two_runs_give_the_same_bytes(demo, tmp_path):
    again = generate_demo(tmp_path / 'again', **SMALL)
    assert checksums(again) == checksums(demo)


def test_another_seed_gives_other_pictures(demo, tmp_path):
    other = generate_demo(tmp_path / 'other', num_train=1, num_val=1, size=(96, 112), seed=1, progress=False)
    name = 'images/training/000001.jpg'
    assert (other / name).read_bytes() != (demo / name).read_bytes()


def test_a_picture_does_not_depend_on_how_many_others_there_are(demo, tmp_path):
    other = generate_demo(tmp_path / 'other', num_train=2, num_val=1, size=(96, 112), progress=False)
    name = 'images/training/000002.jpg'
    assert (other / name).read_bytes() == (demo / name).read_bytes()


def test_a_complete_set_is_kept_as_it_is(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob('*')}
    assert generate_demo(demo, **SMALL) == demo
    assert {path: path.stat().st_mtime_ns for path in demo.rglob('*')} == before


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='holds other files and is not overwritten'):
        generate_demo(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_a_set_of_other_parameters_is_not_overwritten(demo):
    before = checksums(demo)
    with pytest.raises(ValueError, match=r"'seed': 0.*not with.*'seed': 5"):
        generate_demo(demo, **SMALL, seed=5)
    assert checksums(demo) == before


def test_a_set_that_lost_a_file_is_reported(tmp_path):
    root = generate_demo(tmp_path / 'set', num_train=1, num_val=1, size=(64, 64), progress=False)
    (root / 'annotations/validation/000001.png').unlink()
    with pytest.raises(ValueError, match=r'lacks 1 files.*annotations/validation/000001.png'):
        generate_demo(root, num_train=1, num_val=1, size=(64, 64), progress=False)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('backbones.data.demo._box', fail)
    with pytest.raises(KeyboardInterrupt):
        generate_demo(tmp_path / 'set', **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'arguments', [dict(num_train=0), dict(num_val=-1), dict(size=(8, 96)), dict(seed=-1)]
)
def test_an_argument_out_of_range_is_named(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        generate_demo(tmp_path / 'set', **{**SMALL, **arguments})


def test_category_ids_have_gaps(coco):
    ids = sorted(coco.cats)
    assert ids == sorted(THINGS.values()) and ids != list(range(1, len(ids) + 1))


def test_every_class_is_there(coco, annotations, demo):
    assert {annotation['category_id'] for annotation in annotations} == set(THINGS.values())
    values = set()
    for path in (demo / 'annotations/training').iterdir():
        values |= set(np.unique(np.asarray(Image.open(path))).tolist())
    assert values == set(range(len(CLASSES) + 1))
    assert (demo / 'classes.txt').read_text().split() == [*THINGS, *STUFF]


def test_a_tenth_of_the_pictures_has_no_object_and_a_tenth_has_a_crowd(coco, annotations):
    per_image = Counter(annotation['image_id'] for annotation in annotations)
    assert [image for image in coco.imgs if image not in per_image] == [4, 14]
    assert [annotation['image_id'] for annotation in annotations if annotation['iscrowd']] == [7, 17]


def test_masks_come_as_polygons_of_one_and_more_parts_as_strings_and_as_lists(annotations):
    def kind(mask):
        if isinstance(mask, dict):
            return type(mask['counts']).__name__
        return 'one part' if len(mask) == 1 else 'parts'

    kinds = Counter((kind(annotation['segmentation']), annotation['iscrowd']) for annotation in annotations)
    assert set(kinds) == {('one part', 0), ('parts', 0), ('str', 0), ('list', 1)}


def test_boxes_and_areas_are_those_of_the_masks(coco, annotations):
    for annotation in annotations:
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        assert annotation['area'] == mask.sum() >= 30
        assert annotation['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_masks_of_a_picture_do_not_overlap(coco):
    for image in coco.imgs:
        masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds([image]))]
        assert not masks or np.sum(masks, axis=0).max() == 1


def test_label_maps_agree_with_the_masks(coco, demo):
    for image, entry in coco.imgs.items():
        labels = np.asarray(
            Image.open(demo / 'annotations/training' / entry['file_name'].replace('.jpg', '.png'))
        )
        things = np.zeros_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds([image])):
            mask = coco.annToMask(annotation) == 1
            name = coco.cats[annotation['category_id']]['name']
            things[mask] = CLASSES.index(name) + 1
            expected = {0} if annotation['iscrowd'] else {0, CLASSES.index(name) + 1}  # 0: an unclear edge
            assert set(labels[mask].tolist()) <= expected
            assert annotation['iscrowd'] or labels[mask].any()
        assert set(labels[things == 0].tolist()) <= {0, *range(len(THINGS) + 1, len(CLASSES) + 1)}
        assert (labels == 0).mean() < 0.15  # thin borders, and a crowd at most


def test_pictures_have_the_listed_size(coco, demo):
    for entry in coco.imgs.values():
        with Image.open(demo / 'images/training' / entry['file_name']) as image:
            assert image.size == (entry['width'], entry['height']) == (112, 96) and image.mode == 'RGB'


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_ground_truth_as_prediction_has_ap_1(coco, annotations, kind):
    predictions = [
        dict(
            image_id=annotation['image_id'],
            category_id=annotation['category_id'],
            score=1.0,
            bbox=annotation['bbox'],
            segmentation=coco.annToRLE(annotation),
        )
        for annotation in annotations
        if not annotation['iscrowd']
    ]
    evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(predictions, default=bytes.decode))), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_pixels_that_touch_by_a_corner_are_two_parts():
    loops = trace_borders(np.eye(2, dtype=bool))
    assert sorted(loop.tolist() for loop in loops) == sorted(
        [[[0.0, 0.5], [0.5, 1.0], [1.0, 0.5], [0.5, 0.0]], [[1.0, 1.5], [1.5, 2.0], [2.0, 1.5], [1.5, 1.0]]]
    )


def test_a_mask_with_a_hole_becomes_a_string():
    mask = np.ones((7, 7), bool)
    mask[3, 3] = False
    assert isinstance(encode_mask(mask)['counts'], str)


def test_run_lengths_start_with_zeros_and_go_down_the_columns():
    assert run_lengths(np.array([[1, 0], [1, 1]], bool)) == [0, 2, 1, 1]
