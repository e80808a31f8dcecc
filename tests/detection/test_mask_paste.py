"""Masks pasted inside their boxes: the bits of mmdet's bitmaps, the run lengths of pycocotools."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads import FCNMaskHead as MMDetFCNMaskHead
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor

from backbones.detection import mask_changes
from backbones.detection.mask_paste import as_bitmaps, as_rles, encode_masks, flip_masks, paste_masks

SIZE = (61, 83)
LARGE = """
import resource, sys, torch
from backbones.detection.mask_paste import encode_masks
unit = 1 if sys.platform == 'darwin' else 1024  # of ru_maxrss
encode_masks(torch.rand(1, 28, 28), torch.tensor([[1.0, 2, 30, 40]]), (50, 60))
corner = torch.rand(300, 2) * torch.tensor([4000, 2000])
boxes, masks = torch.cat([corner, corner + torch.tensor([4000, 2000])], dim=1), torch.rand(300, 28, 28)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(encode_masks(masks, boxes, (4000, 8000))) == 300  # as bitmaps 9.6 GB
print(unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
TEST = dict(score_thr=0.05, mask_thr_binary=0.5)


def pasted_by_mmdet(masks: Tensor, boxes: Tensor, size: tuple[int, int] = SIZE, threshold: float = 0.5) -> Tensor:
    """mmdet's loop for a CPU, one mask at a time; where it fails (a box beyond the image) nothing is pasted."""
    bitmaps = torch.zeros(len(masks), *size, dtype=torch.bool)
    for bitmap, mask, box in zip(bitmaps, masks, boxes, strict=True):
        try:
            values, place = _do_paste_mask(mask[None, None], box[None], *size, skip_empty=True)
        except RuntimeError as error:
            assert 'bound' in str(error)  # torch.arange from right to left
            continue
        bitmap[place] = values[0] >= threshold
    return bitmaps


def drawn(number: int = 30, side: int = 28, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Masks (N, M, M), noise and smooth ones, and boxes (N, 4) inside, across and outside the image, 0.05 to 400 px."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(number, side, side, generator=generator)
    smooth = torch.rand(number, 1, 4, 4, generator=generator)
    masks[::2] = F.interpolate(smooth, (side, side), mode='bilinear')[::2, 0]
    extent = torch.exp(torch.rand(number, 2, generator=generator) * 9 - 3)
    centre = (torch.rand(number, 2, generator=generator) * 1.4 - 0.2) * torch.tensor([SIZE[1], SIZE[0]])
    return masks, torch.cat([centre - extent / 2, centre + extent / 2], dim=1)


def assert_same(masks: Tensor, boxes: Tensor, size: tuple[int, int] = SIZE, threshold: float = 0.5) -> Tensor:
    expected = pasted_by_mmdet(masks, boxes, size, threshold)
    assert torch.equal(paste_masks(masks, boxes, size, threshold), expected)
    assert encode_masks(masks, boxes, size, threshold) == encode_mask_results(expected.numpy())
    return expected


# ---- the functions


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('side', [1, 7, 28])
def test_random_boxes_give_the_bits_of_mmdet_and_the_run_lengths_of_pycocotools(side: int, seed: int) -> None:
    assert assert_same(*drawn(side=side, seed=seed)).any()


@pytest.mark.parametrize('threshold', [0.0, 1e-5, 0.1, 0.75, 1.0])
def test_every_threshold_gives_the_same_masks(threshold: float) -> None:
    assert_same(*drawn(), threshold=threshold)


@pytest.mark.parametrize('box', [
    (-50, -40, -20, -10), (200, 100, 260, 140), (-3, -3, -0.5, -0.5), (83, 61, 83, 61),  # beyond the image, at its edge
    (-1000, -1000, 1000, 1000), (-1e5, 10, 1e5, 30), (-1e9, -1e9, 1e9, 1e9),  # huge
    (10, 10, 11, 11), (10.5, 10.5, 11.5, 11.5), (10.2, 10.2, 10.25, 10.25), (5, 5, 6, 50),  # a pixel, less, a line
    (10, 10, 10, 10), (10.5, 20.5, 10.5, 30), (7, 7.5, 30, 7.5), (30, 30, 29, 40),  # no area; turned round
    (0, 0, 83, 61), (0, 0, 1, 61), (40, 0, 83, 61), (20, 0, 30, 40), (20, 30, 30, 61),  # to the edges
])  # fmt: skip
def test_boxes_of_every_kind_give_the_same_masks(box: tuple[float, ...]) -> None:
    masks = torch.cat([drawn(6)[0], torch.ones(1, 28, 28)])
    assert_same(masks, torch.tensor([box], dtype=torch.float32).expand(7, 4).contiguous())


@pytest.mark.parametrize('size', [(1, 1), (1, 90), (90, 1), (2, 3)])
def test_images_of_a_pixel_or_a_line_give_the_same_masks(size: tuple[int, int]) -> None:
    assert_same(*drawn(), size=size)


def test_masks_that_are_not_square_give_the_same_bits() -> None:
    masks, boxes = drawn()
    assert_same(masks[:, :9].contiguous(), boxes)
    assert_same(masks[:, :, :9].contiguous(), boxes)


def levels(step: float) -> Tensor:
    """Masks whose values and many of whose interpolations lie at the threshold."""
    return (drawn()[0] / step).round() * step


@pytest.mark.parametrize('masks', [
    levels(0.25), levels(0.5), levels(1.0), torch.full((30, 28, 28), 0.5), 0.5 + (drawn()[0] - 0.5) * 1e-4,
    torch.zeros(30, 28, 28), torch.ones(30, 28, 28), drawn()[0] * 8 - 4,
], ids=['quarters', 'halves', 'bits', 'at the threshold', 'near it', 'nothing', 'everything', 'logits'])  # fmt: skip
def test_values_at_the_threshold_are_decided_as_mmdet_decides_them(masks: Tensor) -> None:
    boxes = drawn()[1]
    assert_same(masks, boxes)
    assert_same(masks, boxes.round())
    assert_same(masks, (boxes * 4).round() / 4)


def test_without_sampling_the_pixels_at_the_threshold_bits_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, boxes = levels(0.25), drawn()[1].round()
    expected = assert_same(masks, boxes)
    monkeypatch.setattr(mask_changes, 'TOLERANCE', 0.0)
    assert not torch.equal(paste_masks(masks, boxes, SIZE), expected)


def test_masks_with_nan_give_the_same_bits() -> None:
    masks, boxes = drawn()
    masks[::3, 5, 7] = torch.nan
    masks[1::3, 5, 7] = torch.inf
    assert_same(masks, boxes)


def test_tracing_is_what_proper_boxes_get(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[5.0, 6, 70, 50], [-10, 3, 20, 90]])

    def never(*_: object) -> None:
        raise AssertionError('sampled')

    monkeypatch.setattr(mask_changes, '_sampled', never)
    assert len(encode_masks(drawn(2)[0], boxes, SIZE)) == 2


@pytest.mark.parametrize('name, value', [('CELLS', 40), ('PIXELS', 50), ('SINGLE', 0), ('SIDES', (1e9, 1e9))])
def test_the_size_of_the_pieces_changes_nothing(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_changes, name, value)
    assert_same(*drawn())
    assert_same(torch.full((30, 28, 28), 0.5), drawn()[1])


def test_no_mask_gives_no_mask() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE).shape == (0, *SIZE)
    assert encode_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE) == []


