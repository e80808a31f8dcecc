"""Maps and strides that do not fit, class counts that disagree: what a built model shows in one blank image.

Each rule is a generator of findings. The launcher raises the first of them (`check_model`, `check_classes`,
`check_evaluator`); the page of preflight shows all (`check_maps`, `check_class_counts`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from backbones.findings import Finding, Outcome
from backbones.precision.compute import unwrapped

HEADS = ('roi_head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


class Maps(NamedTuple):
    """What backbone and neck give for one blank image of `size` pixels; `neck` are those that the heads receive."""

    size: int
    backbone: tuple[Tensor, ...]
    neck: tuple[Tensor, ...]


def text_of(finding: Finding) -> str:
    """What an exception says in place of a finding."""
    return f'{finding.message}; {finding.remedy}' if finding.remedy else finding.message


def _raise_first(findings: Iterable[Finding]) -> None:
    for finding in findings:
        raise ValueError(text_of(finding))


def _error(kind: str, field: str, value: object, message: str, remedy: str) -> Finding:
    return Finding('error', kind, message, remedy, field=field, value=value)


# --- maps ---------------------------------------------------------------------------------------------------


def check_model(model: BaseModel) -> None:
    """Run one blank image through backbone and neck and hold the maps against what the heads expect.

    Raises:
        ValueError: the neck cannot take the backbone's maps; backbone or neck gives maps of other strides than the
            `out_strides` it declares; the strides of neck, RPN and RoI heads disagree; a head's `in_channels` are not
            those of the maps it taps.
    """
    _raise_first(map_findings(model, []))


def check_maps(runner: Runner) -> Outcome:
    """Say everything that `check_model` refuses."""
    model, probed = unwrapped(runner.model), []
    outcome = Outcome('strides and channels', findings=list(map_findings(model, probed)))
    if probed:
        maps = probed[0]
        strides, channels = _strides(maps.size, maps.neck), [m.shape[1] for m in maps.neck]
        width = str(channels[0]) if len(set(channels)) == 1 else ', '.join(map(str, channels))
        users = [word for word, name in (('RPN', 'rpn_head'), ('RoI heads', 'roi_head')) if hasattr(model, name)]
        users += [word for word, name in (('decode head', 'decode_head'), ('auxiliary head', 'auxiliary_head'))
                  if getattr(model, name, None) is not None]
        source = 'backbone' if getattr(model, 'neck', None) is None else 'neck'
        what = f'{", ".join(map(str, strides))} pixels and {width} channels'
        outcome.summary = (
            f'{source}: {what}, which does not fit what is set elsewhere' if outcome.findings else
            f'{what} in {", ".join([source, *users[:-1]])}' + (f' and {users[-1]}' if users else ''))
        outcome.figures = dict(strides=strides, channels=channels,
                               backbone_strides=_strides(maps.size, maps.backbone),
                               backbone_channels=[m.shape[1] for m in maps.backbone])
    return outcome


def map_findings(model: BaseModel, probed: list[Maps]) -> Iterator[Finding]:
    """Everything that does not fit in the maps; the maps themselves go into `probed`, where there are any."""
    size = _probe_size(model)
    maps = _probe(model, size)
    if isinstance(maps, Finding):
        yield maps
        return
    probed.append(maps)
    strides = _strides(size, maps.backbone)
    yield from _declared('backbone', model.backbone, strides, 'correct its patch size or out_strides')
    if getattr(model, 'neck', None) is not None:
        remedy = 'correct its out_strides'
        if 'in_stride' in inspect.signature(type(model.neck)).parameters:
            remedy = f'set model.neck.in_stride={strides[-1]}, the stride of the maps of the backbone'
        yield from _declared('neck', model.neck, _strides(size, maps.neck), remedy)
    if hasattr(model, 'rpn_head') or hasattr(model, 'roi_head'):
        yield from _detector_strides(model, _strides(size, maps.neck))
        yield from _widths(model, sorted({m.shape[1] for m in maps.neck}))
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads] if heads is not None else []:
            yield from _taps(name, head, maps.neck)


def _probe_size(model: BaseModel) -> int:
    """Side in pixels of the probing image: every stride up to 64 divides it, or up to 64 / 16 patches of the ViT."""
    patch = getattr(model.backbone, 'patch_size', 16)
    return 256 if not isinstance(patch, int) or 256 % patch == 0 else 64 * patch


def _number(stride: float) -> float:
    """A whole stride as an int: 4, but 3.5 for the finest map of a ViT with patches of 14 pixels."""
    return int(stride) if stride == int(stride) else stride


def _strides(size: int, maps: tuple[Tensor, ...]) -> list[float]:
    """Strides in pixels of the maps of an image of `size` pixels."""
    return [_number(size / m.shape[-1]) for m in maps]


def _declared(place: str, module: nn.Module, strides: list[float], remedy: str) -> Iterator[Finding]:
    """Hold the measured strides against `out_strides`, where a backbone or a neck declares them."""
    declared = getattr(module, 'out_strides', None)
    if declared is not None and list(declared) != strides:
        yield _error(
            'strides', f'model.{place}.out_strides', list(declared),
            f'model.{place} {type(module).__name__} declares out_strides={list(declared)}, but its maps have the '
            f'strides {strides}', remedy)


@torch.no_grad()
def _probe(model: BaseModel, size: int) -> Maps | Finding:
    """Maps (1, C, H, W) of the backbone, and those that the heads receive, for one blank image of `size` pixels."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        channels = getattr(model.backbone, 'in_channels', 3)
        maps = tuple(model.backbone(torch.zeros(1, channels, size, size, device=device)))
        neck = getattr(model, 'neck', None)
        if neck is None:
            return Maps(size, maps, maps)
        try:
            return Maps(size, maps, tuple(neck(maps)))
        except (RuntimeError, AssertionError, ValueError) as error:
            return _error(
                'channels', 'model.neck.in_channels', getattr(neck, 'in_channels', None),
                f'neck {type(neck).__name__} cannot take the maps of backbone {type(model.backbone).__name__}: they '
                f'have channels {[m.shape[1] for m in maps]}, the neck has in_channels='
                f'{getattr(neck, "in_channels", "?")}', _remedy_of_neck(model, maps, str(error)))
    finally:
        model.train(was_training)


