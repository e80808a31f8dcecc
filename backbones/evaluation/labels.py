"""Labels of a segmenter without its scores at the size of the picture: mmseg's labels, in less time and memory.

Shapes: N images, C classes, H W rows and columns.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn

from backbones.missing import toolbox_needed

AT_ONCE = 2**30  # bytes of scores that are made at once
CHANNELS = 32  # a multiple of what CPUs compute in one instruction, so that parts are rounded as the whole is
FEWEST = 4  # channels; fewer go through another kernel, which rounds otherwise


def spare_scores(model: nn.Module) -> bool:
    """Let a segmenter of mmseg predict labels only, in place: no `seg_logits` in its samples, the same `pred_sem_seg`.

    - Scores that have the picture's size already are not resized to it again.
    - Where they would take more than 1 GiB, they are resized a few classes at a time.
    - The best class is found by a running maximum: on a CPU in a third of the time of argmax over planes.
    - Sliding windows are added where they lie, not as padded maps of the whole picture.

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
        return _argmax(scores[0])[None]
    resize = functools.partial(F.interpolate, size=size, mode='bilinear', align_corners=align_corners)
    classes = scores.shape[1]
    if classes * size[0] * size[1] * scores.element_size() <= AT_ONCE:
        return _argmax(resize(scores)[0])[None]
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


def _argmax(scores: Tensor) -> Tensor:
    """Labels (H, W) of scores (C, H, W): argmax, of planes on a CPU by a running maximum."""
    if scores.device.type != 'cpu' or not scores.is_contiguous():
        return scores.argmax(dim=0)
    best = scores[0].clone()
    labels = torch.zeros(best.shape, dtype=torch.int64)
    better = torch.empty(best.shape, dtype=torch.bool)
    for number, plane in enumerate(scores[1:], start=1):
        torch.gt(plane, best, out=better)
        labels.masked_fill_(better, number)
        torch.maximum(best, plane, out=best)
    return scores.argmax(dim=0) if best.isnan().any() else labels


def _slide(model: nn.Module, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
    """Take the place of mmseg's `EncoderDecoder.slide_inference`, same arguments and scores (N, C, H, W)."""
    (row_step, column_step), (rows, columns) = model.test_cfg.stride, model.test_cfg.crop_size
    if row_step > rows or column_step > columns:
        raise ValueError(
            f'model.test_cfg: stride={tuple(model.test_cfg.stride)} is larger than crop_size={(rows, columns)}, so '
            'windows would leave gaps; give a stride of at most the crop')
    number, _, height, width = inputs.shape
    down, across = (max(side - crop + step - 1, 0) // step + 1 for side, crop, step in (
        (height, rows, row_step), (width, columns, column_step)))
    scores = None
    counts = inputs.new_zeros(1, 1, height, width)
    for row in range(down):
        for column in range(across):
            bottom, right = min(row * row_step + rows, height), min(column * column_step + columns, width)
            window = (..., slice(max(bottom - rows, 0), bottom), slice(max(right - columns, 0), right))
            part = inputs[window]
            batch_img_metas[0]['img_shape'] = part.shape[2:]  # what the head resizes to
            found = model.encode_decode(part, batch_img_metas)
            if down * across == 1:
                return found  # nothing to add to, nothing to divide by
            if scores is None:  # in the memory order of what comes
                last = found.is_contiguous(memory_format=torch.channels_last)
                layout = torch.channels_last if last else torch.contiguous_format
                shape = (number, model.out_channels, height, width)
                scores = torch.empty(shape, dtype=inputs.dtype, device=inputs.device, memory_format=layout).zero_()
            scores[window] += found
            counts[window] += 1
    return scores.div_(counts)
