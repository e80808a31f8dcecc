"""Augmentation drawn from (seed, epoch, index): independent of workers, of order, and of what else draws numbers."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import IterableDataset

from backbones.data.randomness import (
    ReproducibleDataset,
    SampleIndex,
    generator_states,
    kept_randomness,
    seed_generators,
    set_generator_states,
)


def draw(results: dict[str, Any]) -> dict[str, Any]:
    """A transform that draws from all three generators, and that fails one time in three."""
    numbers = (random.random(), float(np.random.rand()), float(torch.rand(())), int(np.random.randint(1000)))
    return None if numbers[0] < 0.33 else dict(id=results['id'], numbers=numbers)


class Numbers(BaseDataset):
    """`count` samples without files."""

    def __init__(self, count: int, **kwargs: Any) -> None:
        self.count = count
        super().__init__(pipeline=[draw], **kwargs)

    def load_data_list(self) -> list[dict]:
        """One dict per sample."""
        return [dict(id=number) for number in range(self.count)]


def loaded(workers: int, epoch: int = 0, dataset: Any = None) -> list[dict]:
    """All samples of an epoch, as MMEngine's loader gives them."""
    loader = Runner.build_dataloader(
        dict(dataset=dict(type=ReproducibleDataset, dataset=dataset or Numbers(9)), batch_size=2, num_workers=workers,
             sampler=dict(type='backbones.ResumableSampler')), seed=3)
    loader.sampler.set_epoch(epoch)
    columns = [(batch['id'], batch['numbers'][0], batch['numbers'][2]) for batch in loader]
    return [sample for batch in columns for sample in zip(*batch, strict=True)]


@pytest.mark.parametrize('make', [
    lambda: None,
    lambda: ConcatDataset([Numbers(4), Numbers(5)]),
    lambda: RepeatDataset(Numbers(3), times=3),
], ids=['alone', 'concatenated', 'repeated'])
def test_samples_are_the_same_for_any_number_of_workers(make: Any) -> None:
    assert loaded(0, dataset=make()) == loaded(1, dataset=make()) == loaded(3, dataset=make())


def test_every_epoch_draws_new_numbers() -> None:
    first, second = loaded(0), loaded(0, epoch=1)
    assert not {sample[1] for sample in first} & {sample[1] for sample in second}


def test_the_repeats_of_a_picture_are_augmented_differently() -> None:
    samples = loaded(0, dataset=RepeatDataset(Numbers(1), times=9))
    assert len({sample[1] for sample in samples}) == 9


def test_another_seed_draws_other_numbers() -> None:
    data = ReproducibleDataset(Numbers(9))
    assert data[SampleIndex(4, 0, 1)] != data[SampleIndex(4, 0, 2)]
    assert data[SampleIndex(4, 0, 1)] == data[SampleIndex(4, 0, 1)]


def test_a_failed_sample_is_replaced_by_the_same_other_one() -> None:
    data = ReproducibleDataset(Numbers(50))
    found = [data[SampleIndex(index, 2, 7)]['id'] for index in range(50)]
    assert found != list(range(50))
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert found == [data[SampleIndex(index, 2, 7)]['id'] for index in range(50)]


def test_the_training_process_keeps_its_random_state() -> None:
    data, expected = ReproducibleDataset(Numbers(9)), []
    for disturb in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        np.random.randn(), random.gauss(0, 1)  # both keep a second number
        if disturb:
            data[SampleIndex(3, 1, 1)]
        expected.append((random.gauss(0, 1), np.random.randn(), float(torch.rand(()))))
    assert expected[0] == expected[1]


def test_a_sample_that_fails_leaves_the_random_state_as_it_was() -> None:
    class Broken(Numbers):
        def prepare_data(self, idx: int) -> Any:
            random.random()
            raise OSError('no such file')

    before = random.getstate()
    with pytest.raises(OSError, match='no such file'):
        ReproducibleDataset(Broken(3))[SampleIndex(1, 0, 0)]
    assert random.getstate() == before


def test_a_plain_index_is_passed_on_without_seeding() -> None:
    random.seed(1)
    first = ReproducibleDataset(Numbers(9))[4]
    random.seed(2)
    assert ReproducibleDataset(Numbers(9))[4] != first


def test_an_index_is_an_int_that_survives_pickling() -> None:
    index = SampleIndex(5, epoch=3, seed=9)
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert (other, other.epoch, other.seed, type(other)) == (5, 3, 9, SampleIndex)
    assert [10, 20, 30, 40, 50, 60][index] == 60 and index % 2 == 1


def test_the_wrapper_is_transparent() -> None:
    data = ReproducibleDataset(Numbers(4, metainfo=dict(classes=('a',))))
    assert data.metainfo == dict(classes=('a',)) and len(data) == 4 and data.get_data_info(2)['id'] == 2
    data.pipeline = lambda info: 'other'
    assert data[SampleIndex(0)] == 'other' and data._wrapped[0] == 'other'
    assert len(copy.deepcopy(data)) == len(pickle.loads(pickle.dumps(ReproducibleDataset([1, 2, 3, 4])))) == 4
    assert not hasattr(data, '__getitems__')


def test_a_config_builds_it_by_name() -> None:
    built = DATASETS.build(dict(type='backbones.ReproducibleDataset', dataset=dict(type=Numbers, count=3)))
    assert type(built) is ReproducibleDataset and len(built) == 3


def test_a_stream_without_indices_is_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ValueError, match='Stream has no samples that an index names'):
        ReproducibleDataset(Stream())


def test_states_come_back_as_they_were() -> None:
    random.seed(4), np.random.seed(4), torch.manual_seed(4), np.random.randn(), random.gauss(0, 1)
    states = generator_states()
    with kept_randomness():
        seed_generators(1, 2, 3)
    first = (random.gauss(0, 1), np.random.randn(), float(torch.randn(())))
    set_generator_states(states)
    assert first == (random.gauss(0, 1), np.random.randn(), float(torch.randn(())))


@pytest.mark.parametrize('name', ['RandomFlip', 'PhotoMetricDistortion', 'RandomCrop'])
def test_transforms_of_the_toolboxes_draw_from_the_seeded_generators(name: str) -> None:
    mmdet = pytest.importorskip('mmdet.datasets.transforms')
    kinds = dict(RandomFlip=dict(prob=0.5), PhotoMetricDistortion={}, RandomCrop=dict(crop_size=(6, 6)))
    transform = getattr(mmdet, name)(**kinds[name])
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.float32)

    class Pictures(Numbers):
        def prepare_data(self, idx: int) -> Any:
            info = dict(img=picture.copy(), img_shape=(16, 16), gt_bboxes=None, gt_masks=None)
            info = {key: value for key, value in info.items() if value is not None}
            return transform(info)['img']

    data = ReproducibleDataset(Pictures(1))
    first, again = ([data[SampleIndex(0, epoch, 5)] for epoch in range(8)] for _ in range(2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({one.tobytes() for one in first}) > 1
