"""The groups of an optimiser: each wrong constructor gives its finding, and the right ones give none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from preflight_runs import fake_run, kinds, only
from recipe_configs import DETECTOR, SEGMENTER
from torch import nn

from backbones.findings import Outcome
from backbones.preflight.groups import check_groups, draw_groups, groups_outcome

DECAY = {'optim_wrapper.paramwise_cfg.decay_rate': 0.8}


class Toy(nn.Module):
    """A backbone of two layers that knows its depth, and a head."""

    class Backbone(nn.Module):
        weight_family = 'toy'

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)])

        def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
            return int(param_name.split('.')[2]), 3

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = self.Backbone(), nn.Linear(2, 2)


def outcome_of(groups: list[dict[str, Any]] | None = None, rate: float | None = None, **wrapper: Any) -> Outcome:
    model = Toy()
    built = [{**group, 'params': [dict(model.named_parameters())[name] for name in group['params']]}
             for group in groups] if groups else list(model.parameters())
    optimizer = torch.optim.AdamW(built, lr=1.0, weight_decay=0.0)
    options = {} if rate is None else dict(decay_rate=rate)
    return groups_outcome(model, optimizer, dict(paramwise_cfg=options, **wrapper))


ALL = ('backbone.layers.0.weight', 'backbone.layers.0.bias', 'backbone.layers.1.weight', 'backbone.layers.1.bias',
       'head.weight', 'head.bias')


def by_depth(*rates: float) -> list[dict[str, Any]]:
    return [dict(params=list(ALL[2 * i : 2 * i + 2]), lr=lr) for i, lr in enumerate(rates)]


@pytest.mark.parametrize('path', [DETECTOR, SEGMENTER])
@pytest.mark.parametrize('changes', [{}, DECAY])
def test_the_groups_of_the_layer_decay_are_sound(path, changes: dict) -> None:
    assert check_groups(fake_run(path, changes)).findings == []


def test_the_table_has_a_row_per_depth_with_rate_and_both_sides_of_the_decay() -> None:
    outcome = check_groups(fake_run(DETECTOR, DECAY))
    assert outcome.details[0].split() == ['depth', 'lr', 'weight', 'decay', 'decayed', 'not', 'decayed', 'parameters']
    assert [line.split()[0] for line in outcome.details[1:]] == [
        '0', '1', '2', '3', '4', '5', 'output', 'neck', 'roi_head', 'rpn_head']
    assert outcome.details[1].split() == ['0', '0.0002621', '0.05', '1', '3', '1,224']  # 0.001 * 0.8 ** 6
    rows = outcome.figures['depths']
    assert sum(row['decayed']['tensors'] + row['spared']['tensors'] for row in rows) == 162
    assert outcome.summary == '162 tensors in 14 groups, lr 0.000262 to 0.001, weight decay 0.05 on 53'


def test_a_decay_as_asked_is_sound() -> None:
    assert outcome_of(by_depth(0.25, 0.5, 1.0), rate=0.5).findings == []


def test_rates_of_another_decay_are_found() -> None:
    said = only(outcome_of(by_depth(0.4, 0.5, 1.0), rate=0.5), 'warning', 'other layer decay')
    assert '2 of 4 tensors' in said and 'layers.0.weight: 0.4 in place of 0.25' in said


def test_one_rate_where_a_decay_is_asked_for_is_found() -> None:
    assert 'all 4 tensors of the backbone learn at 1' in only(outcome_of(rate=0.5), 'error', 'no layer decay')


def test_the_plain_constructor_does_no_layer_decay() -> None:
    run = fake_run(DETECTOR, {**DECAY, 'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor'})
    assert ('error', 'no layer decay') in kinds(check_groups(run))


def test_rates_above_the_base_rate_are_found() -> None:
    outcome = outcome_of(by_depth(1.0, 4.17, 1.0))
    assert 'learns at 4.17, 4.17 times optimizer.lr' in only(outcome, 'error', 'lr above the base rate')
    assert [finding.field for finding in outcome.findings] == list(ALL[2:4])


def test_a_head_that_is_asked_to_learn_faster_is_sound() -> None:
    model = Toy()
    optimizer = torch.optim.AdamW(
        [dict(params=model.backbone.parameters()), dict(params=model.head.parameters(), lr=10.0)], lr=1.0,
        weight_decay=0.0)
    options = dict(paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}))
    assert groups_outcome(model, optimizer, options).findings == []


def test_a_head_that_learns_faster_unasked_is_a_warning() -> None:
    assert only(outcome_of(by_depth(1.0, 1.0, 10.0)), 'warning', 'lr above the base rate')


def test_a_parameter_in_no_group_is_found() -> None:
    outcome = outcome_of([dict(params=list(ALL[:4]))])
    assert only(outcome, 'error', 'in no group').startswith('head.weight requires a gradient and is in no group')
    assert len(outcome.findings) == 2


def test_a_frozen_parameter_in_no_group_is_sound() -> None:
    model = Toy()
    model.backbone.requires_grad_(False)
    assert groups_outcome(model, torch.optim.AdamW(model.head.parameters(), weight_decay=0.0), {}).findings == []


def test_a_parameter_that_is_stepped_twice_is_found() -> None:
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    optimizer.param_groups[0]['params'].append(model.head.bias)
    assert 'head.bias is in the optimiser 2 times' in only(
        groups_outcome(model, optimizer, {}), 'error', 'in two groups')


def test_a_learning_rate_of_zero_is_found() -> None:
    assert only(outcome_of(by_depth(0.0, 1.0, 1.0)), 'warning', 'learning rate is zero')
    model = Toy()
    outcome = groups_outcome(model, torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0), {})
    assert only(outcome, 'error', 'learning rate is zero')


def test_a_learning_rate_that_is_no_number_is_found() -> None:
    outcome = outcome_of(by_depth(float('nan'), 1.0, 1.0))
    assert len(outcome.findings) == 2 and only(outcome, 'error', 'learning rate is no number')


def test_a_recipe_that_decays_norms_by_its_card_is_sound() -> None:
    changes = {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor', 'optim_wrapper.paramwise_cfg': None}
    assert check_groups(fake_run(DETECTOR, {**changes, 'card.no_weight_decay': None})).findings == []


def test_decayed_norms_are_found() -> None:
    groups = [dict(params=list(ALL), weight_decay=0.05)]
    said = only(outcome_of(groups), 'warning', 'norms are decayed')
    assert '2 tensors of the backbone are decayed by 0.05, norms: such as backbone.layers.1.weight' in said


def test_a_convnext_without_its_rule_is_found_and_so_is_its_layer_scale() -> None:
    run = fake_run(DETECTOR, {
        'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor', 'optim_wrapper.paramwise_cfg': None})
    assert "what the rule 'convnext' spares" in only(check_groups(run), 'warning', 'norms are decayed')


def test_the_small_decay_of_sgd_is_sound() -> None:
    assert outcome_of([dict(params=list(ALL), weight_decay=1e-4)]).findings == []


def test_a_depth_that_a_backbone_of_another_package_tells_otherwise_is_left_out() -> None:
    model = Toy()
    model.backbone.get_layer_depth = lambda name: 3
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    outcome = groups_outcome(model, optimizer, dict(paramwise_cfg=dict(decay_rate=0.5)))
    assert outcome.findings == [] and outcome.figures['depths'][0]['depth'] == 'backbone'


def test_the_picture_follows_the_colours_of_the_page_and_is_the_same_each_time() -> None:
    figures = check_groups(fake_run(DETECTOR, DECAY)).figures
    text = draw_groups(figures)
    assert text.startswith('<svg class="preflight-figure"') and text.rstrip().endswith('</svg>')
    assert 'currentColor' in text and 'prefers-color-scheme' in text and '#13579b' not in text
    assert not re.search(r'<script|https?://(?!www\.w3\.org)', text)
    assert draw_groups(figures) == text
