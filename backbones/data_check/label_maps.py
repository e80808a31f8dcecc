"""Label maps: each picture has one, of its size, and all its values are classes.

What a label map must be is said in `backbones.data.label_files`; `label_facts` reads the maps by it.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..data.files import IMAGE_SUFFIXES, shown
from ..data.label_files import IGNORED, list_by_stem
from ..findings import Finding, Outcome, finding_of
from .label_facts import LabelFacts, look_at_label_map
from .label_reading import ClassList, Reading, words_of
from .layout import LABEL_SUFFIXES, LabelMapSplit, split_of
from .looking import Looker
from .pictures import PictureSet, counted, evenly

ENOUGH_MAPS = 200  # a class that one picture in 50 has is in none of 200 by chance 1.8 % of the time
TOO_SHORT = 0.2  # share of the maps with values above the classes from which on the list of classes is doubted


@dataclass
class Maps:
    """The pairs of one split.

    Args:
        split: where they lie.
        names: without suffix.
        pictures, labels: paths, in the order of `names`.
        seg_map_suffix: ending of the label maps' names.
        facts: of the label maps looked at, by their path.
        findings: what is wrong with the pairing.
    """

    split: LabelMapSplit
    names: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    seg_map_suffix: str = '.png'
    facts: dict[str, LabelFacts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def pair(split: LabelMapSplit) -> Maps:
    """Pair pictures and label maps by their names, as `LabelMapDataset` does."""
    maps = Maps(split)
    findings = maps.findings
    for folder, what in ((split.pictures, 'pictures'), (split.labels, 'label maps')):
        if not os.path.isdir(folder):
            findings.append(Finding('error', 'folder missing', f'the folder of the {what} of {split.name} does not '
                                    'exist', 'put the files there, or correct the layout', file=folder))
    if findings:
        return maps
    try:
        pictures = list_by_stem(split.pictures, (split.img_suffix,) if split.img_suffix else IMAGE_SUFFIXES)
        maps.seg_map_suffix = split.seg_map_suffix or _suffix(split.labels, pictures)
        labels = list_by_stem(split.labels, (maps.seg_map_suffix,))
    except (ValueError, OSError) as error:  # two files of one name
        finding = finding_of(error, 'pairing')
        findings.append(Finding('error', finding.kind, finding.message, finding.remedy, file=split.pictures))
        return maps
    wanted = sorted(pictures) if split.names is None else list(split.names)
    findings += _without_partner(maps, wanted, pictures, labels)
    maps.names = [name for name in wanted if name in pictures and name in labels]
    maps.pictures = [pictures[name] for name in maps.names]
    maps.labels = [labels[name] for name in maps.names]
    if not wanted:
        findings.append(Finding('error', 'no pictures', f'the folder of the pictures of {split.name} holds none',
                                'put them there, or correct the layout', file=split.pictures))
    return maps


def _suffix(folder: str, pictures: Mapping[str, str]) -> str:
    """Return the ending of the label maps' names: '.png', another format's, or one such as '_mask.png'."""
    counts = Counter()
    stems = []
    for parent, _, files in os.walk(folder, followlinks=False):
        for file in files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in LABEL_SUFFIXES and not file.startswith('.'):
                counts[suffix] += 1
                stems.append((os.path.relpath(os.path.join(parent, stem), folder), suffix))
    if not counts:
        return '.png'
    suffix = next((known for known in counts if known.lower() == '.png'), counts.most_common(1)[0][0])
    stems = [stem for stem, other in stems if other == suffix]
    if any(stem in pictures for stem in stems):
        return suffix
    ends = Counter(stem[len(name):] for stem in stems[:100] for name in _beginnings(stem, pictures))
    end, times = ends.most_common(1)[0] if ends else ('', 0)
    return end + suffix if times * 2 >= len(stems[:100]) else suffix


def _beginnings(stem: str, pictures: Mapping[str, str]) -> Iterable[str]:
    return (stem[:length] for length in range(1, len(stem)) if stem[:length] in pictures)


def _without_partner(maps: Maps, wanted: Sequence[str], pictures: Mapping[str, str],
                     labels: Mapping[str, str]) -> Iterable[Finding]:
    split = maps.split
    for name in wanted:
        if name not in pictures:
            yield Finding('error', 'picture missing', f'{name!r} is listed, but has no picture',
                          'add the picture, or take the name off the list',
                          file=os.path.join(split.pictures, name))
        elif name not in labels:
            expected = os.path.join(split.labels, name + maps.seg_map_suffix)
            other = next((suffix for suffix in LABEL_SUFFIXES
                          if os.path.isfile(os.path.join(split.labels, name + suffix))), None)
            hint = f'; {name + other} is there' if other else ''
            yield Finding('error', 'label map missing', f'the picture has no label map {shown(expected)}{hint}',
                          'add the label map, or remove the picture', file=pictures[name], field='label map',
                          value=os.path.basename(expected))
    if split.names is None:
        for name in sorted(set(labels) - set(pictures)):
            yield Finding('error', 'picture missing', f'the label map has no picture in {shown(split.pictures)}',
                          'add the picture, or remove the label map', file=labels[name], field='picture', value=name)


def look_at_maps(maps: Maps, looker: Looker, sample: int | None) -> None:
    """Fill `maps.facts`, of all or `sample` of the label maps."""
    paths = [maps.labels[place] for place in evenly(len(maps.labels), sample)]
    found = looker.look(look_at_label_map, paths, f'label maps {maps.split.name}')
    maps.facts = dict(zip(paths, found, strict=True))


def check_maps(maps: Maps, pictures: PictureSet, reading: Reading, binary: bool) -> Outcome:
    """Hold each label map that was looked at against the classes and against its picture."""
    outcome = Outcome(f'label maps {maps.split.name}', findings=list(maps.findings))
    picture_of = dict(zip(maps.labels, maps.pictures, strict=True))
    for path, facts in maps.facts.items():
        outcome.findings += map_findings(facts, path, reading, binary)
        picture = pictures.facts.get(picture_of[path])
        if picture is None or picture.fault is not None or not facts.width:
            continue
        if (facts.width, facts.height) != (picture.shown_width, picture.shown_height):
            outcome.findings.append(Finding(
                'error', 'label map size',
                f'the label map is {facts.width}x{facts.height} (width x height) while its picture '
                f'{shown(picture_of[path])} is {picture.shown_width}x{picture.shown_height}',
                'make it again at the size of the picture, by nearest neighbour', file=path, field='size',
                value=f'{facts.width}x{facts.height}'))
    looked = len(maps.facts)
    part = 'all read' if looked == len(maps.labels) else f'{looked:,} of them, evenly chosen, read'
    outcome.summary = f'{counted(len(maps.labels), "pair")} (*{maps.seg_map_suffix}); {part}'
    outcome.figures = dict(pairs=len(maps.labels), looked_at=looked, **_figures(maps.facts.values(), reading))
    return outcome


def _figures(found: Iterable[LabelFacts], reading: Reading) -> dict:
    pixels, files = Counter(), Counter()
    for facts in found:
        for value, count in facts.values:
            pixels[value] += count
            files[value] += 1
    total = max(sum(pixels.values()), 1)
    return dict(
        values={str(value): dict(
            pixels=count, share=round(count / total, 6), maps=files[value],
            meaning='ignored' if reading.is_ignored(value) else
            'out of range' if reading.is_wrong(value) else reading.name(value))
            for value, count in sorted(pixels.items())})


def map_findings(facts: LabelFacts, path: str, reading: Reading, binary: bool) -> Iterable[Finding]:
    """Turn the facts of a label map into findings; `binary`: all maps of the data set hold 0 and 255 only."""
    place = dict(file=path)
    if facts.fault is not None:
        kind, message, remedy = facts.fault
        if facts.colours:
            message, remedy = _colour_words(facts, message, remedy)
        yield Finding('error', kind, message, remedy, **place, field='mode' if facts.colours else None,
                      value=facts.mode if facts.colours else None)
        return
    wrong = [[value, pixels] for value, pixels in facts.values if reading.is_wrong(value)]
    if binary and any(value == IGNORED for value, _ in facts.values):
        yield Finding('error', 'mask of 0 and 255', f'the label map holds 0 and {IGNORED} only, but {IGNORED} is no '
                      'class: it marks what is ignored, or is out of range',
                      'write the two classes as 1 and 2, or as 0 and 1 with reduce_zero_label=False',
                      **place, field='values', value=f'0, {IGNORED}')
    elif wrong:
        yield _range_finding(wrong, reading, place)
    elif facts.values and all(reading.is_ignored(value) for value, _ in facts.values):
        yield Finding('warning', 'map without a class', f'the label map holds {words_of(facts.values)} only, which is '
                      'ignored: nothing is learnt from it', 'label the picture, or remove both files', **place,
                      field='values', value=facts.values[0][0])
    yield from _notes(facts, place)


def _notes(facts: LabelFacts, place: Mapping) -> Iterable[Finding]:
    if facts.mode == 'P':
        yield Finding('note', 'palette label map', 'the label map has a palette; the numbers of its colours are the '
                      'values, whatever the colours are', **place, field='mode', value='P')
    elif facts.mode.startswith(('I', 'F')):
        yield Finding('note', 'deep label map', f'the label map has more than 8 bits a pixel (mode {facts.mode}); its '
                      'values are read as they are', **place, field='mode', value=facts.mode)
    if facts.no_end:
        yield Finding('note', 'label map without its end', 'the label map lacks its end marker; all its pixels are '
                      'there', **place)


def _range_finding(wrong: Sequence, reading: Reading, place: Mapping) -> Finding:
    hint = ''
    if reading.reduce_zero_label and any(value == IGNORED for value, _ in wrong):
        hint = f'; what is to be ignored is written as 0, not {IGNORED}'
    elif len(wrong) > 20:
        hint = '; so many values come from smoothing or from another kind of picture'
    return Finding(
        'error', 'value out of range', f'the label map holds {words_of(wrong)}, but {reading.rule}{hint}',
        'correct the file, or the list of classes', **place, field='values',
        value=_plain(wrong[0][0]) if len(wrong) == 1 else ', '.join(str(_plain(value)) for value, _ in wrong[:12]))


def _plain(value: float) -> float:
    return int(value) if value == value and abs(value) < 1e15 and value % 1 == 0 else value


def _colour_words(facts: LabelFacts, message: str, remedy: str) -> tuple[str, str]:
    if facts.grey:
        values = ', '.join(str(colour[0]) for colour in facts.colours[:8])
        return (f'{message}; they are equal, with the values {values}'
                f'{", ..." if facts.distinct > 8 else ""}', 'save one of its channels as a grey PNG')
    shown_colours = ', '.join(f'({red}, {green}, {blue})' for red, green, blue, _ in facts.colours[:8])
    more = f' and {facts.distinct - 8} more' if facts.distinct > 8 else ''
    return f'{message}; it has {facts.distinct} colours: {shown_colours}{more}', (
        'turn each colour into its number and save as grey PNG; with "name red green blue" in each line of '
        'classes.txt, --fix does so')


def check_values(all_maps: Sequence[Maps], reading: Reading, classes: ClassList, binary: bool,
                 classes_file: str) -> Outcome:
    """Look at the values of all maps together: what they mean, classes that never occur, a list that is too short."""
    outcome = Outcome('label values')
    found = [facts for maps in all_maps for facts in maps.facts.values() if facts.fault is None]
    seen = Counter(value for facts in found for value, _ in facts.values)
    outcome.figures = dict(seen={str(value): count for value, count in sorted(seen.items())}, maps=len(found),
                           reduce_zero_label=reading.reduce_zero_label, why=reading.why, sure=reading.sure)
    outcome.summary = f'{_span(seen)} in {counted(len(found), "map")}; {reading.rule}' if seen else 'no map is readable'
    if not found or binary:
        return outcome
    if all(reading.is_ignored(value) for value in seen):
        outcome.findings.append(Finding('error', 'no class in any map', 'no pixel of any label map has a class',
                                        'check the label maps and reduce_zero_label', field='values'))
    over = [facts for facts in found if any(value > reading.highest and not reading.is_ignored(value)
                                            and value < IGNORED for value, _ in facts.values)]
    if classes.names and len(over) >= max(2, TOO_SHORT * len(found)):
        top = max(value for value in seen if value < IGNORED)
        outcome.findings.append(Finding(
            'error', 'list of classes too short', f'{classes.source} has {len(classes.names)} classes, but '
            f'{len(over)} of {len(found)} label maps hold values up to {_plain(top)}', 'add the missing names',
            file=classes_file or None, field='classes', value=len(classes.names)))
    wrong = sum(any(reading.is_wrong(value) for value, _ in facts.values) for facts in found)
    if wrong < TOO_SHORT * len(found):  # else the classes are there, under other values
        outcome.findings += _absent(all_maps, reading, classes_file)
    return outcome


def _span(seen: Mapping[float, int]) -> str:
    values = sorted(seen)
    words = ', '.join(str(_plain(value)) for value in values[:6])
    return f'values {words}' if len(values) <= 6 else f'{len(values)} values from {_plain(values[0])} to ' \
                                                     f'{_plain(values[-1])}'


def _absent(all_maps: Sequence[Maps], reading: Reading, classes_file: str) -> Iterable[Finding]:
    """Report classes that no training map has, where the maps are many and all were looked at."""
    kinds: dict[str, set] = defaultdict(set)
    counts: Counter = Counter()
    for maps in all_maps:
        if len(maps.facts) < len(maps.labels):
            return
        kind = split_of(maps.split.name) or 'train'
        counts[kind] += len(maps.facts)
        kinds[kind] |= {value for facts in maps.facts.values() for value, _ in facts.values}
    if counts['train'] < ENOUGH_MAPS:
        return
    for value in range(int(reading.reduce_zero_label), reading.highest + 1):
        if value not in kinds['train']:
            there = [kind for kind in kinds if value in kinds[kind]]
            where = f'but in some of {" and ".join(there)}' if there else 'nor in any other'
            yield Finding('warning', 'class without a pixel', f'the class {reading.name(value)!r} (value {value}) is '
                          f'in none of the {counts["train"]:,} training maps, {where}',
                          'check the list of classes and reduce_zero_label; a class that is not there is not learnt',
                          file=classes_file or None, field='classes', value=reading.name(value))
