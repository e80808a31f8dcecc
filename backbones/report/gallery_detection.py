"""The worst and best images of a detector, from `details.json`, the annotations and the predictions beside it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backbones.data.coco_masks import check_mask, check_total, run_totals
from backbones.data.files import shown
from backbones.drawing.styles import class_colours
from backbones.drawing.texts import written
from backbones.evaluation.details import digest_of
from backbones.missing import toolbox_needed

from .drawing_detection import Seen, card_drawings
from .drawing_pictures import Purse, load_photograph
from .drawing_styles import ERRORS, muted
from .parts import Card, Gallery, Note, Part

MOST = 12  # images of a kind of error, and best ones
UNSEEN = 3  # images of a kind, at least, whose errors all score below the threshold
FACTS = 4  # errors that a card tells
CHUNK = 1 << 22  # bytes of predictions.json at a time
AGAIN = 'python tools/test.py CONFIG CHECKPOINT --details'
Progress = Callable[[int, int], None]


class NoGalleryError(ValueError):
    """Why there is no gallery, in a sentence.

    Args:
        message: what is wrong.
        command: what to type.
    """

    def __init__(self, message: str, command: str = AGAIN) -> None:
        super().__init__(message)
        self.command = command

    def note(self) -> Note:
        """The part in the gallery's place."""
        return Note(f'No gallery of images: {self}.', 'warning', self.command)


def located(path: str, folder: str) -> Path:
    """A path that an evaluation run in `folder` names; as it is where it is not there."""
    there = Path(folder, path)
    return there if there.exists() else Path(path)


def detection_parts(details: dict[str, Any], folder: Path, budget: int, progress: Progress | None) -> list[Part]:
    """The gallery, or a note that says why there is none.

    Raises:
        NoGalleryError: the data or the predictions are not those that were scored.
    """
    kind = 'masks' if 'masks' in details['kinds'] else 'boxes'
    part = details[kind]
    turns = chosen_images(part)
    purse = Purse(budget, len(turns))
    images = list(turns)[:purse.cards]
    if not images:
        text = 'names no image' if not turns else 'has no room in this report'
        return [Note(f'No gallery of images: the evaluation {text}.')]
    shown_images = Images(details, kind, images, folder)
    cards: list[Card] = []
    for done, image in enumerate(shown_images.by_cost(turns), start=1):
        card = _card(shown_images, image, turns[image], purse)
        cards += [card] if card else []
        if progress:
            progress(done, len(images))
    if not cards:
        return [Note('No gallery of images: the evaluation has no room in this report.')]
    dap = part['errors']['dap']
    present = {one for card in cards for one in card.kinds}
    kinds = [one for one in _costliest_first(dap) if one in present]
    return [Gallery('Worst and best images', cards, _caption(part, kind, purse, len(turns)), kinds)]


def _costliest_first(dap: dict[str, float | None]) -> list[str]:
    return sorted(ERRORS, key=lambda one: -(dap.get(one) or 0))


def _caption(part: dict[str, Any], kind: str, purse: Purse, wanted: int) -> str:
    lines = ', '.join(f'{name}: {line.name}' for name, line in ERRORS.items())
    text = (f'Left: what is there. Right: what the model predicts with a score of {_threshold(part):.2f} or more, the '
            f'costliest error of each kind also below it. Colours are of the classes; errors have a thick outline of '
            f'their own: {lines}. Dotted: found below the score only. Errors are of {kind} at IoU '
            f'{part["errors"]["iou"]:g}; names that would cover others are left out.')
    missing = wanted - purse.cards + purse.left_out
    text += f' {missing} more images are left out for the size of this page.' if missing else ''
    return text + (f' {purse.reduced} images are reduced for it.' if purse.reduced else '')


def _threshold(part: dict[str, Any]) -> float:
    return float(part['points']['score'])


