"""What to tell a user whose checkpoint does not fit: what differs, and what to change."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from backbones.weights.coverage import Coverage
from backbones.weights.family import Family
from backbones.weights.layout import State

SHOWN = 4  # names listed of each kind of finding; the rest is counted
# Leftovers that a backbone takes when it is built for them.
# Other backbones, by a name that only they have.
OTHERS = {
    'Swin Transformer': r'layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table',
    'ResNet': r'layer\d\.\d+\.conv\d\.weight',
    'EfficientNet': r'(_blocks|blocks)\.\d+\.?\d*\.(_depthwise_conv|conv_dw|bn\d)\.',
    'language model': r'(embed_tokens|word_embeddings|wte)\.weight',
}
REMEDIES = {
    'reg_token': 'the file has register or distillation tokens: build the backbone with num_registers={rows}',
    'norm_pre.weight': 'the file has a norm before the blocks: build the backbone with pre_norm=True',
    'pos_embed': "the file has absolute positions: build the backbone with position='absolute'",
    'rope_embed.periods': "the file has rotary positions: build the backbone with position='rope'",
}


def first_names(names: Sequence[str], limit: int = SHOWN) -> str:
    """List the first few names and count the rest."""
    rest = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + rest


def _archs(module: nn.Module) -> Mapping[str, Mapping[str, Any]]:
    """Give the named sizes of a backbone class: the table ARCHS beside it."""
    return getattr(sys.modules[type(module).__module__], 'ARCHS', {})


def own_sizes(module: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give the sizes of a backbone of state `own` in the terms of its family, with the levels it does not build."""
    stated = getattr(module, 'arch', None)
    stated = stated if isinstance(stated, Mapping) else {}
    read = module.weight_family.sizes(own)
    ours = {key: stated.get(key, getattr(module, key, value)) for key, value in read.items()}
    # a neck has as many channels on each level
    return {key: value[0] if key == 'out_channels' else value for key, value in ours.items()}


def arch_name(module: nn.Module, own: Mapping[str, Tensor]) -> str | None:
    """Name the published size that a backbone has."""
    return _name_of(own_sizes(module, own), module)


def _name_of(sizes: Mapping[str, Any], module: nn.Module) -> str | None:
    for name, arch in _archs(module).items():
        common = [key for key in arch if key in sizes]
        if common and all(sizes[key] == arch[key] for key in common):
            return name
    return None


def differences(module: nn.Module, source: Mapping[str, Any]) -> list[str]:
    """Say which settings of a backbone are not those of the published model, where no tensor shows them."""
    found = []
    for key, theirs in source.items():
        ours = getattr(module, key, theirs)
        is_unused = key == 'pos_interpolation' and getattr(module, 'position', 'absolute') != 'absolute'
        if ours != theirs and not is_unused and not (key == 'act' and getattr(module, 'mlp', 'mlp') != 'mlp'):
            found.append(f'{key}={ours!r} (source {theirs!r})')
    return found


def arch_text(arch: Mapping[str, Any]) -> str:
    """Write sizes as arguments."""
    return ', '.join(f'{key}={value}' for key, value in arch.items())


def size_hint(theirs: Mapping[str, Any], module: nn.Module) -> str:
    """Say which arguments the file asks for, if its size is not that of the backbone; '' if it is."""
    ours = own_sizes(module, module.state_dict())
    keys = [key for key in theirs if key in ours and ours[key] != theirs[key]]
    if not keys:
        return ''
    in_arch = {key for sizes in _archs(module).values() for key in sizes}
    name = _name_of(theirs, module)
    fits = [f'{key}={theirs[key]}' for key in keys if key not in in_arch]
    if any(key in in_arch for key in keys):
        inside = {key: value for key, value in theirs.items() if key in in_arch}
        fits.insert(0, f'arch={name!r}' if name else f'arch=dict({arch_text(inside)})')
    differ = '; '.join(f'{key} is {theirs[key]} in the file and {ours[key]} in the backbone' for key in keys)
    return f'the file is of another size ({differ}): {", ".join(fits)} fits'


def unknown_layout(source: str, where: str, state: State, families: Sequence[Family]) -> str:
    """Say that a file is in no known layout, and what it seems to be."""
    parts = {piece for name in state for piece in name.split('.')}
    known = [title for title, pattern in OTHERS.items() if any(re.search(pattern, name) for name in state)]
    only_heads = parts <= {'head', 'fc', 'classifier', 'weight', 'bias', 'layers', 'norm', 'fc_norm', 'head_dist'}
    if only_heads:
        finding = 'holds a classification head only'
    elif known:
        finding = f'looks like a {known[0]}, which is not among the backbones here'
    else:
        finding = f'is in no known layout{where}'
    names = ' or '.join(family.name for family in families)
    remedy = f'give a checkpoint of a {names}; docs/weights.md lists the layouts'
    if not (known or only_heads):
        remedy = (
            f'give a {names} in one of the layouts of docs/weights.md, say prefix=... if one lies deeper in this file, '
            f'or rename its tensors to the names of {families[0].name}.state_dict()'
        )
    return (
        f'checkpoint {source} {finding}: it has {len(state)} tensors, {first_names(list(state))}; {remedy}'
    )


def _leftover_hints(coverage: Coverage, native: State) -> list[str]:
    hints = []
    for name in coverage.unexpected:
        if name in REMEDIES:
            hints.append(REMEDIES[name].format(rows=native[name].shape[-2:][0]))
        elif name.endswith(('gamma', 'gamma_1', 'gamma_2')) and 'grn' not in name:
            hints.append('the file has a layer scale: build the backbone with layer_scale_init_value above 0')
        elif '.grn.' in name:
            hints.append('the file is ConvNeXt V2: build the backbone with use_grn=True')
    if any('.grn.' in name for name in coverage.missing):
        hints.append('the file is ConvNeXt V1: build the backbone with use_grn=False')
    scale = re.compile(r'\.(gamma|ls\d\.gamma)$')
    if any(map(scale.search, coverage.missing)) and not any(map(scale.search, native)):
        hints.append('the file has no layer scale: build the backbone without (layer_scale_init_value=0 or None)')
    return list(dict.fromkeys(hints))


def refusal(coverage: Coverage, native: State, hint: str) -> str:
    """Write what does not fit, why, and what to do; of a file of another size only that, and how much it concerns."""
    title = f'checkpoint {coverage.source} (layout {coverage.layout!r}) does not fit {coverage.backbone}'
    relax = 'or set strict=False in init_cfg to load what fits'
    counts = [
        (coverage.missing, 'parameters are missing in the file', coverage.missing),
        (coverage.mismatched, 'have another shape', [
            f'{name} is {old}, wanted {new}' for name, (old, new) in coverage.mismatched.items()]),
        (coverage.not_finite, 'hold NaN or infinity', coverage.not_finite),
        (coverage.unexpected, 'are not in the backbone', coverage.unexpected),
    ]
    counts = [(len(names), text, shown) for names, text, shown in counts if names]
    if hint:
        return f'{title}: {hint}; {relax} ({", ".join(f"{count} {text}" for count, text, _ in counts)})'
    findings = '; '.join(f'{count} {text}: {first_names(shown)}' for count, text, shown in counts)
    if not (coverage.missing or coverage.mismatched or coverage.unexpected):
        return f'{title}: {findings}; download it again, or take a checkpoint from before the run diverged'
    remedies = _leftover_hints(coverage, native) or ['give the checkpoint of this architecture']
    return f'{title}: {findings}. To do: {"; ".join(remedies)}; {relax}'
