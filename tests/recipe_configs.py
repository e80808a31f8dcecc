"""Shipped configs, and changed copies of them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

from conftest import ROOT
from mmengine.config import Config

DETECTOR = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
CASCADE = ROOT / 'configs/convnext/cascade-mask-rcnn_convnext-b-in22k_3x_coco.py'
COCO = ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py'
SEGMENTER = ROOT / 'configs/small/upernet_vit_demo.py'
ADE20K = ROOT / 'configs/convnext/upernet_convnext-b-in22k_160k_ade20k-640.py'


@functools.cache
def _composed(path: Path) -> Config:
    return Config.fromfile(path)


def compose(path: Path) -> Config:
    """Compose a config; reading it takes most of the time and is done once."""
    return copy.deepcopy(_composed(path))


def changed(path: Path, changes: dict) -> Config:
    """Compose a config, then change it by dotted keys."""
    cfg = compose(path)
    cfg.merge_from_dict(changes)
    return cfg
