"""Intervals by resampling images: they are paired, repeatable, cover what they should, and say where they cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backbones.analysis.bootstrap import MIN_IMAGES, Replicates, bootstrap, chance, draw_weights, intervals, joint_limit
from backbones.analysis.compare import compare


def mean_of(values: np.ndarray):
    """Weighted mean of a value per image, and of each of two halves of the images as classes."""
    half = np.arange(len(values)) < len(values) / 2

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = [weights * own for own in (half, ~half)]
        return {'mean': weights @ values / weights.sum(axis=1),
                'mean/class': np.stack([part @ values / np.maximum(part.sum(axis=1), 1) for part in parts], axis=1)}

    return statistic


def test_every_replicate_has_as_many_images_as_the_data_set() -> None:
    weights = np.concatenate(list(draw_weights(37, 25, seed=1, at_once=10)))
    assert weights.shape == (25, 37) and (weights.sum(axis=1) == 37).all()


def test_the_draws_of_a_seed_do_not_depend_on_how_many_are_drawn_at_once() -> None:
    parts = [np.concatenate(list(draw_weights(20, 30, seed=4, at_once=number))) for number in (1, 7, 100)]
    assert (parts[0] == parts[1]).all() and (parts[0] == parts[2]).all()


def test_another_seed_draws_other_images() -> None:
    first, second = (np.concatenate(list(draw_weights(20, 30, seed=seed))) for seed in (4, 5))
    assert (first != second).any()


def test_the_error_of_a_mean_is_the_one_statistics_knows() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap(mean_of(values), 400, replicates=2000).interval('mean')
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std() / 20, rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.07)


def test_intervals_of_a_mean_cover_the_true_one_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        found = bootstrap(mean_of(draw.normal(0, 1, 50)), 50, replicates=200, seed=2).interval('mean', level=0.9)
        hits += found.low <= 0 <= found.high
    assert 0.84 < hits / 300 < 0.95


def test_an_interval_is_freed_of_the_bias_of_the_replicates() -> None:
    samples = np.linspace(0.4, 0.6, 101)
    found = Replicates({'AP': np.array(0.45)}, {'AP': samples}, 100, 0).interval('AP')
    assert found.bias == pytest.approx(0.05)
    assert (found.low + found.high) / 2 == pytest.approx(0.45, abs=0.03)
    assert found.low <= found.value <= found.high


def test_an_interval_lies_around_a_number_below_all_replicates() -> None:
    found = Replicates({'AP': np.array(0.3)}, {'AP': np.linspace(0.4, 0.6, 101)}, 100, 0).interval('AP')
    assert found.low == pytest.approx(0.3 - 0.095) and found.high == pytest.approx(0.3 + 0.095)


def test_the_interval_of_a_fraction_holds_fractions_only() -> None:
    samples = np.array([0.9] * 50 + [1.0] * 50)
    drawn = Replicates({'recall': np.array(1.0)}, {'recall': samples}, 100, 0, bounds=(0, 1))
    assert drawn.interval('recall').high == 1
    assert drawn.minus(drawn).bounds == (-1, 1)


def test_a_number_that_is_not_defined_has_no_interval() -> None:
    drawn = Replicates({'AP': np.array(np.nan)}, {'AP': np.full(10, np.nan)}, 100, 0)
    found = drawn.interval('AP')
    assert (found.value, found.low, found.high, found.defined) == (None, None, None, 0)
    json.dumps(found.as_dict(), allow_nan=False)


def test_replicates_without_a_rare_class_are_left_out_and_counted() -> None:
    drawn = Replicates({'AP': np.array(0.5)}, {'AP': np.array([0.4, np.nan, 0.6, np.nan])}, 100, 0)
    assert drawn.interval('AP').defined == 2


def test_a_few_images_give_no_interval() -> None:
    found = bootstrap(mean_of(np.arange(5.0)), 5, replicates=50).interval('mean')
    assert found.value == 2 and found.low is None and found.images == 5


def test_intervals_ask_how_many_images_stand_behind_each_number() -> None:
    drawn = bootstrap(mean_of(np.arange(40.0)), 40, replicates=50)
    found = intervals(drawn, {'/class': np.array([20, MIN_IMAGES - 1])})
    assert found['mean'].low is not None
    assert [one.low is None for one in found['mean/class']] == [False, True]


@pytest.mark.parametrize('images, kwargs, match', [
    (0, {}, 'no images'), (5, dict(replicates=1), 'replicates=1'), (5, dict(at_once=0), 'at_once=0')])
def test_what_cannot_be_drawn_is_refused(images: int, kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        bootstrap(mean_of(np.zeros(images)), images, **kwargs)


def test_a_level_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match='level=95'):
        bootstrap(mean_of(np.arange(20.0)), 20, replicates=5).interval('mean', level=95)


def test_replicates_of_other_draws_are_not_subtracted() -> None:
    first, second = (bootstrap(mean_of(np.arange(20.0)), 20, replicates=5, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match='draw both alike'):
        first.minus(second)


# --- comparison --------------------------------------------------------------------------------------


def test_pairs_show_a_difference_that_two_intervals_hide() -> None:
    values = np.random.default_rng(3).normal(0, 10, 200)
    better = values + np.random.default_rng(4).normal(0.5, 1, 200)
    first, second = (bootstrap(mean_of(one), 200, replicates=300) for one in (values, better))
    assert first.interval('mean').high > second.interval('mean').low
    found = compare(first, second, ('a', 'b')).overall['mean']
    assert found.value == pytest.approx((better - values).mean())
    assert found.beyond and found.chance < 0.05


def test_a_model_does_not_differ_from_itself() -> None:
    drawn = bootstrap(mean_of(np.random.default_rng(3).normal(0, 10, 60)), 60, replicates=100)
    found = compare(drawn, drawn, ('a', 'b'))
    assert found.overall['mean'].value == 0 and found.overall['mean'].beyond is False
    assert found.overall['mean'].chance == 1 and found.limits['mean'] is None
    assert [one.jointly for one in found.classes['mean']] == [False, False]


def test_classes_on_few_images_are_not_judged() -> None:
    draw = np.random.default_rng(0)
    first, second = (bootstrap(mean_of(draw.normal(0, 1, 40)), 40, replicates=100) for _ in range(2))
    found = compare(first, second, ('many', 'few'), {'/class': np.array([20, 3])}).classes['mean']
    assert [one.beyond is None for one in found] == [False, True]
    assert [one.jointly is None for one in found] == [False, True]
    json.dumps(compare(first, second, ('many', 'few')).as_dict(), allow_nan=False)


def test_a_class_may_lie_beyond_noise_alone_and_not_among_all() -> None:
    values = np.random.default_rng(0).normal(0, 1, (80, 40))  # images, classes that do not differ from 0

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {'mean/class': weights @ values / 80}

    second = bootstrap(statistic, 80, replicates=300)
    first = Replicates({'mean/class': np.zeros(40)}, {'mean/class': np.zeros((300, 40))}, 80, 0)
    found = compare(first, second, [str(k) for k in range(40)]).classes['mean']
    assert any(one.beyond for one in found) and not any(one.jointly for one in found)
    second.values['mean/class'][0] += 1
    second.samples['mean/class'][:, 0] += 1
    assert compare(first, second, [str(k) for k in range(40)]).classes['mean'][0].jointly


def test_among_many_equal_classes_one_stands_out_as_seldom_as_stated() -> None:
    draw, alone, jointly = np.random.default_rng(7), 0, 0
    for _ in range(150):
        values = draw.normal(0, 1, (60, 20))  # images, classes that do not differ
        weights = np.concatenate(list(draw_weights(60, 200, int(draw.integers(1 << 30)))))
        samples, mean = weights @ values / 60, values.mean(axis=0)
        away = np.abs(mean) / samples.std(axis=0, ddof=1)
        alone += (away > 1.96).any()
        jointly += (away > joint_limit(mean, samples, np.ones(20, bool))).any()
    assert alone / 150 > 0.4  # without a correction
    assert jointly / 150 < 0.12


def test_the_chance_of_a_difference_is_never_0() -> None:
    assert chance(5.0, np.random.default_rng(0).normal(5, 1, 99)) == pytest.approx(2 / 100)


def test_numbers_of_other_classes_are_not_compared() -> None:
    drawn = bootstrap(mean_of(np.arange(20.0)), 20, replicates=5)
    with pytest.raises(ValueError, match='3 names of classes'):
        compare(drawn, drawn, ('a', 'b', 'c'))
