"""Keys of a config that nobody reads: found before anything is built.

MMEngine reads a config by name and ignores the rest, so that a typo or a name of an older version trains without what
it asks for: published configs with `fp16 = dict(...)` train in fp32.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from backbones.config import OWN_KEYS
from backbones.recipes.arguments import typed_findings
from backbones.recipes.combinations import combination_findings
from backbones.recipes.names import OLD_TOP_LEVEL

# What MMEngine reads besides the arguments of the Runner, and test.py of mmdet and mmseg.
READ_ELSEWHERE = {
    'custom_imports', 'env_variables', 'model_wrapper_cfg', 'compile', 'efficient_conv_bn_eval', 'sync_bn',
    'tta_pipeline',
}
RUNNER_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}


@dataclass(frozen=True)
class Finding:
    """A sentence about a config, and whether a run must not start with it."""

    text: str
    error: bool = True


def check_config(cfg: Config) -> None:
    """Refuse a config with keys that nobody reads, classes that are not there, or settings that contradict.

    Variables that are left over in a file are logged as warnings: nothing was asked for that the run does not do.

    Raises:
        ValueError: with the one finding, or one line for each.
    """
    findings = _findings(cfg)
    errors = [finding.text for finding in findings if finding.error]
    errors += [text for text in combination_findings(cfg) if text not in errors]
    if len(errors) == 1:
        raise ValueError(f'config {cfg.filename}: {errors[0]}')
    if errors:
        text = '\n'.join(f'- {error}' for error in errors)
        raise ValueError(f'config {cfg.filename} has {len(errors)} mistakes:\n{text}')
    for finding in findings:
        print_log(f'config {cfg.filename}: {finding.text}', 'current', logging.WARNING)


def key_findings(cfg: Config) -> list[str]:
    """One sentence for every key of a composed config that nobody reads, and for every class that is not there.

    Nothing is built; classes are looked up in the registries, which imports mmdet or mmseg the first time.
    """
    return [finding.text for finding in _findings(cfg)]


def _findings(cfg: Config) -> list[Finding]:
    """What `key_findings` tells, and how grave it is."""
    sources = list(_sources(cfg))
    return [
        *_top_level(cfg, sources),
        *map(Finding, (*_data_preprocessor(cfg, sources), *_data_root(cfg, sources))),
        *map(Finding, typed_findings(cfg)),
    ]


# --- the top level ------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """What one file of a config assigns and uses at its top level.

    Attributes:
        path: the file.
        assigned: names by the number of the statement that assigns them first.
        values: of the names that it assigns literals to, the last.
        defined: names of what it imports, and of its functions and classes.
        used: names by the number of the last statement that uses them.
        of_bases: names of its fragments that it uses by `_base_.name`.
        opaque: whether it does not show what is used: MMEngine wrote it (a plain list of sorted names), it imports its
            fragments, or it computes their names.
        external: whether it is installed with a toolbox, which may read names that we do not.
    """

    path: Path
    assigned: dict[str, int] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    defined: set[str] = field(default_factory=set)
    used: dict[str, float] = field(default_factory=dict)
    of_bases: set[str] = field(default_factory=set)
    opaque: bool = False
    external: bool = False

    def uses(self, name: str) -> bool:
        """Whether it uses a name after it has assigned it."""
        return self.used.get(name, -1) > self.assigned.get(name, -1)


def _top_level(cfg: Config, sources: list[_Source]) -> list[Finding]:
    """Top-level names that are neither arguments of the Runner, nor ours, nor used while the config is read."""
    known = RUNNER_KEYS | OWN_KEYS | READ_ELSEWHERE
    of_bases = {name for source in sources for name in source.of_bases}
    defined = {name for source in sources for name in source.defined}
    opaque = not sources or any(source.opaque for source in sources)
    findings = []
    for name in cfg:
        here = [source for source in sources if name in source.assigned]
        dead = _unused(name, here)
        if name in known or name in of_bases or name in defined or (here and not dead):
            continue
        findings += _dead_name(name, known, dead, [source for source in here if source not in dead], opaque)
    return findings


def _unused(name: str, sources: list[_Source]) -> list[_Source]:
    """The files that assign a name and do not use it."""
    return [
        source for source in sources
        if name in source.assigned and not source.uses(name) and not source.external
    ]


def _dead_name(
    name: str, known: set[str], dead: list[_Source], using: list[_Source], opaque: bool
) -> list[Finding]:
    """The sentence about a top-level name that has no effect in the files `dead`, but maybe in those `using` it."""
    where = f'{name!r} ({", ".join(source.path.name for source in dead)})' if dead else repr(name)
    near = difflib.get_close_matches(name, sorted(known - READ_ELSEWHERE), 1, 0.9 if opaque else 0.75)
    if using:
        text = (
            f'{where} has no effect: {using[0].path.name} has a variable {name!r}, too, and has used its own value '
            'already; override what it was used for there'
        )
        return [Finding(text)]
    if name in OLD_TOP_LEVEL:
        text = (
            f'{where} is an old name (MMCV 1.x, mmdet 2.x, mmseg 0.x), which MMEngine does not read; '
            f'{OLD_TOP_LEVEL[name]} instead'
        )
        return [Finding(text)]
    if near:
        return [Finding(f'{where} is read by nobody; did you mean {near[0]!r}? Rename it, or remove it')]
    if opaque:
        return []
    text = f'{where} is read by nobody, neither by the Runner of MMEngine nor below in the file; use it, or remove it'
    return [Finding(text, error=not dead)]


def _data_preprocessor(cfg: Config, sources: list[_Source]) -> Iterator[str]:
    """A top-level data preprocessor beside that of the model, which MMEngine then takes (`model.setdefault`)."""
    given, model = cfg.get('data_preprocessor'), cfg.get('model')
    own = model.get('data_preprocessor') if isinstance(model, dict) else None
    if not given or not own or not isinstance(given, dict) or not isinstance(own, dict):
        return
    other = [key for key in given if key not in own or own[key] != given[key]]
    here = [source for source in sources if 'data_preprocessor' in source.assigned]
    dead = _unused('data_preprocessor', [source for source in here if not source.opaque])
    if other and (dead or not here):
        yield (
            f'data_preprocessor ({", ".join(other)}) has no effect: the model has a data_preprocessor of its own, '
            'which MMEngine takes; write it into model.data_preprocessor'
        )


def _data_root(cfg: Config, sources: list[_Source]) -> Iterator[str]:
    """A data_root that no path begins with, unless it is that of a fragment, whose data sets were given other paths."""
    root = cfg.get('data_root')
    places = [cfg.get(f'{split}_{part}') for split in ('train', 'val', 'test') for part in ('dataloader', 'evaluator')]
    if not isinstance(root, str) or not any(places) or _begins(places, root.rstrip('/')):
        return
    here = [source for source in sources if 'data_root' in source.assigned]
    dead = _unused('data_root', [source for source in here if not source.opaque])
    if dead or all(source.values.get('data_root', root) != root for source in here):
        yield (
            f'data_root={root!r} has no effect: no path of the data sets begins with it, because a fragment has used '
            'its own data_root already; give it as --cfg-options data_root=..., or set data_root of each data set'
        )


def _begins(node: Any, start: str) -> bool:
    """Whether any text inside a config node begins so."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list | tuple):
        return any(_begins(child, start) for child in node)
    return isinstance(node, str) and node.startswith(start)


