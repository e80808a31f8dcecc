"""Two callables are timed turn by turn; ratios and quartiles are those of the pairs."""

from __future__ import annotations

import pytest

from backbones.benchmark.measuring import MIN_PAIRS, Pairs, alternate, quartiles


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, seconds: float):
        def run() -> None:
            self.calls.append(name)
            self.now += seconds

        return run


def test_the_sides_take_turns_beginning_with_ours() -> None:
    clock = Clock()
    alternate(clock.worker('ours', 1.0), clock.worker('peer', 2.0), repeats=3, clock=clock)
    assert clock.calls == ['ours', 'peer', 'ours', 'peer', 'ours', 'peer']


def test_each_side_gets_its_own_times() -> None:
    clock = Clock()
    pairs = alternate(clock.worker('ours', 1.0), clock.worker('peer', 2.5), repeats=2, clock=clock)
    assert (pairs.ours, pairs.peer) == ((1.0, 1.0), (2.5, 2.5))


def test_what_comes_after_a_run_is_not_timed() -> None:
    clock = Clock()

    def bar() -> None:
        clock.now += 100.0

    pairs = alternate(clock.worker('ours', 1.0), clock.worker('peer', 2.0), repeats=2, clock=clock, after_run=bar)
    assert pairs.ours + pairs.peer == (1.0, 1.0, 2.0, 2.0)


@pytest.mark.parametrize(('seconds', 'expected'), [(0.5, MIN_PAIRS), (15.0, 5), (1000.0, 20)])
def test_no_pair_is_begun_that_would_end_too_late(seconds: float, expected: int) -> None:
    clock = Clock()
    pairs = alternate(
        clock.worker('ours', 1.0), clock.worker('peer', 2.0), repeats=20, seconds=seconds, clock=clock)
    assert len(pairs.ours) == expected


def test_fewer_pairs_than_the_minimum_may_be_asked_for() -> None:
    clock = Clock()
    assert len(alternate(clock.worker('a', 1.0), clock.worker('b', 1.0), repeats=1, clock=clock).ours) == 1


def test_the_ratio_is_the_median_of_the_pairs_and_not_that_of_the_medians() -> None:
    pairs = Pairs(ours=(1.0, 2.0, 4.0), peer=(3.0, 2.0, 6.0))  # 3, 1, 1.5; the medians are 2 and 3, too: 1.5
    assert pairs.ratios == (3.0, 1.0, 1.5)
    drifting = Pairs(ours=(1.0, 10.0, 2.0), peer=(2.0, 11.0, 9.0))  # 2, 1.1, 4.5; of the medians: 9 / 2
    assert drifting.as_dict()['ratio'] == 2.0


def test_the_spread_is_that_of_the_middle_half() -> None:
    times = Pairs(ours=(1.0,) * 5, peer=(1.0, 2.0, 3.0, 4.0, 5.0)).as_dict()
    assert (times['ratio_25'], times['ratio'], times['ratio_75']) == (2.0, 3.0, 4.0)


def test_medians_are_in_milliseconds() -> None:
    times = Pairs(ours=(0.001, 0.002, 0.009), peer=(0.5, 0.1, 0.2)).as_dict()
    assert (times['ours_ms'], times['peer_ms']) == (2.0, 200.0)


def test_one_value_is_all_of_its_quartiles() -> None:
    assert quartiles((0.7,)) == (0.7, 0.7, 0.7)


def test_times_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match='2 times of ours and 1 of the peer make no pairs'):
        Pairs(ours=(1.0, 2.0), peer=(1.0,))


def test_a_callable_is_not_compared_with_itself() -> None:
    with pytest.raises(ValueError, match='cannot be compared with itself'):
        alternate(print, print, repeats=1)
