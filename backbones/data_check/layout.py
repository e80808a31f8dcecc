"""Which data lie under a folder: annotation files in COCO's format, label maps as ADE20K's, or both."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.files import IMAGE_SUFFIXES, shown
from .other_formats import is_labelme, other_format

LABEL_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.jpg', '.jpeg', '.webp')  # of label maps, the likely ones first
PAIRS = (('images', 'annotations'), ('images', 'labels'), ('images', 'masks'), ('img_dir', 'ann_dir'))
SPLITS = dict(train=('train', 'training'), val=('val', 'validation', 'valid'), test=('test', 'testing'))
OTHER_TASKS = ('captions_', 'person_keypoints_', 'stuff_', 'panoptic_', 'image_info_', 'deprecated-')
LAYOUTS = (
    'annotations/instances_train.json, ... with the pictures in train/ or images/train/ (COCO), or '
    'images/{training,validation} with annotations/{training,validation} and classes.txt (ADE20K)')
LOOKED_INTO = 200  # entries of a folder that are looked at for a data set in it


@dataclass(frozen=True)
class CocoSplit:
    """One annotation file and its pictures.

    Args:
        name: of the split: 'train2017'.
        file: path of the annotation file.
        pictures: folder that the file names start from; None is found by the names in the file.
        root: folder of the data set, where `pictures` is looked for.
    """

    name: str
    file: str
    pictures: str | None = None
    root: str = ''


@dataclass(frozen=True)
class LabelMapSplit:
    """One folder of pictures and one of label maps.

    Args:
        name: of the split: 'training'.
        pictures: folder.
        labels: folder.
        img_suffix: ending of the pictures' names; None takes every kind of picture.
        seg_map_suffix: ending of the label maps' names; None is found.
        names: names without suffix to use only; None uses all.
    """

    name: str
    pictures: str
    labels: str
    img_suffix: str | None = None
    seg_map_suffix: str | None = None
    names: Sequence[str] | None = None


@dataclass
class Layout:
    """What lies under `root`; `rest` are sentences about what is there and not looked at."""

    root: str
    coco: list[CocoSplit] = field(default_factory=list)
    label_maps: list[LabelMapSplit] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)

    @property
    def classes_file(self) -> str:
        """Where the names of the label maps' classes are expected."""
        return os.path.join(self.root, 'classes.txt')

    def __bool__(self) -> bool:
        return bool(self.coco or self.label_maps)


def recognise(root: str) -> Layout:
    """Find the data sets under `root`.

    Raises:
        ValueError: it is no folder, or holds no data set; with what it holds, and where one is instead.
    """
    if not os.path.isdir(root):
        what = 'is a file' if os.path.isfile(root) else 'does not exist'
        raise ValueError(f'the folder {shown(root)} {what}; give the folder that holds {LAYOUTS}')
    layout = find_data(root)
    if layout.coco and all(is_labelme(split.file) for split in layout.coco[:3]):
        layout.coco.clear()
    # images/ and labels/ with empty folders count as label maps; they may be the rest of a data set of text files
    if layout.label_maps and not any(_holds_labels(split.labels, False) for split in layout.label_maps) \
            and other_format(root):
        layout.label_maps.clear()
    if layout:
        return layout
    holds, near = _listing(root), _data_sets_below(root)
    other = '' if near else other_format(root)
    if other:
        raise ValueError(
            f'no data set is recognised in {shown(root)}, which holds {holds} and looks like {other}; '
            f'`python tools/prepare_data.py --custom {shlex.quote(root)} --out FOLDER` writes it in COCO\'s format')
    near = near or _data_set_above(root)
    if near:
        raise ValueError(
            f'{shown(root)} is no data set, but {" and ".join(map(shown, near[:3]))} '
            f'{"is" if len(near) == 1 else "are"}; give that folder')
    raise ValueError(f'no data set is recognised in {shown(root)}, which holds {holds}; expected is {LAYOUTS}')


def find_data(root: str) -> Layout:
    """Return the data sets directly under `root`, none if there are none."""
    layout = Layout(root)
    layout.coco = _coco_splits(root)
    for pictures, labels in PAIRS:
        found = _label_map_splits(root, pictures, labels)
        if found:
            layout.label_maps = found
            break
    used = {os.path.basename(split.pictures) for split in layout.label_maps}
    if layout.label_maps:
        folder = os.path.dirname(layout.label_maps[0].pictures)
        layout.rest += [f'{os.path.join(folder, name)} has no label maps and is not looked at'
                        for name in _folders(folder) if used != {'images'} and name not in used]
    return layout


def split_of(name: str) -> str:
    """Return 'train', 'val' or 'test' for the name of a split or file, or an empty word."""
    lower = name.lower()
    return next((split for split, words in SPLITS.items() if any(word in lower for word in words)), '')


