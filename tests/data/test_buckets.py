"""Batches in few calls are those of the toolboxes, bit by bit; in training they have few sizes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from backbones.data import buckets
from backbones.data.buckets import bucket_of, bucket_sizes, checked_buckets, image_batch
from backbones.detection.preprocessor import det_data_preprocessor
from backbones.segmentation.preprocessor import seg_data_preprocessor

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SHAPES = {'equal': [(40, 64)] * 3, 'different': [(40, 64), (33, 70), (52, 31)], 'one': [(37, 53)]}
DET = dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32)
SEG = dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_val=0, seg_pad_val=255)


def images(shapes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Bytes."""
    numbers = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=numbers) for shape in shapes]


def detection(shapes: list[tuple[int, int]]) -> dict[str, Any]:
    """A batch of mmdet with masks."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    samples = []
    for shape in shapes:
        masks = BitmapMasks(np.ones((2, *shape), dtype=np.uint8), *shape)
        sample = DetDataSample(metainfo=dict(img_shape=shape))
        sample.gt_instances = InstanceData(bboxes=torch.ones(2, 4), labels=torch.zeros(2), masks=masks)
        samples.append(sample)
    return dict(inputs=images(shapes), data_samples=samples)


def segmentation(shapes: list[tuple[int, int]]) -> dict[str, Any]:
    """A batch of mmseg with label maps."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for shape in shapes:
        sample = SegDataSample(metainfo=dict(img_shape=shape))
        sample.gt_sem_seg = PixelData(data=torch.ones(1, *shape, dtype=torch.long))
        samples.append(sample)
    return dict(inputs=images(shapes), data_samples=samples)


def both(plain: nn.Module, ours: nn.Module, batch: dict, training: bool = True) -> tuple[dict, dict]:
    """What each makes of a batch."""
    return plain(copy.deepcopy(batch), training), ours(copy.deepcopy(batch), training)


# --- equal bits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shapes', SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('options', [DET, dict(DET, bgr_to_rgb=False, pad_value=7), dict(pad_size_divisor=16)], ids=str)
def test_detection_batches_are_those_of_mmdet(shapes: list, training: bool, options: dict) -> None:
    from mmdet.models import DetDataPreprocessor

    plain, ours = both(DetDataPreprocessor(**options), det_data_preprocessor(**options), detection(shapes), training)
    assert ours['inputs'].dtype == torch.float32 and ours['inputs'].equal(plain['inputs'])
    for one, other in zip(ours['data_samples'], plain['data_samples'], strict=True):
        assert one.metainfo == other.metainfo
        assert np.array_equal(one.gt_instances.masks.masks, other.gt_instances.masks.masks)


