"""Outcomes on a terminal: one line per check, below it what was found, by kind."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ..data.files import shown
from ..findings import LONGEST_VALUE, SEVERITIES, Finding, Outcome, by_kind, counted, state_of

PLACES = 3  # that are shown of each kind
SIGNS = dict(error=('✗', 'bold red'), warning=('!', 'bold yellow'), note=('i', 'cyan'), fine=('✓', 'green'),
             skipped=('-', 'dim'))
STATES = tuple(SIGNS)  # the worst first
BLOCK = 'data set block'  # the check whose details are code


def print_page(outcomes: Sequence[Outcome], console: Console, places: int = PLACES, root: str = '') -> None:
    """Print all outcomes, the block for a config, and how many findings there are.

    Args:
        outcomes: of the checks.
        console: where; it knows its width and whether colours are wanted.
        places: that are shown of each kind of finding.
        root: folder that file names are shown relative to.
    """
    print_outcomes(outcomes, console, places, root)
    for outcome in outcomes:
        if outcome.name == BLOCK and outcome.details:
            _print_block(outcome, console)
    console.print()
    console.print(verdict([finding for outcome in outcomes for finding in outcome.findings]))


def print_outcomes(
    outcomes: Sequence[Outcome], console: Console, places: int = PLACES, root: str = '', tables: bool = True
) -> None:
    """Print one line per check, and below all of them what was found, the worst first, and the tables of each.

    Args:
        outcomes, console, places, root: as for `print_page`.
        tables: print those, too.
    """
    width = min(max((len(outcome.name) for outcome in outcomes), default=0), 30)
    for outcome in outcomes:
        _print_line(outcome, console, width, outcome.skipped or outcome.summary)
    for outcome in sorted(outcomes, key=lambda outcome: STATES.index(state_of(outcome))):
        details = outcome.details if tables and outcome.name != BLOCK else []
        if not outcome.findings and not details:
            continue
        console.print()
        _print_line(outcome, console, width, '')
        _print_findings(outcome.findings, console, places, root)
        for detail in details:
            console.print(Padding(_words(detail, 'dim'), (0, 0, 0, 4)))


def _print_line(outcome: Outcome, console: Console, width: int, text: str) -> None:
    sign, style = SIGNS[state_of(outcome)]
    line = Table.grid(padding=(0, 1))
    line.add_column(width=1)
    line.add_column(width=width, overflow='fold')
    line.add_column(ratio=1)
    line.add_row(Text(sign, style), _words(outcome.name, 'bold'), _words(text))
    console.print(line)


def verdict(findings: Sequence[Finding]) -> Text:
    """Return one line: how many of each severity."""
    found = {finding.severity for finding in findings}
    worst = next((severity for severity in SEVERITIES if severity in found), 'fine')
    return Text(counted(findings) or 'nothing was found', SIGNS[worst][1])


def _print_findings(findings: Sequence[Finding], console: Console, places: int, root: str) -> None:
    for (severity, kind), found in by_kind(findings).items():
        head = Text.assemble((f'{severity}: {kind}', SIGNS[severity][1]),
                             f' ({len(found):,})' if len(found) > 1 else '')
        console.print(Padding(head, (0, 0, 0, 2)))
        for finding in found[:places]:
            console.print(Padding(_finding(finding, root), (0, 0, 0, 4)))
        if len(found) > places:
            console.print(Padding(_words(f'... and {len(found) - places:,} more; --json FILE has all', 'dim'),
                                  (0, 0, 0, 4)))
        for remedy in list(dict.fromkeys(finding.remedy for finding in found if finding.remedy))[:2]:
            console.print(Padding(Text.assemble(('→ ', 'green'), _clean(remedy)), (0, 0, 0, 4)))


def _finding(finding: Finding, root: str) -> Text:
    start = root.rstrip('/') + '/'
    place = [] if finding.file is None else [shown(finding.file.removeprefix(start if root else ''))]
    if finding.id is not None:
        place.append(f'id {shown(finding.id)}')
    if finding.field is not None and finding.value is None:
        place.append(shown(finding.field))
    elif finding.field is not None:
        value = shown(finding.value)
        dots = '...' if len(value) > LONGEST_VALUE else ''
        place.append(f'{shown(finding.field)} = {value[:LONGEST_VALUE]}{dots}')
    text = Text(_clean(finding.message))
    return Text.assemble((', '.join(place), 'bold'), '\n', text) if place else text


def _print_block(outcome: Outcome, console: Console) -> None:
    console.print()
    console.print(_words('For the end of a config:', 'bold'))
    code = '\n'.join(outcome.details)
    if console.is_terminal and console.color_system:
        console.print(Syntax(code, 'python', theme='ansi_dark', background_color='default', word_wrap=True))
    else:  # to be pasted: not broken, not padded
        console.print(Text(code), soft_wrap=True)


def _words(text: str, style: str = '') -> Text:
    return Text(_clean(text), style)


def _clean(text: str) -> str:
    """Return text without control signs, which a terminal would obey."""
    return ''.join(sign if sign.isprintable() or sign == '\n' else repr(sign)[1:-1] for sign in text)
