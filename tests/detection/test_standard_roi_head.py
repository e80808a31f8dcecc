"""The RoI heads without waiting: mmdet's losses, gradients and predictions, for Mask R-CNN and mmdet's Cascade."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from detection.waiting import Given, waits
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from stock.toy import WIDTH, batch, toy_fragment
from torch import Tensor, nn

from backbones.detection import matching, roi_extractor, slots, staged_slots, standard_slots

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    init_default_scope('mmdet')
    torch.manual_seed(0)
    with torch.backends.mkldnn.flags(enabled=False):  # compiles a kernel for every new number of RoIs
        yield


def heads(name: str, change: Callable | None = None) -> tuple[nn.Module, nn.Module]:
    """mmdet's RoI head and ours with the same weights."""
    model = toy_fragment(name)
    cfg = dict(model.roi_head, train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)
    (change or (lambda cfg: None))(cfg)
    ours = MODELS.build(copy.deepcopy(cfg))
    cfg['type'] = 'CascadeRoIHead' if name.startswith('cascade') else 'StandardRoIHead'
    stock = MODELS.build(cfg)
    for key, weight in stock.named_parameters():
        nn.init.normal_(weight, std=0.01 if 'fc_reg' in key else 0.2)
    ours.load_state_dict(stock.state_dict())
    return stock.train(), ours.train()


