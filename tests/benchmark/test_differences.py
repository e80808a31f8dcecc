"""How far two results lie apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from backbones.benchmark.differences import of_losses, of_samples, of_tensors


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> list[BaseDataElement]:
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), scores=torch.tensor(scores), labels=torch.tensor(labels))
    return [sample]


def test_the_difference_is_the_largest_one_and_its_share_of_the_largest_value_of_the_map() -> None:
    ours, peer = [torch.tensor([1.0, 2.0]), torch.tensor([10.0])], [torch.tensor([1.0, 4.0]), torch.tensor([9.0])]
    found = of_tensors(ours, peer)
    assert (found.absolute, found.relative) == (2.0, 0.5)


def test_a_nan_in_any_map_is_not_lost() -> None:
    found = of_tensors([torch.tensor([float('nan')]), torch.tensor([1.0])], [torch.tensor([1.0]), torch.tensor([1.0])])
    assert found.absolute != found.absolute


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match='cannot be compared'):
        of_tensors([torch.zeros(2)], [torch.zeros(3)])


def test_losses_are_compared_by_name_and_the_worst_is_named() -> None:
    found = of_losses(dict(loss_a=1.0, loss_b=2.0), dict(loss_a=1.0, loss_b=4.0))
    assert (found.absolute, found.relative, found.detail) == (2.0, 0.5, 'most in loss_b')


def test_losses_of_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match='these cannot be compared'):
        of_losses(dict(loss_a=1.0), dict(loss_b=1.0))


def test_class_maps_say_how_many_pixels_agree() -> None:
    def sample(logits: list[list[float]]) -> list[BaseDataElement]:
        scores = torch.tensor(logits)[:, None]  # (classes, 1, W)
        element = BaseDataElement()
        element.seg_logits, element.pred_sem_seg = PixelData(data=scores), PixelData(data=scores.argmax(0, True))
        return [element]

    found = of_samples(sample([[1.0, 0.0], [0.0, 2.0]]), sample([[1.0, 3.0], [0.0, 2.0]]))
    assert found.detail == '50.000 % of the pixels get the same class'
    assert found.absolute == 3.0


def test_detections_are_paired_whatever_their_order() -> None:
    ours = detections([[0, 0, 9, 9], [50, 50, 60, 60]], [0.9, 0.8], [1, 2])
    peer = detections([[50, 50, 60, 60.5], [0, 0, 9, 9]], [0.7, 0.9], [2, 1])
    found = of_samples(ours, peer)
    assert found.absolute == pytest.approx(0.1)
    assert found.detail == '2 of 2 detections found by both, boxes within 0.5 px'


@pytest.mark.parametrize('peer', [
    detections([[0, 0, 9, 12]], [0.9], [1]),  # a side is off by more than a pixel
    detections([[0, 0, 9, 9]], [0.9], [2]),  # another class
])
def test_a_detection_of_another_box_or_class_is_no_partner(peer: list[BaseDataElement]) -> None:
    assert of_samples(detections([[0, 0, 9, 9]], [0.9], [1]), peer).detail.startswith('0 of 1 detections')


def test_a_detection_is_the_partner_of_one_only() -> None:
    one, twice = detections([[0, 0, 9, 9]], [0.9], [1]), detections([[0, 0, 9, 9]] * 2, [0.9, 0.9], [1, 1])
    assert of_samples(one, twice).detail.startswith('1 of 2 detections')


def test_no_detections_on_either_side_are_equal() -> None:
    found = of_samples(detections([], [], []), detections([], [], []))
    assert (found.absolute, found.detail[:6]) == (0.0, '0 of 0')


def test_results_of_another_kind_are_refused() -> None:
    class Sample(SimpleNamespace):
        def __contains__(self, name: str) -> bool:
            return False

        def keys(self) -> list[str]:
            return ['pred_label']

    with pytest.raises(ValueError, match=r"predicts \['pred_label'\], which no comparison is written for"):
        of_samples([Sample()], [Sample()])
