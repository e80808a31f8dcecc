"""An evaluation as chapters of the report, from the content of its `details.json` (docs/evaluation.md lists it)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .charts_detection import ONE, classes_section, detection_headlines, overview_section
from .charts_detection_errors import errors_section
from .charts_segmentation import (
    label_classes_section,
    label_errors_section,
    labels_section,
    segmentation_headlines,
)
from .parts import Chart, Headline, Section

NEWEST = 1  # format of details.json that is known
AGAIN = 'write it anew with tools/test.py CONFIG CHECKPOINT --details'


def headlines(details: Mapping[str, Any]) -> list[Headline]:
    """The numbers that stand first: AP and AP50 of boxes and masks, or mIoU, mAcc, aAcc and boundary IoU.

    Args:
        details: content of `evaluation/details.json`.

    Raises:
        ValueError: it is none, or of a newer version.
    """
    found = _made(_headlines, details)
    assert isinstance(found, list)
    return found


def evaluation_sections(details: Mapping[str, Any]) -> list[Section]:
    """All chapters: for each of boxes and masks, or for label maps, an overview, the classes and the errors.

    Args:
        details: content of `evaluation/details.json`.

    Raises:
        ValueError: it is none, or of a newer version.
    """
    return _made(_sections, details)


def _headlines(details: Mapping[str, Any]) -> list[Headline]:
    return segmentation_headlines(details) if 'labels' in details['kinds'] else detection_headlines(details)


def _sections(details: Mapping[str, Any]) -> list[Section]:
    found = []
    for kind in details['kinds']:
        made = (labels_section, label_classes_section, label_errors_section) if kind == 'labels' else (
            overview_section, classes_section, errors_section)
        found += [make(details) if kind == 'labels' else make(details, kind) for make in made]
    for part in (part for section in found for part in section.parts):
        if isinstance(part, Chart):
            json.dumps(part.figure, allow_nan=False)  # what is no number would end the page's script
    return found


def _made(make: Any, details: Any) -> Any:
    """What `make` makes of the details; a file that is cut or of another form is told as such."""
    if not isinstance(details, Mapping):
        raise ValueError(f'details.json holds a {type(details).__name__} where names with values belong; {AGAIN}')
    version = details.get('format')
    if not isinstance(version, int) or version > NEWEST:
        raise ValueError(f'details.json is of format {version!r}, and this version reads up to {NEWEST}; read it with '
                         f'the version that wrote it, or {AGAIN}')
    kinds, known = details.get('kinds'), (*ONE, 'labels')
    if not isinstance(kinds, list) or not kinds or not all(kind in known for kind in kinds):
        raise ValueError(f'details.json has the kinds {kinds!r}, and only {", ".join(known)} are known; {AGAIN}')
    try:
        return make(details)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        told = f'{type(error).__name__}: {error}'[:200]
        raise ValueError(f'details.json is not of the form that is known ({told}); {AGAIN}') from error
