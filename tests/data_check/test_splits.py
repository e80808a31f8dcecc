"""Classes by name between a config and the splits, pictures in two splits, and drift."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from backbones.data_check.annotations import Annotations, check_annotations
from backbones.data_check.splits import check_splits

BROKEN = SHARED / 'data' / 'broken'
CLASSES = ('person', 'bicycle', 'car')


def split(
    categories: dict[str, int] | tuple[str, ...] = CLASSES, objects: list[tuple[int, int]] | None = None,
    name: str = 'train', pictures: int = 5, side: float = 10, crowd: bool = False,
) -> Annotations:
    """A split with `objects` (picture, category by place) of side pixels."""
    if not isinstance(categories, dict):
        categories = {one: number + 1 for number, one in enumerate(categories)}
    categories = dict(sorted(categories.items(), key=lambda item: item[1]))
    objects = [(0, 0)] if objects is None else objects
    count = len(objects)
    image, category = (np.array([pair[side] for pair in objects], np.int64) for side in (0, 1))
    boxes = np.tile([1.0, 2.0, side, side], (count, 1)) + np.arange(count)[:, None] * [0.01, 0, 0, 0]
    return Annotations(
        f'{name}.json', tuple(categories), tuple(categories.values()), [f'{name}{n}.jpg' for n in range(pictures)],
        list(range(pictures)), np.full(pictures, 64.0), np.full(pictures, 48.0), list(range(count)), image, category,
        boxes, np.full(count, side * side), np.full(count, crowd), np.ones(count, bool))


def told(splits: dict, classes: tuple | None = None) -> list[tuple]:
    return [(one.severity, one.kind, one.id, one.value) for one in check_splits(splits, classes)]


def test_splits_that_agree_are_silent_whatever_the_config_says():
    splits = dict(train=split(), val=split(name='val'))
    assert told(splits) == told(splits, CLASSES) == told(splits, ['car', 'person', 'bicycle']) == []
    assert told({}) == told(dict(val=split())) == []


def test_a_misspelt_class_is_one_error_with_both_names():
    found = check_splits(dict(train=split(), val=split(('persn', 'bicycle', 'car'), name='val')))
    assert [(one.severity, one.kind, one.file, one.id, one.field, one.value) for one in found] == [
        ('error', 'class misspelt', 'val.json', 1, 'name', 'persn')]
    assert "'persn'" in found[0].message and "'person'" in found[0].message


def test_capitals_count():
    assert told(dict(train=split(), val=split(('Person', 'bicycle', 'car'), name='val'))) == [
        ('error', 'class misspelt', 1, 'Person')]


def test_a_missing_and_an_extra_class_are_errors_without_classes_in_the_config():
    assert told(dict(train=split(), val=split(('person', 'bicycle'), name='val'))) == [
        ('error', 'class missing', None, 'car')]
    assert told(dict(train=split(('person', 'car')), val=split(('person', 'tree', 'car'), name='val'))) == [
        ('error', 'class extra', 2, 'tree'), ('note', 'class ids', 3, 3)]


def test_the_split_that_is_trained_on_is_the_standard_wherever_it_stands():
    found = check_splits(dict(val2017=split(('persn', 'bicycle', 'car'), name='val'), train2017=split()))
    assert [one.file for one in found] == ['val.json']


def test_ids_in_another_order_are_an_error_where_labels_follow_them():
    splits = dict(train=split(dict(person=1, car=2)), val=split(dict(car=1, person=2), name='val'))
    found = check_splits(splits)
    assert [(one.severity, one.kind) for one in found] == [('error', 'class order')]
    assert "label 0 is 'person' in train and 'car' in val" in found[0].message
    assert told(splits, ('person', 'car')) == [('note', 'class ids', 1, 1)]


def test_other_ids_in_the_same_order_are_a_note():
    assert told(dict(train=split(dict(person=1, car=2)), val=split(dict(person=0, car=5), name='val'))) == [
        ('note', 'class ids', 0, 0)]


def test_a_class_of_the_config_that_a_file_lacks_is_an_error_for_each_file():
    found = check_splits(dict(train=split(name='train'), val=split(name='val')), (*CLASSES, 'zebra'))
    assert [(one.kind, one.file, one.value) for one in found] == [
        ('class missing', 'train.json', 'zebra'), ('class missing', 'val.json', 'zebra')]
    assert told(dict(train=split()), ('person', 'bycicle', 'car')) == [('error', 'class misspelt', 2, 'bicycle')]


def test_a_choice_of_classes_is_a_note_with_the_objects_it_leaves_out():
    found = check_splits(dict(train=split(objects=[(0, 0), (0, 1), (1, 2), (1, 2)])), ('person',))
    assert [(one.severity, one.kind) for one in found] == [('note', 'class left out')]
    assert '2 classes with 3 objects' in found[0].message


@pytest.mark.parametrize('classes', ['person', ('person', 'person'), ('person', 7)])
def test_classes_that_are_no_list_of_names_are_an_error(classes):
    assert [one[:2] for one in told(dict(train=split()), classes)] == [('error', 'classes')]


def test_a_class_that_is_only_scored_is_a_warning_where_it_is_no_chance():
    def splits(count: int, pictures: int = 50, objects: int = 1) -> dict:
        scored = [(picture, 2) for picture in range(count) for _ in range(objects)]
        return dict(train=split(pictures=pictures), val=split(objects=scored, name='val', pictures=10))

    assert told(splits(2, objects=50)) == []
    assert told(splits(3, pictures=33)) == []
    assert told(splits(3)) == [('warning', 'class only scored', 3, 3)]
    assert told(splits(10), ('person', 'bicycle')) == [
        ('note', 'class left out', None, 'car')] * 2


def test_a_picture_with_the_same_objects_in_two_splits_is_a_warning():
    objects = [(0, 0), (0, 1), (3, 2)]
    found = check_splits(dict(train=split(objects=objects), val=split(objects=objects, name='train')))
    assert [(one.severity, one.kind, one.value) for one in found] == [
        ('warning', 'picture in two splits', 'train0.jpg'), ('warning', 'picture in two splits', 'train3.jpg')]


def test_the_same_names_with_other_objects_are_silent():
    splits = dict(train=split(objects=[(0, 0)], side=10), val=split(objects=[(0, 0)], side=12))
    assert told(splits) == []


def drawn(seed: int, shares: list[float], pictures: int = 200, **arguments) -> Annotations:
    """Pictures with 1 to 9 objects, all of one class."""
    draw = np.random.default_rng(seed)
    objects = [
        (picture, int(label)) for picture, label in enumerate(draw.choice(3, pictures, p=shares))
        for _ in range(draw.integers(1, 10))]
    return split(objects=objects, pictures=pictures, name=f's{seed}', **arguments)


def test_another_share_of_the_classes_is_a_warning():
    found = check_splits(dict(train=drawn(0, [0.6, 0.3, 0.1]), val=drawn(1, [0.2, 0.3, 0.5])))
    assert [(one.severity, one.kind) for one in found] == [('warning', 'class drift')]
    assert 'person 53% and 16%' in found[0].message


def test_other_sizes_are_a_warning():
    found = check_splits(dict(train=drawn(0, [0.6, 0.3, 0.1]), val=drawn(1, [0.6, 0.3, 0.1], side=40)))
    assert [(one.severity, one.kind) for one in found] == [('warning', 'size drift')]
    assert '10 and 40 pixels' in found[0].message


@pytest.mark.parametrize('seed', range(1, 7))
def test_chance_is_no_drift(seed):
    assert told(dict(train=drawn(0, [0.6, 0.3, 0.1]), val=drawn(seed, [0.6, 0.3, 0.1], 120))) == []


def test_small_splits_are_never_called_drifting():
    assert told(dict(train=drawn(0, [1, 0, 0]), val=drawn(1, [0, 0, 1], 90)))[0][1] == 'class only scored'
    assert told(dict(train=drawn(0, [0.9, 0, 0.1]), val=drawn(1, [0, 0, 1], 90))) == []


@needs_shared
@pytest.mark.parametrize('case', [path.name for path in sorted(BROKEN.glob('coco_*'))])
def test_of_the_shared_cases_only_the_misspelt_class_is_found(case):
    splits = {name: check_annotations(BROKEN / case / 'annotations' / f'instances_{name}.json')[1]
              for name in ('train2017', 'val2017')}
    expected = [('error', 'class misspelt', 1, 'persn')] if case == 'coco_category_misspelt' else []
    assert told({name: read for name, read in splits.items() if read}) == expected
