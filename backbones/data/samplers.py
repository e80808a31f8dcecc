"""Batches of images of one orientation, in groups: a step with gradient accumulation has several groups."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, zip_longest

from torch.utils.data import BatchSampler, Sampler

from backbones.registry import DATA_SAMPLERS


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

    def __iter__(self) -> Iterator[list[int]]:
        """Give the indices of each batch."""
        groups = self.batch_size // self.group_size
        waiting: list[tuple[list[int], list[int]]] = [([], []) for _ in range(groups)]  # portrait, landscape
        ready: list[deque[list[int]]] = [deque() for _ in range(groups)]
        for position, index in enumerate(self.sampler):
            k = position % groups
            bucket = waiting[k][self._is_landscape(index)]
            bucket.append(index)
            if len(bucket) == self.group_size:
                ready[k].append(bucket[:])
                bucket.clear()
            if all(ready):
                yield _interleave([queue.popleft() for queue in ready])
        for k, (portrait, landscape) in enumerate(waiting):
            rest = portrait + landscape
            ready[k].extend(rest[i : i + self.group_size] for i in range(0, len(rest), self.group_size))
        while any(ready):
            batch = _interleave([queue.popleft() for queue in ready if queue])
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        """Number of batches."""
        count = len(self.sampler)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def _is_landscape(self, index: int) -> bool:
        info = self.sampler.dataset.get_data_info(index)
        if 'width' not in info or 'height' not in info:
            raise ValueError(
                f'AspectRatioBatchSampler: image {index} of {type(self.sampler.dataset).__name__} states no width and '
                'height; give them in the annotations, or leave out train_dataloader.batch_sampler'
            )
        return info['width'] >= info['height']


def _interleave(groups: list[list[int]]) -> list[int]:
    """[[1, 2], [3, 4]] -> [1, 3, 2, 4]; the first groups may have one more."""
    return [index for index in chain.from_iterable(zip_longest(*groups)) if index is not None]
