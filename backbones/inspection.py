"""What a checkpoint file holds, whether a config can take it, and the same weights in another layout."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.config import load_config
from backbones.from_weights import CLASSES, backbone_arguments, recognise_file, recognise_tensors
from backbones.registry import MODELS
from backbones.weights.advice import arch_name, refusal
from backbones.weights.export import export, save_tensors
from backbones.weights.hf_config import config_beside
from backbones.weights.index import entries
from backbones.weights.load import is_finite, local_file, survey
from backbones.weights.recognition import Recognised, read_tensors
from backbones.weights.sources import Checkpoint, spelled
from backbones.weights.vit_values import position_grid


def inspect_file(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read a checkpoint and say what it holds.

    Returns:
        `file`, `bytes`, `family`, `layout`, `prefix`, `arch` (a published name, or None), `arguments` (constructor
        arguments read off the file), `parameters` (values of the backbone), `tensors`, `dtypes` (values of each),
        `patch_size` and `position_grid` (rows, columns) of a ViT, `dropped` and `outside` (tensor names).

    Raises:
        ValueError: if the file cannot be read or is in no known layout.
    """
    path = local_file(checkpoint)
    tensors, wrappers = read_tensors(path)
    found = recognise_tensors(tensors, wrappers, checkpoint)
    arguments, problem = _arguments(found, path)
    report = dict(
        file=spelled(checkpoint),
        bytes=path.stat().st_size,
        family=found.family.name,
        layout=found.layout.name,
        prefix=found.prefix,
        arch=None,
        arguments=arguments,
        parameters=sum(value.numel() for value in found.native.values()),
        tensors=len(found.native),
        dtypes=_dtypes(tensors),
        patch_size=arguments.get('patch_size'),
        position_grid=_position_grid(found.native),
        dropped=found.dropped,
        outside=found.outside,
        note=problem,
    )
    if problem is None:
        with torch.device('meta'):
            model = CLASSES[found.family.name](**arguments)
        report['arch'] = arch_name(model, model.state_dict())
    return report


def _arguments(found: Recognised, path: Path) -> tuple[dict[str, Any], str | None]:
    """The constructor arguments, and what cannot be known."""
    try:
        return backbone_arguments(found, config_beside(path)), None
    except ValueError as error:
        return found.family.arguments(found.native), str(error)


def _dtypes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for value in tensors.values():
        counts[str(value.dtype).removeprefix('torch.')] += value.numel()
    return dict(counts)


def _position_grid(native: Mapping[str, Tensor]) -> list[int] | None:
    grid = position_grid(native['pos_embed']) if 'pos_embed' in native else None
    return None if grid is None else list(grid)


def format_report(report: Mapping[str, Any]) -> str:
    """An aligned table of `inspect_file`."""
    arguments = {key: value for key, value in report['arguments'].items() if key != 'arch'}
    rows = [
        ('file', f'{report["file"]} ({report["bytes"] / 1e6:,.1f} MB)'),
        ('backbone', report['family'] + (f', arch {report["arch"]!r}' if report['arch'] else '')),
        ('layout', report['layout'] + (f', under {report["prefix"]!r}' if report['prefix'] else '')),
        ('parameters', f'{report["parameters"]:,} in {report["tensors"]} tensors'),
        ('dtypes', ', '.join(f'{name} {count:,}' for name, count in report['dtypes'].items())),
        ('arch', str(report['arguments'].get('arch'))),
        ('arguments', ', '.join(f'{key}={value!r}' for key, value in sorted(arguments.items()))),
        ('position grid', ' x '.join(map(str, report['position_grid'])) if report['position_grid'] else 'none'),
        ('left out', _shortened(report['dropped'])),
        ('beside it', _shortened(sorted({name.split('.')[0] for name in report['outside']}))),
    ]
    if report['note']:
        rows.append(('note', report['note']))
    width = max(len(title) for title, _ in rows)
    return '\n'.join(f'{title:<{width}}  {text}' for title, text in rows)


def _shortened(names: list[str], limit: int = 6) -> str:
    if not names:
        return 'nothing'
    return ', '.join(names[:limit]) + (f' and {len(names) - limit} more' if len(names) > limit else '')


def check_file(config: str | Path, checkpoint: Checkpoint, options: dict[str, Any] | None = None) -> str:
    """Say whether the backbone of a config takes a checkpoint, without training.

    Returns:
        The coverage as a table.

    Raises:
        ValueError: as a load would, after the table.
    """
    cfg = load_config(config, options)
    backbone = cfg.model.get('backbone')
    if backbone is None:
        raise ValueError(f'config {config} has no model.backbone; give the config of a detector or segmenter')
    kind = str(backbone.get('type'))
    if not kind.startswith('backbones.'):
        raise ValueError(
            f"config {config}: model.backbone is {kind!r}; this tool checks the backbones of scope 'backbones'")
    init_cfg = backbone.pop('init_cfg', None) or {}
    given = {key: init_cfg[key] for key in ('prefix', 'patch_resize') if key in init_cfg}
    model: nn.Module = MODELS.build(backbone)
    file = local_file(checkpoint)
    coverage, native, hint = survey(model, checkpoint, *read_tensors(file), config_beside(file), **given)
    coverage.not_finite += [name for name in coverage.filled if not is_finite(native[name])]
    if not coverage.complete:
        raise ValueError(f'{coverage.table()}\n\n{refusal(coverage, native, hint)}')
    return f'{coverage.table()}\n\n{coverage.summary()}'


def convert_file(checkpoint: Checkpoint, out: str | os.PathLike, target: str) -> str:
    """Write the backbone of a checkpoint in another layout, proved to read back bit for bit.

    Returns:
        One sentence on what was written.

    Raises:
        ValueError: if the file cannot be read, the target cannot hold it, or `out` is there already.
    """
    found = recognise_file(checkpoint)
    written = export(found.native, found.family, target, found.layout.models[0])
    save_tensors(out, written.tensors, written.wrapper)
    names = ', '.join(written.omitted)
    omitted = f'; left out, because that code computes it or has none: {names}' if names else ''
    change = f'{found.family.name}: {found.layout.name} -> {written.layout}'
    return f'{change}, {len(written.tensors)} tensors in {os.fspath(out)}{omitted}'


def to_json(report: Mapping[str, Any]) -> str:
    """`inspect_file` as JSON."""
    return json.dumps(report, indent=1, default=list)


def format_index() -> str:
    """The short names, a line each: name, title, licence, remarks."""
    rows = [('name', 'weights', 'licence', '')]
    for entry in entries().values():
        facts = (('no commercial use', entry.non_commercial), ('gated', entry.gated))
        remarks = [text for text, is_so in facts if is_so]
        rows.append((entry.name, entry.title, entry.licence, ', '.join(remarks)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
