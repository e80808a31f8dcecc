"""The preflight as one page without a server: checks, pictures of samples, schedule, parameter groups, classes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.files import write_bytes
from backbones.findings import Finding, Outcome, by_kind, state_of
from backbones.preflight.report import WORDS, Report

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE = Path(__file__).with_name('page.html')
SHOWN = 8  # places of one kind that the page names
QUALITY = 88  # of the samples' JPEGs: lines and small letters stay legible


@dataclass(frozen=True)
class Group:
    """Findings of one kind and severity, the first of them to show."""

    severity: str
    kind: str
    count: int
    shown: list[Finding]
    remedy: str


def write_page(
    path: str | Path,
    report: Report,
    samples: Iterable[tuple[Image, str]] = (),
    plots: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Write the page.

    Args:
        path: of the file; whole or not there.
        report: what was found.
        samples: pictures with captions.
        plots: title, SVG and caption of each.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        TEMPLATE.read_text(encoding='utf-8'))
    text = template.render(
        report=report, words=WORDS, checks=[(one, state_of(one), groups_of(one)) for one in report.outcomes],
        samples=[(_source(picture), caption) for picture, caption in samples],
        plots=[(title, inline(svg), caption) for title, svg, caption in plots])
    write_bytes(path, text.encode())


def groups_of(outcome: Outcome) -> list[Group]:
    """The findings of an outcome by severity and kind, the worst first."""
    return [Group(*key, len(found), found[:SHOWN], found[0].remedy) for key, found in by_kind(outcome.findings).items()]


def inline(svg: str) -> str:
    """The element of an SVG file, without what stands before it, which HTML does not take."""
    return svg[svg.index('<svg'):]


def _source(picture: Image) -> str:
    file = io.BytesIO()
    picture.convert('RGB').save(file, 'JPEG', quality=QUALITY)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'
