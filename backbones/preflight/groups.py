"""Which parameter learns at which rate and is decayed how much: the groups of the optimiser that was built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from backbones.findings import Finding, Outcome
from backbones.layer_decay import DEPTH_METHODS, FAMILY_RULES
from backbones.precision.compute import unwrapped
from backbones.preflight.drawing import BLUE, GREY, ORANGE, svg_of
from backbones.recipes.facts import spared_of
from backbones.recipes.lookup import bare_name
from backbones.weight_decay import TORCH_NORMS, WEIGHT_DECAY_RULES, Param

TOLERANCE = 0.01  # of a learning rate, before it is another one
LARGE_DECAY = 0.01  # from here on weight decay shrinks a norm within a training: AdamW's, not SGD's 1e-4
DECAYING = 'LayerDecayOptimWrapperConstructor'


class Row(NamedTuple):
    """One parameter as the optimiser has it."""

    param: Param
    depth: int | None  # of the backbone's layers, from 0; None outside of it
    last: bool  # whether it comes after all layers of the backbone: an output norm
    scale: float | None  # that its depth asks for; None where no decay is asked for
    lr: float
    weight_decay: float


def check_groups(runner: Runner) -> Outcome:
    """Say what learns at which rate, as a table by depth, and what is not as the config asks."""
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if not isinstance(optimizer, Optimizer):
        return Outcome('parameter groups', skipped='optim_wrapper has several optimisers')
    wrapper, card = runner.cfg.get('optim_wrapper') or {}, runner.cfg.get('card')
    by_card = isinstance(card, Mapping) and 'no_weight_decay' in card and card['no_weight_decay'] == spared_of(wrapper)
    return groups_outcome(unwrapped(runner.model), optimizer, wrapper, by_card)


def groups_outcome(
    model: nn.Module, optimizer: Optimizer, wrapper_cfg: Mapping[str, Any], by_card: bool = False
) -> Outcome:
    """The outcome for a model, its optimiser, and the settings that it was built from.

    Args:
        model: the model.
        optimizer: its optimiser.
        wrapper_cfg: `optim_wrapper` of the config.
        by_card: whether what is spared from weight decay is what the card of the recipe says: published recipes decay
            norms, too.
    """
    base_lr, base_wd = (float(optimizer.defaults.get(key) or 0.0) for key in ('lr', 'weight_decay'))
    options = wrapper_cfg.get('paramwise_cfg') or {}
    rows, findings = _rows(model, optimizer, options)
    findings += _rates(rows, base_lr, options)
    findings += [
        _finding('error', 'negative weight decay', row.param.name, f'has weight decay {row.weight_decay:g}',
                 'give 0 or more', row.weight_decay) for row in rows if row.weight_decay < 0]
    findings += _decays(model, [] if by_card else rows, base_wd, wrapper_cfg)
    depths = _by_depth(rows)
    outcome = Outcome('parameter groups', findings=findings, details=_table(depths))
    rates = [depth['lr'] for depth in depths]
    spared = sum(depth['spared']['tensors'] for depth in depths)
    outcome.summary = (
        f'{len(rows)} tensors in {len(optimizer.param_groups)} groups, lr '
        + (f'{min(rates):.3g} to {max(rates):.3g}' if rates and min(rates) != max(rates) else f'{base_lr:.3g}')
        + f', weight decay {base_wd:g} on {len(rows) - spared}')
    outcome.figures = dict(base_lr=base_lr, base_weight_decay=base_wd, groups=len(optimizer.param_groups),
                           decay_rate=options.get('decay_rate'), depths=depths)
    return outcome


# --- rows ---------------------------------------------------------------------------------------------------


def _rows(model: nn.Module, optimizer: Optimizer, options: Mapping[str, Any]) -> tuple[list[Row], list[Finding]]:
    """Every parameter of the optimiser; and those that are in no group, or in two."""
    settings: dict[int, tuple[float, float]] = {}
    times: dict[int, int] = {}
    for group in optimizer.param_groups:
        lr = float(group.get('initial_lr', group['lr']))
        for value in group['params']:
            settings[id(value)] = lr, float(group.get('weight_decay') or 0.0)
            times[id(value)] = times.get(id(value), 0) + 1
    rows, findings = [], []
    backbone = getattr(model, 'backbone', None)
    method = DEPTH_METHODS.get(options.get('decay_type', 'layer_wise'), 'get_layer_depth')
    rate = options.get('decay_rate')
    for module_name, module in model.named_modules():
        for leaf, value in module.named_parameters(recurse=False):
            name = f'{module_name}.{leaf}' if module_name else leaf
            count = times.pop(id(value), None)  # a shared parameter counts under its first name
            if count is None:
                if value.requires_grad and id(value) not in settings:
                    findings.append(_finding(
                        'error', 'in no group', name, 'requires a gradient and is in no group of the optimiser: it '
                        'never learns', 'correct the constructor of optim_wrapper'))
                continue
            if count > 1:
                findings.append(_finding(
                    'error', 'in two groups', name, f'is in the optimiser {count} times, and is stepped as often',
                    'set paramwise_cfg.bypass_duplicate=True, or correct the constructor'))
            rows.append(Row(Param(name, value, module), *_depth(backbone, name, method, rate), *settings[id(value)]))
    return rows, findings


def _finding(severity: str, kind: str, name: str, message: str, remedy: str, value: Any = None) -> Finding:
    return Finding(severity, kind, f'{name} {message}', remedy, field=name, value=value)


def _depth(
    backbone: nn.Module | None, name: str, method: str, rate: Any
) -> tuple[int | None, bool, float | None]:
    """Layer of the backbone that a parameter belongs to, whether it is the last, and the scale that `rate` gives it."""
    asks = getattr(backbone, method, None)
    if asks is None or not name.startswith('backbone.'):
        return None, False, None
    try:
        layer, layers = asks(name.replace('_orig_mod.', ''), 'backbone.')
    except (TypeError, ValueError, KeyError):  # of another package: other arguments, or names it does not know
        return None, False, None
    is_rate = isinstance(rate, int | float) and 0 < rate <= 1
    scale = float(rate) ** (layers - layer - 1) if is_rate else None
    return layer, layer == layers - 1, scale


# --- rules --------------------------------------------------------------------------------------------------


def _multiplier(name: str, options: Mapping[str, Any]) -> float:
    """The `lr_mult` that the config gives a parameter by its name: the longest key that is part of it decides."""
    keys = options.get('custom_keys') or {}
    fitting = sorted((key for key in keys if key in name), key=lambda key: (-len(key), key))
    asked = keys[fitting[0]].get('lr_mult', 1.0) if fitting else 1.0
    if name.endswith('.bias') and not fitting:
        asked = max(asked, options.get('bias_lr_mult', 1.0))
    return float(asked)


def _rates(rows: list[Row], base: float, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Learning rates above the base rate, of zero, or not those of the layer decay that the config asks for."""
    if not 0 < base < math.inf:
        yield Finding('error', 'learning rate is zero', f'optim_wrapper.optimizer.lr={base:g}: nothing is learnt',
                      'set a learning rate', field='optim_wrapper.optimizer.lr', value=base)
        return
    other: list[tuple[float, Row]] = []
    for row in rows:
        asked = _multiplier(row.param.name, options)
        if not math.isfinite(row.lr):
            yield _finding('error', 'learning rate is no number', row.param.name, f'has the learning rate {row.lr}',
                           'correct the constructor of optim_wrapper', row.lr)
        elif row.lr > base * max(asked, 1.0) * (1 + TOLERANCE):
            yield _finding(  # other projects' constructors may mean it for a head
                'warning' if row.depth is None else 'error', 'lr above the base rate', row.param.name,
                f'learns at {row.lr:.4g}, {row.lr / base:.3g} times optimizer.lr, and no custom_keys asks for it',
                "use constructor='backbones.LayerDecayOptimWrapperConstructor' and leave num_layers out: a wrong "
                'num_layers raises rates', row.lr)
        elif row.lr == 0 and row.param.value.requires_grad and asked != 0:
            yield _finding('warning', 'learning rate is zero', row.param.name, 'has the learning rate 0',
                           'freeze it by frozen_stages, or correct the constructor', row.lr)
        elif row.scale is not None and asked and abs(row.lr / (base * asked) - row.scale) > TOLERANCE * row.scale:
            other.append((abs(math.log(max(row.lr, 1e-30) / base / row.scale)), row))
    inside = [row for row in rows if row.scale is not None]
    if not other:
        return
    worst = max(other, key=lambda pair: pair[0])[1]
    rate = options['decay_rate']
    if all(abs(row.lr - base) <= TOLERANCE * base for row in inside):
        text = f'decay_rate={rate} is asked for, and all {len(inside)} tensors of the backbone learn at {base:.4g}'
        kind, severity = 'no layer decay', 'error'
    else:
        kind, severity = 'other layer decay', 'warning'
        text = (
            f'decay_rate={rate}: {len(other)} of {len(inside)} tensors of the backbone have another rate than their '
            f'depth asks for, such as {worst.param.name}: {worst.lr:.4g} in place of {base * worst.scale:.4g}')
    yield Finding(
        severity, kind, text,
        "set optim_wrapper.constructor='backbones.LayerDecayOptimWrapperConstructor', and leave num_layers out",
        field='optim_wrapper.paramwise_cfg', value=options.get('num_layers'))


