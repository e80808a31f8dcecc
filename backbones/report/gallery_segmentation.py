"""The worst and best images of a segmenter, from `details.json`, the label maps and the predictions beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.data.files import IMAGE_SUFFIXES, shown
from backbones.drawing.styles import Colour, class_colours, usable_palette
from backbones.drawing.texts import written
from backbones.missing import toolbox_needed

from .drawing_pictures import Purse, load_photograph
from .drawing_segmentation import card_drawings
from .gallery_detection import NoGalleryError, located
from .parts import Card, Gallery, Note, Part

MOST = 12  # worst images, and best ones
PAIRS = 6  # pairs of classes, those that cost most, that are a kind of error each
OF_PAIR = 4  # images of each of them
MISSED, INVENTED, OTHER = 'region missed', 'region invented', 'other'
LEAST_REGION = 0.005  # of the picture: a missed or invented region that is a kind of error
FACTS = 2  # confusions, and regions, that a card tells
Progress = Callable[[int, int], None]


def segmentation_parts(details: dict[str, Any], folder: Path, budget: int, progress: Progress | None) -> list[Part]:
    """The gallery, or a note that says why there is none.

    Raises:
        NoGalleryError: the label maps or the predictions are not those that were scored.
    """
    part = details['labels']
    order, pairs = chosen_images(part), _pairs(part)
    purse = Purse(budget, len(order))
    names = order[:purse.cards]
    if not names:
        text = 'names no image' if not order else 'has no room in this report'
        return [Note(f'No gallery of images: the evaluation {text}.')]
    maps = LabelMaps(details, folder)
    rows = {row['name']: row for row in part['images']}
    best = [name for name in part['best_images'] if name in set(names) and name not in _worst(part)]
    place = {row['name']: number for number, row in enumerate(part['images'])}
    names = sorted((name for name in names if name not in best), key=lambda one: place.get(one, 0)) + best
    cards, changed = [], []
    for done, name in enumerate(names, start=1):
        card = _card(maps, name, rows.get(name, {}), pairs, name in best, purse, changed)
        cards += [card] if card else []
        if progress:
            progress(done, len(names))
    if changed and len(changed) == len(names):
        raise NoGalleryError(changed[0])
    if not cards:
        return [Note('No gallery of images: the evaluation has no room in this report.')]
    present = {kind for card in cards for kind in card.kinds}
    kinds = [kind for kind in (*pairs, MISSED, INVENTED, OTHER) if kind in present]
    return [Gallery('Worst and best images', cards, _caption(purse, len(order)), kinds)]


def _caption(purse: Purse, wanted: int) -> str:
    text = ('Image, label map, prediction, and the wrong pixels alone, in the colour of the class that they were taken '
            'for. Hatched grey: ignored. Worst first, by the mean IoU of the image alone.')
    missing = wanted - purse.cards + purse.left_out
    text += f' {missing} more images are left out for the size of this page.' if missing else ''
    return text + (f' {purse.reduced} images are reduced for it.' if purse.reduced else '')


def _pairs(part: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The confusions that are kinds of error, the costliest first."""
    return {_pair_name(one['true'], one['predicted']): (one['true'], one['predicted'])
            for one in part['pairs'][:PAIRS]}


def _pair_name(true: str, predicted: str) -> str:
    return f'{written(true)} taken for {written(predicted)}'


def _of_pairs(part: dict[str, Any]) -> dict[str, list[str]]:
    """For each kind of confusion the images with most of it."""
    found = {}
    for kind, pair in _pairs(part).items():
        pixels = {row['name']: sum(one[2] for one in row['confused'] if tuple(one[:2]) == pair)
                  for row in part['images']}
        found[kind] = [name for name in sorted(pixels, key=lambda one: -pixels[one]) if pixels[name]][:OF_PAIR]
    return found


def _worst(part: dict[str, Any]) -> set[str]:
    """Names of the images that are shown for what is wrong in them."""
    worst = [row['name'] for row in part['images'] if row['wrong']][:MOST]
    return {*worst, *(name for names in _of_pairs(part).values() for name in names)}


def chosen_images(part: dict[str, Any]) -> list[str]:
    """Names of the images to show, in turns, so that any number of them from the front has something of all."""
    lists = [[row['name'] for row in part['images'] if row['wrong']][:MOST],
             [name for name in part['best_images'] if name not in _worst(part)][:MOST], *_of_pairs(part).values()]
    return list(dict.fromkeys(one[place] for place in range(MOST) for one in lists if place < len(one)))


