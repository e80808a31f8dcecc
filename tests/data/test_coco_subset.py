"""A smaller annotation file is a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbones.data.coco_subset import subset_coco


@pytest.fixture
def ann_file(tmp_path: Path) -> Path:
    """Four images of which number 2 has no annotation."""
    path = tmp_path / 'all.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=8, height=8) for i in (4, 3, 2, 1)],
        annotations=[dict(id=i, image_id=image, category_id=7) for i, image in enumerate((1, 1, 3, 4))],
        categories=[dict(id=7, name='a'), dict(id=9, name='b')])))
    return path


def test_the_first_annotated_images_are_kept_with_all_their_objects(ann_file: Path, tmp_path: Path) -> None:
    assert subset_coco(ann_file, tmp_path / 'two.json', 2) == [1, 3]
    content = json.loads((tmp_path / 'two.json').read_text())
    assert {image['id'] for image in content['images']} == {1, 3}
    assert [entry['image_id'] for entry in content['annotations']] == [1, 1, 3]
    assert len(content['categories']) == 2


def test_an_existing_file_is_not_overwritten(ann_file: Path) -> None:
    before = ann_file.read_text()
    with pytest.raises(ValueError, match='nothing is overwritten'):
        subset_coco(ann_file, ann_file, 1)
    assert ann_file.read_text() == before


def test_images_of_given_ids_are_kept(ann_file: Path, tmp_path: Path) -> None:
    assert subset_coco(ann_file, tmp_path / 'two.json', ids=[4, 2]) == [2, 4]
    content = json.loads((tmp_path / 'two.json').read_text())
    assert {image['id'] for image in content['images']} == {2, 4}
    assert [entry['image_id'] for entry in content['annotations']] == [4]


def test_an_id_that_is_not_there_is_refused(ann_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'has no image 5, 9 \(4 images\)'):
        subset_coco(ann_file, tmp_path / 'x.json', ids=[9, 1, 5])
    assert not (tmp_path / 'x.json').exists()


@pytest.mark.parametrize('count', [0, 4])
def test_more_images_than_there_are_is_refused(ann_file: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match='has 3 annotated images'):
        subset_coco(ann_file, tmp_path / 'x.json', count)
