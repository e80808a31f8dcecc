"""What the text of a config shows, and the composed config no longer does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from backbones.findings import Finding


def assigned_twice(path: str | Path) -> Iterator[Finding]:
    """Settings that the file assigns twice: in one file the later takes the place of the earlier, nothing is merged."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):  # said where the config is read
        return
    lines: dict[str, int] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not _is_dict(node.value):
            continue
        for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
            if name in lines:
                yield Finding(
                    'warning', 'assigned twice',
                    f'{name} is assigned in line {lines[name]} and again in line {node.lineno}: the first is lost',
                    f'write one {name} = dict(...) with all that is meant; only what comes from _base_ is merged',
                    file=str(path), id=node.lineno, field=name)
            lines[name] = node.lineno


def _is_dict(node: ast.expr) -> bool:
    return isinstance(node, ast.Dict) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict')
