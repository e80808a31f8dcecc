"""Published ConvNeXt checkpoints, by the names of their tensors.

Native names are those of the official files, so the tables mostly say what a feature backbone leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from backbones.weights.layout import Layout, Rule, State

# `norm` normalises the pooled vector of the classifier. It is not the output norm of the last stage: the
# official detector leaves it out and starts `norm3` anew.
# https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/mmdet/models/backbones/convnext.py
CLASSIFIER: tuple[Rule, ...] = ((r'norm\.(weight|bias)', None), (r'head\..*', None))
# DINOv3 stores its final norm a second time, as the norm of the last stage.
# https://github.com/facebookresearch/dinov3/blob/6876159/dinov3/models/convnext.py
DINOV3: tuple[Rule, ...] = ((r'norms\.\d\.(weight|bias)', None),)

STAGES = ('downsample_layers.0.0.weight', 'stages.0.0.dwconv.weight', 'stages.0.0.pwconv1.weight')


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read depths and widths off native tensors."""
    blocks = [re.match(r'stages\.(\d+)\.(\d+)\.dwconv\.weight', name) for name in state]
    found: dict[int, list[int]] = {}
    for block in filter(None, blocks):
        found.setdefault(int(block[1]), []).append(int(block[2]))
    if not found:
        depth = sum(1 for name in state if re.fullmatch(r'blocks\.\d+\.dwconv\.weight', name))
        return dict(depth=depth, dim=state['stem.weight'].shape[0]) if 'stem.weight' in state else {}
    stages = sorted(found)
    return dict(
        depths=tuple(max(found[stage]) + 1 for stage in stages),
        dims=tuple(state[f'stages.{stage}.{found[stage][0]}.dwconv.weight'].shape[0] for stage in stages),
    )


def _fit(state: State, module: nn.Module) -> tuple[State, list[str]]:
    """Leave out levels and norms that the backbone does not build; give GRN the shape (1, 1, 1, 4C)."""
    built = module.out_indices[-1] + 1
    levels = module.arch['depth'] if module.isotropic else len(module.arch['depths'])
    kinds = 'blocks' if module.isotropic else 'stages|downsample_layers'
    normed = module.out_indices if module.output_norm else ()
    fitted, left_out = {}, []
    for name, value in state.items():
        level = re.match(rf'(?:{kinds})\.(\d+)\.', name)
        norm = re.match(r'norm(\d+)\.', name)
        if (level and built <= int(level[1]) < levels) or (norm and int(norm[1]) not in normed):
            left_out.append(name)
            continue
        # published as (1, 1, 1, 4C), (1, 4C) or (4C,)
        is_grn = name.endswith(('.grn.gamma', '.grn.beta')) and value.ndim != 4
        fitted[name] = value.reshape(1, 1, 1, -1) if is_grn else value
    return fitted, left_out


def _layout(name: str, has: tuple[str, ...], lacks: tuple[str, ...] = (), table: tuple[Rule, ...] = ()) -> Layout:
    return Layout(name, 'ConvNeXt', has, lacks, CLASSIFIER + table, finish=_fit, describe=describe)


LAYOUTS = (
    _layout('DINOv3', (*STAGES, 'norms.3.weight'), ('*.grn.gamma',), DINOV3),
    _layout('official detector', (*STAGES, 'norm[0-3].weight'), ('*.grn.gamma',)),
    _layout('official V1', STAGES, ('*.grn.gamma',)),
    _layout('V2 detector', (*STAGES, '*.grn.gamma', 'norm[0-3].weight')),
    _layout('official V2', (*STAGES, '*.grn.gamma', 'head.weight')),
    _layout('official V2 FCMAE', (*STAGES, '*.grn.gamma'), ('head.weight',)),
    _layout('official isotropic', ('stem.weight', 'blocks.0.dwconv.weight', 'blocks.0.pwconv1.weight')),
)
