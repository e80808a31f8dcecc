"""What can be known wrong before the first step: maps and strides that do not fit, class counts that disagree."""

from __future__ import annotations

import inspect
import re

import torch
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop
from torch import Tensor, nn


def _probe_size(model: BaseModel) -> int:
    """Side in pixels of the probing image: every stride up to 64 divides it, or up to 64 / 16 patches of the ViT."""
    patch = getattr(model.backbone, 'patch_size', 16)
    return 256 if 256 % patch == 0 else 64 * patch


def _number(stride: float) -> float:
    """A whole stride as an int: 4, but 3.5 for the finest map of a ViT with patches of 14 pixels."""
    return int(stride) if stride == int(stride) else stride


def check_model(model: BaseModel) -> None:
    """Run one blank image through backbone and neck and hold the maps against what the heads expect.

    Raises:
        ValueError: the neck cannot take the backbone's maps; backbone or neck gives maps of other strides than the
            `out_strides` it declares; the strides of neck, RPN and RoI heads disagree; a head's `in_channels` are not
            those of the maps it taps.
    """
    size = _probe_size(model)
    backbone_maps, maps = _probe(model, size)
    strides = _strides(size, backbone_maps)
    _check_declared('backbone', model.backbone, strides, 'correct its patch size or out_strides')
    if getattr(model, 'neck', None) is not None:
        remedy = 'correct its out_strides'
        if 'in_stride' in inspect.signature(type(model.neck)).parameters:
            remedy = f'set model.neck.in_stride={strides[-1]}, the stride of the maps of the backbone'
        _check_declared('neck', model.neck, _strides(size, maps), remedy)
    if hasattr(model, 'rpn_head') or hasattr(model, 'roi_head'):
        check_strides(model, _strides(size, maps))
        _check_widths(model, sorted({m.shape[1] for m in maps}))
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads] if heads is not None else []:
            _check_taps(name, head, maps)


def _strides(size: int, maps: tuple[Tensor, ...]) -> list[float]:
    """Strides in pixels of the maps of an image of `size` pixels."""
    return [_number(size / m.shape[-1]) for m in maps]


def _check_declared(place: str, module: nn.Module, strides: list[float], remedy: str) -> None:
    """Hold the measured strides against `out_strides`, where a backbone or a neck declares them."""
    declared = getattr(module, 'out_strides', None)
    if declared is not None and list(declared) != strides:
        raise ValueError(
            f'model.{place} {type(module).__name__} declares out_strides={list(declared)}, but its maps have the '
            f'strides {strides}; {remedy}'
        )


@torch.no_grad()
def _probe(model: BaseModel, size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Maps (1, C, H, W) of the backbone, and those that the heads receive, for one blank image of `size` pixels."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        channels = getattr(model.backbone, 'in_channels', 3)
        maps = tuple(model.backbone(torch.zeros(1, channels, size, size, device=device)))
        neck = getattr(model, 'neck', None)
        if neck is None:
            return maps, maps
        try:
            return maps, tuple(neck(maps))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f'neck {type(neck).__name__} cannot take the maps of backbone {type(model.backbone).__name__}: they '
                f'have channels {[m.shape[1] for m in maps]}, the neck has in_channels='
                f'{getattr(neck, "in_channels", "?")}; set model.neck.in_channels to the former ({error})'
            ) from error
    finally:
        model.train(was_training)


def check_strides(model: BaseModel, strides: list[float]) -> None:
    """Hold the measured strides (pixels, fine to coarse) against those of the anchors and the RoI extractors."""
    neck = getattr(model, 'neck', None)
    source = type(model.backbone if neck is None else neck).__name__
    rpn = getattr(model, 'rpn_head', None)
    if rpn is not None:
        expected = [stride[0] for stride in rpn.prior_generator.strides]
        if expected != strides:
            raise ValueError(
                f'strides disagree: {source} gives {strides}, model.rpn_head.anchor_generator.strides is {expected}; '
                "make the two equal (change out_indices / num_outs of backbone and neck, or the generator's strides)"
            )
    roi_head = getattr(model, 'roi_head', None)
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractors = getattr(roi_head, name, None)
        for extractor in extractors if isinstance(extractors, nn.ModuleList) else [extractors]:
            if extractor is None:
                continue
            expected = list(extractor.featmap_strides)
            if expected != strides[: len(expected)]:
                raise ValueError(
                    f'strides disagree: {source} gives {strides}, model.roi_head.{name}.featmap_strides is '
                    f'{expected}; it must be the first {len(expected)} of the former'
                )


