"""How sure the scores of a segmenter are, and whether two prediction sets differ beyond noise.

Pictures are drawn with replacement (`bootstrap.py`): a replicate's score is that of the weighted sums of the pictures'
areas, one product of weights (B, N) and areas (N, 3 C), exact because sums of whole numbers below 2^53 are exact in 64
bits. Two prediction sets are compared on the same draws, so that what makes a picture hard for both cancels out.

Pictures are taken to be independent. Frames of a video are not, and intervals over them are too narrow: name the video
of each picture in `groups`, and whole videos are drawn.

Shapes: N pictures (or groups), C classes, B replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import LEVEL, MIN_IMAGES, REPLICATES, Interval, Replicates, bootstrap, chance, joint_limit
from .boundary import BoundaryAreas
from .segmentation_counts import SegmentationCounts, plain
from .segmentation_metrics import PER_CLASS, class_scores, intersection_over_union, mean_of_present

SUMMARY = ('aAcc', *(f'm{name}' for name in PER_CLASS))
CLASS_INTERVALS = ('IoU', 'Acc')


def segmentation_replicates(
    counts: SegmentationCounts, boundary: BoundaryAreas | None = None, *, replicates: int = REPLICATES, seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Replicates:
    """Score replicates of a set of pictures: `SUMMARY` (B,), `CLASS_INTERVALS` (B, C), boundaries likewise, in percent.

    Args:
        counts: of the pictures.
        boundary: of the same pictures, or None.
        replicates: B.
        seed: of the draws.
        groups: what each picture belongs to, such as a video; whole groups are drawn then.
    """
    number = len(counts.classes)
    areas = [*counts.areas(), *((boundary.both, boundary.found, boundary.true) if boundary is not None else ())]
    table = np.concatenate([_by_group(area, groups) for area in areas], axis=1).astype(np.float64)  # (N, 3 C or 6 C)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = (weights.astype(np.float64) @ table).reshape(len(weights), -1, number)
        scores = class_scores(*(sums[:, part] for part in range(3)))
        found = {name: scores[name] for name in (*SUMMARY, *CLASS_INTERVALS)}
        if boundary is not None:
            found['boundary_IoU'] = intersection_over_union(*(sums[:, part] for part in range(3, 6)))
            found['boundary_mIoU'] = mean_of_present(found['boundary_IoU'])
        return found

    return bootstrap(statistic, len(table), replicates=replicates, seed=seed)


def _by_group(areas: np.ndarray, groups: Sequence[Hashable] | None) -> np.ndarray:
    """Add up areas (pictures, C) of each group, in the order in which groups first come."""
    if groups is None:
        return areas
    if len(groups) != len(areas):
        raise ValueError(f'groups names {len(groups)} groups for {len(areas)} pictures; give one for each picture')
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(places), areas.shape[1]), areas.dtype)
    np.add.at(sums, [places[group] for group in groups], areas)
    return sums


@dataclass(frozen=True)
class SegmentationIntervals:
    """Intervals of scores in percent.

    Args:
        classes: names of the classes.
        summary: interval of each mean, and of aAcc.
        per_class: `IoU`, `Acc` and, where counted, `boundary_IoU`: an interval for each class, without ends where fewer
            than `MIN_IMAGES` pictures (or groups) hold the class.
        remarks: what limits them, in sentences.
    """

    classes: tuple[str, ...]
    summary: dict[str, Interval]
    per_class: dict[str, list[Interval]]
    remarks: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `per_class` has a row for each class."""
        rows = [
            {'class': name, **{score: plain(found[place]) for score, found in self.per_class.items()}}
            for place, name in enumerate(self.classes)
        ]
        return dict(unit='percent', summary=plain(self.summary), per_class=rows, remarks=self.remarks)