def _decays(
    model: nn.Module, rows: list[Row], base: float, wrapper_cfg: Mapping[str, Any]
) -> Iterator[Finding]:
    """Norms, biases and tables that are decayed though the rule of the recipe spares them."""
    backbone = getattr(model, 'backbone', None)
    options = wrapper_cfg.get('paramwise_cfg') or {}
    if bare_name(wrapper_cfg.get('constructor') or '') == DECAYING:
        return  # it applies the rule by itself
    families = [FAMILY_RULES[cls.__name__] for cls in type(backbone).__mro__ if cls.__name__ in FAMILY_RULES]
    declared = getattr(backbone, 'weight_decay_rule', None) or next(iter(families), None)
    name = options.get('weight_decay_rule') or declared
    rule = WEIGHT_DECAY_RULES.get(name)
    inside = [row for row in rows if row.param.name.startswith('backbone.') and row.weight_decay >= LARGE_DECAY]
    if rule is None:  # of a plain ViT the published rules differ, but none but ViTDet-H's decays norms
        if not hasattr(backbone, 'weight_family'):
            return
        wrong, told = [row for row in inside if isinstance(row.param.owner, TORCH_NORMS)], 'norms'
    else:
        wrong, told = [row for row in inside if rule.exempt(row.param)], f'what the rule {name!r} spares'
    if wrong:
        yield Finding(
            'warning', 'norms are decayed',
            f'{len(wrong)} tensors of the backbone are decayed by {wrong[0].weight_decay:g}, {told}: such as '
            f'{wrong[0].param.name}',
            "set optim_wrapper.constructor='backbones.LayerDecayOptimWrapperConstructor' with paramwise_cfg="
            'dict(decay_rate=1.0, weight_decay_rule=...), or norm_decay_mult=0 and bias_decay_mult=0',
            field='optim_wrapper.paramwise_cfg', value=base)


