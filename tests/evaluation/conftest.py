"""A few generated pictures, and models with fixed weights, as files."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.registry import MODELS, init_default_scope

from backbones.config import load_config
from backbones.data.demo import generate_demo


@pytest.fixture(scope='session')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo data: two training and three validation pictures of 64 x 96 pixels."""
    root = tmp_path_factory.mktemp('pictures') / 'demo'
    return generate_demo(root, num_train=2, num_val=3, size=(64, 96), progress=False)


def checkpoint_of(config: str, folder: Path, classes: tuple[str, ...]) -> Path:
    """Weights drawn from seed 0 for a config below configs/."""
    cfg = load_config(ROOT / 'configs' / config)
    importlib.import_module(f'{cfg.default_scope}.models')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith(('fc_cls.weight', 'fc_reg.weight', 'conv_seg.weight')):
            parameter.data *= 30  # certain of something, as a trained model is
    path = folder / f'{Path(config).stem}.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), path)
    return path


@pytest.fixture(scope='session')
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and checkpoint of the small Mask R-CNN."""
    config = 'small/mask-rcnn_convnext_demo.py'
    classes = ('disc', 'ring', 'box', 'triangle', 'star', 'cross')
    return ROOT / 'configs' / config, checkpoint_of(config, tmp_path_factory.mktemp('detector'), classes)


@pytest.fixture(scope='session')
def segmenter(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Path, Path]:
    """Config and checkpoint of the small UperNet."""
    config = 'small/upernet_vit_demo.py'
    classes = tuple((pictures / 'classes.txt').read_text().split())
    return ROOT / 'configs' / config, checkpoint_of(config, tmp_path_factory.mktemp('segmenter'), classes)
