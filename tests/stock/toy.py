"""Toy detectors made of the model fragments of configs/, and generated images with objects to train them on."""

from __future__ import annotations

import numpy as np
import torch
from conftest import ROOT
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData

WIDTH, CLASSES = 8, 3
NARROW = dict(out_channels=WIDTH, feat_channels=WIDTH, conv_out_channels=WIDTH, fc_out_channels=16, num_classes=CLASSES)


def toy_fragment(name: str) -> ConfigDict:
    """The model of configs/_base_/models/NAME.py with narrow heads, three classes and few proposals."""
    return shrink(Config.fromfile(ROOT / 'configs' / '_base_' / 'models' / f'{name}.py').model)


def shrink(model: ConfigDict) -> ConfigDict:
    """Make a detector narrow, in place."""
    _narrow(model)
    model.data_preprocessor.pad_size_divisor = 32
    model.train_cfg.rpn_proposal.update(nms_pre=64, max_per_img=32)
    model.test_cfg.rpn.update(nms_pre=64, max_per_img=32)
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    for rcnn in model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]:
        if 'num' in rcnn.sampler:
            rcnn.sampler.num = 24
    return model


def _narrow(node: ConfigDict | list) -> None:
    for key, value in list(node.items()) if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list)):
            _narrow(value)
        elif key in NARROW:
            node[key] = NARROW[key]
        elif key == 'in_channels' and value == 256:
            node[key] = WIDTH


def batch(seed: int, size: tuple[int, int] = (64, 64), images: int = 2, objects: int = 3) -> dict:
    """Images of noise with filled rectangles; boxes, classes and masks of the rectangles."""
    random = np.random.default_rng(seed)
    inputs, samples = [], []
    for _ in range(images):
        image = random.integers(0, 60, (3, *size), dtype=np.uint8)
        boxes, masks, labels = [], [], random.integers(0, CLASSES, objects)
        for label in labels:
            width, height = random.integers(size[1] // 5, size[1] // 2), random.integers(size[0] // 5, size[0] // 2)
            x, y = random.integers(0, size[1] - width), random.integers(0, size[0] - height)
            image[label, y : y + height, x : x + width] = 220
            mask = np.zeros(size, np.uint8)
            mask[y : y + height, x : x + width] = 1
            masks.append(mask)
            boxes.append([x, y, x + width, y + height])
        truth = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.from_numpy(labels),
            masks=BitmapMasks(masks, *size))
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
        inputs.append(torch.from_numpy(image))
        samples.append(DetDataSample(gt_instances=truth, metainfo=meta))
    return dict(inputs=inputs, data_samples=samples)
