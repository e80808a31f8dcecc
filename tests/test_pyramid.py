"""The necks of plain ViTs. SimpleFPN is compared with detectron2 in test_vit_references.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.pyramid import Feature2Pyramid, SimpleFPN


def maps(count: int = 4, height: int = 6, width: int = 5, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Make `count` random maps of 24 channels, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 24, height, width, generator=generator) for _ in range(count))


# SimpleFPN


def test_simple_fpn_makes_five_levels_from_the_last_map_alone():
    neck = SimpleFPN(24, 8)
    x = maps()
    levels = neck(x)
    assert [tuple(level.shape) for level in levels] == [
        (2, 8, 24, 20), (2, 8, 12, 10), (2, 8, 6, 5), (2, 8, 3, 2), (2, 8, 2, 1)]  # fmt: skip
    for level, same in zip(levels, neck(x[-1]), strict=True):
        assert torch.equal(level, same)


@pytest.mark.parametrize(
    ('stride', 'strides'), [(16, (4, 8, 16, 32, 64)), (8, (2, 4, 8, 16, 32)), (14, (3.5, 7, 14, 28, 56))]
)
def test_simple_fpn_derives_its_strides_from_the_patch(stride, strides):
    neck = SimpleFPN(24, 8, in_stride=stride)
    assert neck.out_strides == strides
    assert neck.out_channels == (8,) * 5


def test_the_level_p6_subsamples_p5():
    levels = SimpleFPN(24, 8)(maps(height=12, width=12))
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


@pytest.mark.parametrize(('dim', 'count'), [(768, 5_560_000), (1024, 7_805_184), (1280, 10_640_192)])
def test_simple_fpn_has_the_published_number_of_parameters(dim, count):
    with torch.device('meta'):
        neck = SimpleFPN(dim)
    assert sum(parameter.numel() for parameter in neck.parameters()) == count


def test_every_parameter_of_simple_fpn_gets_a_gradient():
    neck = SimpleFPN(24, 8)
    sum(level.sin().sum() for level in neck(maps())).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(in_channels=0), 'in_channels=0'),
        (dict(in_channels=18), 'in_channels=18 is no multiple of 4'),
        (dict(in_channels=[24]), r'in_channels=\[24\]'),
        (dict(in_channels=24, num_outs=3), 'num_outs=3 is below the 4 levels'),
        (dict(in_channels=24, out_channels=-1), 'out_channels=-1'),
        (dict(in_channels=24, in_stride='16'), "in_stride='16'"),
    ],
)
def test_bad_arguments_of_simple_fpn_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SimpleFPN(**options)


def test_a_map_of_another_width_is_refused_with_the_right_in_channels():
    with pytest.raises(ValueError, match=r'built for \(N, 32, H, W\); set in_channels=24'):
        SimpleFPN(32)(maps())


# Feature2Pyramid


@pytest.mark.parametrize('kind', ['LN2d', 'BN', 'SyncBN'])
def test_feature2pyramid_gives_each_map_its_scale_and_keeps_the_channels(kind):
    neck = Feature2Pyramid(24, norm_cfg=dict(type=kind, eps=1e-5)).eval()
    outputs = neck(maps())
    assert [tuple(output.shape) for output in outputs] == [
        (2, 24, 24, 20), (2, 24, 12, 10), (2, 24, 6, 5), (2, 24, 3, 2)]  # fmt: skip
    assert (neck.out_strides, neck.out_channels) == ((4, 8, 16, 32), (24,) * 4)


def test_feature2pyramid_trains_with_one_image_on_a_cpu():
    neck = Feature2Pyramid(24).train()
    sum(output.sin().sum() for output in neck(maps(batch=1))).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in neck.parameters())


def test_feature2pyramid_names_and_results_are_those_of_mmsegmentation():
    mmseg = pytest.importorskip('mmseg.models.necks.featurepyramid', exc_type=ImportError)
    torch.manual_seed(0)
    theirs = mmseg.Feature2Pyramid(24, norm_cfg=dict(type='SyncBN')).eval()
    ours = Feature2Pyramid(24, norm_cfg=dict(type='SyncBN', eps=1e-5)).eval()
    ours.load_state_dict(theirs.state_dict())
    for output, expected in zip(ours(maps()), theirs(maps()), strict=True):
        assert torch.equal(output, expected)


def test_some_scales_are_enough():
    neck = Feature2Pyramid(24, scales=(2, 1))
    assert neck.out_strides == (8, 16)
    assert [tuple(output.shape[2:]) for output in neck(maps(2))] == [(12, 10), (6, 5)]


def test_the_norm_keeps_the_eps_of_norm_cfg():
    norm = Feature2Pyramid(24, norm_cfg=dict(type='BN', eps=1e-3)).upsample_4x[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.eps == 1e-3


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(scales=(4, 3)), r'scales=\(4, 3\) is not possible; give some of \(4, 2, 1, 0.5\)'),
        (dict(scales=(1, 2)), 'from fine to coarse'),
        (dict(scales=()), r'scales=\(\)'),
        (dict(norm_cfg=dict(type='GN')), "norm_cfg={'type': 'GN'} is not possible"),
        (dict(norm_cfg=dict(type='BN', epsilon=1e-3)), 'epsilon'),
        (dict(in_channels=None), 'in_channels=None'),
    ],
)
def test_bad_arguments_of_feature2pyramid_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Feature2Pyramid(**{'in_channels': 24, **options})


def test_a_wrong_number_of_maps_is_refused():
    with pytest.raises(ValueError, match='got 3 maps for scales'):
        Feature2Pyramid(24)(maps(3))
