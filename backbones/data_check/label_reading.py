"""What the numbers of label maps mean: the names of the classes, whether 0 is ignored, and why that is thought."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.files import shown, some
from ..data.label_files import IGNORED, read_names
from ..findings import Finding, finding_of
from .class_names import HOW, REMEDY, names_alike

MAPS_TO_TELL = 20  # maps that must hold all values but the highest before that is taken to show that 0 is a class
BACKGROUND = ('background', 'bg', '_background_', 'unlabeled', 'unlabelled', 'void', 'other', 'ignore')
_COLOUR = re.compile(r'^(.*?)[\s,:;]+\(?(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})\)?$')
_NUMBERED = re.compile(r'^(\d+)[\s:.,;)]+(\S.*)$')


@dataclass
class ClassList:
    """The names of the classes, where they are known.

    Args:
        names: in the order of their numbers; None where nothing tells them.
        colours: (red, green, blue) of each, where `classes.txt` gives them.
        numbers: those that stand before the names in `classes.txt`.
        source: 'classes.txt', 'the config', ...
        findings: what is wrong with the list.
    """

    names: tuple[str, ...] | None = None
    colours: list[tuple[int, int, int]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    source: str = ''
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """How values become classes; as `backbones.LoadLabelMap` does it.

    Args:
        classes: their names.
        reduce_zero_label: True: 0 is ignored and value n is class n of 1, 2, ...; False: value n is class n of 0, 1,
            ..., and 255 is ignored.
        why: a sentence.
        sure: whether the data show it; False where another reading fits as well.
    """

    classes: tuple[str, ...]
    reduce_zero_label: bool
    why: str = ''
    sure: bool = True

    @property
    def highest(self) -> int:
        """The highest value that is a class."""
        return len(self.classes) - (not self.reduce_zero_label)

    @property
    def rule(self) -> str:
        """Words for what the values mean."""
        if self.reduce_zero_label:
            return f'0 is ignored and 1 to {self.highest} are the classes'
        return f'0 to {self.highest} are the classes and {IGNORED} is ignored'

    def is_ignored(self, value: float) -> bool:
        """Tell whether pixels of this value are left out of training."""
        return value == (0 if self.reduce_zero_label else IGNORED)

    def is_wrong(self, value: float) -> bool:
        """Tell whether the value is neither a class nor ignored."""
        if self.is_ignored(value):
            return False
        return not (value == value and value % 1 == 0 and int(self.reduce_zero_label) <= value <= self.highest)

    def name(self, value: float) -> str:
        """The class of a value that is one."""
        return self.classes[int(value) - self.reduce_zero_label]


def read_classes(path: str) -> ClassList:
    """Read `classes.txt`; `names` is None where there is none or it cannot be used."""
    found = ClassList(source=os.path.basename(path))
    if not os.path.isfile(path):
        return found
    try:
        names = read_names(path, None)
        lines = [line.strip() for line in Path(path).read_text('utf-8-sig').splitlines()]
    except (ValueError, OSError) as error:
        finding = finding_of(error, 'classes.txt')
        found.findings.append(Finding('error', finding.kind, finding.message, finding.remedy, file=path))
        return found
    place = dict(file=path, field='classes')
    if not names:
        found.findings.append(Finding('error', 'classes.txt', 'the list of classes is empty',
                                      'write one name a line; line n names value n', **place))
        return found
    gap = next((number for number, line in enumerate(lines[:len(names)], 1) if not line), None)
    if gap is not None:
        found.findings.append(Finding(
            'error', 'classes.txt', f'line {gap} is blank, so that all names below it move up by one',
            'write a name in it, or remove the line', file=path, id=gap, field='classes', value=''))
    found.names = tuple(names)
    _split_lines(found, names, place)
    found.findings += _faults_of_names(found.names, place)
    return found


def given_classes(names: Sequence[str], source: str = 'the config') -> ClassList:
    """Return classes that were not read from a file, with what is wrong with them."""
    return ClassList(tuple(names), source=source, findings=_faults_of_names(names, dict(field='classes')))


def _faults_of_names(names: Sequence[str], place: Mapping) -> list[Finding]:
    findings = []
    for name, times in Counter(names).items():
        if times > 1:
            line = [number for number, other in enumerate(names, 1) if other == name][1]
            findings.append(Finding('error', 'class twice', f'the class {name!r} is listed {times} times',
                                    'give every class a name of its own', id=line, value=name, **place))
    for later, first in names_alike(names):
        findings.append(Finding(
            'warning', 'class name', f'class {later + 1} is {names[later]!r} and class {first + 1} {names[first]!r}: '
            f'{HOW}', REMEDY, id=later + 1, value=names[later], **place))
    if len(names) >= IGNORED:
        findings.append(Finding('error', 'too many classes', f'there are {len(names)} classes; at most {IGNORED - 1} '
                                f'are possible, as {IGNORED} marks what is ignored', 'merge classes', value=len(names),
                                **place))
    return findings


def _split_lines(found: ClassList, names: Sequence[str], place: Mapping) -> None:
    """Understand lines such as 'road 128 64 128' (colours) and '3 car' (numbers), which training takes for names."""
    colours = [_COLOUR.match(name) for name in names]
    if all(colours) and all(int(part) < 256 for match in colours for part in match.groups()[1:]):
        found.colours = [tuple(int(part) for part in match.groups()[1:]) for match in colours]
        found.names = tuple(match.group(1) for match in colours)
        found.findings.append(Finding(
            'warning', 'colours in classes.txt', 'the lines hold a colour each, which training takes for a part of '
            'the name', 'leave the names only; --fix does so', value=names[0], **place))
        return
    numbered = [_NUMBERED.match(name) for name in names]
    if len(names) > 1 and all(numbered):
        numbers = [int(match.group(1)) for match in numbered]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            found.numbers = numbers
            found.findings.append(Finding(
                'warning', 'numbers in classes.txt', 'the lines hold a number each, which training takes for a part '
                'of the name', 'leave the names only, in the order of the numbers', value=names[0], **place))


def choose_reading(values: Iterable[Iterable[float]], classes: ClassList, ade: bool = False,
                   reduce_zero_label: bool | None = None) -> Reading:
    """Find out what the values mean.

    Args:
        values: of each map, the values it holds.
        classes: their names, where known.
        ade: the names of the files are those of ADE20K.
        reduce_zero_label: where it is given, only the classes are left to find out.
    """
    values = [set(held) for held in values]
    seen = set().union(*values)
    if classes.names is None:
        return _without_names(seen, ade, reduce_zero_label)
    if reduce_zero_label is not None:
        return Reading(classes.names, reduce_zero_label, f'reduce_zero_label={reduce_zero_label} is given')
    count, names = len(classes.names), classes.names
    wrong = {zero: sum(any(map(Reading(names, zero).is_wrong, held)) for held in values) for zero in (True, False)}
    if wrong[True] != wrong[False]:
        zero = wrong[True] < wrong[False]
        shown_by = f'value {count} is there' if zero else (
            f'{IGNORED} is there and {count} is not' if IGNORED in seen else f'{count} is not there')
        other = f'else {wrong[not zero]} of {len(values)} maps would hold values out of range'
        return Reading(names, zero, f'{classes.source} has {count} names and {shown_by}; {other}')
    if classes.numbers and classes.numbers[0] == 0:
        return Reading(names, False, f'the numbers in {classes.source} begin with 0')
    if names[0].lower() in BACKGROUND and 0 in seen and count not in seen:
        return Reading(names, False, f'the first of the {count} classes is {names[0]!r}, and no map holds {count}')
    if count > 1 and len(values) >= MAPS_TO_TELL and seen >= set(range(count)) and count not in seen:
        return Reading(names, False, f'all values from 0 to {count - 1} are there and {count} is in none of '
                       f'{len(values)} maps; if 0 means "no class", use True', sure=False)
    if 0 in seen and count not in seen and wrong[True] == 0:
        return Reading(names, True, f'this is the rule of the layout, line n of {classes.source} names value n; the '
                       f'maps, none of which holds {count}, would fit both: if 0 is a class, use False', sure=False)
    return Reading(names, True, f'this is the rule of the layout: line n of {classes.source} names value n')


def _without_names(seen: set, ade: bool, zero: bool | None) -> Reading:
    whole = [int(value) for value in seen if value == value and value % 1 == 0 and 0 <= value < IGNORED]
    top = max(whole, default=0)
    if ade and top <= 150 and IGNORED not in seen and zero is not False:
        from ..data.label_maps import ADE20KDataset

        return Reading(tuple(ADE20KDataset.METAINFO['classes']), True, "the files bear ADE20K's names")
    if zero is None:
        zero = IGNORED not in seen
        why = (f'nothing names the classes, and {IGNORED} is there, so that 0 is a class' if not zero else
               f'nothing names the classes; the values go up to {top}, and 0 is ignored in this layout (if it is a '
               'class, use False, and name it first)')
    else:
        why = 'nothing names the classes'
    numbers = range(1, max(top, 1) + 1) if zero else range(top + 1)
    return Reading(tuple(f'class {number}' for number in numbers), zero, why, sure=False)


def is_binary(values: Iterable[Iterable[float]]) -> bool:
    """Tell whether the maps hold 0 and 255 only, and both of them."""
    return set().union(*values) == {0, IGNORED}


def words_of(values: Sequence[Sequence[float]], most: int = 5) -> str:
    """Return [value, pixels] as words: '37 (800 pixels), ...'."""
    return some((f'{shown(_short(value))} ({pixels:,} pixel{"s" if pixels != 1 else ""})'
                 for value, pixels in values), most)


def _short(value: float) -> float:
    return int(value) if value == value and abs(value) < 1e15 and value % 1 == 0 else value
