"""Every config is what its card says, and a config that is not is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from backbones.recipes.card import read_count, read_flops
from backbones.recipes.check import findings, flops_tolerance, params_tolerance

LEAVES = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')
MASK = 'convnext/mask-rcnn_convnext-t-in1k_3x_coco.py'
UPERNET = 'convnext/upernet_convnext-t-in1k_160k_ade20k-512.py'
VITDET = 'vit/mask-rcnn_vitdet-b-mae_100e_coco.py'
ONE_GPU = 'convnext/mask-rcnn_convnext-t-in22k_12e-1gpu_coco.py'
LINEAR = 'vit/linear_vit-b-dinov2_40k_ade20k-512.py'


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_a_config_is_what_its_card_says(path: Path) -> None:
    assert findings(path) == []


@pytest.mark.parametrize(('leaf', 'old', 'new', 'finding'), [
    # values: the card keeps what it says, the config does something else
    (MASK, 'optimizer=dict(lr=1e-4)', 'optimizer=dict(lr=2e-4)', 'lr: the card says 0.0001 and the config does 0.0002'),
    (MASK, 'optimizer=dict(lr=1e-4)', 'optimizer=dict(lr=1e-4, weight_decay=0.1)', 'weight_decay: the card says 0.05'),
    (MASK, 'decay_rate=0.95', 'decay_rate=0.9', "decay: the card says 'layer_wise 0.95, 6 layers' and the config does"),
    (MASK, "arch='tiny'", "arch='small'", "the config does 'layer_wise 0.95, 12 layers'"),
    (MASK, 'drop_path_rate=0.4', 'drop_path_rate=0.1', 'drop_path: the card says 0.4 and the config does 0.1'),
    (MASK, "type='backbones.GuardedAmpOptimWrapper', dtype='float16'", "type='OptimWrapper'",
     "precision: the card says 'fp16'"),
    (MASK, "dtype='float16'", "dtype='bfloat16'", "the config does 'bf16'"),
    (MASK, '/convnext_tiny_1k_224.pth', '/convnext_tiny_22k_224.pth', 'init: the card says'),
    (MASK, 'optim_wrapper =', 'total_batch = 8\noptim_wrapper =', 'batch: the card says 16 and the config does 8'),
    (MASK, 'optim_wrapper =', 'train_dataloader = dict(batch_size=4)\noptim_wrapper =', 'per_gpu: the card says 2'),
    (MASK, 'schedules/coco_3x', 'schedules/coco_12e', "the config does '12 epochs, steps"),
    (MASK, 'dict(lr=1e-4),', 'dict(lr=1e-4), clip_grad=dict(max_norm=1.0),', 'clip: the card says None and the config'),
    (UPERNET, 'stride=(341, 341)', 'stride=(400, 400)', 'test: the card says'),
    (UPERNET, "test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341))", "test_cfg=dict(mode='whole')",
     "the config does '2048 x 512, whole'"),
    (MASK, 'datasets/coco_ms', 'datasets/coco_lsj', "the config does '1024 x 1024 times 0.1..2.0, crop 1024 x 1024'"),
    (UPERNET, "decay_type='stage_wise', ", '', "the config does 'layer_wise 0.9, 6 layers'"),
    (VITDET, 'schedules/lsj_100e', 'schedules/lsj_75e', "the config does '138281 iterations"),
    (ONE_GPU, 'momentum=0.0002', 'momentum=0.001', 'ema: the card says 0.0002 and the config does 0.001'),
    (LINEAR, 'frozen_stages=12', 'frozen_stages=11', 'frozen: the card says True and the config does False'),
    # counts
    (MASK, "params='48M'", "params='50M'", 'params: the card prints 50M and the model has 48,'),
    (MASK, "flops='262G", "flops='266G", 'flops: the card prints 266G at 800 x 1280 and the model needs 261.9G'),
    # schedules
    (UPERNET, 'optim_wrapper =', 'train_cfg = dict(max_iters=320000)\noptim_wrapper =',
     'the learning rate is zero in 160001 of 320000 steps (50%)'),
    (UPERNET, 'optim_wrapper =', 'train_cfg = dict(max_iters=320000)\noptim_wrapper =',
     'the schedule ends before the training: step 160000 against 320000'),
    (UPERNET, 'optim_wrapper =', 'train_cfg = dict(max_iters=80000)\noptim_wrapper =',
     'the schedule ends after the training'),
    # form
    (MASK, 'model = dict(', '\n' * 40 + 'model = dict(', 'a leaf has at most 50'),
    (MASK, 'neck=dict(', 'neck=dict(_delete_=True, type="FPN", ', '_delete_ is used'),
    (MASK, 'tools/train.py configs/convnext/mask', 'tools/train.py configs/convnext/other', 'the docstring lacks its'),
    (MASK, '--nproc_per_node 8', '--nproc_per_node 3', 'the command starts 3 processes of 2 images'),
    (MASK, "per_gpu=2, ", '', "lacks ['per_gpu']"),
    (MASK, 'card = dict(', 'card = dict(warm_up=3, ', "unknown key 'warm_up'; did you mean 'warmup'?"),
    (MASK, "params='48M'", "params='48 million'", "'48 million' is no printed count"),
    (MASK, 'score=dict(box=', 'score=dict(boxes=', "score has the unknown names ['boxes']"),
    (MASK, 'score=dict(box=46.2', "score=dict(box='46.2'", "score has box='46.2', which is no number"),
    (MASK, "params='48M'", 'params=48000000', 'params=48000000 must be str'),
    (MASK, 'batch=16, ', "batch='16', ", "batch='16' must be int"),
    (MASK, 'per_gpu=2, ', 'per_gpu=0, ', 'per_gpu=0 must be 1 or more'),
    (MASK, 'at 800 x 1280', 'at 0 x 1280', 'is no count of FLOPs'),
    (MASK, 'optim_wrapper =', 'train_dataloader = None\noptim_wrapper =', 'what the config does cannot be worked out'),
])  # fmt: skip
def test_a_difference_is_reported(
    changed: Callable[[str, str, str], Path], leaf: str, old: str, new: str, finding: str
) -> None:
    found = findings(changed(leaf, old, new), count=finding.startswith(('params', 'flops')))
    assert any(finding in text for text in found), found


def test_dead_keys_are_reported_before_anything_is_compared(changed: Callable[[str, str, str], Path]) -> None:
    found = findings(changed(MASK, 'optim_wrapper =', 'fp16 = dict(loss_scale=512)\noptim_wrapper ='))
    assert 'fp16' in found[0]
    assert found[1:] == ['not compared with its card before these are mended']


def test_what_is_wrong_with_the_form_and_with_the_values_is_reported_at_once(
    changed: Callable[[str, str, str], Path]) -> None:
    path = changed(MASK, '--nproc_per_node 8', '--nproc_per_node 3')
    path.write_text(path.read_text().replace('optimizer=dict(lr=1e-4)', 'optimizer=dict(lr=2e-4)'))
    assert [text.split(':')[0].split(' ')[0] for text in findings(path, count=False)] == ['the', 'lr']


def test_a_published_count_may_be_off_by_its_last_digit_and_ours_may_not() -> None:
    assert params_tolerance(read_count('662M')) == 1e6
    assert params_tolerance(read_count('662M (ours)')) == 0.5e6


def test_flops_may_be_off_by_a_hundredth_or_by_what_a_tera_can_tell() -> None:
    assert flops_tolerance(read_flops('741G at 800 x 1280')[0]) == pytest.approx(7.41e9)
    assert flops_tolerance(read_flops('0.8T at 1024 x 1024')[0]) == pytest.approx(0.06e12)
