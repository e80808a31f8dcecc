"""Batches of one orientation: every image once, in the groups that more processes would have had; any order resumes."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import DataLoader

from backbones.data.feed import Feed
from backbones.data.samplers import AspectRatioBatchSampler, ResumableInfiniteSampler, ResumableSampler
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


def plan(kind: type, count: int, rank: int = 0, processes: int = 1, position: tuple = (), **kwargs: Any) -> Any:
    """A sampler of process `rank` of `processes`."""
    sampler = kind(Sizes(count), seed=3, **kwargs)
    sampler.rank, sampler.world_size = rank, processes
    if position:
        sampler.set_position(*position)
    return sampler


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize(('count', 'processes'), [(12, 1), (13, 4), (3, 4)])
def test_an_epoch_has_the_order_of_mmengines_default_sampler(count: int, processes: int, shuffle: bool) -> None:
    for rank in range(processes):
        for round_up in (True, False):
            theirs, ours = DefaultSampler(Sizes(count), shuffle, 3, round_up), plan(
                ResumableSampler, count, rank, processes, shuffle=shuffle, round_up=round_up)
            theirs.rank, theirs.world_size = rank, processes
            theirs.num_samples = -(-(count if round_up else count - rank) // processes)
            theirs.total_size = theirs.num_samples * processes if round_up else count
            for epoch in (0, 2):
                theirs.set_epoch(epoch), ours.set_epoch(epoch)
                assert list(ours) == list(theirs) and len(ours) == len(theirs)
                assert all((index.epoch, index.seed) == (epoch, 3) for index in ours)


@pytest.mark.parametrize('shuffle', [True, False])
def test_rounds_without_end_have_the_order_of_mmengines_infinite_sampler(shuffle: bool) -> None:
    for rank in range(3):
        theirs = InfiniteSampler(Sizes(7), shuffle, 3)
        theirs.rank, theirs.world_size = rank, 3
        ours = list(islice(plan(ResumableInfiniteSampler, 7, rank, 3, shuffle=shuffle), 20))
        assert ours == list(islice(theirs, 20))
        assert [index.epoch for index in ours] == [(rank + 3 * step) // 7 for step in range(20)]


@pytest.mark.parametrize('consumed', [0, 3, 6, 12])
def test_an_epoch_goes_on_with_the_next_image(consumed: int) -> None:
    for rank in range(3):
        whole = plan(ResumableSampler, 13, rank, 3)
        whole.set_epoch(2)
        rest = plan(ResumableSampler, 13, rank, 3, (2, consumed))
        assert list(rest) == list(whole)[consumed // 3 :] and len(rest) == len(whole)


@pytest.mark.parametrize('consumed', [0, 5, 7, 23])
def test_rounds_go_on_with_the_next_image(consumed: int) -> None:
    whole = list(islice(plan(ResumableInfiniteSampler, 7), 40))
    rest = list(islice(plan(ResumableInfiniteSampler, 7, position=(0, consumed)), 40 - consumed))
    assert rest == whole[consumed:] and [one.epoch for one in rest] == [one.epoch for one in whole[consumed:]]
    assert list(islice(plan(ResumableInfiniteSampler, 7, position=(consumed // 7, consumed % 7)), 9)) == rest[:9]


@pytest.mark.parametrize(('before', 'after'), [(2, 1), (1, 4), (4, 3), (3, 2)])
def test_the_rest_of_an_epoch_is_dealt_to_another_number_of_processes(before: int, after: int) -> None:
    first = [index for rank in range(before) for index in list(plan(ResumableSampler, 24, rank, before))[:2]]
    position = (0, 2 * before)
    rest = [index for rank in range(after) for index in plan(ResumableSampler, 24, rank, after, position)]
    extra = -(24 - 2 * before) % after  # dealt once more, so that all have equally many
    assert len(rest) == 24 - 2 * before + extra
    assert set(first + rest) == set(range(24)) and (extra or sorted(first + rest) == list(range(24)))
    once = [index for rank in range(after)
            for index in plan(ResumableSampler, 24, rank, after, position, round_up=False)]
    assert sorted(first + once) == list(range(24))


def test_a_new_epoch_starts_at_its_beginning() -> None:
    sampler = plan(ResumableSampler, 12, position=(1, 5))
    sampler.set_epoch(1)  # DistSamplerSeedHook, before what is left of the epoch
    assert len(list(sampler)) == 7
    sampler.set_epoch(2)
    assert len(list(sampler)) == 12


@pytest.mark.parametrize('kind', [ResumableSampler, ResumableInfiniteSampler])
def test_a_place_before_the_beginning_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match='consumed_images=-1 must be 0 or more'):
        plan(kind, 4, position=(0, -1))


def test_the_scoped_names_build_the_resumable_samplers() -> None:
    for kind in (ResumableSampler, ResumableInfiniteSampler):
        built = DATA_SAMPLERS.build(dict(type=f'backbones.{kind.__name__}'), default_args=dict(dataset=[1], seed=0))
        assert type(built) is kind


@pytest.mark.parametrize(('kind', 'groups'), [('ours', None), ('ours', 2), ('mmdet', None)])
def test_batches_of_one_orientation_go_on_with_the_next_one_without_loading(kind: str, groups: int | None) -> None:
    def loader() -> DataLoader:
        sampler, batch_sampler = ResumableSampler(Loads(41), seed=3), AspectRatioBatchSampler
        if kind == 'mmdet':
            batch_sampler = pytest.importorskip('mmdet.datasets.samplers').AspectRatioBatchSampler
        more = dict(group_size=groups) if groups else {}
        return DataLoader(sampler.dataset, batch_sampler=batch_sampler(sampler, 4, **more), collate_fn=list)

    whole = [list(batch) for batch in Feed(loader()).iterator()]
    for done in (1, 5, len(whole)):
        feed = Feed(loader())
        notes = feed.seek(dict(epoch=0, legs=[dict(feed.layout, batches=done)]))
        assert [list(batch) for batch in feed.iterator()] == whole[done:]
        assert feed.loader.dataset.loaded == (41 if kind == 'mmdet' else sum(map(len, whole[done:])))
        assert bool(notes) == (kind == 'mmdet')


class Loads(Sizes):
    """Counts what is loaded."""

    loaded = 0

    def __getitem__(self, index: int) -> int:
        self.loaded += 1
        return int(index)
