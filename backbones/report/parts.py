"""What a report is made of. Readers of a run make these, the page draws them; neither knows the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Names with their values, such as the protocol of an evaluation.

    Attributes:
        rows: (name, value) in the order to show.
        title: above them; '' for none.
        folded: only the title is seen until it is clicked, and in print.
    """

    rows: Sequence[tuple[str, str]]
    title: str = ''
    folded: bool = False


@dataclass(frozen=True)
class Note:
    """A sentence of its own.

    Attributes:
        text: plain text.
        severity: 'note', 'warning' or 'error'.
        command: what to type for it to be otherwise; '' for none.
        link: id of the chapter that says more; '' for none.
        link_text: its title.
    """

    text: str
    severity: str = 'note'
    command: str = ''
    link: str = ''
    link_text: str = ''


@dataclass(frozen=True)
class Table:
    """Rows of texts; a reader sorts them by a click on a heading.

    Attributes:
        title: above it.
        columns: headings.
        rows: as many cells each; a number is given as a number (None: not defined) and drawn by the column's format.
        formats: one of '' (text), 'd', '.1f', '.3f' and so on for each column.
        caption: what the columns mean, one or two sentences.
        shown: rows to show at first; the others by a click, and in print.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    formats: Sequence[str]
    caption: str = ''
    shown: int = 20


@dataclass(frozen=True)
class Chart:
    """An interactive chart.

    Attributes:
        id: unique on the page: letters, digits and '-'.
        title: above it; short.
        figure: of plotly, `dict(data=[...], layout={...})`, JSON values only; no colours of ground, text or grid, which
            the page sets by its theme.
        caption: how to read it, one or two sentences.
        table: the same numbers for who does not see the chart; None where a table stands beside it anyway.
        height: in CSS pixels.
        wide: over the whole width of the page.
    """

    id: str
    title: str
    figure: dict[str, Any]
    caption: str = ''
    table: Table | None = None
    height: int = 340
    wide: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawn picture of a card.

    Attributes:
        label: such as 'Ground truth' or 'Prediction'.
        jpeg: the file's bytes.
        width: in pixels.
        height: in pixels.
    """

    label: str
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Card:
    """An image of the evaluation, ground truth and prediction side by side.

    Attributes:
        title: the file's name.
        pictures: at the same scale.
        facts: such as 'AP gained if mended: 0.012'; short.
        kinds: kinds of error to filter by, the costliest first; empty for a good one.
        classes: class names to filter by.
        good: one of the best images.
    """

    title: str
    pictures: Sequence[Picture]
    facts: Sequence[str] = ()
    kinds: Sequence[str] = ()
    classes: Sequence[str] = ()
    good: bool = False


@dataclass(frozen=True)
class Gallery:
    """Cards with filters by kind of error and class.

    Attributes:
        title: above it.
        cards: the worst first.
        caption: colours and what is drawn.
        kinds: every kind that the filter offers, in its order.
    """

    title: str
    cards: Sequence[Card]
    caption: str = ''
    kinds: Sequence[str] = ()


Part = Facts | Note | Table | Chart | Gallery


@dataclass(frozen=True)
class Headline:
    """A number of the summary.

    Attributes:
        name: such as 'Mask AP'.
        value: formatted, such as '0.587'.
        interval: such as '0.52 to 0.65'; '' where there is none.
        note: such as '80 images'.
    """

    name: str
    value: str
    interval: str = ''
    note: str = ''


@dataclass(frozen=True)
class Section:
    """A chapter of the page, with an entry in its contents.

    Attributes:
        id: unique on the page, for links.
        title: heading.
        parts: in the order to show.
    """

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: of the run.
        subtitle: model, data, date.
        headlines: the numbers of the summary.
        sections: the chapters.
        summary: parts below the numbers: protocol, remarks.
    """

    title: str
    subtitle: str
    headlines: Sequence[Headline]
    sections: Sequence[Section]
    summary: Sequence[Part] = field(default_factory=tuple)