def segmentation_intervals(
    counts: SegmentationCounts, boundary: BoundaryAreas | None = None, *, replicates: int = REPLICATES, seed: int = 0,
    groups: Sequence[Hashable] | None = None, level: float = LEVEL,
) -> SegmentationIntervals:
    """Percentile intervals of all scores; arguments as for `segmentation_replicates`, `level` the part inside."""
    drawn = segmentation_replicates(counts, boundary, replicates=replicates, seed=seed, groups=groups)
    holding = _holding(counts, groups)
    summary = {name: drawn.interval(name, level=level) for name, value in drawn.values.items() if not value.ndim}
    per_class = {
        name: [drawn.interval(name, place, level=level, images=int(many)) for place, many in enumerate(holding)]
        for name, value in drawn.values.items() if value.ndim
    }
    return SegmentationIntervals(counts.classes, summary, per_class, _remarks(drawn.images, holding, groups))


def _holding(counts: SegmentationCounts, groups: Sequence[Hashable] | None) -> np.ndarray:
    """How many pictures, or groups, hold each class in the label map (C,)."""
    return (_by_group(counts.areas()[2], groups) > 0).sum(0)


def _remarks(images: int, holding: np.ndarray, groups: Sequence[Hashable] | None) -> list[str]:
    what = 'pictures' if groups is None else 'groups of pictures'
    remarks = []
    if images < MIN_IMAGES:
        remarks.append(f'only {images} {what}: no intervals, which take {MIN_IMAGES} at least')
    few = int(((holding > 0) & (holding < MIN_IMAGES)).sum())
    if few and images >= MIN_IMAGES:
        remarks.append(f'classes in fewer than {MIN_IMAGES} {what}, which have no interval: {few}')
    return remarks


@dataclass(frozen=True)
class Difference:
    """A score of two prediction sets for the same pictures.

    Args:
        first: score of the first set, in percent; None where it is not defined.
        second: of the second.
        difference: second - first, with its interval from paired draws.
        chance: two-sided p-value of the difference, for this score alone.
        beyond_noise: whether the interval leaves 0 out; None where there is no interval.
        beyond_noise_among_all: the same for a class, held against all classes together: the chance of a false alarm in
            any of them is 1 - level. None where there is no interval, and for the scores of the summary.
        remark: why there is no answer.
    """

    first: float | None
    second: float | None
    difference: Interval
    chance: float | None
    beyond_noise: bool | None
    beyond_noise_among_all: bool | None = None
    remark: str = ''


