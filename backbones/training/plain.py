"""State as plain data: dicts with string keys, lists, tensors, str, int, float, bool, None; and back.

Python's other containers become a dict with one key that says which: what is read is data and never executed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

KINDS = {'tuple': tuple, 'set': set, 'deque': deque}


def to_plain(value: Any) -> Any:
    """Encode `value`; tensors are copied to the CPU.

    Raises:
        TypeError: it holds something that is no data, such as a function.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        kind = next(kind for kind in (type(None), bool, int, float, str) if isinstance(value, kind))
        return None if value is None else kind(value)
    if isinstance(value, Tensor):
        return copied(value)
    if isinstance(value, np.ndarray):
        return {'~array': torch.from_numpy(np.ascontiguousarray(value).copy())}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return {f'~{name}': [to_plain(item) for item in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith('~') for key in value):
            plain = {key: to_plain(item) for key, item in value.items()}
            return {'~counter': plain} if isinstance(value, Counter) else plain
        name = '~counted' if isinstance(value, Counter) else '~pairs'
        return {name: [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    raise TypeError(f'{type(value).__name__} is no plain data')


def from_plain(plain: Any) -> Any:
    """Decode what `to_plain` gave."""
    if isinstance(plain, list):
        return [from_plain(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    key = next(iter(plain), '')
    if not key.startswith('~'):
        return {key: from_plain(item) for key, item in plain.items()}
    content = plain[key]
    if key == '~array':
        return content.numpy().copy()
    if key in ('~pairs', '~counted'):
        pairs = {from_plain(name): from_plain(item) for name, item in content}
        return Counter(pairs) if key == '~counted' else pairs
    if key == '~counter':
        return Counter({name: from_plain(item) for name, item in content.items()})
    if key.removeprefix('~') not in KINDS:
        raise ValueError(f'{key!r} is unknown; choose one of {sorted(KINDS)}, array, pairs, counter or counted')
    return KINDS[key.removeprefix('~')](from_plain(item) for item in content)


def plain_part(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Encode the entries that are data; return them and the names of the others."""
    plain, others = {}, []
    for name, value in state.items():
        try:
            plain[name] = to_plain(value)
        except TypeError:
            others.append(name)
    return plain, others


def copied(tensor: Tensor) -> Tensor:
    """A copy on the CPU that later steps do not change."""
    return tensor.detach().to('cpu', copy=True)  # keeps the order in memory (channels last)
