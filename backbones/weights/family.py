"""What the loader knows of one class of backbones: its layouts, and how native tensors fit a backbone of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from backbones.weights.layout import Layout, State


@dataclass(frozen=True)
class Family:
    """One class of backbones.

    Attributes:
        name: the class.
        layouts: the published ones; the first that matches is taken.
        arguments: reads constructor arguments off native tensors (as far as their shapes show them).
        fit: (native tensors, backbone) -> (what this backbone takes, names it leaves out on purpose).
        resize: (name, value, backbone, patch rule) -> the value for this backbone's grid or patch, or None.
        size: names of the arguments, or keys of `arch`, that are compared to say that a file is of another size.
    """

    name: str
    layouts: tuple[Layout, ...]
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    fit: Callable[[State, nn.Module], tuple[State, list[str]]]
    resize: Callable[[str, Tensor, nn.Module, str], Tensor | None]
    size: tuple[str, ...]

    def sizes(self, native: Mapping[str, Tensor]) -> dict[str, Any]:
        """The size of a backbone, from its native tensors, as one flat dict."""
        arguments = self.arguments(native)
        flat = {**arguments, **arguments.get('arch', {})}
        return {key: flat[key] for key in self.size if key in flat}


def counted(where: str, numbers: list[int]) -> int:
    """Return how many parts a file has, numbered from 0.

    Raises:
        ValueError: if one is left out.
    """
    gaps = sorted(set(range(len(set(numbers)))) - set(numbers))
    if gaps:
        raise ValueError(
            f'{where} has {len(set(numbers))} parts, but none with the number {gaps[0]}; give the file as it was '
            'published'
        )
    return len(set(numbers))
