"""What a check finds: where, what, and what to do about it; and how a tool ends with what was found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ('error', 'warning', 'note')  # wrong; probably not what is meant; good to know
FIELDS = ('severity', 'file', 'id', 'field', 'value', 'message', 'remedy')
LONGEST_VALUE = 80  # characters of a value that is shown


@dataclass(frozen=True)
class Finding:
    """One fault, or one fact worth knowing.

    Args:
        severity: one of `SEVERITIES`.
        kind: short name of what is wrong, the same for all places where it is, such as 'box outside'.
        message: what was found, a sentence without a full stop.
        remedy: what to do about it, likewise; empty for a note that asks for nothing.
        file: path of the file, where it is about one.
        id: of the annotation, picture or category in the file, or a line or iteration number.
        field: name of the field, the config key (dotted) or the parameter.
        value: what stands there; shown shortened.
    """

    severity: str
    kind: str
    message: str
    remedy: str = ''
    file: str | None = None
    id: int | str | None = None
    field: str | None = None
    value: Any = None

    def __post_init__(self) -> None:
        assert self.severity in SEVERITIES, self.severity

    def as_dict(self) -> dict[str, Any]:
        """Give the fields of the JSON of our tools, all of them plain; NaN and long values become words."""
        return {name: _plain(getattr(self, name)) for name in FIELDS}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and abs(value) < float('inf')):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 4 * LONGEST_VALUE or isinstance(value, str) else text[:4 * LONGEST_VALUE] + '...'


@dataclass
class Outcome:
    """What one check says.

    Args:
        name: of the check, a few words: 'strides'.
        summary: one line of facts for the page: '4, 8, 16, 32, 64 pixels in neck, RPN and RoI heads'.
        findings: what is wrong, or worth knowing.
        details: lines below the summary, such as a table.
        figures: numbers and series for the JSON and the HTML page; plain data.
        skipped: why the check was not done; empty if it was.
        seconds: how long it took.
    """

    name: str
    summary: str = ''
    findings: list[Finding] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str = ''
    seconds: float = 0.0


def state_of(outcome: Outcome) -> str:
    """The worst severity that a check found, or 'fine', or 'skipped'."""
    found = {finding.severity for finding in outcome.findings}
    worst = next((severity for severity in SEVERITIES if severity in found), None)
    return worst or ('skipped' if outcome.skipped else 'fine')


def counted(findings: Iterable[Finding]) -> str:
    """How many of each severity: '2 errors, 1 note'; an empty text for none."""
    counts = Counter(finding.severity for finding in findings)
    return ', '.join(
        f'{counts[name]:,} {name}{"s" if counts[name] > 1 else ""}' for name in SEVERITIES if counts[name])


def by_kind(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Findings by (severity, kind), the worst severity first."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.kind), []).append(finding)
    return dict(sorted(kinds.items(), key=lambda item: SEVERITIES.index(item[0][0])))


def finding_of(error: BaseException, kind: str, severity: str = 'error') -> Finding:
    """Turn an error of our own wording ("what is; what to do") into a finding; others say their class."""
    text = ' '.join(str(error).split())
    if not isinstance(error, ValueError | OSError | ImportError) or not text:
        text = f'{type(error).__name__}: {text}' if text else type(error).__name__
        return Finding(severity, kind, f'this could not be checked: {text[:500]}', 'correct what the message names')
    for sign in ('; ', '. '):
        what, found, remedy = text.rpartition(sign)
        if found:
            return Finding(severity, kind, what, remedy)
    return Finding(severity, kind, text)


def run_check(name: str, check: Callable[..., Outcome], *args: Any) -> Outcome:
    """Run a check that gives an `Outcome`; whatever it raises becomes a finding, and its time is taken."""
    start = time.perf_counter()
    try:
        outcome = check(*args)
    except Exception as error:  # a tool that looks for faults must not end on one
        outcome = Outcome(name, findings=[finding_of(error, name)])
    outcome.seconds = time.perf_counter() - start
    return outcome


def exit_code(findings: Iterable[Finding], strict: bool = False) -> int:
    """2 with an error, 1 with a warning if `strict`, else 0."""
    severities = {finding.severity for finding in findings}
    return 2 if 'error' in severities else 1 if strict and 'warning' in severities else 0