class LabelMaps:
    """Label maps, predictions and pictures of an evaluation.

    Raises:
        NoGalleryError: they are not there.
    """

    def __init__(self, details: dict[str, Any], folder: Path) -> None:
        with toolbox_needed():
            from backbones.analysis.segmentation_files import LabelPredictions
            from backbones.data.label_maps import LoadLabelMap
        data = self.data = details['data']
        self.classes = [written(name) for name in details['classes']]
        self.folder = located(str(data['label_folder']), data['folder'])
        if not self.folder.is_dir():
            raise NoGalleryError(f'the label maps are not in {shown(self.folder)} any more; put them there, or '
                                 'evaluate again')
        self.image_folder = located(str(data['image_folder']), data['folder'])
        self.predictions = LabelPredictions(folder / details['files']['labels'])
        self._load, section = LoadLabelMap(), data.get('dataset') or {}
        self.suffix = section.get('seg_map_suffix') or '.png'
        self._label_map, self.colours, self._stored = self._of_data_set(section)

    def _of_data_set(self, section: dict[str, Any]) -> tuple[dict[int, int] | None, Sequence[Colour], int]:
        """What the data set makes of the labels of its files, its colours, and its number of classes in the files."""
        from mmengine.registry import init_default_scope

        from backbones.registry import DATASETS

        init_default_scope('mmseg')
        try:
            kind = DATASETS.get(str(section.get('type')))
        except (ImportError, KeyError):
            kind = None
        own, given = getattr(kind, 'METAINFO', {}), section.get('metainfo') or {}
        names, count = list(own.get('classes') or ()), len(self.classes)
        palette = usable_palette(given.get('palette'), count)
        if palette is None and names:
            colours = dict(zip(names, usable_palette(own.get('palette'), len(names)) or (), strict=False))
            palette = usable_palette([colours.get(name) for name in self.classes], count)
        chosen = None
        if names and names != self.classes:
            place = {name: number for number, name in enumerate(self.classes)}
            chosen = {number: place.get(name, 255) for number, name in enumerate(names)}
        return chosen, palette or class_colours(count), len(names) if chosen else count

    def read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Label map and prediction of a picture; the number of classes where nothing counts.

        Raises:
            ValueError: they cannot be read, or are not of each other.
        """
        from backbones.analysis.segmentation_counts import checked_pair

        path = self.folder / f'{name}{self.suffix}'
        truth = self._load(dict(
            seg_map_path=str(path), reduce_zero_label=self.data['reduce_zero_label'], label_map=self._label_map,
            num_classes=self._stored, seg_fields=[]))['gt_seg_map']
        if name not in self.predictions.names:
            raise ValueError(f'there is no {self.predictions.title(name)}')
        first = int(self.data['zero_is_ignored'])
        predicted = self.predictions.read(name).astype(np.int32) - first
        return checked_pair(truth, predicted, len(self.classes), self.data['ignore_index'],
                            self.predictions.title(name), first=first)

    def image_file(self, name: str, row: dict[str, Any]) -> Path:
        """Path of a picture."""
        if row.get('file'):
            return located(str(row['file']), self.data['folder'])
        there = (self.image_folder / f'{name}{suffix}' for suffix in IMAGE_SUFFIXES)
        return next((path for path in there if path.is_file()), self.image_folder / name)


def _card(
    maps: LabelMaps, name: str, row: dict[str, Any], pairs: dict[str, tuple[str, str]], good: bool, purse: Purse,
    changed: list[str],
) -> Card | None:
    facts: list[str] = []
    count = len(maps.classes)
    try:
        truth, predicted = maps.read(name)
        wrong, pixels = int(((truth != predicted) & (truth < count)).sum()), int((truth < count).sum())
        if row and (row['wrong'], row['pixels']) != (wrong, pixels):
            raise ValueError(f'the label map or the prediction of {shown(name)} has changed since the evaluation')
    except (OSError, ValueError) as error:  # drawn as what nothing is known of
        changed.append(str(error).split('; ')[0])
        facts.append(changed[-1])
        size = (row['height'], row['width']) if row else (96, 128)
        truth = predicted = np.full(size, count, np.uint8 if count <= 255 else np.uint16)
    photograph, fault = load_photograph(maps.image_file(name, row), truth.shape)
    facts += [fault] if fault else []
    pictures = purse.encode(card_drawings(photograph, truth, predicted, maps.classes, maps.colours))
    if pictures is None:
        return None
    if row.get('mIoU') is not None:
        facts.append(f'mean IoU of this image {row["mIoU"]:.1f}')
    if row.get('pixels'):
        facts.append(f'{100 * row["wrong"] / row["pixels"]:.1f} % of its pixels are wrong')
    facts += [] if good else _facts(row)
    kinds = () if good else _kinds(row, pairs)
    present = [maps.classes[n] for n in np.union1d(np.unique(truth), np.unique(predicted)).tolist() if n < count]
    if not good:
        named = [written(each) for one in row.get('confused', ()) for each in one[:2]]
        present = list(dict.fromkeys(named)) or present
    return Card(shown(Path(str(row.get('file') or name)).name), pictures, facts, kinds, tuple(present), good=good)


def _facts(row: dict[str, Any]) -> list[str]:
    facts = [f'{_pair_name(true, found)}: {pixels:,} pixels' for true, found, pixels in row.get('confused', ())[:FACTS]]
    for what in ('missed', 'invented'):
        facts += [f'{what}: a region of {written(one["class_name"])}, {one["pixels"]:,} pixels'
                  for one in (row.get(what) or ())[:1]]
    return facts


def _kinds(row: dict[str, Any], pairs: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    """Kinds of error of an image, the most pixels first."""
    pixels = {tuple(one[:2]): one[2] for one in row.get('confused', ())}
    found = {kind: pixels[pair] for kind, pair in pairs.items() if pair in pixels}
    for kind, what in ((MISSED, 'missed'), (INVENTED, 'invented')):
        largest = max((one['pixels'] for one in row.get(what) or ()), default=0)
        if row and largest >= LEAST_REGION * row['height'] * row['width']:
            found[kind] = largest
    return tuple(sorted(found, key=lambda one: -found[one])) or (OTHER,)