@dataclass(frozen=True)
class SegmentationComparison:
    """What distinguishes two prediction sets.

    Args:
        classes: names of the classes.
        images: number of pictures.
        summary: difference of each mean, and of aAcc.
        per_class: `IoU`, `Acc`, `boundary_IoU`: a difference for each class.
        remarks: what limits them, in sentences.
    """

    classes: tuple[str, ...]
    images: int
    summary: dict[str, Difference]
    per_class: dict[str, list[Difference]]
    remarks: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `per_class` has a row for each class."""
        rows = [
            {'class': name, **{score: plain(found[place]) for score, found in self.per_class.items()}}
            for place, name in enumerate(self.classes)
        ]
        return dict(
            unit='percent', images=self.images, summary=plain(self.summary), per_class=rows, remarks=self.remarks
        )


def compare_segmentation(
    first: SegmentationCounts, second: SegmentationCounts, first_boundary: BoundaryAreas | None = None,
    second_boundary: BoundaryAreas | None = None, *, replicates: int = REPLICATES, seed: int = 0,
    groups: Sequence[Hashable] | None = None, level: float = LEVEL,
) -> SegmentationComparison:
    """Compare two prediction sets for the same pictures; `groups` follows the pictures of `first`.

    Raises:
        ValueError: They have other classes, pictures or label maps.
    """
    second, second_boundary = _aligned(first, second, first_boundary, second_boundary)
    options = dict(replicates=replicates, seed=seed, groups=groups)
    one = segmentation_replicates(first, first_boundary, **options)
    two = segmentation_replicates(second, second_boundary, **options)
    drawn, holding = two.minus(one), _holding(first, groups)
    summary = {
        name: _difference(one, two, drawn, name, (), level, drawn.images)
        for name, value in drawn.values.items() if not value.ndim
    }
    per_class = {
        name: _class_differences(one, two, drawn, name, level, holding)
        for name, value in drawn.values.items() if value.ndim
    }
    remarks = _remarks(drawn.images, holding, groups)
    judged = [found for found in per_class['IoU'] if found.beyond_noise is not None]
    if judged:
        remarks.append(
            f'{len(judged)} classes are compared: without any difference, {len(judged) * (1 - level):.1f} of them '
            f'would be beyond noise by chance; {sum(bool(found.beyond_noise) for found in judged)} are in IoU, and '
            f'{sum(bool(found.beyond_noise_among_all) for found in judged)} held against all classes together'
        )
    return SegmentationComparison(first.classes, len(first), summary, per_class, remarks)


def _difference(
    one: Replicates, two: Replicates, drawn: Replicates, name: str, place: tuple[int, ...], level: float, images: int
) -> Difference:
    interval = drawn.interval(name, place, level=level, images=images)
    scores = [plain(values.values[name][place]) for values in (one, two)]
    if interval.low is None:
        remark = 'not defined in both' if interval.value is None else f'from {images} pictures or groups only'
        return Difference(*scores, interval, None, None, remark=remark)
    samples = drawn.samples[name][(slice(None), *place)]
    beyond = not interval.low <= 0 <= interval.high
    return Difference(*scores, interval, chance(interval.value, samples), beyond)


def _class_differences(
    one: Replicates, two: Replicates, drawn: Replicates, name: str, level: float, holding: np.ndarray
) -> list[Difference]:
    limit = joint_limit(drawn.values[name], drawn.samples[name], holding >= MIN_IMAGES, level)
    found = []
    for place, many in enumerate(holding):
        alone = _difference(one, two, drawn, name, (place,), level, int(many))
        among = None
        if alone.beyond_noise is not None:
            among = alone.beyond_noise and abs(alone.difference.value) > (limit or 0.0) * alone.difference.error
        found.append(Difference(
            alone.first, alone.second, alone.difference, alone.chance, alone.beyond_noise, among, alone.remark))
    return found


def _aligned(
    first: SegmentationCounts, second: SegmentationCounts, first_boundary: BoundaryAreas | None,
    second_boundary: BoundaryAreas | None,
) -> tuple[SegmentationCounts, BoundaryAreas | None]:
    """Bring the second set into the order of the first, after holding both against each other."""
    if first.classes != second.classes:
        raise ValueError(
            f'the two prediction sets have {len(first.classes)} and {len(second.classes)} classes, or other names or '
            'another order; compare predictions of the same classes')
    places = {name: place for place, name in enumerate(second.names)}
    only = [sorted(set(mine.names) - set(its.names)) for mine, its in ((first, second), (second, first))]
    if any(only):
        raise ValueError(
            f'the two prediction sets are of other pictures: {len(only[0])} are in the first only {only[0][:3]}, '
            f'{len(only[1])} in the second only {only[1][:3]}; compare both on the same pictures (select)')
    order = [places[name] for name in first.names]
    second = second.select(order)
    other = np.flatnonzero((first.areas()[2] != second.areas()[2]).any(1))
    if len(other):
        raise ValueError(
            f'the two prediction sets were counted against other label maps: those of {first.names[other[0]]} differ '
            f'({len(other)} pictures in all); count both against the same label maps')
    ratios = [areas.dilation_ratio if areas is not None else None for areas in (first_boundary, second_boundary)]
    if ratios[0] != ratios[1]:
        raise ValueError(
            f'boundaries were counted with a dilation_ratio of {ratios[0]} in the first prediction set and {ratios[1]} '
            'in the second (None: not counted); count both alike')
    if second_boundary is None:
        return second, None
    parts = (second_boundary.both, second_boundary.found, second_boundary.true)
    return second, BoundaryAreas(*(part[order] for part in parts), second_boundary.dilation_ratio)
