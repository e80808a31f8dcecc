"""Say every fact once: of a fault that two checks see, the one that names its place speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from backbones.findings import Finding, Outcome

BUILT = 'model and data sets'
CLASSES, EVALUATOR = 'classes of the splits', 'evaluator'
UNREADABLE = ('file unreadable', 'folder missing')
LEFT_OUT = ('the data sets cannot be read for the errors above; model, weights and schedule are checked once those are '
            'mended')
# What is said file by file, where the data sets name the folder and how many.
FILES_MISSING = ('picture missing', 'label map missing')


def unreadable(outcomes: Sequence[Outcome]) -> bool:
    """Whether the data of training or validation cannot be read at all: a Runner cannot be built, or would wait."""
    return any(finding.kind in UNREADABLE for outcome in outcomes if not outcome.name.endswith(' test')
               for finding in outcome.findings)


def without_repeats(outcomes: Sequence[Outcome]) -> None:
    """Drop, in place, what a later check says again of data that an earlier one has found wrong.

    Args:
        outcomes: of a preflight, those of the data before that of the built run.
    """
    places = [number for number, outcome in enumerate(outcomes) if outcome.name == BUILT]
    if not places:
        return
    known = [finding for outcome in outcomes[: places[0]] for finding in outcome.findings
             if finding.severity == 'error' and (finding.file or outcome.name == CLASSES)]
    built = outcomes[places[0]]
    if any(_is_said(finding, known) for finding in built.findings):
        built.findings, built.skipped = [], LEFT_OUT
    shifted = any(finding.kind.startswith('class ') for finding in known)
    for outcome in outcomes[places[0] + 1 :]:
        outcome.findings = [finding for finding in outcome.findings if not (
            (finding.kind == CLASSES and shifted) or (finding.kind == EVALUATOR and _is_said(finding, known)))]


def _is_said(finding: Finding, known: Sequence[Finding]) -> bool:
    """Whether what a data set raised names a file, or the folder of missing ones, that the data's checks name."""
    return any(place in finding.message for place in _places(known))


def _places(known: Sequence[Finding]) -> Iterator[str]:
    for finding in known:
        if finding.file:
            yield finding.file
            if finding.kind in FILES_MISSING:
                yield os.path.dirname(finding.file)
