"""Predictions are read and checked before they are matched; a mistake is one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='mmdet is not installed')

from detection_helpers import draw_entries, draw_truth, flat, index, reference, runs

from backbones.analysis.detection_matches import check_detections, match, open_truth, overlaps_of, read_results
from backbones.evaluation.coco_scoring import Detections


@pytest.fixture
def truth() -> dict:
    return draw_truth(np.random.default_rng(0))


@pytest.fixture
def entries(truth: dict) -> list[dict]:
    return draw_entries(truth, np.random.default_rng(1), most=20)


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content, default=bytes.decode))
    return str(path)


def test_boxes_from_a_file_are_those_in_memory(tmp_path: Path, truth: dict, entries: list[dict]) -> None:
    coco = open_truth(written(tmp_path / 'truth.json', truth))
    read, known = read_results(coco, written(tmp_path / 'results.json', entries)), flat(entries)
    for name in ('images', 'categories', 'scores', 'boxes'):
        assert (getattr(read, name) == getattr(known, name)).all()


def test_masks_from_a_file_are_those_in_memory(tmp_path: Path, truth: dict, entries: list[dict]) -> None:
    coco = open_truth(written(tmp_path / 'truth.json', truth), masks=True)
    masked = [entry | dict(segmentation=runs(entry['bbox'])) for entry in entries]
    read, known = read_results(coco, written(tmp_path / 'results.json', masked), masks=True), flat(entries, masks=True)
    assert (read.areas() == known.areas()).all()
    first, second = overlaps_of(coco, read), overlaps_of(coco, known)
    assert all((a == b).all() for a, b in zip(first.ious, second.ious, strict=True))


@pytest.mark.parametrize('change, message', [
    (dict(image_id=999), 'entry 0 of .*image_id 999'), (dict(category_id=77), 'category_id 77'),
    (dict(score=float('nan')), 'finite'), (dict(bbox=[1, 2, 3]), 'four finite numbers'), (dict(bbox=None), 'neither')])
def test_a_wrong_entry_of_a_file_is_named(
    tmp_path: Path, truth: dict, entries: list[dict], change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_results(index(truth), written(tmp_path / 'results.json', [entries[0] | change, *entries[1:]]))


def test_a_file_of_boxes_is_not_read_as_masks(tmp_path: Path, truth: dict, entries: list[dict]) -> None:
    with pytest.raises(ValueError, match=r'entry 0 of .* has no segmentation; score boxes instead'):
        read_results(index(truth), written(tmp_path / 'results.json', entries), masks=True)


@pytest.mark.parametrize('content', [b'', b'{"a": 1}', b'[1]', b'\xff\xfe\x00', b'[{"image_id": []}]'])
def test_a_file_that_holds_no_results_is_refused(tmp_path: Path, truth: dict, content: bytes) -> None:
    (tmp_path / 'results.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'results\.json'):
        read_results(index(truth), tmp_path / 'results.json')


@pytest.mark.parametrize('name', ['nothing.json', ''])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, truth: dict, name: str) -> None:
    with pytest.raises(ValueError, match='cannot be read'):
        read_results(index(truth), tmp_path / name)


def test_an_empty_file_of_results_has_no_detections(tmp_path: Path, truth: dict) -> None:
    found = read_results(index(truth), written(tmp_path / 'results.json', []))
    assert len(found.images) == 0 and len(match(overlaps_of(index(truth), found)).rows) == 0


@pytest.mark.parametrize('change, message', [
    (dict(images=4000), 'image id that is not in the annotations, such as 4000 of detection 0'),
    (dict(categories=4000), 'category id that is not'), (dict(scores=np.inf), 'detection 0 .* no finite number'),
    (dict(boxes=np.nan), 'detection 0 .* no finite number')])
def test_detections_of_another_data_set_or_without_numbers_are_refused(
    truth: dict, entries: list[dict], change: dict, message: str
) -> None:
    found = flat(entries)
    for name, value in change.items():
        getattr(found, name)[0] = value
    with pytest.raises(ValueError, match=message):
        check_detections(index(truth), found)


@pytest.mark.parametrize('change', [
    dict(scores=np.zeros(4)), dict(boxes=np.zeros((3, 3))), dict(images=np.zeros(2, int)), dict(images=np.zeros(3)),
    dict(categories=[3, 3, 3]), dict(scores=np.array(['0.5'] * 3)), dict(scores=np.zeros((3, 1)))])
def test_arrays_that_do_not_fit_each_other_are_refused(truth: dict, entries: list[dict], change: dict) -> None:
    found = flat(entries[:3])
    with pytest.raises(ValueError, match='must be an array of'):
        check_detections(index(truth), replace(found, **change))


def test_detections_without_boxes_and_masks_are_refused(truth: dict, entries: list[dict]) -> None:
    found = flat(entries)
    with pytest.raises(ValueError, match='need boxes or masks'):
        check_detections(index(truth), Detections(found.images, found.categories, found.scores))


@pytest.mark.parametrize('mask', [None, dict(size=[3, 3], counts=b'9'), dict(counts=b'9')])
def test_a_mask_of_another_size_is_refused(truth: dict, entries: list[dict], mask: dict | None) -> None:
    found = flat(entries, masks=True)
    found.masks[2] = mask
    with pytest.raises(ValueError, match='the mask of detection 2'):
        check_detections(index(truth), found)


def test_annotations_without_categories_are_refused(truth: dict) -> None:
    with pytest.raises(ValueError, match='list no categories or no images'):
        check_detections(index(truth | dict(categories=[], annotations=[])), flat([]))


@pytest.mark.parametrize('kwargs', [dict(thresholds=(0.0,)), dict(thresholds=(1.5,)), dict(areas=('huge',))])
def test_an_unknown_size_or_threshold_is_refused(truth: dict, kwargs: dict) -> None:
    with pytest.raises(ValueError, match='must be above 0 and at most 1'):
        match(overlaps_of(index(truth), flat([])), **kwargs)


def test_the_best_detections_of_an_image_are_kept(truth: dict, entries: list[dict]) -> None:
    overlaps = overlaps_of(index(truth), flat(entries), max_per_image=3)
    found = flat(entries)
    for image, start, stop in zip(overlaps.images, overlaps.found_bounds, overlaps.found_bounds[1:], strict=False):
        best = np.sort(found.scores[found.images == image])[::-1][:3]
        assert overlaps.found.score[start:stop].tolist() == best.tolist()


def test_of_two_objects_that_overlap_alike_the_later_one_is_taken() -> None:
    image = dict(id=1, file_name='1.jpg', height=160, width=200)
    boxes = [[0.0, 0, 40, 40], [20.0, 0, 40, 40]]
    truth = dict(info={}, images=[image], categories=[dict(id=3, name='a')], annotations=[
        dict(id=n, image_id=1, category_id=3, bbox=box, area=1600.0, iscrowd=0) for n, box in enumerate(boxes, 1)])
    entries = [dict(image_id=1, category_id=3, bbox=[10.0, 0, 40, 40], score=0.9),
               dict(image_id=1, category_id=3, bbox=[0.0, 0, 40, 40], score=0.8)]
    taken, _ = match(overlaps_of(index(truth), flat(entries))).states()
    assert taken.tolist() == [1, 0]  # so that the second one finds the first
    assert reference(truth, entries).stats[1] == 1
