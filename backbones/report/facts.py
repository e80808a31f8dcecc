"""What a run was and how it ended: the summary's numbers and remarks, the environment, the data, the evaluations."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from backbones.data.files import shown
from backbones.evaluation.compare_files import locate
from backbones.evaluation.details import digest_of

from .curves import Logs, epoch_at
from .parts import Facts, Headline, Note, Part, Section, Table
from .run_folder import EVALUATE, Run, planned, saved_at

DETECTION = (('boxes', 'Box AP', 'AP'), ('boxes', 'Box AP50', 'AP50'), ('masks', 'Mask AP', 'AP'),
             ('masks', 'Mask AP50', 'AP50'), ('boxes', 'Box AR@100', 'AR@100'), ('boxes', 'Box F1', 'f1'))
SEGMENTATION = (('labels', 'mIoU', 'mIoU'), ('labels', 'mAcc', 'mAcc'), ('labels', 'aAcc', 'aAcc'),
                ('labels', 'mDice', 'mDice'), ('labels', 'Boundary mIoU', 'boundary_mIoU'))
OF_METRICS = {'bbox_mAP': 'Box AP', 'bbox_mAP_50': 'Box AP50', 'segm_mAP': 'Mask AP', 'segm_mAP_50': 'Mask AP50',
              'mIoU': 'mIoU', 'mAcc': 'mAcc', 'aAcc': 'aAcc', 'mDice': 'mDice'}
WORDS = dict(tta='Test-time augmentation', nms='NMS', scale='Input size')
FEWEST = 10  # images for an interval
LARGEST_HASHED = 2 << 30  # bytes of an annotation file that is read again


@dataclass(frozen=True)
class KeyedHeadline(Headline):
    """A number of the summary that knows where it comes from.

    Attributes:
        kind: 'boxes', 'masks' or 'labels'; '' of `metrics.json`.
        key: its name there.
    """

    kind: str = ''
    key: str = ''


def headlines(run: Run) -> list[KeyedHeadline]:
    """The numbers of the summary: with intervals of the evaluation in detail, else those of `metrics.json`."""
    if run.details is not None:
        found = [one for which in DETECTION + SEGMENTATION if (one := _headline(run.details, *which))]
        if found:
            return found
    metrics = _metrics(run.evaluations[-1][1]) if run.evaluations else {}
    return [KeyedHeadline(title, _number(metrics[name], _digits(name)), note='no interval', key=name)
            for name, title in OF_METRICS.items() if name in metrics]


def _headline(details: Mapping[str, Any], kind: str, title: str, key: str) -> KeyedHeadline | None:
    part = details.get(kind)
    intervals = part.get('intervals') if isinstance(part, Mapping) else None
    if isinstance(intervals, Mapping) and kind == 'labels':
        intervals = intervals.get('summary')
    one = intervals.get(key) if isinstance(intervals, Mapping) else None
    if not isinstance(one, Mapping):
        return None
    digits = 2 if kind == 'labels' else 3
    unit = '%' if kind == 'labels' else ''
    images = one.get('images')
    low, high = one.get('low'), one.get('high')
    interval = '' if low is None or high is None else f'{low:.{digits}f} to {high:.{digits}f}'
    note = f'{images:,} image{"" if images == 1 else "s"}' if isinstance(images, int) else ''
    if not interval and one.get('value') is not None:
        note += ', no interval'
    return KeyedHeadline(title, _number(one.get('value'), digits, unit), interval, note, kind, key)


def _metrics(content: Mapping[str, Any]) -> dict[str, float]:
    metrics = content.get('metrics')
    return {str(name).split('/')[-1]: value for name, value in metrics.items()
            if isinstance(value, int | float)} if isinstance(metrics, Mapping) else {}


def _digits(name: str) -> int:
    return 2 if name in ('mIoU', 'mAcc', 'aAcc', 'mDice') else 3


def _number(value: Any, digits: int, unit: str = '') -> str:
    good = isinstance(value, int | float) and math.isfinite(value) and value != -1
    return f'{value:.{digits}f}{" " + unit if unit else ""}' if good else 'not defined'


# --- summary ------------------------------------------------------------------------------------------------------


def summary(run: Run, logs: Logs) -> list[Part]:
    """What stands below the numbers: how the run ended, what is to be minded, how it was evaluated."""
    parts: list[Part] = [*_state(run, logs), *run.notes, *_about_evaluation(run)]
    if run.details is not None:
        parts.append(Facts(protocol_rows(run.details), 'Evaluated'))
    return parts


def protocol_rows(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How an evaluation was done, in words."""
    protocol, data = details.get('protocol') or {}, details.get('data') or {}
    rows = [('Checkpoint', str(details.get('checkpoint', ''))), ('Written', in_utc(details.get('written', ''))),
            ('Data', f'{data.get("images", "?"):,} images of '
                     f'{data.get("annotation_file") or data.get("label_folder") or data.get("image_folder") or "?"}'
             if isinstance(data.get('images'), int) else str(data.get('annotation_file', '?')))]
    rows += [(WORDS.get(name, str(name).replace('_', ' ').capitalize()),
              _tiles(value) if name == 'tiles' else _plainly(value))
             for name, value in protocol.items() if name != 'unit']
    for kind in details.get('kinds', ()):
        scorer = (details.get(kind) or {}).get('protocol', {}).get('scorer')
        if scorer and ('Scorer', scorer) not in rows:
            rows.append(('Scorer', str(scorer)))
    rows.append(('Intervals', f'95 %, {details.get("resamplings", "?")} resamplings of the images'))
    return rows