def test_half_precision_gives_the_masks_of_its_rounded_numbers() -> None:
    masks, boxes = drawn()
    half = masks.bfloat16()
    assert encode_masks(half, boxes, SIZE) == encode_masks(half.float(), boxes, SIZE)


def test_300_masks_of_8000_x_4000_pixels_add_less_than_100_mib_to_a_process(run_python: Callable) -> None:
    done = run_python(LARGE)
    assert int(done.stdout.split()[-1]) < 100 * 2**20, done.stderr


@pytest.mark.parametrize('masks, boxes, size, threshold, words', [
    (torch.rand(2, 3, 28, 28), torch.rand(2, 4), SIZE, 0.5, 'of the predicted class'),
    (torch.rand(2, 28, 28), torch.rand(3, 4), SIZE, 0.5, r'give \(N, M, M\)'),
    (torch.rand(2, 28, 28), torch.full((2, 4), torch.nan), SIZE, 0.5, 'no finite numbers'),
    (torch.rand(2, 28, 28), torch.rand(2, 4), SIZE, -1.0, 'no probability'),
    (torch.rand(2, 28, 28), torch.rand(2, 4), (0, 5), 0.5, 'no image'),
])  # fmt: skip
def test_what_cannot_be_pasted_is_refused(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        encode_masks(masks, boxes, size, threshold)


def test_bitmaps_and_run_lengths_turn_into_each_other() -> None:
    masks, boxes = drawn()
    bitmaps, rles = paste_masks(masks, boxes, SIZE), encode_masks(masks, boxes, SIZE)
    assert torch.equal(as_bitmaps(rles, SIZE), bitmaps)
    assert as_rles(bitmaps) == as_rles(bitmaps.numpy()) == as_rles(rles) == rles
    assert as_bitmaps(bitmaps, SIZE) is bitmaps
    assert as_bitmaps([], SIZE).shape == (0, *SIZE)


@pytest.mark.parametrize('direction, axes', [('horizontal', [2]), ('vertical', [1]), ('diagonal', [1, 2])])
def test_run_lengths_are_flipped_as_bitmaps_are(direction: str, axes: list[int]) -> None:
    bitmaps = paste_masks(*drawn(), SIZE)
    assert torch.equal(flip_masks(bitmaps, direction), bitmaps.flip(axes))
    assert flip_masks(as_rles(bitmaps), direction) == as_rles(bitmaps.flip(axes))


def test_a_flip_of_no_known_direction_is_refused() -> None:
    with pytest.raises(ValueError, match='horizontal'):
        flip_masks([], 'sideways')


# ---- the head


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    init_default_scope('mmdet')


def heads(**settings: object) -> tuple[MMDetFCNMaskHead, MMDetFCNMaskHead]:
    """mmdet's head and ours, with the same weights."""
    settings = dict(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=3, **settings)
    theirs, ours = MODELS.build(dict(type='FCNMaskHead', **settings)), MODELS.build(
        dict(type='backbones.FCNMaskHead', **settings))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def predict(head: MMDetFCNMaskHead, rescale: bool = True, activated: bool = False, **test: object) -> list:
    """The results of two images, the second without a box."""
    masks, boxes = drawn()
    logits = torch.stack([masks, masks.flip(1), masks.flip(2)], dim=1) * 6 - 3  # (N, 3, M, M)
    logits = logits[:, : 1 if head.class_agnostic else 3]
    inside = boxes.clamp(min=0).minimum(torch.tensor([SIZE[1], SIZE[0]] * 2)) * torch.tensor([1.5, 1.7] * 2)
    numbers = torch.arange(len(boxes))
    results = [InstanceData(bboxes=inside, labels=numbers % 3, scores=numbers / 100), InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))]
    metas = [dict(ori_shape=SIZE, scale_factor=(1.5, 1.7))] * 2
    predicted = (logits.sigmoid() if activated else logits, logits[:0])
    return head.predict_by_feat(
        predicted, results, metas, ConfigDict(**TEST, **test), rescale=rescale, activate_map=activated)


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('activated', [False, True])
@pytest.mark.filterwarnings('ignore:To copy construct')
def test_the_head_predicts_the_masks_and_boxes_of_mmdet(agnostic: bool, rescale: bool, activated: bool) -> None:
    theirs, ours = heads(class_agnostic=agnostic)
    expected, found = predict(theirs, rescale, activated), predict(ours, rescale, activated)
    for one, other in zip(expected, found, strict=True):
        assert one.masks.dtype == other.masks.dtype
        assert torch.equal(one.masks, other.masks)
        assert torch.equal(one.bboxes, other.bboxes)
    assert expected[0].masks.any()


