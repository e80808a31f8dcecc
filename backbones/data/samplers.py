"""Samplers that can go on in the middle of an epoch, and batches of images of one orientation.

Process r of g takes the images r, r + g, r + 2 g, ... of one common order, as with MMEngine's samplers. So after any
number of steps the processes together have consumed a beginning of that order, and its rest can be dealt to any number
of processes anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import chain, islice, zip_longest

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import BatchSampler, Sampler

from backbones.registry import DATA_SAMPLERS

from .randomness import SampleIndex


class _Resumable(Sampler):
    """What both samplers share.

    Args:
        dataset: the data set.
        shuffle: whether to shuffle it, anew in every epoch.
        seed: of the order and of the augmentation, the same in every process; None draws one for all.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    def _positive(self, consumed_images: int) -> int:
        if consumed_images < 0:
            raise ValueError(f'{type(self).__name__}: consumed_images={consumed_images} must be 0 or more')
        return consumed_images


@DATA_SAMPLERS.register_module()
class ResumableSampler(_Resumable):
    """Epochs, in the order of MMEngine's DefaultSampler; gives `SampleIndex`.

    Args:
        dataset: the data set.
        shuffle: whether to shuffle it, anew in every epoch.
        seed: of the order and of the augmentation, the same in every process; None draws one for all.
        round_up: where the images cannot be dealt evenly, the first of the order are dealt once more, fewer than there
            are processes. False deals each exactly once; the processes then may have unequal numbers of batches, which
            distributed training does not survive unless the batch size hides it.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        self.round_up = round_up
        self._rest: list[int] | None = None  # what is left of this epoch; None: all of it

    def order(self, epoch: int) -> list[int]:
        """All indices in the order of an epoch, before they are dealt to the processes."""
        if not self.shuffle:
            return list(range(len(self.dataset)))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; stay where we are if it is this one."""
        if epoch != self.epoch:
            self.epoch, self._rest = epoch, None

    def set_position(self, epoch: int, consumed_images: int = 0) -> None:
        """Go to a place in an epoch: all processes together have consumed that many images of it."""
        self.set_rest(epoch, self.order(epoch)[self._positive(consumed_images) :] if consumed_images else None)

    def set_rest(self, epoch: int, rest: list[int] | None) -> None:
        """Deal only these indices in what is left of an epoch; None means all of it."""
        self.epoch, self._rest = epoch, rest

    def dealt(self, epoch: int, rest: list[int] | None, processes: int) -> list[int]:
        """`rest` with what is dealt once more, to be shared out over `processes`."""
        order = self.order(epoch)
        rest = order if rest is None else rest
        missing = -len(rest) % processes if self.round_up else 0
        return rest + [order[i % len(order)] for i in range(missing)]

    def __iter__(self) -> Iterator[SampleIndex]:
        """Give the indices of this process."""
        epoch, seed = self.epoch, self.seed
        mine = self.dealt(epoch, self._rest, self.world_size)[self.rank :: self.world_size]
        return iter([SampleIndex(index, epoch, seed) for index in mine])

    def __len__(self) -> int:
        """Images of this process in a whole epoch."""
        count = len(self.dataset)
        return -(-(count if self.round_up else count - self.rank) // self.world_size)


@DATA_SAMPLERS.register_module()
class ResumableInfiniteSampler(_Resumable):
    """Round after round without end, in the order of MMEngine's InfiniteSampler; gives `SampleIndex`.

    The epoch of an index is its round.
    """

    endless = True

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)
        self._consumed = 0

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the rounds go on by themselves."""

    def set_position(self, epoch: int, consumed_images: int = 0) -> None:
        """Go to a place: all processes together have consumed `epoch` rounds and that many images."""
        self._consumed = epoch * len(self.dataset) + self._positive(consumed_images)

    def _all(self) -> Iterator[SampleIndex]:
        """Indices of all processes from where we are."""
        size, generator = len(self.dataset), torch.Generator().manual_seed(self.seed)
        first, offset = divmod(self._consumed, size)
        if self.shuffle:
            for _ in range(first):  # one generator for all rounds: 1 ms per round of 100,000 images
                torch.randperm(size, generator=generator)
        epoch = first
        while True:
            indices = torch.randperm(size, generator=generator) if self.shuffle else torch.arange(size)
            yield from (SampleIndex(index, epoch, self.seed) for index in indices[offset:].tolist())
            epoch, offset = epoch + 1, 0

    def __iter__(self) -> Iterator[SampleIndex]:
        """Give the indices of this process."""
        return islice(self._all(), self.rank, None, self.world_size)

    def __len__(self) -> int:
        """Images of a round."""
        return len(self.dataset)


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Groups of `group_size` landscape or portrait images; `batch_size // group_size` groups make a batch.

    With one group per batch it is mmdet's class of this name. With a groups, group k is made of the images k, k + a,
    k + 2 a, ... of the sampler, which are those of process k of a processes, and a batch holds the groups interleaved:
    group k is `batch[k::a]`. So a process that accumulates sees the groups that a processes would have seen. At the end
    of an epoch images of both orientations are put together, as in mmdet; each comes once.

    Args:
        sampler: gives indices of its `dataset`, whose `get_data_info(index)` knows `width` and `height`.
        batch_size: images per batch.
        drop_last: leave out the last batch if it is smaller.
        group_size: images of one orientation that stay together, a divisor of `batch_size`; None means `batch_size`.

    Attributes:
        skip: batches that the next round leaves out, because an interrupted run had them already.
    """

    def __init__(
        self, sampler: Sampler, batch_size: int, drop_last: bool = False, group_size: int | None = None
    ) -> None:
        group_size = batch_size if group_size is None else group_size
        for name, value in dict(batch_size=batch_size, group_size=group_size).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f'AspectRatioBatchSampler: {name}={value!r} must be a whole number, 1 or more')
        if batch_size % group_size:
            fits = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
            raise ValueError(
                f'AspectRatioBatchSampler: batch_size={batch_size} is no multiple of group_size={group_size}; '
                f'group_size can be {", ".join(map(str, fits))}'
            )
        super().__init__(sampler, batch_size, drop_last)
        self.group_size = group_size
        self.skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        """Give the indices of each batch."""
        skip, self.skip = self.skip, 0
        batches = ratio_batches(self.sampler, self.is_landscape, self.batch_size, self.group_size, self.drop_last)
        yield from islice(batches, skip, None)

    def __len__(self) -> int:
        """Number of batches."""
        count = len(self.sampler)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def is_landscape(self, index: int) -> bool:
        """Whether an image is at least as wide as high."""
        info = self.sampler.dataset.get_data_info(index)
        if 'width' not in info or 'height' not in info:
            raise ValueError(
                f'AspectRatioBatchSampler: image {index} of {type(self.sampler.dataset).__name__} states no width and '
                'height; give them in the annotations, or leave out train_dataloader.batch_sampler'
            )
        return info['width'] >= info['height']


