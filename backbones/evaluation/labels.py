"""Labels of a segmenter without its scores at the size of the picture: mmseg's labels, in less time and memory.

Shapes: N images, C classes, H W rows and columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn

from backbones.missing import toolbox_needed
from backbones.segmentation.sliding import Area, Span, argmax_of_planes, check_stride, slide_labels, spans

AT_ONCE = 2**30  # bytes of scores that are made at once
CHANNELS = 32  # a multiple of what CPUs compute in one instruction, so that parts are rounded as the whole is
WINDOWS = 8  # that go through the network together on a GPU
FEWEST = 4  # channels; fewer go through another kernel, which rounds otherwise


def spare_scores(model: nn.Module) -> bool:
    """Let a segmenter of mmseg predict labels only, in place: no `seg_logits` in its samples, the same `pred_sem_seg`.

    - Scores that have the picture's size already are not resized to it again.
    - Where they would take more than 1 GiB, they are resized a few classes at a time.
    - The best class is found by a running maximum: on a CPU in a third of the time of argmax over planes.
    - Sliding windows are added where they lie, not as padded maps of the whole picture; on a GPU several at once go
      through the network. Where their scores would take more than 1 GiB, the labels of a part are made as soon as no
      window adds to it (`backbones.segmentation.sliding`): equal but for resized scores, which round otherwise.

    Args:
        model: not wrapped; a class with its own way of doing this keeps it.

    Returns:
        Whether the model's predictions have labels only.
    """
    with toolbox_needed():
        from mmseg.models.segmentors import EncoderDecoder
    if not isinstance(model, EncoderDecoder) or model.decode_head.out_channels == 1:
        return False
    if type(model).slide_inference is EncoderDecoder.slide_inference:
        model.slide_inference = functools.partial(_slide, model)
    if type(model).postprocess_result is not EncoderDecoder.postprocess_result:
        return False
    model.postprocess_result = functools.partial(_with_labels, model)
    if all(getattr(type(model), name) is getattr(EncoderDecoder, name) for name in (
            'predict', 'inference', 'slide_inference')):
        model.predict = functools.partial(_predict, model)
    return True


def _with_labels(model: nn.Module, seg_logits: Tensor, data_samples: list | None = None) -> list:
    """Take the place of mmseg's `BaseSegmentor.postprocess_result`, same arguments and labels."""
    if data_samples is None:
        return type(model).postprocess_result(model, seg_logits, None)
    height, width = seg_logits.shape[2:]
    for scores, sample in zip(seg_logits.split(1), data_samples, strict=True):  # (1, C, H, W)
        meta = sample.metainfo
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
        scores = scores[:, :, top : height - bottom, left : width - right]
        if meta.get('flip'):
            scores = scores.flip(dims=(3 if meta['flip_direction'] == 'horizontal' else 2,))
        labels = best_class(scores, tuple(meta['ori_shape'][:2]), model.align_corners)
        sample.set_data(dict(pred_sem_seg=PixelData(data=labels)))
    return data_samples


