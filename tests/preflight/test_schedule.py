"""The learning rate, the evaluations and the checkpoints of a run: each mistake gives its finding."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.hooks import CheckpointHook
from preflight_runs import fake_run, kinds, only
from recipe_configs import DETECTOR, SEGMENTER

from backbones.preflight.schedule import POINTS, check_intervals, check_schedule, draw_schedule

LINEAR = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10)


def cosine(end: int, by_epoch: bool = True, **more: Any) -> dict:
    return dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=by_epoch, begin=0, end=end, **more)


def checked(*schedulers: dict, path=DETECTOR, images: int = 320, **changes: Any):
    return check_schedule(fake_run(path, {'param_scheduler': list(schedulers), **changes}, images))


@pytest.mark.parametrize('path', [DETECTOR, SEGMENTER])
def test_the_schedules_of_the_small_recipes_are_sound(path) -> None:
    assert check_schedule(fake_run(path)).findings == []
    assert check_intervals(fake_run(path)).findings == []


def test_the_summary_tells_length_and_rates() -> None:
    outcome = check_schedule(fake_run(DETECTOR))
    assert outcome.summary == (
        '800 iterations = 10 epochs of 80; lr from 1e-05 to 0.000991 at iteration 49, 3.86e-09 at the end')
    assert len(outcome.figures['lr']) == 800 and outcome.figures['zero_iterations'] == 0


def test_a_cosine_beyond_its_length_rises_again() -> None:
    assert 'T_max' in only(checked(dict(cosine(10), T_max=5)), 'warning', 'learning rate rises again')
    assert checked(cosine(10, T_max=10)).findings == []


def test_a_warm_up_that_counts_epochs_is_too_long() -> None:
    said = only(checked(dict(LINEAR, by_epoch=True)), 'warning', 'long warm-up')
    assert 'for all of it' in said


def test_a_schedule_that_ends_before_the_training_has_a_rate_of_zero() -> None:
    outcome = checked(LINEAR, cosine(5, convert_to_iter_based=True))
    assert set(kinds(outcome)) == {('warning', 'end of the schedule'), ('error', 'learning rate is zero')}
    assert outcome.figures['zero_iterations'] == 401
    assert any('in the last 401 of 800 iterations (50%)' in finding.message for finding in outcome.findings)


def test_a_rate_of_exactly_zero_is_found() -> None:
    poly = dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=500)
    outcome = checked(poly)
    assert ('error', 'learning rate is zero') in kinds(outcome) and len(outcome.findings) == 2


def test_a_schedule_that_ends_after_the_training_is_found() -> None:
    assert 'step 1600 against 800' in only(checked(cosine(20)), 'warning', 'end of the schedule')


def test_iterations_are_held_against_the_epochs_of_the_built_data_set() -> None:
    assert checked(cosine(800, by_epoch=False)).findings == []
    outcome = checked(cosine(800, by_epoch=False), images=640)
    assert any('step 800 against 1600' in finding.message for finding in outcome.findings)


def test_a_few_iterations_too_many_are_sound() -> None:
    assert checked(cosine(804, by_epoch=False)).findings == []


def test_milestones_behind_the_end_are_found() -> None:
    steps = dict(type='MultiStepLR', by_epoch=True, begin=0, end=10, milestones=[8, 11])
    assert 'milestones [880]' in only(checked(steps), 'warning', 'milestones after the end')


def test_a_scheduler_that_never_acts_is_found() -> None:
    late = dict(type='ConstantLR', factor=0.5, by_epoch=True, begin=12, end=14)
    assert ('warning', 'scheduler never acts') in kinds(checked(cosine(10), late))


def test_factors_above_one_are_found() -> None:
    rising = dict(type='MultiStepLR', by_epoch=True, begin=0, end=10, milestones=[5], gamma=4.0)
    assert 'rises to 4 times optimizer.lr' in only(checked(rising), 'warning', 'learning rate above the base rate')


def test_a_cycle_that_is_meant_to_rise_is_sound_and_drawn_as_it_is() -> None:
    outcome = checked(dict(type='OneCycleLR', by_epoch=False, eta_max=0.004, total_steps=800))
    assert outcome.findings == [] and max(outcome.figures['lr']) == pytest.approx(0.004)


def test_a_lowest_rate_is_absolute() -> None:
    outcome = checked(dict(cosine(800, by_epoch=False), eta_min=1e-4))
    assert outcome.findings == [] and outcome.figures['lr'][-1] == pytest.approx(1e-4, rel=1e-2)


def test_schedulers_of_the_momentum_are_left_out() -> None:
    momentum = dict(type='CosineAnnealingMomentum', by_epoch=False, begin=0, end=100, eta_min=0.8)
    assert checked(cosine(10), momentum).findings == []


def test_a_long_warm_up_is_found() -> None:
    outcome = checked(dict(LINEAR, end=200), cosine(10))
    assert 'the warm-up takes 200 steps and the run has 800' in only(outcome, 'warning', 'long warm-up')


def test_the_warm_up_of_the_recipe_is_sound_until_the_run_is_shorter() -> None:
    assert check_schedule(fake_run(SEGMENTER)).findings == []
    short = fake_run(SEGMENTER, {'train_cfg.max_iters': 100, 'param_scheduler': [
        dict(LINEAR, end=50), dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=50, end=100)]})
    assert only(check_schedule(short), 'warning', 'long warm-up')


def test_a_rate_that_stays_is_noted() -> None:
    assert only(checked(), 'note', 'no schedule')


def test_a_rate_that_follows_the_scores_is_left_alone() -> None:
    outcome = checked(dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP', by_epoch=True))
    assert outcome.findings == [] and 'follows the scores' in outcome.summary


def test_a_decay_by_epochs_of_many_iterations_does_not_vanish() -> None:
    decay = dict(type='ExponentialLR', gamma=0.9, by_epoch=True, begin=0, end=10)
    outcome = checked(decay, images=40_000)
    assert outcome.findings == [] and outcome.figures['lr'][-1] == pytest.approx(1e-3 * 0.9**10, rel=1e-3)


@pytest.mark.parametrize('broken', [
    [dict(type='Nix')], [dict()], 'x', [dict(type='MultiStepLR', milestones=None)],
    [dict(type='LinearLR', by_epoch=False, begin=10, end=5)]])
def test_a_schedule_that_cannot_be_built_is_found(broken: object) -> None:
    run = fake_run(DETECTOR)
    run.cfg.param_scheduler = broken
    assert 'the learning rate cannot be worked out' in only(check_schedule(run), 'warning', 'schedule')


def test_a_training_of_no_iterations_is_found() -> None:
    run = fake_run(DETECTOR)
    run.max_iters = 0
    assert only(check_schedule(run), 'error', 'no iterations')


@pytest.mark.parametrize('interval', ['often', None, 1.5, 0, -1])
def test_an_interval_that_is_no_number_of_epochs_is_found(interval: object) -> None:
    run = fake_run(DETECTOR)
    run.train_loop.val_interval = interval
    assert [finding.kind for finding in check_intervals(run).findings] == ['never evaluates']


def test_a_long_curve_keeps_its_jumps() -> None:
    steps = dict(type='MultiStepLR', by_epoch=True, begin=0, end=10, milestones=[7, 9], gamma=0.1)
    figures = checked(dict(LINEAR, end=500), steps, images=40_000).figures
    assert len(figures['lr']) <= POINTS and figures['iteration'][-1] == 99_999
    curve = dict(zip(figures['iteration'], figures['lr'], strict=True))
    assert curve[69_999] == 1e-3 and curve[70_000] == 1e-4


# --- evaluation and checkpoints -----------------------------------------------------------------------------


def intervals(changes: dict, **sizes: int):
    return check_intervals(fake_run(DETECTOR, changes, **sizes))


def test_a_begin_behind_the_end_never_evaluates() -> None:
    assert only(intervals({'train_cfg.val_begin': 11}), 'warning', 'never evaluates')


def test_an_interval_beyond_the_end_is_found() -> None:
    said = only(intervals({'train_cfg.val_interval': 5000}), 'warning', 'evaluates at the end only')
    assert said.endswith('count epochs: set it to 1 to 10')


def test_more_evaluated_than_trained_is_found() -> None:
    said = only(intervals({'train_cfg.val_interval': 1}, val_images=1000), 'warning', 'evaluates often')
    assert said == ('1,000 images are evaluated after every 320 trained ones (1 epoch): most of the time goes into '
                    'evaluation; set train_cfg.val_interval to 2 or more')


def test_an_evaluation_after_each_epoch_is_sound() -> None:
    outcome = intervals({'train_cfg.val_interval': 1})
    assert outcome.findings == [] and outcome.summary.startswith('evaluates every epoch; ')


def test_no_evaluation_is_noted() -> None:
    assert only(intervals({}, val_images=0), 'note', 'no evaluation')


def saving(**options: Any):
    run = fake_run(DETECTOR)
    run.hooks = [CheckpointHook(**options)]
    return check_intervals(run)


def test_nothing_saved_is_found() -> None:
    assert only(saving(interval=20, save_last=False), 'warning', 'nothing is saved')
    assert only(saving(interval=-1, save_last=False), 'warning', 'nothing is saved')
    run = fake_run(DETECTOR)
    run.hooks = []
    assert only(check_intervals(run), 'warning', 'nothing is saved')


def test_saving_at_the_end_only_is_found() -> None:
    assert only(saving(interval=20), 'warning', 'saves at the end only')


def test_checkpoints_by_iteration_are_held_against_iterations() -> None:
    assert saving(interval=500, by_epoch=False).findings == []
    assert only(saving(interval=900, by_epoch=False, save_last=False), 'warning', 'nothing is saved')


def test_the_picture_shows_a_short_warm_up_beside_the_whole() -> None:
    text = draw_schedule(check_schedule(fake_run(DETECTOR)).figures)
    assert text.startswith('<svg') and text.count('id="axes_') == 2
    flat = draw_schedule(checked().figures)
    assert flat.count('id="axes_') == 1


def test_the_last_step_of_a_decay_to_zero_is_no_finding_however_short_the_run() -> None:
    poly = dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=0, end=6)
    outcome = checked(poly, path=SEGMENTER, **{'train_cfg.max_iters': 6})
    assert not [finding for finding in outcome.findings if finding.severity == 'error']
