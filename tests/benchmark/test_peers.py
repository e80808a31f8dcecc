"""Peers compute what ours does with the same weights, or say in one line why they do not take part."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch import nn

from backbones.benchmark import mmpretrain_peer, stock, timm_peer
from backbones.benchmark.differences import of_tensors
from backbones.benchmark.models import stir
from backbones.benchmark.peers import PEERS, Contiguous, chosen, peer_backbone
from backbones.benchmark.skipping import Skipped
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer

STAGES = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
BLOCKS = dict(embed_dim=24, depth=2, num_heads=2)
TOKENS = dict(arch=BLOCKS, pretrain_img_size=64)
CONVNEXT = {
    'V1': dict(), 'V1 without output norms': dict(output_norm=False), 'V2': dict(use_grn=True),
    'V1, drop path': dict(drop_path_rate=0.4),
}
VIT = {
    'plain': dict(out_indices=(0, 1)), 'plain, a norm on each output': dict(out_indices=(0, 1), out_norm='each'),
    'DINOv2': dict(layer_scale_init_value=1e-5, out_norm='all'),
    'DINOv2 with registers': dict(layer_scale_init_value=1e-5, out_norm='last', num_registers=4),
    'DINOv3': dict(position='rope', qkv_bias='qv', layer_scale_init_value=1e-5, norm_eps=1e-5, num_registers=4,
                   out_norm='last'),
    'BEiT': dict(position='none', rel_pos='bias_table', qkv_bias='qv', layer_scale_init_value=0.1, img_size=64),
    'ViTDet': dict(with_cls_token=False, window_size=3, global_attn_indexes=(1,), rel_pos='decomposed', img_size=64),
    'ViTDet without relative positions': dict(with_cls_token=False, window_size=3, global_attn_indexes=(1,)),
}
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec('transformers') is None, reason='transformers is not installed')


def toy(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = ConvNeXt(STAGES, **CONVNEXT[name]) if name in CONVNEXT else VisionTransformer(**{**TOKENS, **VIT[name]})
    stir(model)
    return model.eval()


def apart(ours: nn.Module, theirs: nn.Module, size: int = 64) -> float:
    """The largest difference of their maps as a share of the largest value."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return of_tensors(ours(images), theirs(images)).relative


@needs_transformers
@pytest.mark.parametrize('name', [*CONVNEXT, *VIT])
def test_hugging_faces_backbone_gives_our_maps(name: str) -> None:
    ours = toy(name)
    theirs = peer_backbone(PEERS['hf'], ours)
    assert apart(ours, theirs) < 2e-6
    with torch.no_grad():  # every block counts in what was compared
        for parameter in (ours.stages if name in CONVNEXT else ours.blocks)[-1].parameters():
            parameter.mul_(1.5)
    assert apart(ours, theirs) > 1e-3


@needs_transformers
def test_training_the_peer_leaves_our_weights_alone() -> None:
    ours = toy('V1')
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    theirs = peer_backbone(PEERS['hf'], ours)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize('name', CONVNEXT)
def test_the_stand_in_for_mmpretrains_convnext_gives_our_maps(name: str) -> None:
    ours = toy(name)
    theirs = stock.ConvNeXtStandIn(ours).eval()
    assert apart(ours, theirs, 70) < 2e-6


def test_the_stand_in_has_the_drop_path_rates_of_ours() -> None:
    ours = toy('V1, drop path')
    rates = [block.drop_path.rate for stage in stock.ConvNeXtStandIn(ours).stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_what_is_frozen_in_ours_is_frozen_in_the_peer() -> None:
    ours = toy('V1').requires_grad_(False)
    theirs = peer_backbone(PEERS['stock'], ours)
    assert not any(parameter.requires_grad for parameter in theirs.parameters())


def test_a_stock_backbone_is_its_own_stock_peer() -> None:
    ours = nn.Sequential(nn.Conv2d(3, 4, 3))
    theirs = peer_backbone(PEERS['stock'], ours)
    assert theirs is not ours
    assert torch.equal(theirs[0].weight, ours[0].weight)


@pytest.mark.parametrize('package', ['timm', 'mmpretrain', 'transformers'])
def test_a_peer_that_is_not_installed_is_skipped_with_the_reason(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in list(sys.modules):
        if name.startswith(f'{package}.'):
            monkeypatch.setitem(sys.modules, name, None)
    peer = PEERS['hf' if package == 'transformers' else package]
    with pytest.raises(Skipped, match='not installed here'):
        peer_backbone(peer, toy('V1'))


def test_a_package_that_breaks_on_import_is_skipped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError('operator torchvision::nms does not exist')

    monkeypatch.setattr(timm_peer, '_import', broken)
    with pytest.raises(Skipped, match='torchvision::nms does not exist'):
        peer_backbone(PEERS['timm'], toy('V1'))


def test_stock_says_that_a_stand_in_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError('No module named mmpretrain')

    monkeypatch.setattr(stock, 'backbones_module', missing)
    assert isinstance(stock.backbone(toy('V1')), stock.ConvNeXtStandIn)
    assert stock.remark(toy('V1')).startswith('mmpretrain cannot be imported (No module named mmpretrain)')


@pytest.mark.parametrize('peer', [timm_peer, mmpretrain_peer])
def test_a_vit_with_windows_has_no_counterpart_there(peer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_peer, '_import', lambda: None)
    monkeypatch.setattr(mmpretrain_peer, 'backbones_module', lambda: None)
    with pytest.raises(Skipped, match='has no windows'):
        peer.backbone(toy('ViTDet'))


def test_maps_reach_the_stock_heads_contiguous() -> None:
    last = nn.Module()
    last.forward = lambda x: (x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),)
    assert Contiguous(last)(torch.randn(1, 3, 4, 5))[0].is_contiguous()


def test_our_roi_extractor_is_mmdets_in_the_stock_model_and_what_has_no_equal_is_named() -> None:
    from mmengine.config import ConfigDict

    model = ConfigDict(
        backbone=dict(type='backbones.ConvNeXt'), neck=dict(type='backbones.SimpleFPN'),
        roi_head=dict(bbox_roi_extractor=dict(type='backbones.SingleRoIExtractor')))
    assert stock.without_ours(model).roi_head.bbox_roi_extractor.type == 'SingleRoIExtractor'
    assert stock.kept(model) == ['backbones.SimpleFPN']
    assert model.roi_head.bbox_roi_extractor.type == 'backbones.SingleRoIExtractor'


def test_an_unknown_peer_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r'--against torchvision: .* choose among mmpretrain, timm, hf, stock'):
        chosen(['torchvision'])