# --- files --------------------------------------------------------------------------------------------------


def _sources(cfg: Config) -> Iterator[_Source]:
    """Read the file of a config and those of its `_base_`, as far as they are there and are Python."""
    waiting = [(cfg.filename, False)] if cfg.filename else []
    seen = set()
    while waiting:
        file, external = waiting.pop()
        path = Path(file)
        if path.resolve() in seen or path.suffix != '.py' or not path.is_file():
            continue
        seen.add(path.resolve())
        source, bases = _read(path, external)
        yield source
        for base in bases:
            waiting.append(_base_path(base, path, external))


def _base_path(base: str, path: Path, external: bool) -> tuple[str, bool]:
    """The file that an entry of `_base_` names, and whether it belongs to an installed toolbox."""
    if '::' in base:
        return Config._get_cfg_path(base, str(path))[0], True
    return str(path.parent / base), external


def _read(path: Path, external: bool) -> tuple[_Source, list[str]]:
    """Read which names a file assigns and uses, and its `_base_`."""
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    source, bases = _Source(path, external=external), []
    source.of_bases |= set(re.findall(r'\{\{\s*_base_\.(\w+)', text))
    for number, statement in enumerate(tree.body):
        if isinstance(statement, ast.Assign) and any(getattr(t, 'id', '') == '_base_' for t in statement.targets):
            try:
                found = ast.literal_eval(statement.value)
            except ValueError:
                source.opaque, found = True, ()
            bases = [found] if isinstance(found, str) else list(found)
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            source.defined |= {(alias.asname or alias.name).split('.')[0] for alias in statement.names}
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            source.defined.add(statement.name)
        elif isinstance(statement, ast.Assign):
            source.values |= {t.id: _literal(statement.value) for t in statement.targets if isinstance(t, ast.Name)}
        compound = hasattr(statement, 'body')  # a loop may assign a name and use it
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    source.used[node.id] = number + (0.5 if compound else 0)
                else:
                    source.assigned.setdefault(node.id, number)
            elif isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') == '_base_':
                source.of_bases.add(node.attr)
    source.opaque |= 'read_base' in source.used or _is_dumped(tree, source)
    return source, bases


def _literal(node: ast.expr) -> Any:
    """The value of a literal; None of anything else."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _is_dumped(tree: ast.Module, source: _Source) -> bool:
    """Whether MMEngine's `Config.dump` wrote it: every name once, in order, and nothing but values."""
    names = list(source.assigned)
    plain = all(isinstance(statement, ast.Assign) for statement in tree.body)
    return plain and len(names) >= 10 and names == sorted(names) and not set(names) & set(source.used)