def best_class(scores: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Labels (1, H, W) of scores (1, C, h, w) resized to `size` (H, W): argmax of the resized scores, bit for bit."""
    if tuple(scores.shape[2:]) == size:
        return argmax_of_planes(scores[0])[None]
    resize = functools.partial(F.interpolate, size=size, mode='bilinear', align_corners=align_corners)
    classes = scores.shape[1]
    if classes * size[0] * size[1] * scores.element_size() <= AT_ONCE:
        return argmax_of_planes(resize(scores)[0])[None]
    layout = torch.channels_last if scores.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    starts = [start for start in range(0, classes, CHANNELS) if start == 0 or classes - start >= FEWEST]
    best = labels = None
    for start, end in zip(starts, [*starts[1:], classes], strict=True):
        part = scores[:, start:end].contiguous(memory_format=layout)
        value, label = resize(part)[0].max(dim=0)
        if best is None:
            best, labels = value, label
            continue
        better = (value > best) | (value.isnan() & ~best.isnan())  # as argmax: the first of equals, NaN above all
        labels = torch.where(better, label + start, labels)
        best = torch.where(better, value, best)
    return labels[None]


def _predict(model: nn.Module, inputs: Tensor, data_samples: list | None = None) -> list:
    """Take the place of mmseg's `EncoderDecoder.predict`, same arguments and labels."""
    if data_samples is None or not _is_large(model, inputs) or any(sample.get('flip') for sample in data_samples):
        return type(model).predict(model, inputs, data_samples)
    for image, sample in zip(inputs.split(1), data_samples, strict=True):  # (1, 3, H, W)
        meta = sample.metainfo
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
        height, width = image.shape[2:]
        area = Area((top, height - bottom), (left, width - right), tuple(meta['ori_shape'][:2]), model.align_corners)
        rows, columns = _grid(model, image)
        labels = slide_labels(functools.partial(_row_of_windows, model, image, [dict(meta)]), area, rows, columns)
        sample.set_data(dict(pred_sem_seg=PixelData(data=labels[None])))
    return data_samples


def _is_large(model: nn.Module, inputs: Tensor) -> bool:
    """Whether windows slide, and the scores of a batch would take more than `AT_ONCE`."""
    number, _, height, width = inputs.shape
    needed = number * model.out_channels * height * width * inputs.element_size()
    return model.test_cfg.mode == 'slide' and needed > AT_ONCE


def _grid(model: nn.Module, inputs: Tensor) -> tuple[list[Span], list[Span]]:
    """Rows and columns of the windows."""
    stride, crop = model.test_cfg.stride, model.test_cfg.crop_size
    check_stride(stride, crop)
    rows, columns = (spans(*one) for one in zip(inputs.shape[2:], crop, stride, strict=True))
    return rows, columns


def _row_of_windows(
    model: nn.Module, inputs: Tensor, metas: list[dict], rows: Span, columns: list[Span]
) -> Iterator[Tensor]:
    """Scores (C, h, w) of the windows of one picture that have the same rows."""
    for found in _windows(model, inputs, metas, rows, columns):
        yield found[0]


def _windows(
    model: nn.Module, inputs: Tensor, metas: list[dict], rows: Span, columns: list[Span]
) -> Iterator[Tensor]:
    """Scores (N, C, h, w) of the windows that have the same rows."""
    number = len(inputs)
    together = max(1, WINDOWS // number) if inputs.device.type == 'cuda' else 1  # a CPU gains nothing
    for start in range(0, len(columns), together):
        group = columns[start:start + together]
        parts = torch.cat([inputs[..., slice(*rows), slice(*span)] for span in group]) if len(group) > 1 else (
            inputs[..., slice(*rows), slice(*group[0])])
        metas[0]['img_shape'] = parts.shape[2:]  # what the head resizes to
        yield from model.encode_decode(parts, metas).split(number)


def _slide(model: nn.Module, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
    """Take the place of mmseg's `EncoderDecoder.slide_inference`, same arguments and scores (N, C, H, W)."""
    rows, columns = _grid(model, inputs)
    number, _, height, width = inputs.shape
    scores = None
    counts = inputs.new_zeros(1, 1, height, width)
    for row in rows:
        for column, found in zip(columns, _windows(model, inputs, batch_img_metas, row, columns), strict=True):
            if len(rows) * len(columns) == 1:
                return found  # nothing to add to, nothing to divide by
            if scores is None:  # in the memory order of what comes
                last = found.is_contiguous(memory_format=torch.channels_last)
                layout = torch.channels_last if last else torch.contiguous_format
                shape = (number, model.out_channels, height, width)
                scores = torch.empty(shape, dtype=inputs.dtype, device=inputs.device, memory_format=layout).zero_()
            window = (..., slice(*row), slice(*column))
            scores[window] += found
            counts[window] += 1
    return scores.div_(counts)