def in_utc(written: Any) -> str:
    """A time in the form of the page's head, such as '2026-11-22 09:57 UTC'; what is none as it is."""
    try:
        time = datetime.fromisoformat(str(written))
    except ValueError:
        return str(written)
    return f'{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC' if time.tzinfo else str(written)


def _tiles(value: Any) -> str:
    from backbones.evaluation.tiles import tiles_in_words

    try:
        return tiles_in_words(value).removeprefix('tiles ')
    except (TypeError, KeyError, ValueError):  # of another version
        return _plainly(value)


def _plainly(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list | tuple):
        sizes = value and all(isinstance(one, list | tuple) and len(one) == 2 for one in value)
        return ', '.join(' x '.join(map(str, one)) if sizes else _plainly(one) for one in value)
    if isinstance(value, Mapping):
        if value.keys() == {'type', 'iou_threshold'}:  # of NMS
            return f'{value["type"]} at IoU {_plainly(value["iou_threshold"])}'
        return ', '.join(f'{str(name).replace("_", " ")} {_plainly(one)}' for name, one in value.items())
    return str(value)


def _state(run: Run, logs: Logs) -> Iterator[Note]:
    """How the run ended, a sentence; nothing for one that reached its end."""
    where = _progress(run, logs)
    if run.holder is not None:
        pid, host = run.holder.get('pid', '?'), run.holder.get('host', '?')
        if run.alive:
            yield Note(f'The run still goes on (process {pid} on {host}){where}; this page shows what there is so far.')
        else:
            yield Note(f'The run was killed: its lock (process {pid} on {host}) was left behind{where}.', 'warning',
                       f'python tools/train.py {run.config_path()} --work-dir {run.folder} --resume auto')
    elif run.ended is not None:
        reason = ' '.join(str(run.ended.get('reason', 'no reason was noted')).split())
        yield Note(f'The run ended before its time (exit code {run.ended.get("code", "?")}): {reason[:500]}', 'warning')
    elif logs.training and finished(run, logs) is False:
        yield Note(f'The run did not reach its end{where}, and left no word why: it was interrupted or failed.',
                   'warning')


def _progress(run: Run, logs: Logs) -> str:
    plan = planned(run.config)
    if not logs.training:
        return ''
    if plan and plan[0] == 'epoch':
        return f' at iteration {logs.last_step:,.0f}, epoch {epoch_at(logs, logs.last_step) or "?"} of {plan[1]:,}'
    return f' at iteration {logs.last_step:,.0f}' + (f' of {plan[1]:,}' if plan else '')


