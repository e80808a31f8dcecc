"""Linear layers for inference with what follows them in the same kernel: activation, or the addition of the residual.

On a CPU the weight lies in oneDNN's own order, made once; elsewhere the same layer runs with ordinary operations.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Activations that a layer may end with: the ordinary one, and its name and algorithm in oneDNN.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    'none': (lambda x: x, 'none', ''),
    'relu': (F.relu, 'relu', ''),
    'gelu': (F.gelu, 'gelu', 'none'),
    'gelu_tanh': (functools.partial(F.gelu, approximate='tanh'), 'gelu', 'tanh'),
}


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether this PyTorch and this machine run packed linear layers of a dtype on a device."""
    if device.type != 'cpu' or not torch.backends.mkldnn.is_available():
        return False
    ops = torch.ops.mkldnn
    if not all(hasattr(ops, name) for name in ('_linear_pointwise', '_reorder_linear_weight')):
        return False
    if dtype == torch.float32:
        return True
    supported = {torch.bfloat16: '_is_mkldnn_bf16_supported', torch.float16: '_is_mkldnn_fp16_supported'}.get(dtype)
    return supported is not None and hasattr(ops, supported) and bool(getattr(ops, supported)())


class PackedLinear(nn.Module):
    """A linear layer with final weights, and an activation or a residual fused to it.

    Args:
        weight: (D_out, D_in) in the dtype to compute in; taken over, not copied, where it is not packed.
        bias: (D_out,) of the same dtype, or None.
        activation: key of `ACTIVATIONS`.
        pack: keep the weight in oneDNN's order, on a CPU that can.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, activation: str = 'none', pack: bool = True) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype, self.device, self.activation = weight.dtype, weight.device, activation
        self.packed = None
        if pack and can_pack(weight.dtype, weight.device):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
            self.weight, self.bias = None, None if bias is None else bias.detach()
        else:
            self.weight = nn.Parameter(weight.detach(), requires_grad=False)
            self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (..., D_in) to (..., D_out): the activation of the product, or, with a residual, their sum."""
        x = x.to(self.dtype)
        act, name, algorithm = ACTIVATIONS[self.activation]
        if self.packed is None or x.numel() == 0:
            y = act(self._ordinary(x))
            return y if residual is None else residual + y
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, name, [], algorithm)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, 'add')

    def _ordinary(self, x: Tensor) -> Tensor:
        """The product by ordinary operations; of nothing, such as no box at all, it is nothing."""
        if self.packed is not None:
            return x.new_empty(*x.shape[:-1], self.out_features)
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes and the way it runs."""
        way = 'ordinary' if self.packed is None else 'packed'
        return f'{self.in_features}, {self.out_features}, {self.activation}, {self.dtype}, {way}'

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        """Copy all but the packed weight, which cannot be copied and never changes."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        memo[id(self.packed)] = self.packed
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def __reduce_ex__(self, protocol: int) -> Any:
        """Refuse to be written to a file.

        Raises:
            ValueError: the layer is packed.
        """
        if self.packed is not None:
            raise ValueError(
                'a model prepared for inference cannot be written to a file, its weights lie in the order of this '
                'machine; save the model it was made from')
        return super().__reduce_ex__(protocol)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Let `.to()` and the like pass where they change nothing.

        Raises:
            ValueError: the layer is packed and would get another dtype or device.
        """
        if self.packed is not None:
            probe = fn(torch.empty(0, dtype=self.dtype, device=self.device))
            if (probe.dtype, probe.device.type) != (self.dtype, self.device.type):
                raise ValueError(
                    f'a model prepared for inference in {self.dtype} on {self.device} cannot become {probe.dtype} on '
                    f'{probe.device}; move and convert the model first and prepare it then')
            return self
        return super()._apply(fn, recurse)
