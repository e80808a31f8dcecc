"""Compile the dense parts of a model for inference: static shapes, frozen weights, nothing that depends on the data.

On a CPU inductor packs the frozen weights and fuses what follows each product; on a GPU this is torch.compile as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from backbones.inference.prepare import PREPARED, prepare_for_inference

# Children of a whole model that are compiled. Samplers, NMS and RoI heads, whose number of boxes changes
# from image to image, stay as they are.
DENSE_PARTS = ('backbone', 'neck', 'rpn_head', 'decode_head')

# Shapes that a part is compiled for.
MAX_SHAPES = 32


def compile_for_inference(
    model: nn.Module, precision: str = 'bf16', *, backend: str | Callable[..., Any] = 'inductor'
) -> nn.Module:
    """Prepare a model for inference and compile its backbone, neck and dense heads, in place.

    Each part is compiled at its first pass and once for every shape: with images of many sizes, give the data
    preprocessor a larger `pad_size_divisor`, so that there are few. Whole graphs and at most `MAX_SHAPES` shapes only:
    otherwise the error of torch.compile is raised, which the tools catch (`backbones.evaluation.fast`).

    Args:
        model: as for `prepare_for_inference`; or one it has prepared with the same precision and pack=False.
        precision: 'bf16', 'fp16' or 'fp32'.
        backend: of torch.compile.

    Returns:
        `model`.

    Raises:
        ValueError: as `prepare_for_inference`; or the model is prepared otherwise.
    """
    if not hasattr(model, PREPARED):
        prepare_for_inference(model, precision, pack=False)
    elif getattr(model, PREPARED) != (precision, False):
        raise ValueError(
            f'this model is prepared for inference with (precision, pack)={getattr(model, PREPARED)}, and compiling it '
            f'needs {(precision, False)}; give the plain model, it is prepared here')
    parts = [getattr(model, name) for name in DENSE_PARTS if hasattr(model, name)]
    for part in parts or [model]:
        part.forward = _compiled(part.forward, next(part.parameters(), torch.empty(0)).device, backend)
    return model


def _compiled(
    forward: Callable[..., Any], device: torch.device, backend: str | Callable[..., Any]
) -> Callable[..., Any]:
    """Compile one forward pass."""
    options = {'freezing': True} if backend == 'inductor' and device.type == 'cpu' else None
    compiled = torch.compile(forward, fullgraph=True, dynamic=False, backend=backend, options=options)

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=MAX_SHAPES):
            return compiled(*args, **kwargs)

    return run
