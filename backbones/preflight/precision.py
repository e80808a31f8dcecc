"""The precision that is really in force, and whether this machine computes in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner

from backbones.findings import Finding, Outcome
from backbones.precision.compute import check_machine, unwrapped
from backbones.training.precision import ScaledOptimWrapper

NAMES = {torch.float32: 'fp32', torch.bfloat16: 'bf16', torch.float16: 'fp16'}


def precision_of(runner: Runner) -> tuple[str, str]:
    """The precision of the forward pass, and by what: 'autocast', 'the model itself', or '' where there is no choice.

    autocast takes fp16 on a GPU where no dtype is given:
    https://github.com/open-mmlab/mmengine/blob/v0.10.7/mmengine/runner/amp.py
    """
    wrapper, stated = runner.optim_wrapper, runner.cfg.get('precision')
    if isinstance(wrapper, ScaledOptimWrapper):
        return 'fp16', 'the model itself, with a scaled loss'
    if isinstance(wrapper, AmpOptimWrapper):
        return NAMES[wrapper.cast_dtype or torch.float16], 'autocast, with a scaled loss'
    if stated in ('bf16', 'fp16'):
        return stated, 'the model itself'
    return 'fp32', ''


def check_precision(runner: Runner) -> Outcome:
    """Say in what the run computes, on what, and what stands against it."""
    model = unwrapped(runner.model)
    first = next(model.parameters())
    name, means = precision_of(runner)
    device = torch.cuda.get_device_name(first.device) if first.device.type == 'cuda' else first.device.type.upper()
    outcome = Outcome('precision', f'{name} on {device}{f", by {means}" if means else ""}; weights in fp32',
                      figures=dict(precision=name, device=device))
    kinds = {value.dtype for value in model.parameters() if value.is_floating_point() and value.requires_grad}
    if kinds - {torch.float32}:
        words = ', '.join(sorted(NAMES.get(kind, str(kind)) for kind in kinds))
        outcome.summary = f'{name} on {device}; weights in {words}'
        outcome.findings.append(Finding(
            'warning', 'weights in low precision',
            f'parameters of the model are {words}: small updates are rounded away', 'keep the weights in fp32 and set '
            "precision='bf16' (docs/precision.md)", value=words))
    if not isinstance(runner.optim_wrapper, OptimWrapper):
        return outcome
    if isinstance(runner.optim_wrapper, AmpOptimWrapper) and first.device.type == 'cpu' and not isinstance(
            runner.optim_wrapper, ScaledOptimWrapper):
        outcome.findings.append(Finding(
            'error', 'precision of this machine', 'autocast (AmpOptimWrapper) needs a GPU and this machine has none',
            'train with --precision bf16 or --precision fp32 (docs/precision.md)', field='optim_wrapper.type'))
    elif name != 'fp32':
        try:
            check_machine(name, first.device)
        except ValueError as error:
            what, _, remedy = str(error).partition('; ')
            outcome.findings.append(Finding('error', 'precision of this machine', what, remedy, field='precision',
                                            value=name))
    outcome.findings += _against_the_card(runner, name)
    return outcome


def _against_the_card(runner: Runner, name: str) -> list[Finding]:
    card = runner.cfg.get('card')
    said = card.get('precision') if isinstance(card, Mapping) else None
    if said is None or said == name:
        return []
    return [Finding('note', 'other precision than the card',
                    f'the run computes in {name}, and the card of the recipe says {said}', field='precision',
                    value=name)]
