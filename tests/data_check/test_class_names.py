"""Names of one set of classes that are hardly meant to be two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbones.data_check.annotations import check_annotations
from backbones.data_check.class_names import names_alike
from backbones.data_check.label_reading import given_classes, read_classes


@pytest.mark.parametrize('other', [
    'traffic_light', 'Traffic Light', 'traffic-light', ' traffic  light', 'trafficlight', 'TRAFFIC LIGHT',
    'traffic\u00a0light'])
def test_another_spelling_of_a_name_is_found(other: str) -> None:
    assert names_alike(['car', 'traffic light', other]) == [(2, 1)]


@pytest.mark.parametrize('names', [
    ['car', 'cars'], ['lot 1-1', 'lot 11'], ['-', '_'], ['', 'a'], ['c', 'c#'], ['same', 'same'], [1, 1.0]])
def test_names_that_may_well_be_two_are_left_alone(names: list) -> None:
    assert names_alike(names) == []


def test_the_published_classes_have_no_two_alike() -> None:
    from mmdet.datasets import CocoDataset, LVISV1Dataset
    from mmseg.datasets import ADE20KDataset, COCOStuffDataset

    for kind in (CocoDataset, LVISV1Dataset, ADE20KDataset, COCOStuffDataset):
        assert names_alike(kind.METAINFO['classes']) == [], kind


def test_an_annotation_file_with_two_spellings_is_warned_of(tmp_path: Path) -> None:
    names = ['car', 'traffic light', 'traffic_light']
    (tmp_path / 'a.json').write_text(json.dumps(dict(
        images=[], annotations=[], categories=[dict(id=n, name=name) for n, name in enumerate(names, 1)])))
    found = [one for one in check_annotations(tmp_path / 'a.json')[0] if one.kind == 'class name']
    assert [(one.severity, one.id) for one in found] == [('warning', 3)]
    assert found[0].message.startswith("category 3 is 'traffic_light' and category 2 'traffic light': they differ only")


def test_a_list_of_classes_with_two_spellings_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / 'classes.txt').write_text('road\nside walk\nSide_Walk\n')
    for found in (read_classes(str(tmp_path / 'classes.txt')), given_classes(['road', 'side walk', 'Side_Walk'])):
        assert [(one.severity, one.kind, one.id) for one in found.findings] == [('warning', 'class name', 3)]
