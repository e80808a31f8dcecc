"""What to try first: a few plain rules, each with its evidence in the sentence; none fires within noise.

A rule takes a part of `details.json` and gives a `Note`, or None where the numbers do not carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

from .charts_figures import count_of, shortened, with_span
from .parts import Note

LEADS = 1.5  # times the cost of the next kind, for a kind to be the costliest
THIRD = 1 / 3
SMALL_PART = 2 / 3  # of what missed objects cost, for it to be a matter of small ones
FEWEST_REGIONS = 30
FEWEST_IMAGES = 10
REMEDIES = dict(  # of the kinds of error of a detector
    localisation='a higher input resolution, or heads that ask for a higher IoU, such as those of Cascade R-CNN',
    background='look at them in the gallery: they may be objects that nobody annotated; if not, more images without '
               'objects',
    duplicate='a lower IoU threshold of NMS',
    missed='look at them in the gallery: what they share (size, crowding, light) says what the training images lack')
SMALL = 'a larger input, prediction in tiles, or copy-paste of small objects while training'


@dataclass(frozen=True)
class Advice(Note):
    """What to try.

    Attributes:
        fired: a rule found it beyond noise; else it says what is largest.
    """

    fired: bool = False


def half_width(interval: Mapping[str, Any] | None) -> float | None:
    """Half the width of an interval; None where there is none."""
    if not interval or interval.get('low') is None or interval.get('high') is None:
        return None
    return (interval['high'] - interval['low']) / 2


def part_range(some: int, every: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a part, https://doi.org/10.1080/01621459.1927.10502953."""
    if not every:
        return 0.0, 1.0
    z, part = NormalDist().inv_cdf((1 + level) / 2), some / every
    middle, room = part + z * z / (2 * every), z * sqrt(part * (1 - part) / every + z * z / (4 * every * every))
    return (middle - room) / (1 + z * z / every), (middle + room) / (1 + z * z / every)


def first_of(*rules: Callable[[], Note | None], largest: str = '') -> Note:
    """The first rule that fires; where none does, `largest`, which says what is, or that nothing stands out."""
    found = next((note for rule in rules if (note := rule()) is not None), None)
    return found or Advice(largest or 'No single kind of error stands out beyond noise.')


def largest_of(
    costs: Sequence[tuple[str, float | None]], unit: str, digits: int, noise: float | None, weakest: str = ''
) -> str:
    """What costs most where no rule fires, and the weakest class; '' where nothing costs anything.

    Args:
        costs: name and cost of each kind.
        unit: of a cost, such as 'AP50'.
        digits: of it.
        noise: half the interval of the number that it is a part of; None where there is none.
        weakest: as `weakest_of` says it.
    """
    known = sorted(((cost, name) for name, cost in costs if cost and cost > 0), reverse=True)[:2]
    if not known:
        return weakest
    names = ' and '.join(f'{name} ({cost:.{digits}f} {unit})' for cost, name in known)
    if noise is None:
        how = 'Largest, and of too few images to tell it from noise'
    else:
        how = 'Largest, though within noise' if known[0][0] <= noise else 'Nothing stands out clearly; largest'
    return f'{how}: {names}.{" " if weakest else ""}{weakest}'


def weakest_of(number: str, classes: Sequence[tuple[str, Mapping[str, Any], str]], digits: int = 3) -> str:
    """The class of the lowest number with its interval, a sentence; '' where there are not two."""
    known = [row for row in classes if row[1]['value'] is not None]
    if len(known) < 2:
        return ''
    name, own, _ = min(known, key=lambda row: row[1]['value'])
    return f'The weakest class is {shortened(name, 60)}: {number} {with_span(own, digits)}.'


def _try(evidence: str, remedy: str) -> Note:
    return Advice(f'{evidence} Try first: {remedy}.', fired=True)


# --- any task ----------------------------------------------------------------------------------------


def worst_class(
    number: str, overall: Mapping[str, Any], classes: Sequence[tuple[str, Mapping[str, Any], str]], digits: int = 3,
    whole: float = 1,
) -> Note | None:
    """A class that lies below the whole, even as the worst of so many.

    Args:
        number: its name, such as 'AP'.
        overall: of all classes, with its interval.
        classes: name, the number with its interval, and what costs it most ('' if not known).
        digits: of the number.
        whole: its highest value.
    """
    known = [row for row in classes if row[1]['value'] is not None and row[1].get('error') is not None]
    if len(known) < 2 or overall.get('low') is None:
        return None
    name, own, cost = min(known, key=lambda row: row[1]['value'])
    strays = NormalDist().inv_cdf(1 - 0.025 / len(known))  # Bonferroni: the worst of all is looked at
    room = max(strays * own['error'], 3 * whole / max(1, own['images']))  # never found: resampling shows no spread
    if own['value'] + room >= overall['low']:
        return None
    most = f' What costs it most: {cost}.' if cost else ''
    return _try(f'{shortened(name, 60)} is the worst class, beyond noise even as one of {len(known)}: {number} '
                f'{with_span(own, digits)}, all classes {with_span(overall, digits)}.{most}',
                'look at its errors in the gallery and at its labels')


# --- detection ---------------------------------------------------------------------------------------


