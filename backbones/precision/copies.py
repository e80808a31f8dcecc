"""Low-precision copies of a model's weights, renewed once per pass of the model, all in one call.

The parameters stay what they are: fp32, and the only ones that optimiser, EMA, checkpoints and DDP know. Each module
sees a copy where its code reads `self.weight`: an entry of the instance's `__dict__`, which Python finds before
`nn.Module.__getattr__` looks among the parameters. A copy is the result of a cast that autograd knows, so gradients
arrive in fp32 at the parameters; the cast keeps nothing for its backward pass and serves any number of steps, and new
values are written into the copies in place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.precision.islands import in_mmcv_ops

# PyTorch's batch norms take low-precision maps with fp32 weights and statistics.
KEPT = (_BatchNorm,)


class LowPrecisionCopies:
    """What a model computes with instead of its parameters.

    Args:
        model: its parameters stay; copies appear beside them.
        dtype: of the copies.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._model = model
        self._sources: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._places: list[tuple[nn.Module, str]] = []

    def refresh(self) -> None:
        """Bring the copies up to date.

        Whether the parameters have changed cannot be told: fused optimisers and MMEngine's EMA, which swaps weights
        through `.data`, leave the version of a tensor as it is. Writing takes about 1 % of the pass of one image on a
        CPU, and less on a GPU. The copies' own version stays, too, so that several passes may wait for one backward.
        """
        if not self._are_there():
            self._make()
        with torch.no_grad():
            torch._foreach_copy_(self._targets, [source.detach() for source in self._sources])

    def drop(self) -> None:
        """Let the modules see their parameters again."""
        for module, name in self._places:
            module.__dict__.pop(name, None)
        self._sources, self._targets, self._places = [], [], []

    def _are_there(self) -> bool:
        """Whether every copy is still that of the parameter, on its device, with or without gradient as it."""
        if not self._places:
            return False
        for (module, name), source in zip(self._places, self._sources, strict=True):
            copied = module.__dict__.get(name)
            if (
                copied is None or module._parameters.get(name) is not source or copied.device != source.device
                or copied.requires_grad != source.requires_grad
            ):
                return False
        return True

    def _make(self) -> None:
        self.drop()
        kept_order = in_mmcv_ops(self._model)
        made: dict[int, tuple[Tensor, Tensor]] = {}  # a weight that two modules share has one copy
        with torch.enable_grad(), torch.inference_mode(False):
            for module in self._model.modules():
                if isinstance(module, KEPT):
                    continue
                for name, parameter in module._parameters.items():
                    if parameter is None or parameter.dtype != torch.float32:
                        continue
                    if id(parameter) not in made:
                        made[id(parameter)] = (
                            parameter, _cast(parameter, self.dtype, id(parameter) not in kept_order))
                    module.__dict__[name] = made[id(parameter)][1]
                    self._places.append((module, name))
                    self._sources.append(parameter)
        self._targets = [made[id(source)][1].data for source in self._sources]


def _cast(parameter: Tensor, dtype: torch.dtype, as_maps: bool) -> Tensor:
    """A copy that autograd knows; of a convolution's weights in the layout of the maps."""
    layout = torch.channels_last if as_maps and parameter.ndim == 4 else torch.preserve_format
    return parameter.to(dtype, memory_format=layout, copy=True)
