"""A config is fitted to a machine without a GPU, or refused where that would change the numbers."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT

from backbones.config import fit_to_machine, load_config

SEGMENTER = ROOT / 'configs/small/upernet_vit_demo.py'


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


def test_mixed_precision_is_refused_with_the_option_that_helps() -> None:
    cfg = load_config(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py')
    with pytest.raises(ValueError, match='train with --precision bf16 or --precision fp32'):
        fit_to_machine(cfg)


def test_testing_a_mixed_precision_config_needs_no_gpu() -> None:
    cfg = load_config(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py')
    fit_to_machine(cfg, training=False)
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'


def test_a_config_without_environment_settings_is_fitted_too() -> None:
    cfg = load_config(SEGMENTER)
    cfg.pop('env_cfg')
    fit_to_machine(cfg)
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_other_launchers_than_torchrun_need_gpus(launcher: str) -> None:
    cfg = load_config(SEGMENTER)
    cfg.launcher = launcher
    with pytest.raises(ValueError, match=f'--launcher {launcher} needs GPUs'):
        fit_to_machine(cfg)