def costliest_kind(part: Mapping[str, Any]) -> Note | None:
    """A kind of error that costs clearly more than every other, and more than AP50 is uncertain by."""
    errors, interval = part['errors'], part['intervals'].get('AP50')
    costs = sorted(((cost, kind) for kind, cost in errors['dap'].items() if cost is not None), reverse=True)
    noise = half_width(interval)
    if len(costs) < 2 or noise is None:
        return None
    (cost, kind), (second, other) = costs[:2]
    if cost <= noise or cost < LEADS * second or kind not in REMEDIES:
        return None
    remedy = REMEDIES[kind]
    evidence = (f'{kind.capitalize()} costs most: {cost:.3f} AP50, more than the {noise:.3f} that AP50 itself is '
                f'uncertain by; next, {other}: {second:.3f}.')
    if kind == 'missed':
        by_size = {size: one['dap'].get('missed') or 0 for size, one in errors['sizes'].items()}
        total = sum(by_size.values())
        if total and by_size.get('small', 0) >= SMALL_PART * total:
            evidence += f' Of small objects alone: {by_size["small"]:.3f}.'
            remedy = SMALL
    return _try(evidence, remedy)


def small_objects(part: Mapping[str, Any]) -> Note | None:
    """AP of small objects below that of larger ones, with intervals that do not touch."""
    ranges = part['intervals']
    small = ranges.get('AP_small') or {}
    larger = [(name, one) for name in ('medium', 'large')
              if (one := ranges.get(f'AP_{name}')) and one.get('low') is not None]
    if small.get('high') is None or not larger or any(small['high'] >= one['low'] for _, one in larger):
        return None
    others = ', '.join(f'{name} {with_span(one)}' for name, one in larger)
    return _try(f'Small objects are found worse, beyond noise: AP {with_span(small)}; {others}.', SMALL)


def confused_classes(part: Mapping[str, Any]) -> Note | None:
    """Two classes that make up more than a third of all confusions, in both directions."""
    names, counts = part['confusion']['names'][:-1], part['confusion']['counts']
    pairs: dict[tuple[int, int], int] = {}
    for true, row in enumerate(counts[:-1]):
        for found, number in enumerate(row[:-1]):
            if number and true != found:
                key = min(true, found), max(true, found)
                pairs[key] = pairs.get(key, 0) + number
    total = sum(pairs.values())
    if len(names) < 3 or not total:
        return None
    (one, two), number = max(pairs.items(), key=lambda item: item[1])
    low, high = part_range(number, total)
    if low <= THIRD:
        return None
    return _try(f'{shortened(names[one], 60)} and {shortened(names[two], 60)} make up {number:,} of {total:,} '
                f'confusions of classes ({100 * low:.0f} to {100 * high:.0f} %).',
                'look whether their labels are told apart in the same way everywhere')


# --- segmentation ------------------------------------------------------------------------------------


def confused_labels(part: Mapping[str, Any]) -> Note | None:
    """Two classes that make up more than a third of the wrong pixels, in enough images, at a cost beyond noise."""
    wrong = sum(map(sum, part['confusion'])) - sum(row[n] for n, row in enumerate(part['confusion']))
    noise, pairs = half_width(part['intervals']['summary'].get('mIoU')), {}
    for one in part['pairs']:
        known = pairs.setdefault(tuple(sorted((one['true'], one['predicted']))), [0, 0.0, 0])
        known[0], known[1] = known[0] + one['pixels'], known[1] + one['iou_points']
        known[2] = max(known[2], one['images'])
    if noise is None or not wrong or len(part['confusion']) < 3 or not pairs:
        return None
    both, (pixels, cost, images) = max(pairs.items(), key=lambda item: item[1][0])
    if pixels <= THIRD * wrong or images < FEWEST_IMAGES or cost <= noise:
        return None
    first, second = (shortened(name, 60) for name in both)
    return _try(f'{first} and {second} make up {100 * pixels / wrong:.0f} % of all wrong pixels, in '
                f'{count_of(images, "image")}, and cost {cost:.2f} mIoU, more than the {noise:.2f} that mIoU itself is '
                'uncertain by.', 'look whether their labels are told apart in the same way everywhere')


def rough_boundaries(part: Mapping[str, Any]) -> Note | None:
    """Most errors lie in a narrow band that holds few of the pixels."""
    noise = half_width(part['intervals']['summary'].get('mIoU'))
    for band in part['bands'] or ():
        known = None not in (band['error_share'], band['pixel_share'], band['gained_if_right'], noise)
        if known and band['error_share'] >= 200 / 3 and band['pixel_share'] <= 100 / 3 and (
                band['gained_if_right'] > noise):
            return _try(
                f'{band["error_share"]:.0f} % of the wrong pixels lie within {band["width"]} pixels of a boundary, '
                f'where {band["pixel_share"]:.0f} % of all pixels lie; right, they would add '
                f'{band["gained_if_right"]:.1f} mIoU, which is uncertain by {noise:.1f}.',
                'a higher resolution of the input; and look how exact the labels are there')
    return None


def missed_regions(part: Mapping[str, Any]) -> Note | None:
    """Small regions are missed more often than larger ones, and a third of them at least."""
    sizes = {one['size']: one for one in (part['regions'] or {}).get('overall', ())}
    if 'small' not in sizes or sizes['small']['regions'] < FEWEST_REGIONS:
        return None
    small = sizes.pop('small')
    rest = [sum(one[name] for one in sizes.values()) for name in ('missed', 'regions')]
    ranges = part_range(small['missed'], small['regions']), part_range(*rest)
    if ranges[0][0] <= max(THIRD, ranges[1][1]) or not rest[1]:
        return None
    return _try(f'{small["missed"]:,} of {small["regions"]:,} small regions (below {small["below_pixels"]:,} pixels) '
                f'are missed altogether, and {rest[0]:,} of {rest[1]:,} larger ones.',
                'a larger input, or crops that hold the small ones more often')