# --- table and picture --------------------------------------------------------------------------------------


def _by_depth(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows of equal depth and learning rate, from the stem to the heads."""
    found: dict[tuple[int, str, float], dict[str, Any]] = {}
    last = max((row.depth for row in rows if row.depth is not None), default=0)
    for row in rows:
        part = row.param.name.partition('.')[0]
        if row.depth is not None:
            place, label = row.depth, 'output norm' if row.last else str(row.depth)
        else:
            place, label = last + 1 + (part != 'backbone') + (part not in ('backbone', 'neck')), part
        entry = found.setdefault((place, label, row.lr), dict(
            depth=label, lr=row.lr, weight_decay=0.0, decayed=dict(tensors=0, parameters=0),
            spared=dict(tensors=0, parameters=0)))
        side = entry['decayed' if row.weight_decay > 0 else 'spared']
        side['tensors'] += 1
        side['parameters'] += row.param.value.numel()
        entry['weight_decay'] = max(entry['weight_decay'], row.weight_decay)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1], key[2]))]


def _table(depths: list[dict[str, Any]]) -> list[str]:
    table = [('depth', 'lr', 'weight decay', 'decayed', 'not decayed', 'parameters')]
    for entry in depths:
        decayed, spared = entry['decayed'], entry['spared']
        table.append((entry['depth'], f'{entry["lr"]:.4g}', f'{entry["weight_decay"]:g}', str(decayed['tensors']),
                      str(spared['tensors']), f'{decayed["parameters"] + spared["parameters"]:,}'))
    widths = [max(len(row[column]) for row in table) for column in range(6)]
    return ['  '.join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(
        row[1:], widths[1:], strict=True))]) for row in table]


def draw_groups(figures: Mapping[str, Any]) -> str:
    """Learning rate and weight decay by depth, as SVG text."""
    depths = figures['depths']
    labels = [entry['depth'].replace('_', ' ') for entry in depths]
    places = range(len(depths))

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        rates = [entry['lr'] for entry in depths]
        above.plot(places, rates, color=BLUE, marker='o', markersize=4, linewidth=1.2)
        above.set_title('learning rate')
        if rates and min(rates) > 0 and max(rates) / min(rates) > 3:
            above.set_yscale('log')
        else:
            above.set_ylim(0, max(rates, default=1.0) * 1.15 or 1.0)
        above.axhline(figures['base_lr'], color=GREY, linewidth=0.8, linestyle='--')
        above.yaxis.set_major_formatter(lambda value, _: f'{value:.3g}')
        above.yaxis.set_minor_formatter(lambda value, _: f'{value:.3g}' if max(rates) / min(rates) < 10 else '')
        decayed, spared = ([entry[side]['tensors'] for entry in depths] for side in ('decayed', 'spared'))
        decays = sorted({entry['weight_decay'] for entry in depths if entry['weight_decay']})
        told = ', '.join(f'{value:g}' for value in decays) or '0'
        below.bar(places, decayed, color=BLUE, width=0.7, label=f'decayed ({told})')
        below.bar(places, spared, bottom=decayed, color=ORANGE, width=0.7, label='not decayed')
        below.set_title('weight decay: number of tensors')
        below.legend(loc='upper left', ncols=2)
        below.margins(y=0.35)
        below.set_xticks(list(places), labels, rotation=60 if len(labels) > 10 else 30, ha='right',
                         rotation_mode='anchor')
        below.set_xlabel('layer of the backbone, then the other parts of the model')
        below.set_xlim(-0.6, len(labels) - 0.4)

    return svg_of(draw, min(max(5.5, 0.32 * len(labels)), 14.0), 4.6)
