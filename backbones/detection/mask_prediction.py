"""The class behind `backbones.FCNMaskHead`, whose builder in mask_head.py states what it does."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead as MMDetFCNMaskHead
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor

from .mask_paste import RLE, encode_masks, paste_masks

FORMATS = ('bitmap', 'rle')
MASK_MEMORY = 3 * 2**30  # bytes


class FCNMaskHead(MMDetFCNMaskHead):
    """Masks pasted inside their boxes; see `backbones.detection.mask_head`. Arguments are mmdet's."""

    def predict_by_feat(
        self,
        mask_preds: tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> InstanceList:
        """Add masks to the boxes of each image, which are brought to the original size in place where `rescale`.

        Raises:
            ValueError: `mask_format` is unknown or does not fit, or the bitmaps would exceed `mask_memory`.
        """
        form = rcnn_test_cfg.get('mask_format', 'bitmap')
        if form not in FORMATS:
            raise ValueError(f'test_cfg.rcnn.mask_format={form!r} is unknown; choose one of {list(FORMATS)}')
        if form == 'rle' and rcnn_test_cfg.mask_thr_binary < 0:
            raise ValueError(
                f"mask_thr_binary={rcnn_test_cfg.mask_thr_binary} asks for grey masks, which have no run lengths; set "
                "test_cfg.rcnn.mask_format='bitmap'")
        super().predict_by_feat(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale, activate_map)
        for results in results_list:
            if form == 'rle' and not len(results.bboxes):
                results.masks = []  # mmdet gives a tensor (0, H, W)
        return results_list

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor | list[RLE]:
        """Make the masks of one image from predictions (n, classes, M, M) and boxes (n, 4)."""
        size = _image_size(img_meta, rescale)
        form, threshold = rcnn_test_cfg.get('mask_format', 'bitmap'), rcnn_test_cfg.mask_thr_binary
        if form == 'bitmap':
            _check_memory(len(bboxes), size, rcnn_test_cfg.get('mask_memory', MASK_MEMORY))
            if threshold < 0 or bboxes.device.type != 'cpu':
                return super()._predict_by_feat_single(
                    mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map)
        if rescale:
            bboxes /= bboxes.new_tensor(img_meta['scale_factor']).repeat(1, 2)  # in place: these are the results' boxes
        number = torch.arange(len(bboxes), device=mask_preds.device)
        masks = mask_preds[:, 0] if self.class_agnostic else mask_preds[number, labels]  # (n, M, M)
        masks = masks.to(bboxes) if activate_map else masks.sigmoid()
        make = encode_masks if form == 'rle' else paste_masks
        return make(masks, bboxes, size, threshold)


def _image_size(img_meta: dict, rescale: bool) -> tuple[int, int]:
    """(H, W) of the masks: of the original image, or of the one that the network saw."""
    height, width = img_meta['ori_shape'][:2]
    if rescale:
        return int(height), int(width)
    width_scale, height_scale = np.float32(img_meta['scale_factor'])
    return int(np.round(height * height_scale.item())), int(np.round(width * width_scale.item()))


def _check_memory(number: int, size: tuple[int, int], limit: int) -> None:
    """Refuse bitmaps that would not fit, with the remedy."""
    needed = number * size[0] * size[1]
    if needed > limit:
        raise ValueError(
            f'{number} masks of {size[1]} x {size[0]} pixels are {needed / 1e9:.1f} GB of bitmaps, more than '
            f"test_cfg.rcnn.mask_memory={limit} bytes: set test_cfg.rcnn.mask_format='rle', which needs none, or raise "
            'mask_memory')
