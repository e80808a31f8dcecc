"""What a preflight says in all: the outcomes of its checks, a verdict, and the JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backbones.findings import SEVERITIES, Finding, Outcome, counted, exit_code, state_of

# The state of a check, in the words of the pages.
WORDS = dict(error='error', warning='warning', note='note', fine='fine', skipped='left out')


@dataclass
class Report:
    """A preflight.

    Attributes:
        config: path of the config.
        machine: what it ran on.
        scope: 'quick part' or 'all checks'.
        outcomes: of the checks, in order.
        text: the config as it will run.
        seconds: that all checks took.
    """

    config: str
    machine: str = ''
    scope: str = 'all checks'
    outcomes: list[Outcome] = field(default_factory=list)
    text: str = ''
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The config's file name."""
        return self.config.replace('\\', '/').rsplit('/', 1)[-1]

    @property
    def findings(self) -> list[Finding]:
        """Of all checks."""
        return [finding for outcome in self.outcomes for finding in outcome.findings]

    @property
    def state(self) -> str:
        """The worst severity, or 'fine'."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), 'fine')

    @property
    def verdict(self) -> str:
        """One sentence."""
        said = counted(self.findings)
        if self.state == 'error':
            return f'{said}: mend the errors before you train'
        return f'{said}; nothing speaks against training' if said else 'nothing was found: ready to train'

    def exit_code(self, strict: bool = False) -> int:
        """2 with an error, 1 with a warning if `strict`, else 0."""
        return exit_code(self.findings, strict)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        checks = [
            dict(
                name=one.name, state=state_of(one), summary=one.skipped or one.summary, seconds=round(one.seconds, 3),
                findings=[finding.as_dict() for finding in one.findings], figures=one.figures)
            for one in self.outcomes]
        return dict(
            config=self.config, machine=self.machine, scope=self.scope, verdict=self.verdict,
            seconds=round(self.seconds, 2), checks=checks)
