"""The Cascade head of detectron2: one mask head, proposals drawn once, gradients into the features divided."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import ROOT
from detection.waiting import waits
from mmdet.models.roi_heads import CascadeRoIHead as MMDetCascadeRoIHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from stock.toy import CLASSES, WIDTH, batch, toy_fragment
from torch import Tensor, nn

from backbones.detection import roi_extractor, slots
from backbones.detection.slots import Slots

VIT = dict(
    type='backbones.VisionTransformer', arch=dict(embed_dim=16, depth=2, num_heads=2), with_cls_token=False,
    window_size=2, global_attn_indexes=(1,), rel_pos='decomposed', img_size=64, patch_size=16)


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    init_default_scope('mmdet')
    torch.manual_seed(0)


def detector() -> nn.Module:
    """ViTDet's Cascade Mask R-CNN in toy width."""
    model = toy_fragment('cascade_mask_rcnn_vitdet')
    model.backbone = VIT
    model.neck.in_channels = 16
    built = MODELS.build(model)
    built.init_weights()
    return built.train()


def losses_of(model: nn.Module, objects: int = 3) -> dict:
    data = model.data_preprocessor(batch(0, objects=objects), training=True)
    return model(**data, mode='loss')


def spied(model: nn.Module) -> list[Slots]:
    """What every stage of the steps to come draws."""
    seen = []
    head = model.roi_head
    original = head._draw
    head._draw = lambda *args: (seen.append(original(*args)), seen[-1])[1]
    return seen


def total(losses: dict) -> Tensor:
    parts = [value for name, value in losses.items() if 'loss' in name]
    return sum(sum(part) if isinstance(part, list) else part for part in parts)


def parameters(name: str) -> dict[str, int]:
    """Parameters of the full-size model by part, and in total."""
    model = Config.fromfile(ROOT / 'configs' / '_base_' / 'models' / f'{name}.py').model
    model.backbone = dict(VIT, arch='base', window_size=14, global_attn_indexes=(2, 5, 8, 11), img_size=1024)
    model.neck.in_channels = 768
    with torch.device('meta'):
        built = MODELS.build(model)
    parts = {part: sum(p.numel() for p in module.parameters()) for part, module in built.named_children()}
    return dict(parts, total=sum(parts.values()))


def test_the_parameters_are_those_of_detectron2() -> None:
    # counted on detectron2's own definition
    cascade, mask = parameters('cascade_mask_rcnn_vitdet'), parameters('mask_rcnn_vitdet')
    assert (cascade['roi_head'], mask['roi_head']) == (48_527_951, 18_262_753)
    assert (cascade['neck'], cascade['rpn_head']) == (5_560_000, 1_184_015)
    assert (cascade['total'], mask['total']) == (141_160_990, 110_895_792)


def test_every_stage_has_its_losses_and_the_mask_head_one() -> None:
    names = {name for name in losses_of(detector()) if 'rpn' not in name}
    expected = {f's{stage}.{part}' for stage in range(3) for part in ('loss_cls', 'loss_bbox', 'acc')}
    assert names == expected | {'loss_mask'}


@pytest.mark.parametrize('objects', [3, 0])
def test_every_parameter_gets_a_gradient(objects: int) -> None:
    model = detector()
    total(losses_of(model, objects)).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_it_is_a_cascade_head_of_mmdet() -> None:
    assert isinstance(detector().roi_head, MMDetCascadeRoIHead)


def test_there_is_one_mask_head_under_the_names_of_mask_rcnn() -> None:
    cascade = {name for name in detector().state_dict() if 'roi_head.mask_head' in name}
    model = toy_fragment('mask_rcnn_vitdet')
    model.backbone = VIT
    model.neck.in_channels = 16
    assert cascade == {name for name in MODELS.build(model).state_dict() if 'roi_head.mask_head' in name}


def test_later_stages_take_all_boxes_of_the_first_with_the_ground_truth_among_them() -> None:
    model = detector()
    seen = spied(model)
    losses_of(model)
    first, second, third = seen
    # the objects themselves are among what the first stage drew
    assert [image.sum() for image in first.images(first.is_truth)] == [3, 3]
    assert first.counts == second.counts == third.counts == [24, 24]


