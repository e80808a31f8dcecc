"""What to try first: each rule fires on its evidence, shows it, and is silent within noise."""

from __future__ import annotations

import copy

import pytest

from backbones.report.charts_advice import (
    confused_classes,
    confused_labels,
    costliest_kind,
    first_of,
    largest_of,
    missed_regions,
    part_range,
    rough_boundaries,
    small_objects,
    weakest_of,
    worst_class,
)


def interval(value: float, room: float, images: int = 50) -> dict:
    return dict(value=value, low=value - room, high=value + room, error=room / 2, images=images)


def without(one: dict) -> dict:
    return one | dict(low=None, high=None, error=None)


def detected(**dap: float) -> dict:
    kinds = dict(classification=0.01, localisation=0.01, both=0.01, duplicate=0.01, background=0.01, missed=0.01) | dap
    sizes = {size: dict(dap=dict(kinds, missed=kinds['missed'] * part)) for size, part in (
        ('small', 0.8), ('medium', 0.1), ('large', 0.1))}
    return dict(errors=dict(dap=kinds, sizes=sizes), intervals=dict(AP50=interval(0.6, 0.05)))


@pytest.mark.parametrize(('kind', 'remedy'), [
    ('localisation', 'resolution'), ('background', 'annotated'), ('duplicate', 'NMS'), ('missed', 'copy-paste')])
def test_the_costliest_kind_is_named_with_its_cost_and_a_remedy(kind: str, remedy: str) -> None:
    text = costliest_kind(detected(**{kind: 0.1234})).text
    assert kind.capitalize() in text and '0.123' in text and '0.050' in text and remedy in text


def test_a_cost_within_the_noise_of_ap50_gives_no_advice() -> None:
    assert costliest_kind(detected(localisation=0.049)) is None


def test_two_kinds_that_cost_about_the_same_give_no_advice() -> None:
    assert costliest_kind(detected(localisation=0.12, missed=0.1)) is None


def test_without_an_interval_no_kind_is_beyond_noise() -> None:
    part = detected(localisation=0.3)
    part['intervals']['AP50'] = without(part['intervals']['AP50'])
    assert costliest_kind(part) is None


def test_missed_objects_of_all_sizes_are_no_matter_of_small_ones() -> None:
    part = detected(missed=0.2)
    part['errors']['sizes']['small']['dap']['missed'] = 0.05
    assert 'copy-paste' not in costliest_kind(part).text


@pytest.mark.parametrize(('medium', 'fires'), [(0.5, True), (0.36, False)])
def test_small_objects_are_worse_where_the_intervals_do_not_touch(medium: float, fires: bool) -> None:
    part = dict(intervals=dict(AP_small=interval(0.3, 0.05), AP_medium=interval(medium, 0.05),
                               AP_large=without(interval(0.9, 0.1))))
    note = small_objects(part)
    assert (note is not None) == fires
    if fires:
        assert '0.300 (0.250 to 0.350)' in note.text and '0.500 (0.450 to 0.550)' in note.text


