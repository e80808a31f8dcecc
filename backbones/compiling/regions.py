"""The parts of a model that are compiled for training: backbone, neck, convolutions of the RPN, decode heads.

What depends on the data stays as it is: assigners, samplers, NMS, RoI heads (as many rows as boxes were drawn), losses.
Each part is compiled once for every size of its input. A size more than allowed, or a part that cannot be compiled,
runs uncompiled and is said once: there is no endless recompilation.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._functorch import config as functorch_config

from backbones.inference.compiled import DENSE_PARTS

REGIONS = (*DENSE_PARTS, 'auxiliary_head')  # the last one is there in training only
MOST = 64  # sizes for which a part is compiled
_MARK = '_compiled_region'


@dataclass
class Counts:
    """What compiling has done so far.

    Attributes:
        sizes: sizes of the input that it was compiled for.
        recompiles: graphs made for a size that there was one for already; 0 is right.
        graph_breaks: places where a graph ended before its part did; 0 is right.
        uncompiled: passes without a compiled graph.
    """

    sizes: int = 0
    recompiles: int = 0
    graph_breaks: int = 0
    uncompiled: int = 0

    def __str__(self) -> str:
        return (
            f'{self.sizes} sizes, {self.recompiles} recompilations, {self.graph_breaks} graph breaks, '
            f'{self.uncompiled} passes uncompiled')


class Region:
    """The forward pass of a part, compiled in training with gradients, plain in evaluation.

    It takes the place of `forward` on the instance, as mmseg calls that without `__call__`. The names of parameters
    stay.

    Args:
        name: of the part.
        module: the part; what it has as `forward` now is compiled, a wrapper that casts the output included.
        most: sizes of the input.
        compiler: makes the compiled function of a plain one.
    """

    def __init__(self, name: str, module: nn.Module, most: int, compiler: Callable[[Callable], Callable]) -> None:
        self.name, self.counts, self._most = name, Counts(), most
        self._module, self._plain = module, module.forward
        self._compiled: Callable | None = compiler(self._plain)
        self._sizes: set[tuple] = set()
        self._said = False
        functools.update_wrapper(self, self._plain)  # marks that others left on the function
        setattr(self, _MARK, True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the part."""
        if not self._module.training or not torch.is_grad_enabled():
            return self._plain(*args, **kwargs)
        size = tuple(_sizes((args, kwargs)))
        if self._compiled is None or not self._may_compile(size):
            self.counts.uncompiled += 1
            return self._plain(*args, **kwargs)
        frames, breaks, known = _frames(), _breaks(), size in self._sizes
        self._sizes.add(size)
        self.counts.sizes = len(self._sizes)
        try:
            # The backward pass is compiled with the forward one: later, nobody could go on without it.
            with contextlib.nullcontext() if known else functorch_config.patch(force_non_lazy_backward_lowering=True):
                return self._compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compiled = None
            self._warn(f'cannot be compiled and runs as it is: {" ".join(str(error).split())[:300]}')
            self.counts.uncompiled += 1
            return self._plain(*args, **kwargs)
        finally:
            self.counts.graph_breaks += _breaks() - breaks
            self.counts.recompiles += (_frames() - frames) * known

    def __deepcopy__(self, memo: dict) -> Callable:
        """A copy of the model (EMA makes one) is not compiled, and calls itself."""
        return copy.deepcopy(self._plain, memo)

    def restore(self) -> None:
        """Let the part have its own forward pass again."""
        if isinstance(getattr(self._plain, '__self__', None), nn.Module):
            self._module.__dict__.pop('forward', None)
        else:
            self._module.forward = self._plain

    def _may_compile(self, size: tuple) -> bool:
        if size in self._sizes or len(self._sizes) < self._most:
            return True
        if not self._said:
            self._said = True
            self._warn(
                f'has been compiled for {self._most} sizes of its input, and now comes another one '
                f'({", ".join(str(shape) for shape, _ in size)}): it and all further ones run uncompiled. Pad the '
                'batches to fewer sizes (data_preprocessor.buckets) or allow more (CompileHook.most)')
        return False

    def _warn(self, text: str) -> None:
        print_log(f'--compile: {self.name} {text}', logger='current', level=logging.WARNING)


def compile_for_training(
    model: nn.Module, *, most: int = MOST, backend: str | Callable = 'inductor', **options: Any
) -> list[Region]:
    """Compile the dense parts of a detector or segmenter, in place; they are compiled when they are first run.

    Low-precision copies of weights (`backbones.precision`) may come before or after, a cast of a head's output before.

    Args:
        model: not wrapped for distributed training.
        most: sizes of the input for which a part is compiled.
        backend: of torch.compile.
        options: further arguments of torch.compile.

    Returns:
        The parts, with their counts.

    Raises:
        ValueError: the model has no such part, or `most` is no number above 0.
    """
    if type(most) is not int or most < 1:
        raise ValueError(f'compile: most={most!r}; give the number of sizes that a part is compiled for, 1 or more')
    parts = dict(_parts(model))
    if not parts:
        raise ValueError(
            f'{type(model).__name__} has no part to compile for training; one of {", ".join(REGIONS)} is needed'
        )
    _allow(most * len(parts))
    regions = []
    for name, module in parts.items():
        if getattr(module.forward, _MARK, False):
            raise ValueError(f'{name} of this {type(model).__name__} is compiled already; compile a model once')
        region = Region(
            name, module, most, functools.partial(torch.compile, dynamic=False, backend=backend, **options))
        module.forward = region
        regions.append(region)
    return regions


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name in REGIONS:
        module = getattr(model, name, None)
        if isinstance(module, nn.ModuleList):
            yield from ((f'{name}.{number}', one) for number, one in enumerate(module))
        elif isinstance(module, nn.Module):
            yield name, module


def _allow(graphs: int) -> None:
    """torch's own limits must not come before ours: parts of one class share their code, and so the limit."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, graphs)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, graphs)


def _sizes(value: Any) -> Iterator[tuple]:
    """Shape and dtype of each tensor in nested lists and dicts."""
    if isinstance(value, Tensor):
        yield tuple(value.shape), value.dtype
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _sizes(item)


def _frames() -> int:
    return counters['frames']['ok']


def _breaks() -> int:
    return sum(counters['graph_break'].values())
