"""Predicted label maps in a zip or a folder, paired strictly with the label maps of a data set.

What `tools/test.py --out FILE.zip` and `tools/predict.py --out FOLDER` write: a PNG of one channel for each picture,
under the picture's path below the folder of pictures. Values are those of the data set's own label maps: with
`reduce_zero_label`, class 0 is stored as 1.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from backbones.data.files import shown, some
from backbones.data.image_headers import read_header, with_png_end

from .segmentation_counts import checked_pair

SUFFIX = '.png'
MAX_PIXELS = 1024**3 // 4 // 3  # as backbones.data.images: a quarter of a GiB of RGB
LARGEST_FILE = 2 * MAX_PIXELS + 2**20  # bytes that 16 bits for each of them take, not compressed


class LabelPredictions:
    """Label PNGs of a zip or a folder by name: the path in it without suffix, with forward slashes.

    Args:
        source: a `.zip`, a folder, or the folder that `tools/predict.py` wrote, with `labels/` and `overlays/`.

    Attributes:
        source: as given.
        names: of the label maps, sorted.
        classes: of the `classes.txt` that `tools/predict.py` wrote beside them, or None.
        counted_from_one: `tools/predict.py` wrote them, which stores class 0 as 1 whatever the data set does.

    Raises:
        ValueError: `source` is not there, is neither, is damaged, or holds no label map.
    """

    def __init__(self, source: str | os.PathLike) -> None:
        self.source, self.classes, self.counted_from_one = Path(source), None, False
        self._zip: zipfile.ZipFile | None = None
        try:
            if self.source.is_dir():
                self._files = self._of_folder()
            elif self.source.is_file():
                self._files = self._of_zip()
            else:
                raise ValueError(f'{shown(source)} does not exist; give the zip or the folder of the predictions')
        except OSError as error:
            raise ValueError(f'{shown(source)} cannot be read: {error}; check the path and its rights') from error
        if not self._files:
            raise ValueError(
                f'{shown(source)} holds no label map (*{SUFFIX}): the prediction set is empty; predict again, or give '
                'the zip or folder that has them')
        self.names = tuple(sorted(self._files))

    def _of_folder(self) -> dict[str, Any]:
        folder = self.source
        for place in (folder / 'labels', folder):
            if place.name == 'labels' and place.is_dir() and (place.parent / 'overlays').is_dir():
                folder, self.counted_from_one = place, True
                listed = place.parent / 'classes.txt'  # written last
                if listed.is_file():
                    self.classes = tuple(line for line in listed.read_text('utf-8-sig').splitlines() if line.strip())
                break
        files: dict[str, Any] = {}
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith('.'))
            for name in sorted(names):
                path = Path(parent, name)
                self._take(files, path.relative_to(folder).as_posix(), path)
        return files

    def _of_zip(self) -> dict[str, Any]:
        try:
            self._zip = zipfile.ZipFile(self.source)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError) as error:
            raise ValueError(
                f'{shown(self.source)} is no zip, or a damaged one ({error}); give the zip or the folder of label PNGs '
                'that tools/test.py --out wrote') from error
        files: dict[str, Any] = {}
        for entry in self._zip.infolist():
            if not entry.is_dir() and not entry.filename.startswith('__MACOSX/'):
                self._take(files, entry.filename, entry)
        return files

    def _take(self, files: dict[str, Any], name: str, place: Any) -> None:
        path = PurePosixPath(name)
        if path.name.startswith('.') or path.suffix.lower() != SUFFIX:
            return
        key = str(path.with_suffix(''))
        if key in files:
            raise ValueError(
                f'{shown(self.source)} holds {shown(key)}{SUFFIX} twice; keep one, so that it is clear which counts')
        files[key] = place

    def title(self, name: str) -> str:
        """How messages call the label map `name`."""
        return f'{shown(name)}{SUFFIX} in {shown(self.source)}'

    def read(self, name: str) -> np.ndarray:
        """Read the label map `name`: (H, W) whole numbers as stored.

        Raises:
            ValueError: naming the file: it is damaged, no PNG, too large, or has colour channels.
        """
        title = f'the prediction {self.title(name)}'
        try:
            content = self._content(name)
            header = read_header(content)
            if header.format != 'PNG':
                raise ValueError(f'it is a {header.format} and not a PNG')
            if header.width * header.height > MAX_PIXELS:
                raise ValueError(f'it says that it is {header.width}x{header.height} pixels, more than {MAX_PIXELS}')
            whole = with_png_end(content, header)
            if whole is None or not _chunks_are_whole(whole):
                raise ValueError(f'it is cut off or damaged ({len(content)} bytes)')
            labels = _decoded(whole)
        except Exception as error:  # Pillow's parsers and zipfile's raise whatever comes on damaged files
            raise ValueError(f'{title} cannot be read: {error}; write it again') from error
        if labels.ndim != 2:
            raise ValueError(
                f'{title} is a colour picture of {labels.shape[2]} channels; it must have one channel of class '
                'numbers, as the label maps of the data set')
        return labels

    def _content(self, name: str) -> bytes:
        place = self._files[name]
        size = place.file_size if self._zip else place.stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f'it takes {size} bytes, more than any label map')
        if not self._zip:
            if not place.is_file():
                raise ValueError('it is no regular file')
            return place.read_bytes()
        try:
            return self._zip.read(place)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f'it is damaged within the zip ({error})') from error


def _chunks_are_whole(content: bytes) -> bool:
    """Hold each chunk of a PNG against its checksum, which Pillow does not do for the pixels."""
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], 'big')
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], 'big'):
            return False
        if content[place + 4 : place + 8] == b'IEND':
            return True
        place = end + 4
    return True


def _decoded(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=('PNG',)) as picture:
        if picture.mode == 'LA':
            picture = picture.convert('RGBA')  # refused like other pictures with more than one channel
        return np.asarray(picture)  # of a palette the numbers, not the colours


class _DataSet(Protocol):
    """What is asked of a data set; those of mmseg and ours have it."""

    metainfo: dict
    data_prefix: dict
    reduce_zero_label: bool

    def __len__(self) -> int: ...

    def get_data_info(self, index: int) -> dict: ...


class LabelMapPairs:
    """Label maps of a data set with their predictions, read one by one; made by `read_label_predictions`.

    Attributes:
        classes: names of the classes.
        names: of the pictures: their path below the folder of pictures, without suffix, in the order of the data set.
        image_files: path of each picture, in the same order.
        ignore_index: label of pixels that do not count.
        zero_is_ignored: classes are counted from 1 in the files of the predictions.
    """

    def __init__(
        self, predictions: LabelPredictions, infos: dict[str, dict], classes: Sequence[str], ignore_index: int,
        zero_is_ignored: bool,
    ) -> None:
        from backbones.data.label_maps import LoadLabelMap

        self.classes, self.names = tuple(classes), tuple(infos)
        self.image_files = tuple(info['img_path'] for info in infos.values())
        self.ignore_index, self.zero_is_ignored = ignore_index, zero_is_ignored
        self._predictions, self._infos = predictions, infos
        self._load = LoadLabelMap()

    def read(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Label map and prediction of one picture in the form of `checked_pair`.

        Raises:
            ValueError: naming the file: it cannot be read, has another size, or holds what is no class.
        """
        name = self.names[place]
        predicted = self._predictions.read(name)
        info = {'num_classes': len(self.classes), **self._infos[name]}
        truth = self._load(info)['gt_seg_map']
        if predicted.dtype.kind not in 'bui':
            predicted = predicted.astype(np.int64)
        first = int(self.zero_is_ignored)
        if first:
            predicted = predicted.astype(np.int32) - 1
        title = self._predictions.title(name)
        return checked_pair(truth, predicted, len(self.classes), self.ignore_index, title, first=first)


