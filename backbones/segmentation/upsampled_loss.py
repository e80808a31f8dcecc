"""Cross entropy of bilinearly upsampled class scores, without the upsampled scores.

A segmenter's scores have a stride of 4, its labels have none. Upsampled scores, their softmax and the gradients of both
are (N, classes, H, W) in fp32 each: 314 MB for two images of 512 x 512 and 150 classes, four times over, and a quarter
of the time of a training step of UperNet on a CPU. Here a few rows at a time are upsampled, scored and, in training,
differentiated while they lie in the cache; what is kept is the gradient of the scores at their own size.

Shapes: N images, C classes, h w rows and columns of the scores, H W of the labels, R rows at a time.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

VALUES = {'cpu': 1 << 20, 'cuda': 1 << 26}  # scores at a time: 4 MB stay in the cache, 256 MB keep a GPU busy


class PixelLoss(NamedTuple):
    """What a batch of label maps says about scores.

    Attributes:
        total: sum of the cross entropies of all pixels with a label.
        correct: number of pixels whose highest score is that of their label.
        counted: number of pixels with a label.
    """

    total: Tensor
    correct: Tensor
    counted: Tensor


def upsampled_cross_entropy(scores: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> PixelLoss:
    """Cross entropy of F.interpolate(scores, labels' size, mode='bilinear'), summed; equal to it within rounding.

    Args:
        scores: (N, C, h, w), fp32.
        labels: (N, H, W), int64: 0 to C - 1, or `ignore_index`.
        ignore_index: label that counts for nothing.
        align_corners: F.interpolate's.
    """
    return PixelLoss(*_UpsampledCrossEntropy.apply(scores, labels, ignore_index, align_corners))


class _UpsampledCrossEntropy(torch.autograd.Function):
    """The loss; its gradient is made in the forward pass, while the rows are there."""

    @staticmethod
    def forward(ctx, scores: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> tuple[Tensor, ...]:
        wanted = ctx.needs_input_grad[0]
        columns = _Columns(scores.shape[3], labels.shape[2], align_corners)
        maps = scores.detach().permute(0, 2, 3, 1).contiguous()  # (N, h, w, C)
        gradient = torch.zeros_like(maps) if wanted else None
        total, correct = scores.new_zeros(()), torch.zeros((), dtype=torch.long, device=scores.device)
        step = max(1, VALUES.get(scores.device.type, VALUES['cuda']) // (labels.shape[2] * scores.shape[1]))
        for n in range(len(maps)):
            for start in range(0, labels.shape[1], step):
                rows = _Rows(maps.shape[1], labels.shape[1], start, min(start + step, labels.shape[1]), align_corners,
                             scores.device)
                chunk = columns.upsample(rows.upsample(maps[n]))  # (R, W, C)
                found, right, change = _score(chunk, labels[n, rows.slice], ignore_index, wanted)
                total += found
                correct += right
                if wanted:
                    rows.add_back(gradient[n], columns.add_up(change))  # (R, w, C)
        if wanted:
            ctx.save_for_backward(gradient)
        counted = (labels != ignore_index).sum()
        ctx.mark_non_differentiable(correct, counted)
        return total, correct, counted

    @staticmethod
    def backward(ctx, of_total: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * of_total).permute(0, 3, 1, 2), None, None, None


def _score(chunk: Tensor, labels: Tensor, ignore_index: int, wanted: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sum of losses, number of right pixels and, if `wanted`, gradient, of scores (R, W, C) against labels (R, W)."""
    there = labels != ignore_index
    places = torch.where(there, labels, 0).unsqueeze(-1)  # (R, W, 1)
    highest, which = chunk.max(-1, keepdim=True)  # (R, W, 1)
    right = ((which.squeeze(-1) == labels) & there).sum()
    wrong_by = highest - chunk.gather(-1, places)  # (R, W, 1)
    change = chunk.sub_(highest).exp_()  # (R, W, C); one exponential serves the loss and its gradient
    summed = change.sum(-1, keepdim=True)
    total = ((wrong_by + summed.log()).squeeze(-1) * there).sum()
    if not wanted:
        return total, right, None
    change.div_(summed)
    change.scatter_add_(-1, places, change.new_full((1, 1, 1), -1.0).expand(places.shape))
    return total, right, change.mul_(there.unsqueeze(-1))


class _Columns:
    """The horizontal half of the upsampling, by PyTorch's kernels: rows are images of one row for them."""

    def __init__(self, small: int, large: int, align_corners: bool) -> None:
        self._small, self._large, self._align = small, large, align_corners

    def upsample(self, rows: Tensor) -> Tensor:
        """(R, w, C) to (R, W, C)."""
        images = rows.transpose(1, 2).unsqueeze(2)  # (R, C, 1, w), in memory channels_last
        large = F.interpolate(images, (1, self._large), mode='bilinear', align_corners=self._align)
        return large.squeeze(2).transpose(1, 2)

    def add_up(self, change: Tensor) -> Tensor:
        """Gradient (R, W, C) to that of the small rows, (R, w, C)."""
        images = change.transpose(1, 2).unsqueeze(2)
        small = torch.ops.aten.upsample_bilinear2d_backward(
            images, [1, self._large], [images.shape[0], images.shape[1], 1, self._small], self._align, None, None)
        return small.squeeze(2).transpose(1, 2)


class _Rows:
    """Some rows of the upsampled map: between which two rows of the small one each lies, and how far."""

    def __init__(self, small: int, large: int, start: int, end: int, align_corners: bool, device: torch.device) -> None:
        self.slice = slice(start, end)
        upper, lower, part = (values[self.slice] for values in _between(small, large, align_corners, device))
        self._upper, self._lower, self._part = upper, lower, part.view(-1, 1, 1)

    def upsample(self, image: Tensor) -> Tensor:
        """(h, w, C) to (R, w, C)."""
        return torch.lerp(image[self._upper], image[self._lower], self._part)

    def add_back(self, image: Tensor, change: Tensor) -> None:
        """Add the gradient (R, w, C) of the rows to that of the image (h, w, C)."""
        image.index_add_(0, self._upper, change * (1 - self._part))
        image.index_add_(0, self._lower, change * self._part)


@functools.lru_cache(maxsize=64)
def _between(small: int, large: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `large` positions the two of `small` beside it, and its distance from the first.

    As PyTorch's upsample_bilinear2d places them:
    https://github.com/pytorch/pytorch/blob/v2.5.1/aten/src/ATen/native/UpSample.h#L258-L322
    """
    place = torch.arange(large, device=device, dtype=torch.float32)
    if align_corners:
        place = place * ((small - 1) / (large - 1) if large > 1 else 0.0)
    else:
        place = ((place + 0.5) * (small / large) - 0.5).clamp(min=0)
    first = place.long().clamp(max=small - 1)
    return first, (first + 1).clamp(max=small - 1), place - first
