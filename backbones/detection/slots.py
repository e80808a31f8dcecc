"""RoIs of a batch as one list of slots, what their heads lose on them, and the targets of masks.

Shapes: N images, S slots of an image, n slots of all images, m those among which the positives are, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair

from .box_losses import box_head_losses, check_class_loss, check_coder
from .matching import Drawn


class Slots(NamedTuple):
    """The RoIs that go through a head."""

    rois: Tensor  # (n, 5) image, x1, y1, x2, y2; zeros where empty
    truth: Tensor  # (n, 4) box of the object
    objects: Tensor  # (n,) its number in the image
    labels: Tensor  # (n,)
    positive: Tensor  # (n,) bool
    valid: Tensor  # (n,) bool
    is_truth: Tensor  # (n,) bool
    among: Tensor  # (m,) slots among which all positives are
    counts: list[int]  # slots of each image

    def images(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split values (n, ...) by image."""
        return values.split(self.counts)


def fixed_slots(wish: bool | None, head: nn.Module, device: torch.device) -> bool:
    """Whether empty slots go through a head like the others, so that its shapes do not depend on the data.

    They do on a GPU, where asking for their number makes the host wait. On a CPU nobody waits, and they would only cost
    time. Batch norms that are training must not see them; in torch these wait anyway, once per layer (SyncBatchNorm).
    """
    if wish is not None:
        return wish
    norms = any(isinstance(module, _BatchNorm) and module.training for module in head.modules())
    return device.type != 'cpu' and not norms


def slots_of(drawn: Drawn, fixed: bool) -> Slots:
    """Line up what was drawn, all slots or (not `fixed`) those that are not empty."""
    images, number = drawn.valid.shape
    device = drawn.valid.device
    image = torch.arange(images, device=device)[:, None].expand(-1, number)
    rois = torch.cat([image[..., None].to(drawn.boxes), drawn.boxes], dim=2)  # (N, S, 5)
    parts = [part.flatten(0, 1) for part in (
        rois, drawn.truth, drawn.objects, drawn.labels, drawn.positive, drawn.valid, drawn.is_truth)]
    if fixed:
        first = torch.arange(min(drawn.reach, number), device=device)
        among = (image[:, :1] * number + first).flatten()
        return Slots(*parts, among=among, counts=[number] * images)
    kept = parts[5].nonzero()[:, 0]
    parts = [part[kept] for part in parts]
    return Slots(*parts, among=parts[4].nonzero()[:, 0], counts=drawn.valid.sum(dim=1).tolist())


def check_box_head(head: BBoxHead, place: str) -> None:
    """Refuse box heads whose losses `box_head_losses` does not know.

    Raises:
        ValueError: coder, classification loss, or a missing branch.
    """
    if not (head.with_cls and head.with_reg) or type(head).loss is not BBoxHead.loss or (
            type(head)._get_targets_single is not BBoxHead._get_targets_single):
        raise ValueError(
            f'{place} is a {type(head).__name__}, whose losses are its own or lack a branch; use one of the ConvFC '
            "heads of mmdet, or mmdet's RoI head")
    check_coder(head.bbox_coder, place)
    check_class_loss(head.loss_cls, False, place)


def check_mask_head(head: FCNMaskHead, place: str) -> None:
    """Refuse mask heads whose loss `mask_head_loss` does not know.

    Raises:
        ValueError: the head computes its own loss, or its loss is no binary cross-entropy.
    """
    own = not isinstance(head, FCNMaskHead) or type(head).loss_and_target is not FCNMaskHead.loss_and_target
    loss = getattr(head, 'loss_mask', None)
    if own or type(loss) is not CrossEntropyLoss or not loss.use_mask or loss.class_weight is not None:
        raise ValueError(
            f'{place} is a {type(head).__name__} with {type(loss).__name__}, whose loss this RoI head does not '
            "compute; use FCNMaskHead and CrossEntropyLoss with use_mask=True and no class_weight, or mmdet's RoI "
            'head')


def box_losses_of(head: BBoxHead, scores: Tensor, deltas: Tensor, slots: Slots, cfg: ConfigDict) -> dict[str, Tensor]:
    """Losses and accuracy of a box head from its scores (n, C + 1) and deltas (n, 4 or 4 C)."""
    return box_head_losses(
        head, scores, deltas, slots.rois[:, 1:], slots.truth, slots.labels, slots.valid, slots.among, cfg.pos_weight)


def mask_head_loss(head: FCNMaskHead, predicted: Tensor, slots: Slots, truth: InstanceList, cfg: Any) -> Tensor:
    """Loss (1,) of masks (m, C, h, w) predicted for `slots.among`: the mean over the pixels of all positives."""
    positive = slots.positive[slots.among]
    target = mask_targets(slots, [one.masks for one in truth], cfg).to(predicted.device, non_blocking=True)
    labels = slots.labels[slots.among].clamp(max=predicted.shape[1] - 1)
    if head.class_agnostic:
        labels = torch.zeros_like(labels)
    own = predicted[torch.arange(len(predicted), device=predicted.device), labels].float()  # (m, h, w)
    own = own.masked_fill(~positive[:, None, None], 0)
    each = binary_cross_entropy_with_logits(own, target, reduction='none').mean(dim=(1, 2))
    return head.loss_mask.loss_weight * (each * positive).sum(dim=0, keepdim=True) / positive.sum().clamp(min=1)


def mask_targets(slots: Slots, masks: Sequence[Any], cfg: Any) -> Tensor:
    """Targets (m, h, w) for `slots.among`, on the host; zeros where there is no positive.

    Here the host waits, once per call: the masks are its own.

    Args:
        slots: boxes and objects.
        masks: of each image, with mmdet's `crop_and_resize`.
        cfg: `mask_size`, and `soft_mask_target` for targets between 0 and 1.
    """
    height, width = _pair(cfg.mask_size)
    rows = torch.cat([slots.rois, slots.objects[:, None], slots.positive[:, None]], dim=1)[slots.among]  # (m, 7)
    rows = rows.cpu().numpy()
    targets = np.zeros((len(rows), height, width), np.float32)
    for image, own in enumerate(masks):
        chosen = np.flatnonzero((rows[:, 0] == image) & (rows[:, 6] > 0))
        if not len(chosen):
            continue
        boxes = rows[chosen, 1:5]
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, own.width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, own.height)
        cropped = own.crop_and_resize(
            boxes, (height, width), inds=rows[chosen, 5].astype(np.int64), device='cpu',
            binarize=not cfg.get('soft_mask_target', False))
        targets[chosen] = cropped.to_ndarray()
    return torch.from_numpy(targets)