def read_label_predictions(
    source: str | os.PathLike, dataset: _DataSet, *, ignore_index: int = 255, zero_is_ignored: bool | None = None
) -> LabelMapPairs:
    """Pair the label PNGs of `source` with the label maps of a data set; nothing is decoded yet.

    Args:
        source: zip or folder; see `LabelPredictions`.
        dataset: such as `backbones.LabelMapDataset`, with label maps.
        ignore_index: label, after loading, of pixels that do not count.
        zero_is_ignored: True: the predictions' files count the classes from 1; False: from 0; None: as the data set's
            own label maps (`reduce_zero_label`), and from 1 where `tools/predict.py` wrote them.

    Raises:
        ValueError: There are no predictions, they are of other pictures or classes, or the data set has no label maps.
    """
    predictions = LabelPredictions(source)
    classes = tuple(dataset.metainfo.get('classes') or ())
    infos = _infos(dataset)
    _check_classes(predictions, classes)
    _check_names(predictions, infos)
    if zero_is_ignored is None:
        zero_is_ignored = bool(dataset.reduce_zero_label) or predictions.counted_from_one
    return LabelMapPairs(predictions, infos, classes, ignore_index, zero_is_ignored)


def _infos(dataset: _DataSet) -> dict[str, dict]:
    """What the data set says of each picture, by the name of its prediction."""
    folder = dataset.data_prefix.get('img_path') or dataset.data_prefix.get('img') or ''
    infos: dict[str, dict] = {}
    for place in range(len(dataset)):
        info = dataset.get_data_info(place)
        if not info.get('seg_map_path'):
            raise ValueError(
                f"the data set has no label map for {shown(info['img_path'])}, and nothing can be scored; give its "
                "folder in data_prefix['seg_map_path']")
        path = Path(info['img_path'])
        path = path.relative_to(folder) if folder and path.is_relative_to(folder) else Path(path.name)
        name = path.with_suffix('').as_posix()
        if name in infos:
            raise ValueError(f'two pictures of the data set have the name {shown(name)}; give each a name of its own')
        infos[name] = dict(reduce_zero_label=bool(dataset.reduce_zero_label), label_map=None) | info
    if not infos:
        raise ValueError('the data set holds no pictures, and there is nothing to score; correct its folders')
    return infos


