"""Augmentation that depends on the seed of the run, the epoch and the sample alone.

MMEngine seeds each worker once, by its number: the numbers that a transform draws depend on how many workers there are
and on what a worker drew before, restart when workers are made anew (so that every epoch repeats those of the first),
and are lost when a run is resumed. Here `random`, numpy's global generator and torch's CPU generator are seeded for
each sample from a hash of (seed, epoch, index). Our samplers say seed and epoch with the index.

Generators that a library keeps for itself (albumentations, OpenCV) are not covered.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch.utils.data import IterableDataset, get_worker_info

from backbones.registry import DATASETS


class SampleIndex(int):
    """The index of a sample, with the epoch in which and the seed of the run for which it was drawn.

    Attributes:
        epoch: 0, 1, ...
        seed: the sampler's.
    """

    def __new__(cls, index: int, epoch: int = 0, seed: int = 0) -> SampleIndex:
        made = super().__new__(cls, index)
        made.epoch, made.seed = epoch, seed
        return made

    def __getnewargs__(self) -> tuple[int, int, int]:
        """What a worker gets."""
        return int(self), self.epoch, self.seed


@DATASETS.register_module()
class ReproducibleDataset:
    """Any map-style data set, with augmentation drawn from (seed, epoch, index).

    It goes around all others (`ConcatDataset`, `RepeatDataset`, mosaics, ...), and is otherwise transparent: attributes
    are read from and written to what it holds. An index that is no `SampleIndex` is passed on as it is.

    Args:
        dataset: a data set or its config.
    """

    def __init__(self, dataset: Any) -> None:
        dataset = ROOT_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, '__getitem__'):
            raise ValueError(
                f'ReproducibleDataset: {type(dataset).__name__} has no samples that an index names; leave out the '
                'wrapper, and use a sampler other than backbones.ResumableSampler'
            )
        self.__dict__['_wrapped'] = dataset

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""
        with drawn_from(index):
            return self._wrapped[index]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == '_wrapped':  # __getitems__ would bypass the seeding
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith('__'):  # __getitems__ that calls __getitem__, as WorkerNotes makes it
            self.__dict__[name] = value
        else:
            setattr(self._wrapped, name, value)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self._wrapped!r})'


@contextmanager
def drawn_from(index: int) -> Iterator[None]:
    """Seed the three generators for a sample; in a training process they are afterwards as they were before.

    Args:
        index: where it is no `SampleIndex` (validation, a foreign sampler), nothing is done.
    """
    if not isinstance(index, SampleIndex):
        yield
        return
    # A worker does nothing but samples, so what it leaves behind is nobody's.
    with kept_randomness() if get_worker_info() is None else nullcontext():
        seed_generators(index.seed, index.epoch, int(index))
        yield


def seed_generators(*key: int) -> None:
    """Seed `random`, numpy's global and torch's CPU generator from a hash of whole numbers."""
    digest = hashlib.blake2b(','.join(map(str, key)).encode(), digest_size=40).digest()
    random.seed(int.from_bytes(digest[:16], 'little'))
    np.random.seed(np.frombuffer(digest[16:32], '<u4'))
    # Not torch.manual_seed, which would seed the GPUs, too.
    torch.default_generator.manual_seed(int.from_bytes(digest[32:], 'little') >> 1)


@contextmanager
def kept_randomness(saved: dict[str, Any] | None = None) -> Iterator[None]:
    """Leave the generators of this process as they were, or as `saved` says; those of GPUs only in the latter case."""
    now = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if saved is None else ()
    try:
        yield
    finally:
        if saved is not None:
            set_generator_states(saved)
        else:  # for each sample where there are no workers: no detour over plain data
            random.setstate(now[0]), np.random.set_state(now[1]), torch.set_rng_state(now[2])


def generator_states(gpus: bool = True) -> dict[str, Any]:
    """The states of the generators of this process, as tensors and plain values.

    Args:
        gpus: with those of the GPUs, where CUDA has been used.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = dict(
        python=dict(version=version, words=torch.tensor(words, dtype=torch.int64), gauss=gauss),
        numpy=dict(name=name, keys=torch.from_numpy(keys.astype(np.int64)), position=int(position),
                   has_gauss=int(has_gauss), cached=float(cached)),
        torch=torch.get_rng_state(),
    )
    if gpus:
        states['cuda'] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return states


def set_generator_states(states: dict[str, Any]) -> None:
    """Set what `generator_states` gave. States of GPUs that this process does not have are left out."""
    python, legacy = states['python'], states['numpy']
    random.setstate((python['version'], tuple(python['words'].tolist()), python['gauss']))
    keys = legacy['keys'].numpy().astype(np.uint32)
    np.random.set_state((legacy['name'], keys, legacy['position'], legacy['has_gauss'], legacy['cached']))
    torch.set_rng_state(states['torch'])
    for device, state in enumerate(states.get('cuda', [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
