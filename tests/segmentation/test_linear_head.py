"""The linear head of DINOv2 and DINOv3."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

BN = dict(type='BN', eps=1e-5)


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    init_default_scope('mmseg')


def head(**settings) -> nn.Module:
    """A head of three classes on maps of 4 and 6 channels, built by name from mmseg's registry."""
    cfg = dict(type='backbones.LinearHead', in_channels=[4, 6], in_index=[0, 1], num_classes=3, norm_cfg=BN)
    return MODELS.build({**cfg, **settings})


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 6, 4, 4, generator=generator)]


def test_the_scores_are_a_linear_map_of_the_normalised_features() -> None:
    torch.manual_seed(0)
    model = head()
    x = maps()
    larger = nn.functional.interpolate(x[1], size=(8, 8), mode='bilinear', align_corners=False)
    features = torch.cat([x[0], larger], dim=1)
    mean, var = features.mean((0, 2, 3), keepdim=True), features.var((0, 2, 3), keepdim=True, unbiased=False)
    normal = (features - mean) / (var + 1e-5).sqrt()
    expected = torch.einsum('kc,nchw->nkhw', model.conv_seg.weight[:, :, 0, 0], normal)
    expected = expected + model.conv_seg.bias[None, :, None, None]
    torch.testing.assert_close(model(x), expected)


def test_one_map_may_be_chosen_by_a_number() -> None:
    assert head(in_channels=6, in_index=-1)(maps()).shape == (2, 3, 4, 4)


def test_dropout_comes_before_the_norm() -> None:
    torch.manual_seed(0)
    model = head(dropout_ratio=0.5)
    seen = []
    model.bn.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(maps())
    assert (seen[0] == 0).flatten(2).all(dim=2).any()


def test_the_parameters_are_named_as_in_the_files_of_dinov2() -> None:
    expected = {'bn.weight', 'bn.bias', 'conv_seg.weight', 'conv_seg.bias'}
    assert {name for name, _ in head().named_parameters()} == expected


def test_sync_batch_norm_is_the_default() -> None:
    model = head(norm_cfg=None)
    assert isinstance(model.bn, nn.SyncBatchNorm)
    assert model.bn.eps == 1e-5


def test_a_segmentor_with_a_frozen_vit_trains_the_head_alone() -> None:
    segmentor = MODELS.build(dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3, size_divisor=16,
            test_cfg=dict(size_divisor=16)),
        backbone=dict(
            type='backbones.VisionTransformer', arch=dict(embed_dim=8, depth=2, num_heads=2), pretrain_img_size=32,
            out_indices=(1,), frozen_stages=2),
        decode_head=dict(type='backbones.LinearHead', in_channels=8, num_classes=3, norm_cfg=BN),
        train_cfg=dict(), test_cfg=dict(mode='whole')))
    segmentor.train()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 32, 32)))) for _ in range(2)]
    batch = segmentor.data_preprocessor(
        dict(inputs=[torch.rand(3, 32, 32) for _ in range(2)], data_samples=samples), training=True)
    losses = segmentor(**batch, mode='loss')
    losses['decode.loss_ce'].backward()
    learning = {name for name, value in segmentor.named_parameters() if value.grad is not None}
    assert learning == {f'decode_head.{name}' for name in ('bn.weight', 'bn.bias', 'conv_seg.weight', 'conv_seg.bias')}


def test_an_impossible_head_is_refused_with_the_remedy() -> None:
    for settings, words in (
        (dict(in_index=[0]), 'one number of channels per chosen map'),
        (dict(in_channels=[4, 0]), 'in_channels=0'),
        (dict(in_index=[0, 'last']), 'give a whole number'),
        (dict(norm_cfg=dict(type='LN')), "dict.type='SyncBN'"),
        (dict(norm_cfg=dict(type='BN')), 'eps=1e-5'),
        (dict(dropout_ratio=1.0), r'in \[0, 1\)'),
        (dict(num_classes=0), 'num_classes=0'),
    ):
        with pytest.raises(ValueError, match=words):
            head(**settings)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r'set in_channels=\[6, 4\]'):
        head()(maps()[::-1])
    with pytest.raises(ValueError, match='gives 1'):
        head()(maps()[:1])
