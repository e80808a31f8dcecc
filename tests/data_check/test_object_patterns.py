"""What all boxes of a file have wrong is one finding, in place of one for each."""

from __future__ import annotations

import pytest
from coco_toys import annotation, content, write

from backbones.data_check.annotations import check_annotations


def findings_of(tmp_path, boxes, **changes):
    file = content()
    file['annotations'] = [dict(annotation(number, box=box), **changes) for number, box in enumerate(boxes, 1)]
    return check_annotations(write(tmp_path / 'a.json', file))[0]


BOXES = [(2 + number, 3 + number, 20, 15) for number in range(12)]  # of pictures of 50 x 40


def test_sound_boxes_have_no_pattern(tmp_path):
    assert findings_of(tmp_path, BOXES) == []


@pytest.mark.parametrize(('change', 'kind'), [
    (lambda x, y, w, h: (x / 50, y / 40, w / 50, h / 40), 'boxes in shares'),
    (lambda x, y, w, h: (x + 14, y + 9, x + 14 + w - 8, y + 9 + h - 4), 'boxes as corners')])
def test_boxes_in_another_unit_are_one_error(tmp_path, change, kind):
    assert [(one.severity, one.kind) for one in findings_of(
        tmp_path, [change(*box) for box in BOXES], segmentation=[[1, 1, 9, 1, 9, 9]], area=30)] == [('error', kind)]


def test_some_boxes_outside_are_told_one_by_one(tmp_path):
    found = findings_of(tmp_path, [*BOXES, (40, 3, 30, 9)])
    assert [(one.kind, one.id) for one in found if one.severity == 'error'] == [('box outside', 13)]


def test_nothing_but_crowds_is_one_error(tmp_path):
    assert [one.kind for one in findings_of(tmp_path, BOXES, iscrowd=1)] == ['crowds only']
