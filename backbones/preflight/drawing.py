"""Figures as SVG text that is legible on a light and on a dark page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

INK = '#13579b'  # drawn with this colour, and written as that of the text around the figure
BLUE, ORANGE, GREY = '#2f81f7', '#d9822b', '#8b949e'  # at least 3 : 1 on white and on #0d1117
STYLE = (
    '<style>.preflight-figure{color:#24292f}'
    '@media (prefers-color-scheme:dark){.preflight-figure{color:#e6edf3}}</style>'
)
SETTINGS = {
    'svg.fonttype': 'path', 'svg.hashsalt': 'preflight', 'font.size': 10.0, 'axes.edgecolor': INK,
    'axes.labelcolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'text.color': INK, 'axes.spines.top': False,
    'axes.spines.right': False, 'axes.facecolor': 'none', 'figure.facecolor': 'none', 'legend.frameon': False,
    'legend.fontsize': 9.0, 'axes.titlesize': 10.0, 'axes.titlelocation': 'left', 'path.simplify': True,
}


def svg_of(draw: Callable[[Any], None], width: float, height: float) -> str:
    """Let `draw` fill a matplotlib figure of that size in inches, and give it as SVG text.

    Nothing global is touched: no pyplot, no backend. The text begins with `<svg`, to be put into an HTML page; the
    colour of axes and letters follows the reader's light or dark theme.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout='constrained')
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format='svg', metadata={'Date': None, 'Creator': None}, transparent=True)
    text = written.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>', '', text, count=1, flags=re.DOTALL)
    text = text.replace('<svg', '<svg class="preflight-figure" role="img"', 1)
    start = text.index('>') + 1
    return text[:start] + STYLE + text[start:].replace(INK, 'currentColor')
