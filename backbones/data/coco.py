"""COCO-format detection data that is checked while it is read.

mmdet's dataset takes the class names of COCO where a config gives none, numbers the classes in the order of
the annotation file whatever order the config lists them in, and drops a name it does not find, so that all
later labels shift. Here the names come from the file, the numbers from the names, and a name that is not
there is an error. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mmdet.datasets.coco import CocoDataset as MMDetCocoDataset
from mmengine.logging import print_log

from ..registry import DATASETS
from .bad_samples import BadSampleMixin
from .coco_checks import sort_out
from .coco_files import load_coco
from .files import is_local, missing_files, require_folder, some
from .palette import make_palette

FILTERS = ('filter_empty_gt', 'min_size')


def category_ids(source: Any, classes: Sequence[str], where: str = 'the annotation file') -> list[int]:
    """Return the COCO category id of each class, in the order of `classes`.

    The id at place i belongs to label i. pycocotools' own `getCatIds(catNms=classes)` follows the order of
    the file.

    Args:
        source: A `pycocotools.coco.COCO`, or the list `categories` of an annotation file.
        classes: Class names, all of them or some, in any order.
        where: The annotation file's name, for the message.

    Raises:
        ValueError: If a class is not in the file, or is listed twice.
    """
    categories = source if isinstance(source, (list, tuple)) else source.dataset['categories']
    by_name = {category['name']: category['id'] for category in categories}
    if isinstance(classes, str):
        raise ValueError(f"classes={classes!r} is one string; write a tuple of names, such as ('{classes}',)")
    unknown = [name for name in classes if name not in by_name]
    if unknown:
        lower = {str(name).lower(): name for name in by_name}
        near = [
            lower[match]
            for name in unknown[:1]
            for match in difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
        ]
        hint = f'; did you mean {near[0]!r}?' if near else '.'
        raise ValueError(
            f'class {unknown[0]!r} is not in {where}{hint} {len(unknown)} of the {len(classes)} classes of '
            f'the config are not there; the file has {len(by_name)}: {some(by_name, 10)}. Spell '
            'metainfo=dict(classes=...) as the file does, capitals included, or leave it out to use the '
            "file's own"
        )
    repeated = [name for name, times in Counter(classes).items() if times > 1]
    if repeated:
        raise ValueError(f'metainfo classes list {repeated[0]!r} more than once; list every class once')
    return [by_name[name] for name in classes]


@DATASETS.register_module()
class CocoDataset(BadSampleMixin, MMDetCocoDataset):
    """mmdet's COCO dataset with class names read from the file, labels by name, and checks at the start.

    Takes the arguments of mmdet's. Those that behave otherwise:

    Args:
        metainfo: `dict(classes=(...))` chooses classes and their order; objects of other classes are left
            out. Without it, all categories of the file are used in the order of their ids (two splits that
            list them in different orders agree). A palette is made where none is given.
        filter_cfg: As mmdet's, in training only: `filter_empty_gt=True` leaves out pictures without any
            object of the used classes, `min_size` those with a shorter side (pixels). None keeps all
            pictures.
        check_files: Whether to look for every picture's file before the first step. Set it to False for a
            file system that is slow to list; pictures in an object store are never looked for.
        on_bad_sample: 'raise' or 'skip', with max_bad_samples and bad_samples_file; see `BadSampleMixin`.

    Raises:
        ValueError: For whatever would break or falsify a run later; the message names the file, the entry and
            a remedy. Entries that mmdet leaves out in silence are counted in a warning.
    """

    METAINFO: ClassVar[dict] = {}  # not COCO's 80 classes: those of the file

    def __init__(self, *args, check_files: bool = True, **kwargs) -> None:
        self.check_files = check_files
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file; return one dict per picture as mmdet's transforms expect it."""
        content = self._read()
        self._choose_classes(content['categories'])
        self._annotations = defaultdict(list)
        for entry in content['annotations']:
            self._annotations[entry['image_id']].append(entry)
        self._notices = defaultdict(list)
        self._has_masks = any(entry.get('segmentation') for entry in content['annotations'])
        self._check_masks_wanted(bool(content['annotations']))

        data_list = [
            self.parse_data_info(
                dict(
                    raw_img_info={**image, 'img_id': image['id']},
                    raw_ann_info=self._annotations.pop(image['id'], []),
                )
            )
            for image in content['images']
        ]
        if self._annotations:
            orphans = [entry['id'] for entries in self._annotations.values() for entry in entries]
            image_ids = some(self._annotations)
            self._notices[f'are left out: no picture of their image_id ({image_ids}) is listed'] += orphans
        self._check_files_exist(data_list)
        self._report()
        del self._annotations, self._notices
        return data_list

    def load_proposals(self) -> None:
        """Refuse `proposal_file`: mmdet reads it with `mmengine.load`, and a pickle or YAML file runs what it holds."""
        raise ValueError(
            f'proposal_file={self.proposal_file!r} is not supported: files of proposals are pickles or YAML, which '
            'execute code when they are read; leave proposal_file out and train a model with an RPN'
        )

    def _read(self) -> dict:
        if is_local(self.ann_file, self.backend_args) and missing_files([self.ann_file]):
            made = ' (tools/coco_subset.py makes it: docs/real_images.md)' if 'coco8.json' in self.ann_file else ''
            raise ValueError(
                f'the annotation file {self.ann_file} does not exist (data_root={self.data_root!r} and '
                f'ann_file); put the data there{made} or change the config; data/README.md shows the layouts'
            )
        return load_coco(self.ann_file, self.backend_args)

    def _choose_classes(self, categories: list[dict]) -> None:
        """Fix class names, category ids in the order of the labels, and colours."""
        if 'classes' not in self._metainfo:
            self._metainfo['classes'] = tuple(
                category['name'] for category in sorted(categories, key=lambda category: category['id'])
            )
        classes = self._metainfo['classes']
        self.cat_ids = category_ids(categories, classes, self.ann_file)
        self.cat2label = {category_id: label for label, category_id in enumerate(self.cat_ids)}
        if 'palette' not in self._metainfo:
            own = dict(zip(*map(MMDetCocoDataset.METAINFO.get, ('classes', 'palette')), strict=True))
            self._metainfo['palette'] = (
                [own[name] for name in classes] if set(classes) <= set(own) else make_palette(len(classes))
            )

    def _check_masks_wanted(self, has_annotations: bool) -> None:
        wanted = any(getattr(step, 'with_mask', False) for step in self.pipeline.transforms)
        if wanted and has_annotations and not self._has_masks:
            raise ValueError(
                f"no annotation of {self.ann_file} has a 'segmentation', but the pipeline loads masks; use "
                'a model without a mask head and with_mask=False, or a file with masks'
            )

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Sort out one picture's annotations and turn them into mmdet's form; crowds get `ignore_flag` 1."""
        image, annotations = raw_data_info['raw_img_info'], []
        expected = 0
        for annotation in raw_data_info['raw_ann_info']:
            if annotation['category_id'] not in self.cat2label:
                continue
            if annotation.get('ignore', 0):
                self._notices['are left out: they have ignore 1, which COCO\'s score does not look at'].append(
                    annotation['id']
                )
                continue
            annotation, notices, left_out = sort_out(annotation, image)
            for notice in notices:
                self._notices[notice].append(annotation['id'])
            if left_out:
                continue
            if self._has_masks and not annotation.get('segmentation'):
                self._notices[
                    'have no mask, or none with a pixel, and count as ignored where masks are used'
                ].append(annotation['id'])
            expected += 1
            annotations.append(annotation)
        data_info = super().parse_data_info(dict(raw_img_info=image, raw_ann_info=annotations))
        assert len(data_info['instances']) == expected, 'mmdet left out what the checks had accepted'
        if self._has_masks:
            # mmdet's loader asks every object for a mask; an empty one makes the object ignored
            for instance in data_info['instances']:
                instance.setdefault('mask', [])
        return data_info

    def _check_files_exist(self, data_list: list[dict]) -> None:
        folder = self.data_prefix.get('img', '')
        if not self.check_files or not data_list or not is_local(folder, self.backend_args):
            return
        if folder:
            require_folder(
                folder, f"data_root={self.data_root!r} and data_prefix['img'], pictures of {self.ann_file}"
            )
        missing = missing_files(data_info['img_path'] for data_info in data_list)
        if missing:
            raise ValueError(
                f'{len(missing)} of the {len(data_list)} pictures listed in {self.ann_file} are not there, '
                f'such as {some(missing)}. Add the files, take them off the list, or correct '
                "data_prefix['img']"
            )

    def _report(self) -> None:
        """Log what was left out or is odd, once per kind."""
        for notice, ids in self._notices.items():
            print_log(
                f'{self.ann_file}: {len(ids)} annotations {notice}; ids {some(ids, 5)}',
                logger='current',
                level=logging.WARNING,
            )

    def filter_data(self) -> list[dict]:
        """Leave out pictures as `filter_cfg` says (in training only)."""
        filter_cfg: Mapping = self.filter_cfg or {}
        wrong = [key for key in filter_cfg if key not in FILTERS]
        if wrong:
            raise ValueError(f'filter_cfg has the key {wrong[0]!r}; allowed are {some(FILTERS)}')
        data_list = self.data_list
        if not self.test_mode:
            data_list = list(
                self._kept(filter_cfg.get('filter_empty_gt', False), filter_cfg.get('min_size', 0))
            )
        if not data_list:
            raise ValueError(
                f'no picture of {self.ann_file} is left: it lists {len(self.data_list)}, and '
                f'filter_cfg={filter_cfg} with classes={some(self._metainfo["classes"], 5)} leaves out all '
                'of them; check both'
            )
        return data_list

    def _kept(self, filter_empty_gt: bool, min_size: float) -> Iterable[dict]:
        for data_info in self.data_list:
            large_enough = min(data_info['width'], data_info['height']) >= min_size
            if large_enough and (data_info['instances'] or not filter_empty_gt):
                yield data_info
