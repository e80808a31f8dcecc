"""In what two configs differ, and which shipped config a run derives from.

A config of a run is data: it is read, never executed. What is composed is our own file in `configs/`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backbones
from backbones.data.files import shown

from .parts import Facts, Note, Part, Section, Table
from .run_folder import Run

CONFIGS = Path(backbones.__file__).resolve().parent.parent / 'configs'
LONGEST_VALUE = 300  # characters of a value in the table
MISSING = '(not set)'
OF_THE_TOOL = re.compile(  # what a training sets, not the user: where it ran, its trackers, its guarded readers
    r'(work_dir|launcher|resume|env_cfg\.dist_cfg\.backend|visualizer\.vis_backends(\[\d+\])?(\..*)?)$')
HARDENED = ('backbones.{}', 'backbones.Guarded{}')  # names that a training puts in the place of others
OF_MASKS = ('LoadAnnotations', 'backbones.LoadInstanceAnnotations')
OF_A_RUN = ('work_dir', 'launcher')  # which say where a run was, not what it was


@dataclass(frozen=True)
class Code:
    """A long text to be folded on the page.

    Attributes:
        title: of the fold.
        text: shown as it is.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Difference:
    """A key in which two configs differ; None where it is not set."""

    key: str
    first: str | None
    second: str | None


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """The dotted keys in which two configs differ, in the order of the second, then of the first."""
    return list(_walk(first, second, ''))


def _walk(first: Any, second: Any, key: str) -> Iterator[Difference]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in [*second, *(name for name in first if name not in second)]:
            place = f'{key}.{name}' if key else str(name)
            if name not in first:
                yield Difference(place, None, written(second[name]))
            elif name not in second:
                yield Difference(place, written(first[name]), None)
            else:
                yield from _walk(first[name], second[name], place)
    elif _are_lists(first, second) and len(first) == len(second) and any(isinstance(one, Mapping) for one in second):
        for place, (mine, its) in enumerate(zip(first, second, strict=True)):
            yield from _walk(mine, its, f'{key}[{place}]')
    elif not _same(first, second):
        yield Difference(key, written(first), written(second))


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, list | tuple) for value in values)


def _same(first: Any, second: Any) -> bool:
    """Whether two values are one; records keep no tuples, so that lists and tuples count as the same."""
    if _are_lists(first, second):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, bool) != isinstance(second, bool):
        return False
    return first == second or (first != first and second != second)


def written(value: Any) -> str:
    """A value as a config has it, without line ends; long ones are cut."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f'{text[:LONGEST_VALUE]} ... ({len(text):,} characters)'


# --- which base ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A shipped config that a run derives from.

    Attributes:
        path: relative to the project.
        config: composed.
        how: how it was found, a clause.
    """

    path: str
    config: dict[str, Any]
    how: str


def find_base(run: Run) -> Base | Note:
    """The shipped config that a run derives from, or why there is none."""
    if not CONFIGS.is_dir():
        return Note('The shipped configs are not here (configs/ comes with a checkout only), so the whole config is '
                    'shown and not what differs.')
    for path, how in _candidates(run):
        try:
            from backbones.config import read_config
            from backbones.training.run_record import plain

            return Base(str(path.relative_to(CONFIGS.parent)), plain(read_config(path).to_dict()), how)
        except (ValueError, OSError, ImportError) as error:
            return Note(f'The shipped config {path.name} cannot be read here ({str(error)[:200]}), so the whole config '
                        'is shown and not what differs.')
    named = f' ({shown(run.config_name)}.py)' if run.config_name else ''
    return Note(f'No shipped config that this run{named} derives from was found: no path that the run left leads into '
                'configs/, and none there bears its name. The whole config is shown.')


def _candidates(run: Run) -> Iterator[tuple[Path, str]]:
    for given in _paths(run):
        if path := _shipped(given):
            yield path, 'the path that the run left names it'
    by_name = Counter(path.stem for path in CONFIGS.glob('*/*.py'))
    if by_name.get(run.config_name) == 1:
        yield next(CONFIGS.glob(f'*/{_literal(run.config_name)}.py')), 'it bears the name of the run\'s config'
    for given in _paths(run):  # a config of the user's own, which names one shipped config
        bases = [path for name in _bases(run, given) if (path := _shipped(name)) and path.parent.name != '_base_'
                 and CONFIGS / '_base_' not in path.parents]
        if len(bases) == 1:
            yield bases[0], f'{Path(given).name} names it as its base'