@pytest.mark.parametrize('shapes', SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize('pad', [dict(size=(64, 72)), dict(size_divisor=32), dict(size_divisor=1)], ids=str)
def test_segmentation_batches_are_those_of_mmseg(shapes: list, pad: dict) -> None:
    from mmseg.models import SegDataPreProcessor

    options = SEG | pad
    plain, ours = both(SegDataPreProcessor(**options), seg_data_preprocessor(**options), segmentation(shapes))
    assert ours['inputs'].equal(plain['inputs'])
    for one, other in zip(ours['data_samples'], plain['data_samples'], strict=True):
        assert one.metainfo == other.metainfo
        assert one.gt_sem_seg.data.equal(other.gt_sem_seg.data)


def test_evaluation_of_segmentation_is_that_of_mmseg() -> None:
    from mmseg.models import SegDataPreProcessor

    options = SEG | dict(size=(64, 72), test_cfg=dict(size_divisor=32))
    batch = segmentation(SHAPES['one'])
    plain, ours = both(SegDataPreProcessor(**options), seg_data_preprocessor(**options), batch, training=False)
    assert ours['inputs'].equal(plain['inputs'])
    assert ours['data_samples'][0].metainfo == plain['data_samples'][0].metainfo


def test_images_that_are_floats_and_need_no_padding_stay_as_they_are() -> None:
    given = [torch.rand(3, 4, 6), torch.rand(3, 4, 6)]
    kept = copy.deepcopy(given)
    batch = image_batch(given, (4, 6), torch.ones(3, 1, 1), torch.ones(3, 1, 1), flip=False, pad_value=0)
    assert batch.equal(torch.stack(kept) - 1)
    assert all(one.equal(other) for one, other in zip(given, kept, strict=True))


# --- buckets ------------------------------------------------------------------------------------------------


def test_buckets_go_down_to_half_of_the_largest_size_in_both_orientations() -> None:
    assert bucket_sizes((64, 96), step=32) == (
        (32, 32), (32, 64), (64, 32), (32, 96), (96, 32), (64, 64), (64, 96), (96, 64))


def test_where_orientations_meet_in_a_batch_there_are_squares_up_to_the_longest_side() -> None:
    assert set(bucket_sizes((64, 96), step=32, mixed=True)) - set(bucket_sizes((64, 96), step=32)) == {(96, 96)}


def test_the_buckets_of_the_multi_scale_recipe_are_few() -> None:
    sizes = bucket_sizes((800, 1344))
    assert len(sizes) == 50 and sizes[-1] in ((800, 1344), (1344, 800)) and min(map(min, sizes)) == 416


def test_a_batch_gets_the_smallest_bucket_that_holds_it() -> None:
    sizes = bucket_sizes((64, 96), step=32)
    assert [bucket_of(size, sizes) for size in [(1, 33), (33, 64), (65, 20), (65, 65)]] == [
        (32, 64), (64, 64), (96, 32), None]


def test_a_training_batch_of_detection_is_padded_to_its_bucket_with_its_masks() -> None:
    ours = det_data_preprocessor(**DET, buckets=[(64, 128), (128, 64), (64, 64)])
    batch = ours(detection(SHAPES['different']), True)
    assert batch['inputs'].shape == (3, 3, 64, 128)
    assert {sample.batch_input_shape for sample in batch['data_samples']} == {(64, 128)}
    assert {sample.gt_instances.masks.masks.shape for sample in batch['data_samples']} == {(2, 64, 128)}
    assert [sample.pad_shape for sample in batch['data_samples']] == [(64, 64), (64, 96), (64, 32)]
    plain = det_data_preprocessor(**DET)(detection(SHAPES['different']), True)['inputs']
    assert batch['inputs'][..., :64, :96].equal(plain) and not batch['inputs'][..., 96:].any()


def test_a_training_batch_of_segmentation_is_padded_to_its_bucket_with_its_labels() -> None:
    ours = seg_data_preprocessor(**SEG, size_divisor=32, buckets=[(64, 128), (64, 64)])
    batch = ours(segmentation(SHAPES['different']), True)
    assert batch['inputs'].shape == (3, 3, 64, 128)
    labels = [sample.gt_sem_seg.data for sample in batch['data_samples']]
    assert {label.shape for label in labels} == {(1, 64, 128)}
    assert [int((label == 255).sum()) for label in labels] == [64 * 128 - h * w for h, w in SHAPES['different']]


def test_evaluation_knows_no_buckets() -> None:
    ours = det_data_preprocessor(**DET, buckets=[(512, 512)])
    assert ours(detection(SHAPES['one']), False)['inputs'].shape == (1, 3, 64, 64)


def test_a_batch_larger_than_all_buckets_keeps_its_size_and_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(buckets, 'print_log', lambda text, **_: said.append(text))
    ours = det_data_preprocessor(**DET, buckets=[(32, 32)])
    for _ in range(2):
        assert ours(detection(SHAPES['one']), True)['inputs'].shape == (1, 3, 64, 64)
    (text,) = said
    assert 'a training batch of 64 x 64 is larger than all buckets (the largest has 32 x 32)' in text


@pytest.mark.parametrize('wrong', [[], [(64,)], [(64, 50)], [(64, 64.0)], [64, 64], [(0, 32)]], ids=str)
def test_buckets_that_are_no_sizes_are_refused(wrong: list) -> None:
    with pytest.raises(ValueError, match='give sizes'):
        checked_buckets(wrong, 32)


def test_steps_that_do_not_fit_the_divisor_are_refused() -> None:
    with pytest.raises(ValueError, match='the step is a multiple of the divisor, such as 128'):
        bucket_sizes((800, 1344), step=100)
    with pytest.raises(ValueError, match='leave one of them out'):
        seg_data_preprocessor(**SEG, size=(64, 64), buckets=[(64, 64)])


def test_a_fresh_config_builds_them_by_name() -> None:
    from mmdet.registry import MODELS

    built = MODELS.build(dict(type='backbones.DetDataPreprocessor', **DET))
    assert isinstance(built, MODELS.get('DetDataPreprocessor'))