def test_the_head_predicts_run_lengths_where_the_test_settings_say_so() -> None:
    theirs, ours = heads()
    expected, found = predict(theirs), predict(ours, mask_format='rle')
    assert found[0].masks == encode_mask_results(expected[0].masks.numpy())
    assert found[1].masks == []
    assert torch.equal(found[0].bboxes, expected[0].bboxes)


def test_results_with_run_lengths_can_be_chosen_from_moved_and_joined() -> None:
    results = predict(heads()[1], mask_format='rle')[0]
    chosen = results[results.scores > 0.1].cpu()
    assert chosen.masks == results.masks[11:]
    assert InstanceData.cat([results[:2], results[2:]]).masks == results.masks


def test_grey_masks_are_those_of_mmdet_and_have_no_run_lengths() -> None:
    theirs, ours = heads()
    grey = dict(TEST, mask_thr_binary=-1)
    expected, found = (head.predict_by_feat(*_one(), ConfigDict(grey), rescale=True)[0] for head in (theirs, ours))
    assert torch.equal(expected.masks, found.masks)
    assert found.masks.dtype == torch.uint8
    with pytest.raises(ValueError, match='no run lengths'):
        ours.predict_by_feat(*_one(), ConfigDict(grey, mask_format='rle'), rescale=True)


