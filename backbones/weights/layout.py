"""What a checkpoint layout is: how it is recognised and how its names become ours.

A layout is data: patterns that tell it from the others, a table of names, and where names are not enough a
pure function on the renamed tensors. Shapes are named in the layouts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

# (regular expression for the whole name, replacement); None drops the tensor on purpose, and the report says so.
Rule = tuple[str, 'str | None']
State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A state dict in native names.

    Attributes:
        native: tensors by the parameter name of the backbone.
        dropped: names in the file that the layout leaves out on purpose.
        renamed: number of tensors whose name or value is not that of the file.
    """

    native: State
    dropped: list[str]
    renamed: int


def _unchanged(state: State, module: nn.Module) -> tuple[State, list[str]]:
    return state, []


def _no_resize(name: str, value: Tensor, module: nn.Module) -> Tensor | None:
    return None


@dataclass(frozen=True)
class Layout:
    """One publisher's naming of one family.

    Attributes:
        name: shown to the user: `ConvNeXt <- official V1`.
        family: class name of the backbone it belongs to.
        has: fnmatch patterns; each must fit some name of the file.
        lacks: fnmatch patterns; none may fit any name of the file.
        table: the first rule whose expression fits a whole name decides; a name without a rule stays.
        finish: pure function (renamed tensors, backbone) -> (tensors, names left out on purpose), for values
            that change: splits, merges, reshapes, and parts that this backbone does not build.
        resize: (name, value, backbone) -> the value for this backbone's position grid, or None.
        describe: reads the architecture off native tensors: dict for messages such as `arch='base' fits`.
    """

    name: str
    family: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    table: tuple[Rule, ...] = ()
    finish: Callable[[State, nn.Module], tuple[State, list[str]]] = _unchanged
    resize: Callable[[str, Tensor, nn.Module], Tensor | None] = _no_resize
    describe: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {}

    def matches(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the names in `state`, prefix taken off, are those of this layout."""

        def found(pattern: str) -> bool:
            return pattern in state or any(fnmatchcase(name, pattern) for name in state)

        return all(found(pattern) for pattern in self.has) and not any(found(pattern) for pattern in self.lacks)

    def convert(self, state: State, module: nn.Module) -> Converted:
        """Give the tensors of `state` their native names and values. `state` is not changed."""
        names: dict[str, str] = {}  # native name -> name in the file
        dropped = []
        for name in state:
            new_name = self.rename(name)
            if new_name is None:
                dropped.append(name)
            else:
                names[new_name] = name
        renamed = {new_name: state[name] for new_name, name in names.items()}
        native, left_out = self.finish(dict(renamed), module)
        dropped += [names[name] for name in left_out]
        changed = sum(names.get(name) != name or renamed[name] is not value for name, value in native.items())
        return Converted(native, dropped, changed)

    def renamed(self, state: Mapping[str, Tensor]) -> State:
        """Give the tensors their native names only."""
        return {new: value for new, value in ((self.rename(name), value) for name, value in state.items()) if new}

    def rename(self, name: str) -> str | None:
        """Give the native name of one name of the file; None drops it."""
        for expression, replacement in self.table:
            fit = re.fullmatch(expression, name)
            if fit:
                return None if replacement is None else fit.expand(replacement)
        return name


# Parts of a larger model under which a backbone may lie; they nest, as in `module.backbone.net.`.
PREFIXES = (
    *('module.', 'model.', 'backbone.', 'net.', 'encoder.', 'image_encoder.', 'visual.', 'trunk.'),
    *('vision_model.', 'student.', 'teacher.', 'state_dict.', '_orig_mod.'),
)


def candidate_prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """List the prefixes below which a backbone may lie in `state`, the shortest first; '' is always one."""
    found = ['']
    for prefix in found:  # grows while it is walked
        for part in PREFIXES:
            longer = prefix + part
            if longer not in found and any(name.startswith(longer) for name in state):
                found.append(longer)
    return found


def recognise(
    state: Mapping[str, Tensor], layouts: Sequence[Layout], prefix: str | None = None
) -> tuple[Layout, str, State] | None:
    """Find the layout of a file and the prefix its backbone lies under.

    Args:
        state: tensors by the names of the file.
        layouts: tried in this order under each prefix; the first that matches is taken.
        prefix: the only prefix to look under; None looks under all that are known.

    Returns:
        The layout, the prefix, and the tensors below the prefix without it; None if nothing fits.
    """
    for candidate in candidate_prefixes(state) if prefix is None else [prefix]:
        inner = {name[len(candidate) :]: value for name, value in state.items() if name.startswith(candidate)}
        for layout in layouts:
            if layout.matches(inner):
                return layout, candidate, inner
    return None
