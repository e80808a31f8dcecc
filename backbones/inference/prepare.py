"""Make a trained model fast: final weights in one dtype, folded, packed, in the memory order that kernels like."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import convnext, vit_parts
from backbones.convnext import ConvNeXt
from backbones.inference.blocks import ConvNeXtBlock, ViTBlock, packed_layer
from backbones.inference.folding import fold_batch_norms
from backbones.inference.winograd import WinogradConv2d, winograd_pays
from backbones.precision.compute import checked_precision, enter
from backbones.precision.islands import float_outputs, in_mmcv_ops
from backbones.vit import VisionTransformer

PREPARED = 'prepared_for_inference'
PREPARED_BLOCKS = {convnext.Block: ConvNeXtBlock, vit_parts.Block: ViTBlock}


@torch.no_grad()
def prepare_for_inference(model: nn.Module, precision: str = 'bf16', *, pack: bool = True) -> nn.Module:
    """Make a backbone, or a detector or segmenter around one, fast for inference, in place.

    Layer scales and batch norms are folded into the layers in front of them (exactly, in fp32), all weights become
    `precision` for good, and maps and convolutions lie in channels_last. On a CPU linear layers are packed with what
    follows them, and in low precision wide 3x3 convolutions run as Winograd's products. Images may come in fp32 and in
    any memory order; the heads of a whole model return fp32. In fp32 the results are those of the plain model within
    rounding.

    What comes out can be run and nothing else: prepare a copy, or a model that is only evaluated.

    Args:
        model: a `ConvNeXt` or `VisionTransformer`, or a model that contains one. It is set to evaluation mode.
        precision: 'bf16', 'fp16' or 'fp32'. bf16 is the fast one on CPUs with avx512_bf16 or AMX.
        pack: False keeps ordinary linear layers on a CPU, too, as torch.compile wants them.

    Returns:
        `model`.

    Raises:
        ValueError: for an unknown precision, a model without a backbone of ours, or one that is prepared already.
    """
    dtype = checked_precision(precision)
    backbones = [module for module in model.modules() if isinstance(module, ConvNeXt | VisionTransformer)]
    if not backbones:
        raise ValueError(
            f'{type(model).__name__} holds no ConvNeXt or VisionTransformer of this package; only models with one can '
            'be prepared for inference: run this one as it is')
    if any(hasattr(module, PREPARED) for module in model.modules()):
        raise ValueError('this model is prepared for inference already; build it anew to prepare it differently')
    model.eval()
    fold_batch_norms(model)
    _prepare_modules(model, dtype, pack)
    _convert(model, dtype)
    for backbone in backbones:
        backbone.register_forward_pre_hook(functools.partial(_enter, dtype))
        _seal(backbone, precision, pack)
    if model not in backbones:
        float_outputs(model)
        _seal(model, precision, pack)
    return model


def _prepare_modules(model: nn.Module, dtype: torch.dtype, pack: bool) -> None:
    """Put the prepared form in the place of every block, and of linear and wide 3x3 layers outside of blocks."""
    for name, child in list(model.named_children()):
        kind = PREPARED_BLOCKS.get(type(child))
        if kind is not None:
            setattr(model, name, kind(child, dtype, pack))
        elif _is_plain(child, nn.Linear):
            setattr(model, name, packed_layer(child, dtype, pack))
        elif pack and _is_plain(child, nn.Conv2d) and winograd_pays(child, dtype):
            setattr(model, name, WinogradConv2d(child, dtype))
        else:
            _prepare_modules(child, dtype, pack)
    if isinstance(model, VisionTransformer):
        model.tables = {}


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether this is a layer of a kind and no subclass with other rules; mmcv's only add empty inputs."""
    return type(module) is kind or (isinstance(module, kind) and type(module).__module__ == 'mmcv.cnn.bricks.wrappers')


def _convert(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the parameters their dtype and layout. Batch norms that were not folded, and buffers, stay in fp32."""
    kept_order = in_mmcv_ops(model)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            kept = isinstance(module, _BatchNorm) or not parameter.is_floating_point()
            maps = parameter.ndim == 4 and id(parameter) not in kept_order
            layout = torch.channels_last if maps else torch.preserve_format
            value = parameter.detach().to(parameter.dtype if kept else dtype, memory_format=layout)
            module._parameters[name] = nn.Parameter(value, requires_grad=False)


def _enter(dtype: torch.dtype, module: nn.Module, args: tuple) -> tuple[Any, ...]:
    return tuple(enter(value, dtype) for value in args)


# --- what a prepared model cannot do ----------------------------------------------------------------


def _seal(module: nn.Module, precision: str, pack: bool) -> None:
    """Refuse training, saving and loading from now on: weights are folded and rounded."""
    setattr(module, PREPARED, (precision, pack))
    module.train = functools.partial(_train, module)
    module.register_state_dict_pre_hook(_refuse_saving)
    module.register_load_state_dict_pre_hook(_refuse_loading)


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise ValueError(
            f'this {type(module).__name__} is prepared for inference and cannot be trained, its weights are folded and '
            'rounded; train the model it was made from')
    return type(module).train(module, False)


def _refuse_saving(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    raise ValueError(
        f'this {type(module).__name__} is prepared for inference and has no state to save, its weights are folded and '
        'rounded; save the model it was made from')


def _refuse_loading(module: nn.Module, *args: Any) -> None:
    raise ValueError(
        f'this {type(module).__name__} is prepared for inference and takes no weights; load them first and prepare the '
        'model then')


def is_prepared(model: nn.Module) -> bool:
    """Tell whether `prepare_for_inference` made this of a model."""
    return hasattr(model, PREPARED)


