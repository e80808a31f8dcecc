"""`tools/compare.py A B`: whether two prediction sets for the same images differ beyond noise.

Each of the two is a folder that `tools/test.py --details` wrote, which knows its data set, or a file of predictions:
COCO results, or label PNGs in a zip or a folder.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.analysis.bootstrap import LEVEL, Interval
from backbones.data.files import shown

from .details import FILE, FOLDER, FORMAT, check_resamplings, digest_of, steps

NEEDED = ('task', 'classes', 'data', 'files', 'kinds', 'protocol')
ONE_TRAINING = (
    'The noise is that of other images. Another training of the same config moves the numbers, too: train both several '
    'times before you take or drop a change for a small difference.')
DETAILS = 'python tools/test.py CONFIG CHECKPOINT --work-dir {} --details'
FEW = 2  # a prediction set with so many times fewer images that have a detection is remarked on


@dataclass(frozen=True)
class CompareOptions:
    """Where the truth is, and how to compare.

    Args:
        ann: annotation file, for detections.
        config: config whose test data set the label maps are of.
        labels: folder of label maps, in place of a config.
        classes: file with their class names, one a line; None: a `classes.txt` near `labels`.
        first_class: of `labels`: the number of the first class, 1 where 0 is ignored, 0 where 255 is.
        score: threshold of precision, recall and F1 for both; None: where F1 of each is best.
        resamplings: of the images.
        seed: of them.
        config_options: dotted config keys to override.
    """

    ann: str | None = None
    config: str | None = None
    labels: str | None = None
    classes: str | None = None
    first_class: int | None = None
    score: float | None = None
    resamplings: int = 1000
    seed: int = 0
    config_options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """One prediction set.

    Attributes:
        given: as the user named it.
        task: 'detection' or 'segmentation'.
        files: by kind; a file of COCO results is there as 'boxes' and 'masks'.
        details: what its `details.json` says; None for a mere file.
    """

    given: str
    task: str
    files: dict[str, Path]
    details: dict[str, Any] | None = None


def compare_predictions(first: str, second: str, options: CompareOptions) -> dict[str, Any]:
    """Compare two prediction sets.

    Returns:
        `first`, `second`: as given; `task`; `kinds`: of boxes, masks or labels each `images`, `replicates`, `level`,
        `seed`, `by`, and rows `overall`, `classes` (of the number `by`) and `all_classes` (of every number): `name`,
        `first`, `second`, `difference` (second - first), `low`, `high`, `chance`, `beyond` noise, `jointly`, `images`;
        `remarks`.

    Raises:
        ValueError: they cannot be compared: of other data sets or classes, empty, damaged, or their truth is not told.
    """
    check_resamplings(options.resamplings)
    if options.score is not None and not 0 <= options.score <= 1:
        raise ValueError(f'--score {options.score:g}: scores lie from 0 to 1')
    sources = [read_source(first), read_source(second)]
    tasks = [source.task for source in sources]
    if tasks[0] != tasks[1]:
        raise ValueError(f'{shown(first)} is of a {tasks[0]} model and {shown(second)} of a {tasks[1]} model; compare '
                         'two of one task')
    known = [source for source in sources if source.details]
    if len(known) == 2:
        _check_classes(*known)
    if tasks[0] == 'detection':
        _refuse(options, ('config', 'labels', 'classes', 'first_class'), 'label maps', 'detections; give --ann')
        kinds, remarks = _compare_detections(sources, options)
    else:
        _refuse(options, ('ann', 'score'), 'detections', 'label maps; give --config')
        from .compare_labels import compare_label_maps

        kinds, remarks = compare_label_maps(sources, options)
    remarks += _protocols(known)
    return dict(first=str(first), second=str(second), task=tasks[0], kinds=kinds, remarks=remarks)


def read_source(given: str) -> Source:
    """Find out what a path holds.

    Raises:
        ValueError: nothing that can be compared.
    """
    path = Path(given)
    if path.name == FILE and path.is_file():
        path = path.parent
    if not path.exists():
        raise ValueError(f'{shown(given)} does not exist; give a folder that tools/test.py --details wrote, or a file '
                         'of predictions')
    if path.is_dir():
        for folder in (path, path / FOLDER):
            if (folder / FILE).is_file():
                return _evaluation(given, folder)
            if any((folder / name).is_file() for name in ('predictions.json', 'predictions.zip')):
                raise ValueError(f'{shown(folder)} has no {FILE}: that evaluation was ended before it was whole; run '
                                 'tools/test.py --details again')
        if _of_a_run(path) or not _has_label_maps(path):
            raise ValueError(f'{shown(given)} has no {FOLDER}/; run `{DETAILS.format(shown(path))}` first, or give '
                             'label maps (.png) or a file of predictions')
        return Source(given, 'segmentation', dict(labels=path))
    if path.suffix == '.json':
        return Source(given, 'detection', dict(boxes=path, masks=path))
    if path.suffix == '.zip':
        return Source(given, 'segmentation', dict(labels=path))
    raise ValueError(f'{shown(given)} is neither COCO results (.json), nor label maps (.zip, a folder), nor a folder '
                     'that tools/test.py --details wrote; give one of these')


def _of_a_run(folder: Path) -> bool:
    """Whether a folder is the work folder of a training or a test, perhaps of one that still goes on."""
    names = ('metrics.json', 'last', 'last_checkpoint', 'runs', '*/vis_data', '*.pth')
    return any(True for name in names for _ in folder.glob(name))


def _has_label_maps(folder: Path) -> bool:
    """Whether a folder holds a PNG, and none that is stored in colour, as pictures are."""
    file = next(iter(folder.rglob('*.png')), None)
    if file is None:
        return False
    try:
        with file.open('rb') as content:
            head = content.read(26)
    except OSError:  # whose reader says why
        return True
    return head[:8] != b'\x89PNG\r\n\x1a\n' or head[25] in (0, 3)  # byte 25: grey or palette


def _evaluation(given: str, folder: Path) -> Source:
    file = folder / FILE
    try:
        details = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{shown(file)} is damaged ({error}); run tools/test.py --details again') from error
    if not isinstance(details, dict) or details.get('format') != FORMAT or not details.keys() >= set(NEEDED):
        written = details.get('format') if isinstance(details, dict) else None
        raise ValueError(f'{shown(file)} is of another version of this project (format {written!r}, and {FORMAT} is '
                         'known); run tools/test.py --details again')
    files = {kind: folder / details['files'][kind] for kind in details['kinds']}
    for path in files.values():
        if not path.is_file():
            raise ValueError(f'{shown(path)} is not there, and {FILE} beside it says that it is; run tools/test.py '
                             '--details again')
    return Source(given, details['task'], files, details)


def locate(path: str, folder: str) -> str:
    """A path that an evaluation run in `folder` names: as it is, or seen from there."""
    there = Path(folder, path)
    return str(there) if not Path(path).exists() and there.exists() else path


def difference_row(
    name: str, first: float | None, second: float | None, found: Interval, chance: float | None, beyond: bool | None,
    jointly: bool | None,
) -> dict[str, Any]:
    """One number of both."""
    return dict(name=name, first=first, second=second, difference=found.value, low=found.low, high=found.high,
                chance=chance, beyond=beyond, jointly=jointly, images=found.images)


def _refuse(options: CompareOptions, names: Sequence[str], what: str, instead: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f'--{name.replace("_", "-")} is for {what}, and these are {instead}, or leave it out')


def _check_classes(first: Source, second: Source) -> None:
    mine, its = first.details['classes'], second.details['classes']
    if set(mine) != set(its) or (first.task == 'segmentation' and mine != its):
        pairs = zip([*mine, None], [*its, None], strict=False)
        one, other = next(pair for pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f'{shown(first.given)} has {len(mine)} classes and {shown(second.given)} {len(its)}, and they differ, '
            f'first in {one!r} and {other!r}; compare models of the same classes')


def _protocols(known: Sequence[Source]) -> list[str]:
    """In what the evaluations differ."""
    if len(known) < 2:
        return []
    mine, its = (source.details['protocol'] for source in known)
    other = [name for name in {**mine, **its} if mine.get(name) != its.get(name)]
    told = ', '.join(f'{name} {mine.get(name)} and {its.get(name)}' for name in other)
    return [f'the two were evaluated in different ways: {told}'] if other else []


# --- detections --------------------------------------------------------------------------------------


def _compare_detections(sources: Sequence[Source], options: CompareOptions) -> tuple[dict[str, Any], list[str]]:
    from backbones.analysis.detection_matches import read_results
    from backbones.missing import toolbox_needed

    with toolbox_needed():
        from .coco_api import CheckedCoco
        from .details_detection import only_classes

    file = _annotation_file(sources, options.ann)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says that it makes an index
        coco = CheckedCoco(file)
    known = next((source.details for source in sources if source.details), None)
    if known:
        ids = [one['id'] for one in known['data']['categories']]
        if not set(ids) <= set(coco.cats):
            raise ValueError(f'{shown(file)} does not list all categories of {known["data"]["annotation_file"]}; give '
                             '--ann the file that the predictions were made for')
        coco = only_classes(coco, ids)
    kinds = _kinds(sources, coco)
    result, remarks = {}, []
    with steps(2 * len(kinds) * (2 + -(-options.resamplings // 100))) as tick:
        for kind in kinds:
            found = [read_results(coco, source.files[kind], kind == 'masks') for source in sources]
            for source, one in zip(sources, found, strict=True):
                if not len(one.scores):
                    raise ValueError(f'{shown(source.files[kind])} holds no detection at all: the prediction set is '
                                     'empty, and nothing can be compared')
            if not result:
                remarks = _fewer(sources, [len(set(one.images.tolist())) for one in found])
            result[kind] = _compare_kind(coco, found, options, tick)
    return result, remarks


def _compare_kind(
    coco: Any, found: Sequence[Any], options: CompareOptions, tick: Callable[[str], None]
) -> dict[str, Any]:
    from backbones.analysis.compare import compare
    from backbones.analysis.detection_compare import images_behind
    from backbones.analysis.detection_matches import match, overlaps_of
    from backbones.analysis.detection_points import SCORE, operating_points
    from backbones.analysis.detection_replicates import LIMITS

    from .details_detection import replicates_of

    drawn, scores, overlaps = [], [], None
    for one in found:
        overlaps = overlaps_of(coco, one)
        tick('overlaps')
        matches = match(overlaps)
        best = operating_points(matches).overall.best_score if options.score is None else options.score
        scores.append(SCORE if best is None else best)
        tick('matches')
        drawn.append(replicates_of(
            matches, LIMITS, scores[-1], options.resamplings, options.seed, lambda: tick('resampling')))
    compared = compare(*drawn, overlaps.names, images_behind(overlaps), level=LEVEL)
    rows = {name: [_row(one) for one in each] for name, each in compared.classes.items()}
    return dict(
        images=compared.images, replicates=compared.replicates, level=compared.level, seed=compared.seed,
        scores=scores, by='AP', overall=[_row(one) for one in compared.overall.values()], classes=rows['AP'],
        all_classes=rows)


def _row(one: Any) -> dict[str, Any]:
    names = 'name', 'first', 'second', 'value', 'low', 'high', 'chance', 'beyond', 'jointly', 'images'
    return {'difference' if name == 'value' else name: getattr(one, name) for name in names}


def _annotation_file(sources: Sequence[Source], given: str | None) -> str:
    """The annotations that both are of.

    Raises:
        ValueError: it is not told, not here, or another one.
    """
    known = [source for source in sources if source.details]
    digests = [source.details['data']['annotation_sha256'] for source in known]
    if len(known) == 2 and None not in digests and digests[0] != digests[1]:
        places = [f'{source.details["data"]["annotation_file"]} ({source.details["data"]["images"]} images)'
                  for source in known]
        raise ValueError(f'the two are of different data sets: {shown(sources[0].given)} of {places[0]} and '
                         f'{shown(sources[1].given)} of {places[1]}; evaluate both on one')
    if given is None and not known:
        raise ValueError('--ann is needed: the annotation file that these predictions are of')
    file = given
    if file is None:
        data = known[0].details['data']
        file = locate(str(data['annotation_file']), data['folder'])
    if not Path(file).is_file():
        raise ValueError(f'the annotation file {shown(file)} is not here; give --ann FILE')
    for source, digest in zip(known, digests, strict=True):
        if digest is not None and digest_of(file) != digest:
            raise ValueError(f'{shown(file)} is not the annotation file that {shown(source.given)} was scored against, '
                             'or has changed since; give --ann that file, or run tools/test.py --details again')
    return file


def _kinds(sources: Sequence[Source], coco: Any) -> list[str]:
    """What both have."""
    names = dict(boxes=b'"bbox"', masks=b'"segmentation"')
    truth = all(one.get('segmentation') for one in coco.dataset['annotations'])
    kinds = [kind for kind in names if all(kind in source.files for source in sources)]
    if not kinds:
        raise ValueError(f'{shown(sources[0].given)} has {" and ".join(sources[0].files)} only, '
                         f'{shown(sources[1].given)} {" and ".join(sources[1].files)}; compare boxes with boxes, or '
                         'masks with masks')
    content = [source.files[kinds[0]].read_bytes() for source in sources]
    for source, text in zip(sources, content, strict=True):
        if text.strip() == b'[]':
            raise ValueError(f'{shown(source.files[kinds[0]])} holds no detection at all: the prediction set is empty, '
                             'and nothing can be compared')
    plain = [text for source, text in zip(sources, content, strict=True) if not source.details]
    kinds = [kind for kind in kinds if all(names[kind] in text for text in plain) and (kind != 'masks' or truth)]
    return kinds or ['boxes']  # whose reader says what is missing


def _fewer(sources: Sequence[Source], images: Sequence[int]) -> list[str]:
    few = images.index(min(images))
    if images[few] * FEW > max(images):
        return []
    return [f'{shown(sources[few].given)} has detections in {images[few]} images and the other in {max(images)}: it '
            'may be of a run that was ended']


def write_comparison(file: str, found: Mapping[str, Any]) -> None:
    """Write what `compare_predictions` gave as JSON."""
    from .details import write_details

    write_details(Path(file), dict(found))