def _remedy_of_neck(model: BaseModel, maps: tuple[Tensor, ...], error: str) -> str:
    if len(maps) == 1 and hasattr(model, 'rpn_head') and hasattr(model.backbone, 'patch_size'):
        return "make the levels from the one map of a plain ViT: model.neck.type='backbones.SimpleFPN'"
    return 'set model.neck.in_channels to the former' + (f' ({error})' if error else '')


def _detector_strides(model: BaseModel, strides: list[float]) -> Iterator[Finding]:
    """Hold the measured strides (pixels, fine to coarse) against those of the anchors and the RoI extractors."""
    neck = getattr(model, 'neck', None)
    source = type(model.backbone if neck is None else neck).__name__
    rpn, wrong = getattr(model, 'rpn_head', None), []
    extractors = dict(_extractor_strides(getattr(model, 'roi_head', None)))
    if rpn is not None:
        expected = [stride[0] for stride in rpn.prior_generator.strides]
        if expected != strides:
            wrong = expected
            agree = extractors and all(found == expected[: len(found)] for found in extractors.values())
            also = ', and the RoI heads expect the same' if agree else ''
            yield _error(
                'strides', 'model.rpn_head.anchor_generator.strides', expected,
                f'strides disagree: {source} gives {strides}, model.rpn_head.anchor_generator.strides is {expected}'
                f'{also}',
                'let backbone and neck give those (out_indices, num_outs; the neck of a plain ViT is '
                'backbones.SimpleFPN)' if also else "make the two equal (change out_indices / num_outs of backbone "
                "and neck, or the generator's strides)")
    for name, found in extractors.items():
        if found not in (strides[: len(found)], wrong[: len(found)]):  # else right, or said already
            wrong = wrong or found
            yield _error(
                'strides', f'model.roi_head.{name}.featmap_strides', found,
                f'strides disagree: {source} gives {strides}, model.roi_head.{name}.featmap_strides is {found}',
                f'it must be the first {len(found)} of the former')


