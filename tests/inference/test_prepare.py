"""A prepared model computes what the plain one does; toy widths."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import backbones.inference.packed as packed
from backbones.convnext import ConvNeXt
from backbones.inference import prepare_for_inference
from backbones.inference.packed import PackedLinear
from backbones.vit import VisionTransformer

CONVNEXT = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
VIT = dict(arch=dict(embed_dim=32, depth=2, num_heads=2), patch_size=8)
FAMILIES = {
    'ConvNeXt': lambda: ConvNeXt(CONVNEXT, layer_scale_init_value=1.0),
    'ConvNeXt without layer scale': lambda: ConvNeXt(CONVNEXT, layer_scale_init_value=0.0, output_norm=False),
    'ConvNeXt V2': lambda: ConvNeXt(CONVNEXT, use_grn=True),
    'isotropic ConvNeXt': lambda: ConvNeXt(dict(depth=2, dim=16), layer_scale_init_value=1.0),
    'MAE': lambda: VisionTransformer(**VIT),
    'ViTDet': lambda: VisionTransformer(
        **VIT, with_cls_token=False, window_size=3, global_attn_indexes=(1,), rel_pos='decomposed', img_size=64),
    'ViTDet with bottlenecks': lambda: VisionTransformer(
        **VIT, with_cls_token=False, window_size=3, residual_block_indexes=(1,)),
    'BEiT': lambda: VisionTransformer(
        **VIT, position='none', rel_pos='bias_table', qkv_bias='qv', layer_scale_init_value=0.5, img_size=64),
    'DINOv2': lambda: VisionTransformer(
        **VIT, mlp='swiglu', num_registers=2, layer_scale_init_value=0.5, out_norm='all', out_indices=(0, 1)),
    'DINOv3': lambda: VisionTransformer(
        **VIT, position='rope', qkv_bias='qv', mlp='swiglu_split', layer_scale_init_value=0.5),
    'CLIP': lambda: VisionTransformer(**VIT, act='quick_gelu', pre_norm=True, patch_bias=False),
    'SigLIP': lambda: VisionTransformer(**VIT, act='gelu_tanh', qkv_bias=False, out_norm='each'),
}


def made(family: str) -> nn.Module:
    """A toy backbone in evaluation mode whose parameters all matter."""
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def images(height: int = 80, width: int = 72) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def distances(outputs, expected) -> list[float]:
    """The Frobenius norm of the difference relative to that of the expected, per output."""
    return [float((a.float() - b).norm() / b.norm()) for a, b in zip(outputs, expected, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('family', FAMILIES)
def test_in_fp32_a_prepared_backbone_gives_the_same_maps_within_rounding(family, pack):
    model = made(family)
    expected = model(images())
    outputs = prepare_for_inference(model, 'fp32', pack=pack)(images())
    assert [output.shape for output in outputs] == [output.shape for output in expected]
    assert max(distances(outputs, expected)) < 2e-6


@torch.no_grad()
@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('family', FAMILIES)
def test_in_bf16_a_prepared_backbone_stays_within_2_percent(family, pack):
    model = made(family)
    expected = model(images())
    outputs = prepare_for_inference(model, 'bf16', pack=pack)(images())
    assert all(output.dtype == torch.bfloat16 for output in outputs)
    assert max(distances(outputs, expected)) < 2e-2


@torch.no_grad()
@pytest.mark.parametrize('family', ['MAE', 'ViTDet', 'BEiT', 'DINOv3'])
def test_tables_kept_for_one_image_size_do_not_reach_images_of_another(family):
    model = made(family)
    expected = model(images()), model(images(64, 96))
    prepared = prepare_for_inference(copy.deepcopy(model), 'fp32')
    for _ in range(2):
        for size, maps in zip(((80, 72), (64, 96)), expected, strict=True):
            assert max(distances(prepared(images(*size)), maps)) < 2e-6


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_images_may_come_in_any_layout_and_dtype(memory_format):
    model = prepare_for_inference(made('ConvNeXt'), 'bf16')
    expected = model(images())
    given = images().contiguous(memory_format=memory_format)
    for x in (given, given.double()):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_without_kernels_for_packed_layers_the_same_model_runs_with_ordinary_ones(monkeypatch):
    expected = prepare_for_inference(made('ConvNeXt'), 'fp32')
    monkeypatch.setattr(packed, 'can_pack', lambda dtype, device: False)
    ordinary = prepare_for_inference(made('ConvNeXt'), 'fp32')
    layers = [module for module in ordinary.modules() if isinstance(module, PackedLinear)]
    assert layers and all(layer.packed is None for layer in layers)
    assert max(distances(ordinary(images()), expected(images()))) < 2e-6


def test_layer_scales_are_gone_and_every_weight_has_the_dtype():
    for family in ('ConvNeXt', 'DINOv3'):
        model = prepare_for_inference(made(family), 'bf16', pack=False)
        assert not [name for name, _ in model.named_parameters() if name.endswith('gamma')]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.rope_embed.periods.dtype == torch.float32


def test_a_prepared_model_refuses_training_saving_loading_and_being_prepared_again():
    state = made('ConvNeXt').state_dict()
    model = prepare_for_inference(made('ConvNeXt'))
    assert model.eval() is model
    for attempt in (model.train, model.state_dict, lambda: model.load_state_dict(state),
                    lambda: prepare_for_inference(model), lambda: model.to(torch.float16)):
        with pytest.raises(ValueError, match='prepared for inference'):
            attempt()
    assert not any(module.training for module in model.modules())


def test_a_copy_of_a_prepared_model_gives_the_same():
    model = prepare_for_inference(made('ViTDet'))
    torch.testing.assert_close(copy.deepcopy(model)(images()), model(images()), rtol=0, atol=0)


def test_an_unknown_precision_and_a_model_without_our_backbone_are_refused():
    with pytest.raises(ValueError, match='precision'):
        prepare_for_inference(made('MAE'), 'int8')
    with pytest.raises(ValueError, match='ConvNeXt or VisionTransformer'):
        prepare_for_inference(nn.Linear(2, 2))


@pytest.mark.parametrize('activation', packed.ACTIVATIONS)
def test_a_packed_layer_equals_the_ordinary_one(activation):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(6, 8), torch.randn(6), torch.randn(2, 3, 8)
    fast, plain = (PackedLinear(weight, bias, activation=activation, pack=pack) for pack in (True, False))
    torch.testing.assert_close(fast(x), plain(x))
    assert fast(x[:0]).shape == (0, 3, 6)
    if activation == 'none':
        residual = torch.randn(2, 3, 6)
        torch.testing.assert_close(fast(x, residual), plain(x) + residual)
        torch.testing.assert_close(fast(x.transpose(0, 1)), plain(x.transpose(0, 1)))


def test_batch_norms_behind_convolutions_are_folded():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = ConvNeXt(CONVNEXT, out_indices=(0,))
            self.neck = nn.Sequential(
                nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
                nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))

        def forward(self, x):
            return (self.neck(self.backbone(x)[0]),)

    torch.manual_seed(0)
    model = Whole().eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        expected = model(images())
        outputs = prepare_for_inference(model, 'fp32')(images())
    assert not [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert max(distances(outputs, expected)) < 2e-6