def test_later_stages_get_the_boxes_that_the_stage_before_predicted() -> None:
    model = detector()
    seen = spied(model)
    predicted = []
    model.roi_head.bbox_head[0].register_forward_hook(lambda module, inputs, output: predicted.append(output[1]))
    losses_of(model)
    coder = model.roi_head.bbox_head[0].bbox_coder
    moved = coder.decode(seen[0].rois[:24, 1:], predicted[0][:24].detach(), max_shape=(64, 64))
    second = seen[1].rois[:24, 1:]
    torch.testing.assert_close(second, moved)
    assert not second.requires_grad


def test_the_mask_head_learns_from_the_positives_of_the_first_stage() -> None:
    model = detector()
    seen = spied(model)
    rois = []
    model.roi_head.mask_roi_extractor.register_forward_hook(lambda module, inputs, output: rois.append(inputs[1]))
    losses_of(model)
    assert torch.equal(rois[0], seen[0].rois[seen[0].positive])
    assert len(rois) == 1


def gradient(head: nn.Module, part: str) -> tuple[Tensor, Tensor]:
    """Gradient of one stage's losses, or of the mask loss, at the maps and at the last layer of its head."""
    torch.manual_seed(1)
    maps = tuple(torch.randn(2, WIDTH, 64 // s, 64 // s, requires_grad=True) for s in (4, 8, 16, 32))
    boxes = [InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40], [20, 8, 60, 50]])) for _ in range(2)]
    losses = head.loss(maps, boxes, batch(0)['data_samples'])
    sum(value for name, value in losses.items() if name.startswith(part) and 'loss' in name).backward()
    last = head.mask_head.conv_logits if part == 'loss_mask' else head.bbox_head[int(part[1])].fc_cls
    return maps[0].grad, last.weight.grad


@pytest.mark.parametrize(('part', 'factor'), [('s0', 3.0), ('s1', 3.0), ('s2', 3.0), ('loss_mask', 1.0)])
def test_a_third_of_a_box_heads_gradient_reaches_the_features(part: str, factor: float) -> None:
    head = detector().roi_head
    scaled = gradient(head, part)
    head.zero_grad()
    head._bbox_forward = lambda stage, x, rois: MMDetCascadeRoIHead._bbox_forward(head, stage, x, rois)
    plain = gradient(head, part)
    torch.testing.assert_close(scaled[0] * factor, plain[0])
    torch.testing.assert_close(scaled[1], plain[1])  # the head itself learns at full rate


def test_empty_boxes_are_dropped_between_stages() -> None:
    model = detector()
    seen = spied(model)
    # a large move to the right puts every box beyond the border, where clipping leaves no width
    nn.init.constant_(model.roi_head.bbox_head[0].fc_reg.bias, 0.0)
    model.roi_head.bbox_head[0].fc_reg.bias.data[0] = 100.0
    losses = losses_of(model)
    assert seen[1].counts == [0, 0]
    total(losses).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert torch.isfinite(total(losses))


def test_at_test_the_probabilities_of_the_stages_are_averaged() -> None:
    model = detector().eval()
    head = model.roi_head
    # opposite and unequal scores: the mean of the probabilities is not the probability of the mean score
    for stage, score in enumerate((6.0, 0.0, -2.0)):
        nn.init.zeros_(head.bbox_head[stage].fc_cls.weight)
        head.bbox_head[stage].fc_cls.bias.data = torch.tensor([score, 0.0, 0.0, 1.0])
    maps = tuple(torch.randn(1, WIDTH, 64 // s, 64 // s) for s in (4, 8, 16, 32))
    found = InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40]]))
    with torch.no_grad():
        result = head.predict(maps, [found], batch(0, images=1)['data_samples'])[0]
    each = [torch.tensor([score, 0.0, 0.0, 1.0]).softmax(0) for score in (6.0, 0.0, -2.0)]
    expected = (sum(each) / 3)[:CLASSES]
    torch.testing.assert_close(result.scores, expected[result.labels])
    assert sorted(result.labels.tolist()) == [0, 1, 2]