def _extractor_strides(roi_head: nn.Module | None) -> Iterator[tuple[str, list[int]]]:
    """The strides of each RoI extractor; the stages of a cascade share one setting."""
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractors = getattr(roi_head, name, None)
        extractor = extractors[0] if isinstance(extractors, nn.ModuleList) and len(extractors) else extractors
        if extractor is not None and hasattr(extractor, 'featmap_strides'):
            yield name, list(extractor.featmap_strides)


def _widths(model: BaseModel, channels: list[int]) -> Iterator[Finding]:
    """Hold the channels of the maps that RPN and RoI heads receive against their settings."""
    source = type(model.backbone if getattr(model, 'neck', None) is None else model.neck).__name__
    settings = {'rpn_head': 'in_channels', 'roi_head.bbox_roi_extractor': 'out_channels',
                'roi_head.mask_roi_extractor': 'out_channels', 'roi_head.bbox_head': 'in_channels',
                'roi_head.mask_head': 'in_channels'}
    found = {}
    for name, module in model.named_modules():
        place = re.sub(r'\.\d+$', '', name)  # the stages of a cascade
        if place in settings and not isinstance(module, nn.ModuleList):
            wanted = getattr(module, settings[place], None)
            if wanted is not None:
                found[f'model.{name}.{settings[place]}'] = wanted
    given = ', '.join(map(str, channels))
    if len(found) > 1 and len(set(found.values())) == 1 and channels != list(found.values())[:1]:
        wanted = next(iter(found.values()))
        yield _error(
            'channels', next(iter(found)), wanted,
            f'the maps of {source} have {given} channels, and RPN and RoI heads take {wanted}: '
            f'{next(iter(found))} and {len(found) - 1} more',
            f'set model.neck.out_channels={wanted}, or all of those to {given}' if getattr(
                model, 'neck', None) is not None else f'add a neck with out_channels={wanted}, such as mmdet.FPN')
        return
    for field, wanted in found.items():
        if channels != [wanted]:
            yield _error(
                'channels', field, wanted, f'{field}={wanted} but the maps of {source} have {given} channels',
                'make the two equal')


def _taps(name: str, head: nn.Module, maps: tuple[Tensor, ...]) -> Iterator[Finding]:
    """Hold the maps that a head of a segmenter takes against those there are."""
    indexes = head.in_index if isinstance(head.in_index, list | tuple) else [head.in_index]
    wanted = head.in_channels if isinstance(head.in_channels, list | tuple) else [head.in_channels]
    if max(indexes) >= len(maps):
        yield _error(
            'maps', f'model.{name}.in_index', head.in_index,
            f'model.{name}.in_index={head.in_index} but there are only {len(maps)} maps',
            f'take maps from 0 to {len(maps) - 1}, or let the backbone give more (out_indices)')
        return
    given = [maps[index].shape[1] for index in indexes]
    if head.input_transform == 'resize_concat':
        given, wanted = [sum(given)], [sum(wanted)]
    if list(wanted) != given:
        yield _error(
            'channels', f'model.{name}.in_channels', list(wanted),
            f'model.{name}.in_channels={list(wanted)} but the maps {list(indexes)} it takes have {given} channels',
            f'set it to {given if len(given) > 1 else given[0]}')


# --- classes ------------------------------------------------------------------------------------------------


def check_classes(model: BaseModel, classes: tuple[str, ...], where: str) -> None:
    """Hold `num_classes` of every head against the classes of the data set.

    Args:
        model: the model.
        classes: class names of the data set.
        where: how the message names that data set.

    Raises:
        ValueError: a head has another number of classes.
    """
    _raise_first(class_findings(model, classes, where))


def class_findings(model: BaseModel, classes: tuple[str, ...], where: str) -> Iterator[Finding]:
    """Every head with another number of classes, or of class weights, than the data set; arguments as above."""
    names = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
    for name, module in model.named_modules():
        if not name.startswith(HEADS):
            continue
        number = getattr(module, 'num_classes', None)
        if isinstance(number, int) and number != len(classes):
            yield _error(
                'class count', f'model.{name}.num_classes', number,
                f'model.{name}.num_classes={number} but {where} has {len(classes)} classes ({names})',
                "set classes='annotations' or classes=[...] once in the config, which every head and data set then "
                f'follows (docs/classes.md), or num_classes={len(classes)} in every head')
        if name in ('decode_head', 'auxiliary_head'):
            yield from _class_weights(f'model.{name}', module, len(classes))


