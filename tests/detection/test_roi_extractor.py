"""RoI coordinates survive mixed precision."""

from __future__ import annotations

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MMDetExtractor

from backbones.detection.roi_extractor import SingleRoIExtractor

SETTINGS = dict(
    roi_layer=dict(type='RoIAlign', output_size=2, sampling_ratio=2), out_channels=3, featmap_strides=[4, 8])
# x = 1023.7 has no bf16 form: the nearest is 1024
ROIS = torch.tensor([[0, 1000.3, 20.7, 1023.7, 40.2], [0, 700.1, 5.3, 1001.9, 60.6]])


def maps(kind: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Ramps along x, exact in bf16 up to rounding of the values."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, 3, 64 // s, 1024 // s, generator=generator).to(torch.bfloat16).to(kind) for s in (4, 8))


def test_in_fp32_the_features_are_those_of_mmdet() -> None:
    features = SingleRoIExtractor(**SETTINGS)(maps(torch.float32), ROIS)
    assert torch.equal(features, MMDetExtractor(**SETTINGS)(maps(torch.float32), ROIS))


def test_in_bf16_the_features_are_those_of_fp32_rounded_once() -> None:
    exact = SingleRoIExtractor(**SETTINGS)(maps(torch.float32), ROIS)
    features = SingleRoIExtractor(**SETTINGS)(maps(torch.bfloat16), ROIS)
    assert features.dtype == torch.bfloat16
    assert torch.equal(features, exact.to(torch.bfloat16))


def test_rounded_coordinates_would_give_other_features() -> None:
    exact = SingleRoIExtractor(**SETTINGS)(maps(torch.float32), ROIS)
    rounded = SingleRoIExtractor(**SETTINGS)(maps(torch.float32), ROIS.bfloat16().float())
    assert (exact - rounded).abs().max() > 0.05


def test_maps_in_nhwc_order_give_the_same_features() -> None:
    maps = [torch.rand(2, 8, 16 // 2**i, 24 // 2**i) for i in range(2)]
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
    extractor = SingleRoIExtractor(layer, out_channels=8, featmap_strides=[4, 8])
    rois = torch.tensor([[0, 3.0, 5, 40, 60], [1, 0, 0, 96, 64]])
    turned = [m.to(memory_format=torch.channels_last) for m in maps]
    assert extractor(tuple(turned), rois).equal(extractor(tuple(maps), rois))
