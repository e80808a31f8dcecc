"""Real training steps on made-up images: their peak memory and their time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from backbones.memory import PRECISIONS, LiveBytes


def synthetic_batch(model: nn.Module, size: tuple[int, int], batch: int, objects: int = 150) -> dict[str, list]:
    """Noise with boxes and masks, or with labels, as the data loader of a detector or a segmenter gives it.

    Args:
        model: decides which.
        size: (H, W) of the images in pixels.
        batch: N.
        objects: of an image; many, so that the sampler finds all the positives it may take.
    """
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(batch)]
    sample = _segmentation_sample if hasattr(model, 'decode_head') else _detection_sample
    return dict(inputs=images, data_samples=[sample(size, objects, generator) for _ in range(batch)])


def _segmentation_sample(size: tuple[int, int], objects: int, generator: torch.Generator) -> object:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, 2, (1, *size), generator=generator)
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=_metainfo(size))


def _detection_sample(size: tuple[int, int], objects: int, generator: torch.Generator) -> object:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    h, w = size
    scale = torch.tensor([w, h, w, h])
    corner = torch.rand(objects, 2, generator=generator) * 0.6
    extent = 0.1 + torch.rand(objects, 2, generator=generator) * 0.3
    boxes = torch.cat([corner, corner + extent], dim=1) * scale  # (objects, 4)
    masks = np.zeros((objects, h, w), dtype=np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    found = InstanceData(
        bboxes=HorizontalBoxes(boxes), labels=torch.zeros(objects, dtype=torch.long),
        masks=BitmapMasks(masks, h, w))
    return DetDataSample(gt_instances=found, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
                         metainfo=dict(_metainfo(size), scale_factor=(1.0, 1.0), batch_input_shape=size))


def _metainfo(size: tuple[int, int]) -> dict:
    return dict(img_shape=size, ori_shape=size, pad_shape=size, img_path='made up')


def training_step(model: nn.Module, optimiser: torch.optim.Optimizer, data: dict, precision: str = 'fp32') -> None:
    """One step as MMEngine's loop does it: forward under autocast, backward, update."""
    dtype = PRECISIONS[precision]
    device = next(model.parameters()).device.type
    context = torch.autocast(device, dtype=dtype) if dtype is not None else contextlib.nullcontext()
    with context:
        prepared = model.data_preprocessor(dict(data), True)
        losses = model(**prepared, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def measured_peak(model: nn.Module, size: tuple[int, int], batch: int, *, precision: str = 'fp32', objects: int = 150
                  ) -> int:
    """Bytes that a training step holds at most, weights and optimiser states (AdamW) included.

    On a GPU it is the allocator's own number; on a CPU every storage that PyTorch makes is followed.
    """
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    data = synthetic_batch(model, size, batch, objects)
    model.train()
    training_step(model, optimiser, data, precision)  # makes the optimiser's states
    if next(model.parameters()).is_cuda:
        torch.cuda.reset_peak_memory_stats()
        training_step(model, optimiser, data, precision)
        return torch.cuda.max_memory_allocated()
    there = [*model.parameters(), *model.buffers(), *_states(optimiser)]
    with LiveBytes([*there, *data['inputs']]) as live:
        training_step(model, optimiser, data, precision)
    return live.peak + sum(tensor.numel() * tensor.element_size() for tensor in there)


def _states(optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimiser.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def seconds_per_step(model: nn.Module, size: tuple[int, int], batch: int, steps: int, *, precision: str = 'fp32'
                     ) -> float:
    """Median time of a training step over `steps` of them, after one that does not count."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    data, cuda = synthetic_batch(model, size, batch), next(model.parameters()).is_cuda
    model.train()
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        training_step(model, optimiser, data, precision)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[steps // 2]
