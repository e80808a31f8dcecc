"""The classes behind `backbones.UPerHead` and `backbones.FCNHead`; heads.py states what they do."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.decode_heads import FCNHead as MMSegFCNHead
from mmseg.models.decode_heads import UPerHead as MMSegUPerHead
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor

from .upsampled_loss import upsampled_cross_entropy

EPS = torch.finfo(torch.float32).eps  # mmseg adds it to what it divides by


class UpsampledLoss:
    """mmseg's loss and accuracy of upsampled scores by `upsampled_cross_entropy`; stands before a BaseDecodeHead.

    Everything but plain cross entropy (class weights, several losses, samplers, sigmoid) goes mmseg's way.
    """

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Loss and accuracy of scores (N, classes, h, w) against the samples' label maps (N, 1, H, W)."""
        if not self._is_plain(seg_logits):
            return super().loss_by_feat(seg_logits, batch_data_samples)
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)  # (N, H, W)
        found = upsampled_cross_entropy(seg_logits, labels, self.ignore_index, self.align_corners)
        averaged = found.counted if self.loss_decode.avg_non_ignore else labels.numel()
        return {
            self.loss_decode.loss_name: self.loss_decode.loss_weight * (found.total / (averaged + EPS)),
            'acc_seg': ((found.correct + EPS) * (100.0 / (found.counted + EPS))).float().view(1),
        }

    def _is_plain(self, scores: Tensor) -> bool:
        loss: Any = self.loss_decode
        return (
            type(loss) is CrossEntropyLoss and not (loss.use_sigmoid or loss.use_mask) and loss.class_weight is None
            and loss.reduction == 'mean' and self.sampler is None and self.ignore_index is not None
            and scores.shape[1] > 1 and scores.dtype == torch.float32
        )


class UPerHead(UpsampledLoss, MMSegUPerHead):
    """mmseg's `UPerHead`."""


class FCNHead(UpsampledLoss, MMSegFCNHead):
    """mmseg's `FCNHead`."""