def ratio_batches(
    indices: Iterable[int],
    is_landscape: Callable[[int], bool],
    batch_size: int,
    group_size: int,
    drop_last: bool = False,
) -> Iterator[list[int]]:
    """Form the batches of an `AspectRatioBatchSampler` from what its sampler gives."""
    count = batch_size // group_size
    waiting: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]  # portrait, landscape
    ready: list[deque[list[int]]] = [deque() for _ in range(count)]
    for position, index in enumerate(indices):
        k = position % count
        bucket = waiting[k][is_landscape(index)]
        bucket.append(index)
        if len(bucket) == group_size:
            ready[k].append(bucket[:])
            bucket.clear()
        if all(ready):
            yield _interleave([queue.popleft() for queue in ready])
    for k, (portrait, landscape) in enumerate(waiting):
        rest = portrait + landscape
        ready[k].extend(rest[i : i + group_size] for i in range(0, len(rest), group_size))
    while any(ready):
        batch = _interleave([queue.popleft() for queue in ready if queue])
        if len(batch) == batch_size or not drop_last:
            yield batch


def _interleave(groups: Sequence[list[int]]) -> list[int]:
    """[[1, 2], [3, 4]] -> [1, 3, 2, 4]; the first groups may have one more."""
    return [index for index in chain.from_iterable(zip_longest(*groups)) if index is not None]
