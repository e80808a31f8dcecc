"""The quick part: what is known in seconds of data and a built Runner; tools/train.py does it before each run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from backbones.data.coco_files import cache_folder
from backbones.data_check.looking import Looker
from backbones.data_check.remembered import memory_file
from backbones.files import write_json
from backbones.findings import Finding, Outcome, by_kind, finding_of, run_check
from backbones.preflight.backbone import check_settings, check_trainable
from backbones.preflight.data import check_data, state_of_data
from backbones.preflight.groups import check_groups
from backbones.preflight.inputs import check_inputs
from backbones.preflight.model import check_class_counts, check_maps
from backbones.preflight.precision import check_precision
from backbones.preflight.recipe import check_recipe
from backbones.preflight.schedule import check_intervals, check_schedule
from backbones.preflight.weights import check_weights

WEIGHTS = 'pretrained weights'
SHOWN = 5  # findings of a kind that a training's log names
QUICK_SAMPLE = 500  # pictures or label maps of a split that the quick part looks into
# What is asked of a built Runner in seconds.
QUICK: tuple[tuple[str, Callable[[Runner], Outcome]], ...] = (
    ('classes', check_class_counts), ('strides and channels', check_maps), (WEIGHTS, check_weights),
    ('input', check_inputs), ('model settings', check_settings), ('trainable parameters', check_trainable),
    ('parameter groups', check_groups), ('schedule', check_schedule), ('intervals', check_intervals),
    ('recipe', check_recipe), ('precision', check_precision),
)


def data_outcomes(cfg: Config, looker: Looker, sample: int | None) -> list[Outcome]:
    """The checks of the data; of one that cannot be done at all the finding."""
    try:
        return check_data(cfg, looker, sample)
    except Exception as error:  # a config can name anything as data
        return [Outcome('data', findings=[finding_of(error, 'data')])]


def quick_outcomes(runner: Runner, without: Collection[str] = ()) -> list[Outcome]:
    """The quick checks of a built Runner, but for those `without`."""
    return [run_check(name, check, runner) for name, check in QUICK if name not in without]


def check_before_training(runner: Runner, resumes: bool = False) -> None:
    """Do the quick part for a training that is about to start, and log what was found.

    What is odd about the data is a warning here: data that cannot be trained on are refused where they are read.

    Args:
        runner: built.
        resumes: the weights come from a checkpoint of the run.

    Raises:
        ValueError: there is an error; with the first one, and how many there are.
    """
    start = time.perf_counter()
    outcomes = quick_outcomes(runner, (WEIGHTS,) if resumes else ())
    errors = [finding for outcome in outcomes for finding in outcome.findings if finding.severity == 'error']
    odd = [finding for outcome in outcomes for finding in outcome.findings if finding.severity == 'warning']
    odd += _oddities_of_data(runner.cfg) if is_main_process() else []
    for line in _lines(odd):
        runner.logger.warning(line)
    hint = f'`python tools/preflight.py {runner.cfg.filename}` shows all'
    if errors:
        more = f' ({len(errors) - 1} more: {hint})' if len(errors) > 1 else ''
        raise ValueError(f'{_sentence(errors[0])}{more}')
    seconds = time.perf_counter() - start
    runner.logger.info(f'preflight took {seconds:.1f} s, {len(odd)} warnings; {hint}, and rehearses a step')


def _oddities_of_data(cfg: Config) -> list[Finding]:
    """Errors and warnings of the data; files that are as they were at the last start are not looked at again."""
    file = None
    with contextlib.suppress(Exception):  # a config can name anything as data, and a file may be damaged
        file = cache_folder().parent / 'preflight' / f'{state_of_data(cfg)}.json'
        return [Finding(**known) for known in json.loads(file.read_text(encoding='utf-8'))]
    outcomes = data_outcomes(cfg, Looker(None, memory_file(), progress=False), QUICK_SAMPLE)
    odd = [finding for outcome in outcomes for finding in outcome.findings if finding.severity != 'note']
    if file is not None:
        with contextlib.suppress(OSError):  # a home that cannot be written to: looked at again next time
            write_json(file, [dict(finding.as_dict(), kind=finding.kind) for finding in odd])
    return odd


def _lines(findings: list[Finding]) -> list[str]:
    """One line per finding; of many of a kind the first, and how many there are."""
    lines = []
    for (_, kind), found in by_kind(findings).items():
        lines += [f'preflight: {_sentence(finding)}' for finding in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f'preflight: {kind}: {len(found) - SHOWN} more')
    return lines


def _sentence(finding: Finding) -> str:
    place = f'{finding.file}: ' if finding.file and finding.file not in finding.message else ''
    return f'{place}{finding.message}' + (f'; {finding.remedy}' if finding.remedy else '')