def test_a_test_step_gives_boxes_and_masks_in_the_image() -> None:
    model = detector().eval()
    with torch.no_grad():
        results = model.test_step(batch(1))
    for result in results:
        found = result.pred_instances
        assert len(found) == 10
        assert found.masks.shape == (10, 64, 64)
        assert found.bboxes.min() >= 0 and found.bboxes.max() <= 64


def test_images_without_proposals_are_predicted_as_empty() -> None:
    head = detector().eval().roi_head
    maps = tuple(torch.randn(2, WIDTH, 64 // s, 64 // s) for s in (4, 8, 16, 32))
    boxes = [InstanceData(bboxes=torch.zeros(0, 4)), InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40]]))]
    with torch.no_grad():
        none, one = head.predict(maps, boxes, batch(0)['data_samples'])
        nothing = head.predict(maps, [boxes[0], copy.deepcopy(boxes[0])], batch(0)['data_samples'])
    assert len(none) == 0 and len(one) > 0
    assert [len(found) for found in nothing] == [0, 0]


def test_the_raw_outputs_can_be_had_without_postprocessing() -> None:
    model = detector().eval()
    data = model.data_preprocessor(batch(0), training=False)
    with torch.no_grad():
        *_, (scores, deltas, masks) = model(**data, mode='tensor')
    assert [part.shape[1] for part in (*scores, *deltas)] == [CLASSES + 1] * 2 + [4] * 2
    assert masks.shape[1:] == (CLASSES, 28, 28)


def test_an_impossible_head_is_refused_with_the_remedy() -> None:
    def build(change) -> None:
        model = toy_fragment('cascade_mask_rcnn_vitdet')
        cfg = dict(model.roi_head, train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)
        change(cfg)
        MODELS.build(cfg)

    sampler = dict(type='RandomSampler', num=4, pos_fraction=0.25)
    for change, words in (
        (lambda cfg: cfg.update(bbox_head=cfg['bbox_head'][0]), 'a list with one box head per stage'),
        (lambda cfg: cfg['bbox_head'][1].update(reg_class_agnostic=False), 'bbox_head.1. regresses boxes per class'),
        (lambda cfg: cfg['bbox_head'].pop(), '3 entries for 2 box heads'),
        (lambda cfg: cfg.update(mask_head=[cfg['mask_head']] * 3), 'all stages share one'),
        (lambda cfg: cfg['train_cfg'][2].update(sampler=sampler), "sampler=dict.type='PseudoSampler'"),
        (lambda cfg: cfg['bbox_head'][0].loss_cls.update(use_sigmoid=True), 'use_sigmoid=False'),
    ):
        with pytest.raises(ValueError, match=words):
            build(change)


@pytest.mark.parametrize('objects', [3, 0])
def test_empty_slots_change_no_loss(objects: int) -> None:
    head = detector().roi_head
    maps = tuple(torch.randn(2, WIDTH, 64 // s, 64 // s) for s in (4, 8, 16, 32))
    boxes = [InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40], [20, 8, 60, 50], [0, 0, 9, 9]])) for _ in range(2)]
    results = []
    for static in (True, False):
        head.static_slots = static
        torch.manual_seed(2)
        results.append(head.loss(maps, boxes, batch(0, objects=objects)['data_samples']))
    for name, value in results[1].items():
        torch.testing.assert_close(results[0][name].sum(), value.sum())


def test_the_host_waits_only_for_the_targets_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    head = detector().roi_head
    head.static_slots = True
    monkeypatch.setattr(roi_extractor, '_on_cpu', lambda x: False)
    maps = tuple(torch.randn(2, WIDTH, 64 // s, 64 // s) for s in (4, 8, 16, 32))
    boxes = [InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40], [20, 8, 60, 50]])) for _ in range(2)]
    samples = batch(0)['data_samples']
    head.loss(maps, boxes, samples)  # constants cross to the device once
    calls = []
    monkeypatch.setattr(
        slots, 'mask_targets', lambda lined, *_: (calls.append(1), torch.zeros(len(lined.among), 28, 28))[1])
    with waits() as seen:
        total(head.loss(maps, boxes, samples)).backward()
    assert not seen
    assert len(calls) == 1
