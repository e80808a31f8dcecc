"""The preflight on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from backbones.data_check.page import SIGNS, print_outcomes
from backbones.preflight.report import Report


def print_report(report: Report, console: Console | None = None, tables: bool = False) -> None:
    """Print the report: one line per check, below them what was found, and the verdict.

    Args:
        report: of a preflight.
        console: where; default the standard output.
        tables: print the tables of the checks, too.
    """
    console = console or Console(highlight=False)
    console.print(Text.assemble(('Preflight ', 'bold'), (report.config, 'bold'), f'\n{report.machine}'))
    console.print()
    print_outcomes(report.outcomes, console, tables=tables)
    console.print()
    console.print(Text(f'{report.verdict} ({report.scope}, {report.seconds:.1f} s)', SIGNS[report.state][1]))
