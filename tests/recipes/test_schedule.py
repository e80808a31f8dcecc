"""The learning rate of every step, against the formulas of the sources."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT
from mmengine.config import Config

from backbones.recipes.schedule import lr_factors, steps_per_epoch, total_steps, warmup_note

# MMEngine's ramps reach their end one step earlier than mmcv's: 1 / 250 of the ViTDet warm-up at most.
ONE_STEP = 1 / 250


def factors(schedule: str, total_batch: int = 16) -> np.ndarray:
    cfg = Config.fromfile(ROOT / f'configs/_base_/schedules/{schedule}.py')
    cfg.train_dataloader = dict(
        batch_size=2, dataset=dict(data_root='coco', ann_file='instances_train2017.json', filter_cfg=dict(
            filter_empty_gt=True)))
    return lr_factors(cfg)


def warmup(steps: np.ndarray, length: int, start: float) -> np.ndarray:
    """mmcv's linear warm-up: https://github.com/open-mmlab/mmcv/blob/v1.7.2/mmcv/runner/hooks/lr_updater.py#L104"""
    return np.where(steps < length, 1 - (1 - steps / length) * (1 - start), 1.0)


@pytest.mark.parametrize(('schedule', 'length'), [('ade20k_160k', 160000), ('ade20k_40k', 40000)])
def test_poly_is_that_of_mmcv_at_every_step(schedule: str, length: int) -> None:
    steps = np.arange(length)
    expected = warmup(steps, 1500, 1e-6) * (1 - steps / length)
    assert expected[1500] == pytest.approx(1 - 1500 / length)  # the decay runs under the warm-up
    np.testing.assert_allclose(factors(schedule), expected, atol=1 / 1500, rtol=0)


def test_the_cosine_of_dinov3_ends_at_zero_with_the_training() -> None:
    steps = np.arange(40000)
    expected = warmup(steps, 1500, 1e-6) * 0.5 * (1 + np.cos(np.pi * steps / 40000))
    np.testing.assert_allclose(factors('ade20k_40k_cosine'), expected, atol=ONE_STEP, rtol=0)


def test_epochs_step_where_mmcv_steps_them() -> None:
    epoch = -(-117266 // 16)
    steps = np.arange(36 * epoch)
    expected = warmup(steps, 500, 0.001) * 0.1 ** ((steps >= 27 * epoch).astype(int) + (steps >= 33 * epoch))
    np.testing.assert_allclose(factors('coco_3x'), expected, atol=ONE_STEP, rtol=0)


@pytest.mark.parametrize(('schedule', 'length', 'first', 'second'), [
    ('lsj_100e', 184375, 163889, 177546), ('lsj_75e', 138281, 122916, 133159), ('lsj_50e', 92187, 81944, 88773)])
def test_vitdet_steps_at_the_iterations_of_its_code(schedule: str, length: int, first: int, second: int) -> None:
    found = factors(schedule)
    steps = np.arange(length)
    expected = warmup(steps, 250, 0.001) * 0.1 ** ((steps >= first).astype(int) + (steps >= second))
    np.testing.assert_allclose(found, expected, atol=ONE_STEP, rtol=0)


def test_an_epoch_has_the_steps_of_the_data_set_or_a_thousand_where_it_is_unknown() -> None:
    cfg = Config.fromfile(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py')
    assert steps_per_epoch(cfg) == 7330  # 117,266 images with objects, 16 a step, the last step smaller
    assert total_steps(cfg) == 36 * 7330
    cfg.train_dataloader.dataset.ann_file = 'mine.json'
    assert steps_per_epoch(cfg) == 1000


@pytest.mark.parametrize(('steps', 'said'), [(36, 'for all of it'), (2000, 'for 25% of it'), (5000, None)])
def test_a_warmup_of_more_than_a_tenth_of_the_run_is_noted(steps: int, said: str | None) -> None:
    cfg = Config.fromfile(ROOT / 'configs/convnext/mask-rcnn_convnext-t-in22k_12e-1gpu_coco.py')
    notes = warmup_note(cfg, steps)
    assert [said in note and f'the run has {steps}' in note for note in notes] == ([True] if said else [])
