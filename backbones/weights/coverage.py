"""The report of a load: which parameters a file filled, and what became of everything else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Coverage:
    """What a load did to each parameter of the backbone and to each tensor of the file.

    Attributes:
        backbone: class of the backbone, with the name of its size where the size has one.
        source: the file.
        layout: name of the layout, with the prefix the backbone lies under.
        elements: number of values in each parameter (and stored buffer) of the backbone, by name.
        bytes: what each of them takes in the backbone.
        filled: names of those that came from the file.
        missing: names that the file lacks and must not lack.
        fresh: names that the file may lack (`weights_may_miss`); they keep their initial values.
        mismatched: name -> (shape in the file, shape in the backbone).
        resized: name -> (shape in the file, shape in the backbone), position tables of another grid.
        renamed: number of tensors whose name or value was converted.
        dropped: names in the file that the layout leaves out on purpose.
        outside: names in the file that do not lie under the prefix: other parts of a larger model.
        not_finite: names whose values in the file hold NaN or infinity.
        differs: settings of the backbone that are not those of the published model, where no tensor shows them.
        unexpected: native names that look like parameters of a backbone, but this one has no such parameter.
    """

    backbone: str
    source: str
    layout: str
    elements: dict[str, int]
    bytes: dict[str, int]
    filled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    renamed: int = 0
    dropped: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, mismatched, unexpected or no number."""
        return not (self.missing or self.mismatched or self.unexpected or self.not_finite)

    @property
    def filled_elements(self) -> int:
        """Number of values that came from the file."""
        return sum(self.elements[name] for name in self.filled)

    @property
    def total_elements(self) -> int:
        """Number of values of the backbone."""
        return sum(self.elements.values())

    def summary(self) -> str:
        """Say it in one line: `ConvNeXt-base <- official V1: 344/344 parameters, 87.6 M; dropped: head`."""
        line = (
            f'{self.backbone} <- {self.layout}: {len(self.filled)}/{len(self.elements)} parameters, '
            f'{_millions(self.filled_elements)}'
        )
        for title, names in (
            ('resized', self.resized),
            ('new', self.fresh),
            ('dropped', self.dropped),
            ('other parts of the file', self.outside),
            ('differs from the source', self.differs),
            ('MISSING', self.missing),
            ('OTHER SHAPE', self.mismatched),
            ('NOT FINITE', self.not_finite),
            ('UNEXPECTED', self.unexpected),
        ):
            if names:
                shown = names if names is self.differs else parts_of(names) if names is self.outside else _shown(names)
                line += f'; {title}: {", ".join(shown[:8])}' + (', ...' if len(shown) > 8 else '')
        return line

    def table(self) -> str:
        """Write one row per part of the backbone, then the findings."""
        rows = [('part', 'parameters', 'values', 'bytes')]
        parts: dict[str, list[str]] = {}
        for name in self.elements:
            parts.setdefault(part_of(name), []).append(name)
        filled = set(self.filled)
        for part, names in (*parts.items(), ('total', list(self.elements))):
            inside = [name for name in names if name in filled]
            shares = [
                f'{sum(sizes[name] for name in inside):,}/{sum(sizes[name] for name in names):,}'
                for sizes in (self.elements, self.bytes)
            ]
            rows.append((part, f'{len(inside)}/{len(names)}', *shares))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [f'{self.backbone} <- {self.layout} ({self.source})']
        for part, *numbers in rows:
            cells = (f'{number:>{width}}' for number, width in zip(numbers, widths[1:], strict=True))
            lines.append('  '.join([part.ljust(widths[0]), *cells]))
        lines.append(f'renamed or converted: {self.renamed}')
        for title in ('resized', 'mismatched'):
            lines += [f'{title}: {name} {old} -> {new}' for name, (old, new) in getattr(self, title).items()]
        for title in ('fresh', 'missing', 'not_finite', 'unexpected', 'dropped', 'outside', 'differs'):
            names = getattr(self, title)
            if names:
                lines.append(f'{title} ({len(names)}): {", ".join(parts_of(names) if title == "outside" else names)}')
        return '\n'.join(lines)


def part_of(name: str) -> str:
    """Give the part of a model a parameter belongs to: `stages.2`, `blocks.7`, `norm`."""
    pieces = name.split('.')
    return '.'.join(pieces[:2]) if len(pieces) > 2 and pieces[1].isdigit() else pieces[0]


def parts_of(names: Iterable[str]) -> list[str]:
    """List the top-level parts that names belong to, each once: `['stages', 'norm']`."""
    return list(dict.fromkeys(part_of(name).split('.')[0] for name in names))


def _shown(names: Iterable[str]) -> list[str]:
    """Shorten names for one line: whole parts, and `blocks.*.gamma` for a piece of every block."""
    pieces = (name if re.match(r'(blocks|stages|layers)\.', name) else part_of(name) for name in names)
    return list(dict.fromkeys(re.sub(r'\.\d+(?=\.)', '.*', piece) for piece in pieces))


def _millions(count: int) -> str:
    return f'{count / 1e6:.1f} M' if count >= 1e5 else f'{count:,}'