def _check_widths(model: BaseModel, channels: list[int]) -> None:
    """Hold the channels of the maps that RPN and RoI heads receive against their settings."""
    source = type(model.backbone if getattr(model, 'neck', None) is None else model.neck).__name__
    settings = {'rpn_head': 'in_channels', 'roi_head.bbox_roi_extractor': 'out_channels',
                'roi_head.mask_roi_extractor': 'out_channels', 'roi_head.bbox_head': 'in_channels',
                'roi_head.mask_head': 'in_channels'}
    for name, module in model.named_modules():
        place = re.sub(r'\.\d+$', '', name)  # the stages of a cascade
        if place in settings and not isinstance(module, nn.ModuleList):
            wanted = getattr(module, settings[place], None)
            if wanted is not None and channels != [wanted]:
                raise ValueError(
                    f'model.{name}.{settings[place]}={wanted} but the maps of {source} have '
                    f'{", ".join(map(str, channels))} channels; make the two equal'
                )


def _check_taps(name: str, head: nn.Module, maps: tuple[Tensor, ...]) -> None:
    indexes = head.in_index if isinstance(head.in_index, list | tuple) else [head.in_index]
    wanted = head.in_channels if isinstance(head.in_channels, list | tuple) else [head.in_channels]
    if max(indexes) >= len(maps):
        raise ValueError(f'model.{name}.in_index={head.in_index} but there are only {len(maps)} maps')
    given = [maps[index].shape[1] for index in indexes]
    if head.input_transform == 'resize_concat':
        given, wanted = [sum(given)], [sum(wanted)]
    if list(wanted) != given:
        raise ValueError(
            f'model.{name}.in_channels={list(wanted)} but the maps {list(indexes)} it takes have {given} channels'
        )


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
        category_ids(truth, dataset.metainfo['classes'], file)
        known = set(truth.get_img_ids())
        ids = (dataset.get_data_info(index)['img_id'] for index in range(len(dataset)))
        lost = [image_id for image_id in ids if image_id not in known]
        if lost:
            raise ValueError(
                f'{len(lost)} images of the data set are not in {file}, which the evaluator scores with (the first has '
                f'id {lost[0]}); give evaluator and data set the same ann_file'
            )


def check_classes(model: BaseModel, classes: tuple[str, ...], where: str) -> None:
    """Hold `num_classes` of every head against the classes of the data set.

    Args:
        classes: class names of the data set.
        where: how the message names that data set.

    Raises:
        ValueError: a head has another number of classes.
    """
    for name, module in model.named_modules():
        if not name.startswith(('roi_head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')):
            continue
        number = getattr(module, 'num_classes', None)
        if isinstance(number, int) and number != len(classes):
            raise ValueError(
                f'model.{name}.num_classes={number} but {where} has {len(classes)} classes '
                f'({", ".join(classes[:5])}{", ..." if len(classes) > 5 else ""}); set num_classes={len(classes)} in '
                'every head of the config, or list the classes you mean in metainfo.classes of the data set'
            )
        if name in ('decode_head', 'auxiliary_head'):
            _check_class_weights(f'model.{name}', module, len(classes))


def _check_class_weights(name: str, head: nn.Module, number: int) -> None:
    losses = head.loss_decode if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    for loss in losses:
        weights = getattr(loss, 'class_weight', None)
        if weights is not None and len(weights) != number:
            raise ValueError(
                f'{name}.loss_decode.class_weight has {len(weights)} values for {number} classes; give one per class'
            )
