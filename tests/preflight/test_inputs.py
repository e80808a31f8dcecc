"""Mean, std, channel order and eps against what weights were trained with."""

from __future__ import annotations

from typing import Any

import pytest
from preflight_runs import fake_run, kinds, only
from recipe_configs import DETECTOR
from torch import nn

from backbones.findings import Outcome
from backbones.preflight.inputs import HALF, IMAGENET, check_inputs, known_eps, known_statistics
from backbones.preflight.weights import Pretrained
from backbones.weights.index import entries

PREPROCESSOR = 'model.data_preprocessor'
WEIGHTS = dict(type='Pretrained', checkpoint='convnext-t-in22k')


def inputs(weights: dict | None = WEIGHTS, **preprocessor: Any) -> Outcome:
    changes = {f'{PREPROCESSOR}.{key}': value for key, value in preprocessor.items()}
    return check_inputs(fake_run(DETECTOR, {**changes, 'model.backbone.init_cfg': weights}))


def part(checkpoint: str) -> Pretrained:
    return Pretrained('backbone', nn.Module(), dict(type='Pretrained', checkpoint=checkpoint))


def test_images_as_the_weights_know_them_are_sound() -> None:
    outcome = inputs()
    assert outcome.findings == []
    assert outcome.summary == (
        "RGB, mean 123.675, 116.28, 103.53, std 58.395, 57.12, 57.375; convnext-t-in22k was trained with ImageNet's; "
        'eps 1e-06 in the norms')


def test_a_model_from_scratch_may_see_its_images_in_any_way() -> None:
    assert inputs(None, mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=False).findings == []
    assert inputs(None, mean=None, std=None).findings == []


def test_rounded_numbers_are_sound() -> None:
    assert inputs(mean=[124, 116, 104], std=[58, 57, 57]).findings == []


def test_another_mean_is_found() -> None:
    said = only(inputs(mean=[127.5] * 3, std=[127.5] * 3), 'warning', 'normalisation')
    assert "convnext-t-in22k was trained with ImageNet's mean" in said and 'bgr_to_rgb=True' in said


@pytest.mark.parametrize('changes', [
    dict(bgr_to_rgb=False), dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]),
    dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False)])
def test_channels_in_another_order_are_found(changes: dict) -> None:
    assert 'was trained on RGB' in only(inputs(**changes), 'warning', 'channel order')


def test_a_mean_for_images_of_0_to_1_is_found_with_any_weights() -> None:
    for weights in (WEIGHTS, None):
        outcome = inputs(weights, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        assert 'multiply both by 255' in only(outcome, 'warning', 'scale of the images')


def test_images_that_nobody_normalises_are_found() -> None:
    assert only(inputs(mean=None, std=None), 'warning', 'images not normalised')
    assert only(inputs(mean=[0.0] * 3, std=[1.0] * 3), 'warning', 'images not normalised')
    assert inputs(None, mean=[0.0] * 3, std=[1.0] * 3).findings == []


def test_a_normalize_of_the_pipeline_counts() -> None:
    cfg = {f'{PREPROCESSOR}.mean': None, f'{PREPROCESSOR}.std': None, f'{PREPROCESSOR}.bgr_to_rgb': False,
           'model.backbone.init_cfg': WEIGHTS}
    run = fake_run(DETECTOR, cfg)
    step = dict(type='Normalize', mean=list(IMAGENET.mean), std=list(IMAGENET.std), to_rgb=True)
    run.cfg.train_dataloader.dataset.pipeline.insert(2, step)
    assert check_inputs(run).findings == []
    run.cfg.train_dataloader.dataset.pipeline[2]['to_rgb'] = False
    assert only(check_inputs(run), 'warning', 'channel order')


def test_grey_statistics_count_for_each_channel() -> None:
    assert inputs(None, mean=[127.5], std=[127.5]).summary.startswith('RGB, mean 127.5, 127.5, 127.5')


def test_an_eps_of_mmcv_is_found() -> None:
    run = fake_run(DETECTOR, {'model.backbone.init_cfg': WEIGHTS, 'model.backbone.norm_eps': 1e-5})
    said = only(check_inputs(run), 'warning', 'eps of the norms')
    assert said == ('the norms of model.backbone have eps=1e-05, and convnext-t-in22k was trained with 1e-06; set '
                    'model.backbone.norm_eps=1e-06')


def test_every_checkpoint_of_the_index_is_known() -> None:
    unknown = [name for name in entries() if not known_statistics(part(name), lambda: None)]
    assert unknown == []


@pytest.mark.parametrize(('checkpoint', 'expected'), [
    ('vit-b-augreg-in21k', (HALF,)), ('beit-b-in22k-ft22k', (HALF, IMAGENET)), ('beitv2-b-in1k', (IMAGENET,)),
    ('dinov2-vitb14', (IMAGENET,)), ('vit-h-mae', (IMAGENET,)), ('sam-vitb', (IMAGENET,)),
    ('https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth', (IMAGENET,)),
    ('https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MAE/mae_pretrain_vit_huge_p14to16.pth', (IMAGENET,)),
    ('torchvision://resnet50', (IMAGENET,)), ('somewhere/mine.pth', ())])
def test_checkpoints_are_known_by_name(checkpoint: str, expected: tuple) -> None:
    assert known_statistics(part(checkpoint), lambda: None) == expected


def test_caffe_weights_want_bgr() -> None:
    known = known_statistics(part('open-mmlab://detectron2/resnet50_caffe'), lambda: None)
    assert [one.order for one in known] == ['BGR'] and known[0].std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(('checkpoint', 'eps'), [
    ('dinov3-vitb16', 1e-5), ('clip-vitb16', 1e-5), ('vit-b-mae', 1e-6), ('dinov3-convnext-tiny', 1e-6),
    ('somewhere/mine.pth', None)])
def test_the_eps_of_published_weights_is_known(checkpoint: str, eps: float | None) -> None:
    assert known_eps(part(checkpoint), lambda: None) == eps


@pytest.mark.parametrize(('mean', 'std'), [
    (['a', 'b', 'c'], [1, 1, 1]), ('x', 'y'), ([float('nan')] * 3, [1] * 3), ([127.5] * 3, [0] * 3)])
def test_statistics_that_are_no_numbers_are_found(mean: object, std: object) -> None:
    run = fake_run(DETECTOR)
    run.cfg.model.data_preprocessor.update(mean=mean, std=std)
    assert only(check_inputs(run), 'error', 'normalisation')


def test_findings_name_the_key_of_the_config() -> None:
    outcome = inputs(mean=[127.5] * 3, std=[127.5] * 3)
    assert kinds(outcome) and outcome.findings[0].field == PREPROCESSOR
