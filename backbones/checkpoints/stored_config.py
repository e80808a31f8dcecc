"""The config of a run inside its checkpoints: data that is read, never text that is executed.

It lies in `meta['config_json']`, as the JSON form of tree.py, which keeps tuples. Checkpoints of MMEngine hold Python
text in `meta['cfg']`; of that only literals and `dict(...)` are understood, by looking at its syntax tree.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from backbones.checkpoints.tree import flatten, unflatten

KEY, OMITTED = 'config_json', 'config_omitted'
TEXT = 'cfg'  # MMEngine's
LONGEST = 4 << 20  # characters; the largest config of mmdet has 60,000
WORDS = dict(inf=math.inf, nan=math.nan)
SIGNS = {ast.USub: lambda value: -value, ast.UAdd: lambda value: value}


class NoConfig(ValueError):
    """There is no config, or none that is plain data; the message ends a sentence that begins with the checkpoint."""


def packed(config: Mapping[str, Any]) -> dict[str, str]:
    """What goes into the `meta` of a checkpoint: the config as JSON, or why it cannot be kept; nothing for none.

    Args:
        config: `Config.to_dict()` of a run.
    """
    if not config.get('model'):
        return {}
    try:
        tensors, skeleton = flatten(dict(config))
        if tensors:
            raise ValueError('it holds tensors')
        return {KEY: json.dumps(skeleton, allow_nan=False)}
    except ValueError as error:
        return {OMITTED: str(error)[:300]}


def unpacked(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The config in the `meta` of a checkpoint, as plain data. Nothing in it is imported, called or built.

    Raises:
        NoConfig: there is none, or it is no plain data.
    """
    if meta.get(KEY) is not None:
        config = _from_json(str(meta[KEY]))
    elif meta.get(TEXT) is not None:
        config = _from_text(str(meta[TEXT]))
    elif meta.get(OMITTED) is not None:
        raise NoConfig(f'holds no config, as it was no plain data ({str(meta[OMITTED])[:200]})')
    else:
        raise NoConfig('holds no config: it was written by an older version or by another program')
    if not isinstance(config, dict) or not isinstance(config.get('model'), dict):
        raise NoConfig('holds a config without a model')
    return config


def _from_json(text: str) -> Any:
    try:
        if len(text) > LONGEST:
            raise ValueError('it is too long')
        return unflatten(json.loads(text), {})
    except (ValueError, RecursionError, AttributeError) as error:
        raise NoConfig(f'holds a config that cannot be read ({str(error)[:100]})') from error


def _from_text(text: str) -> dict[str, Any]:
    """Read `name = literal` lines; anything else is refused before any of it is looked at further."""
    try:
        if len(text) > LONGEST:
            raise ValueError('it is too long')
        return {_target(line): _value(line.value) for line in ast.parse(text).body}
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        reason = 'it is nested too deeply' if isinstance(error, RecursionError | MemoryError) else str(error)[:200]
        raise NoConfig(f'holds a config that is no plain data ({reason}) and is not executed') from error


def _target(line: ast.stmt) -> str:
    if not isinstance(line, ast.Assign) or len(line.targets) != 1 or not isinstance(line.targets[0], ast.Name):
        raise ValueError(f'line {line.lineno} is no NAME = VALUE')
    return line.targets[0].id


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = dict(List=list, Tuple=tuple, Set=list)[type(node).__name__]
        return kind(_value(item) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return _keywords(node.keywords)
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS and isinstance(node.operand, ast.Constant | ast.Name):
        value = _value(node.operand)
        if isinstance(value, int | float):
            return SIGNS[type(node.op)](value)
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    raise ValueError(f'line {node.lineno} holds {ast.unparse(node)[:60]}')


def _keywords(keywords: list[ast.keyword]) -> dict[str, Any]:
    """What `dict(a=1, **{'b-c': 2})` holds; yapf writes keys that are no names so."""
    found: dict[str, Any] = {}
    for keyword in keywords:
        value = _value(keyword.value)
        if keyword.arg is None and not isinstance(value, dict):
            raise ValueError(f'line {keyword.value.lineno} unpacks what is no dict')
        found.update(value if keyword.arg is None else {keyword.arg: value})
    return found