def finished(run: Run, logs: Logs) -> bool | None:
    """Whether the training reached its end; None where it is not known how long it was meant to be."""
    plan = planned(run.config)
    if plan is None:
        return None
    if any(unit == plan[0] and number >= plan[1] for unit, number in saved_at(run.folder)):
        return True
    if plan[0] == 'iteration':
        # the last few iterations may be fewer than the interval of the log
        return logs.last_step + _interval(logs) > plan[1] if logs.training else None
    return None if not logs.epochs else logs.epochs[-1][1] >= plan[1] if not saved_at_all(run) else False


def saved_at_all(run: Run) -> bool:
    """Whether there is any checkpoint."""
    return any(True for _ in saved_at(run.folder))


def _interval(logs: Logs) -> float:
    curve = max(logs.training.values(), key=lambda one: len(one.steps))
    return curve.steps[1] - curve.steps[0] if len(curve.steps) > 1 else 1


def _about_evaluation(run: Run) -> Iterator[Note]:
    """What makes the numbers of the evaluation mean less than they seem to."""
    details = run.details
    if details is None:
        return
    data = details.get('data') or {}
    again = EVALUATE.format(config=run.config_path(), checkpoint=run.checkpoint(), folder=run.folder)
    for text in details.get('remarks') or ():
        yield Note(str(text), 'warning')
    images = data.get('images')
    if unseen := _no_object(details):
        yield Note(unseen, 'warning')
    if isinstance(images, int) and images < FEWEST:
        yield Note(f'The evaluation is of {images} image{"" if images == 1 else "s"}: of fewer than {FEWEST} there are '
                   'no intervals, and another few images may give quite other numbers.', 'warning')
    yield from _other_data(data, again)
    latest = run.evaluations[-1][1] if run.evaluations else {}
    mine, its = details.get('checkpoint'), latest.get('checkpoint')
    if isinstance(its, str) and isinstance(mine, str) and Path(its).name != Path(mine).name:
        yield Note(f'The evaluation in detail is of {Path(mine).name}, and the latest evaluation (metrics.json) of '
                   f'{Path(its).name}.', 'warning', again)


def _no_object(details: Mapping[str, Any]) -> str:
    """A sentence where a detector was scored against annotations without an object of its classes."""
    metrics = (details.get('boxes') or details.get('masks') or {}).get('metrics')
    classes = metrics.get('classes') if isinstance(metrics, Mapping) else None
    counts = [one.get('objects') for one in classes if isinstance(one, Mapping)] if isinstance(classes, list) else []
    return 'The annotations hold no object of these classes, so AP is not defined.' if counts and not any(
        counts) else ''


def _other_data(data: Mapping[str, Any], again: str) -> Iterator[Note]:
    """Whether the annotations are still those of the evaluation."""
    file, digest = data.get('annotation_file'), data.get('annotation_sha256')
    if not isinstance(file, str) or not isinstance(digest, str):
        return
    place = Path(locate(file, str(data.get('folder', ''))))
    try:
        if not place.is_file():
            yield Note(f'The annotation file {shown(file)} is not here any more; whether it is still the one of this '
                       'evaluation cannot be told.')
        elif place.stat().st_size <= LARGEST_HASHED and digest_of(str(place)) != digest:
            yield Note(f'{shown(file)} is another file than at the time of this evaluation: these results are of other '
                       'data than what lies there now.', 'warning', again)
    except OSError as error:
        yield Note(f'The annotation file {shown(file)} cannot be read ({error.strerror}).', 'warning')


# --- chapters -----------------------------------------------------------------------------------------------------


def history(run: Run) -> list[Part]:
    """The kept evaluations as a table; nothing where there are none."""
    names: list[str] = []
    for _, content in run.evaluations:
        names += [name for name in OF_METRICS if name in _metrics(content) and name not in names]
    rows = []
    for file, content in run.evaluations:
        metrics = _metrics(content)
        seconds = content.get('train_seconds')
        rows.append([file, str(content.get('split') or ''), _name(content.get('checkpoint')), content.get('images'),
                     *(_known(metrics.get(name)) for name in names), seconds / 60 if _known(seconds) else None])
    if not rows:
        return []
    formats = ['', '', '', 'd', *('.2f' if _digits(name) == 2 else '.3f' for name in names), '.1f']
    return [Table('Evaluations of this run', ['File', 'Split', 'Checkpoint', 'Images', *(OF_METRICS[name]
                  for name in names), 'Training, minutes'], rows, formats, 'The latest is the last.')]


