"""Training on pictures without any object."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT
from mmengine.structures import InstanceData

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import MODELS, init_default_scope

from backbones.config import load_config

H, W = 64, 96


def without_objects() -> DetDataSample:
    sample = DetDataSample(
        metainfo=dict(img_shape=(H, W), ori_shape=(H, W), pad_shape=(H, W), batch_input_shape=(H, W),
                      scale_factor=(1.0, 1.0), img_id=1))
    sample.gt_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), masks=BitmapMasks([], H, W))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample


@pytest.fixture(scope='module')
def model() -> torch.nn.Module:
    """The demo's Mask R-CNN, narrower."""
    cfg = load_config(ROOT / 'configs/small/mask-rcnn_convnext_demo.py')
    init_default_scope(cfg.default_scope)
    dims = (8, 16, 24, 32)
    cfg.model.backbone.arch = dict(depths=(1, 1, 1, 1), dims=dims)
    cfg.model.neck.in_channels = list(dims)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.train()


def test_a_batch_of_pictures_without_objects_has_finite_losses_and_gradients(model):
    losses = model.loss(torch.randn(2, 3, H, W), [without_objects(), without_objects()])
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total) and total > 0  # objectness and background are learnt
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()] == []
    for part in ('backbone.', 'neck.', 'rpn_head.rpn_cls', 'roi_head.bbox_head.fc_cls'):
        assert any(name.startswith(part) and gradient.abs().sum() > 0 for name, gradient in gradients.items()), part


def test_every_trained_parameter_has_a_gradient_so_that_distributed_training_goes_on(model):
    model.zero_grad()
    losses = model.loss(torch.randn(2, 3, H, W), [without_objects(), without_objects()])
    model.parse_losses(losses)[0].backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
