"""Splits of a COCO data set held against each other and against the classes of a config.

Labels: with classes in the config, label k is the class of that name in every file, whatever its id
(`backbones.data.coco.category_ids`); without, it is the k-th category of each file by id.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from ..data.files import shown, some
from ..findings import Finding
from .annotations import Annotations

NEAR = 0.6  # similarity of two names, from 0 to 1, above which one is taken for a slip of the other
# A class that is in LEAST_SCORED pictures or more of another split and in none that is trained on is told where, by its
# share, EXPECTED or more of those trained on should have it: less may be chance.
LEAST_SCORED, EXPECTED = 3, 10
# Drift is told only where both splits are large enough, and it is both large and no chance: the distance of the two
# distributions (half the sum of the differences of shares, 0 to 1) exceeds DRIFT, and OVER_CHANCE times the largest
# distance in SHUFFLES random divisions of the same pictures: of whole pictures, for the objects of one are alike.
LEAST_PICTURES, LEAST_OBJECTS = 100, 500
DRIFT, OVER_CHANCE, SHUFFLES = 0.15, 1.5, 50
SIZE_BINS = 2.0 ** np.arange(1, 11.5, 0.5)  # square root of a box's area in pixels


def check_splits(splits: dict[str, Annotations], classes: Sequence[str] | None = None) -> list[Finding]:
    """Find classes that disagree, pictures in two splits, classes that are only scored, and drift.

    Args:
        splits: the sound entries of each split by its name. The first whose name begins with 'train' is the one that
            is trained on, or else the first.
        classes: of the config; None where labels follow each file's ids.
    """
    if not splits:
        return []
    train = next((name for name in splits if name.lower().startswith('train')), next(iter(splits)))
    names = [train, *(name for name in splits if name != train)]
    findings: list[Finding] = []
    if classes is not None:
        findings += _config(classes)
        if not findings:
            for name in names:
                findings += _against_config(classes, splits[name], name)
    for name in names[1:]:
        if classes is None:
            findings += _against_training(splits[train], splits[name], train, name)
        findings += _other_ids(splits[train], splits[name], train, name, classes is not None)
        findings += _only_scored(splits[train], splits[name], train, name, classes)
        findings += _drift(splits[train], splits[name], train, name)
    for first, second in combinations(names, 2):
        findings += _same_pictures(splits[first], splits[second], first, second)
    return findings


def _config(classes: Sequence[str]) -> Iterator[Finding]:
    remedy = "write a tuple of names, such as ('cat', 'dog')"
    if isinstance(classes, str):
        yield Finding('error', 'classes', f'the classes of the config are one string, {classes!r:.40}', remedy,
                      field='classes', value=classes)
        return
    for name, times in Counter(map(repr, classes)).items():
        if times > 1:
            yield Finding('error', 'classes', f'the classes of the config list {name} {times} times',
                          'list every class once', field='classes', value=name)
    for name in classes:
        if not isinstance(name, str):
            yield Finding('error', 'classes', f'the classes of the config hold {name!r:.40}', remedy, field='classes',
                          value=name)


def _against_config(classes: Sequence[str], split: Annotations, name: str) -> Iterator[Finding]:
    slips = _slips([one for one in classes if one not in split.categories],
                   [one for one in split.categories if one not in classes])
    for wanted, found in slips.items():
        number = split.category_ids[split.categories.index(found)] if found else None
        if found:
            yield Finding(
                'error', 'class misspelt', f'{name} has no class {wanted!r} of the config, but category {number} is '
                f'{found!r}', 'spell it the same in both, capitals included', split.file, number, 'name', found)
        else:
            yield Finding(
                'error', 'class missing', f'{name} has no class {wanted!r} of the config; it has '
                f'{len(split.categories)}: {some(split.categories, 8)}',
                'add the category to the file, or take the class out of the config', split.file, None, 'categories',
                wanted)
    extra = [one for one in split.categories if one not in classes and one not in slips.values()]
    counts = np.bincount(split.category, minlength=len(split.categories))
    objects = sum(int(counts[split.categories.index(one)]) for one in extra)
    if extra:
        yield Finding(
            'note', 'class left out', f'{name} has {len(extra)} classes with {objects} objects that are not in the '
            f'config, and are left out: {some(extra, 8)}', '', split.file, None, 'categories', some(extra, 8))


def _slips(missing: Sequence[str], extra: Sequence[str]) -> dict[str, str | None]:
    """Pair each missing name with the nearest of the others, if it is near; the nearest pairs first."""
    pairs = sorted(
        ((difflib.SequenceMatcher(None, one.casefold(), other.casefold()).ratio(), one, other)
         for one in missing[:200] for other in extra[:200]), key=lambda pair: -pair[0])
    slips: dict[str, str | None] = dict.fromkeys(missing)
    for ratio, one, other in pairs:
        if ratio >= NEAR and slips[one] is None and other not in slips.values():
            slips[one] = other
    return slips


def _against_training(train: Annotations, split: Annotations, train_name: str, name: str) -> Iterator[Finding]:
    """Compare the names in the order of the ids, which are the labels of both."""
    if train.categories == split.categories:
        return
    missing = [one for one in train.categories if one not in split.categories]
    extra = [one for one in split.categories if one not in train.categories]
    ids = dict(zip(split.categories, split.category_ids, strict=True))
    slips = _slips(missing, extra)
    for wanted, found in slips.items():
        if found:
            yield Finding(
                'error', 'class misspelt', f'category {ids[found]} is {found!r} in {name}, while {train_name} has '
                f'{wanted!r}', 'spell it the same in both files, capitals included', split.file, ids[found], 'name',
                found)
        else:
            yield Finding(
                'error', 'class missing', f'{name} has no class {wanted!r}, which {train_name} has: all labels behind '
                'it shift', 'list the same categories in all files, those without objects, too', split.file, None,
                'categories', wanted)
    for found in extra:
        if found not in slips.values():
            yield Finding(
                'error', 'class extra', f'category {ids[found]}, {found!r}, is in {name} and not in {train_name}: all '
                'labels behind it shift', 'list the same categories in all files, or choose classes in the config',
                split.file, ids[found], 'name', found)
    if not missing and not extra:
        label = next(k for k, one in enumerate(train.categories) if one != split.categories[k])
        yield Finding(
            'error', 'class order', f'label {label} is {train.categories[label]!r} in {train_name} and '
            f'{split.categories[label]!r} in {name}: the ids put the same names in another order',
            'give the categories the same ids in both files, or list classes in the config', split.file,
            split.category_ids[label], 'id', split.categories[label])


def _other_ids(
    train: Annotations, split: Annotations, train_name: str, name: str, by_name: bool
) -> Iterator[Finding]:
    """Note ids that differ where labels agree all the same: `by_name`, or because their order is the same."""
    ids = dict(zip(train.categories, train.category_ids, strict=True))
    other = [
        (one, ids[one], number) for one, number in zip(split.categories, split.category_ids, strict=True)
        if ids.get(one, number) != number
    ]
    same_order = [one for one in split.categories if one in ids] == [one for one in ids if one in split.categories]
    if other and (same_order or by_name):
        one, first, second = other[0]
        yield Finding(
            'note', 'class ids', f'{len(other)} classes have other ids in {name} than in {train_name}, such as '
            f'{one!r}, {second} and {first}; the labels agree here', '', split.file, second,
            'id', second)


def _only_scored(
    train: Annotations, split: Annotations, train_name: str, name: str, classes: Sequence[str] | None
) -> Iterator[Finding]:
    trained = {train.categories[place] for place in np.unique(train.category[~train.crowd])}
    if not trained:
        return  # which is said of the file
    own = ~split.crowd
    pairs = np.unique(np.stack([split.category[own], split.image[own]]), axis=1)
    pictures = np.bincount(pairs[0], minlength=len(split.categories))
    factor = len(train.file_names) / max(len(split.file_names), 1)
    for one, number, count in zip(split.categories, split.category_ids, pictures.tolist(), strict=True):
        wanted = one in train.categories and (classes is None or one in classes) and one not in trained
        if wanted and count >= LEAST_SCORED and count * factor >= EXPECTED:
            yield Finding(
                'warning', 'class only scored', f'class {one!r} is in {count} pictures of {name} and in none of the '
                f'{len(train.file_names)} of {train_name}',
                'add pictures of it to the training split, or take it out of classes', split.file, number,
                'category_id', number)


def _same_pictures(first: Annotations, second: Annotations, one: str, other: str) -> Iterator[Finding]:
    """Find pictures of one name and size with the same objects: the same name alone may be a number in two folders."""
    places = {name: place for place, name in enumerate(first.file_names)}
    shared = [(places[name], place) for place, name in enumerate(second.file_names) if name in places]
    shared = [(a, b) for a, b in shared if (first.widths[a], first.heights[a]) == (second.widths[b], second.heights[b])]
    if not shared:
        return
    boxes_first, boxes_second = (
        _boxes_of(split, {pair[side] for pair in shared}) for side, split in enumerate((first, second)))
    for a, b in shared:
        boxes = boxes_first.get(a)
        if boxes and boxes == boxes_second.get(b):
            yield Finding(
                'warning', 'picture in two splits', f'picture {second.image_ids[b]} ({shown(second.file_names[b])}) is '
                f'in {one} and in {other}, with the same objects: what it scores was learnt by heart',
                'take it out of one of the splits', second.file, second.image_ids[b], 'file_name',
                second.file_names[b])


def _boxes_of(split: Annotations, pictures: set[int]) -> dict[int, list]:
    boxes: dict[int, list] = {}
    for place in np.flatnonzero(np.isin(split.image, list(pictures))).tolist():
        boxes.setdefault(int(split.image[place]), []).append(tuple(split.boxes[place].tolist()))
    return {picture: sorted(found) for picture, found in boxes.items()}


def _drift(train: Annotations, split: Annotations, train_name: str, name: str) -> Iterator[Finding]:
    used = [np.flatnonzero(~one.crowd) for one in (train, split)]
    pictures = [len(np.unique(one.image[own])) for one, own in zip((train, split), used, strict=True)]
    if min(pictures) < LEAST_PICTURES or min(map(len, used)) < LEAST_OBJECTS:
        return
    names = {one: label for label, one in enumerate(train.categories)}
    labels = [
        np.array([names.get(one, len(names)) for one in every.categories])[every.category[own]]
        for every, own in zip((train, split), used, strict=True)]
    sizes = [
        np.digitize(np.sqrt(every.boxes[own, 2] * every.boxes[own, 3]), SIZE_BINS)
        for every, own in zip((train, split), used, strict=True)]
    groups = np.concatenate([
        np.unique(train.image[used[0]], return_inverse=True)[1],
        np.unique(split.image[used[1]], return_inverse=True)[1] + pictures[0]])
    shares = _shifted(labels, groups, pictures)
    if shares is not None:
        moved = np.argsort(-np.abs(shares[0] - shares[1]))[:3]
        every = [*train.categories, 'others']
        said = ', '.join(f'{every[k]} {shares[0][k]:.0%} and {shares[1][k]:.0%}' for k in moved)
        yield Finding(
            'warning', 'class drift', f'the classes are shared out otherwise in {train_name} and {name}: {said} of the '
            'objects', 'divide the pictures at random, or score by class', split.file, None, 'category_id',
            round(float(np.abs(shares[0] - shares[1]).sum() / 2), 3))
    shares = _shifted(sizes, groups, pictures)
    if shares is not None:
        middle = [
            float(np.median(np.sqrt(every.boxes[own, 2:].prod(1))))
            for every, own in zip((train, split), used, strict=True)]
        yield Finding(
            'warning', 'size drift', f'the objects are of other sizes in {train_name} and {name}: half of them are '
            f'below {middle[0]:.0f} and {middle[1]:.0f} pixels (root of the box area)',
            'divide the pictures at random, or scale those of one split to the other', split.file, None, 'bbox',
            round(float(np.abs(shares[0] - shares[1]).sum() / 2), 3))


def _shifted(values: Sequence[np.ndarray], groups: np.ndarray, pictures: Sequence[int]) -> np.ndarray | None:
    """Return the shares of both splits (2, kinds) where they differ by more than chance; see DRIFT."""
    both = np.concatenate(values)
    kinds = int(both.max()) + 1

    def shares(second: np.ndarray) -> np.ndarray:
        """For objects that are in the first split or the `second`."""
        counts = np.bincount(both + kinds * second, minlength=2 * kinds).reshape(2, kinds)
        return counts / np.maximum(counts.sum(1, keepdims=True), 1)

    found = shares(np.repeat([0, 1], [len(own) for own in values]))
    apart = np.abs(found[0] - found[1]).sum() / 2
    if apart <= DRIFT:
        return None
    draw = np.random.default_rng(0)
    split = np.repeat([0, 1], pictures)
    chance = (np.abs(np.subtract(*shares(draw.permutation(split)[groups]))).sum() / 2 for _ in range(SHUFFLES))
    return found if apart > OVER_CHANCE * max(chance) else None
