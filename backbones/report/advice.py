"""The first advice of a page in its summary, and what comes before any: a training that was cut short."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .charts_advice import Advice
from .curves import Logs
from .facts import finished
from .parts import Gallery, Note, Part, Section
from .run_folder import Run, planned

WARNED = re.compile(r'the schedule ends after the training: step (\d+) against (\d+)')  # of the preflight
LARGEST_LOG = 64 << 20  # bytes that are looked through
FIRST = 'Train to the end of the schedule first.'


def cut_short(run: Run, logs: Logs) -> Note | None:
    """A warning where the training was meant to end before its learning rate had come to its end."""
    ends = _of_config(run.config) or _of_log(run)
    if ends is None:
        return None
    unit, end, stop = ends
    return Note(f'The schedule of the learning rate ends at {unit} {end:,}, and the training at {stop:,}: the '
                'learning rate had not come to its end, and a whole training may give quite other numbers.', 'warning')


def with_advice(sections: Sequence[Section], run: Run, logs: Logs) -> tuple[list[Section], Note | None]:
    """The chapters, their advice as it fits this run; and the first advice, for the summary, with its chapter."""
    early = cut_short(run, logs) is not None or bool(logs.training and finished(run, logs) is False)
    gallery = any(isinstance(part, Gallery) for section in sections for part in section.parts)
    result = [replace(section, parts=[_fitting(part, early, gallery) if isinstance(part, Advice) else part
                                      for part in section.parts]) for section in sections]
    known = [(part, section) for section in result for part in section.parts if isinstance(part, Advice)]
    known.sort(key=lambda one: not one[0].fired)  # stable: the first that is beyond noise, else the first
    if not known:
        return result, None
    note, section = known[0]
    return result, replace(note, link=section.id, link_text=section.title)


def _fitting(note: Advice, early: bool, gallery: bool) -> Advice:
    text = note.text if gallery else note.text.replace(' in the gallery', '')
    return replace(note, text=f'{FIRST} {text}' if early else text)


def _of_config(config: Mapping | None) -> tuple[str, int, int] | None:
    """Unit, end of the schedule and of the training, where one is after the other and both count in one unit."""
    plan = planned(config)
    schedule = (config or {}).get('param_scheduler')
    schedule = [schedule] if isinstance(schedule, Mapping) else schedule
    if plan is None or not isinstance(schedule, list | tuple):
        return None
    unit, stop = plan
    ends = [one['end'] for one in schedule if isinstance(one, Mapping) and isinstance(one.get('end'), int)
            and one.get('by_epoch', True) is (unit == 'epoch')]
    return (unit, max(ends), stop) if ends and max(ends) > stop else None


def _of_log(run: Run) -> tuple[str, int, int] | None:
    """The same, of the warning that the training itself gave at its latest start that has one."""
    for start in run.starts[-1:]:
        for file in sorted(start.glob('*.log')):
            try:
                if file.stat().st_size > LARGEST_LOG:
                    continue
                found = WARNED.search(' '.join(file.read_text('utf-8', 'replace').split()))
            except OSError:
                continue
            if found:
                return 'step', int(found[1]), int(found[2])
    return None


def placed(below: Sequence[Part], note: Note | None) -> list[Part]:
    """What the summary says, with the advice after its other sentences."""
    place = next((n for n, part in enumerate(below) if not isinstance(part, Note)), len(below))
    return [*below[:place], *([note] if note else []), *below[place:]]