def _class_weights(name: str, head: nn.Module, number: int) -> Iterator[Finding]:
    losses = head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    for loss in losses:
        weights = getattr(loss, 'class_weight', None)
        if weights is not None and len(weights) != number:
            yield _error(
                'class weights', f'{name}.loss_decode.class_weight', list(weights),
                f'{name}.loss_decode.class_weight has {len(weights)} values for {number} classes', 'give one per class')


def check_class_counts(runner: Runner) -> Outcome:
    """Hold the heads against the classes of every split, and the splits against each other."""
    from backbones.data.classes import check_same_classes

    model = unwrapped(runner.model)
    splits = _classes_of_splits(runner)
    same: dict[tuple[str, ...], list[str]] = {}
    for split, names in splits.items():
        same.setdefault(names, []).append(split)
    findings = [finding for names, of in same.items() for finding in class_findings(
        model, names, f'the data of {" and ".join(of)}')]
    try:
        check_same_classes(**{f'the {split} data set': names for split, names in splits.items()})
    except ValueError as error:
        what, _, remedy = str(error).partition('. ')
        findings.append(Finding('error', 'classes of the splits', what, remedy))
    if 'val' in splits:
        try:
            check_evaluator(runner.val_loop)
        except ValueError as error:
            what, _, remedy = str(error).rpartition('; ')
            findings.append(Finding('error', 'evaluator', what or remedy, remedy if what else ''))
    heads = sum(isinstance(getattr(module, 'num_classes', None), int) for name, module in model.named_modules()
                if name.startswith(HEADS))
    counts = {len(names) for names in splits.values()}
    summary = f'{" or ".join(map(str, sorted(counts)))} classes in {heads} head{"" if heads == 1 else "s"} and ' + (
        f'the data of {" and ".join(splits)}')
    return Outcome('classes', summary, findings, figures={split: list(names) for split, names in splits.items()})


def _classes_of_splits(runner: Runner) -> dict[str, tuple[str, ...]]:
    loops = {split: getattr(runner, f'{split}_loop') for split in ('train', 'val')}
    return {split: tuple(loop.dataloader.dataset.metainfo['classes']) for split, loop in loops.items() if loop}


def check_evaluator(loop: BaseLoop) -> None:
    """Hold the classes and images of a loop's data set against the annotation file its COCO metric scores with.

    Raises:
        ValueError: a class or an image of the data set is not in that file.
    """
    dataset = loop.dataloader.dataset
    for metric in loop.evaluator.metrics:
        truth = getattr(metric, '_coco_api', None)
        if truth is None:
            continue
        from backbones.data.coco import category_ids

        file = getattr(metric, 'ann_file', None) or 'the annotation file of the evaluator'
        ids = set(category_ids(truth, dataset.metainfo['classes'], file))
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        lost = [info['img_id'] for info in infos if info['img_id'] not in truth.imgs]
        if lost:
            raise ValueError(
                f'{len(lost)} images of the data set are not in {file}, which the evaluator scores with (the first has '
                f'id {lost[0]}); give evaluator and data set the same ann_file'
            )
        _check_pictures(truth, infos, ids, file)


def _check_pictures(truth: Any, infos: list[dict], ids: set[int], file: str) -> None:
    """Refuse a file that gives the ids of a data set to other pictures, as that of another split may do.

    Splits may name their pictures alike; then the numbers of objects (of categories `ids`) tell them apart.
    """
    def objects(info: dict) -> tuple[int, int]:
        there = truth.imgToAnns.get(info['img_id'], ())
        return len(info.get('instances', ())), sum(annotation['category_id'] in ids for annotation in there)

    named = [(info['img_path'], name) for info in infos if (name := truth.imgs[info['img_id']].get('file_name'))]
    others = [f'{here} here and {name} there' for here, name in named if not str(here).endswith(str(name))]
    if not others:
        counts = [objects(info) for info in infos]
        unlike = [f'of {here} objects here and of {there} there' for here, there in counts if here != there]
        others = unlike if len(unlike) > len(infos) / 2 else []
    if others:
        raise ValueError(
            f'{len(others)} images of the data set are other pictures in {file}, which the evaluator scores with (the '
            f'first is {others[0]}); give evaluator and data set the same ann_file'
        )
