"""Semantic label maps in the layout of ADE20K, checked while they are read.

Under `data_root` lie `images/{training,validation}`, `annotations/{training,validation}` and `classes.txt`. A
label map is a PNG of one channel; value n is line n of `classes.txt`, and 0 is to be ignored. mmseg casts
labels to 8 bits unseen (300 becomes 44) and drops values out of range from its score; here both are errors
that name the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmseg.datasets.ade import ADE20KDataset as MMSegADE20KDataset
from mmseg.datasets.basesegdataset import BaseSegDataset
from mmseg.datasets.transforms.loading import LoadAnnotations

from ..registry import DATASETS, TRANSFORMS
from .bad_samples import BadSampleError, BadSampleMixin
from .files import IMAGE_SUFFIXES, is_local, require_folder, shown, some
from .label_files import IGNORED, list_by_stem, read_label_map, read_names
from .palette import make_palette


@DATASETS.register_module()
class LabelMapDataset(BadSampleMixin, BaseSegDataset):
    """Pictures and label maps in two folders, paired by name.

    Takes the arguments of mmseg's `BaseSegDataset`. Those that behave otherwise:

    Args:
        data_root: Folder that holds the folders of `data_prefix`, and `classes.txt` where there is one.
        data_prefix: `img_path`, and `seg_map_path` (left out for pictures without label maps).
        metainfo: `dict(classes=(...))` names the classes where there is no `classes.txt`; where there is one,
            it must say the same. A palette is made where none is given.
        img_suffix: Ending of the pictures' names; None takes every picture it knows (jpg, png, ...).
        reduce_zero_label: True (ADE20K): values 1 to the number of classes are the classes and 0 is ignored.
            False: values 0 to the number of classes - 1 are the classes and 255 is ignored.
        classes_file: Name of the class list under `data_root`, one name a line; None never looks for it.
        ann_file: A list of names without suffix, one a line, to use only those pictures.
        on_bad_sample: 'raise' or 'skip', with max_bad_samples and bad_samples_file; see `BadSampleMixin`.

    Raises:
        ValueError: A folder is missing, a picture or label map lacks its counterpart, or the classes are not
            told or told in two ways.
    """

    def __init__(
        self,
        data_root: str | None = None,
        *,
        data_prefix: Mapping[str, str] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        img_suffix: str | None = None,
        seg_map_suffix: str = '.png',
        reduce_zero_label: bool = True,
        classes_file: str | None = 'classes.txt',
        **kwargs,
    ) -> None:
        if data_prefix is None:
            data_prefix = dict(img_path='images/training', seg_map_path='annotations/training')
        metainfo = self._with_classes(
            dict(metainfo or {}), data_root, classes_file, kwargs.get('backend_args')
        )
        super().__init__(
            data_root=data_root,
            data_prefix=dict(data_prefix),
            metainfo=metainfo,
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            reduce_zero_label=reduce_zero_label,
            **kwargs,
        )

    @classmethod
    def _with_classes(
        cls,
        metainfo: dict,
        data_root: str | None,
        classes_file: str | None,
        backend_args: Mapping[str, Any] | None,
    ) -> dict:
        """Return `metainfo` with the classes of the file, after holding them against its own."""
        given = metainfo.get('classes', cls.METAINFO.get('classes'))
        if isinstance(given, str):
            if is_local(given, backend_args) and not os.path.isfile(given):
                raise ValueError(
                    f'classes={given!r} is one string and no file; write a tuple of names, such as '
                    f"('{given}',)"
                )
            given = metainfo['classes'] = tuple(read_names(given, backend_args))
        path = os.path.join(data_root or '', classes_file) if classes_file else ''
        if path and is_local(path, backend_args) and os.path.isfile(path):
            listed = read_names(path, backend_args)
            if given is not None and list(given) != listed:
                place, pair = next(
                    (i, pair)
                    for i, pair in enumerate(zip([*given, None], [*listed, None], strict=False))
                    if pair[0] != pair[1]
                )
                raise ValueError(
                    f'metainfo has {len(given)} classes and {path} has {len(listed)}; the first that '
                    f'differs is class {place + 1}: {pair[0]!r} in metainfo and {pair[1]!r} in the file. '
                    'Leave out metainfo=dict(classes=...), or correct one of them'
                )
            given = listed
        if not given:
            if path and is_local(path, backend_args):
                require_folder(data_root or '.', f'data_root={data_root!r}')
            where = f'there is no {path}' if path else 'classes_file is None'
            raise ValueError(
                f'{cls.__name__} does not know its classes: {where} and metainfo has none. Write '
                'classes.txt (line n names label value n) or give metainfo=dict(classes=(...))'
            )
        repeated = sorted({name for name in given if list(given).count(name) > 1})
        if len(given) >= IGNORED or repeated:
            raise ValueError(
                f'{len(given)} classes, twice: {repeated}; at most {IGNORED - 1} different ones are possible'
            )
        metainfo['classes'] = tuple(given)
        if 'palette' not in metainfo and 'palette' not in cls.METAINFO:
            metainfo['palette'] = make_palette(len(given))
        return metainfo

    def load_data_list(self) -> list[dict]:
        """Pair pictures and label maps by name and return one dict per pair."""
        image_folder = self.data_prefix.get('img_path') or ''
        label_folder = self.data_prefix.get('seg_map_path')
        if not is_local(image_folder, self.backend_args):
            self.img_suffix = self.img_suffix or '.jpg'
            data_list = super().load_data_list()
        else:
            data_list = self._pair(image_folder, label_folder)
        classes = self._metainfo['classes'] if self.label_map is None else self.METAINFO['classes']
        for data_info in data_list:
            data_info['num_classes'] = len(classes)  # as stored in the files, for LoadLabelMap
        return data_list

    def _pair(self, image_folder: str, label_folder: str | None) -> list[dict]:
        require_folder(image_folder, f"data_root={self.data_root!r} and data_prefix['img_path']")
        images = list_by_stem(image_folder, (self.img_suffix,) if self.img_suffix else IMAGE_SUFFIXES)
        labels: dict[str, str] = {}
        if label_folder:
            require_folder(label_folder, f"data_root={self.data_root!r} and data_prefix['seg_map_path']")
            labels = list_by_stem(label_folder, (self.seg_map_suffix,))
        names = sorted(images)
        if self.ann_file:
            names = self._listed_names()
            _require_all(names, images, f'names in {self.ann_file} have no picture in {image_folder}')
        elif label_folder:
            _require_all(labels, images, f'label maps of {label_folder} have no picture in {image_folder}')
        if label_folder:
            _require_all(
                names,
                labels,
                f'pictures of {image_folder} have no label map (*{self.seg_map_suffix}) in {label_folder}',
            )
        if not names:
            raise ValueError(
                f'{image_folder} holds no pictures (img_suffix={self.img_suffix!r}); put them there or '
                "correct data_prefix['img_path'] and img_suffix"
            )
        common = dict(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label)
        return [
            dict(
                img_path=images[name],
                **({'seg_map_path': labels[name]} if label_folder else {}),
                **common,
                seg_fields=[],
            )
            for name in names
        ]

    def _listed_names(self) -> list[str]:
        if not os.path.isfile(self.ann_file):
            raise ValueError(
                f'the list of names {self.ann_file} does not exist (ann_file); leave ann_file out to use '
                'all pictures of the folder'
            )
        return read_names(self.ann_file, self.backend_args)


@DATASETS.register_module()
class ADE20KDataset(LabelMapDataset):
    """ADE20K with the 150 classes and colours of the scene parsing benchmark.

    The order of the classes is fixed, so that no class list is looked for. `metainfo=dict(classes=(...))`
    chooses some of them by name; pixels of the others are ignored.
    https://github.com/CSAILVision/sceneparsing
    """

    METAINFO = MMSegADE20KDataset.METAINFO

    def __init__(self, data_root: str | None = None, *, classes_file: None = None, **kwargs) -> None:
        super().__init__(data_root, classes_file=classes_file, **kwargs)


@TRANSFORMS.register_module()
class LoadLabelMap(LoadAnnotations):
    """Load and check a label map: (H, W) uint8 with classes 0, 1, ... and 255 where it is to be ignored.

    Args:
        reduce_zero_label: None follows the data set, which must say the same otherwise. True makes 0 ignored
            and lowers all others by one, here and nowhere else.
        num_classes: Number of classes stored in the files; None takes it from the data set (`LabelMapDataset`
            says it).
        backend_args: Where the files are, as for mmseg's `LoadAnnotations`.

    Raises:
        BadSampleError: Naming the file: it is no picture, of a format that changes values (JPEG, WebP), has colour
            channels, holds a value out of range, or is of another size than its picture.
    """

    def __init__(
        self,
        reduce_zero_label: bool | None = None,
        num_classes: int | None = None,
        backend_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(backend_args=backend_args)
        self.reduce_zero_label = reduce_zero_label
        self.num_classes = num_classes

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        reduce_zero_label = results.get('reduce_zero_label', self.reduce_zero_label)
        if self.reduce_zero_label not in (None, reduce_zero_label):
            raise ValueError(
                f'LoadLabelMap has reduce_zero_label={self.reduce_zero_label} and the data set has '
                f'{reduce_zero_label} ({shown(path)}); say it in the data set only'
            )
        size = results.get('ori_shape')  # set by LoadImageFromFile; later resizing leaves it
        labels = read_label_map(path, size, results.get('img_path'), self.backend_args)  # (H, W)
        num_classes = self.num_classes or results.get('num_classes')
        if num_classes is None:
            raise ValueError(
                'LoadLabelMap does not know the number of classes: use backbones.LabelMapDataset or '
                'backbones.ADE20KDataset, which say it, or give num_classes'
            )
        _check_values(labels, num_classes, bool(reduce_zero_label), path)

        labels = labels.astype(np.uint8)
        if reduce_zero_label:
            labels = labels - 1  # in 8 bits 0 becomes 255, which is what is ignored
        if results.get('label_map') is not None:
            table = np.arange(256, dtype=np.uint8)
            for old, new in results['label_map'].items():
                table[old] = new
            labels = table[labels]
        results['gt_seg_map'] = labels
        results.setdefault('seg_fields', []).append('gt_seg_map')

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(reduce_zero_label={self.reduce_zero_label}, '
            f'num_classes={self.num_classes}, backend_args={self.backend_args})'
        )


def _check_values(labels: np.ndarray, num_classes: int, reduce_zero_label: bool, path: str) -> None:
    highest = num_classes if reduce_zero_label else num_classes - 1
    if labels.dtype.kind in 'bui' and labels.min() >= 0 and labels.max() <= highest:
        return
    wrong = np.unique(labels[(labels < 0) | (labels > highest) | (labels % 1 != 0)])
    if not reduce_zero_label:
        wrong = wrong[wrong != IGNORED]
    if len(wrong) == 0:
        return
    rule = (
        f'0 is ignored and 1 to {highest} are the classes'
        if reduce_zero_label
        else f'0 to {highest} are the classes and {IGNORED} is ignored'
    )
    hint = (
        f'; write pixels to be ignored as 0, not {IGNORED}' if reduce_zero_label and IGNORED in wrong else ''
    )
    raise BadSampleError(
        f'the label map {shown(path)} holds the value {some(wrong, 5)} in {int(np.isin(labels, wrong).sum())} '
        f'pixels, but {rule}{hint}. Correct the file, or the list of classes',
        path,
    )


def _require_all(names: Sequence[str] | Mapping, there: Mapping[str, str], fault: str) -> None:
    missing = [name for name in sorted(names) if name not in there]
    if missing:
        raise ValueError(f'{len(missing)} {fault}: {some(missing)}. Add or remove the files')
