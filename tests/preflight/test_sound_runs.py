"""No check of model and schedule finds anything in a small recipe that is sound, built as training builds it."""

from __future__ import annotations

import json

from preflight_runs import real_run
from recipe_configs import DETECTOR, SEGMENTER

from backbones.findings import run_check
from backbones.preflight import backbone, groups, inputs, model, precision, recipe, schedule, weights

CHECKS = (
    model.check_maps, model.check_class_counts, backbone.check_trainable, backbone.check_settings,
    weights.check_weights, inputs.check_inputs, groups.check_groups, recipe.check_recipe, schedule.check_schedule,
    schedule.check_intervals, precision.check_precision)


def test_the_segmenter_gives_no_finding_and_a_line_for_each_check() -> None:
    run = real_run(SEGMENTER)
    outcomes = [run_check(check.__name__, check, run) for check in CHECKS]
    assert [finding for outcome in outcomes for finding in outcome.findings] == []
    assert all(outcome.summary and not outcome.skipped for outcome in outcomes)
    json.dumps([outcome.figures for outcome in outcomes], allow_nan=False)


def test_the_detector_on_eight_pictures_has_too_long_a_warm_up_and_no_other_finding() -> None:
    run = real_run(DETECTOR)
    found = [finding for check in CHECKS for finding in run_check(check.__name__, check, run).findings]
    assert [finding.kind for finding in found] == ['long warm-up']