def chosen_images(part: dict[str, Any], most: int = MOST) -> dict[int, list[str]]:
    """Ids of the images to show, with the kinds of error that they stand for; none for a good one.

    In turns: the worst of each kind, a good one, the second worst of each kind, and so on, so that any number of them
    from the front has something of all.
    """
    errors, threshold = part['errors'], _threshold(part)
    kinds = _costliest_first(errors['dap'])
    lists = {}
    for kind in kinds:
        rows = errors['worst_images'][kind]
        seen = [row['image'] for row in rows if kind == 'missed' or any(
            one['score'] >= threshold for one in row['shown'])]
        rest = [row['image'] for row in rows if row['image'] not in set(seen)]
        lists[kind] = [*seen, *rest[:max(0, UNSEEN - len(seen))]][:most]
    bad = {image for one in lists.values() for image in one}
    good = [row['image'] for row in errors['best_images'] if row['image'] not in bad][:most]
    turns: dict[int, list[str]] = {}
    for place in range(most):
        for kind in kinds:
            for image in lists[kind][place:place + 1]:
                turns.setdefault(image, []).append(kind)
        for image in good[place:place + 1]:
            turns.setdefault(image, [])
    return turns


# --- what is in the images ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    """An error of an image.

    Attributes:
        kind: of error.
        category: id of the class detected, or missed.
        object_id: of the annotation it is about; None for none.
        place: of the detection in predictions.json; None for what was missed.
        score: of it.
        iou: with the object.
        cost: AP gained by mending it alone; 0 where it is not among the costliest.
    """

    kind: str
    category: int
    object_id: int | None
    place: int | None
    score: float | None
    iou: float
    cost: float


class Images:
    """Annotations and predictions of the images to show.

    Args:
        details: of the evaluation.
        kind: 'boxes' or 'masks'.
        images: ids.
        folder: of details.json.

    Raises:
        NoGalleryError: the annotations or the predictions are not those that were scored.
    """

    def __init__(self, details: dict[str, Any], kind: str, images: Sequence[int], folder: Path) -> None:
        data, part = details['data'], details[kind]
        self.kind, self.threshold, self._errors = kind, _threshold(part), part['errors']
        self.names = {one['id']: written(one['name']) for one in data['categories']}
        order = {written(name): place for place, name in enumerate(details['classes'])}
        colours = [muted(one) for one in class_colours(max(len(order), len(self.names)))]
        self.colours = {number: colours[order.get(name, place)]
                        for place, (number, name) in enumerate(self.names.items())}
        self.rows = {row['id']: row for row in part['images'] if row['id'] in set(images)}
        lost = [one for one in images if one not in self.rows]
        if lost:
            raise NoGalleryError(f'details.json names image {lost[0]} and says nothing of it; evaluate again')
        self.image_folder = located(str(data['image_folder']), data['folder'])
        self.coco = _annotations(data, images, list(self.names), kind == 'masks')
        self._check_objects()
        place = [one['place'] for row in self.rows.values() for one in row['detections']]
        self.found = read_places(folder / details['files'][kind], place)
        self._check_found(folder / details['files'][kind])
        self.errors = self._named()

    def by_cost(self, images: dict[int, list[str]]) -> list[int]:
        """Ids of the images that are shown, the costliest first, good ones last, the best of them first."""
        columns = self._errors['by_image']
        cost = dict(zip(columns['image'], columns['cost'], strict=True))
        there = [image for image in images if image in self.rows]
        return sorted(there, key=lambda one: (not images[one], -cost.get(one, 0) if images[one] else 0))

    def cost(self, image: int) -> float | None:
        """AP that all errors of an image cost."""
        columns = self._errors['by_image']
        return next((cost for one, cost in zip(columns['image'], columns['cost'], strict=True) if one == image), None)

    def _check_objects(self) -> None:
        for row in self.rows.values():
            for one in row['objects']:
                there = self.coco.anns.get(one['id'])
                if there is None or there['image_id'] != row['id'] or there['category_id'] != one['category']:
                    raise NoGalleryError(f'object {one["id"]} of {shown(row["file_name"])} is another one in the '
                                         'annotation file than in details.json; evaluate again')

    def _check_found(self, file: Path) -> None:
        name = 'segmentation' if self.kind == 'masks' else 'bbox'
        strings, pixels = [], []
        for row in self.rows.values():
            for one in row['detections']:
                entry = self.found.get(one['place'])
                if (not isinstance(entry, dict) or entry.get('image_id') != row['id']
                        or entry.get('category_id') != one['category'] or not entry.get(name)
                        or not isinstance(entry.get('score'), int | float)
                        or abs(entry['score'] - one['score']) > 1e-4):
                    raise NoGalleryError(f'{shown(file)} is not the file that details.json is of (entry '
                                         f'{one["place"]}); evaluate again')
                if self.kind == 'masks':
                    title = f'entry {one["place"]} of {shown(file)}'
                    string = check_mask(entry[name], row['height'], row['width'], title)
                    strings += [string] if string is not None else []
                    pixels += [(row['height'] * row['width'], title)] if string is not None else []
        for total, (number, title) in zip(run_totals(strings), pixels, strict=True):
            check_total(total, number, title)

    def _named(self) -> dict[int, list[Error]]:
        """Errors of each image, the costliest first."""
        with toolbox_needed():
            from backbones.analysis.detection_error_kinds import error_table
            from backbones.analysis.detection_matches import match, overlaps_of
            from backbones.evaluation.coco_scoring import Detections
        places = [one['place'] for row in self.rows.values() for one in row['detections']]
        entries = [self.found[place] for place in places]
        masks = self.kind == 'masks'
        found = Detections(
            images=np.array([one['image_id'] for one in entries], np.int64),
            categories=np.array([one['category_id'] for one in entries], np.int64),
            scores=np.array([one['score'] for one in entries], np.float64),
            boxes=None if masks else np.array([one['bbox'] for one in entries], np.float64).reshape(-1, 4),
            masks=[_runs(one['segmentation'], self.rows[one['image_id']]) for one in entries] if masks else None)
        if masks:
            for entry, mask in zip(entries, found.masks, strict=True):
                entry['segmentation'] = mask
        matches = match(overlaps_of(self.coco, found, max_per_image=100), (self._errors['iou'],), ('all',))
        table, cost = error_table(matches, self._errors['background']), _known_costs(self._errors)
        named = {}
        for image in self.rows:
            own = []
            for one in table.of_image(image):
                place = None if one['detection'] is None else places[one['detection']]
                own.append(Error(one['kind'], one['category'], one['object_id'], place, one['score'], one['iou'],
                                 cost.get((one['kind'], place, one['object_id']), 0.0)))
            named[image] = sorted(own, key=lambda one: (-one.cost, -(one.score or 0)))
        return named


def _known_costs(errors: dict[str, Any]) -> dict[tuple, float]:
    listed = [*(one for rows in errors['worst'].values() for one in rows),
              *(one for rows in errors['worst_images'].values() for row in rows for one in row['shown'])]
    return {(one['kind'], one['detection'], one['object_id']): one['cost'] for one in listed}


def _runs(mask: Any, row: dict[str, Any]) -> dict:
    """Run lengths of a checked mask as pycocotools takes them."""
    from pycocotools import mask as coco_mask

    size = row['height'], row['width']
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    return coco_mask.frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask


def _annotations(data: dict[str, Any], images: Sequence[int], categories: Sequence[int], masks: bool) -> Any:
    """Index of the annotations of these images and categories."""
    file = located(str(data['annotation_file']), data['folder'])
    if not file.is_file():
        raise NoGalleryError(f'the annotation file {shown(file)} is not here; put it there, or evaluate again')
    digest = data.get('annotation_sha256')
    if digest and digest_of(str(file)) != digest:
        raise NoGalleryError(f'{shown(file)} is not the annotation file that was scored against, or has changed since; '
                             'put that file there, or evaluate again')
    with toolbox_needed():
        from pycocotools.coco import COCO

        from backbones.evaluation.coco_api import CheckedCoco
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says that it makes an index
        whole, fewer = CheckedCoco(str(file), masks), COCO()
        wanted, known = set(images), set(categories)
        fewer.dataset = {
            'images': [one for one in whole.dataset['images'] if one['id'] in wanted],
            'categories': [one for one in whole.dataset['categories'] if one['id'] in known],
            'annotations': [one for one in whole.dataset['annotations']
                            if one['image_id'] in wanted and one['category_id'] in known]}
        fewer.createIndex()
    missing = [one for one in images if one not in fewer.imgs]
    if missing or set(fewer.cats) != known:
        raise NoGalleryError(f'{shown(file)} lacks images or classes that details.json names; evaluate again')
    return fewer


def read_places(file: Path, places: Sequence[int]) -> dict[int, Any]:
    """Some entries of a JSON list, by their place; the rest is passed over a few megabytes at a time."""
    wanted, kept = set(places), {}
    if not wanted:
        return kept
    try:
        for place, entry in enumerate(_entries(file)):
            if place in wanted:
                kept[place] = entry
                if len(kept) == len(wanted):
                    break
    except (OSError, ValueError, RecursionError) as error:
        raise NoGalleryError(f'the predictions {shown(file)} cannot be read '
                             f'({(getattr(error, "strerror", None) or str(error))[:120]}); evaluate again') from error
    return kept


def _entries(file: Path) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    with open(file, encoding='utf-8') as source:
        text, at = source.read(CHUNK).lstrip(), 1
        if not text.startswith('['):
            raise ValueError('it is no list')
        ended = False
        while True:
            while at < len(text) and text[at] in ' \t\r\n,':
                at += 1
            try:
                if text[at:at + 1] == ']':
                    return
                entry, at = decode(text, at)
            except ValueError:
                more = '' if ended else source.read(max(CHUNK, len(text) - at))
                if not more:
                    raise
                text, at = text[at:] + more, 0
                continue
            yield entry


# --- cards -------------------------------------------------------------------------------------------


def _card(images: Images, image: int, kinds: Sequence[str], purse: Purse) -> Card | None:
    row = images.rows[image]
    errors = drawn_errors(images.errors[image], kinds, images.threshold)
    size = row['height'], row['width']
    photograph, fault = load_photograph(images.image_folder / row['file_name'], size)
    seen = Seen(row=row, coco=images.coco, found=images.found, errors=errors, masks=images.kind == 'masks',
                threshold=images.threshold, names=images.names, colours=images.colours)
    pictures = purse.encode(card_drawings(photograph, seen))
    if pictures is None:
        return None
    facts = [f'{fault}: boxes are drawn on grey'] if fault else []
    cost = images.cost(image)
    if cost is not None and kinds:
        facts.append(f'AP gained if mended: {cost:.4f}')
    facts += [_fact(one, images) for one in errors[:FACTS]]
    if len(errors) > FACTS:
        facts.append(f'and {len(errors) - FACTS} more')
    if not kinds:
        objects = sum(not one['crowd'] for one in row['objects'])
        facts.append(f'{objects} object{"s" if objects != 1 else ""}')
        names = [one['category'] for one in row['objects']]
    else:
        own = {one['id']: one['category'] for one in row['objects']}
        names = [number for one in errors for number in (one.category, own.get(one.object_id)) if number is not None]
    costs: dict[str, float] = dict.fromkeys(kinds, 0.0)
    for one in errors if kinds else ():
        costs[one.kind] = costs.get(one.kind, 0.0) + one.cost
    return Card(shown(row['file_name']), pictures, facts, tuple(sorted(costs, key=lambda one: -costs[one])),
                tuple(dict.fromkeys(images.names[number] for number in names)), good=not kinds)


def drawn_errors(errors: Sequence[Error], kinds: Sequence[str], threshold: float) -> list[Error]:
    """Errors that are drawn: those at the threshold, objects missed, and the costliest of each of `kinds`."""
    drawn = [one for one in errors if one.score is None or one.score >= threshold]
    for kind in kinds:
        if all(one.kind != kind for one in drawn):
            drawn += [one for one in errors if one.kind == kind][:1]
    return sorted(drawn, key=lambda one: (-one.cost, -(one.score or 0)))


def _fact(one: Error, images: Images) -> str:
    name = images.names[one.category]
    if one.kind == 'missed':
        return f'missed: {name}'
    text = f'{one.kind}: {name} at {one.score:.2f}'
    if one.kind == 'classification' and one.object_id is not None:
        text += f', is {images.names[images.coco.anns[one.object_id]["category_id"]]}'
    return text if one.kind == 'background' else f'{text}, IoU {one.iou:.2f}'