def maps(kind: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(2, WIDTH, max(1, SIZE[0] // s), SIZE[1] // s).to(kind).requires_grad_() for s in (4, 8, 16, 32))


def scene(objects: int = 3, number: int = 60) -> tuple[list[InstanceData], SampleList]:
    """Proposals near the objects and elsewhere, and the objects."""
    samples, proposals = batch(0, SIZE, objects=objects)['data_samples'], []
    for sample in samples:
        corner, side = torch.rand(number, 2) * 60, torch.rand(number, 2) * 40 + 4
        boxes = torch.cat([corner, corner + side], dim=1)
        near = sample.gt_instances.bboxes.repeat(5, 1)[: number // 2]
        boxes[: len(near)] = near + torch.randn(len(near), 4) * 2
        proposals.append(InstanceData(bboxes=boxes))
    return proposals, samples


def draws(ours: nn.Module, run: Callable) -> tuple[dict, list[matching.Drawn]]:
    """What `run` gives, and what it drew, by stage."""
    seen, original = [], matching.draw_rois

    def spy(*args: object) -> matching.Drawn:
        seen.append(original(*args))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        for module in (standard_slots, staged_slots):
            patch.setattr(module, 'draw_rois', spy)
        return run(), seen


def both(stock: nn.Module, ours: nn.Module, objects: int = 3, number: int = 60) -> list[dict]:
    """Losses and gradients of our head and of mmdet's on the same draws."""
    features, (proposals, samples) = maps(), scene(objects, number)
    own, drawn = draws(ours, lambda: ours.loss(features, copy.deepcopy(proposals), samples))
    samplers = stock.bbox_sampler if isinstance(stock.bbox_sampler, list) else [stock.bbox_sampler]
    given = [
        Given(sampler, [(b[p], b[v & ~p]) for b, p, v in zip(one.boxes, one.positive, one.valid, strict=True)])
        for sampler, one in zip(samplers, drawn, strict=True)]
    stock.bbox_sampler = given if isinstance(stock.bbox_sampler, list) else given[0]
    expected = stock.loss(features, copy.deepcopy(proposals), samples)
    results = []
    for head, losses in ((ours, own), (stock, expected)):
        inputs = [*features, *head.parameters()]
        total = sum(value.sum() for name, value in losses.items() if 'loss' in name)
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        gradients = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, gradients, strict=True)]
        results.append(dict({name: value.reshape(()) for name, value in losses.items()}, gradients=gradients))
    return results


def class_agnostic(cfg: dict) -> None:
    for head in cfg['bbox_head'] if isinstance(cfg['bbox_head'], list) else [cfg['bbox_head']]:
        head.reg_class_agnostic = True
    cfg['mask_head'].class_agnostic = True


def decoded(cfg: dict) -> None:
    cfg['bbox_head'].update(reg_decoded_bbox=True, loss_bbox=dict(type='CIoULoss', loss_weight=10.0))


def crowded(cfg: dict) -> None:
    cfg['train_cfg'].assigner.update(pos_iou_thr=0.3, neg_iou_thr=0.2, min_pos_iou=0.3, match_low_quality=False)
    cfg['train_cfg'].update(pos_weight=2.0)
    cfg['train_cfg'].sampler.update(neg_pos_ub=1)


def shared(cfg: dict) -> None:
    cfg['mask_roi_extractor'], cfg['train_cfg'].mask_size, cfg['mask_head'].roi_feat_size = None, 14, 7


def without_truth(cfg: dict) -> None:
    cfg['train_cfg'].sampler.update(add_gt_as_proposals=False)


def group_norm(cfg: dict) -> None:
    for head in cfg['bbox_head']:
        head.norm_cfg = dict(type='GN', num_groups=2)


CASES = [
    ('mask_rcnn', None), ('mask_rcnn', class_agnostic), ('mask_rcnn', decoded), ('mask_rcnn', crowded),
    ('mask_rcnn', shared), ('mask_rcnn', without_truth), ('cascade_mask_rcnn', None),
    ('cascade_mask_rcnn', class_agnostic), ('cascade_mask_rcnn', group_norm)]


@pytest.mark.parametrize(('name', 'change'), CASES, ids=lambda value: getattr(value, '__name__', value))
def test_for_equal_draws_losses_and_gradients_are_those_of_mmdet(name: str, change: Callable | None) -> None:
    own, expected = both(*heads(name, change))
    assert set(own) == set(expected)
    torch.testing.assert_close(own, expected, rtol=2e-5 if name.startswith('cascade') else 1e-6, atol=2e-6)


@pytest.mark.parametrize(('name', 'change'), CASES[:6] + CASES[8:], ids=lambda value: getattr(value, '__name__', value))
def test_empty_slots_change_no_loss_and_no_gradient(name: str, change: Callable | None) -> None:
    stock, ours = heads(name, change)
    ours.static_slots = True
    own, expected = both(stock, ours, number=12)  # fewer boxes than slots
    torch.testing.assert_close(own, expected, rtol=2e-5 if name.startswith('cascade') else 1e-6, atol=2e-6)


@pytest.mark.parametrize('static', [True, False])
def test_images_without_objects_have_the_losses_of_mmdet(static: bool) -> None:
    stock, ours = heads('mask_rcnn')
    ours.static_slots = static
    own, expected = both(stock, ours, objects=0)
    torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-7)
    assert own['loss_bbox'] == own['loss_mask'] == 0


@pytest.mark.parametrize('static', [True, False])
def test_without_a_single_box_every_parameter_still_gets_a_gradient(static: bool) -> None:
    _, ours = heads('mask_rcnn')
    ours.static_slots = static
    losses = ours.loss(maps(), *scene(objects=0, number=0))
    sum(losses[name].sum() for name in losses if 'loss' in name).backward()
    assert [key for key, weight in ours.named_parameters() if weight.grad is None or weight.grad.abs().sum() > 0] == []


def on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Take the ways of a GPU: mmcv's kernel on all levels."""
    patch.setattr(roi_extractor, '_on_cpu', lambda x: False)


@pytest.mark.parametrize(('name', 'change', 'transfers'), [
    ('mask_rcnn', None, 1), ('mask_rcnn', decoded, 1), ('cascade_mask_rcnn', group_norm, 3)])
def test_the_host_waits_only_for_the_targets_of_masks(
        name: str, change: Callable | None, transfers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = heads(name, change)
    ours.static_slots = True
    on_a_gpu(monkeypatch)
    features, (proposals, samples) = maps(), scene()
    ours.loss(features, proposals, samples)  # constants cross to the device once
    with monkeypatch.context() as patch:
        targets = slots.mask_targets
        patch.setattr(slots, 'mask_targets', lambda *args: torch.zeros(len(args[0].among), 28, 28))
        with waits() as seen:
            losses = ours.loss(features, proposals, samples)
            sum(losses[key].sum() for key in losses if 'loss' in key).backward()
    assert not seen
    crossings = []
    monkeypatch.setattr(slots, 'mask_targets', lambda *args: (crossings.append(1), targets(*args))[1])
    ours.loss(features, proposals, samples)
    assert len(crossings) == transfers


def test_targets_of_masks_take_one_transfer() -> None:
    _, ours = heads('mask_rcnn')
    proposals, samples = scene()
    _, drawn = draws(ours, lambda: ours.loss(maps(), proposals, samples))
    lined = slots.slots_of(drawn[0], fixed=True)
    crossed, original = [], Tensor.cpu
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, 'cpu', lambda self: (crossed.append(self.shape), original(self))[1])
        slots.mask_targets(lined, [one.gt_instances.masks for one in samples], ConfigDict(mask_size=28))
    # 6 slots of each image for positives; what crop_and_resize gives, (n, 28, 28), is on the host already
    assert [shape for shape in crossed if len(shape) == 2] == [(12, 7)]


def test_the_heads_of_mmdet_wait_many_times() -> None:
    stock, _ = heads('mask_rcnn')
    with waits() as seen:
        stock.loss(maps(), *scene())
    assert sum(seen.values()) > 30


def test_losses_are_fp32_whatever_the_heads_compute_in() -> None:
    _, ours = heads('mask_rcnn')
    features, (proposals, samples) = maps(), scene()
    torch.manual_seed(1)
    exact = ours.loss(features, proposals, samples)
    torch.manual_seed(1)
    low = ours.bfloat16().loss([x.bfloat16() for x in features], proposals, samples)
    for name, value in low.items():
        assert value.dtype == torch.float32
        if 'loss' in name:
            torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.01)


