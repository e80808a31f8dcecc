"""What a class or function takes by name, read from its signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

# Base classes whose constructor takes any further argument and drops it: nothing that reaches them is consumed.
DROPPING = {
    'torch.nn.modules.module.Module',
    'mmdet.models.task_modules.coders.base_bbox_coder.BaseBBoxCoder',
    'mmdet.models.task_modules.samplers.base_sampler.BaseSampler',
}


def _constructors(built: Callable[..., Any]) -> Iterator[tuple[Any, list[inspect.Parameter], bool]]:
    """Yield each class whose constructor is reached, its parameters, and whether it takes any further argument.

    The base classes are reached as far as each constructor takes further arguments (`**kwargs`).
    """
    for cls in built.__mro__ if inspect.isclass(built) else [built]:
        if inspect.isclass(cls) and '__init__' not in vars(cls):
            continue
        try:
            parameters = list(inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values())
        except (TypeError, ValueError):  # built in C without a signature
            yield cls, [], True
            return
        takes_any = cls is not object and any(p.kind is p.VAR_KEYWORD for p in parameters)
        yield cls, parameters, takes_any
        if not takes_any:
            return


@functools.cache
def argument_names(built: Callable[..., Any]) -> frozenset[str]:
    """What the constructor takes, and those of its base classes as far as it passes on further arguments."""
    names = set()
    for _, parameters, _ in _constructors(built):
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return frozenset(names - {'self', 'runner'})


@functools.cache
def passes_on(built: Callable[..., Any]) -> bool:
    """Whether it takes arguments of any name and gives them to something that is not a base class."""
    reached = [(cls, takes_any) for cls, _, takes_any in _constructors(built) if cls is not object]
    if not reached:
        return False
    cls, takes_any = reached[-1]
    return takes_any and f'{cls.__module__}.{getattr(cls, "__qualname__", "")}' not in DROPPING
