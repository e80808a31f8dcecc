"""Write native tensors in the layout of another code base, and prove that they come back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones.weights.family import Family
from backbones.weights.layout import Layout, State, recognise

TARGETS = ('native', 'timm', 'hf', 'torchvision', 'mmpretrain', 'official')


@dataclass(frozen=True)
class Export:
    """Tensors in another layout.

    Attributes:
        layout: its name.
        tensors: by the names of that layout, prefix included.
        wrapper: key under which the publisher keeps them; '' for none.
        omitted: native names that are left out because the publisher's code computes them.
    """

    layout: str
    tensors: State
    wrapper: str
    omitted: list[str]


def export(native: State, family: Family, target: str, model: str = '') -> Export:
    """Name and shape native tensors as `target` does.

    Args:
        native: all tensors of a backbone by their native names.
        family: the backbone's.
        target: one of `TARGETS`.
        model: what the weights are, as in `Layout.models`; the first of those of the layout that they came in.

    Raises:
        ValueError: if the target has no place for a tensor, or reading the result back gives other bits.
    """
    if target not in TARGETS:
        raise ValueError(f'the layout {target!r} is unknown; choose one of {list(TARGETS)}')
    if target == 'native':
        return Export('native', dict(native), '', [])
    candidates = [layout for layout in family.layouts if target in layout.targets and model in layout.models]
    if not candidates:
        raise ValueError(f'{target!r} has no {model} {family.name}; choose one of {_targets_of(family, model)}')
    reasons = []
    # First a layout that is recognised by its name, then one that only gives the same tensors back: DINOv2's file is
    # known by a mask token, which no backbone keeps.
    for recognised in (True, False):
        for layout in candidates:
            try:
                return _export_as(native, family, layout, recognised)
            except ValueError as error:
                reasons.append(str(error))
    raise ValueError(f'this {family.name} cannot be written for {target!r}: {"; ".join(dict.fromkeys(reasons))}')


def _targets_of(family: Family, model: str) -> list[str]:
    known = {target for layout in family.layouts if model in layout.models for target in layout.targets}
    return ['native', *(target for target in TARGETS if target in known)]


def _export_as(native: State, family: Family, layout: Layout, recognised: bool) -> Export:
    """Write one layout, and read it back."""
    native = layout.fold(native)
    written = layout.write(native)
    tensors = {layout.prefix + name: value for name, value in written.items()}
    wrappers = (layout.wrapper,) if layout.wrapper else ()
    found = recognise(tensors, family.layouts, None, wrappers)
    if found is None or (recognised and found[0] is not layout):
        seen = 'nothing known' if found is None else repr(found[0].name)
        raise ValueError(f'in the layout {layout.name!r} it would be taken for {seen}')
    omitted = [name for name in native if name in layout.omits]
    back = found[0].convert(found[2]).native
    wrong = [name for name in native if name not in omitted and not _equal(native[name], back.get(name))]
    wrong += [name for name in back if name not in native]
    if wrong:
        raise ValueError(f'the layout {layout.name!r} does not give {wrong[0]} back bit for bit')
    return Export(layout.name, tensors, layout.wrapper, omitted)


def _equal(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and value.dtype == other.dtype and torch.equal(value, other)


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], wrapper: str = '') -> None:
    """Save to a new file: `.safetensors` without the wrapper, anything else with torch, whole or not at all.

    Raises:
        ValueError: if the file is there already, or its folder is not.
    """
    path = Path(path).expanduser()
    if path.exists():
        raise ValueError(f'{path} is there already and is not overwritten; remove it or name another file')
    if not path.parent.is_dir():
        raise ValueError(f'there is no folder {path.parent}; make it first')
    state: dict[str, Any] = {name: value.clone().contiguous() for name, value in tensors.items()}
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f'{path.name}.', suffix='.partial')
    os.close(handle)
    try:
        if path.suffix == '.safetensors':
            save_file(state, partial, metadata={'format': 'pt'})
        else:
            torch.save({wrapper: state} if wrapper else state, partial)
        os.chmod(partial, 0o644)
        os.link(partial, path)  # refuses a file that came meanwhile
    finally:
        Path(partial).unlink(missing_ok=True)
