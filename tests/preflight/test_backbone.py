"""What learns and which settings contradict: facts of a sound run, and one finding for each mistake."""

from __future__ import annotations

from preflight_runs import fake_run, kinds, only
from recipe_configs import DETECTOR, SEGMENTER

from backbones.preflight.backbone import check_settings, check_trainable


def test_a_model_that_learns_as_a_whole_is_sound() -> None:
    outcome = check_trainable(fake_run(DETECTOR))
    assert outcome.findings == [] and outcome.summary == '2.26 M of 2.26 M parameters learn'
    assert [line.split()[0] for line in outcome.details] == ['part', 'backbone', 'neck', 'rpn_head', 'roi_head']


def test_frozen_stages_are_said_and_sound() -> None:
    outcome = check_trainable(fake_run(DETECTOR, {'model.backbone.frozen_stages': 2}))
    assert outcome.findings == [] and '; frozen: backbone ' in outcome.summary
    assert outcome.figures['backbone']['frozen_tensors'] > 0 == outcome.figures['neck']['frozen_tensors']


def test_a_frozen_backbone_is_a_recipe_and_a_frozen_head_is_not() -> None:
    run = fake_run(DETECTOR)
    run.model.backbone.requires_grad_(False)
    assert check_trainable(run).findings == []
    run.model.rpn_head.requires_grad_(False)
    assert 'model.rpn_head requires a gradient' in only(check_trainable(run), 'warning', 'head is frozen')


def test_a_model_that_learns_nothing_is_found() -> None:
    run = fake_run(DETECTOR)
    run.model.requires_grad_(False)
    assert only(check_trainable(run), 'error', 'nothing learns')


def test_settings_that_fit_are_sound() -> None:
    assert check_settings(fake_run(DETECTOR)).findings == []
    outcome = check_settings(fake_run(SEGMENTER))
    assert outcome.findings == [] and outcome.summary == 'patches of 8 pixels fit the sizes of images'


def test_patches_that_do_not_divide_the_images_are_found() -> None:
    run = fake_run(SEGMENTER, {'model.data_preprocessor.size': (130, 160)})
    said = only(check_settings(run), 'error', 'settings contradict')
    assert 'patch_size=8 does not divide' in said and 'set model.data_preprocessor.size' in said


def test_frozen_random_layers_are_found() -> None:
    run = fake_run(DETECTOR, {'model.backbone.frozen_stages': 1})
    assert kinds(check_settings(run)) == [('error', 'settings contradict')]
