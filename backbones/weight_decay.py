"""Which parameters are decayed: the rules of the published recipes, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# What detectron2 counts as a norm, as far as torch has it:
# https://github.com/facebookresearch/detectron2/blob/02b5c4e/detectron2/solver/build.py
TORCH_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
# Channels-first norms may inherit from nn.LayerNorm, but detectron2's own does not and is therefore decayed there.
CHANNELS_FIRST_NORMS = {'LayerNorm2d', 'LN2d'}
TABLES_AND_TOKENS = re.compile(r'(^|_)(tokens?|pos|position)(_|$)|embeddings?$')


class Param(NamedTuple):
    """One parameter of the model, with what the rules below look at."""

    name: str
    value: nn.Parameter
    owner: nn.Module

    @property
    def leaf(self) -> str:
        """Last part of the name, such as `bias` or `pos_embed`."""
        return self.name.rpartition('.')[2]


def _vector_or_bias(param: Param) -> bool:
    return param.value.ndim == 1 or param.name.endswith('.bias')


def _vector_or_position_or_class_token(param: Param) -> bool:
    return param.value.ndim == 1 or param.leaf in ('pos_embed', 'cls_token', 'dist_token')


def _torch_norm_or_position(param: Param) -> bool:
    channels_first = any(cls.__name__ in CHANNELS_FIRST_NORMS for cls in type(param.owner).__mro__)
    return param.leaf == 'pos_embed' or (isinstance(param.owner, TORCH_NORMS) and not channels_first)


def _all_but_matrices(param: Param) -> bool:
    if param.value.ndim <= 1 or param.leaf == 'bias' or isinstance(param.owner, (*TORCH_NORMS, nn.Embedding)):
        return True
    # GRN is (1, 1, 1, C) and a layer scale may be (C, 1, 1); a `weight` of that shape is a layer with one output.
    one_axis = sum(size > 1 for size in param.value.shape) <= 1
    return (one_axis and param.leaf != 'weight') or TABLES_AND_TOKENS.search(param.leaf) is not None


class WeightDecayRule(NamedTuple):
    """Which parameters are exempt from weight decay, and a sentence about it."""

    exempt: Callable[[Param], bool]
    about: str


WEIGHT_DECAY_RULES = {
    # https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/mmcv_custom/layer_decay_optimizer_constructor.py
    'convnext': WeightDecayRule(_vector_or_bias, 'ConvNeXt: one-dimensional parameters and biases are not decayed'),
    # The same lines of code; they spare `cls_token` by a name that never occurs, so it is decayed, as is the
    # 2-D relative position table.
    # https://github.com/microsoft/unilm/blob/768a3c8/beit/semantic_segmentation/mmcv_custom/layer_decay_optimizer_constructor.py
    'beit': WeightDecayRule(_vector_or_bias, 'BEiT: as ConvNeXt; class token and relative positions are decayed'),
    # https://github.com/facebookresearch/mae/blob/efb2a80/util/lr_decay.py
    'mae': WeightDecayRule(
        _vector_or_position_or_class_token,
        'MAE: one-dimensional parameters, positions and class token are not decayed',
    ),
    # https://github.com/facebookresearch/detectron2/blob/02b5c4e/configs/common/optim.py, and
    # https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py
    'vitdet': WeightDecayRule(
        _torch_norm_or_position,
        'ViTDet-B and -L: torch norms and absolute positions are not decayed, biases are',
    ),
    # https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_h_75ep.py
    'vitdet_huge': WeightDecayRule(lambda param: False, 'ViTDet-H: every parameter is decayed'),
    'matrices_only': WeightDecayRule(
        _all_but_matrices,
        'only matrices and kernels are decayed: no norm, bias, layer scale, GRN, position table or token',
    ),
}


def rules_text() -> str:
    """Write the names and sentences of all rules, one a line."""
    return '\n'.join(f'  {name!r}: {rule.about}' for name, rule in WEIGHT_DECAY_RULES.items())
