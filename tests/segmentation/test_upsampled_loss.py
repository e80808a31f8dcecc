"""The loss of upsampled scores equals that of scores that are upsampled first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.segmentation import upsampled_loss
from backbones.segmentation.upsampled_loss import upsampled_cross_entropy

SIZES = [((4, 6), (16, 24)), ((5, 3), (17, 11)), ((8, 8), (8, 8)), ((1, 1), (9, 7)), ((16, 12), (6, 5))]


def draw(small: tuple[int, int], large: tuple[int, int], classes: int = 5) -> tuple[Tensor, Tensor]:
    """Scores (2, classes, h, w) and labels (2, H, W), a third of them ignored."""
    generator = torch.Generator().manual_seed(sum(small) + sum(large))
    scores = 3 * torch.randn(2, classes, *small, generator=generator)
    labels = torch.randint(0, classes, (2, *large), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 1 / 3] = 255
    return scores.requires_grad_(), labels


def plain(scores: Tensor, labels: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """The usual way: sum of the losses, number of right pixels."""
    large = F.interpolate(scores, labels.shape[1:], mode='bilinear', align_corners=align_corners)
    right = (large.argmax(1) == labels) & (labels != 255)
    return F.cross_entropy(large, labels, ignore_index=255, reduction='sum'), right.sum()


@pytest.fixture(params=[1 << 20, 100], ids=['at once', 'a row at a time'])
def values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many scores are looked at at a time."""
    monkeypatch.setitem(upsampled_loss.VALUES, 'cpu', request.param)


@pytest.mark.usefixtures('values')
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(('small', 'large'), SIZES)
def test_loss_gradient_and_accuracy_are_those_of_the_upsampled_scores(
    small: tuple[int, int], large: tuple[int, int], align_corners: bool
) -> None:
    scores, labels = draw(small, large)
    expected, right = plain(scores, labels, align_corners)
    (gradient,) = torch.autograd.grad(expected / 7, scores)
    found = upsampled_cross_entropy(scores, labels, 255, align_corners)
    (own,) = torch.autograd.grad(found.total / 7, scores)
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(own, gradient, rtol=1e-4, atol=1e-5)
    assert found.correct == right and found.counted == (labels != 255).sum()


def test_without_gradients_nothing_is_kept() -> None:
    scores, labels = draw((4, 6), (16, 24))
    found = upsampled_cross_entropy(scores.detach(), labels, 255, False)
    assert not found.total.requires_grad
    torch.testing.assert_close(found.total, plain(scores.detach(), labels, False)[0])


def test_label_maps_without_a_label_cost_nothing() -> None:
    scores, labels = draw((4, 6), (16, 24))
    found = upsampled_cross_entropy(scores, torch.full_like(labels, 255), 255, False)
    found.total.backward()
    assert found.total == 0 and found.counted == 0 and not scores.grad.any()


def test_maps_in_channels_last_give_the_same() -> None:
    scores, labels = draw((4, 6), (16, 24))
    other = scores.detach().contiguous(memory_format=torch.channels_last)
    found = [upsampled_cross_entropy(given, labels, 255, False).total for given in (scores, other)]
    assert torch.equal(*found)
