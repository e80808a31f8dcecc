"""The precision of a run: one key of the config, on any device."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from backbones.convnext import ConvNeXt
from backbones.training import precision as module
from backbones.training.precision import PrecisionHook, ScaledOptimWrapper, apply_precision

STAGES = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that computes in anything."""
    monkeypatch.setattr('backbones.precision.compute.check_machine', lambda *given: None)
    monkeypatch.setattr(module, 'check_machine', lambda *given: None)


def config(precision: str | None = None, **wrapper: object) -> Config:
    """As much of a config as the switch reads."""
    return Config(dict(precision=precision, optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1.0), **wrapper)))


@pytest.mark.parametrize(('precision', 'wrapper'), [
    ('fp32', 'backbones.GuardedOptimWrapper'), ('bf16', 'backbones.GuardedOptimWrapper'),
    ('fp16', 'backbones.ScaledOptimWrapper')])
@pytest.mark.parametrize('before', ['AmpOptimWrapper', 'backbones.GuardedAmpOptimWrapper', 'OptimWrapper'])
def test_a_precision_takes_the_place_of_autocast(precision: str, wrapper: str, before: str) -> None:
    cfg = config(precision, type=before, dtype='float16')
    apply_precision(cfg)
    assert cfg.optim_wrapper.type == wrapper and 'dtype' not in cfg.optim_wrapper


def test_without_a_precision_the_published_wrapper_stays() -> None:
    cfg = config(None, type='backbones.GuardedAmpOptimWrapper', dtype='float16')
    apply_precision(cfg)
    assert cfg.optim_wrapper.type == 'backbones.GuardedAmpOptimWrapper' and 'default_hooks' not in cfg


def test_the_option_counts_more_than_the_config() -> None:
    cfg = config('fp32')
    apply_precision(cfg, 'bf16')
    assert cfg.precision == 'bf16'


def test_a_fixed_loss_scale_is_kept_for_fp16_only() -> None:
    scaled, plain = (config(name, type='AmpOptimWrapper', loss_scale=512.0) for name in ('fp16', 'bf16'))
    apply_precision(scaled)
    apply_precision(plain)
    assert scaled.optim_wrapper.loss_scale == 512.0 and 'loss_scale' not in plain.optim_wrapper


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision='half' is unknown; choose one of fp32, bf16, fp16"):
        apply_precision(config(), 'half')


def test_fp16_with_a_foreign_wrapper_is_refused() -> None:
    with pytest.raises(ValueError, match='fp16 needs a scaled loss'):
        apply_precision(config('fp16', type='ApexOptimWrapper'))


def run_of(model: nn.Module, precision: str | None, wrapper: object = None) -> SimpleNamespace:
    """What the hook asks a Runner."""
    return SimpleNamespace(model=model, cfg=dict(precision=precision), optim_wrapper=wrapper)


def test_the_hook_switches_on_before_a_run_and_off_after_it() -> None:
    model, image = ConvNeXt(STAGES), torch.rand(1, 3, 64, 64)
    expected = model(image)
    hook, run = PrecisionHook(), run_of(model, 'bf16')
    hook.before_train(run)
    assert model(image)[0].dtype == torch.bfloat16
    hook.after_run(run)
    torch.testing.assert_close(model(image), expected)


def test_autocast_around_a_model_in_bf16_is_refused() -> None:
    model = ConvNeXt(STAGES)
    wrapper = ScaledOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"set it to 'backbones\.GuardedOptimWrapper', or leave precision out"):
        PrecisionHook().before_train(run_of(model, 'bf16', wrapper))


def test_fp16_without_a_scaled_loss_is_refused() -> None:
    model = ConvNeXt(STAGES)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(ValueError, match=r"set it to 'backbones\.ScaledOptimWrapper'"):
        PrecisionHook().before_train(run_of(model, 'fp16', wrapper))


# --- fp16 ---


def scaled(model: nn.Module, **options: object) -> ScaledOptimWrapper:
    """The wrapper as a config builds it."""
    return build_optim_wrapper(model, dict(
        type='backbones.ScaledOptimWrapper', optimizer=dict(type='SGD', lr=0.125), **options))


def step(model: nn.Module, wrapper: ScaledOptimWrapper, times: float = 1.0) -> None:
    """One step down the sum of the outputs."""
    with wrapper.optim_context(model):
        assert not torch.is_autocast_enabled('cpu')
        loss = times * model(torch.ones(1, 2)).sum()
    wrapper.update_params(loss)


def test_a_scaled_loss_moves_the_weights_as_a_plain_one() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    step(model, scaled(model, loss_scale=1024.0))
    torch.testing.assert_close(before - model.weight, torch.full((1, 2), 0.125))


def test_an_overflow_leaves_the_step_out_and_halves_the_scale() -> None:
    model = nn.Linear(2, 1)
    wrapper, before = scaled(model, loss_scale=dict(init_scale=2.0**10)), model.weight.detach().clone()
    step(model, wrapper, times=1e38)
    assert torch.equal(model.weight, before) and wrapper.loss_scaler.get_scale() == 2.0**9
    assert not wrapper.take_verdict().faulty


def test_a_wrong_loss_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_scale='static': give 'dynamic', a number, or the arguments"):
        scaled(nn.Linear(2, 1), loss_scale='static')


# --- memory order ---


def test_maps_lie_in_channels_last_and_the_weights_stay_where_they_are() -> None:
    torch.manual_seed(0)
    plain = ConvNeXt(STAGES).eval()
    changed = nn.Module()
    changed.backbone = copy.deepcopy(plain)
    PrecisionHook().before_train(run_of(changed, None))
    assert all(value.is_contiguous() for value in changed.parameters())
    image = torch.rand(2, 3, 64, 96)
    for expected, given in zip(plain(image), changed.backbone(image), strict=True):
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
        assert given.is_contiguous(memory_format=torch.channels_last) and expected.is_contiguous()


@pytest.mark.parametrize('extractor', ['backbones.SingleRoIExtractor', 'mmdet.SingleRoIExtractor'])
def test_channels_last_finds_the_same_boxes_and_masks(extractor: str) -> None:
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(ROOT / 'configs/small/mask-rcnn_convnext_demo.py')
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        cfg.model.roi_head[name].type = extractor
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    init_default_scope('mmdet')
    torch.manual_seed(0)
    plain = MODELS.build(cfg.model).eval()
    changed = copy.deepcopy(plain)
    PrecisionHook().before_train(run_of(changed, None))
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    expected, given = (features_and_logits(model, image) for model in (plain, changed))
    for one, other in zip(expected, given, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def features_and_logits(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Class scores, boxes and mask logits of fixed RoIs; what comes before (RPN, NMS) sorts by score."""
    rois = torch.tensor([[0, 4.0, 8, 60, 50], [0, 10, 10, 90, 30], [0, 0, 0, 96, 64]])  # (n, 5)
    with torch.no_grad():
        maps = model.extract_feat((image[None].float() - 127) / 60)
        head = model.roi_head
        scores, boxes = head.bbox_head(head.bbox_roi_extractor(maps[:4], rois))
        return [*maps, scores, boxes, head.mask_head(head.mask_roi_extractor(maps[:4], rois))]
