"""Whether two models differ by more than noise: paired bootstrap over the images both were tested on.

Both are scored on the same drawn images, and the differences of the replicates give the interval: what makes an image
hard for both drops out, so that far smaller differences stand out than two separate intervals would show. Beyond noise:
the interval leaves out 0. Of 80 classes that do not differ, 4 do so at 95 %; `jointly` therefore asks each class for a
difference that the farthest of all classes would reach by chance in 5 % of the draws (`joint_limit`). What is compared
is two sets of predictions on images like these; another training run of the same config differs, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bootstrap import CLASS, LEVEL, MIN_IMAGES, Replicates, chance, images_of, joint_limit, plain


@dataclass(frozen=True)
class Difference:
    """A number of two models.

    Attributes:
        name: of the class, or of the number where it is one of all classes.
        first: the number of the first model; None where it is not defined.
        second: of the second.
        value: second - first.
        low: lower end of its interval; None where fewer than `MIN_IMAGES` images count.
        high: upper end.
        error: its standard deviation over the replicates.
        chance: p-value, two-sided: how often draws bring about such a difference if there is none.
        beyond: whether the interval leaves out 0; None where it is not known.
        jointly: of a class, whether the difference stands out of those of all classes; None where it is not known.
        images: how many images the number comes from.
    """

    name: str
    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None
    error: float | None
    chance: float | None
    beyond: bool | None
    jointly: bool | None
    images: int


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        overall: by name of the number.
        classes: by name of the number, each class.
        limits: by name of the number, how many standard errors a class must differ by to stand out of all classes.
        level: of the intervals; 1 - level is the chance of a false alarm, of each number, and jointly of the classes.
        replicates: how many were drawn.
        images: from how many images.
        seed: of the draws.
    """

    overall: dict[str, Difference]
    classes: dict[str, list[Difference]]
    limits: dict[str, float | None]
    level: float
    replicates: int
    images: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    first: Replicates, second: Replicates, names: Sequence[str],
    behind: Mapping[str, int | np.ndarray] | None = None, *, level: float = LEVEL,
) -> Comparison:
    """Compare two models number by number.

    Args:
        first: replicates of the first model; numbers by class have a name that ends in '/class'.
        second: of the second: of the same images and seed.
        names: of the K classes.
        behind: images that the numbers come from, as `intervals` takes them.
        level: of the intervals.

    Raises:
        ValueError: the two were not drawn alike, or have not the same classes.
    """
    sizes = {len(one.values[name]) for one in (first, second) for name in one.values if name.endswith(CLASS)}
    if first.values.keys() != second.values.keys() or sizes - {len(names)}:
        raise ValueError(f'{len(names)} names of classes for numbers of {sorted(sizes)} classes, {list(first.values)} '
                         f'and {list(second.values)}; compare the same numbers of the same classes')
    change = second.minus(first)
    overall, classes, limits = {}, {}, {}
    for name, value in change.values.items():
        images = images_of(name, value, change.images, behind)
        if not name.endswith(CLASS):
            overall[name] = _difference(name, name, (), first, second, change, images, level)
            continue
        short = name.removesuffix(CLASS)
        limits[short] = joint_limit(value, change.samples[name], images >= MIN_IMAGES, level)
        classes[short] = [
            _difference(one, name, (k,), first, second, change, int(images[k]), level, limits[short])
            for k, one in enumerate(names)]
    return Comparison(overall, classes, limits, level, change.replicates, change.images, change.seed)


def _difference(
    title: str, name: str, place: tuple[int, ...], first: Replicates, second: Replicates, change: Replicates,
    images: int, level: float, limit: float | None = None,
) -> Difference:
    found = change.interval(name, place, level=level, images=images)
    before, after = (plain(one.values[name][place]) for one in (first, second))
    if found.low is None:
        return Difference(title, before, after, found.value, None, None, None, None, None, None, images)
    likely = chance(found.value, change.samples[name][(slice(None), *place)])
    beyond = not found.low <= 0 <= found.high
    jointly = None
    if place:
        jointly = limit is not None and found.error > 0 and abs(found.value) > limit * found.error
    return Difference(title, before, after, found.value, found.low, found.high, found.error, likely, beyond, jointly,
                      images)
