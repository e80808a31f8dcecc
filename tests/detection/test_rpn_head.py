"""The region proposal network without waiting: mmdet's losses, gradients and proposals."""

from __future__ import annotations

import pytest
import torch
from detection.waiting import Given, waits
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from stock.toy import WIDTH, batch, toy_fragment
from torch import Tensor, nn

from backbones.detection import region_proposals

SIZE = (64, 96)
STRIDES = (4, 8, 16, 32, 64)


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    init_default_scope('mmdet')
    torch.manual_seed(0)


def heads(change: dict | None = None, rpn: dict | None = None) -> tuple[nn.Module, nn.Module, ConfigDict]:
    """mmdet's head and ours with the same weights, and the settings of proposals."""
    model = toy_fragment('mask_rcnn')
    model.train_cfg.rpn.update(rpn or {})
    cfg = dict(model.rpn_head, train_cfg=model.train_cfg.rpn, test_cfg=model.test_cfg.rpn)
    cfg.update(change or {})
    stock, ours = MODELS.build(dict(cfg, type='RPNHead')), MODELS.build(dict(cfg, type='backbones.RPNHead'))
    for weight in stock.parameters():
        nn.init.normal_(weight, std=0.2)
    ours.load_state_dict(stock.state_dict())
    return stock, ours, model.train_cfg.rpn_proposal


def maps(kind: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(2, WIDTH, max(1, SIZE[0] // s), max(1, SIZE[1] // s)).to(kind).requires_grad_() for s in STRIDES)


def truth(objects: int = 3, crowds: bool = False) -> tuple[list[InstanceData], list[dict], list[InstanceData] | None]:
    samples = batch(0, SIZE, objects=objects)['data_samples']
    found = [sample.gt_instances for sample in samples]
    for one in found:
        one.labels = torch.zeros_like(one.labels)
    ignored = [InstanceData(bboxes=torch.tensor([[0.0, 0, 60, 40]])), InstanceData(bboxes=torch.zeros(0, 4))]
    return found, [sample.metainfo for sample in samples], ignored if crowds else None


def losses_of_both(stock: nn.Module, ours: nn.Module, objects: int = 3, crowds: bool = False) -> list[dict]:
    """Losses and gradients of mmdet's head and of ours on the same draws."""
    features, (found, metas, ignored) = maps(), truth(objects, crowds)
    drawn = []

    def spy(matched: Tensor, sampler: object) -> tuple:
        result = original(matched, sampler)
        drawn.append(result)
        return result

    original = region_proposals.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(region_proposals, 'draw', spy)
        results = [ours.loss_by_feat(*ours(features), found, metas, ignored)]
    places, positives, negatives, _ = drawn[0]
    anchors = torch.cat(ours.anchors(features))
    boxes = [
        (anchors[place[:p]], anchors[place[p:p + n]])
        for place, p, n in zip(places, positives[:, 0].tolist(), negatives[:, 0].tolist(), strict=True)]
    stock.sampler = Given(stock.sampler, boxes)
    results.append(stock.loss_by_feat(*stock(features), found, metas, ignored))
    both = []
    for head, losses in ((ours, results[0]), (stock, results[1])):
        losses = {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}
        inputs = [*features, *head.parameters()]
        gradients = torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True)
        both.append(dict(losses, gradients=[torch.zeros_like(i) if g is None else g for i, g in zip(
            inputs, gradients, strict=True)]))
    return both


@pytest.mark.parametrize('case', [
    dict(), dict(objects=0), dict(crowds=True, rpn=dict(assigner=dict(
        type='MaxIoUAssigner', pos_iou_thr=0.6, neg_iou_thr=(0.1, 0.3), min_pos_iou=0.2, ignore_iof_thr=0.5))),
    dict(rpn=dict(allowed_border=0)), dict(rpn=dict(pos_weight=3.0)),
    dict(rpn=dict(sampler=dict(type='RandomSampler', num=32, pos_fraction=0.25, neg_pos_ub=2))),
    dict(change=dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.7))),
    dict(change=dict(loss_bbox=dict(type='SmoothL1Loss', beta=0.1))),
    dict(change=dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=5.0))),
], ids=lambda case: ' '.join(case) or 'plain')
def test_for_equal_draws_losses_and_gradients_are_those_of_mmdet(case: dict) -> None:
    stock, ours, _ = heads(case.get('change'), case.get('rpn'))
    own, expected = losses_of_both(stock, ours, case.get('objects', 3), case.get('crowds', False))
    assert set(own) == set(expected) == {'loss_rpn_cls', 'loss_rpn_bbox', 'gradients'}
    torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('training', [True, False])
