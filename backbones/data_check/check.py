"""Look at a whole data set: the checks of a root folder, or of the splits that a config names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..findings import Finding, Outcome, finding_of, run_check
from . import proposal
from .label_maps import Maps, check_maps, check_values, look_at_maps, pair
from .label_reading import ClassList, Reading, choose_reading, given_classes, is_binary, read_classes
from .layout import CocoSplit, LabelMapSplit, Layout, picture_folder, recognise
from .looking import Looker
from .pictures import PictureSet, check_duplicates, check_pictures
from .remembered import memory_file


def check_root(
    root: str,
    *,
    workers: int | None = None,
    sample: int | None = None,
    classes: Sequence[str] | None = None,
    looker: Looker | None = None,
) -> list[Outcome]:
    """Look at all data under `root`; nothing of it raises.

    Args:
        root: a folder in one of the layouts of data/README.md.
        workers: processes; None takes one per core.
        sample: pictures and label maps of each split that are looked at; None looks at all.
        classes: names that the data set should have; None takes its own.
        looker: what looks at the files, in place of one with `workers` that remembers.

    Raises:
        ValueError: `sample` or `workers` is no number of files or processes.
    """
    check_sample(sample)
    looker = looker or Looker(workers, memory_file())
    layouts: list[Layout] = []

    def look() -> Outcome:
        layouts.append(recognise(root))
        return _describe(layouts[0])

    outcomes = [run_check('layout', look)]
    for layout in layouts:
        if layout.coco:
            outcomes += check_coco(layout.coco, classes=classes, looker=looker, sample=sample, root=root)
        if layout.label_maps:
            outcomes += check_label_maps(layout.label_maps, classes=None if layout.coco else classes, looker=looker,
                                         sample=sample, root=root)
    return outcomes


def check_sample(sample: int | None) -> None:
    """Refuse a sample that is no number of files."""
    if sample is not None and (type(sample) is not int or sample < 1):
        raise ValueError(f'sample={sample!r} must be a whole number of 1 or more; leave it out to look at all files')


def _describe(layout: Layout) -> Outcome:
    parts = []
    if layout.coco:
        parts.append(f'COCO annotation files of {", ".join(split.name for split in layout.coco)}')
    if layout.label_maps:
        parts.append(f'label maps of {", ".join(split.name for split in layout.label_maps)}')
    return Outcome('layout', ' and '.join(parts), details=layout.rest, figures=dict(
        coco=[split.file for split in layout.coco], label_maps=[split.labels for split in layout.label_maps]))


def check_coco(
    splits: Sequence[CocoSplit],
    *,
    classes: Sequence[str] | None = None,
    looker: Looker | None = None,
    sample: int | None = None,
    input_size: Any = None,
    anchors: Any = None,
    root: str | None = None,
) -> list[Outcome]:
    """Look at splits in COCO's format.

    Args:
        splits: one or more; one that is there twice (testing on the validation data) is looked at once.
        classes: of the config; None takes those of the files.
        looker: what looks at the pictures; None makes one that remembers.
        sample: pictures of each split that are looked at; None looks at all.
        input_size: of the network, for the sizes of objects; see `objects.check_objects`.
        anchors: likewise.
        root: where the splits were found; a data set block is proposed for it. None proposes none.
    """
    looker = looker or Looker(None, memory_file())
    splits = list({(os.path.realpath(split.file), split.pictures): split for split in reversed(splits)}.values())[::-1]
    annotations: dict[str, Any] = {}
    folders: dict[str, str] = {}
    sets: list[PictureSet] = []
    outcomes = [run_check(f'annotations {split.name}', _annotations, split, annotations) for split in splits]
    for outcome, split in zip(outcomes, splits, strict=True):  # what could not be checked names no file
        outcome.findings = [replace(finding, file=finding.file or split.file) for finding in outcome.findings]
    if annotations:
        outcomes.append(run_check('classes of the splits', _splits, annotations, classes))
    for name, read in annotations.items():
        outcomes.append(run_check(f'objects {name}', _objects, name, read, input_size, anchors))
    for split in splits:
        if split.name in annotations:
            outcomes.append(run_check(f'pictures {split.name}', _coco_pictures, split, annotations[split.name],
                                      folders, sets, looker, sample))
    outcomes.append(run_check('duplicate pictures', check_duplicates, sets, looker))
    _say_once(outcomes)
    if root is not None and folders:
        outcomes.append(run_check('data set block', proposal.propose_coco, root, splits, folders, annotations))
    return outcomes


def _say_once(outcomes: Sequence[Outcome]) -> None:
    """Leave out what the annotation files tell of pictures in two splits where the pixels tell it, too."""
    *others, duplicates = outcomes
    known = {os.path.basename(finding.file) for finding in duplicates.findings if finding.severity == 'warning'}
    for outcome in others:
        outcome.findings = [finding for finding in outcome.findings if finding.kind != 'picture in two splits'
                            or os.path.basename(str(finding.value)) not in known]


def _annotations(split: CocoSplit, annotations: dict[str, Any]) -> Outcome:
    from .annotations import check_annotations

    findings, read = check_annotations(split.file)
    if split.name.lower().startswith('train'):  # others may be lists of pictures to predict
        findings = [replace(finding, severity='error') if finding.kind == 'no objects' else finding
                    for finding in findings]
    outcome = Outcome(f'annotations {split.name}', findings=list(findings))
    if read is None:
        outcome.summary = f'{os.path.basename(split.file)} cannot be used'
        return outcome
    annotations[split.name] = read
    outcome.summary = (f'{len(read.file_names):,} pictures, {len(read.boxes):,} objects, '
                       f'{len(read.categories):,} classes')
    outcome.figures = dict(pictures=len(read.file_names), objects=len(read.boxes), classes=list(read.categories))
    return outcome


def _splits(annotations: dict[str, Any], classes: Sequence[str] | None) -> Outcome:
    from .splits import check_splits

    findings = list(check_splits(annotations, classes))
    names = next(iter(annotations.values())).categories
    same = 'the same in all splits' if not findings and len(annotations) > 1 else ''
    return Outcome('classes of the splits', '; '.join(filter(None, [f'{len(names)} classes', same])), findings)


def _objects(name: str, read: Any, input_size: Any, anchors: Any) -> Outcome:
    from .objects import check_objects

    outcome = check_objects(read, input_size=input_size, anchors=anchors)
    outcome.name = f'objects {name}'
    return outcome


def _coco_pictures(split: CocoSplit, read: Any, folders: dict[str, str], sets: list[PictureSet], looker: Looker,
                   sample: int | None) -> Outcome:
    folder = folders[split.name] = picture_folder(split, read.file_names)
    sizes = [(int(width), int(height)) for width, height in zip(read.widths, read.heights, strict=True)]
    pictures = PictureSet(split.name, [os.path.join(folder, name) for name in read.file_names], read.image_ids, sizes,
                          folder)
    sets.append(pictures)
    return check_pictures(pictures, looker, sample)


def check_label_maps(
    splits: Sequence[LabelMapSplit],
    *,
    classes: Sequence[str] | None = None,
    reduce_zero_label: bool | None = None,
    classes_file: str | None = None,
    looker: Looker | None = None,
    sample: int | None = None,
    root: str | None = None,
) -> list[Outcome]:
    """Look at splits of pictures and label maps.

    Args:
        splits: one or more; one that is there twice is looked at once.
        classes: of the config; None takes those of `classes_file`.
        reduce_zero_label: of the config; None finds out.
        classes_file: None is `classes.txt` under `root`, if that is given.
        looker: what looks at the files; None makes one that remembers.
        sample: pairs of each split that are looked at; None looks at all.
        root: where the splits were found; a data set block is proposed for it. None proposes none.
    """
    looker = looker or Looker(None, memory_file())
    splits = list({(os.path.realpath(split.labels), split.pictures, tuple(split.names or ())): split
                   for split in reversed(splits)}.values())[::-1]
    if classes_file is None:
        classes_file = os.path.join(root, 'classes.txt') if root is not None else ''
    all_maps: list[Maps] = []
    sets: list[PictureSet] = []
    outcomes = []
    for split in splits:
        all_maps.append(_pairs(split))
        outcomes.append(run_check(f'pictures {split.name}', _map_pictures, split, all_maps, sets, looker, sample))
    state: dict[str, Any] = {}
    outcomes.append(run_check('classes', _classes, classes, classes_file, reduce_zero_label, all_maps, looker, sample,
                              state))
    if 'reading' in state:
        reading, binary, known = state['reading'], state['binary'], state['classes']
        for maps, pictures in zip(all_maps, sets, strict=True):
            outcomes.append(run_check(f'label maps {maps.split.name}', check_maps, maps, pictures, reading, binary))
        outcomes.append(run_check('label values', check_values, all_maps, reading, known, binary, classes_file))
    outcomes.append(run_check('duplicate pictures', check_duplicates, sets, looker))
    if root is not None and 'reading' in state:
        outcomes.append(run_check('data set block', proposal.propose_label_maps, root, all_maps, state['reading'],
                                  state['classes'], state['binary']))
    return outcomes


def _pairs(split: LabelMapSplit) -> Maps:
    try:
        return pair(split)
    except Exception as error:  # names and folders may be of any kind
        return Maps(split, findings=[finding_of(error, 'pairing')])


def _map_pictures(split: LabelMapSplit, all_maps: list[Maps], sets: list[PictureSet], looker: Looker,
                  sample: int | None) -> Outcome:
    sets.append(PictureSet(split.name, all_maps[-1].pictures, folder=split.pictures))
    return check_pictures(sets[-1], looker, sample)


def _classes(classes: Sequence[str] | None, classes_file: str, reduce_zero_label: bool | None, all_maps: list[Maps],
             looker: Looker, sample: int | None, state: dict[str, Any]) -> Outcome:
    """Read the label maps, and find out which classes they have."""
    for maps in all_maps:
        look_at_maps(maps, looker, sample)
    known = read_classes(classes_file) if classes_file else ClassList()
    findings = list(known.findings)
    if classes is not None:
        if known.names is not None and tuple(classes) != known.names:
            findings.append(_other_classes(classes, known.names, classes_file))
        known = given_classes(classes)
        findings += known.findings
    values = [[value for value, _ in facts.values] for maps in all_maps for facts in maps.facts.values()
              if facts.fault is None]
    ade = all(name.rsplit('/', 1)[-1].startswith('ADE_') for maps in all_maps for name in maps.names) and any(
        maps.names for maps in all_maps)
    binary = is_binary(values)
    reading = choose_reading(values, known, ade, reduce_zero_label)
    state.update(reading=reading, binary=binary, classes=known)
    if known.names is None and not findings and not (ade and len(reading.classes) == 150):
        findings.append(_no_classes(reading, values, classes_file))
    findings += _against_given(values, known, reading, reduce_zero_label, binary)
    source = f' of {known.source}' if known.names is not None else ''
    outcome = Outcome('classes', f'{len(reading.classes)} classes{source}', findings)
    outcome.figures = dict(classes=list(reading.classes), reduce_zero_label=reading.reduce_zero_label)
    return outcome


def _no_classes(reading: Reading, values: list, classes_file: str) -> Finding:
    return Finding(
        'error', 'classes unknown', 'nothing names the classes: there is no classes.txt',
        f'write it, one name a line, line n for value {"n" if reading.reduce_zero_label else "n - 1"}: '
        f'{len(reading.classes)} lines, by the values that are there' if values else 'write it, one name a line',
        file=classes_file or None, field='classes')


def _other_classes(given: Sequence[str], listed: Sequence[str], file: str) -> Finding:
    place, pair_ = next((number, pair_) for number, pair_ in enumerate(
        zip([*given, None], [*listed, None], strict=False), 1) if pair_[0] != pair_[1])
    return Finding(
        'error', 'classes disagree', f'{len(given)} classes are given and classes.txt has {len(listed)}; the first '
        f'that differs is class {place}: {pair_[0]!r} is given and {pair_[1]!r} is in the file',
        'correct one of the two, or leave the classes out', file=file, id=place, field='classes', value=pair_[1])


def _against_given(values: list, known: ClassList, reading: Reading, zero: bool | None,
                   binary: bool) -> list[Finding]:
    """Report a `reduce_zero_label` that more maps contradict than the opposite."""
    if zero is None or known.names is None or binary:
        return []
    other = choose_reading(values, known)

    def wrong(one: Reading) -> int:
        return sum(any(map(one.is_wrong, held)) for held in values)

    empty = all(map(other.is_ignored, {value for held in values for value in held}))  # that would lose all labels
    if other.reduce_zero_label == zero or wrong(other) >= wrong(reading) or empty:
        return []
    return [Finding('error', 'reduce_zero_label', f'with reduce_zero_label={zero}, {wrong(reading)} of {len(values)} '
                    f'label maps hold values out of range; with {not zero}, {wrong(other)} do',
                    f'set reduce_zero_label={not zero}', field='reduce_zero_label', value=zero)]
