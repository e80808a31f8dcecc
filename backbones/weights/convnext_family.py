"""ConvNeXt: constructor arguments off its tensors, and its tensors into a backbone that builds only some levels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from backbones.weights.convnext_layouts import LAYOUTS
from backbones.weights.family import Family, counted
from backbones.weights.layout import State


def arguments(native: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the constructor arguments off native tensors; {} if they are no ConvNeXt."""
    stem = native.get('stem.weight', native.get('downsample_layers.0.0.weight'))
    if stem is None or stem.ndim != 4:
        return {}
    return dict(
        arch=_isotropic(native) if 'stem.weight' in native else _stages(native),
        in_channels=stem.shape[1],
        use_grn=any(name.endswith('.grn.gamma') for name in native),
        layer_scale_init_value=1.0 if any(re.fullmatch(r'(stages|blocks)\.[\d.]+gamma', n) for n in native) else 0.0,
        **_output_norms(native),
    )


def _output_norms(native: Mapping[str, Tensor]) -> dict[str, Any]:
    """A detector has a norm for each of its outputs; DINOv3 and mmpretrain's classifiers have the last one only."""
    norms = sorted(int(fit[1]) for fit in (re.fullmatch(r'norm(\d+)\.weight', name) for name in native) if fit)
    if len(norms) < 2:
        return dict(output_norm=False)
    return dict(output_norm=True, **({} if len(norms) == 4 else dict(out_indices=tuple(norms))))


def _isotropic(native: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = [int(fit[1]) for fit in (re.fullmatch(r'blocks\.(\d+)\.dwconv\.weight', name) for name in native) if fit]
    return dict(depth=counted('blocks', blocks), dim=native['stem.weight'].shape[0])


def _stages(native: Mapping[str, Tensor]) -> dict[str, Any]:
    found: dict[int, list[int]] = {}
    for block in (re.fullmatch(r'stages\.(\d+)\.(\d+)\.dwconv\.weight', name) for name in native):
        if block:
            found.setdefault(int(block[1]), []).append(int(block[2]))
    stages = sorted(found)
    return dict(
        depths=tuple(counted(f'stages.{stage}', found[stage]) for stage in stages[: counted('stages', stages)]),
        dims=tuple(native[f'stages.{stage}.{found[stage][0]}.dwconv.weight'].shape[0] for stage in stages),
    )


def fit(native: State, module: nn.Module) -> tuple[State, list[str]]:
    """Leave out levels and norms that the backbone does not build."""
    built = module.out_indices[-1] + 1
    levels = module.arch['depth'] if module.isotropic else len(module.arch['depths'])
    kinds = 'blocks' if module.isotropic else 'stages|downsample_layers'
    normed = module.out_indices if module.output_norm else ()
    fitted, left_out = {}, []
    for name, value in native.items():
        level = re.match(rf'(?:{kinds})\.(\d+)\.', name)
        norm = re.match(r'norm(\d+)\.', name)
        if (level and built <= int(level[1]) < levels) or (norm and int(norm[1]) not in normed):
            left_out.append(name)
        else:
            fitted[name] = value
    return fitted, left_out


def _no_resize(name: str, value: Tensor, module: nn.Module, patch_rule: str) -> Tensor | None:
    return None


CONVNEXT = Family('ConvNeXt', LAYOUTS, arguments, fit, _no_resize, ('depths', 'dims', 'depth', 'dim', 'in_channels'))