def test_proposals_are_those_of_mmdet(training: bool) -> None:
    stock, ours, proposal = heads()
    cfg, metas, predicted = proposal if training else None, truth()[1], stock(maps())
    expected = stock.predict_by_feat(*predicted, batch_img_metas=metas, cfg=cfg)
    for found, wanted in zip(ours.predict_by_feat(*predicted, batch_img_metas=metas, cfg=cfg), expected, strict=True):
        assert len(found) == len(wanted) > 10
        torch.testing.assert_close(found.bboxes, wanted.bboxes)
        torch.testing.assert_close(found.scores, wanted.scores)
        assert found.labels.equal(wanted.labels)


def test_boxes_without_area_are_dropped_as_in_mmdet() -> None:
    stock, ours, proposal = heads()
    scores, deltas = stock(maps())
    moved = [delta + torch.tensor([30.0, 0, 0, 0]).repeat(delta.shape[1] // 4)[:, None, None] * (i < 2)
             for i, delta in enumerate(deltas)]  # most boxes of two levels leave the image
    arguments = dict(batch_img_metas=truth()[1], cfg=proposal)
    own = ours.predict_by_feat(scores, moved, **arguments)
    for found, wanted in zip(own, stock.predict_by_feat(scores, moved, **arguments), strict=True):
        torch.testing.assert_close(found.bboxes, wanted.bboxes)
        assert (found.bboxes[:, 2:] > found.bboxes[:, :2]).all()


def test_proposals_that_are_no_numbers_are_dropped() -> None:
    _, ours, proposal = heads()
    scores, deltas = ours(maps())
    with torch.no_grad():
        deltas[0][:, :, :8] = torch.nan
    for found in ours.predict_by_feat(scores, deltas, batch_img_metas=truth()[1], cfg=proposal):
        assert found.bboxes.isfinite().all()


def test_the_host_waits_for_nms_only_once_per_image() -> None:
    _, ours, proposal = heads()
    found, metas, _ = truth()
    predicted = ours(maps())
    ours.loss_by_feat(*predicted, found, metas)  # constants cross to the device once
    with waits() as losses:
        sum(ours.loss_by_feat(*predicted, found, metas).values()).backward()
    assert not losses
    with waits() as proposals:
        ours.predict_by_feat(*predicted, batch_img_metas=metas, cfg=proposal)
    assert dict(proposals) == {'masked_select': len(metas)}


def test_the_head_of_mmdet_waits_many_times() -> None:
    stock, _, _ = heads()
    found, metas, _ = truth()
    with waits() as seen:
        stock.loss_by_feat(*stock(maps()), found, metas)
    assert sum(seen.values()) > 30  # so the counter works


def test_losses_are_fp32_whatever_the_maps_are() -> None:
    _, ours, _ = heads()
    found, metas, _ = truth()
    features = maps(torch.bfloat16)
    exact = ours([x.float() for x in features])
    torch.manual_seed(1)
    expected = ours.loss_by_feat(*exact, found, metas)
    torch.manual_seed(1)
    low = ours.loss_by_feat(*([x.bfloat16() for x in part] for part in exact), found, metas)
    for name, value in low.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-3)


def test_the_state_has_the_names_of_mmdet() -> None:
    stock, ours, _ = heads()
    assert list(ours.state_dict()) == list(stock.state_dict())


@pytest.mark.parametrize(('change', 'rpn', 'words'), [
    (dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True)), {}, 'use CrossEntropyLoss'),
    (dict(bbox_coder=dict(type='TBLRBBoxCoder')), {}, 'use a DeltaXYWHBBoxCoder'),
    ({}, dict(sampler=dict(type='InstanceBalancedPosSampler', num=8, pos_fraction=0.5)), 'RandomSampler'),
    ({}, dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, gpu_assign_thr=9)), 'leave them'),
])
def test_what_needs_the_host_is_refused_with_the_remedy(change: dict, rpn: dict, words: str) -> None:
    model = toy_fragment('mask_rcnn')
    model.train_cfg.rpn.update(rpn)
    cfg = dict(model.rpn_head, train_cfg=model.train_cfg.rpn, test_cfg=model.test_cfg.rpn)
    cfg['type'] = 'backbones.RPNHead'
    cfg.update(change)
    with pytest.raises(ValueError, match=words):
        MODELS.build(cfg)


def test_anchors_beyond_a_smaller_image_of_the_batch_are_not_drawn() -> None:
    stock, ours, _ = heads()
    sizes = [(SIZE[0] // s or 1, SIZE[1] // s or 1) for s in STRIDES]
    for shape in ((64, 96), (40, 64), (32, 50)):
        expected = torch.cat(stock.prior_generator.valid_flags(sizes, shape, 'cpu'))
        assert ours._on_image(sizes, shape, torch.device('cpu')).equal(expected)


def test_anchors_that_a_prediction_made_serve_training_too() -> None:
    _, ours, proposal = heads(dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss')))
    found, metas, _ = truth()
    with torch.inference_mode():
        ours.predict_by_feat(*ours(maps()), batch_img_metas=metas, cfg=proposal)
    sum(ours.loss_by_feat(*ours(maps()), found, metas).values()).backward()
    assert ours.rpn_reg.weight.grad.isfinite().all()
