"""Finding what makes the host wait for the device, and giving mmdet's heads the boxes that ours drew."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mmdet.models.task_modules.samplers import RandomSampler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result has a shape that depends on the data, or that give the host a value.
# `lift_fresh` is a constant of the host on its way to the device.
WAITING = (
    '_local_scalar_dense', 'item', 'is_nonzero', 'nonzero', 'masked_select', '_unique', '_unique2', 'unique_dim',
    'unique_consecutive', 'equal', 'bincount', 'repeat_interleave', 'lift_fresh')
READING = ('cpu', 'numpy', 'tolist')


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING and not (name == 'repeat_interleave' and 'self_int' in func._overloadname):
            self.seen[name] += 1
        if name in ('index', 'index_put', 'index_put_', '_index_put_impl_') and any(
                i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.seen[f'{name} with a mask'] += 1
        return func(*args, **(kwargs or {}))


def _counted(name: str, seen: collections.Counter) -> Callable:
    """A method of tensors that counts its calls; after `cpu` nothing crosses any more."""
    original = getattr(Tensor, name)

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not getattr(self, 'has_crossed', False):
            seen[name] += 1
        found = original(self, *args, **kwargs)
        if name == 'cpu':
            found = found.detach().clone()
            found.has_crossed = True
        return found

    return method


@contextmanager
def waits() -> Iterator[collections.Counter]:
    """Count what makes the host wait: operations of the device, and reads by the host."""
    watch = _Watch()
    with pytest.MonkeyPatch.context() as patch:
        for name in READING:
            patch.setattr(Tensor, name, _counted(name, watch.seen))
        with watch:
            yield watch.seen


class Given(RandomSampler):
    """mmdet's sampler, but the boxes are given: (positives, negatives) of one image after the other."""

    def __init__(self, like: RandomSampler, boxes: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(like.num, like.pos_fraction, like.neg_pos_ub, like.add_gt_as_proposals)
        self.boxes = list(boxes)

    def _sample_pos(self, assign_result: Any, num_expected: int, bboxes: Tensor, **_: Any) -> Tensor:
        self.negatives = self.boxes[0][1]
        places = _find(self.boxes.pop(0)[0], bboxes, assign_result.gt_inds > 0)
        assert len(places) <= num_expected
        return places

    def _sample_neg(self, assign_result: Any, num_expected: int, bboxes: Tensor, **_: Any) -> Tensor:
        places = _find(self.negatives, bboxes, assign_result.gt_inds == 0)
        assert len(places) == min(num_expected, int((assign_result.gt_inds == 0).sum()))
        return places


def _find(wanted: Tensor, boxes: Tensor, allowed: Tensor) -> Tensor:
    """Where the wanted boxes are, each place at most once; only boxes of the right kind count."""
    places, distance = [], (wanted[:, None] - boxes).abs().amax(2).masked_fill(~allowed, torch.inf)
    for row in distance:
        row[places] = torch.inf
        assert row.min() < 1e-3, 'a drawn box is not among those that mmdet may draw'
        places.append(int(row.argmin()))
    return torch.tensor(places, dtype=torch.long)
