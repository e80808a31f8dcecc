"""The parts of mmdet's and mmseg's models make whole graphs, with low-precision weights, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from backbones.compiling.regions import Region, compile_for_training

CONFIGS = {'mmdet': 'small/mask-rcnn_convnext_demo', 'mmseg': 'small/upernet_vit_demo'}
SIZES = [(64, 96), (96, 64)]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What other tests have compiled does not count."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def dense(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a training step computes before anything depends on the data, as the toolboxes call it."""
    maps = model.extract_feat(images)
    if hasattr(model, 'rpn_head'):
        found = model.rpn_head(maps)
    else:
        found = [[model.decode_head.forward(maps)], [model.auxiliary_head.forward(maps)]]
    return sum(each.float().square().mean() for level in found for each in level)


def trained(scope: str, precision: str) -> tuple[list[Region], list[bool]]:
    """A few steps of two sizes; the parts, and whether each parameter of them has a gradient."""
    pytest.importorskip(scope)
    cfg = Config.fromfile(ROOT / f'configs/{CONFIGS[scope]}.py')
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))  # SyncBN needs a GPU
    if precision != 'fp32':
        from backbones.precision.compute import compute_in

        compute_in(model, precision)
    regions = compile_for_training(model, backend='eager')
    for step in range(3):
        if precision != 'fp32':
            for hook in model._forward_pre_hooks.values():
                hook(model, ())  # what model(...) does first
        dense(model, torch.randn(2, 3, *SIZES[step % 2])).backward()
    return regions, [value.grad is not None for region in regions for value in region._module.parameters()]


@pytest.mark.soak
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('scope', CONFIGS)
def test_no_graph_breaks_and_none_is_made_twice(scope: str, precision: str) -> None:
    regions, reached = trained(scope, precision)
    heads = dict(mmdet=['rpn_head'], mmseg=['decode_head', 'auxiliary_head'])
    expected = ['backbone', 'neck', *heads[scope]]
    assert [region.name for region in regions] == expected
    assert all(reached)
    for region in regions:
        assert vars(region.counts) == dict(sizes=2, recompiles=0, graph_breaks=0, uncompiled=0), region.name
