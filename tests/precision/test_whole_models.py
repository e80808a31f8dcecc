"""Detectors and segmenters in bf16: losses and results in fp32, close to those of the fp32 model."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import ROOT
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from stock import toy

from backbones.measure import synthetic_batch
from backbones.precision.compute import compute_in
from backbones.precision.islands import heads

STAGES = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
BACKBONE = dict(type='backbones.ConvNeXt', arch=STAGES, layer_scale_init_value=1.0)


def detector(fragment: str) -> nn.Module:
    """A toy Mask R-CNN or Cascade."""
    init_default_scope('mmdet')
    model = toy.toy_fragment(fragment)
    model.backbone, model.neck.in_channels = BACKBONE, list(STAGES['dims'])
    torch.manual_seed(0)
    return _without_syncbn(model)


def segmenter() -> nn.Module:
    """A toy UperNet."""
    init_default_scope('mmseg')
    model = Config.fromfile(ROOT / 'configs/_base_/models/upernet.py').model
    model.backbone, model.test_cfg = BACKBONE, dict(mode='whole')
    model.data_preprocessor.size = (64, 96)
    model.decode_head.update(in_channels=list(STAGES['dims']), channels=16, num_classes=5, dropout_ratio=0.0)
    model.auxiliary_head.update(in_channels=24, channels=8, num_classes=5, dropout_ratio=0.0)
    torch.manual_seed(0)
    return _without_syncbn(model)


def _without_syncbn(model: dict) -> nn.Module:
    def change(node: object) -> None:
        if isinstance(node, dict) and node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            change(child)

    change(model)
    return MODELS.build(model)


@pytest.fixture(params=['mask_rcnn', 'cascade_mask_rcnn', 'upernet'])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """In training mode."""
    return segmenter() if request.param == 'upernet' else detector(request.param)


def losses(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of one pass; the samplers draw the same numbers."""
    data = synthetic_batch(model, (64, 96), 2, objects=3) if hasattr(model, 'decode_head') else toy.batch(0, (64, 96))
    torch.manual_seed(1)
    return model(**model.data_preprocessor(data, True), mode='loss')


def total(model: nn.Module) -> torch.Tensor:
    """The sum that training descends."""
    return model.parse_losses(losses(model))[0]


def test_losses_are_fp32_and_close_to_those_of_the_fp32_model(model: nn.Module) -> None:
    plain = copy.deepcopy(model)
    compute_in(model, 'bf16')
    assert total(model).dtype == torch.float32
    torch.testing.assert_close(total(model), total(plain), rtol=3e-2, atol=0)


def test_every_trained_parameter_gets_a_finite_fp32_gradient(model: nn.Module) -> None:
    plain = copy.deepcopy(model)
    for each in (model, plain):
        if each is model:
            compute_in(model, 'bf16')
        total(each).backward()
    reached = {name for name, value in plain.named_parameters() if value.grad is not None}
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert set(found) == reached
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values())


def test_the_work_between_images_and_heads_is_bf16(model: nn.Module) -> None:
    compute_in(model, 'bf16')
    seen: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            module.register_forward_hook(lambda module, given, out, name=name: seen.update({name: out.dtype}))
    losses(model)
    assert seen and set(seen.values()) == {torch.bfloat16}


def test_maps_stay_in_channels_last_to_the_last_convolution(model: nn.Module) -> None:
    compute_in(model, 'bf16')
    wrong: list[str] = []

    def look(name: str, x: torch.Tensor) -> None:
        if x.ndim == 4 and not x.is_contiguous(memory_format=torch.channels_last):
            wrong.append(name)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and 'roi_head' not in name:
            module.register_forward_hook(lambda module, given, out, name=name: look(name, out))
    losses(model)
    assert wrong == []


def test_predictions_are_fp32(model: nn.Module) -> None:
    model.eval()
    compute_in(model, 'bf16')
    data = synthetic_batch(model, (64, 96), 1, objects=1)
    with torch.no_grad():
        sample = model.test_step(data)[0]
    values = sample.seg_logits.data if 'seg_logits' in sample else sample.pred_instances.scores
    assert values.dtype == torch.float32
    if 'pred_instances' in sample:
        assert sample.pred_instances.bboxes.dtype == torch.float32


def test_all_heads_of_a_cascade_are_known() -> None:
    kinds = [type(head).__name__ for head in heads(detector('cascade_mask_rcnn'))]
    assert kinds.count('ConvFCBBoxHead') + kinds.count('Shared2FCBBoxHead') + kinds.count('Shared4Conv1FCBBoxHead') == 3
    assert 'RPNHead' in kinds and kinds.count('FCNMaskHead') == 3


def test_a_copy_of_a_model_computes_with_its_own_heads() -> None:
    model = detector('mask_rcnn')
    compute_in(model, 'bf16').stop()
    copied = copy.deepcopy(model)
    maps = [torch.randn(1, 8, 8, 8) for _ in range(5)]
    with torch.no_grad():
        for value in copied.rpn_head.parameters():
            value.zero_()
        assert not any(x.any() for level in copied.rpn_head(maps) for x in level)
        assert all(x.any() for level in model.rpn_head(maps) for x in level)


def test_a_head_of_another_kind_is_refused_by_its_name() -> None:
    model = detector('mask_rcnn')
    model.semantic_head = nn.Conv2d(8, 3, 1)
    with pytest.raises(ValueError, match='MaskRCNN has semantic_head, and only of dense'):
        compute_in(model, 'bf16')


def test_layers_of_mmcv_that_make_their_own_maps_keep_their_weights_order() -> None:
    from mmcv.ops import ModulatedDeformConv2dPack

    from backbones.precision.copies import LowPrecisionCopies

    model = nn.Sequential(nn.Conv2d(4, 4, 3), ModulatedDeformConv2dPack(4, 4, 3, padding=1))
    LowPrecisionCopies(model, torch.bfloat16).refresh()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].conv_offset.weight.is_contiguous() and model[1].weight.is_contiguous()
