"""A `Page` as one HTML file: no server, no request; texts escaped, charts as JSON that cannot end their element."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .config_diff import Code
from .parts import Card, Chart, Facts, Gallery, Note, Page, Part, Table
from .training import Curves

GENERATOR = 'mmbackbones report'  # by which an older page is known as ours
HERE = Path(__file__).parent
MARKUP = re.compile(r'<(?!/?(?:br|b|i|sub|sup|extra)\s*/?>)')  # what plotly's own texts may hold stays
TEMPLATES = ('hovertemplate', 'texttemplate', 'title')
EMPTY = '–'
LONG = 32  # letters of a cell that wants the whole width


def render(page: Page) -> str:
    """The whole file.

    Raises:
        ValueError: a library is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise _missing('is put together by jinja2') from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(
        kind_of=kind_of, safe_json=safe_json, figure_of=figure_of, cell=cell, source=source, kinds_of=kinds_of,
        classes_of=classes_of, is_number=is_number, wide_places=wide_places, sentence=sentence, GENERATOR=GENERATOR)
    template = environment.from_string((HERE / 'page.html').read_text(encoding='utf-8'))
    charts = any(isinstance(part, Chart) for part in [*page.summary, *(one for s in page.sections for one in s.parts)])
    return template.render(
        page=page, css=(HERE / 'page.css').read_text(encoding='utf-8'), plotly=plotly_js() if charts else '',
        js=(HERE / 'page.js').read_text(encoding='utf-8'))


@cache
def plotly_js() -> str:
    """The library that draws the charts.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _missing('draws its charts with plotly') from error
    return get_plotlyjs()


def _missing(what: str) -> ValueError:
    return ValueError(f"the report {what}, which is not installed: run `make setup` in a checkout, or "
                      "`pip install 'mmbackbones[report]'`")


def wide_places(parts: Sequence[Part | Code]) -> set[int]:
    """Which parts take the whole width: those that need it, and the last of an odd number that stand in two columns."""
    wide, beside = set(), []
    for place, part in enumerate([*parts, Note('')]):
        if isinstance(part, Chart | Table) and not (part.wide if isinstance(part, Chart) else is_wide(part)):
            beside.append(place)
            continue
        wide |= {place, *(beside[-1:] if len(beside) % 2 else ())}
        beside = []
    return wide - {len(parts)}


def kind_of(part: Part | Code) -> str:
    """Which macro draws a part."""
    kinds = (Facts, 'facts'), (Note, 'note'), (Table, 'table'), (Curves, 'curves'), (Chart, 'chart'), (
        Gallery, 'gallery'), (Code, 'code')
    return next(name for kind, name in kinds if isinstance(part, kind))


def safe_json(value: Any) -> str:
    """JSON that stays data within a script element: it holds no `<`, and no number that JSON does not know."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if hasattr(value, 'tolist'):
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def figure_of(chart: Chart) -> dict[str, Any]:
    """A figure whose texts plotly takes as texts: it understands some HTML, and names come from files."""
    return _texts(chart.figure, '')


def _texts(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _texts(one, 'title' if key == 'title' else str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(one, key) for one in value]
    if isinstance(value, str):
        return MARKUP.sub('&lt;', value) if key in TEMPLATES else value.replace('<', '&lt;')
    return value


def cell(value: Any, format_: str) -> str:
    """A cell's text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return EMPTY
    if not format_ or isinstance(value, str) or not is_number(value):
        return str(value)
    if format_ == 'd':
        return f'{value:,.0f}'
    return format(value, format_)


def is_number(value: Any) -> bool:
    """Whether a cell is sorted as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def sentence(text: str) -> str:
    """A text with a full stop, as errors of this project have none."""
    return text if text.endswith(('.', ':', '!', '?')) else f'{text}.'


def is_wide(table: Table) -> bool:
    """Whether a table needs the whole width."""
    longest = max((len(one) for row in table.rows for one in row if isinstance(one, str)), default=0)
    return len(table.columns) > 5 or longest > LONG


def source(jpeg: bytes) -> str:
    """A picture within the page."""
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def kinds_of(gallery: Gallery) -> Sequence[str]:
    """The kinds that the filter offers: those that a card has, in the gallery's order."""
    there = {kind for card in gallery.cards for kind in card.kinds}
    return [kind for kind in gallery.kinds if kind in there] + sorted(there - set(gallery.kinds))


def classes_of(cards: Sequence[Card]) -> Sequence[str]:
    """The classes that the filter offers."""
    return sorted({name for card in cards for name in card.classes}, key=lambda name: (name.lower(), name))
