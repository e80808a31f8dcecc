"""Prepared detectors and segmenters, of the small configs, give what the plain ones give."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.inference import prepare_for_inference

SIZE = (96, 128)


@pytest.fixture(scope='module', params=['mask-rcnn_convnext_demo.py', 'upernet_convnext_camvid.py'])
def model(request):
    cfg = Config.fromfile(ROOT / 'configs' / 'small' / request.param)
    importlib.import_module(f'{cfg.default_scope}.models')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    model.scope = cfg.default_scope
    return model


@torch.no_grad()
def predicted(model) -> torch.Tensor:
    """Scores and boxes of the best detections, or logits; in the dtype they come in."""
    structures = importlib.import_module(f'{model.scope}.structures')
    sample = (structures.DetDataSample if model.scope == 'mmdet' else structures.SegDataSample)()
    sample.set_metainfo(dict(
        img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, batch_input_shape=SIZE, scale_factor=(1.0, 1.0)))
    image = torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    result = model.test_step(dict(inputs=[image], data_samples=[sample]))[0]
    return result.pred_instances.scores[:20] if model.scope == 'mmdet' else result.seg_logits.data


def test_in_fp32_the_results_are_the_same_within_rounding(model):
    expected = predicted(model)
    assert len(expected)
    torch.testing.assert_close(
        predicted(prepare_for_inference(copy.deepcopy(model), 'fp32')), expected, atol=1e-5, rtol=1e-4)


def test_in_bf16_the_results_come_in_fp32_and_are_close(model):
    expected = predicted(model)
    outputs = predicted(prepare_for_inference(copy.deepcopy(model), 'bf16'))
    assert outputs.dtype == torch.float32
    assert (outputs - expected).norm() < 0.05 * expected.norm()


def test_no_batch_norm_behind_a_convolution_is_left(model):
    prepared = prepare_for_inference(copy.deepcopy(model), 'fp32')
    assert not [module for module in prepared.modules() if isinstance(module, _BatchNorm)]
