"""`--precision` and `--compile` of an evaluation: a trained model made fast before its first picture."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn
from torch.utils._pytree import tree_leaves

from backbones.convnext import ConvNeXt
from backbones.inference import compile_for_inference, prepare_for_inference
from backbones.inference.compiled import DENSE_PARTS, MAX_SHAPES
from backbones.precision.compute import check_machine, checked_precision, compute_in, unwrapped
from backbones.registry import SCOPE
from backbones.vit import VisionTransformer


def choose_precision(cfg: Config, precision: str | None, compiled: bool) -> str | None:
    """Settle what an evaluation computes in, and note it in the config, in place.

    Where it is stated, `make_fast` does it in place of `PrecisionHook`, which is left out.

    Args:
        cfg: a composed config.
        precision: in place of the config's own `precision`.
        compiled: the model will be compiled; its precision is 'fp32' then if none is stated.

    Returns:
        'fp32', 'bf16' or 'fp16'; None: nothing is stated, the model stays as it is.

    Raises:
        ValueError: an unknown precision, or one that this machine cannot compute in; torch.compile does not work here.
    """
    chosen = precision or cfg.get('precision') or ('fp32' if compiled else None)
    if chosen is None:
        return None
    checked_precision(chosen)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    check_machine(chosen, device)
    if compiled:
        check_compiler(device)
    cfg.precision = chosen
    name = f'{SCOPE}.PrecisionHook'
    hooks = {key: hook for key, hook in (cfg.get('default_hooks') or {}).items() if (hook or {}).get('type') != name}
    cfg.default_hooks = hooks
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.get('type') != name]
    return chosen


def check_compiler(device: torch.device) -> None:
    """Compile one addition.

    Raises:
        ValueError: that does not work.
    """
    try:
        torch.compile(_add_one)(torch.zeros(8, device=device))
    except Exception as error:
        # whatever a compiler, its cache or its absence raises
        reason = ' '.join(str(error).split())[:200]
        needed = 'Triton' if device.type == 'cuda' else 'a C++ compiler (g++) and the headers of Python'
        raise ValueError(
            f'--compile: torch.compile does not work here ({type(error).__name__}: {reason}); it needs {needed}: '
            'install that, or leave --compile out'
        ) from error


def _add_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def make_fast(model: nn.Module, precision: str | None, compiled: bool = False) -> None:
    """Make a trained model fast for evaluation, in place; without a precision it stays as it is.

    A model around a backbone of this package gets folded and packed weights (`backbones.inference`). Around another
    one, its weights stay and copies in `precision` compute (`backbones.precision`).

    Args:
        model: with its weights; DDP and test-time augmentation may be around it.
        precision: 'fp32', 'bf16', 'fp16' or None.
        compiled: compile its dense parts.

    Raises:
        ValueError: `compiled` without a backbone of this package; a model whose heads are not known.
    """
    if precision is None:
        return
    model = unwrapped(model)
    ours = any(isinstance(module, ConvNeXt | VisionTransformer) for module in model.modules())
    if compiled and not ours:
        name = type(getattr(model, 'backbone', model)).__name__
        raise ValueError(
            f'--compile: the backbone {name} is none of this package, whose models alone are known to compile as a '
            'whole; leave --compile out (--precision bf16 is possible)')
    if compiled:
        compile_for_inference(model, precision)
        for name in DENSE_PARTS:
            if hasattr(model, name):
                part = getattr(model, name)
                part.forward = _Compiled(name, part.forward)
    elif ours:
        prepare_for_inference(model, precision)
    else:
        compute_in(model, precision)


class _Compiled:
    """A compiled forward pass; where torch.compile would raise, the plain one.

    That is for a size beyond `MAX_SHAPES`, and for a part that is no single graph.
    """

    def __init__(self, name: str, compiled: Callable[..., Any]) -> None:
        self._name, self._compiled, self._plain = name, compiled, compiled.__wrapped__
        self._sizes: set[tuple] = set()
        self._said = False
        functools.update_wrapper(self, self._plain)  # and its marks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = tuple(tuple(leaf.shape) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        if self._compiled is None or (size not in self._sizes and len(self._sizes) >= MAX_SHAPES):
            self._say(f'is compiled for {MAX_SHAPES} sizes, and further ones run uncompiled: pad to fewer')
            return self._plain(*args, **kwargs)
        self._sizes.add(size)
        try:
            return self._compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compiled = None
            self._say(f'cannot be compiled and runs as it is: {" ".join(str(error).split())[:300]}')
            return self._plain(*args, **kwargs)

    def _say(self, text: str) -> None:
        if not self._said:
            print_log(f'--compile: {self._name} {text}', logger='current', level=logging.WARNING)
        self._said = True
