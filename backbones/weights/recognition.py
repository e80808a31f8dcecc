"""Which backbone a checkpoint holds, in whose naming, and its tensors by native names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from backbones.weights.advice import arch_text, first_names, unknown_layout
from backbones.weights.convnext_family import CONVNEXT
from backbones.weights.coverage import parts_of
from backbones.weights.family import Family
from backbones.weights.layout import Layout, State, recognise
from backbones.weights.pyramid_family import SIMPLE_FPN
from backbones.weights.read import peel, read_file
from backbones.weights.vit_family import VIT

FAMILIES = (CONVNEXT, VIT, SIMPLE_FPN)


@dataclass(frozen=True)
class Recognised:
    """A checkpoint whose layout is known, in native names.

    Attributes:
        family: class of backbones it belongs to.
        layout: whose naming it is.
        prefix: where the backbone lies in the file.
        native: tensors by the backbone's parameter names.
        dropped: names below the prefix that the layout leaves out on purpose.
        renamed: number of tensors whose name or value was converted.
        outside: names in the file that do not lie below the prefix.
        heads: number of heads, where the file's own tensors show it and native ones do not.
    """

    family: Family
    layout: Layout
    prefix: str
    native: State
    dropped: list[str]
    renamed: int
    outside: list[str]
    heads: int | None = None

    @property
    def title(self) -> str:
        """Name of the layout, with the prefix the backbone lies under."""
        return self.layout.name + (f' under {self.prefix!r}' if self.prefix else '')


def read_tensors(path: Path) -> tuple[State, tuple[str, ...]]:
    """Read a file: its tensors, and the keys that wrap them (`model`, `teacher`), which tell some publishers apart."""
    content = read_file(path)
    state = peel(content, str(path))
    return state, tuple(str(key) for key, value in content.items() if isinstance(value, Mapping))


def recognise_in(
    families: Sequence[Family], state: State, wrappers: Sequence[str] = (), prefix: str | None = None
) -> Recognised | None:
    """Find the family and layout of a file, and convert it; None if no layout fits."""
    for family in families:
        found = recognise(state, family.layouts, prefix, wrappers)
        if found is not None:
            layout, found_prefix, inner = found
            converted = layout.convert(inner)
            outside = [name for name in state if not name.startswith(found_prefix)]
            return Recognised(
                family, layout, found_prefix, converted.native, converted.dropped, converted.renamed, outside,
                layout.heads(inner),
            )
    return None


def recognise_for(
    module: nn.Module, state: State, wrappers: Sequence[str], prefix: str | None, source: str
) -> Recognised:
    """Recognise a file for one backbone, or say what the file looks like instead.

    Raises:
        ValueError: if it is not one of the backbone's layouts.
    """
    family: Family = module.weight_family
    if prefix is not None:
        prefix = prefix if prefix == '' or prefix.endswith(('.', '/')) else f'{prefix}.'
        if not any(name.startswith(prefix) for name in state):
            raise ValueError(
                f'checkpoint {source}: no name begins with prefix={prefix!r}; it has the parts '
                f'{first_names(parts_of(state))}; correct prefix in init_cfg, or leave it out and it is found'
            )
    found = recognise_in((family,), state, wrappers, prefix)
    if found is not None:
        return found
    where = '' if prefix is None else f' under prefix={prefix!r}'
    other = recognise_in(FAMILIES, state, wrappers, prefix)
    if other is not None:
        raise ValueError(
            f'checkpoint {source} is not for {family.name}: it looks like {other.family.name} in the layout '
            f"{other.layout.name!r} ({arch_text(other.family.sizes(other.native))}); use "
            f"backbone=dict(type='backbones.{other.family.name}', ...) or give a checkpoint of {family.name}"
        )
    raise ValueError(unknown_layout(source, where, state, (family,)))


@contextlib.contextmanager
def about(source: str) -> Iterator[None]:
    """Name the file in what is raised about its tensors.

    Raises:
        ValueError: in place of whatever odd shapes lead to.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if source in str(error) else f'checkpoint {source}: {error}') from error
    except (RuntimeError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'checkpoint {source}: its tensors have names of a known layout, but shapes that no such model has '
            f'({reason}); give the file as it was published'
        ) from error
