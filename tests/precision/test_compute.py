"""A model in bf16: fp32 parameters, low-precision work, fp32 results."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones.convnext import ConvNeXt
from backbones.precision.compute import check_machine, compute_in, unwrapped
from backbones.precision.islands import to_float
from backbones.vit import VisionTransformer

STAGES = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
PLAIN = dict(embed_dim=32, depth=2, num_heads=2)
BACKBONES = [
    lambda: ConvNeXt(STAGES, layer_scale_init_value=1.0),
    lambda: ConvNeXt(STAGES, use_grn=True),
    lambda: ConvNeXt(dict(depth=2, dim=16)),
    lambda: VisionTransformer(PLAIN, with_cls_token=False, window_size=3, global_attn_indexes=(1,), img_size=96,
                              rel_pos='decomposed', residual_block_indexes=(1,)),
    lambda: VisionTransformer(PLAIN, position='none', rel_pos='bias_table', qkv_bias='qv', img_size=96,
                              layer_scale_init_value=0.1),
    lambda: VisionTransformer(PLAIN, position='rope', num_registers=2, mlp='swiglu', out_norm='all'),
]


@pytest.fixture(params=range(len(BACKBONES)), ids=['v1', 'v2', 'isotropic', 'vitdet', 'beit', 'dinov3'])
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    """A toy backbone in fp32."""
    torch.manual_seed(0)
    return BACKBONES[request.param]()


@pytest.fixture
def image() -> Tensor:
    """Two images (2, 3, 96, 64)."""
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative, over the whole tensor."""
    return float((found.float() - expected).norm() / expected.norm())


def loss_of(maps: tuple[Tensor, ...]) -> Tensor:
    """One number that every value of the maps moves; not their squares, whose sum a LayerNorm fixes."""
    generator = torch.Generator().manual_seed(2)
    return sum((x.float() * torch.randn(x.shape, generator=generator)).mean() for x in maps)


def test_maps_are_bf16_and_within_two_percent_of_fp32(backbone: nn.Module, image: Tensor) -> None:
    expected = backbone(image)
    compute_in(backbone, 'bf16')
    found = backbone(image)
    assert {x.dtype for x in found} == {torch.bfloat16}
    assert max(map(difference, found, expected)) < 2e-2


def test_gradients_arrive_in_fp32_at_every_parameter(backbone: nn.Module, image: Tensor) -> None:
    plain = copy.deepcopy(backbone)
    loss_of(plain(image)).backward()
    compute_in(backbone, 'bf16')
    loss_of(backbone(image)).backward()
    expected = {name: value.grad for name, value in plain.named_parameters()}
    for name, value in backbone.named_parameters():
        assert value.dtype == value.grad.dtype == torch.float32, name
    whole = torch.cat([value.grad.flatten() for value in backbone.parameters()])
    assert difference(whole, torch.cat([value.flatten() for value in expected.values()])) < 5e-2


def test_the_state_dict_is_that_of_the_plain_model(backbone: nn.Module, image: Tensor) -> None:
    before = copy.deepcopy(backbone.state_dict())
    compute_in(backbone, 'bf16')
    backbone(image)
    assert list(backbone.state_dict()) == list(before)
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in before.items())


def test_recomputed_blocks_have_the_same_gradients(image: Tensor) -> None:
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = ConvNeXt(STAGES, with_cp=with_cp)
        compute_in(model, 'bf16')
        loss_of(model(image)).backward()
        gradients.append([value.grad for value in model.parameters()])
    assert all(map(torch.equal, *gradients))


