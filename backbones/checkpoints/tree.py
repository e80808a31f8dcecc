"""A state tree as named tensors and JSON, and back.

A tree is a dict (keys str or int), list or tuple of such, with tensors, str, int, float, bool and None as leaves.
Nothing else can be written, and so nothing else can be read: no class is named in a file, and none is called.

In JSON a tensor is `{"$tensor": "section:name"}`, with `"stride"` if its memory order is not the plain one and with
`"same"` if it is another tensor of the tree, nan and infinity are `{"$float": "nan"}`, a tuple is `{"$tuple": [...]}`
and a dict with other keys than plain text is `{"$dict": [[key, value], ...]}`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SECTIONS = ('model', 'ema')  # entries at the top of the tree with a file of their own; the others share 'state'
MAX_DEPTH = 64
MAX_INT_BITS = 4096
NOT_FINITE = {'nan': math.nan, 'inf': math.inf, '-inf': -math.inf}
ALLOWED = 'a state tree takes dict, list, tuple, Tensor, str, int, float, bool and None'

Tensors = dict[str, dict[str, Tensor]]


def flatten(tree: Mapping[str, Any]) -> tuple[Tensors, Any]:
    """Part a tree into tensors by section and name, and a skeleton that JSON can hold.

    Tensors are neither copied nor moved. One tensor in two places of a section comes back as one.

    Raises:
        ValueError: naming the place of what a tree cannot hold.
    """
    if type(tree) not in (dict, OrderedDict):
        raise ValueError(f'a state tree is a dict, not {_type(tree)}; give dict(model=..., ...)')
    writer = _Flattener()
    skeleton = {}
    for key, value in tree.items():
        if type(key) is not str or not key or key.startswith('$'):
            raise ValueError(f'the top of a state tree has the key {key!r}; use names such as "model"')
        writer.section = key if key in SECTIONS else 'state'
        path = () if key in SECTIONS else (key,)
        skeleton[key] = writer.encode(value, path, key, 0)
    return writer.tensors, skeleton


class _Flattener:
    """Collects the tensors of a tree."""

    def __init__(self) -> None:
        self.section = 'state'
        self.tensors: Tensors = {}
        self._names: dict[tuple, str] = {}  # by section and memory, the first name

    def encode(self, value: Any, path: tuple, place: str, depth: int) -> Any:
        """Give the JSON form of `value`.

        Args:
            value: anything.
            path: keys from the top of the section, for the tensor's name.
            place: the same with the section, for messages.
            depth: how many containers are around it.
        """
        if depth > MAX_DEPTH:
            raise ValueError(f'{place[:200]} lies more than {MAX_DEPTH} levels deep; flatten that part of the state')
        kind = type(value)
        if value is None or kind in (str, bool):
            return value
        if kind is int:
            if value.bit_length() > MAX_INT_BITS:
                raise ValueError(f'{place} is an int of {value.bit_length()} bits; store it as a tensor')
            return value
        if kind is float:
            return value if math.isfinite(value) else {'$float': str(value)}
        if kind in (dict, OrderedDict):
            return self._encode_dict(value, path, place, depth)
        if kind in (list, tuple):
            items = [self.encode(item, (*path, i), f'{place}[{i}]', depth + 1) for i, item in enumerate(value)]
            return items if kind is list else {'$tuple': items}
        if isinstance(value, Tensor):
            return self._encode_tensor(value, path, place)
        raise ValueError(f'{place} is {_type(value)}, which a checkpoint cannot hold; {ALLOWED}')

    def _encode_dict(self, value: dict, path: tuple, place: str, depth: int) -> dict:
        wrong = [key for key in value if type(key) not in (str, int)]
        if wrong:
            raise ValueError(f'{place} has the key {wrong[0]!r} ({_type(wrong[0])}); use str or int keys')
        pairs = [(key, self.encode(item, (*path, key), f'{place}.{key}', depth + 1)) for key, item in value.items()]
        if all(type(key) is str and not key.startswith('$') for key in value):
            return dict(pairs)
        return {'$dict': [[key, item] for key, item in pairs]}

    def _encode_tensor(self, value: Tensor, path: tuple, place: str) -> dict:
        if value.layout is not torch.strided or value.is_quantized or value.device.type == 'meta':
            raise ValueError(f'{place} is a {value.layout} tensor on {value.device}; a checkpoint takes dense ones')
        tensors = self.tensors.setdefault(self.section, {})
        name = plain = '.'.join(map(str, path)) or self.section
        number = 1
        while name in tensors:  # {'a': {'b': ...}, 'a.b': ...}
            number += 1
            name = f'{plain}#{number}'
        tensors[name] = value
        entry: dict[str, Any] = {'$tensor': f'{self.section}:{name}'}
        memory = (self.section, value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        first = self._names.setdefault(memory, name) if value.numel() else name
        if first != name:
            entry['same'] = first
        elif not value.is_contiguous() and _is_dense(value):
            entry['stride'] = list(value.stride())
        return entry


def unflatten(skeleton: Any, tensors: Tensors) -> dict[str, Any]:
    """Put a tree together again; the reverse of `flatten`.

    Raises:
        ValueError: for a skeleton that `flatten` cannot have made, or that does not fit the tensors.
    """
    if not isinstance(skeleton, dict) or any(key.startswith('$') for key in skeleton):
        raise ValueError(f'its tree is {_type(skeleton)}, not an object with names')
    reader = _Unflattener(tensors)
    tree = {key: reader.decode(value, key, 0) for key, value in skeleton.items()}
    unused = [f'{part}:{name}' for part, held in tensors.items() for name in held if (part, name) not in reader.used]
    if unused:
        raise ValueError(f'{len(unused)} of its tensors have no place in the tree: {", ".join(unused[:3])}')
    return tree


class _Unflattener:
    """Puts values and tensors in their places."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.used: dict[tuple[str, str], Tensor] = {}

    def decode(self, value: Any, place: str, depth: int) -> Any:
        """Give the value of a JSON form. Arguments as for `_Flattener.encode`."""
        if depth > MAX_DEPTH:
            raise ValueError(f'{place[:200]} lies more than {MAX_DEPTH} levels deep')
        if isinstance(value, list):
            return [self.decode(item, f'{place}[{i}]', depth + 1) for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value  # json gives str, int, float, bool and None only
        marks = [key for key in value if key.startswith('$')]
        if not marks:
            return {key: self.decode(item, f'{place}.{key}', depth + 1) for key, item in value.items()}
        content = value[marks[0]]
        if marks == ['$tensor']:
            return self._tensor(value, place)
        if len(value) == 1 and marks[0] == '$float' and isinstance(content, str) and content in NOT_FINITE:
            return NOT_FINITE[content]
        if len(value) == 1 and marks[0] == '$tuple' and isinstance(content, list):
            return tuple(self.decode(item, f'{place}[{i}]', depth + 1) for i, item in enumerate(content))
        if len(value) == 1 and marks[0] == '$dict' and _are_pairs(content):
            return {key: self.decode(item, f'{place}.{key}', depth + 1) for key, item in content}
        raise ValueError(f'{place} is {str(value)[:80]}, which means nothing')

    def _tensor(self, value: dict, place: str) -> Tensor:
        section, _, name = value['$tensor'].partition(':') if isinstance(value['$tensor'], str) else ('', '', '')
        held = self._tensors.get(section, {})
        if name not in held or (section, name) in self.used or not set(value) <= {'$tensor', 'same', 'stride'}:
            raise ValueError(f'{place} refers to the tensor {str(value)[:80]}, which is not there or is taken')
        tensor = held[name]
        if 'same' in value:
            tensor = self.used.get((section, value['same'])) if isinstance(value['same'], str) else None
            if tensor is None or (tensor.shape, tensor.dtype) != (held[name].shape, held[name].dtype):
                raise ValueError(f'{place} is said to be the same tensor as {value["same"]!r}, which it cannot be')
        elif 'stride' in value:
            tensor = _with_stride(tensor, value['stride'], place)
        self.used[section, name] = tensor
        return tensor


def _are_pairs(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in content)


def _with_stride(tensor: Tensor, stride: Any, place: str) -> Tensor:
    """Give a copy of `tensor` in another memory order."""
    numbers = isinstance(stride, list) and all(type(step) is int and 0 < step <= tensor.numel() for step in stride)
    if not numbers or len(stride) != tensor.dim() or not tensor.numel() or not _dense(tuple(tensor.shape), stride):
        raise ValueError(f'{place} cannot have the strides {str(stride)[:80]}')
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _is_dense(tensor: Tensor) -> bool:
    """Whether each element of a tensor has a place of its own, without gaps."""
    return _dense(tuple(tensor.shape), tensor.stride())


def _dense(shape: tuple[int, ...], stride: tuple[int, ...] | list[int]) -> bool:
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size > 1):
        if step != expected:
            return False
        expected *= size
    return True


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__name__}'