def _known(value: Any) -> float | None:
    good = isinstance(value, int | float) and math.isfinite(value) and value != -1
    return value if good else None


def _name(path: Any) -> str:
    return Path(path).name if isinstance(path, str) else ''


def environment_section(run: Run) -> Section:
    """Command, machine, versions, git; and each start of the run."""
    record = run.record
    if not record:
        versions = (run.details or {}).get('versions')
        parts: list[Part] = [Note('This run left no record of itself (runs/*.json), as runs of this project do.')]
        if isinstance(versions, Mapping):
            parts.append(Facts(_texts(versions), 'Versions, of the evaluation'))
        return Section('environment', 'Environment', parts)
    command = record.get('command')
    machine = record.get('machine') or {}
    rows = [('Command', shlex.join(map(str, command)) if isinstance(command, list) else str(command)),
            ('Folder', str(record.get('folder', ''))), ('Started', in_utc(record.get('time', ''))),
            ('Seed', f'{record.get("seed")}{", deterministic" if record.get("deterministic") else ""}'),
            ('Processes', f'{record.get("world_size", "?")}, launcher {record.get("launcher", "?")}'),
            ('Machine', str(machine.get('host', '?'))), ('System', str(machine.get('system', '?'))),
            ('CPUs', f'{machine.get("cpus", "?")}, {machine.get("threads", "?")} threads'),
            ('GPUs', _gpus(machine.get('gpus')))]
    rows += [(name.upper() if name == 'cuda' else 'cuDNN', str(machine[name])) for name in ('cuda', 'cudnn')
             if machine.get(name)]
    parts = [Facts(rows, 'Latest start'), *_git(record), *_starts(run)]
    for key, title in (('versions', 'Versions'), ('environment', 'Environment variables')):
        if isinstance(record.get(key), Mapping) and record[key]:
            parts.append(Facts(_texts(record[key]), title))
    return Section('environment', 'Environment', parts)


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), str(one)) for name, one in values.items()]


def _gpus(names: Any) -> str:
    names = list(map(str, names)) if isinstance(names, list) else []
    return ', '.join(f'{names.count(name)} x {name}' for name in dict.fromkeys(names)) or 'none'


def _git(record: Mapping[str, Any]) -> Iterator[Part]:
    states = record.get('git')
    states = {name: one for name, one in states.items() if isinstance(one, Mapping)} if isinstance(
        states, Mapping) else {}
    if not states:
        yield Note('No git state was recorded: the code was no checkout, or git was not there.')
    seen = set()
    for name, state in states.items():
        key = state.get('root'), state.get('commit')
        if key in seen:
            continue
        seen.add(key)
        changed = [str(one) for one in state.get('changed') or ()]
        rows = [('Commit', f'{state.get("commit")} ({state.get("branch")})'), ('Repository', str(state.get('root')))]
        if changed:
            more = f' and {len(changed) - 12} more' if len(changed) > 12 else ''
            rows.append(('Not committed', ', '.join(one.strip() for one in changed[:12]) + more))
        yield Facts(rows, f'Code: {name.replace("_", " ")}')


def _starts(run: Run) -> Sequence[Part]:
    if len(run.records) < 2:
        return []
    rows = [[str(one.get('time', '')), one.get('iteration') if isinstance(one.get('iteration'), int) else None,
             'resumed' if one.get('resumed') else 'new', str(one.get('loaded_from') or ''),
             str((one.get('machine') or {}).get('host', '')), str(one.get('world_size', ''))] for one in run.records]
    return [Table('Starts of this run', ['Time', 'From iteration', 'How', 'Loaded from', 'Machine', 'Processes'], rows,
                  ['', 'd', '', '', '', ''])]