def _check_classes(predictions: LabelPredictions, classes: tuple[str, ...]) -> None:
    if predictions.classes is None or predictions.classes == classes:
        return
    pairs = zip([*predictions.classes, None], [*classes, None], strict=False)
    place, pair = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
    raise ValueError(
        f'{shown(predictions.source)} was predicted with {len(predictions.classes)} classes and the data set has '
        f'{len(classes)}; the first that differs is class {place + 1}: {pair[0]!r} predicted, {pair[1]!r} in the data '
        'set. Give predictions of a model with the classes of the data set')


def _check_names(predictions: LabelPredictions, infos: dict[str, dict]) -> None:
    """Every picture has its prediction, and every prediction its picture."""
    source = shown(predictions.source)
    if not infos.keys() & set(predictions.names):
        raise ValueError(
            f'none of the {len(predictions.names)} predictions in {source} ({some(predictions.names)}) is of a picture '
            f'of the data set ({len(infos)}: {some(infos)}): they are of another data set or split, or their names '
            'begin with another folder. Give those of this data set')
    missing = [name for name in infos if name not in predictions._files]
    if missing:
        raise ValueError(
            f'{len(missing)} of {len(infos)} pictures have no prediction in {source}: {some(missing)}. Predict the '
            'whole data set; a score over a part of it is none')
    strange = [name for name in predictions.names if name not in infos]
    if strange:
        raise ValueError(
            f'{len(strange)} of {len(predictions.names)} predictions in {source} are of no picture of the data set: '
            f'{some(strange)}. Take them away, or give the data set that they are of')
