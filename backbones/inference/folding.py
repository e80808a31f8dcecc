"""Factors that can be multiplied into the layer before them, once the weights are final. Exact algebra, in fp32.

Layer scale: gamma * (W x + b) = (gamma W) x + gamma b. Batch norm in evaluation mode is a factor and an offset per
channel of the convolution in front of it.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(layer: nn.Linear, gamma: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Give weight (D_out, D_in) and bias (D_out,) in fp32 or better, with the factor per output channel in them."""
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    weight = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    if gamma is None:
        return weight, bias
    gamma = gamma.detach().to(dtype)
    return weight * gamma[:, None], None if bias is None else bias * gamma


def fold_batch_norms(model: nn.Module) -> int:
    """Multiply every batch norm that follows a convolution into it, in place.

    It looks into mmcv's ConvModule and into nn.Sequential, where the order of the layers is known.

    Args:
        model: in evaluation mode.

    Returns:
        How many.
    """
    conv_module = getattr(sys.modules.get('mmcv.cnn'), 'ConvModule', ())  # a model holds none if mmcv is not imported
    count = 0
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for first, second in zip(list(module._modules), list(module._modules)[1:], strict=False):
                count += _fold(module, first, second)
        elif isinstance(module, conv_module) and module.with_norm:
            order = module.order
            if order.index('norm') == order.index('conv') + 1:
                count += _fold(module, 'conv', module.norm_name)
    return count


def _fold(parent: nn.Module, conv: str, norm: str) -> bool:
    """Fold the child `norm` into the child `conv` of a module, if they are such."""
    first, second = getattr(parent, conv), getattr(parent, norm)
    is_conv = type(first).forward in (nn.Conv2d.forward, nn.ConvTranspose2d.forward) or type(first).__module__ in (
        'mmcv.cnn.bricks.wrappers',)
    if not is_conv or not isinstance(second, _BatchNorm) or second.running_mean is None or second.training:
        return False
    transposed = isinstance(first, nn.ConvTranspose2d)
    if transposed and first.groups > 1:
        return False
    setattr(parent, conv, fuse_conv_bn_eval(first, second, transpose=transposed))
    setattr(parent, norm, nn.Identity())
    return True
