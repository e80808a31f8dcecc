"""Label maps given as predictions through the test pipeline and mIoU.

What a perfect model would return is the label map as *training* reads it, at the size of the original picture; the
evaluator holds it against what the test pipeline loads. So a value that the two read differently loses points, as do
labels that were resized. What the files hold is known from the files: every value is followed through both.

The stages, in the order in which they are looked at:

training    a value becomes what `reduce_zero_label` and the label map of the data set say, once
evaluation  the same in the test pipeline
classes     training and validation list the same classes
ignored     what the loader ignores, losses and evaluator ignore, too
resize      the labels have the size of the original, where the prediction is brought to
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from backbones.findings import Finding, Outcome

from .truth import score
from .undisturbed import bare, class_names, innermost, shortened

IGNORED = 255  # mmseg's value after loading
FINE = 99.995  # mIoU in percent, which is rounded to two digits
# Transforms that move or recolour pixels, or join pictures: no value of a label map gets another meaning by them.
MOVES = re.compile('Resize|Crop|Flip|Pad|Rotate|Affine|Distort|Cutout|CutOut|Mosaic|Rescale|CLAHE|Gamma|Photo|Erasing')


def check_label_truth(outcome: Outcome, runner: Runner, metric: Any, chosen: Sequence[int]) -> None:
    """Score the label maps as training reads them; name the first stage that loses points."""
    dataset = innermost(runner.val_loop.dataloader.dataset)
    trained = innermost(runner.train_loop.dataloader.dataset) if runner.train_loop is not None else dataset
    reader, tester = _Reader(trained, dataset), _Reader(dataset, dataset)
    samples: list[SegDataSample] = []
    for index in chosen:
        try:
            samples.append(_perfect(dataset, reader, tester, index))
        except Exception as error:
            info = dataset.get_data_info(index)
            outcome.findings.append(Finding(
                'error', 'pipeline fails', f'the test pipeline fails on picture {index}: {shortened(error)}',
                'correct the file or the transform that the message names', file=str(info.get('img_path')), id=index,
                field='val_dataloader.dataset.pipeline'))
            return
    values = _scores(metric, samples, outcome)
    found = list(_stages(runner, metric, reader, tester, samples))
    outcome.findings += found[:1]
    outcome.figures.update(truth_images=len(samples), truth_scores=values)
    if values.get('mIoU') is not None:
        outcome.summary = (f'the label maps of {len(samples)} pictures, as training reads them, score mIoU '
                           f'{values["mIoU"]:.2f} %')
    lost = values.get('mIoU') is not None and values['mIoU'] < FINE
    if not found and (lost or 'failure' in values):
        outcome.findings.append(Finding(
            'error', 'truth loses points', f'the ground truth scores mIoU {values["mIoU"]:.2f} %' if lost else
            f'the evaluator fails on the ground truth: {values["failure"]}', 'look at what the test pipeline does to '
            'the labels', field='val_evaluator'))
    elif found and not values.get('mIoU'):
        outcome.summary = f'the label maps of {len(samples)} pictures cannot be scored'
    if not lost and 'failure' not in values:
        values.pop('failure', None)


def _scores(metric: Any, samples: list[SegDataSample], outcome: Outcome) -> dict[str, Any]:
    try:
        found = score(metric, samples)
    except Exception as error:
        return dict(failure=shortened(error))
    return {name: float(value) for name, value in found.items() if name.endswith('mIoU') or name.endswith('aAcc')}


class _Reader:
    """How a pipeline reads label maps: the mapping from values in the file to labels, collected as it is used.

    Args:
        owner: data set whose pipeline and settings are used.
        source: data set that names the pictures.

    Attributes:
        mapping: labels that each value became.
        failure: why the labels could not be followed, in words.
    """

    def __init__(self, owner: Any, source: Any) -> None:
        self.owner, self.source = owner, source
        self.mapping: dict[int, set[int]] = {}
        self.failure = ''

    def labels(self, index: int, raw: np.ndarray) -> np.ndarray | None:
        """Labels (H, W) of the original size as the pipeline reads them; None where they cannot be followed."""
        results = copy.deepcopy(self.source.get_data_info(index))
        for key in ('reduce_zero_label', 'label_map', 'num_classes'):
            self._take(results, key)
        results['seg_fields'], results['img_shape'] = [], raw.shape
        results['ori_shape'] = raw.shape
        results['img'] = np.zeros((*raw.shape, 3), np.uint8)
        for transform in self.owner.pipeline.transforms:
            name = type(transform).__name__
            if MOVES.search(name) or 'Pack' in name or name.startswith('LoadImage'):
                continue
            results = transform(results)
        labels = results.get('gt_seg_map')
        if labels is None or labels.shape != raw.shape:
            self.failure = 'the pipeline loads no label map' if labels is None else (
                f'the pipeline gives labels {labels.shape} for a file of {raw.shape}')
            return None
        for value in np.unique(raw).tolist():
            self.mapping.setdefault(value, set()).update(np.unique(labels[raw == value]).tolist())
        return labels

    def _take(self, results: dict, key: str) -> None:
        """The owner's setting, which its own data info holds."""
        own = self.owner.get_data_info(0)
        if key in own:
            results[key] = own[key]

    def expected(self, value: int) -> int:
        """What the data set's settings make of a value."""
        label = value
        if getattr(self.owner, 'reduce_zero_label', False):
            label = IGNORED if value in (0, IGNORED) else value - 1
        labels = getattr(self.owner, 'label_map', None)
        return int(labels.get(label, label)) if labels else label

    def contradictions(self) -> Iterator[tuple[int, int, int]]:
        """(value, label it should become, label it became), by value."""
        for value in sorted(self.mapping):
            for label in sorted(self.mapping[value]):
                if label != self.expected(value):
                    yield value, self.expected(value), label


