"""Classes that a config names: where they are registered, and whether it can be known which arguments they take."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmengine.registry import Registry

from backbones.signatures import DROPPING, argument_names, passes_on

Kinds = tuple[Registry, ...]
# Arguments that the builder of a kind fills in, so that no config gives them.
FILLED_IN = {'optimizer': {'params'}, 'parameter scheduler': {'optimizer'}}


# --- registries ---------------------------------------------------------------------------------------------


def find(root: Registry, scope: str, kind: str) -> Any:
    """The class that MMEngine finds for `kind` in a scope, or None."""
    own = root
    if scope != root.scope:
        importlib.import_module(f'{scope}.registry')
        own = root.children.get(scope, root)
    try:
        return own.get(kind)
    except RuntimeError:  # MMEngine's way of saying that there is none
        return None


def registered(root: Registry, scope: str) -> set[str]:
    """The names that a scope has of a kind."""
    own = root.children.get(scope)
    return {*(own.module_dict if own else ()), *(root.module_dict if scope != 'backbones' else ())}


def scope_is_missing(scope: str) -> bool:
    """Whether there is no package of this name."""
    try:
        importlib.import_module(scope)
    except ImportError:
        return True
    return False


def kind_names(kinds: Kinds) -> str:
    """What a dict may be, in words."""
    return ' or '.join(kind.name for kind in kinds)


def bare_name(kind: Any) -> str:
    """The name of a class, or of what a config calls it, without its scope."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def shown_name(node: Mapping[str, Any], built: Any) -> str:
    """The name of what a typed dict builds: of a class its own, of a function that builds one the name in the dict."""
    return built.__name__ if isinstance(built, type) else bare_name(node.get('type')) or built.__name__



# --- classes ------------------------------------------------------------------------------------------------


def mro(cls: Any) -> tuple[type, ...]:
    """A class and its bases; nothing for a function."""
    return cls.__mro__ if inspect.isclass(cls) else ()


def is_a(cls: Any, name: str) -> bool:
    """Whether a class is one of this name, or is derived from one; so mmdet and mmseg need not be imported."""
    return any(base.__name__ == name for base in mro(cls))


def config_arguments(cls: Any, kinds: Kinds) -> set[str]:
    """What a config may give to a class."""
    return set(argument_names(cls)) - FILLED_IN.get(kinds[0].name, set())


@functools.cache
def keywords_read(cls: Callable[..., Any]) -> frozenset[str] | None:
    """Names that a class or function reads out of its `**kwargs`, as in `kwargs.pop('name')`.

    None where it cannot be known: they are used in another way than read by name and handed on to the next base class,
    they go to something that is no base class, or there is no source.
    """
    if passes_on(cls):
        return None
    names: set[str] = set()
    for owner in mro(cls) or (cls,):
        if owner is object or f'{owner.__module__}.{owner.__qualname__}' in DROPPING:
            break
        function = owner if not inspect.isclass(owner) else vars(owner).get('__init__')
        if function is None:
            continue
        keywords = _keywords(function)
        if keywords is None:
            break
        read = _read(function, keywords, owner.__name__)
        if read is None:
            return None
        names |= read
    return frozenset(names)


def reads_init_cfg(cls: Any) -> bool:
    """Whether a class has an `init_weights` of its own, which may read an `init_cfg` that names no class."""
    own = [base for base in mro(cls) if 'init_weights' in vars(base) and base.__name__ != 'BaseModule']
    return bool(own) and not hasattr(cls, 'weight_family')


def _keywords(function: Any) -> str | None:
    """The name of a function's `**kwargs`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)


def _read(function: Any, keywords: str, owner: str) -> set[str] | None:
    """The names that a constructor reads out of its `**kwargs`; None if it does more than that and handing them on."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    uses = sum(isinstance(node, ast.Name) and node.id == keywords for node in ast.walk(tree))
    names = [_name_read(node, keywords) for node in ast.walk(tree)]
    names = [name for name in names if name is not None]
    handed = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _calls_next_base(node.func, owner):
            handed += sum(word.arg is None and _is_name(word.value, keywords) for word in node.keywords)
    return set(names) if uses == len(names) + handed else None


def _name_read(node: ast.AST, keywords: str) -> str | None:
    """The name in `kwargs['name']`, `kwargs.get('name')`, `kwargs.pop('name')` or `'name' in kwargs`."""
    key = None
    if isinstance(node, ast.Subscript) and _is_name(node.value, keywords) and isinstance(node.ctx, ast.Load):
        key = node.slice
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        key = node.left if _is_name(node.comparators[0], keywords) else None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ('get', 'pop'):
        key = node.args[0] if _is_name(node.func.value, keywords) and node.args else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _calls_next_base(function: ast.expr, owner: str) -> bool:
    """Whether it is `super().__init__`; `super(Other, self)` leaves out base classes."""
    if not isinstance(function, ast.Attribute) or function.attr != '__init__' or not isinstance(
        function.value, ast.Call
    ):
        return False
    call = function.value
    if getattr(call.func, 'id', '') != 'super':
        return False
    return not call.args or getattr(call.args[0], 'id', '') in (owner, '__class__')


# --- names --------------------------------------------------------------------------------------------------


def nearest(key: str, allowed: list[str]) -> list[str]:
    """The name that a key most probably means, if any does."""
    begun = [name for name in allowed if len(key) > 2 and name.startswith(key)]
    return difflib.get_close_matches(key, allowed, 1) or begun[:1]


def listed(allowed: Iterable[str]) -> str:
    """Names in a sentence."""
    return ', '.join(sorted(set(allowed) - {'type', '_scope_'})) or 'none'
