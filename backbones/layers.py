"""Layers that more than one backbone uses.

Shapes: N images, C channels, H W rows and columns, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.registry import MODELS


def is_int(value: Any) -> bool:
    """Tell whether `value` is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def checked_int(name: str, value: Any, remedy: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        ValueError: if `value` is none; the sentence ends with `remedy`.
    """
    if not is_int(value) or value < 1:
        raise ValueError(f'{name}={value!r} is no whole number of at least 1; {remedy}')
    return value


def checked_out_indices(out_indices: Sequence[int], num_levels: int) -> tuple[int, ...]:
    """Return the numbers of the outputs of a backbone as a tuple.

    Raises:
        ValueError: if they are not different whole numbers from 0 to `num_levels` - 1 in ascending order.
    """
    is_list = isinstance(out_indices, Sequence) and len(out_indices) > 0 and all(map(is_int, out_indices))
    ascending = is_list and all(a < b for a, b in pairwise(out_indices))
    if not ascending or out_indices[0] < 0 or out_indices[-1] >= num_levels:
        raise ValueError(
            f'out_indices={out_indices!r} is not possible; give different numbers from 0 to {num_levels - 1} '
            f'in ascending order, for example {tuple(range(num_levels))[-4:]}'
        )
    return tuple(out_indices)


def check_number(name: str, value: float, example: str, or_zero: bool = False) -> None:
    """Refuse what is no positive number (or, `or_zero`, no number of at least 0).

    Raises:
        ValueError: naming the value and an example.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (value == 0 and not or_zero):
        least = 'a number of at least 0' if or_zero else 'a positive number'
        raise ValueError(f'{name}={value!r} is not possible; give {least}, {example}')


def check_drop_path_rate(drop_path_rate: float) -> None:
    """Refuse a stochastic depth rate outside [0, 1).

    Raises:
        ValueError: if `drop_path_rate` is no number from 0 to below 1.
    """
    is_number = isinstance(drop_path_rate, int | float) and not isinstance(drop_path_rate, bool)
    if not is_number or not 0 <= drop_path_rate < 1:
        raise ValueError(
            f'drop_path_rate={drop_path_rate!r} is not a rate; give a number from 0 (off) to below 1, '
            'for example 0.4 for ConvNeXt-T with Mask R-CNN'
        )


def drop_path_rates(drop_path_rate: float, depth: int) -> list[float]:
    """Return the stochastic depth rates of `depth` blocks, linear from 0 to `drop_path_rate`.

    Raises:
        ValueError: if `drop_path_rate` is no number from 0 to below 1.
    """
    check_drop_path_rate(drop_path_rate)
    return [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]


def fast_layout(x: Tensor, weight: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Lay images (N, C, H, W) out as a ConvNeXt runs fastest: channels_last on a CPU, as they come elsewhere.

    Every layer of a ConvNeXt keeps the layout of its input, gradients included. On a CPU channels_last spares the
    copies around each LayerNorm; on a GPU it depends on the depthwise kernels of the card, and the caller decides.

    Args:
        x: images.
        weight: of the first convolution; PyTorch's convolutions give channels_last if input or weight is.

    Returns:
        The images, and what gives an output the layout that PyTorch's rule would: whoever asked for nothing gets NCHW,
        as mmcv's RoIAlign takes any memory for that, without a word.
    """
    asked = any(
        value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous() for value in (x, weight))
    if x.device.type != 'cpu':
        return x, _as_it_is
    return x.contiguous(memory_format=torch.channels_last), _as_it_is if asked else torch.Tensor.contiguous


def _as_it_is(x: Tensor) -> Tensor:
    return x


class DropPath(nn.Module):
    """Stochastic depth: in training, leave a residual branch out for randomly chosen samples.

    The kept samples are divided by the keep rate, so that the expected output is the input. The identity in
    evaluation mode. https://arxiv.org/abs/1603.09382

    Args:
        rate: probability, from 0 to below 1, that a sample loses this branch.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        check_drop_path_rate(rate)
        self.rate = float(rate)

    def sample_scale(self, x: Tensor) -> Tensor | None:
        """Draw one factor per sample: 0 (dropped) or 1 / keep rate; None where nothing is dropped.

        Lets the caller fold the factor into another multiply instead of paying for a pass over the map.

        Returns:
            (N, 1, ..., 1) with as many axes as `x`, of its dtype and device, or None.
        """
        if self.rate == 0.0 or not self.training:
            return None
        keep = 1.0 - self.rate
        return x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, ...) to the same shape."""
        scale = self.sample_scale(x)
        return x if scale is None else x * scale

    def extra_repr(self) -> str:
        """Show the rate in the printed model."""
        return f'rate={self.rate:g}'


class LayerScale(nn.Module):
    """Learned factor per channel on the last axis. https://arxiv.org/abs/2103.17239

    Args:
        dim: number of channels.
        init_value: value every factor starts from.
    """

    def __init__(self, dim: int, init_value: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        return x * self.gamma


@MODELS.register_module(name=['LN2d', 'LayerNorm2d'])
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map (N, C, H, W).

    The output has the memory format of the input. A channels_last map is normalised where it lies, without a
    copy. In a norm_cfg: ``dict(type='backbones.LN2d', eps=1e-6)``; write eps, because mmcv otherwise passes
    1e-5.

    Args:
        num_channels: C.
        eps: added to the variance; the official ConvNeXt weights were trained with 1e-6.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape and memory format."""
        y = x.permute(0, 2, 3, 1)  # (N, H, W, C), a view
        y = F.layer_norm(y, self.normalized_shape, self.weight, self.bias, self.eps)
        y = y.permute(0, 3, 1, 2)  # (N, C, H, W), a view that lies in memory as channels_last
        # The fused kernel reads (N, H, W, C) only: a contiguous map is copied on the way in and on the way
        # out, which is still faster than mean, variance and scaling as separate passes, and accumulates in
        # float32.
        return y.contiguous() if x.is_contiguous() else y


class GRN(nn.Module):
    """Global response normalisation of ConvNeXt V2, https://arxiv.org/abs/2301.00808, on (N, H, W, C).

    Each channel is scaled by its spatial L2 norm relative to the mean norm of all channels, and its input is
    added.

    Args:
        dim: C.
        eps: added to the mean norm; official value 1e-6.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) to the same shape."""
        # Sums of squares of a large map leave the range of float16.
        dtype = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=dtype)  # (N, 1, 1, C)
        ratio = norm / (norm.mean(dim=-1, keepdim=True) + self.eps)  # (N, 1, 1, C)
        # gamma * x * ratio + beta + x, written so that only one pass touches the full map
        scale = (1 + self.gamma * ratio).to(x.dtype)
        return torch.addcmul(self.beta.to(x.dtype), x, scale)  # (N, H, W, C)


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        dim: width D of input and output.
        hidden_dim: width between the two layers.
        activation: makes the activation module; exact GELU in all official ViT and ConvNeXt weights but
            CLIP's.
        bias: whether both layers have a bias.
    """

    def __init__(
        self, dim: int, hidden_dim: int, activation: Callable[[], nn.Module] = nn.GELU, bias: bool = True
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = activation()
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """Gated MLP: w3(silu(gate) * value). https://arxiv.org/abs/2002.05202

    Args:
        dim: width D of input and output.
        hidden_dim: width of gate and value, exactly as the weights have it (no rounding here).
        bias: whether the layers have a bias.
        packed: True keeps gate and value in one layer `w12`, gate first (DINOv2); False in `w1` (gate) and
            `w2` (value), as DINOv3 does.
    """

    def __init__(self, dim: int, hidden_dim: int, bias: bool = True, packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        if packed:
            self.w12 = nn.Linear(dim, 2 * hidden_dim, bias=bias)
        else:
            self.w1 = nn.Linear(dim, hidden_dim, bias=bias)
            self.w2 = nn.Linear(dim, hidden_dim, bias=bias)
        self.w3 = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        gate, value = self.w12(x).chunk(2, dim=-1) if self.packed else (self.w1(x), self.w2(x))
        return self.w3(F.silu(gate) * value)