def _perfect(dataset: Any, reader: _Reader, tester: _Reader, index: int) -> SegDataSample:
    """The sample of the evaluator with what a perfect model would return."""
    info = dataset.get_data_info(index)
    raw = _raw(info['seg_map_path'])
    tester.labels(index, raw)
    labels = reader.labels(index, raw)
    packed = dataset.pipeline(copy.deepcopy(info))
    sample = packed['data_samples']
    labels = raw if labels is None else labels
    size = tuple(sample.get('ori_shape', labels.shape))[:2]
    found = torch.as_tensor(labels.astype(np.int64))
    if tuple(found.shape) != size:  # the pipeline changed what it calls the original size
        found = nn.functional.interpolate(found[None, None].float(), size, mode='nearest')[0, 0].long()
    number = len(dataset.metainfo.get('classes') or ()) or int(found.max()) + 1
    found = torch.where((found >= 0) & (found < number), found, 0)  # a model predicts some class where none counts
    sample.pred_sem_seg = PixelData(data=found[None])
    return sample


def _raw(path: str) -> np.ndarray:
    """Values (H, W) of a label map file."""
    import mmcv
    from mmengine import fileio

    image = mmcv.imfrombytes(fileio.get(path), flag='unchanged', backend='pillow')
    return image if image.ndim == 2 else image[..., 0]


# --- stages -----------------------------------------------------------------------------------------


def _stages(
    runner: Runner, metric: Any, reader: _Reader, tester: _Reader, samples: list[SegDataSample]
) -> Iterator[Finding]:
    """Findings in the order of the stages; the first is the one that loses the points."""
    names = class_names(runner.train_loop) if runner.train_loop is not None else class_names(runner.val_loop)
    yield from _reading(reader, 'training', 'train_dataloader.dataset', names)
    yield from _reading(tester, 'evaluation', 'val_dataloader.dataset', class_names(runner.val_loop))
    yield from _differences(reader, tester, names)
    yield from _classes(names, class_names(runner.val_loop))
    yield from _ignored(runner, metric, samples, len(names))
    yield from _sizes(samples)


def _reading(reader: _Reader, where: str, field: str, names: Sequence[str]) -> Iterator[Finding]:
    """Values that do not become what the data set says."""
    if reader.failure:
        yield Finding('error', 'no labels', f'in {where} {reader.failure}', 'put backbones.LoadLabelMap into the '
                      'pipeline, behind the Resize of the test pipeline', field=f'{field}.pipeline')
        return
    wrong = [one for one in reader.contradictions() if one[0] != IGNORED]
    if not wrong:
        return
    value, wanted, label = next((one for one in wrong if one[0] and one[1] != IGNORED), wrong[0])
    reduced = bool(getattr(reader.owner, 'reduce_zero_label', False))
    how = ''
    if reduced and label == (value - 2) % 256:
        how = ': reduce_zero_label is applied twice'
    elif reduced and label == value:
        how = ': reduce_zero_label is never applied'
    elif not reduced and label == (value - 1) % 256:
        how = ': reduce_zero_label is applied, although the data set says False'
    yield Finding(
        'error', 'label shifted', f'in {where} value {value} of the files becomes {_label(label, names)}, not '
        f'{_label(wanted, names)}{how}', 'apply it once: leave reduce_zero_label to the data set, and one transform '
        'that loads label maps in the pipeline', field=f'{field}.pipeline', value=label)