def _one() -> tuple:
    """Prediction, results and meta of one image with one box."""
    results = InstanceData(bboxes=torch.tensor([[3.0, 4, 40, 50]]), labels=torch.zeros(1, dtype=torch.long))
    return (drawn(1)[0][:, None].repeat(1, 3, 1, 1),), [results], [dict(ori_shape=SIZE, scale_factor=(1.0, 1.0))]


def test_bitmaps_that_do_not_fit_are_refused_before_they_are_made() -> None:
    head = heads()[1]
    logits, results = torch.zeros(300, 3, 28, 28), InstanceData(
        bboxes=torch.zeros(300, 4), labels=torch.zeros(300, dtype=torch.long))
    meta = dict(ori_shape=(4000, 8000), scale_factor=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"300 masks of 8000 x 4000 pixels are 9\.6 GB .*mask_format='rle'"):
        head.predict_by_feat((logits,), [results], [meta], ConfigDict(TEST), rescale=True)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_format='png' is unknown; choose one of \['bitmap', 'rle'\]"):
        predict(heads()[1], mask_format='png')


def test_the_head_takes_no_init_cfg_as_that_of_mmdet() -> None:
    with pytest.raises(ValueError, match='leave it out'):
        MODELS.build(dict(type='backbones.FCNMaskHead', init_cfg=dict(type='Normal')))


@pytest.mark.parametrize('settings', [dict(), dict(upsample_cfg=dict(type='bilinear', scale_factor=2)), dict(
    norm_cfg=dict(type='BN'), predictor_cfg=dict(type='NormedConv2d', temperature=20))])
def test_the_head_is_that_of_mmdet_in_parameters_and_outputs(settings: dict) -> None:
    theirs, ours = heads(**settings)
    assert isinstance(ours, MMDetFCNMaskHead)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    features = torch.rand(2, 4, 14, 14)
    assert torch.equal(ours.eval()(features), theirs.eval()(features))


def test_a_fresh_process_builds_the_head_by_name_from_the_registry_of_mmdet(run_python: Callable) -> None:
    done = run_python(
        "from mmdet.registry import MODELS\nprint(type(MODELS.build(dict(type='backbones.FCNMaskHead'))).__module__)")
    assert done.stdout.split()[-1:] == ['backbones.detection.mask_prediction'], done.stderr


def test_the_metric_gives_the_same_scores_for_run_lengths_as_for_bitmaps(tmp_path: object) -> None:
    from backbones.evaluation.coco_metric import CocoMetric

    masks = predict(heads()[1], mask_format='rle')[0].masks
    largest = sorted(range(len(masks)), key=lambda n: coco_mask.area(masks[n]))[-3:]
    annotations = [dict(
        id=n + 1, image_id=1, category_id=n % 3 + 1, bbox=coco_mask.toBbox(masks[n]).tolist(), iscrowd=0,
        area=float(coco_mask.area(masks[n])), segmentation=dict(masks[n], counts=masks[n]['counts'].decode()),
    ) for n in largest]
    file = tmp_path / 'truth.json'
    file.write_text(json.dumps(dict(
        images=[dict(id=1, file_name='1.jpg', width=SIZE[1], height=SIZE[0])],
        categories=[dict(id=c + 1, name=f'c{c}') for c in range(3)], annotations=annotations)))
    scores = []
    for form in ('bitmap', 'rle'):
        metric = CocoMetric(str(file), metric='segm')
        metric.dataset_meta = dict(classes=('c0', 'c1', 'c2'))
        sample = DetDataSample(
            metainfo=dict(img_id=1, ori_shape=SIZE),
            pred_instances=predict(heads()[1], mask_format=form)[0])
        metric.process({}, [sample.to_dict()])
        scores.append(metric.evaluate(size=1))
    assert scores[0] == scores[1]
    assert scores[0]['coco/segm_mAP'] > 0
    assert np.isfinite(list(scores[0].values())).all()
