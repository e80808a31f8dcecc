"""What of the model learns, and whether patches fit the images."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mmengine.runner import Runner
from torch import nn

from backbones.findings import Finding, Outcome
from backbones.precision.compute import unwrapped
from backbones.recipes.combinations import combination_findings


def check_trainable(runner: Runner) -> Outcome:
    """Say which parts learn, and which parameters get no gradient because they are frozen."""
    model = unwrapped(runner.model)
    parts: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, value in model.named_parameters():
        parts[name.partition('.')[0]].append(value)
    total = sum(value.numel() for values in parts.values() for value in values)
    figures: dict[str, Any] = {}
    for part, values in parts.items():
        learns = sum(value.numel() for value in values if value.requires_grad)
        figures[part] = dict(parameters=sum(value.numel() for value in values), trainable=learns,
                             tensors=len(values), frozen_tensors=sum(not value.requires_grad for value in values))
    learns = sum(row['trainable'] for row in figures.values())
    frozen = [f'{part} {1 - row["trainable"] / max(row["parameters"], 1):.0%}' for part, row in figures.items()
              if row['frozen_tensors']]
    outcome = Outcome('what learns', f'{learns / 1e6:.2f} M of {total / 1e6:.2f} M parameters learn', figures=figures)
    if frozen:
        outcome.summary += f'; frozen: {", ".join(frozen)}'
    outcome.details = _table(figures)
    outcome.findings = _frozen_findings(model, figures)
    return outcome


def _table(figures: dict[str, Any]) -> list[str]:
    rows = [('part', 'parameters', 'learn', 'tensors', 'frozen')]
    rows += [(part, f'{row["parameters"]:,}', f'{row["trainable"]:,}', str(row['tensors']), str(row['frozen_tensors']))
             for part, row in figures.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ['  '.join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(
        row[1:], widths[1:], strict=True))]) for row in rows]


def _frozen_findings(model: nn.Module, figures: dict[str, Any]) -> list[Finding]:
    """Nothing that learns, or a frozen part that no `frozen_stages` asks for."""
    if not any(row['trainable'] for row in figures.values()):
        return [Finding('error', 'nothing learns', 'no parameter of the model requires a gradient',
                        'set frozen_stages=-1, or let the heads learn')]
    findings = []
    for part, row in figures.items():
        # batch norms of a ResNet are frozen by norm_cfg.requires_grad; a whole frozen head is nobody's recipe
        if part != 'backbone' and row['tensors'] and row['frozen_tensors'] == row['tensors']:
            findings.append(Finding(
                'warning', 'head is frozen', f'no parameter of model.{part} requires a gradient: it stays as it starts',
                'let it learn, or leave it out', field=f'model.{part}'))
    return findings


def check_settings(runner: Runner) -> Outcome:
    """Hold the settings of the config against each other: patches and crops, frozen layers, intervals, ..."""
    outcome = Outcome('settings')
    for text in combination_findings(runner.cfg):
        what, _, remedy = text.rpartition('; ')
        outcome.findings.append(Finding('error', 'settings contradict', what or remedy, remedy if what else ''))
    model = unwrapped(runner.model)
    patch = getattr(getattr(model, 'backbone', None), 'patch_size', None)
    if isinstance(patch, int):
        outcome.summary = f'patches of {patch} pixels fit the sizes of images' if not outcome.findings else ''
        outcome.figures['patch_size'] = patch
    elif not outcome.findings:
        outcome.summary = 'no two settings contradict each other'
    return outcome
