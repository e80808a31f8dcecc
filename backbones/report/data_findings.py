"""What is known of a run's data: what its preflight found and logged, else a short look at the files now."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .parts import Note, Part, Section, Table
from .run_folder import Run

SECONDS = 40  # at most for a look at the data
SAMPLE = 200  # pictures of a split that are opened for it
HEAD = 1 << 20  # bytes of a log in which a preflight stands
LINE = re.compile(r' - (?P<level>WARNING|INFO) - (?P<text>.*)$')
TOOK = re.compile(r'preflight took [\d.]+ s, (\d+) warnings')


def data_section(run: Run, seconds: float = SECONDS) -> Section:
    """What was found when the training began; where nothing was written down, what a look at the files now finds."""
    parts = list(_of_preflight(run))
    if not parts:
        parts = list(_of_now(run, seconds))
    return Section('data', 'Data', parts)


def _of_preflight(run: Run) -> Iterator[Part]:
    """What the log of the latest training that had a preflight says."""
    for start in run.starts[::-1]:
        for file in sorted(start.glob('*.log')):
            found, warnings, done = [], 0, False
            with contextlib.suppress(OSError), file.open('rb') as content:
                for line in content.read(HEAD).decode('utf-8', 'replace').splitlines():
                    if not (match := LINE.search(line)):
                        continue
                    if match['level'] == 'WARNING' and match['text'].startswith('preflight: '):
                        found.append(match['text'].removeprefix('preflight: '))
                    elif took := TOOK.match(match['text']):
                        warnings, done = int(took[1]), True
            if done and not warnings and not found:
                yield Note(f'The preflight of the training ({start.name}) found nothing wrong with config and data.')
            elif done or found:
                yield Note(f'The preflight of the training ({start.name}) found, in config and data:', 'warning')
                yield from (Note(text[:1000], 'warning') for text in found)
            if done or found:
                yield Note('All checks, with pictures of the samples:', command=_preflight(run))
                return


def _preflight(run: Run) -> str:
    return f'python tools/preflight.py {run.config_path()} --html preflight.html'


def _of_now(run: Run, seconds: float) -> Iterator[Part]:
    """A look at the files that the config names, in a process of its own that may take so long."""
    nothing = 'The log of this run has no preflight, so what its data were like was not written down'
    if run.config is None:
        yield Note(f'{nothing}, and there is no config that names them.', command='python tools/check_data.py FOLDER')
        return
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'backbones.report.look_at_data', str(SAMPLE), str(run.record.get('folder', ''))],
            input=json.dumps(run.config).encode(), capture_output=True, timeout=seconds, check=True)
        outcomes = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        yield Note(f'{nothing}, and a look at them now took longer than {seconds:.0f} s.', command=_preflight(run))
        return
    except (OSError, ValueError, TypeError, subprocess.CalledProcessError):
        yield Note(f'{nothing}, and they cannot be looked at now.', command=_preflight(run))
        return
    if not outcomes:
        yield Note(f'{nothing}, and the files that its config names are not here.', command=_preflight(run))
        return
    yield Note(f'{nothing}. This is what the files are like now ({SAMPLE} pictures of each split were opened).')
    yield from _outcomes(outcomes)


def _outcomes(outcomes: Sequence[dict[str, Any]]) -> Iterator[Part]:
    rows = [[one['name'], one['skipped'] or one['summary']] for one in outcomes if one['skipped'] or one['summary']]
    if rows:
        yield Table('Data now', ['Check', 'Facts'], rows, ['', ''])
    found = [[finding['severity'], one['name'], finding['message'], finding['remedy'], finding['file'] or '']
             for one in outcomes for finding in one['findings']]
    if found:
        yield Table('Found in the data', ['Severity', 'Check', 'What', 'What to do', 'File'], found, [''] * 5)
    else:
        yield Note('Nothing wrong was found.')


def here(config: dict[str, Any]) -> list[str]:
    """The files and folders of a config's data sets that are on this machine."""
    from mmengine.config import Config

    from backbones.preflight.data import splits_of

    coco, maps, _ = splits_of(Config(config))
    places = [split.file for split, _ in coco] + [split.labels for split, _ in maps]
    return [place for place in places if place and Path(place).exists()]
