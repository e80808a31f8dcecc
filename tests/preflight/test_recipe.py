"""The run against the card of its recipe, and the precision that is in force."""

from __future__ import annotations

import pytest
import torch
from preflight_runs import fake_run, kinds, only
from recipe_configs import DETECTOR, SEGMENTER

from backbones.preflight.precision import check_precision
from backbones.preflight.recipe import check_recipe, images_per_step
from backbones.training.precision import ScaledOptimWrapper


@pytest.mark.parametrize('path', [DETECTOR, SEGMENTER])
def test_a_run_as_its_card_says_is_sound(path) -> None:
    outcome = check_recipe(fake_run(path))
    assert outcome.findings == [] and outcome.summary == '4 images per optimiser step; as the card says'


def test_another_batch_is_found() -> None:
    run = fake_run(DETECTOR, {'train_dataloader.batch_size': 2, 'total_batch': 2})
    said = only(check_recipe(run), 'warning', 'other batch than the card')
    assert said.startswith('an optimiser step has 2 images, and the card of the recipe says 4; the learning rate')


def test_accumulated_passes_count() -> None:
    run = fake_run(DETECTOR, {'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 2})
    assert images_per_step(run) == 4 and check_recipe(run).findings == []


def test_another_drop_path_is_found() -> None:
    said = only(check_recipe(fake_run(DETECTOR, {'model.backbone.drop_path_rate': 0.4})), 'warning',
                'other than the card')
    assert said.startswith('drop_path: the card says 0.0 and the config does 0.4; set model.backbone.drop_path_rate')


@pytest.mark.parametrize(('changes', 'said'), [
    ({'model.backbone.drop_path_rate': 0.4}, '1 difference from the card'),
    ({'model.backbone.drop_path_rate': 0.4, 'optim_wrapper.clip_grad.max_norm': 1.0}, '2 differences from the card')])
def test_differences_are_counted(changes: dict, said: str) -> None:
    assert check_recipe(fake_run(DETECTOR, changes)).summary == f'4 images per optimiser step; {said}'


@pytest.mark.parametrize('rate', [1e-4, 8e-3])
def test_the_learning_rate_of_another_batch_is_found_where_the_batch_is_the_cards(rate: float) -> None:
    outcome = check_recipe(fake_run(DETECTOR, {'optim_wrapper.optimizer.lr': rate}))
    assert 'by accumulation' in only(outcome, 'warning', 'learning rate of another batch')


@pytest.mark.parametrize(('changes', 'name'), [
    ({'optim_wrapper.optimizer.lr': 8e-4}, 'lr'), ({'optim_wrapper.clip_grad.max_norm': 1.0}, 'clip'),
    ({'train_cfg.max_epochs': 20}, 'schedule'), ({'param_scheduler.0.end': 20}, 'warmup'),
    ({'optim_wrapper.paramwise_cfg.decay_rate': 0.9}, 'decay')])
def test_what_a_user_may_well_mean_is_noted(changes: dict, name: str) -> None:
    outcome = check_recipe(fake_run(DETECTOR, changes))
    assert only(outcome, 'note', 'other than the card').startswith(f'{name}: the card says')


def test_a_config_without_a_card_is_sound_and_a_broken_card_is_found() -> None:
    run = fake_run(DETECTOR)
    run.cfg.card.pop('lr')
    assert "lacks ['lr']" in only(check_recipe(run), 'warning', 'card')
    run.cfg.pop('card')
    assert check_recipe(run).findings == []


# --- precision ----------------------------------------------------------------------------------------------


def test_fp32_on_a_cpu_is_sound() -> None:
    outcome = check_precision(fake_run(DETECTOR))
    assert outcome.findings == [] and outcome.summary == 'fp32 on CPU; weights in fp32'


def test_another_precision_than_the_card_says_is_noted() -> None:
    outcome = check_precision(fake_run(DETECTOR, {'precision': 'bf16'}))
    assert 'computes in bf16, and the card of the recipe says fp32' in only(
        outcome, 'note', 'other precision than the card')
    assert outcome.summary == 'bf16 on CPU, by the model itself; weights in fp32'


def test_weights_in_low_precision_are_found() -> None:
    run = fake_run(DETECTOR)
    run.model.to(torch.bfloat16)
    assert 'parameters of the model are bf16' in only(check_precision(run), 'warning', 'weights in low precision')


def test_autocast_without_a_gpu_is_found() -> None:
    from mmengine.optim import AmpOptimWrapper

    run = fake_run(DETECTOR, {'card.precision': 'bf16'})
    run.optim_wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)  # which MMEngine would refuse to make here
    run.optim_wrapper.cast_dtype = torch.bfloat16
    assert 'needs a GPU' in only(check_precision(run), 'error', 'precision of this machine')


def test_fp16_where_the_machine_has_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(DETECTOR, {'precision': 'fp16', 'card.precision': 'fp16'})
    run.optim_wrapper = ScaledOptimWrapper(optimizer=run.optim_wrapper.optimizer)
    monkeypatch.setattr('backbones.precision.compute.torch.ops.mkldnn._is_mkldnn_fp16_supported', lambda: False)
    assert 'this CPU has no fp16 arithmetic' in only(check_precision(run), 'error', 'precision of this machine')
    monkeypatch.setattr('backbones.precision.compute.torch.ops.mkldnn._is_mkldnn_fp16_supported', lambda: True)
    assert kinds(check_precision(run)) == []