def _differences(reader: _Reader, tester: _Reader, names: Sequence[str]) -> Iterator[Finding]:
    for value in sorted(set(reader.mapping) & set(tester.mapping)):
        if reader.mapping[value] != tester.mapping[value]:
            a, b = (min(mapping[value]) for mapping in (reader.mapping, tester.mapping))
            yield Finding(
                'error', 'label shifted', f'value {value} of the files is {_label(a, names)} in training and '
                f'{_label(b, names)} in the evaluation', 'give both data sets the same reduce_zero_label and classes',
                field='val_dataloader.dataset.reduce_zero_label', value=b)
            return


def _classes(trained: Sequence[str], scored: Sequence[str]) -> Iterator[Finding]:
    pairs = zip([*trained, None], [*scored, None], strict=False)
    for label, (one, other) in enumerate(pairs):
        if one != other:
            yield Finding(
                'error', 'class order', f'label {label} is {one!r} in training and {other!r} in the validation',
                'give both data sets the same classes', field='val_dataloader.dataset.metainfo.classes', value=label)
            return


def _ignored(runner: Runner, metric: Any, samples: list[SegDataSample], number: int) -> Iterator[Finding]:
    present = set()
    for sample in samples:
        if 'gt_sem_seg' in sample:
            present |= set(sample.gt_sem_seg.data.unique().tolist())
    outside = sorted(value for value in present if not 0 <= value < number)
    for value in outside:
        if value != metric.ignore_index:
            yield Finding(
                'error', 'ignore label', f'label {value} is no class, and the evaluator ignores '
                f'{metric.ignore_index}', f'set val_evaluator.ignore_index={value}', field='val_evaluator.ignore_index',
                value=metric.ignore_index)
    if 0 <= metric.ignore_index < number:
        yield Finding(
            'error', 'ignore label', f'the evaluator ignores {metric.ignore_index}, which is a class: it is never '
            'scored', f'set val_evaluator.ignore_index={IGNORED}', field='val_evaluator.ignore_index',
            value=metric.ignore_index)
    model = bare(runner.model)
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads] if heads is not None else []:
            index = getattr(head, 'ignore_index', IGNORED)
            wrong = [value for value in outside if value != index]
            if wrong or 0 <= index < number:
                what = f'label {wrong[0]} is no class' if wrong else f'{index} is a class'
                yield Finding(
                    'error', 'ignore label', f'{what}, and model.{name} ignores {index}', f'set '
                    f'model.{name}.ignore_index={wrong[0] if wrong else IGNORED}', field=f'model.{name}.ignore_index',
                    value=index)


def _sizes(samples: list[SegDataSample]) -> Iterator[Finding]:
    for sample in samples:
        if 'ori_shape' not in sample:
            yield Finding('error', 'no meta key', 'the test pipeline does not pack ori_shape, to which predictions are '
                          'resized', "add 'ori_shape' to meta_keys of PackSegInputs",
                          field='val_dataloader.dataset.pipeline')
            return
        if 'gt_sem_seg' not in sample:
            continue
        given, wanted = tuple(sample.gt_sem_seg.data.shape[-2:]), tuple(sample.ori_shape[:2])
        if given != wanted:
            yield Finding(
                'error', 'labels resized', f'the labels of evaluation are {given[0]} x {given[1]} (height x width), '
                f'predictions are brought to the {wanted[0]} x {wanted[1]} of the original', 'load the labels behind '
                'the Resize of the test pipeline', file=str(sample.get('seg_map_path', sample.get('img_path'))),
                field='val_dataloader.dataset.pipeline')
            return


def _label(label: int, names: Sequence[str]) -> str:
    if label == IGNORED:
        return 'ignored (255)'
    return f'label {label} ({names[label]!r})' if 0 <= label < len(names) else f'label {label}, which is no class'
