"""RoI features: mmcv's values, gradients and levels on NHWC memory, with coordinates that survive mixed precision."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor as MMDetExtractor
from torch import Tensor

from backbones.detection import roi_pooling
from backbones.detection.roi_extractor import SingleRoIExtractor
from backbones.detection.roi_pooling import Pooling, level_of, roi_align

STRIDES = [4, 8, 16, 32]
# x = 1023.7 has no bf16 form: the nearest is 1024
ROIS = torch.tensor([[0, 1000.3, 20.7, 1023.7, 40.2], [0, 700.1, 5.3, 1001.9, 60.6]])
ODD = torch.tensor([
    [0, -30.0, -30, -10, -10], [1, -3, -3, 9, 9], [1, 5, 5, 5, 5], [0, 10, 20, 10, 90], [0, 290, 190, 400, 300],
    [1, 500, 500, 600, 600], [0, 0, 3, 300, 5], [1, 100, -50, 103, 250], [0, 0, 0, 304, 208], [1, -4, 0, 310, 4]])


def extractor(size: int | tuple[int, int] = 7, ratio: int = 0, aligned: bool = True, strides: list[int] = STRIDES,
              kind: type = SingleRoIExtractor, channels: int = 6) -> torch.nn.Module:
    layer = dict(type='RoIAlign', output_size=size, sampling_ratio=ratio, aligned=aligned)
    return kind(layer, out_channels=channels, featmap_strides=strides, finest_scale=28)


def maps(channels: int = 6, images: int = 2, strides: list[int] = STRIDES, size: tuple = (208, 304)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, channels, size[0] // s, size[1] // s, generator=generator) for s in strides]


def rois(number: int = 60, images: int = 2) -> Tensor:
    """Of all sizes and shapes, also across the border."""
    generator = torch.Generator().manual_seed(1)
    side = torch.exp(torch.randn(number, 2, generator=generator) * 0.9 + 3.7).clamp(1, 280)
    corner = torch.rand(number, 2, generator=generator) * torch.tensor([304, 208]) - side / 2
    image = torch.randint(0, images, (number, 1), generator=generator)
    return torch.cat([image, corner, corner + side], dim=1)


def nhwc(values: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(m.contiguous(memory_format=torch.channels_last).requires_grad_(m.is_floating_point()) for m in values)


@pytest.mark.parametrize(('size', 'ratio', 'aligned'), [
    (7, 0, True), (14, 0, True), (7, 2, True), (7, 1, True), ((3, 5), 0, True), ((3, 5), 3, True), (7, 0, False),
    (1, 0, True)])
def test_features_and_gradients_are_those_of_mmcv(size: int | tuple[int, int], ratio: int, aligned: bool) -> None:
    boxes = torch.cat([rois(), ODD])
    own, stock = nhwc(maps()), tuple(m.requires_grad_() for m in maps())
    features = extractor(size, ratio, aligned)(own, boxes)
    expected = extractor(size, ratio, aligned, kind=MMDetExtractor)(stock, boxes)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((features * weight).sum(), own)
    wanted = torch.autograd.grad((expected * weight).sum(), stock)
    torch.testing.assert_close(gradients, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('ratio', [0, 2])
def test_on_a_gpu_all_levels_are_pooled_without_asking_which_rois_are_theirs(ratio: int) -> None:
    boxes, own = torch.cat([rois(), ODD]), extractor(ratio=ratio)
    features = own._every_level(maps(), boxes, level_of(boxes, 4, 28))
    assert features.equal(extractor(ratio=ratio, kind=MMDetExtractor)(maps(), boxes))


def test_strides_that_are_no_powers_of_two_and_a_single_level_work() -> None:
    values, boxes = maps(strides=[14]), rois(20)
    expected = extractor(strides=[14], kind=MMDetExtractor)(values, boxes)
    torch.testing.assert_close(extractor(strides=[14])(nhwc(values), boxes), expected, rtol=1e-5, atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Tensor, ...]:
        own = nhwc(maps())
        features = extractor()(own, rois())
        return features, *torch.autograd.grad(features.square().sum(), own)

    expected = run()
    monkeypatch.setattr(roi_pooling, 'CHUNK', 100)
    torch.testing.assert_close(run(), expected)


def test_the_features_lie_in_nhwc_memory_and_nhwc_maps_are_not_copied() -> None:
    own, seen = nhwc(maps()), []
    with pytest.MonkeyPatch.context() as patch:
        bag = roi_pooling.embedding_bag
        patch.setattr(roi_pooling, 'embedding_bag',
                      lambda places, table, **more: (seen.append(table.data_ptr()), bag(places, table, **more))[1])
        features = extractor()(own, rois())
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert len(set(seen)) > 1 and set(seen) <= {m.data_ptr() for m in own}


def test_no_rois_give_no_features_and_a_gradient_of_zero() -> None:
    for turn in (nhwc, lambda values: tuple(m.requires_grad_() for m in values)):
        own = turn(maps())
        features = extractor()(own, torch.zeros(0, 5))
        assert features.shape == (0, 6, 7, 7)
        assert all(g.abs().sum() == 0 for g in torch.autograd.grad(features.sum(), own))


@pytest.mark.parametrize('roi', [[0, 1.0, 2, torch.nan, 4], [0, 1, 2, torch.inf, 4]])
def test_a_roi_that_is_no_number_has_features_that_are_none_so_that_the_loss_tells(roi: list[float]) -> None:
    features = extractor()(nhwc(maps()), torch.tensor([roi, [0, 1, 2, 9, 9]]))
    assert features[0].isnan().all() and features[1].isfinite().all()


def test_a_roi_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match='edges in the wrong order'):
        extractor()(nhwc(maps()), torch.tensor([[0, 9.0, 2, 3, 4]]))


def test_levels_are_those_of_mmdet() -> None:
    boxes = rois(500)
    assert level_of(boxes, 4, 28).equal(extractor(kind=MMDetExtractor).map_roi_levels(boxes, 4))


def test_rois_may_be_scaled_after_their_level_is_chosen() -> None:
    expected = extractor(kind=MMDetExtractor)(maps(), rois(), 1.5)
    torch.testing.assert_close(extractor()(nhwc(maps()), rois(), 1.5), expected, rtol=1e-5, atol=1e-5)


def test_other_layers_go_through_mmdet() -> None:
    layer = dict(type='RoIAlign', output_size=2, sampling_ratio=2, pool_mode='max')
    settings = dict(roi_layer=layer, out_channels=6, featmap_strides=STRIDES)
    expected = MMDetExtractor(**settings)(maps(), rois())
    assert SingleRoIExtractor(**settings)(nhwc(maps()), rois()).equal(expected)


# ---- low precision

LOW = dict(size=2, ratio=2, strides=[4, 8], channels=3)


def low_maps(kind: torch.dtype) -> tuple[Tensor, ...]:
    """Maps that are exact in bf16."""
    return nhwc([m.bfloat16().to(kind) for m in maps(3, 1, [4, 8], (64, 1024))])


@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
def test_in_low_precision_features_differ_by_rounding_only(kind: torch.dtype) -> None:
    exact = extractor(**LOW)(low_maps(torch.float32), ROIS)
    features = extractor(**LOW)(low_maps(kind), ROIS)
    assert features.dtype == kind
    rounding = torch.finfo(kind).eps
    torch.testing.assert_close(features.float(), exact, rtol=rounding, atol=rounding)


def test_rounded_coordinates_would_give_other_features() -> None:
    exact = extractor(**LOW)(low_maps(torch.float32), ROIS)
    rounded = extractor(**LOW)(low_maps(torch.float32), ROIS.bfloat16().float())
    assert (exact - rounded).abs().max() > 0.05


def test_gradients_of_low_precision_are_summed_in_fp32() -> None:
    def gradient(kind: torch.dtype) -> Tensor:
        own = nhwc([torch.zeros(1, 1, 16, 16, dtype=kind)])
        # 2000 equal RoIs: a sum in bf16 would stop at 256 times the first
        features = roi_align(own, torch.tensor([[0, 0.0, 0, 16, 16]]).repeat(2000, 1), Pooling((2, 2), (1.0,)))
        return torch.autograd.grad(features.sum(), own)[0].float()

    torch.testing.assert_close(gradient(torch.bfloat16), gradient(torch.float32), rtol=1e-2, atol=0)


def test_few_rois_on_nchw_maps_are_left_to_mmcv() -> None:
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        forward = RoIAlign.forward
        patch.setattr(RoIAlign, 'forward', lambda self, *args: (calls.append(1), forward(self, *args))[1])
        extractor()(tuple(maps()), rois(1))
        few = len(calls)
        extractor()(tuple(maps()), rois(200))
    assert few == len(calls) == 4
