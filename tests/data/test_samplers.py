"""Batches of one orientation: every image once, in the groups that more processes would have had."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS

from backbones.data.samplers import AspectRatioBatchSampler
from backbones.training.loops import split_batch


class Sizes:
    """A data set of random orientations."""

    def __init__(self, count: int) -> None:
        self.landscape = torch.rand(count, generator=torch.Generator().manual_seed(count)).gt(0.4).tolist()

    def __len__(self) -> int:
        return len(self.landscape)

    def get_data_info(self, index: int) -> dict[str, int]:
        return dict(width=4, height=3) if self.landscape[index] else dict(width=3, height=4)


def batches(count: int, batch_size: int, process: tuple[int, int] = (0, 1), **more: Any) -> list[list[int]]:
    """Those of one epoch."""
    sampler = DefaultSampler(Sizes(count), seed=3)
    sampler.rank, sampler.world_size = process
    sampler.num_samples = math.ceil(count / process[1])
    sampler.total_size = sampler.num_samples * process[1]
    return list(AspectRatioBatchSampler(sampler, batch_size, **more))


@pytest.mark.parametrize('count', [1, 2, 5, 8, 23, 64, 101])
@pytest.mark.parametrize(('batch_size', 'group_size'), [(1, 1), (4, 4), (4, 2), (4, 1), (6, 2), (12, 3)])
def test_every_image_comes_once_and_the_length_is_the_number_of_batches(
    count: int, batch_size: int, group_size: int
) -> None:
    sampler = AspectRatioBatchSampler(DefaultSampler(Sizes(count), seed=0), batch_size, group_size=group_size)
    for epoch in range(2):
        sampler.sampler.set_epoch(epoch)
        found = list(sampler)
        assert sorted(index for batch in found for index in batch) == list(range(count))
        assert len(found) == len(sampler)
        assert all(len(batch) == batch_size for batch in found[:-1])


@pytest.mark.parametrize('count', [3, 8, 23, 101])
def test_without_the_last_smaller_batch_all_are_full(count: int) -> None:
    sampler = AspectRatioBatchSampler(DefaultSampler(Sizes(count), seed=0), 8, drop_last=True, group_size=2)
    found = list(sampler)
    assert [len(batch) for batch in found] == [8] * (count // 8) and len(sampler) == count // 8


def test_a_group_has_one_orientation_until_the_epoch_runs_out_of_pairs() -> None:
    data, found = Sizes(400), batches(400, 8, group_size=2)
    mixed = [
        len({data.landscape[index] for index in chunk['inputs']}) > 1
        for batch in found for chunk in split_batch(dict(inputs=batch), 2)
    ]
    assert len(mixed) == 200 and sum(mixed) <= 4 and not any(mixed[:-16])


def test_one_group_per_batch_is_mmdets_sampler() -> None:
    mmdet = pytest.importorskip('mmdet.datasets.samplers')
    for drop_last in (False, True):
        theirs = mmdet.AspectRatioBatchSampler(DefaultSampler(Sizes(103), seed=3), 4, drop_last)
        assert batches(103, 4, drop_last=drop_last) == list(theirs)


@pytest.mark.parametrize(('processes', 'accumulate'), [(1, 4), (2, 2), (4, 1)])
def test_the_groups_of_a_step_are_those_of_four_processes(processes: int, accumulate: int) -> None:
    four = [batches(160, 2, (rank, 4)) for rank in range(4)]
    here = [batches(160, 2 * accumulate, (rank, processes), group_size=2) for rank in range(processes)]
    for step in range(len(four[0])):
        for rank in range(processes):
            chunks = split_batch(dict(inputs=here[rank][step]), 2)
            for k, chunk in enumerate(chunks):
                assert chunk['inputs'] == four[rank + processes * k][step]


def test_the_scoped_name_builds_it() -> None:
    cfg = dict(type='backbones.AspectRatioBatchSampler', group_size=2)
    built = DATA_SAMPLERS.build(cfg, default_args=dict(sampler=DefaultSampler(Sizes(4), seed=0), batch_size=4))
    assert type(built) is AspectRatioBatchSampler


def test_groups_that_do_not_fill_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match='batch_size=6 is no multiple of group_size=4; group_size can be 1, 2, 3, 6'):
        batches(9, 6, group_size=4)


@pytest.mark.parametrize('wrong', [dict(batch_size=0), dict(batch_size=2.0), dict(batch_size=2, group_size=0)])
def test_a_size_that_is_none_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match='must be a whole number, 1 or more'):
        batches(9, **wrong)


def test_images_without_a_size_are_refused() -> None:
    class Nameless(Sizes):
        def get_data_info(self, index: int) -> dict[str, int]:
            return dict(img_id=index)

    with pytest.raises(ValueError, match='image 0 of Nameless states no width and height'):
        next(iter(AspectRatioBatchSampler(DefaultSampler(Nameless(3), shuffle=False), 2)))
