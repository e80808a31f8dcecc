"""What `init_cfg` loaded stays loaded, whatever initialises the model afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn
from weights.toy_files import CONVNEXT, same

from backbones.convnext import ConvNeXt
from backbones.weights import load
from backbones.weights.load import initialise_from_checkpoint, load_pretrained


class Detector(BaseModule):
    """A parent with an initialisation of its own that reaches every convolution."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(init_cfg=dict(type='Constant', layer=['Conv2d', 'Linear', 'LayerNorm'], val=7.0))
        self.backbone = backbone
        self.head = nn.Conv2d(8, 8, 1)


def pretrained(path: Path, **options: Any) -> dict[str, Any]:
    """Write an init_cfg."""
    return dict(type='Pretrained', checkpoint=str(path), **options)


def test_init_weights_twice_keeps_the_weights(convnext_file: Path) -> None:
    model = ConvNeXt(CONVNEXT, init_cfg=pretrained(convnext_file))
    model.init_weights()
    with torch.no_grad():
        model.norm0.weight.fill_(3.0)  # as if trained since
    model.init_weights()
    assert same(model, torch.load(convnext_file)['model'])
    assert model.norm0.weight[0] == 3.0


@pytest.mark.parametrize('early', [False, True])
def test_a_parent_does_not_undo_the_load(early: bool, convnext_file: Path) -> None:
    model = Detector(ConvNeXt(CONVNEXT, init_cfg=pretrained(convnext_file)))
    if early:
        model.backbone.init_weights()
    model.init_weights()  # as the Runner does, after construction
    assert torch.all(model.head.weight == 7.0)
    if not early:
        assert same(model.backbone, torch.load(convnext_file)['model'])


def test_weights_loaded_before_the_runner_starts_stay(convnext_file: Path) -> None:
    model = nn.Sequential(ConvNeXt(CONVNEXT, init_cfg=pretrained(convnext_file)))
    model[0].init_weights()
    parent = BaseModule()
    parent.backbone = model[0]
    parent.init_weights()
    assert same(model[0], torch.load(convnext_file)['model'])


def test_the_log_of_mmengine_names_the_file(convnext_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    parent = BaseModule()
    parent.backbone = ConvNeXt(CONVNEXT, init_cfg=pretrained(convnext_file))
    weight = parent.backbone.stages[0][0].dwconv.weight
    monkeypatch.setattr(
        BaseModule, '_dump_init_info', lambda self: seen.append(self._params_init_info[weight])
    )
    parent.init_weights()
    assert seen[0]['init_info'] == f'loaded from {convnext_file}'


def test_other_initialisation_comes_before_the_checkpoint(convnext_file: Path) -> None:
    constant = dict(type='Constant', layer='LayerNorm', val=5.0)
    model = ConvNeXt(CONVNEXT, init_cfg=[pretrained(convnext_file), dict(constant, layer='LayerNorm2d')])
    model.init_weights()
    assert torch.all(model.norm0.weight == 5.0)
    assert same(model, torch.load(convnext_file)['model'])
    assert model.init_cfg[0]['type'] == 'Pretrained'


def test_without_a_checkpoint_mmengine_goes_on() -> None:
    model = ConvNeXt(CONVNEXT, init_cfg=dict(type='Constant', layer='Linear', val=2.0))
    assert not initialise_from_checkpoint(model)
    model.init_weights()
    assert torch.all(model.stages[0][0].pwconv1.weight == 2.0)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(type='Pretrained', checkpont='w.pth'),
            r"unknown key 'checkpont' \(did you mean 'checkpoint'\?\)",
        ),
        (dict(type='Pretrained'), 'names no checkpoint; give checkpoint=path or address'),
        (dict(type='Pretrained', checkpoint=''), 'names no checkpoint'),
        ([dict(type='Pretrained', checkpoint=name) for name in 'ab'], 'names 2 checkpoints; give one'),
        (dict(type='Pretrained', checkpoint='nowhere.pth'), r'nowhere\.pth: there is no such file'),
    ],
)
def test_a_wrong_init_cfg_is_refused(cfg: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvNeXt(CONVNEXT, init_cfg=cfg).init_weights()


def test_relaxing_is_explicit(convnext_file: Path) -> None:
    model = ConvNeXt(CONVNEXT, layer_scale_init_value=0, init_cfg=pretrained(convnext_file, strict=False))
    model.init_weights()
    assert same(model, torch.load(convnext_file)['model'])


def test_a_failed_download_fails_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    # this rank waits while another one downloads and fails
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setattr(load, 'fetch', lambda *args, **kwargs: pytest.fail('only local rank 0 downloads'))
    monkeypatch.setattr(
        load, 'all_gather_object', lambda mine: ['checkpoint x could not be downloaded', mine]
    )
    with pytest.raises(ValueError, match='could not be downloaded'):
        load_pretrained(ConvNeXt(CONVNEXT), 'https://example.org/w.pth')
