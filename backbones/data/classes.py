"""Class names held against each other."""

from __future__ import annotations

from collections.abc import Sequence


def check_same_classes(**classes: Sequence[str]) -> None:
    """Raise where two datasets number their classes differently, so that labels of one mean others' classes.

    Args:
        **classes: Class names by split, such as `train=train_dataset.metainfo['classes'], val=...`.

    Raises:
        ValueError: With the first place that differs.
    """
    (first, expected), *others = classes.items()
    for name, given in others:
        if list(given) == list(expected):
            continue
        pairs = zip([*expected, None], [*given, None], strict=False)
        place, (left, right) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise ValueError(
            f'the classes of {first} and {name} disagree: label {place} is {left!r} in {first} and '
            f'{right!r} in {name} ({len(expected)} and {len(given)} classes). Correct the annotation file '
            'that is wrong, or give both datasets the same metainfo=dict(classes=...)'
        )
