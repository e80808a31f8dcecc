"""Picking by name what a command line asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar('T')


def pick(names: Sequence[str], known: Mapping[str, T], option: str, what: str) -> list[T]:
    """Those of `known` that `names` asks for, each once.

    Raises:
        ValueError: for an unknown name, with `option` and what there is.
    """
    for name in names:
        if name not in known:
            raise ValueError(f'{option} {name}: there is no such {what}; choose among {", ".join(known)}')
    return [known[name] for name in dict.fromkeys(names)]