def optimised(model: nn.Module, image: Tensor, steps: int = 3) -> Tensor:
    """Loss after some steps of SGD."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(model(image)).backward()
        optimiser.step()
    return loss_of(model(image)).detach()


def test_steps_move_what_the_model_computes_with(image: Tensor) -> None:
    torch.manual_seed(0)
    model = ConvNeXt(STAGES, layer_scale_init_value=1.0)
    plain = copy.deepcopy(model)
    compute_in(model, 'bf16')
    before = loss_of(model(image))
    after = optimised(model, image)
    assert after < before - 0.1 * before.abs()
    torch.testing.assert_close(after, optimised(plain, image), rtol=2e-2, atol=0)


def test_several_passes_before_a_step_add_their_gradients(image: Tensor) -> None:
    model = ConvNeXt(STAGES, layer_scale_init_value=1.0)
    compute_in(model, 'bf16')
    loss_of(model(image)).backward()
    once = [value.grad.clone() for value in model.parameters()]
    loss_of(model(image)).backward()
    for value, one in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(value.grad, 2 * one)


def test_two_passes_may_wait_for_one_backward(image: Tensor) -> None:
    model = ConvNeXt(STAGES)
    compute_in(model, 'bf16')
    (loss_of(model(image)) + loss_of(model(image + 1))).backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize('kernels', [dict(fused=True), dict(foreach=True), dict(foreach=False)], ids=str)
@pytest.mark.parametrize('kind', [torch.optim.AdamW, torch.optim.SGD])
def test_the_step_of_every_kind_of_optimiser_is_seen(image: Tensor, kind: type, kernels: dict) -> None:
    model = ConvNeXt(STAGES, layer_scale_init_value=1.0)
    compute_in(model, 'bf16')
    optimiser = kind(model.parameters(), lr=0.1, **kernels)  # fused kernels leave the version of a tensor as it is
    seen = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = loss_of(model(image))
        seen.append(loss.item())
        loss.backward()
        optimiser.step()
    assert len(set(seen)) == 3


def test_all_weights_are_copied_in_one_call_per_pass(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, real = ConvNeXt(STAGES), [], torch._foreach_copy_
    compute_in(model, 'bf16')
    monkeypatch.setattr(torch, '_foreach_copy_', lambda *given: (calls.append(1), real(*given)))
    for _ in range(3):
        loss_of(model(image)).backward()
    assert len(calls) == 3


def test_weights_swapped_through_data_for_an_evaluation_are_seen_and_forgotten_again(image: Tensor) -> None:
    model = ConvNeXt(STAGES)
    compute_in(model, 'bf16')
    first = model(image)[-1].detach()
    with torch.no_grad():
        for value in model.parameters():
            value.data.copy_(2 * value.data)  # as MMEngine's EMA: no version is raised
        swapped = model(image)[-1]
        for value in model.parameters():
            value.data.copy_(value.data / 2)
    assert not torch.equal(swapped, first)
    assert torch.equal(model(image)[-1], first)


def test_frozen_weights_are_copied_without_a_gradient(image: Tensor) -> None:
    model = ConvNeXt(STAGES, frozen_stages=2)
    compute_in(model, 'bf16')
    loss_of(model(image)).backward()
    assert {name for name, value in model.named_parameters() if value.grad is not None} == {
        name for name, value in model.named_parameters() if value.requires_grad}


def test_stopped_it_is_the_fp32_model_again(backbone: nn.Module, image: Tensor) -> None:
    expected = backbone(image)
    computing = compute_in(backbone, 'bf16')
    loss_of(backbone(image)).backward()
    computing.stop()
    assert all(map(torch.equal, backbone(image), expected))
    copy.deepcopy(backbone)


def test_a_shared_weight_has_one_copy_and_gets_both_gradients() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    compute_in(model, 'bf16')
    model(torch.ones(1, 4)).sum().backward()
    assert model[0].weight is model[1].weight
    wide = model[0]._parameters['weight'].detach().clone().requires_grad_()
    (torch.ones(1, 4) @ wide.t() @ wide.t()).sum().backward()
    assert difference(model[0]._parameters['weight'].grad, wide.grad) < 2e-2


def test_fp32_changes_nothing_of_a_backbone() -> None:
    model = ConvNeXt(STAGES)
    assert compute_in(model, 'fp32') is None and not model._forward_pre_hooks


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision='bfloat16' is unknown; choose one of fp32, bf16, fp16"):
        compute_in(ConvNeXt(STAGES), 'bfloat16')


def test_fp16_without_the_arithmetic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_fp16_supported', lambda: False)
    with pytest.raises(ValueError, match='this CPU has no fp16 arithmetic; choose bf16 or fp32, or use a GPU'):
        check_machine('fp16', torch.device('cpu'))


def test_a_model_without_known_heads_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = ConvNeXt(STAGES)

    with pytest.raises(ValueError, match='Odd has no head, and only of dense, box and FCN mask heads'):
        compute_in(Odd(), 'bf16')


def test_wrappers_are_looked_through() -> None:
    model = nn.Module()
    model.backbone = nn.Identity()
    outer = nn.Module()
    outer.module = model
    assert unwrapped(outer) is model


def test_nested_results_come_back_in_fp32() -> None:
    half = torch.ones(1, dtype=torch.bfloat16)
    found = to_float(([half], dict(a=half, b=torch.ones(1, dtype=torch.long)), 'text', None))
    assert found[0][0].dtype == found[1]['a'].dtype == torch.float32
    assert found[1]['b'].dtype == torch.long and found[2:] == ('text', None)
