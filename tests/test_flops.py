"""Multiply-adds and parameters against hand counts; the papers' numbers are in tests/recipes/test_paper_tables.py."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from torch import nn

from backbones.attention import Attention
from backbones.convnext import ConvNeXt
from backbones.flops import Counts, count_macs, count_params, on_meta, split
from backbones.vit import VisionTransformer

WIDTHS = dict(tiny=96, small=96, base=128, large=192, xlarge=256, huge=352)


# --- by hand --------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A grouped convolution and a transposed one; norm, activation and bias must not count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.up(self.norm(self.conv(x)).relu()),)


def test_convolutions_count_multiply_adds_and_nothing_else_does() -> None:
    conv, up = 8 * 10 * 6 * 9, 8 * 10 * 6 * 4 * 4  # groups see one channel; each input pixel makes 2 x 2 outputs
    assert count_macs(Plain(), (8, 10)) == Counts(conv + up, 0, 0)


def vit(**kwargs: object) -> VisionTransformer:
    arch = dict(embed_dim=16, depth=1, num_heads=2)
    if 'rel_pos' in kwargs:
        kwargs['img_size'] = 96
    return VisionTransformer(arch, patch_size=16, with_cls_token=False, **kwargs)


PATCHES = 36 * 3 * 16 * 16 * 16  # 6 x 6 patches of 16 x 16 pixels to 16 channels
LINEAR = 36 * (16 * 48 + 16 * 16 + 2 * 16 * 64)  # qkv, proj, MLP
LOGITS = 2 * 36 * 36 * 16  # q.k and attention.v, over both heads


def test_attention_counts_its_two_products() -> None:
    assert count_macs(vit(), (96, 96)).total == PATCHES + LINEAR + LOGITS


def test_decomposed_relative_positions_count_as_a_bias() -> None:
    relative = 2 * 36 * 6 * 16  # each query with 6 rows and 6 columns, over both heads
    model = vit(rel_pos='decomposed')
    assert count_macs(model, (96, 96)).total == PATCHES + LINEAR + LOGITS + relative


def test_tokens_that_fill_windows_count_as_in_the_published_code() -> None:
    padded = 64  # windows of 4 x 4 over 6 x 6 tokens
    logits = 2 * padded * 16 * 16  # four windows of 16 tokens
    extra = (padded - 36) * (16 * 48 + 16 * 16)
    assert count_macs(vit(window_size=4), (96, 96)).total == PATCHES + LINEAR + logits + extra


def test_counting_leaves_the_model_as_it_was() -> None:
    model = vit(rel_pos='decomposed', window_size=4)
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    blocks = [module for module in model.modules() if isinstance(module, Attention)]
    torch.manual_seed(0)
    x = torch.randn(1, 3, 96, 96)
    before = model(x)[0]
    count_macs(model, (96, 96))
    assert [module.training for module in model.modules()] == modes
    assert not any(block._forward_pre_hooks for block in blocks)
    torch.testing.assert_close(model(x)[0], before)


def test_the_meta_device_counts_as_the_cpu_does() -> None:
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    with on_meta():
        shapes = ConvNeXt(arch)
    assert count_macs(shapes, (64, 96)) == count_macs(ConvNeXt(arch), (64, 96))


@pytest.mark.parametrize('size', [(64,), (0, 64), (64.0, 64)])
def test_an_odd_size_is_refused(size: tuple) -> None:
    with pytest.raises(ValueError, match=r'must be \(height, width\) of an image in pixels'):
        count_macs(Plain(), size)


def test_an_image_that_the_model_cannot_take_is_refused_with_its_size() -> None:
    class Strict(Plain):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            assert x.shape[-1] % 32 == 0, 'width must be a multiple of 32'
            return super().forward(x)

    with pytest.raises(ValueError, match=r'Strict cannot be counted for an image of 32 x 40 pixels: width must be'):
        count_macs(Strict(), (32, 40))


def test_a_model_of_another_kind_is_refused() -> None:
    model = nn.Module()
    model.backbone = Plain()
    with pytest.raises(ValueError, match='neither a detector with RoI heads'):
        count_macs(model, (64, 64))


# --- detectors and segmenters ---------------------------------------------------------------------


def convnext(name: str, arch: str) -> nn.Module:
    """A detector or segmenter of `configs/_base_/models` on ConvNeXt, in shapes only."""
    width = WIDTHS[arch]
    return assemble(name, [width * 2**i for i in range(4)], dict(type='backbones.ConvNeXt', arch=arch))


def assemble(name: str, channels: list[int], backbone: dict) -> nn.Module:
    registry = pytest.importorskip('mmengine.registry')
    model = Config.fromfile(ROOT / f'configs/_base_/models/{name}.py').model
    model.backbone = backbone
    if name == 'upernet':
        pytest.importorskip('mmseg')
        model.decode_head.in_channels, model.auxiliary_head.in_channels = channels, channels[2]
        model.data_preprocessor.size = (512, 512)
    else:
        pytest.importorskip('mmdet')
        model.neck.in_channels = channels
    registry.init_default_scope('mmseg' if name == 'upernet' else 'mmdet')
    with on_meta():
        return registry.MODELS.build(model)


def test_the_auxiliary_head_costs_parameters_and_no_multiply_adds() -> None:
    model = convnext('upernet', 'tiny')
    parts = split(model)
    macs, params = count_macs(model, (64, 64)), count_params(model)
    del model.auxiliary_head
    model.auxiliary_head = None
    assert count_macs(model, (64, 64)) == macs
    assert params.heads - count_params(model).heads == sum(p.numel() for p in parts.auxiliary_heads[0].parameters())


def test_a_mask_head_that_all_stages_share_counts_once() -> None:
    model = convnext('cascade_mask_rcnn', 'tiny')
    three = count_macs(model, (64, 64), box_rois=1, mask_rois=10).heads
    model.roi_head.mask_head = model.roi_head.mask_head[0]
    one = count_macs(model, (64, 64), box_rois=1, mask_rois=10).heads
    per_roi = 4 * 196 * 256 * 256 * 9 + 784 * 256 * 256 + 784 * 256 * 80  # four convolutions, deconvolution, logits
    assert three - one == 2 * 10 * per_roi
