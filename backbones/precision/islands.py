"""Where a detector or segmenter in low precision goes back to fp32: the outputs of its heads.

What follows them is fp32 then: losses, box decoding, scores, NMS, RoI coordinates (512 to 1024 pixels have a spacing of
4 in bf16), up-sampled logits and their softmax. RoI pooling keeps its coordinates in fp32, by
`backbones.SingleRoIExtractor` or around mmdet's extractors, which would cast them to the type of the maps. The
statistics of norms are fp32 inside PyTorch's kernels whatever the input is.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Base classes of the heads, by the module that defines them. A model holds none of a toolbox that was not imported.
HEADS = {
    'mmdet.models.dense_heads.base_dense_head': ('BaseDenseHead',),
    'mmdet.models.roi_heads.bbox_heads.bbox_head': ('BBoxHead',),
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head': ('FCNMaskHead',),
    'mmseg.models.decode_heads.decode_head': ('BaseDecodeHead',),
}
EXTRACTORS = ('mmdet.models.roi_heads.roi_extractors.base_roi_extractor', 'BaseRoIExtractor')
MARK = '_gives_float32'


def heads(model: nn.Module) -> list[nn.Module]:
    """The heads in a model whose outputs losses or post-processing take."""
    kinds = tuple(
        getattr(importlib.import_module(module), name)
        for module, names in HEADS.items() if module in sys.modules for name in names)
    return [module for module in model.modules() if isinstance(module, kinds)]


def unknown_heads(model: nn.Module) -> list[str]:
    """Names of the parts called `..._head` of which nobody has said what they return."""
    known = heads(model)
    inside = {id(module) for head in known for module in head.modules()}
    return [
        name for name, module in model.named_modules()
        if name.endswith('head') and id(module) not in inside and any(True for _ in module.parameters())
        and not any(id(part) in inside for part in module.modules())
    ]


def float_outputs(model: nn.Module) -> list[nn.Module]:
    """Let every head in a model return fp32, and mmdet's own RoI extractors pool in fp32.

    It is `forward` that is wrapped, as mmseg calls it without `__call__`.

    Args:
        model: changed in place; a second time changes nothing.

    Returns:
        The heads.
    """
    found = heads(model)
    for head in found:
        if not getattr(head.forward, MARK, False):
            head.forward = _marked(_returning_float, head.forward)
    module, name = EXTRACTORS
    for extractor in model.modules() if module in sys.modules else ():
        if isinstance(extractor, getattr(sys.modules[module], name)) and not getattr(extractor.forward, MARK, False):
            extractor.forward = _marked(_pooling_in_float, extractor.forward)
    nchw_for_mmcv(model)
    return found


def nchw_for_mmcv(model: nn.Module) -> None:
    """Give the layers of mmcv.ops (RoIAlign, deformable convolution, ...) their maps in NCHW order.

    Their kernels read the memory as if it were so, whatever the strides say.
    """
    for module in model.modules():
        if type(module).__module__.startswith('mmcv.ops') and not getattr(module, MARK, False):
            module.register_forward_pre_hook(_make_contiguous)
            setattr(module, MARK, True)


def in_mmcv_ops(model: nn.Module) -> set[int]:
    """Ids of the parameters in layers of mmcv.ops: they keep their memory order, in which the kernels read maps."""
    layers = (module for module in model.modules() if type(module).__module__.startswith('mmcv.ops'))
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def _make_contiguous(module: nn.Module, inputs: tuple) -> tuple:
    """Forward pre-hook: tensors in NCHW order, copied only where they are not."""
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)


def _pooling_in_float(
    forward: Any, feats: Sequence[Tensor], rois: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    return forward(to_float(tuple(feats)), to_float(rois), *args, **kwargs).to(feats[0].dtype)


def _marked(function: Any, forward: Any) -> Any:
    """`function` with `forward` before its other arguments; a copy of the model gets one that calls the copy."""
    wrapped = functools.partial(function, forward)
    setattr(wrapped, MARK, True)
    return wrapped


def _returning_float(forward: Any, *args: Any, **kwargs: Any) -> Any:
    return to_float(forward(*args, **kwargs))


def to_float(value: Any) -> Any:
    """Tensors of bf16 and fp16 as fp32, inside tuples, lists and dicts, too; everything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*(to_float(item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(to_float(item) for item in value)
    if isinstance(value, dict):
        return {key: to_float(item) for key, item in value.items()}
    return value
