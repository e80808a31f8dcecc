"""Drawing boxes into a fixed number of slots."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.task_modules.samplers import PseudoSampler, RandomSampler
from torch import Tensor

from backbones.detection.matching import draw


def matched(positives: int, negatives: int, others: int = 3) -> Tensor:
    """Two images with boxes of each kind, mixed."""
    kinds = torch.tensor([1] * positives + [0] * negatives + [-1] * others)
    return torch.stack([kinds[torch.randperm(len(kinds))] for _ in range(2)])


@pytest.mark.parametrize(('positives', 'negatives', 'bound', 'expected'), [
    (20, 50, -1, (4, 12)), (2, 50, -1, (2, 14)), (20, 5, -1, (4, 5)), (0, 50, -1, (0, 16)), (3, 0, -1, (3, 0)),
    (2, 50, 3, (2, 6)), (0, 50, 3, (0, 3)), (0, 0, -1, (0, 0))])
def test_as_many_boxes_of_each_kind_are_drawn_as_mmdet_draws(
        positives: int, negatives: int, bound: int, expected: tuple[int, int]) -> None:
    torch.manual_seed(0)
    kinds = matched(positives, negatives)
    places, *counts, reach = draw(kinds, RandomSampler(16, 0.25, bound))
    assert places.shape == (2, 16) and reach == 4
    for kind, place, (p, n) in zip(kinds, places, torch.cat(counts, 1).tolist(), strict=True):
        assert (p, n) == expected
        assert (kind[place[:p]] > 0).all() and (kind[place[p:p + n]] == 0).all()
        assert len(set(place[:p + n].tolist())) == p + n  # none twice


def test_every_box_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    kinds = torch.tensor([1, 0] * 10).expand(4000, -1)
    places, positives, negatives, _ = draw(kinds, RandomSampler(8, 0.5))
    assert (positives == 4).all() and (negatives == 4).all()
    frequency = torch.bincount(places.flatten(), minlength=20) / 4000
    assert (frequency - 0.4).abs().max() < 0.035  # 4.5 standard deviations


def test_two_boxes_are_drawn_together_as_often_as_chance_has_it() -> None:
    torch.manual_seed(0)
    places, *_ = draw(torch.ones(6000, 5, dtype=torch.long), RandomSampler(4, 0.5))
    pairs = places[:, :2].sort(dim=1).values
    frequency = torch.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25)
    frequency = frequency[frequency > 0] / 6000
    assert len(frequency) == 10 and (frequency - 0.1).abs().max() < 0.017


def test_a_pseudo_sampler_takes_every_box_in_order() -> None:
    places, *_, reach = draw(matched(3, 4), PseudoSampler())
    assert places.equal(torch.arange(10).expand(2, -1)) and reach == 10
