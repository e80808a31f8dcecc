"""Pictures of one size together, within bounds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar('T')
WAITING = 4  # batches: so many items wait at most, whatever their sizes


class Batches(Generic[T]):
    """Collects items of one kind until there are enough for a batch.

    Args:
        size: items of a full batch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._groups: dict[Hashable, list[T]] = {}  # the one that waits longest first

    def add(self, kind: Hashable, item: T) -> list[list[T]]:
        """Take an item; give the batches to be run now: a full one, or the oldest where too many items wait."""
        group = self._groups.setdefault(kind, [])
        group.append(item)
        if len(group) >= self.size:
            return [self._groups.pop(kind)]
        if sum(map(len, self._groups.values())) >= WAITING * self.size:
            return [self._groups.pop(next(iter(self._groups)))]
        return []

    def rest(self) -> list[list[T]]:
        """The batches that are not full."""
        groups, self._groups = list(self._groups.values()), {}
        return groups
