"""What a checkpoint layout is: how it is recognised, and how its names and values become ours and back.

A layout is data: patterns that tell it from the others and a table of names; where names are not enough, a pure
function dict -> dict. Shapes are stated in the layouts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

State = dict[str, Tensor]
# (their name, our name): `{i}` `{j}` stand for numbers, `{w}` for weight or bias, `{rest}` for anything. None drops the
# tensor on purpose, and the report says so. A list of names is read in any of its forms and written in the first.
Rule = tuple['str | tuple[str, ...]', 'str | None']
COUNTERS = ('total_ops', 'total_params')  # left in modules by FLOP counters
HOLES = {'i': r'\d+', 'j': r'\d+', 'w': r'weight|bias', 'rest': r'.+'}


@functools.lru_cache(maxsize=4096)
def _expression(template: str) -> re.Pattern[str]:
    pieces = re.split(r'\{(\w+)\}', template)
    return re.compile(
        ''.join(re.escape(piece) if n % 2 == 0 else f'(?P<{piece}>{HOLES[piece]})' for n, piece in enumerate(pieces))
    )


def _holes(template: str) -> set[str]:
    return set(re.findall(r'\{(\w+)\}', template))


def _translate(name: str, template: str, other: str) -> str | None:
    """Write `name` as `other` if it has the form `template`."""
    fit = _expression(template).fullmatch(name)
    return other.format(**fit.groupdict()) if fit else None


@dataclass(frozen=True)
class Converted:
    """A state dict in native names.

    Attributes:
        native: tensors by the parameter name of the backbone.
        dropped: names in the file that the layout leaves out on purpose.
        renamed: number of native tensors whose name or value is not that of the file.
    """

    native: State
    dropped: list[str]
    renamed: int


def as_is(state: State) -> State:
    """Change nothing: for layouts whose values are native."""
    return state


def _unknown(state: State) -> int | None:
    return None


@dataclass(frozen=True)
class Layout:
    """One publisher's naming of one family.

    Attributes:
        name: shown to the user: `ConvNeXt <- official V1`.
        family: class name of the backbone it belongs to.
        has: fnmatch patterns; each must fit some name of the file.
        lacks: fnmatch patterns; none may fit any name of the file.
        table: the first rule that fits decides.
        also: further rules, for reading only: names of older files, parts that are left out.
        keeps: a name without a rule is taken as native; False makes it a leftover, which is refused.
        merge: pure function from renamed tensors to native ones (fuse, reshape, transpose).
        split: the reverse of `merge`, for writing; None where a layout is only read.
        fold: changes native tensors to others of the same features, where the layout holds these.
        heads: reads the number of heads off the file's own tensors, where native ones no longer show it.
        needs: groups of fnmatch patterns on native names; a published file has one of each group, so that a file
            without has lost it.
        targets: what `tools/weights.py convert --to` calls this layout; () if it is only read.
        only_in: key that must wrap the tensors in the file: tells publishers of equal names apart.
        wrapper: key under which the publisher keeps the tensors, for writing; '' for none.
        prefix: where the publisher's file has the backbone, for writing.
        omits: native names that are left out when written: the publisher's code computes them or has none.
        models: what the layout is written for: 'dinov3' where that code base names this model in its own way, '' for
            the family's plain form. A file keeps the first of its layout.
        source: constructor arguments of the published models that the tensors cannot show (eps, activation, how
            positions are resized).
    """

    name: str
    family: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    table: tuple[Rule, ...] = ()
    also: tuple[Rule, ...] = ()
    keeps: bool = True
    merge: Callable[[State], State] = as_is
    fold: Callable[[State], State] = as_is
    split: Callable[[State], State] | None = None
    heads: Callable[[State], int | None] = _unknown
    needs: tuple[tuple[str, ...], ...] = ()
    targets: tuple[str, ...] = ()
    only_in: str = ''
    wrapper: str = ''
    prefix: str = ''
    omits: tuple[str, ...] = ()
    models: tuple[str, ...] = ('',)
    source: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, state: Mapping[str, Tensor], wrappers: Sequence[str] = ()) -> bool:
        """Whether the names in `state`, prefix taken off, and the keys that wrapped them are those of this layout."""
        if self.only_in and self.only_in not in wrappers:
            return False

        def found(pattern: str) -> bool:
            return pattern in state or any(fnmatchcase(name, pattern) for name in state)

        return all(found(pattern) for pattern in self.has) and not any(found(pattern) for pattern in self.lacks)

    def convert(self, state: State) -> Converted:
        """Give the tensors of `state` their native names and values. `state` is not changed."""
        renamed, dropped = {}, []
        for name, value in state.items():
            new_name = self.rename(name)
            if new_name is None:
                dropped.append(name)
            else:
                renamed[new_name] = value
        native = self.merge(renamed)
        changed = sum(state.get(name) is not value for name, value in native.items())
        return Converted(native, dropped, changed)

    def rename(self, name: str) -> str | None:
        """Give the native name of one name of the file; None drops it."""
        if name.rpartition('.')[2] in COUNTERS:
            return None
        for theirs, ours in (*self.table, *self.also):
            for template in (theirs,) if isinstance(theirs, str) else theirs:
                if ours is None:
                    if _expression(template).fullmatch(name):
                        return None
                elif (new_name := _translate(name, template, ours)) is not None:
                    return new_name
        return name

    def lost(self, native: Mapping[str, Tensor]) -> list[str]:
        """List what every file of this layout has and these tensors lack."""
        return [
            ' or '.join(group) for group in self.needs
            if not any(fnmatchcase(name, pattern) for pattern in group for name in native)
        ]

    def write(self, native: State) -> State:
        """Give native tensors the names and values of this layout.

        Raises:
            ValueError: if the layout has no place for one of them.
        """
        if self.split is None:
            raise ValueError(f'the layout {self.name!r} is only read')
        written = {}
        kept = {name: value for name, value in native.items() if name not in self.omits}
        for name, value in self.split(kept).items():
            new_name = self._written_name(name)
            if new_name is None:
                raise ValueError(f'the layout {self.name!r} has no place for {name}')
            written[new_name] = value
        return written

    def _written_name(self, name: str) -> str | None:
        for theirs, ours in self.table:
            template = theirs if isinstance(theirs, str) else theirs[0]
            if ours is None or _holes(template) != _holes(ours):
                continue  # what has lost a number is only read
            if (new_name := _translate(name, ours, template)) is not None:
                return new_name
        return name if self.keeps and self.rename(name) == name else None


# Parts of a larger model under which a backbone may lie; they nest, as in `module.backbone.net.`.
PREFIXES = (
    *('module.', 'model.', 'backbone.', 'net.', 'encoder.', 'image_encoder.', 'visual.', 'trunk.', 'vision_model.'),
    # the features of self-distillation are the teacher's, so it comes first
    *('teacher.', 'student.', 'ema.', 'target_encoder.', 'state_dict.', '_orig_mod.', 'opt/target/', 'params/'),
    *('img_backbone.', 'image_backbone.', 'vision_tower.', 'body.', '0.'),
    # names of the model classes of Hugging Face
    *('convnext.', 'convnextv2.', 'vit.', 'deit.', 'beit.', 'dinov2.', 'dinov2_with_registers.', 'dinov3_vit.'),
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
    state: Mapping[str, Tensor],
    layouts: Sequence[Layout],
    prefix: str | None = None,
    wrappers: Sequence[str] = (),
) -> tuple[Layout, str, State] | None:
    """Find the layout of a file and the prefix its backbone lies under.

    Args:
        state: tensors by the names of the file.
        layouts: tried in this order under each prefix; the first that matches is taken.
        prefix: the only prefix to look under; None looks under all that are known.
        wrappers: keys that wrapped the tensors in the file.

    Returns:
        The layout, the prefix, and the tensors below the prefix without it; None if nothing fits.
    """
    for candidate in candidate_prefixes(state) if prefix is None else [prefix]:
        inner = {name[len(candidate) :]: value for name, value in state.items() if name.startswith(candidate)}
        for layout in layouts:
            if layout.matches(inner, wrappers):
                return layout, candidate, inner
    return None