@pytest.mark.parametrize(('times', 'fires'), [(40, True), (2, False)])
def test_two_classes_are_named_where_their_part_of_the_confusions_is_surely_over_a_third(
    times: int, fires: bool
) -> None:
    counts = [[9, times // 2, 1, 0], [times - times // 2, 9, 1, 0], [1, 0, 9, 0], [0, 0, 0, 0]]
    note = confused_classes(dict(confusion=dict(names=['cat', 'dog', 'cow', 'background'], counts=counts)))
    assert (note is not None) == fires
    if fires:
        assert 'cat and dog make up 40 of 43' in note.text


def test_what_is_missed_or_of_nothing_is_no_confusion() -> None:
    counts = [[0, 0, 0, 50], [0, 0, 0, 50], [0, 0, 0, 50], [50, 0, 0, 0]]
    assert confused_classes(dict(confusion=dict(names=['a', 'b', 'c', 'background'], counts=counts))) is None


def labelled() -> dict:
    pair = dict(true='road', predicted='path', pixels=600, images=12, iou_points=3.0)
    return dict(
        confusion=[[5000, 600, 0], [100, 5000, 100], [100, 100, 5000]], pairs=[pair],
        intervals=dict(summary=dict(mIoU=interval(80, 2))),
        bands=[dict(width=2, error_share=80.0, pixel_share=10.0, gained_if_right=9.0)],
        regions=dict(overall=[dict(size='small', regions=100, missed=60, below_pixels=1024),
                              dict(size='medium', regions=100, missed=5), dict(size='large', regions=50, missed=0)]))


def test_two_labels_with_most_of_the_wrong_pixels_are_named() -> None:
    text = confused_labels(labelled()).text
    assert 'path and road make up 60 %' in text and '12 images' in text and '3.00 mIoU' in text


@pytest.mark.parametrize('change', [dict(pixels=300), dict(images=9), dict(iou_points=1.9)])
def test_a_pair_of_few_pixels_few_images_or_a_cost_within_noise_is_not_named(change: dict) -> None:
    part = labelled()
    part['pairs'][0] |= change
    assert confused_labels(part) is None


def test_errors_near_boundaries_are_told_with_their_share() -> None:
    text = rough_boundaries(labelled()).text
    assert '80 % of the wrong pixels' in text and 'within 2 pixels' in text and '9.0 mIoU' in text


@pytest.mark.parametrize('change', [dict(error_share=60.0), dict(pixel_share=40.0), dict(gained_if_right=1.9),
                                    dict(error_share=None)])
def test_boundaries_are_not_blamed_without_evidence(change: dict) -> None:
    part = labelled()
    part['bands'][0] |= change
    assert rough_boundaries(part) is None


def test_missed_small_regions_are_told_with_both_counts() -> None:
    text = missed_regions(labelled()).text
    assert '60 of 100 small regions' in text and '5 of 150 larger' in text


@pytest.mark.parametrize('change', [dict(missed=35), dict(regions=29, missed=29)])
def test_few_missed_regions_give_no_advice(change: dict) -> None:
    part = labelled()
    part['regions']['overall'][0] |= change
    assert missed_regions(part) is None


def test_the_worst_class_is_named_beyond_noise_with_what_costs_it() -> None:
    rows = [('cat', interval(0.1, 0.05), 'missed (0.3 AP50)'), ('dog', interval(0.6, 0.05), '')]
    text = worst_class('AP', interval(0.5, 0.05), rows).text
    assert 'cat' in text and '0.100 (0.050 to 0.150)' in text and 'missed (0.3 AP50)' in text


def test_the_worst_of_many_equal_classes_is_not_named() -> None:
    rows = [(str(n), interval(0.5 - 0.001 * n, 0.1), '') for n in range(80)]
    assert worst_class('AP', interval(0.46, 0.02), rows) is None


def test_a_class_never_found_in_few_images_is_not_beyond_noise() -> None:
    rows = [('rare', interval(0, 0, images=10), ''), ('dog', interval(0.4, 0.05), '')]
    assert worst_class('AP', interval(0.3, 0.05), rows) is None
    assert worst_class('AP', interval(0.3, 0.05), [('rare', interval(0, 0, images=100), ''), rows[1]]) is not None


def test_one_advice_is_given_or_that_there_is_none() -> None:
    part = labelled()
    rules = [lambda: confused_labels(part), lambda: rough_boundaries(part)]
    assert first_of(*rules) == confused_labels(part)
    part['intervals']['summary']['mIoU'] = without(copy.copy(part['intervals']['summary']['mIoU']))
    assert 'No single kind' in first_of(*rules).text


@pytest.mark.parametrize(('noise', 'words'), [
    (0.5, 'Largest, though within noise'), (0.2, 'Nothing stands out clearly'),
    (None, 'Largest, and of too few images')])
def test_where_no_rule_fires_the_largest_are_named_and_whether_noise_covers_them(
    noise: float | None, words: str
) -> None:
    weakest = weakest_of('AP', [('box', interval(0.4, 0.1), ''), ('disc', interval(0.6, 0.1), '')])
    text = largest_of([('missed', 0.3), ('localisation', 0.4), ('both', None)], 'AP50', 3, noise, weakest)
    assert text.startswith(words)
    assert text.endswith('localisation (0.400 AP50) and missed (0.300 AP50). '
                         'The weakest class is box: AP 0.400 (0.300 to 0.500).')


def test_the_range_of_a_part_is_wilsons() -> None:
    assert part_range(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert part_range(0, 0) == (0, 1)
