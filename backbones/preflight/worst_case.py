"""The batch that decides whether a run survives: the largest images that its pipeline makes, with the most objects.

The images are noise; boxes and classes are those of the picture with the most objects, stretched to the size, and the
masks fill them. For a segmenter the labels are tiles of all classes. Shapes: N images, H W rows and columns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.image_sizes import image_sizes

from .undisturbed import innermost, shuffled, training_sample

TILE = 32  # pixels: side of a patch of one class in made-up labels
LOOKS = 8  # samples whose size is looked at where the pipeline does not state one
SMALLEST = 4  # pixels: side of a made-up object at least
ANY_SIZE = 64  # pixels: every backbone of ours takes multiples of it


@dataclass(frozen=True)
class WorstCase:
    """What the largest batch of a run looks like.

    Attributes:
        size: (H, W) of the padded images.
        images: N, in one pass.
        objects: of each image; 0 for a segmenter.
        boxes: (objects, 4) x1 y1 x2 y2 as fractions of width and height.
        labels: (objects,) classes.
        classes: how many there are.
        source: where size and objects come from, in words.
    """

    size: tuple[int, int]
    images: int
    objects: int
    boxes: np.ndarray
    labels: np.ndarray
    classes: int
    source: str

    def at(self, size: tuple[int, int]) -> WorstCase:
        """The same at another size."""
        return replace(self, size=size)


def worst_case(runner: Runner, model: nn.Module, seconds: float = 5.0) -> WorstCase:
    """Find it out; `seconds` bound the look at the annotations of a large data set."""
    loop = runner.train_loop
    dataset = loop.dataloader.dataset
    images = images_per_pass(runner)
    classes = len((getattr(dataset, 'metainfo', None) or {}).get('classes') or ()) or 1
    size, said = _largest_size(runner, model, images)
    boxes, labels, objects = np.zeros((0, 4)), np.zeros(0, int), 'a segmenter has labels, no objects'
    if not is_segmenter(model):
        boxes, labels, objects = _densest(innermost(dataset), seconds)
    return WorstCase(size, images, len(boxes), boxes, labels, classes, f'{said}; {objects}')


def is_segmenter(model: nn.Module) -> bool:
    """Whether a model learns label maps."""
    return hasattr(model, 'decode_head')


def images_per_pass(runner: Runner) -> int:
    """Images that the model sees at a time."""
    loop = runner.train_loop
    if getattr(loop, 'accumulate', 1) > 1:
        return loop.images_per_pass
    return batch_size(loop.dataloader)


def batch_size(loader: Any) -> int:
    """Images that a data loader gives at a time."""
    return int(getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size or 1)


def _largest_size(runner: Runner, model: nn.Module, images: int) -> tuple[tuple[int, int], str]:
    """(H, W), padding included, and how it is known."""
    try:
        sizes = image_sizes(runner.cfg)
        return (sizes.batch if images > 1 else sizes.train), 'size by the training pipeline'
    except (ValueError, KeyError, TypeError, IndexError):  # it states none, or is written in a way not known there
        pass
    dataset = runner.train_loop.dataloader.dataset
    shapes = []
    for index in shuffled(len(dataset))[:LOOKS]:
        sample = training_sample(dataset, index)
        shapes.append(tuple(sample['inputs'].shape[-2:]))
    h, w = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    preprocessor = model.data_preprocessor
    divisor = getattr(preprocessor, 'size_divisor', None) or getattr(preprocessor, 'pad_size_divisor', None) or 1
    fixed = getattr(preprocessor, 'size', None) or (0, 0)
    h, w = (max(-(-side // divisor) * divisor, low) for side, low in zip((h, w), fixed, strict=True))
    return (h, w), f'size of the largest of {len(shapes)} samples'


def _densest(dataset: Any, seconds: float) -> tuple[np.ndarray, np.ndarray, str]:
    """Boxes (as fractions) and labels of the picture with the most objects among those that are looked at in time."""
    length = len(dataset)
    order = _large_first(dataset, length)
    end, looked, best, info = time.perf_counter() + seconds, 0, -1, {}
    for index in order:
        if looked and time.perf_counter() > end:
            break
        one = dataset.get_data_info(int(index))
        count = sum(not instance.get('ignore_flag', 0) for instance in one.get('instances') or ())
        looked += 1
        if count > best:
            best, info = count, one
    kept = [instance for instance in info.get('instances') or () if not instance.get('ignore_flag', 0)]
    boxes = np.array([instance['bbox'] for instance in kept], float).reshape(-1, 4)
    w, h = info.get('width'), info.get('height')
    scale = np.array([w, h, w, h], float) if w and h else np.maximum(boxes[:, 2:].max(0, initial=1.0).repeat(2), 1.0)
    labels = np.array([instance.get('bbox_label', 0) for instance in kept], int)
    which = 'all pictures' if looked == length else f'the {looked:,} of {length:,} pictures that were looked at'
    return np.clip(boxes / scale, 0.0, 1.0), labels, f'{len(kept)} objects, the most in one of {which}'


def _large_first(dataset: Any, length: int) -> np.ndarray:
    """Indices of the data set, those with the most bytes of annotation first where it tells."""
    ends = getattr(dataset, 'data_address', None)
    if ends is None or len(ends) != length:
        return np.array(shuffled(length), int)
    ends = np.asarray(ends, np.int64)
    return np.argsort(-np.diff(ends, prepend=0), kind='stable')


# --- made up --------------------------------------------------------------------------------------


def made_up_batch(model: nn.Module, case: WorstCase) -> dict[str, list]:
    """Noise with the objects or labels of `case`, as the data loader gives it."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(0, 256, (3, *case.size), generator=generator, dtype=torch.uint8)
              for _ in range(case.images)]
    sample = _labels if is_segmenter(model) else _objects
    return dict(inputs=inputs, data_samples=[sample(case) for _ in range(case.images)])


def _metainfo(size: tuple[int, int]) -> dict[str, Any]:
    return dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0),
                img_path='made up', img_id=0)


def _labels(case: WorstCase) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    rows, columns = (torch.arange(side) // TILE for side in case.size)
    labels: Tensor = (rows[:, None] * 7 + columns[None]) % case.classes  # (H, W)
    return SegDataSample(gt_sem_seg=PixelData(data=labels[None].long()), metainfo=_metainfo(case.size))


def _objects(case: WorstCase) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    from backbones.data.box_masks import BoxMasks

    h, w = case.size
    boxes = torch.as_tensor(case.boxes * [w, h, w, h], dtype=torch.float32)  # (objects, 4)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + SMALLEST)
    over = (boxes[:, 2:] - torch.tensor([w, h])).clamp(min=0)
    boxes -= over.repeat(1, 2)  # moved inside
    windows = []
    for x0, y0, x1, y1 in boxes.int().tolist():
        windows.append((x0, y0, np.ones((max(y1 - y0, 1), max(x1 - x0, 1)), np.uint8)))
    labels = torch.as_tensor(case.labels, dtype=torch.long)
    masks = BoxMasks.from_windows(windows, h, w)
    none = BoxMasks.from_windows([], h, w)
    nothing = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=labels[:0], masks=none)
    found = InstanceData(bboxes=HorizontalBoxes(boxes), labels=labels, masks=masks)
    return DetDataSample(gt_instances=found, ignored_instances=nothing, metainfo=_metainfo(case.size))
