"""The true objects of a validation picture, and what comes back of their boxes through the test pipeline."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes
from pycocotools import mask as coco_mask

from backbones.findings import Finding

from .undisturbed import shortened


@dataclass
class Picture:
    """A validation picture and its true objects in pixels of the original.

    Attributes:
        id: in the annotation file.
        index: in the data set.
        size: (H, W).
        boxes: (n, 4) x1 y1 x2 y2.
        labels: (n,) as the data set numbers the classes.
        masks: n run lengths, or None where they cannot be made.
        returned: (n, 4) what comes back of the boxes through the pipeline.
        path: of the picture.
        problem: with the masks, in words.
    """

    id: Any
    index: int
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    masks: list[dict] | None
    returned: np.ndarray | None = None
    path: str = ''
    problem: str = ''


def true_picture(dataset: Any, index: int, masks: bool) -> Picture:
    """The true objects of a picture, as the data set reads them."""
    info = dataset.get_data_info(index)
    kept = [one for one in info.get('instances') or () if not one.get('ignore_flag', 0)]
    h, w = int(info['height']), int(info['width'])
    picture = Picture(
        info['img_id'], index, (h, w), np.array([one['bbox'] for one in kept], np.float64).reshape(-1, 4),
        np.array([one['bbox_label'] for one in kept], np.int64), None, path=str(info.get('img_path', '')))
    if masks:
        try:
            picture.masks = [_run_lengths(one.get('mask'), h, w) for one in kept]
        except (ValueError, TypeError, KeyError) as error:
            picture.problem = shortened(error, 120)
    return picture


def _run_lengths(mask: Any, h: int, w: int) -> dict:
    """Polygons or run lengths as compressed run lengths; what is no mask becomes an empty one."""
    if isinstance(mask, dict) and 'counts' in mask:
        if isinstance(mask['counts'], list):
            return coco_mask.frPyObjects(mask, *mask['size'])
        counts = mask['counts']
        return dict(size=list(mask['size']), counts=counts.encode() if isinstance(counts, str) else counts)
    if mask:
        return coco_mask.merge(coco_mask.frPyObjects(list(mask), h, w))
    return coco_mask.encode(np.zeros((h, w), np.uint8, order='F'))


def through_pipeline(dataset: Any, picture: Picture) -> Finding | None:
    """Send the boxes through the test pipeline and back as the box heads do: divided by `scale_factor`."""
    clipped = clipped_boxes(picture)
    info = dataset.get_data_info(picture.index)
    place = dict(file=picture.path, id=picture.id, field='val_dataloader.dataset.pipeline')
    try:
        packed = _piped(dataset.pipeline.transforms, info, clipped)
    except Exception as error:
        return Finding('error', 'pipeline fails', f'the test pipeline fails on picture {picture.id}: '
                       f'{shortened(error)}', 'correct the file or the transform that the message names', **place)
    sample = packed['data_samples']
    if 'scale_factor' not in sample and tuple(sample.get('img_shape', ())) != tuple(sample.get('ori_shape', ())):
        return Finding(
            'error', 'no scale factor', 'the test pipeline packs no scale_factor, by which boxes and masks are '
            'brought back to the size of the original', "add 'scale_factor' to meta_keys of PackDetInputs, after a "
            'Resize that sets it', **place)
    missing = [key for key in ('img_id', 'ori_shape', 'img_shape') if key not in sample]
    if missing:
        return Finding('error', 'no meta key', f'the test pipeline does not pack {missing[0]}, which heads and '
                       'evaluator ask for', f'add {missing[0]!r} to meta_keys of PackDetInputs', **place)
    scale = np.array(sample.get('scale_factor', (1.0, 1.0)), float)[:2]
    boxes = sample.gt_instances.bboxes
    boxes = boxes.tensor if hasattr(boxes, 'tensor') else boxes
    picture.returned = boxes.double().numpy() / np.tile(scale, 2)
    if tuple(sample.ori_shape[:2]) != picture.size:
        return Finding(
            'error', 'other size', f'picture {picture.id} is {sample.ori_shape[0]} x {sample.ori_shape[1]} (height '
            f'x width), the annotation file says {picture.size[0]} x {picture.size[1]}', 'correct width and height '
            'in the file', **place)
    if len(picture.returned) != len(clipped):
        return Finding('error', 'resize and back', f'of {len(clipped)} boxes of picture {picture.id}, '
                       f'{len(picture.returned)} are left after the test pipeline', 'leave filters and crops out of '
                       'it', **place)
    return None


def _piped(transforms: Sequence[Any], info: dict, boxes: np.ndarray) -> dict:
    """The packed sample of a picture whose boxes went through everything but the loading of annotations."""
    results, given = copy.deepcopy(info), False
    for transform in transforms:
        name = type(transform).__name__
        if 'Load' in name and ('Annotations' in name or 'Proposals' in name):
            continue
        results = transform(results)
        if not given:  # behind the first transform, which loads the picture
            results['gt_bboxes'] = HorizontalBoxes(torch.as_tensor(boxes, dtype=torch.float32))
            results['gt_bboxes_labels'] = np.zeros(len(boxes), np.int64)
            results['gt_ignore_flags'] = np.zeros(len(boxes), bool)
            given = True
    return results


def clipped_boxes(picture: Picture) -> np.ndarray:
    """Its boxes, cut off at its border."""
    h, w = picture.size
    return np.clip(picture.boxes, 0, [w, h, w, h])


def boxes_of(picture: Picture, which: str) -> np.ndarray:
    """'boxes', 'clipped' or 'returned'."""
    return clipped_boxes(picture) if which == 'clipped' else getattr(picture, which)
