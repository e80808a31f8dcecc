"""Hold a config against its card, and against itself: values, schedule, dead keys, printed counts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from backbones.config import read_config
from backbones.flops import count_macs, count_params, on_meta
from backbones.recipes.card import Card, Count, docstring, read_card, read_count, read_flops
from backbones.recipes.combinations import combination_findings
from backbones.recipes.facts import facts
from backbones.recipes.keys import key_findings
from backbones.recipes.schedule import schedule_findings

MAX_LINES = 50
FLOPS_TOLERANCE = 0.01  # of what the papers print
# Table 9 of ViTDet prints tera with one decimal: half a unit and what the counting of proposals may differ by.
TERA_TOLERANCE = 0.06e12


def findings(path: Path, count: bool = True) -> list[str]:
    """Every difference between the config at `path` and its card, each as one sentence.

    Args:
        path: a leaf of `configs/`.
        count: whether to build the model, in shapes only, and to count parameters and FLOPs.

    Raises:
        ValueError: there is no such config, or it cannot be read.
    """
    cfg = read_config(path)
    try:
        card = read_card(cfg)
    except ValueError as error:
        return [str(error), *key_findings(cfg), *combination_findings(cfg)]
    form, invalid = list(form_findings(path, card)), [*key_findings(cfg), *combination_findings(cfg)]
    if invalid:  # what is no valid config cannot be compared
        return [*form, *invalid, 'not compared with its card before these are mended']
    found = [*form, *fact_findings(cfg, card), *schedule_findings(cfg)]
    return found + (list(count_findings(cfg, card)) if count else [])


def form_findings(path: Path, card: Card) -> Iterator[str]:
    """Two levels, no `_delete_`, at most 50 lines, and a command that starts the processes of the card."""
    text = path.read_text(encoding='utf-8')
    lines = len(text.splitlines())
    if lines > MAX_LINES:
        yield f'{lines} lines; a leaf has at most {MAX_LINES}: move what others share into a fragment of _base_/'
    if '_delete_' in text:
        yield '_delete_ is used; take a fragment without the part that it deletes'
    for base in _bases(text):
        if not base.startswith('../_base_/'):
            yield f'_base_ names {base!r}; a leaf lists fragments of ../_base_/ only'
    command = re.sub(r'\\\s+', '', docstring(path))
    if f'tools/train.py configs/{path.parent.name}/{path.name}' not in command:
        yield f'the docstring lacks its command, tools/train.py configs/{path.parent.name}/{path.name}'
    started = [int(number) for number in re.findall(r'--n(?:nodes|proc_per_node) (\d+)', command)]
    processes = started[0] * started[1] if len(started) == 2 else started[0] if started else 1
    if card.batch % (processes * card.per_gpu):
        yield (
            f'the command starts {processes} processes of {card.per_gpu} images, which {card.batch}, the batch of the '
            'card, is no multiple of; correct one of them'
        )


def _bases(text: str) -> list[str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '_base_':
            return ast.literal_eval(node.value)
    return []


def fact_findings(cfg: Config, card: Card) -> Iterator[str]:
    """Where the config does something else than its card says."""
    try:
        done = facts(cfg)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        yield f'what the config does cannot be worked out ({type(error).__name__}: {error}); state it as the recipes do'
        return
    for name, value in done.items():
        said = getattr(card, name)
        if not _equal(said, value):
            yield f'{name}: the card says {said!r} and the config does {value!r}; correct one of them'


def _equal(said: Any, done: Any) -> bool:
    return said == done and isinstance(said, bool) == isinstance(done, bool)


def count_findings(cfg: Config, card: Card) -> Iterator[str]:
    """Where parameters or FLOPs are not what the card prints."""
    with on_meta(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    said, counted = read_count(card.params), count_params(model).total
    if abs(counted - said.value) > params_tolerance(said):
        yield f'params: the card prints {card.params} and the model has {counted:,}; correct one of them'
    said, size = read_flops(card.flops)
    counted = count_macs(model, size).total
    if abs(counted - said.value) > flops_tolerance(said):
        yield (
            f'flops: the card prints {card.flops} and the model needs {counted / 1e9:,.4g}G multiply-adds; correct one '
            'of them'
        )


def params_tolerance(said: Count) -> float:
    """Half a unit of the last printed digit; a whole one where a paper printed it, which may not have rounded well."""
    return (0.5 if said.ours else 1.0) * said.unit * 10.0**-said.decimals


def flops_tolerance(said: Count) -> float:
    """1 %, or what the printed digits can tell."""
    digits = TERA_TOLERANCE if said.unit == 1e12 and said.decimals == 1 else 0.5 * said.unit * 10.0**-said.decimals
    return max(FLOPS_TOLERANCE * said.value, digits)
