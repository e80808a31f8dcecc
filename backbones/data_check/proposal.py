"""The data set block for a config, worked out from what lies there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..findings import Outcome
from .label_maps import Maps
from .label_reading import ClassList, Reading
from .layout import CocoSplit, split_of

LINE = 100  # characters up to which a call stands in one line
# No `model = ...`: below a copy of a recipe that would take the place of the recipe's own.
CLASSES = "classes = 'annotations'  # those of the training data, for every head: docs/classes.md"


class _Code(str):
    """Text that is code and no value."""


ROOT = _Code('data_root')  # stated once, so that --cfg-options data_root=... moves all


def propose_coco(root: str, splits: Sequence[CocoSplit], folders: Mapping[str, str],
                 annotations: Mapping[str, Any]) -> Outcome:
    """Propose the block for annotation files in COCO's format."""
    usable = [split for split in splits if split.name in folders]
    train, val = _train_and_val(usable)
    names = annotations[train.name].categories

    def dataset(split: CocoSplit) -> dict[str, Any]:
        return dict(type='backbones.CocoDataset', data_root=ROOT, ann_file=os.path.relpath(split.file, root),
                    data_prefix=dict(img=_inside(folders[split.name], root)))

    scored = _Code(f"f'{{data_root}}/{os.path.relpath(val.file, root)}'")
    lines = [_assignment('data_root', root.rstrip('/') or '/'),
             _dataset('train_dataloader', dataset(train)), _dataset('val_dataloader', dataset(val)),
             _assignment('val_evaluator', dict(type='backbones.CocoMetric', ann_file=scored)),
             'test_dataloader, test_evaluator = val_dataloader, val_evaluator',
             CLASSES]
    summary = f'num_classes={len(names)}: the categories of {os.path.basename(train.file)}, in the order of their ids'
    return _outcome(summary, lines)


def propose_label_maps(root: str, all_maps: Sequence[Maps], reading: Reading, classes: ClassList,
                       binary: bool) -> Outcome:
    """Propose the block for label maps, with the reading of their values."""
    usable = [maps for maps in all_maps if maps.names]
    if not usable:
        return Outcome('data set block', skipped='no picture has a label map')
    if binary:
        return Outcome('data set block', skipped='masks of 0 and 255 cannot be trained on as they are')
    splits = {maps.split.name: maps for maps in usable}
    train, val = (splits[split.name] for split in _train_and_val([maps.split for maps in usable]))
    ade = classes.names is None and len(reading.classes) == 150 and reading.classes[0] == 'wall'

    def dataset(maps: Maps) -> dict[str, Any]:
        made = dict(type='backbones.ADE20KDataset' if ade else 'backbones.LabelMapDataset', data_root=ROOT,
                    data_prefix=dict(img_path=_inside(maps.split.pictures, root),
                                     seg_map_path=_inside(maps.split.labels, root)))
        if maps.split.img_suffix:
            made['img_suffix'] = maps.split.img_suffix
        if maps.seg_map_suffix != '.png':
            made['seg_map_suffix'] = maps.seg_map_suffix
        made['reduce_zero_label'] = reading.reduce_zero_label
        if not ade and (classes.names is None or classes.source != 'classes.txt'):
            made['metainfo'] = dict(classes=tuple(reading.classes))
        return made

    count = len(reading.classes)
    lines = [f'# {reading.why}', _assignment('data_root', root.rstrip('/') or '/'),
             _dataset('train_dataloader', dataset(train)), _dataset('val_dataloader', dataset(val)),
             "val_evaluator = dict(type='backbones.IoUMetric', iou_metrics=['mIoU'])",
             'test_dataloader, test_evaluator = val_dataloader, val_evaluator',
             '# after loading, pixels to be ignored are 255, the default of ignore_index', CLASSES]
    doubt = '' if reading.sure else '; please check this'
    outcome = _outcome(f'num_classes={count}, reduce_zero_label={reading.reduce_zero_label}: {reading.why}{doubt}',
                       lines)
    outcome.figures |= dict(num_classes=count, reduce_zero_label=reading.reduce_zero_label, ignore_index=255)
    return outcome


def _outcome(summary: str, lines: Sequence[str]) -> Outcome:
    text = '\n'.join(lines)
    return Outcome('data set block', summary, details=text.splitlines(), figures=dict(block=text))


def _train_and_val(splits: Sequence[Any]) -> tuple[Any, Any]:
    """Return the splits to train and to score on; where there is one, it is both."""
    train = next((split for split in splits if split_of(split.name) == 'train'), splits[0])
    others = [split for split in splits if split is not train]
    val = next((split for word in ('val', 'test') for split in others if split_of(split.name) == word),
               others[0] if others else train)
    return train, val


def _inside(path: str, root: str) -> str:
    return '' if os.path.abspath(path) == os.path.abspath(root) else os.path.relpath(path, root)


def _dataset(name: str, dataset: Mapping[str, Any]) -> str:
    arguments = [f'{key}={_code(value)}' for key, value in dataset.items()]
    lines, line = [], '   '
    for argument in arguments:
        if len(line) + len(argument) + 2 > LINE and line.strip():
            lines.append(line)
            line = '   '
        line += f' {argument},'
    lines.append(line.removesuffix(','))
    return f'{name} = dict(dataset=dict(\n' + '\n'.join(lines) + '))'


def _assignment(name: str, value: Any) -> str:
    return f'{name} = {_code(value)}'


def _code(value: Any) -> str:
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_code(item)}" for key, item in value.items())})'
    return str(value) if isinstance(value, _Code) else repr(value)
