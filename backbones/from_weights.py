"""A backbone straight from a checkpoint: its architecture read off the file, then filled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor

from backbones.convnext import ARCHS as CONVNEXT_ARCHS
from backbones.convnext import ConvNeXt
from backbones.vit import ARCHS as VIT_ARCHS
from backbones.vit import VisionTransformer
from backbones.vit_parts import read_arch
from backbones.weights.advice import unknown_layout
from backbones.weights.convnext_family import CONVNEXT
from backbones.weights.hf_config import config_beside, facts
from backbones.weights.layout import State
from backbones.weights.load import load_pretrained, local_file
from backbones.weights.recognition import Recognised, about, read_tensors, recognise_in
from backbones.weights.sources import Checkpoint, spelled
from backbones.weights.vit_family import VIT

CLASSES = {'ConvNeXt': ConvNeXt, 'VisionTransformer': VisionTransformer}
HEAD_WIDTH = 64  # of every published ViT that VIT_ARCHS does not name


def load_backbone(checkpoint: Checkpoint, **overrides: Any) -> BaseModule:
    """Build the backbone that a checkpoint holds and fill it: from any lab's file to feature maps in one line.

    What the tensors show is read off them; what they do not (eps, activation, how positions are resized, number of
    heads) follows Hugging Face's `config.json` beside the file where there is one, else the layout's publisher, and
    heads of 64 channels. The final norm is kept where only the last map is returned (no `out_indices` given).

    Args:
        checkpoint: whatever `init_cfg=dict(type='Pretrained', checkpoint=...)` takes.
        overrides: arguments of the backbone (`out_indices`, `drop_path_rate`, ...) and of its `arch` (`num_heads`),
            which win over what was read; `prefix`, `patch_resize` as in `init_cfg`.

    Returns:
        `ConvNeXt` or `VisionTransformer`, in evaluation mode, every parameter from the file.

    Raises:
        ValueError: if the file cannot be read, is in no known layout, or does not show what is needed.
    """
    options = {key: overrides.pop(key) for key in ('prefix', 'patch_resize') if key in overrides}
    with about(spelled(checkpoint)):
        found = recognise_file(checkpoint, options.get('prefix'))
        arguments = backbone_arguments(found, config_beside(local_file(checkpoint)), overrides)
        model = CLASSES[found.family.name](**arguments)
    del found  # its tensors, before the file is read into the model
    load_pretrained(model, checkpoint, **options)
    for part in model.modules():
        if isinstance(part, BaseModule):
            part.is_init = True  # a Runner's init_weights() leaves it alone
    return model.eval()


def recognise_file(checkpoint: Checkpoint, prefix: str | None = None) -> Recognised:
    """Read a checkpoint and find out which backbone it holds.

    Raises:
        ValueError: if the file cannot be read or is in no known layout.
    """
    return recognise_tensors(*read_tensors(local_file(checkpoint)), checkpoint, prefix)


def recognise_tensors(
    state: State, wrappers: Sequence[str], checkpoint: Checkpoint, prefix: str | None = None
) -> Recognised:
    """Find out which backbone tensors hold that have been read.

    Args:
        state: tensors by the names of the file.
        wrappers: the keys that wrapped them.
        checkpoint: where they come from, for messages.
        prefix: where the backbone lies; None finds it.

    Raises:
        ValueError: if they are in no known layout, or have lost what every file of theirs has.
    """
    with about(spelled(checkpoint)):
        found = recognise_in((CONVNEXT, VIT), state, wrappers, prefix)
    if found is None:
        raise ValueError(unknown_layout(spelled(checkpoint), '', state, (CONVNEXT, VIT)))
    lost = found.layout.lost(found.native)
    if lost:
        raise ValueError(
            f'checkpoint {spelled(checkpoint)} (layout {found.title!r}) has lost what every such file has: '
            f'{", ".join(lost)}; give the file as it was published, or build the backbone by hand without'
        )
    return found


def backbone_arguments(
    found: Recognised, config: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Put together the constructor arguments of a recognised file: overrides, config.json, tensors, publisher.

    Raises:
        ValueError: if an override is no argument, or the number of heads cannot be known.
    """
    overrides = dict(overrides or {})
    accepted = set(inspect.signature(CLASSES[found.family.name]).parameters) - {'init_cfg'}
    read = found.family.arguments(found.native)
    arch = read.pop('arch')
    if found.heads is not None:
        arch.setdefault('num_heads', found.heads)
    hints = {key: value for key, value in {**found.layout.source, **read}.items() if key in accepted}
    if found.family is VIT:
        told = facts(config, arch)
        if 'num_heads' in told:
            arch.setdefault('num_heads', told.pop('num_heads'))
        hints |= told
    in_arch = {'embed_dim', 'depth', 'num_heads', 'mlp_hidden', 'depths', 'dims', 'dim'}
    wrong = sorted(set(overrides) - accepted - in_arch)
    if wrong:
        raise ValueError(
            f'load_backbone() got {wrong[0]!r}, which is no argument of {found.family.name}; allowed are '
            f'{sorted(accepted)}'
        )
    arch |= {key: overrides.pop(key) for key in sorted(in_arch & set(overrides))}
    arguments = {**hints, **overrides}
    if 'arch' not in overrides:
        arguments['arch'] = _vit_arch(arch, arguments) if found.family is VIT else _convnext_arch(arch)
    if found.family is VIT:
        _settle(arguments, found.native, overrides)
    return arguments


def _vit_arch(arch: dict[str, Any], arguments: Mapping[str, Any]) -> str | dict[str, Any]:
    """Name a ViT's sizes, or complete them."""
    kind = arguments.get('mlp', 'mlp')
    for name, sizes in VIT_ARCHS.items():
        values = read_arch(name, VIT_ARCHS, kind)
        named = dict(zip(('embed_dim', 'depth', 'num_heads', 'mlp_hidden'), values, strict=True))
        if all(arch[key] == named[key] for key in arch):
            return name
        if 'num_heads' not in arch and (arch['embed_dim'], arch['depth']) == (sizes['embed_dim'], sizes['depth']):
            return {**arch, 'num_heads': sizes['num_heads']}
    if 'num_heads' not in arch:
        if arch['embed_dim'] % HEAD_WIDTH:
            raise ValueError(
                f'the tensors do not show the number of heads, and width {arch["embed_dim"]} is no multiple of '
                f'{HEAD_WIDTH} channels a head; give load_backbone(..., num_heads=...)'
            )
        arch = {**arch, 'num_heads': arch['embed_dim'] // HEAD_WIDTH}
    return arch


def _convnext_arch(arch: dict[str, Any]) -> str | dict[str, Any]:
    return next((name for name, sizes in CONVNEXT_ARCHS.items() if dict(sizes) == arch), arch)


def _settle(arguments: dict[str, Any], native: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> None:
    """Choose the final norm, and leave out what has no effect."""
    if 'out_norm' not in overrides and 'out_indices' not in overrides and 'norm.weight' in native:
        arguments['out_norm'] = 'last'
    if arguments.get('mlp', 'mlp') != 'mlp':
        arguments.pop('act', None)
    if arguments.setdefault('position', 'none') != 'absolute':
        arguments.pop('pretrain_img_size', None)
    elif 'patch_size' in overrides and 'pretrain_img_size' not in overrides and 'pretrain_img_size' in arguments:
        read = native['patch_embed.proj.weight'].shape[-1]  # the grid stays, also where the patches are resized
        arguments['pretrain_img_size'] = tuple(
            side // read * arguments['patch_size'] for side in arguments['pretrain_img_size'])
