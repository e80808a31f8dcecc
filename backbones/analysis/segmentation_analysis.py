"""Everything about one prediction set of a segmenter, from one pass over its label maps.

    pairs = read_label_predictions('predictions.zip', dataset)
    found = analyse_segmentation(pairs)
    found.scores().summary['mIoU'], found.intervals().summary['mIoU'], found.pairs(20), found.worst(12)
    compare_analyses(found, other).as_dict()

One picture per thread is in memory at a time; what is kept of each is small (see `SegmentationCounts`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from .bootstrap import LEVEL, REPLICATES
from .boundary import DILATION_RATIO, BoundaryAreas, bands_around_boundaries, boundary_areas
from .segmentation_bootstrap import (
    SegmentationComparison,
    SegmentationIntervals,
    compare_segmentation,
    segmentation_intervals,
)
from .segmentation_counts import SegmentationCounts, checked_pair, count_in_bands, entries_of, plain
from .segmentation_errors import (
    WIDTHS,
    BoundaryBand,
    ConfusedPair,
    ImageErrors,
    boundary_bands,
    confused_pairs,
    image_figures,
)
from .segmentation_metrics import SegmentationScores, segmentation_scores
from .segmentation_regions import LIMITS, Regions, RegionScores, RegionTotals, regions_of

SHIFTED = 2  # a prediction set that is so many times better with its classes moved by one is remarked on


class LabelPairs(Protocol):
    """Label maps and their predictions, read one by one; `LabelMapPairs` reads files, `ArrayPairs` has arrays."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    ignore_index: int

    def read(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Label map and prediction of a picture in the form of `checked_pair`; a ValueError names what is wrong."""


@dataclass(frozen=True)
class ArrayPairs:
    """Label maps and predictions in memory: names of the classes and pictures, and arrays (H, W) of classes from 0."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    truths: Sequence[np.ndarray]
    predictions: Sequence[np.ndarray]
    ignore_index: int = 255

    def read(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the pair of one picture, checked."""
        maps = self.truths[place], self.predictions[place]
        return checked_pair(*maps, len(self.classes), self.ignore_index, self.names[place])


@dataclass(frozen=True)
class SegmentationAnalysis:
    """What one pass found.

    Args:
        counts: confusion matrices of the pictures.
        images: scores and worst errors of each picture, in the order of `counts`.
        boundary: boundary areas of each picture, or None.
        bands: trimap scores, or None.
        regions: regions by size, or None.
        skipped: pictures that could not be read: name and reason. They are in none of the numbers.
        protocol: how it was counted: ignored label, ratio, widths, limits.
    """

    counts: SegmentationCounts
    images: list[ImageErrors]
    boundary: BoundaryAreas | None
    bands: list[BoundaryBand] | None
    regions: RegionScores | None
    skipped: list[tuple[str, str]]
    protocol: dict[str, Any]

    def scores(self) -> SegmentationScores:
        """Scores over all pictures."""
        return segmentation_scores(self.counts, self.boundary)

    def intervals(
        self, *, replicates: int = REPLICATES, seed: int = 0, groups: Sequence[Hashable] | None = None,
        level: float = LEVEL,
    ) -> SegmentationIntervals:
        """Bootstrap intervals of the scores; see `segmentation_intervals`."""
        options = dict(replicates=replicates, seed=seed, groups=groups, level=level)
        return segmentation_intervals(self.counts, self.boundary, **options)

    def pairs(self, most: int | None = None) -> list[ConfusedPair]:
        """Confused pairs of classes, the costliest first."""
        return confused_pairs(self.counts, most)

    def worst(self, most: int | None = None, by: str = 'mIoU') -> list[ImageErrors]:
        """Pictures from the worst to the best by 'mIoU' or 'aAcc', without those that have no score."""
        if by not in ('mIoU', 'aAcc'):
            raise ValueError(f"by={by!r} is unknown; choose 'mIoU' or 'aAcc'")
        scored = [image for image in self.images if not np.isnan(getattr(image, by))]
        return sorted(scored, key=lambda image: getattr(image, by))[:most]

    def best(self, most: int | None = None, by: str = 'mIoU') -> list[ImageErrors]:
        """Pictures from the best to the worst."""
        return self.worst(None, by)[::-1][:most]

    def remarks(self) -> list[str]:
        """What makes the numbers doubtful, in sentences."""
        remarks = [
            f'{len(self.skipped)} of {len(self.skipped) + len(self.images)} pictures could not be read and are in none '
            'of the numbers, which are no scores of the whole data set'
        ] if self.skipped else []
        table = self.counts.confusion()
        for offset, words in ((1, 'one too high'), (-1, 'one too low')):
            moved = int(table.diagonal(offset).sum())
            if moved > SHIFTED * int(table.trace()) and 2 * moved > int(table.sum()):
                remarks.append(
                    f'{100 * moved / table.sum():.0f} % of the pixels would be right if the predicted classes were not '
                    f'{words}: the predictions seem to be counted from another number (zero_is_ignored)'
                )
        return remarks

    def as_dict(self, most_pairs: int | None = 200) -> dict[str, Any]:
        """Plain data of everything but the intervals; of the confused pairs the `most_pairs` costliest."""
        return dict(
            protocol=plain(self.protocol),
            scores=self.scores().as_dict(),
            confusion=[list(row) for row in self.counts.confusion().tolist()],
            pairs=plain(self.pairs(most_pairs)),
            bands=plain(self.bands),
            regions=plain(self.regions),
            images=plain(self.images),
            skipped=[dict(name=name, reason=reason) for name, reason in self.skipped],
            remarks=self.remarks(),
        )


class _One(NamedTuple):
    """What is kept of a picture until it is added up."""

    entries: tuple[np.ndarray, np.ndarray]
    bands: np.ndarray | None
    boundary: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    regions: tuple[Regions, Regions] | None
    errors: ImageErrors


class _Options(NamedTuple):
    boundary: bool
    errors: bool
    dilation_ratio: float
    widths: tuple[int, ...]


def analyse_segmentation(
    pairs: LabelPairs, *, boundary: bool = True, errors: bool = True, on_bad: str = 'raise', threads: int = 1,
    dilation_ratio: float = DILATION_RATIO, widths: Sequence[int] = WIDTHS, limits: Sequence[int] = LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentationAnalysis:
    """Read all pairs once and count.

    Args:
        pairs: what to read.
        boundary: count boundary IoU.
        errors: look at bands along boundaries, and at regions.
        on_bad: 'raise' stops at the first picture that cannot be used; 'skip' leaves it out and lists it.
        threads: pictures read at once; the result is the same.
        dilation_ratio: width of the boundaries of boundary IoU over the diagonal.
        widths: of the bands along boundaries, in pixels, ascending.
        limits: pixels at which the next size of region begins, ascending.
        progress: called with the number of pictures done, and of all.

    Raises:
        ValueError: A pair cannot be used, an option is wrong, or no pixel counts.
    """
    _check_options(pairs, on_bad, threads, dilation_ratio, widths, limits)
    number, widths, limits = len(pairs.classes), tuple(map(int, widths)), tuple(map(int, limits))
    options = _Options(boundary, errors, dilation_ratio, widths)
    totals, bands = RegionTotals(number, limits), np.zeros((len(widths) + 1, number, number), np.int64)
    kept: list[_One] = []
    skipped = []
    for place, one in enumerate(_all(pairs, options, on_bad, threads)):
        if isinstance(one, str):
            skipped.append((pairs.names[place], one))
        else:
            if errors:
                bands += one.bands
                totals.add(*one.regions)
            kept.append(one._replace(bands=None, regions=None))
        if progress:
            progress(place + 1, len(pairs.names))
    if not kept:
        raise ValueError(f'none of the {len(skipped)} pictures could be read; the first: {skipped[0][1]}')
    found = SegmentationAnalysis(
        SegmentationCounts.of_entries(pairs.classes, [one.errors.name for one in kept], (one.entries for one in kept)),
        [one.errors for one in kept],
        _stacked([one.boundary for one in kept], dilation_ratio) if boundary else None,
        boundary_bands(bands, widths) if errors else None,
        totals.scores(tuple(pairs.classes)) if errors else None,
        skipped,
        dict(
            classes=number, ignore_index=pairs.ignore_index, dilation_ratio=dilation_ratio if boundary else None,
            band_widths=widths if errors else None, region_limits=limits if errors else None, unit='percent',
        ),
    )
    found.scores()  # refuses a set in which no pixel counts
    return found


def _stacked(areas: list[tuple[np.ndarray, np.ndarray, np.ndarray]], ratio: float) -> BoundaryAreas:
    return BoundaryAreas(*(np.stack(part) for part in zip(*areas, strict=True)), ratio)


def _check_options(
    pairs: LabelPairs, on_bad: str, threads: int, ratio: float, widths: Sequence[int], limits: Sequence[int]
) -> None:
    if on_bad not in ('raise', 'skip'):
        raise ValueError(f"on_bad={on_bad!r} is unknown; choose 'raise' or 'skip'")
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f'threads={threads!r} must be a whole number, 1 or more')
    if not 0 < ratio < 1:
        raise ValueError(f'dilation_ratio={ratio!r} must lie between 0 and 1, such as {DILATION_RATIO}')
    for values, name, usual in ((widths, 'widths', WIDTHS), (limits, 'limits', LIMITS)):
        steps = [0, *values]
        if any(value != int(value) for value in steps) or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f'{name}={values!r} must be whole numbers above 0 that rise, such as {usual}')
    if not pairs.classes or not pairs.names:
        raise ValueError(
            f'there are {len(pairs.names)} pictures and {len(pairs.classes)} classes, and nothing to score; correct '
            'the data set or its folders'
        )


def _all(pairs: LabelPairs, options: _Options, on_bad: str, threads: int) -> Iterator[_One | str]:
    """Results in the order of the pictures, or why one cannot be used."""

    def one(place: int) -> _One | str:
        try:
            truth, predicted = pairs.read(place)
        except ValueError as error:
            if on_bad == 'raise':
                raise
            return str(error)
        return _look_at(pairs, place, truth, predicted, options)

    places = iter(range(len(pairs.names)))
    if threads == 1:
        yield from map(one, places)
        return
    with ThreadPoolExecutor(threads) as pool:  # decoding, OpenCV and most of numpy let other threads run
        waiting = deque(pool.submit(one, place) for place in itertools.islice(places, 2 * threads))
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(one, place) for place in itertools.islice(places, 1))
                yield done
        finally:
            for task in waiting:
                task.cancel()


def _look_at(
    pairs: LabelPairs, place: int, truth: np.ndarray, predicted: np.ndarray, options: _Options
) -> _One:
    classes, number = tuple(pairs.classes), len(pairs.classes)
    bands = bands_around_boundaries(truth, options.widths) if options.errors else None
    tables = count_in_bands(truth, predicted, bands, number, len(options.widths) + 1 if options.errors else 1)
    table, found, regions = tables.sum(0), {}, None
    if options.errors:
        regions = regions_of(truth, predicted, number), regions_of(predicted, truth, number)
        missed, invented = (part.hit == 0 for part in regions)
        found = dict(
            missed=regions[0].largest(missed, classes), invented=regions[1].largest(invented, classes),
            missed_regions=int(missed.sum()), invented_regions=int(invented.sum()),
        )
    return _One(
        entries_of(table), tables if options.errors else None,
        boundary_areas(truth, predicted, number, options.dilation_ratio) if options.boundary else None, regions,
        ImageErrors(pairs.names[place], *truth.shape, **image_figures(table, classes), **found),
    )


def compare_analyses(
    first: SegmentationAnalysis, second: SegmentationAnalysis, **options: Any
) -> SegmentationComparison:
    """Compare two prediction sets for the same pictures: second - first; options of `compare_segmentation`."""
    return compare_segmentation(first.counts, second.counts, first.boundary, second.boundary, **options)