def _in_order(splits: Iterable) -> list:
    ranks = {'train': 0, 'val': 1, 'test': 2, '': 3}
    return sorted(splits, key=lambda split: (ranks[split_of(split.name)], split.name))


def _coco_splits(root: str) -> list[CocoSplit]:
    folder = os.path.join(root, 'annotations')
    files = [name for name in _files(folder, ('.json',)) if not name.startswith(OTHER_TASKS)]
    named = [name for name in files if name.startswith('instances_')]
    files = named or files
    if not files and os.path.basename(os.path.abspath(root)) != 'annotations':  # that one is too deep
        folder = root
        files = [name for name in _files(root, ('.json',)) if split_of(name) or name.startswith('instances_')]
    found = [CocoSplit(Path(name).stem.removeprefix('instances_'), os.path.join(folder, name), None, root)
             for name in files]
    if not found:  # as Roboflow writes it
        for name in _folders(root):
            file = os.path.join(root, name, '_annotations.coco.json')
            if os.path.isfile(file):
                found.append(CocoSplit(name, file, os.path.join(root, name), root))
    return _in_order(found)


def picture_folder(split: CocoSplit, names: Sequence[str]) -> str:
    """Return the folder that the file names of a split start from: the one where the most of a few of them are."""
    if split.pictures is not None:
        return split.pictures
    root, word = split.root, split_of(split.name)
    words = [split.name, *SPLITS.get(word, ())]
    candidates = [os.path.join(root, *parts) for name in words for parts in ((name,), ('images', name))]
    candidates += [os.path.join(root, 'images'), root]
    for parent in (root, os.path.join(root, 'images')):
        candidates += [os.path.join(parent, name) for name in _folders(parent)[:LOOKED_INTO] if word and word in name]
    some = [names[place * len(names) // 5] for place in range(min(5, len(names)))]
    there = [sum(os.path.isfile(os.path.join(folder, name)) for name in some) for folder in candidates]
    if any(there):
        return candidates[there.index(max(there))]
    return next((folder for folder in candidates[:-1] if os.path.isdir(folder)), candidates[0])


def _label_map_splits(root: str, pictures: str, labels: str) -> list[LabelMapSplit]:
    picture_root, label_root = os.path.join(root, pictures), os.path.join(root, labels)
    if not os.path.isdir(label_root) or not os.path.isdir(picture_root):
        return []
    folders = set(_folders(picture_root))
    found = []
    for name in _folders(label_root):
        named = any(name.rstrip('0123456789') in words for words in SPLITS.values())
        if (name in folders or named) and _holds_labels(os.path.join(label_root, name), name in folders):
            found.append(name)
    if found:  # a part that should have labels, too, and has none, is a fault to be named
        there = {split_of(name) for name in found}
        found += [name for name in folders - set(found) if split_of(name) in {'train', 'val'} - there]
        return _in_order(LabelMapSplit(name, os.path.join(picture_root, name), os.path.join(label_root, name))
                         for name in found)
    if _files(label_root, LABEL_SUFFIXES) and _files(picture_root, IMAGE_SUFFIXES):
        return [LabelMapSplit('all', picture_root, label_root)]
    return []


def _holds_labels(folder: str, empty: bool) -> bool:
    """Tell whether a label map is in `folder` or below; `empty`: a folder without anything counts, too."""
    for place, (_, folders, files) in enumerate(os.walk(folder)):
        empty &= not files and not folders
        if any(name.lower().endswith(LABEL_SUFFIXES) for name in files):
            return True
        if place > LOOKED_INTO:
            break
    return empty


def _files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries
                          if entry.name.lower().endswith(suffixes) and not entry.name.startswith('.')
                          and entry.is_file())
    except OSError:
        return []


def _folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith('.') and entry.is_dir())
    except OSError:
        return []


def _listing(root: str) -> str:
    try:
        names = sorted(name + ('/' if os.path.isdir(os.path.join(root, name)) else '') for name in os.listdir(root))
    except OSError as error:
        return f'what cannot be listed ({error.strerror})'
    return ', '.join(map(shown, names[:8])) + (f' and {len(names) - 8} more' if len(names) > 8 else '') or 'nothing'


def _data_sets_below(root: str) -> list[str]:
    """Return the data sets up to two folders below `root`."""
    below = [os.path.join(root, name) for name in _folders(root)[:LOOKED_INTO]]
    found = [folder for folder in below if find_data(folder)]
    if found:
        return found
    for folder in below[:20]:
        found += [os.path.join(folder, name) for name in _folders(folder)[:20]
                  if find_data(os.path.join(folder, name))]
    return found


def _data_set_above(root: str) -> list[str]:
    """Return the nearest data set up to three folders above `root`."""
    parent = os.path.abspath(root)
    for _ in range(3):
        parent = os.path.dirname(parent)
        if find_data(parent):
            return [parent]
    return []
