"""Where a run is in its data: the batches of a loader from any place on, and the place as plain data.

A place is `dict(epoch=..., legs=[...])`. A leg is what was consumed of the epoch under one layout (processes, batch
size, grouping) by finished steps; what workers had loaded ahead does not count. A run that goes on under the same
layout lengthens the last leg, and so does exactly what the uninterrupted one would have done. Under another layout the
rest of the epoch is dealt anew, and a leg is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from torch.utils.data import BatchSampler, DataLoader

from .randomness import kept_randomness
from .samplers import AspectRatioBatchSampler, ResumableInfiniteSampler, ResumableSampler, ratio_batches

PLAIN, RATIO = 'BatchSampler', 'AspectRatioBatchSampler'


class Feed:
    """The batches of a training data loader.

    Args:
        loader: the loader.

    Attributes:
        epoch: 0, 1, ...; stays 0 with a sampler without end.
        batches: how many of this epoch have been consumed under this layout; the loop counts.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.sampler = getattr(loader.batch_sampler, 'sampler', None) or loader.sampler
        self.layout = dict(processes=get_world_size(), **_grouping(loader))
        self.epoch, self.batches, self._former = 0, 0, []
        self._left_out = 0  # batches of the next iterator that were consumed before

    @property
    def endless(self) -> bool:
        """Whether the sampler never ends."""
        return isinstance(self.sampler, ResumableInfiniteSampler | InfiniteSampler)

    @property
    def consumed_batches(self) -> int:
        """Steps of this epoch, under all layouts."""
        return self.batches + sum(leg['batches'] for leg in self._former)

    def place(self) -> dict[str, Any]:
        """Where we are, as plain data."""
        legs = [dict(leg) for leg in self._former]
        return dict(epoch=self.epoch, legs=[*legs, dict(self.layout, batches=self.batches)] if self.batches else legs)

    def start_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, or stay within it."""
        if epoch != self.epoch:
            self.seek(dict(epoch=epoch, legs=[]))

    def seek(self, place: dict[str, Any]) -> list[str]:
        """Go to a place.

        Returns:
            Lines for the log: what is not as it was.

        Raises:
            ValueError: the layout is another one, and a sampler or batch sampler that is not ours cannot deal anew.
        """
        legs = [dict(leg) for leg in place['legs']]
        last = legs[-1] if legs else {}
        same = bool(legs) and all(last[key] == value for key, value in self.layout.items())
        former = legs[:-1] if same else legs
        notes = self._check_change(legs[-1]) if legs and not same else []
        self.epoch, self._former, self.batches = place['epoch'], former, last['batches'] if same else 0
        self._left_out = self.batches
        if isinstance(self.sampler, ResumableInfiniteSampler):
            self._seek_endless()
        elif isinstance(self.sampler, ResumableSampler):
            self._seek_epoch()
        elif hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(self.epoch)
        if self._left_out and isinstance(self.loader.batch_sampler, AspectRatioBatchSampler):
            self.loader.batch_sampler.skip, self._left_out = self._left_out, 0
        if self._left_out:
            notes.append(
                f'{type(self.sampler).__name__} with {type(self.loader.batch_sampler).__name__} cannot go to a place: '
                f'{self._left_out} batches are loaded once more and thrown away; backbones.ResumableSampler spares that'
            )
        return notes

    def iterator(self) -> Iterator[Any]:
        """Batches from here on; random numbers of this process are not used for it."""
        with kept_randomness():  # a DataLoader draws a seed for its workers
            batches = iter(self.loader)
            for _ in range(self._left_out):
                next(batches)
        self._left_out = 0
        return batches

    def endless_iterator(self) -> Iterator[Any]:
        """Batches from here on, epoch after epoch."""
        while True:
            empty = self.consumed_batches == 0
            for batch in self.iterator():
                empty = False
                yield batch
            if empty:
                raise ValueError(
                    f'the training data set has {len(self.loader.dataset)} images, which make no batch of '
                    f'{self.layout["batch_size"]} on each of {self.layout["processes"]} processes; choose a smaller one'
                )
            self.start_epoch(self.epoch + 1)

    def _seek_endless(self) -> None:
        images = sum(_images(leg) for leg in self._former)
        if self.layout['grouping'] == PLAIN:
            images, self._left_out = images + _images(dict(self.layout, batches=self.batches)), 0
        self.sampler.set_position(self.epoch, images)

    def _seek_epoch(self) -> None:
        rest = None
        for leg in self._former:
            rest = self._without(rest, leg)
        if self.layout['grouping'] == PLAIN and self.batches:
            rest = self._without(rest, dict(self.layout, batches=self.batches))
            self._left_out = 0
        self.sampler.set_rest(self.epoch, rest)

    def _without(self, rest: list[int] | None, leg: dict[str, Any]) -> list[int]:
        """What is left of `rest` after a leg."""
        rest = self.sampler.order(self.epoch) if rest is None else rest
        if leg['grouping'] == PLAIN:
            return rest[_images(leg) :]
        dealt = self.sampler.dealt(self.epoch, rest, leg['processes'])
        landscape: dict[int, bool] = {}
        batch_sampler = AspectRatioBatchSampler(self.sampler, 1)

        def is_landscape(place: int) -> bool:
            if place not in landscape:
                landscape[place] = batch_sampler.is_landscape(dealt[place])
            return landscape[place]

        taken: set[int] = set()
        for rank in range(leg['processes']):
            places = range(rank, len(dealt), leg['processes'])
            batches = ratio_batches(places, is_landscape, leg['batch_size'], leg['group_size'])
            for batch in islice(batches, leg['batches']):
                taken.update(batch)
        return [index for place, index in enumerate(rest) if place not in taken]

    def _check_change(self, leg: dict[str, Any]) -> list[str]:
        ours = isinstance(self.sampler, ResumableSampler | ResumableInfiniteSampler)
        known = {leg['grouping'], self.layout['grouping']} <= {PLAIN, RATIO}
        grouped = RATIO in (leg['grouping'], self.layout['grouping'])
        was, now = _words(leg), _words(self.layout)
        if not ours or not known or (grouped and self.endless):
            raise ValueError(
                f'the run was interrupted in the middle of an epoch with {was} and is to go on with {now}, but '
                f'{type(self.sampler).__name__} with {type(self.loader.batch_sampler).__name__} cannot deal the rest '
                'of an epoch anew; go on with what it had, from a checkpoint at the end of an epoch, or use '
                "train_dataloader.sampler=dict(type='backbones.ResumableSampler')"
            )
        return [f'the data were dealt to {was}; what is left of this epoch is dealt anew to {now}']


def _grouping(loader: DataLoader) -> dict[str, Any]:
    batch_sampler = loader.batch_sampler
    size = getattr(batch_sampler, 'batch_size', loader.batch_size)
    if type(batch_sampler) is BatchSampler:
        return dict(grouping=PLAIN, batch_size=size, group_size=size)
    if isinstance(batch_sampler, AspectRatioBatchSampler):
        return dict(grouping=RATIO, batch_size=size, group_size=batch_sampler.group_size)
    if type(batch_sampler).__name__ == RATIO and type(batch_sampler).__module__.startswith('mmdet.'):
        return dict(grouping=RATIO, batch_size=size, group_size=size)
    return dict(grouping=type(batch_sampler).__name__, batch_size=size, group_size=size)


def _images(leg: dict[str, Any]) -> int:
    """Images that all processes consumed in a leg in whose batches the sampler's order is kept."""
    return leg['batches'] * leg['batch_size'] * leg['processes']


def _words(leg: dict[str, Any]) -> str:
    many = '' if leg['processes'] == 1 else 'es'
    grouped = '' if leg['grouping'] == PLAIN else f' (groups of {leg["group_size"]})'
    return f'{leg["processes"]} process{many} x {leg["batch_size"]} images{grouped}'