def _paths(run: Run) -> list[str]:
    """Paths of configs that the run left behind."""
    command = run.record.get('command')
    words = [word for word in command if isinstance(word, str) and word.endswith('.py')] if isinstance(
        command, list) else []
    words = [word for word in words if 'configs' in Path(word).parts or Path(word).stem == run.config_name]
    named = [one.get('config') for one in (run.details or {}, *(content for _, content in run.evaluations[::-1]))]
    return list(dict.fromkeys([*words, *(one for one in named if isinstance(one, str) and one.endswith('.py'))]))


def _shipped(given: str) -> Path | None:
    """The file of our `configs/` that a path on any machine means."""
    parts = Path(given).parts
    if 'configs' not in parts:
        return None
    below = Path(*parts[len(parts) - parts[::-1].index('configs'):] or ('',))
    path = (CONFIGS / below).resolve()
    return path if path.is_relative_to(CONFIGS) and path.is_file() and path.suffix == '.py' else None


def _bases(run: Run, given: str) -> list[str]:
    """What the user's config file, if it is still here, lists in `_base_`; only its text is read."""
    folder = run.record.get('folder')
    places = [Path(given), *([Path(folder, given)] if isinstance(folder, str) else [])]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        return []
    text = file.read_bytes()[:1 << 20].decode('utf-8', 'replace')
    found = re.search(r'^_base_\s*=\s*(\[.*?\]|\(.*?\)|[\'"].*?[\'"])', text, re.M | re.S)
    names = re.findall(r'[\'"]([^\'"]+\.py)[\'"]', found[1]) if found else []
    return [str((file.parent / name).resolve()) for name in names]


def _literal(name: str) -> str:
    return re.sub(r'([\[\]*?])', r'[\1]', name)


# --- the chapter --------------------------------------------------------------------------------------------------


def config_section(run: Run, other: Run | None = None) -> Section:
    """What differs from the base, what differs from the other run, and the whole config."""
    parts: list[Part | Code] = []
    if other is not None:
        parts += _against(run, other)
    if run.config is None:
        if not run.config_text:
            parts.append(Note('This run left no config that can be read.'))
    else:
        parts += _against_base(run)
    if run.config_text:
        parts.append(Code('The whole config, as it ran', run.config_text))
    return Section('config', 'Config', parts)


def _against_base(run: Run) -> list[Part]:
    base = find_base(run)
    if isinstance(base, Note):
        return [base]
    found = differences(base.config, run.config)
    caption = f'Base: {base.path} ({base.how}), as it is in this checkout.'
    commit = (run.record.get('git') or {}).get('backbones') or {}
    if isinstance(commit, Mapping) and commit.get('commit'):
        caption += f' The run was of commit {str(commit["commit"])[:10]}.'
    changed = [one for one in found if not set_by_tool(one)]
    parts: list[Part] = [_table('Changed from the base', changed, ('Base', 'This run'), caption)] if changed else [
        Note(f'The run is {base.path} as it is shipped; nothing was changed but what the tool sets.')]
    rows = [(one.key, f'{_or_missing(one.first)} → {_or_missing(one.second)}') for one in found if set_by_tool(one)]
    return [*parts, Facts(rows, 'Set by the tool', folded=True)] if rows else parts


def set_by_tool(one: Difference) -> bool:
    """Whether a difference is of what the training sets by itself."""
    if OF_THE_TOOL.match(one.key):
        return True
    first, second = (str(value).strip("'") for value in (one.first, one.second))
    return one.key.endswith('.type') and (
        (first, second) == OF_MASKS or second in [form.format(first) for form in HARDENED])


def _against(run: Run, other: Run) -> list[Part]:
    if run.config is None or other.config is None:
        return [Note('The configs of the two runs cannot be held against each other: '
                     f'{(run if run.config is None else other).name} left none that can be read.')]
    found = [one for one in differences(other.config, run.config) if one.key not in OF_A_RUN]
    if not found:
        return [Note(f'{run.name} and {other.name} have the same config.')]
    return [_table(f'Changed from {other.name}', found, (other.name, run.name), 'Keys in which the two runs differ.')]


def _or_missing(value: str | None) -> str:
    return MISSING if value is None else value


def _table(title: str, found: Sequence[Difference], names: Sequence[str], caption: str) -> Table:
    rows = [[one.key, _or_missing(one.first), _or_missing(one.second)] for one in found]
    return Table(title, ['Key', *names], rows, ['', '', ''], caption, shown=30)