@pytest.mark.parametrize('name', ['mask_rcnn', 'cascade_mask_rcnn'])
def test_state_and_predictions_are_those_of_mmdet(name: str) -> None:
    stock, ours = heads(name)
    assert list(ours.state_dict()) == list(stock.state_dict())
    features, (proposals, samples) = maps(), scene()
    with torch.no_grad():
        own, expected = (head.eval().predict(features, proposals, samples) for head in (ours, stock))
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one.bboxes, other.bboxes)
        assert one.labels.equal(other.labels) and len(one) == 10


def test_what_needs_the_host_is_refused_with_the_remedy() -> None:
    def class_loss(cfg: dict) -> None:
        cfg['bbox_head'].loss_cls = dict(type='SeesawLoss', num_classes=3)

    def mask_loss(cfg: dict) -> None:
        cfg['mask_head'].loss_mask.class_weight = 2.0

    def sampler(cfg: dict) -> None:
        cfg['train_cfg'].sampler.update(type='OHEMSampler')

    def assigner(cfg: dict) -> None:
        cfg['train_cfg'].assigner = ConfigDict(type='CenterRegionAssigner', pos_scale=0.2, neg_scale=0.2)

    for change, words in (
            (class_loss, 'use_sigmoid=False'), (mask_loss, 'no class_weight'), (sampler, 'RandomSampler'),
            (assigner, 'MaxIoUAssigner')):
        model = toy_fragment('mask_rcnn')
        cfg = dict(model.roi_head, train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)
        change(cfg)
        cfg['type'] = 'backbones.StandardRoIHead'
        with pytest.raises(ValueError, match=words):
            MODELS.build(cfg)


def test_the_assigner_is_that_of_mmdet() -> None:
    torch.manual_seed(3)
    corner = torch.rand(400, 2) * 50
    boxes = torch.cat([corner, corner + torch.rand(400, 2) * 40], dim=1).round()  # ties
    for settings in (
            dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=True),
            dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.0, match_low_quality=True),
            dict(pos_iou_thr=0.6, neg_iou_thr=(0.1, 0.4), min_pos_iou=0.2, gt_max_assign_all=False),
            dict(pos_iou_thr=0.6, neg_iou_thr=0.6, match_low_quality=False, ignore_iof_thr=0.4),
            dict(pos_iou_thr=0.6, neg_iou_thr=0.6, ignore_iof_thr=0.4, ignore_wrt_candidates=False)):
        assigner = MaxIoUAssigner(**settings)
        for objects in (0, 1, 12):
            truth, crowds = boxes[:objects] + 1, boxes[50:53]
            expected = assigner.assign(
                InstanceData(priors=boxes), InstanceData(bboxes=truth, labels=torch.zeros(objects, dtype=torch.long)),
                InstanceData(bboxes=crowds)).gt_inds
            assert matching.match(assigner, boxes, truth, crowds).equal(expected)


@pytest.mark.parametrize(('name', 'roi_head'), [
    ('mask_rcnn', 'StandardRoIHead'), ('cascade_mask_rcnn', 'StagedRoIHead')])
def test_a_detector_of_these_heads_trains_with_the_loss_names_of_mmdet(name: str, roi_head: str) -> None:
    names = []
    for scope in ('', 'backbones.'):
        model = toy_fragment(name)
        model.backbone = dict(type='backbones.ConvNeXt', arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)))
        model.neck.in_channels = [8] * 4
        if scope:
            model.rpn_head.type, model.roi_head.type = 'backbones.RPNHead', f'backbones.{roi_head}'
        detector = MODELS.build(model).train()
        data = detector.data_preprocessor(batch(0, SIZE), training=True)
        total, values = detector.parse_losses(detector(**data, mode='loss'))
        total.backward()
        assert total.isfinite()
        assert [key for key, weight in detector.named_parameters() if weight.grad is None] == []
        names.append(list(values))
    assert sorted(names[0]) == sorted(names[1])
