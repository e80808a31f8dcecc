"""Pixels of a segmenter by (true class, predicted class), of each picture, in whole numbers.

What all scores, intervals and comparisons are made of. Most pictures hold few of the classes, so that a picture keeps
the pairs that occur in it and nothing else: 2,000 pictures of ADE20K (150 classes) with 100 pairs each take 3 MB, where
full tables would take 360 MB.

Shapes: N pictures, C classes, H W rows and columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SegmentationCounts:
    """Sparse confusion matrices of N pictures.

    Args:
        classes: names of the C classes.
        names: of the pictures, all different.
        offsets: (N + 1,) int64; the entries of picture n lie in `offsets[n]:offsets[n + 1]`.
        pairs: true class * C + predicted class of each entry, int64, ascending within a picture.
        pixels: of each entry, int64, at least 1.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    offsets: np.ndarray
    pairs: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of_tables(
        cls, classes: Sequence[str], names: Sequence[str], tables: Iterable[np.ndarray]
    ) -> SegmentationCounts:
        """Gather one (C, C) table per picture (row true class, column predicted class), as `count` gives them."""
        return cls.of_entries(classes, names, map(entries_of, tables))

    @classmethod
    def of_entries(
        cls, classes: Sequence[str], names: Sequence[str], entries: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> SegmentationCounts:
        """Gather what `entries_of` gives for each picture."""
        parts = list(entries)
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if repeated or len(parts) != len(names):
            raise ValueError(
                f'{len(parts)} pictures have {len(names)} names, of which twice: {repeated[:3]}; give each picture a '
                'name of its own'
            )
        offsets = np.cumsum([0, *(len(pairs) for pairs, _ in parts)], dtype=np.int64)
        empty = [np.zeros(0, np.int64)]
        pairs = np.concatenate([*empty, *(pairs for pairs, _ in parts)])
        pixels = np.concatenate([*empty, *(pixels for _, pixels in parts)])
        return cls(tuple(classes), tuple(names), offsets, pairs, pixels)

    def __len__(self) -> int:
        return len(self.names)

    def confusion(self) -> np.ndarray:
        """(C, C) int64 over all pictures: row true class, column predicted class."""
        number = len(self.classes)
        total = np.zeros(number * number, np.int64)
        np.add.at(total, self.pairs, self.pixels)
        return total.reshape(number, number)

    def of_image(self, place: int) -> np.ndarray:
        """(C, C) int64 of one picture."""
        number = len(self.classes)
        table = np.zeros(number * number, np.int64)
        part = slice(self.offsets[place], self.offsets[place + 1])
        table[self.pairs[part]] = self.pixels[part]
        return table.reshape(number, number)

    def select(self, places: Sequence[int]) -> SegmentationCounts:
        """The counts of the pictures at these places, in this order."""
        parts = [slice(self.offsets[place], self.offsets[place + 1]) for place in places]
        entries = [(self.pairs[part], self.pixels[part]) for part in parts]
        return SegmentationCounts.of_entries(self.classes, [self.names[place] for place in places], entries)

    def areas(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels of each picture and class, (N, C) int64 each: found rightly, predicted, true."""
        number = len(self.classes)
        image = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        true, found = np.divmod(self.pairs, number)
        areas = np.zeros((3, len(self), number), np.int64)
        right = true == found
        np.add.at(areas[0], (image[right], true[right]), self.pixels[right])
        np.add.at(areas[1], (image, found), self.pixels)
        np.add.at(areas[2], (image, true), self.pixels)
        return areas[0], areas[1], areas[2]


def entries_of(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the flattened table and values (int64) of what is not zero."""
    flat = np.asarray(table, np.int64).reshape(-1)
    places = np.flatnonzero(flat)
    return places.astype(np.int64), flat[places]


def checked_pair(
    truth: np.ndarray, predicted: np.ndarray, number: int, ignore_index: int = 255, name: str = '', *, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a label map and its prediction into the form that all counting takes.

    Args:
        truth: (H, W) whole numbers, `ignore_index` where nothing counts.
        predicted: (H, W) whole numbers; what it says where nothing counts does not matter.
        number: of classes, C.
        ignore_index: label of pixels that do not count.
        name: of the picture, for the messages.
        first: the number of the first class in the file of the prediction, for the messages.

    Returns:
        Both in 8 bits (16 for more than 255 classes), with the value C where nothing counts.

    Raises:
        ValueError: They differ in size or hold a value that is no class where it counts.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    for labels, what in ((truth, 'label map'), (predicted, 'prediction')):
        if labels.ndim != 2 or labels.dtype.kind not in 'bui':
            raise ValueError(
                f'the {what} of {name} has the shape {labels.shape} and holds {labels.dtype}; give one channel of '
                'whole numbers (height, width)'
            )
    if truth.shape != predicted.shape:
        raise ValueError(
            f'the prediction of {name} is {predicted.shape[1]}x{predicted.shape[0]} (width x height) while its label '
            f'map is {truth.shape[1]}x{truth.shape[0]}; predict at the size of the picture, or correct the pairing'
        )
    counts = truth != ignore_index
    for labels, what, lift in ((truth, 'label map', 0), (predicted, 'prediction', first)):
        if labels.size and (labels.min() < 0 or labels.max() >= number):
            _refuse_strange(labels[counts], number, f'the {what} of {name}', lift, ignore_index if not lift else None)
    kind = np.uint8 if number <= 255 else np.uint16
    return tuple(np.where(counts, labels, number).astype(kind) for labels in (truth, predicted))


def _refuse_strange(labels: np.ndarray, number: int, what: str, first: int, ignored: int | None) -> None:
    wrong = labels[(labels < 0) | (labels >= number)]
    if not len(wrong):
        return
    values = np.unique(wrong).astype(np.int64) + first
    hint = ''
    if values.tolist() == [number] and not first:
        hint = '; it looks as if its classes were counted from 1 (zero_is_ignored=True)'
    elif values.tolist() == [0] and first:
        hint = '; it looks as if its classes were counted from 0 (zero_is_ignored=False)'
    rest = f' and {ignored} is ignored' if ignored is not None else ''
    shown = ', '.join(map(str, values[:5].tolist())) + (', ...' if len(values) > 5 else '')
    raise ValueError(
        f'{what} holds the value {shown} in {len(wrong)} pixels that count, but {first} to {first + number - 1} are '
        f'the classes{rest}{hint}. Correct the file, the list of classes, or how they are counted'
    )


def count(truth: np.ndarray, predicted: np.ndarray, number: int) -> np.ndarray:
    """Confusion matrix (C, C) int64 of what `checked_pair` gives: row true class, column predicted class."""
    return count_in_bands(truth, predicted, None, number, 1)[0]


def count_in_bands(
    truth: np.ndarray, predicted: np.ndarray, bands: np.ndarray | None, number: int, many: int
) -> np.ndarray:
    """The same for the pixels of each band: `bands` (H, W) has values 0 to `many` - 1; returns (many, C, C) int64."""
    side = number + 1  # the last row and column take what does not count
    places = truth.astype(np.int64) if bands is None else bands.astype(np.int64) * side + truth
    places *= side
    places += predicted
    return np.bincount(places.reshape(-1), minlength=many * side * side).reshape(many, side, side)[:, :-1, :-1]


def plain(value: Any) -> Any:
    """Turn dataclasses, arrays and numpy's numbers into what JSON knows; NaN and infinity become None."""
    if is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, 'as_dict'):
            return value.as_dict()
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not abs(value) < float('inf'):
        return None
    return value
