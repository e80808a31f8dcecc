"""Two callables timed turn by turn, and what the pairs of times say.

On a shared machine the speed drifts by tens of percent within minutes. Two runs next to each other share the drift, so
the ratio is taken pair by pair and its median is reported with the range of the middle half.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MIN_PAIRS = 3  # fewer have no middle half


@dataclass(frozen=True)
class Pairs:
    """Seconds of runs that alternated: `ours[i]` was followed by `peer[i]`."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ours or len(self.ours) != len(self.peer):
            raise ValueError(f'{len(self.ours)} times of ours and {len(self.peer)} of the peer make no pairs; give as '
                             'many of either, at least one')

    @property
    def ratios(self) -> tuple[float, ...]:
        """The peer's time divided by ours, pair by pair: above 1, ours is faster."""
        return tuple(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True))

    def as_dict(self) -> dict[str, object]:
        """Medians in milliseconds, the median ratio and its quartiles, and every time in seconds."""
        low, ratio, high = quartiles(self.ratios)
        return dict(
            pairs=len(self.ours), ours_ms=1000 * statistics.median(self.ours),
            peer_ms=1000 * statistics.median(self.peer), ratio=ratio, ratio_25=low, ratio_75=high,
            ours_seconds=list(self.ours), peer_seconds=list(self.peer))


def quartiles(values: tuple[float, ...]) -> tuple[float, float, float]:
    """The 25, 50 and 75 % points of values, interpolated between neighbours."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method='inclusive')
    return low, middle, high


def alternate(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    repeats: int,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
    after_run: Callable[[], object] = lambda: None,
) -> Pairs:
    """Time `ours`, `peer`, `ours`, `peer`, ...; both have been run before, so that nothing is built in a timed run.

    Args:
        ours: one run of ours; waits until its result is there.
        peer: one run of the peer.
        repeats: pairs at most.
        seconds: no pair is begun that would end later than this, after the first `MIN_PAIRS`.
        clock: tells seconds.
        after_run: called after every run, outside of what is timed.
    """
    times: dict[Callable, list[float]] = {ours: [], peer: []}
    if ours is peer:
        raise ValueError('a callable cannot be compared with itself; give another one')
    begin = clock()
    for pair in range(repeats):
        if pair >= MIN_PAIRS and (clock() - begin) * (pair + 1) / pair > seconds:
            break
        for run in (ours, peer):
            start = clock()
            run()
            times[run].append(clock() - start)
            after_run()
    return Pairs(tuple(times[ours]), tuple(times[peer]))


def waiting(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`run`, which then waits until a GPU has done what was asked of it."""
    if device.type != 'cuda':
        return run

    def run_and_wait() -> object:
        result = run()
        torch.cuda.synchronize(device)
        return result

    return run_and_wait
