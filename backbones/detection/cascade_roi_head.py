"""Cascade R-CNN's heads as detectron2 and ViTDet train them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from backbones.missing import toolbox_needed
from backbones.registry import MODELS

if TYPE_CHECKING:
    from mmengine.config import ConfigDict


# A function, because a class that inherits from mmdet's cannot be stated without importing mmdet.
@MODELS.register_module(name='CascadeRoIHead')
def cascade_roi_head(
    *,
    bbox_roi_extractor: dict,
    bbox_head: Sequence[dict],
    mask_roi_extractor: dict | None = None,
    mask_head: dict | None = None,
    train_cfg: Sequence[ConfigDict] | None = None,
    test_cfg: ConfigDict | None = None,
    init_cfg: dict | None = None,
) -> nn.Module:
    """Build a `CascadeRoIHead` that does what detectron2's `CascadeROIHeads` does.

    Against mmdet's class of the same name:

    - one mask head, trained on the positives that the first stage drew, and applied to the final boxes at test;
    - every stage's losses count fully, and the gradient that its box head sends into the RoI features is divided by
      the number of stages;
    - what the first stage drew goes through all stages, ground-truth boxes included; only empty boxes are dropped;
    - the stages' probabilities are averaged at test, not their logits.

    A training step makes the host wait for the device once, for the targets of the masks; what else
    `backbones.StandardRoIHead` states of its slots holds here.

    What still differs from detectron2: FCNMaskHead draws its last layer as the others, not with a deviation of 0.001;
    box and mask losses carry mmdet's names (`s0.loss_cls` ..., `loss_mask`).
    https://github.com/facebookresearch/detectron2/blob/02b5c4e/detectron2/modeling/roi_heads/cascade_rcnn.py

    Args:
        bbox_roi_extractor: pools the RoIs of every stage.
        bbox_head: one box head per stage, each with `reg_class_agnostic=True`; three in the paper.
        mask_roi_extractor: pools the RoIs of the mask head; None: `bbox_roi_extractor`.
        mask_head: the mask head of all stages; None: boxes only.
        train_cfg: assigner and sampler per stage; a `PseudoSampler` in all but the first.
        test_cfg: score threshold, NMS, number of boxes, mask threshold.
        init_cfg: MMEngine's.

    Raises:
        ValueError: if heads, stages and samplers do not fit each other.
    """
    _check_box_heads(bbox_head)
    _check_stages(train_cfg, len(bbox_head))
    for name, cfg in (('mask_head', mask_head), ('mask_roi_extractor', mask_roi_extractor)):
        if cfg is not None and not isinstance(cfg, dict):
            raise ValueError(
                f'{name} is a {type(cfg).__name__} of {len(cfg)}, but all stages share one; give one dict, or use '
                "mmdet's CascadeRoIHead, which has one per stage")
    with toolbox_needed():
        from backbones.detection.cascade_stages import CascadeRoIHead
    head = CascadeRoIHead(
        num_stages=len(bbox_head), stage_loss_weights=[1.0] * len(bbox_head), bbox_roi_extractor=bbox_roi_extractor,
        bbox_head=list(bbox_head), mask_roi_extractor=mask_roi_extractor, mask_head=mask_head, train_cfg=train_cfg,
        test_cfg=test_cfg, init_cfg=init_cfg)
    for stage, box_head in enumerate(head.bbox_head):
        if box_head.custom_activation or box_head.loss_cls.use_sigmoid:
            raise ValueError(
                f'bbox_head[{stage}].loss_cls is a {type(box_head.loss_cls).__name__} whose scores are no softmax, but '
                "the stages' probabilities are averaged; use CrossEntropyLoss with use_sigmoid=False")
    return head


def _check_box_heads(heads: Sequence[dict]) -> None:
    """Refuse box heads that are not one class-agnostic head per stage."""
    if not isinstance(heads, (list, tuple)) or not heads or not all(isinstance(head, dict) for head in heads):
        raise ValueError(f'bbox_head={heads!r} is not possible; give a list with one box head per stage')
    for stage, head in enumerate(heads):
        if not head.get('reg_class_agnostic', False):
            raise ValueError(
                f"bbox_head[{stage}] regresses boxes per class, but a stage refines each box once; set "
                "reg_class_agnostic=True, or use mmdet's CascadeRoIHead")


def _check_stages(train_cfg: Sequence[dict] | None, stages: int) -> None:
    """Refuse training settings that are not one per stage, or draw proposals more than once."""
    if train_cfg is None:
        return
    if not isinstance(train_cfg, (list, tuple)) or len(train_cfg) != stages:
        number = len(train_cfg) if isinstance(train_cfg, (list, tuple)) else 1
        raise ValueError(f'train_cfg.rcnn has {number} entries for {stages} box heads; give a list with one per stage')
    for stage, cfg in enumerate(train_cfg[1:], start=1):
        sampler = cfg['sampler']['type']
        if sampler.rpartition('.')[2] != 'PseudoSampler':
            raise ValueError(
                f'train_cfg.rcnn[{stage}].sampler is {sampler!r}, but proposals are drawn in the first stage only; '
                "set sampler=dict(type='PseudoSampler') there, or use mmdet's CascadeRoIHead")
