"""All checks of a config in order: the config alone, its data, the built model and schedule, then a rehearsal."""

from __future__ import annotations

import contextlib
import copy
import io
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from backbones.data.coco_files import parsed_once
from backbones.data_check.looking import Looker
from backbones.data_check.remembered import memory_file
from backbones.findings import Outcome, finding_of, run_check
from backbones.preflight.config_file import assigned_twice
from backbones.preflight.groups import draw_groups
from backbones.preflight.loader import check_loader
from backbones.preflight.quick import QUICK_SAMPLE, data_outcomes, quick_outcomes
from backbones.preflight.rehearsal import check_rehearsal
from backbones.preflight.repeats import BUILT, LEFT_OUT, unreadable, without_repeats
from backbones.preflight.report import Report
from backbones.preflight.schedule import draw_schedule
from backbones.preflight.truth import check_truth
from backbones.runner import build_runner
from backbones.training.batch import check_built
from backbones.training.compose import Composed, compose_training

if TYPE_CHECKING:
    from PIL.Image import Image

PRECISION = 'precision'  # the check of it, in `QUICK`, too


@dataclass(frozen=True)
class Settings:
    """How a preflight is done; the first four as for a training.

    Args:
        options: dotted config keys to override.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        total_batch: images per optimiser step where they shall be others than the config's.
        precision: in place of the config's.
        quick: leave out the rehearsal, the loader's speed and the ground truth as prediction.
        seconds: at most this long for the rehearsal.
        sample: pictures or label maps of each split that are looked into; None: all, `QUICK_SAMPLE` in the quick part.
        workers: processes that read them; None takes one per core.
        pictures: whether to make the pictures of the page, too.
    """

    options: dict[str, Any] | None = None
    launcher: str = 'none'
    total_batch: int | None = None
    precision: str | None = None
    quick: bool = False
    seconds: float = 60.0
    sample: int | None = None
    workers: int | None = None
    pictures: bool = False

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f'--seconds {self.seconds}: give a number above 0')
        if self.sample is not None and self.sample < 1:
            raise ValueError(f'--sample {self.sample}: give a number of 1 or more, or leave it out')

    @property
    def looked_into(self) -> int | None:
        """Pictures of each split; None for all."""
        return self.sample if self.sample is not None or not self.quick else QUICK_SAMPLE


@dataclass
class Pictures:
    """What the page shows: training samples with captions; title, SVG and caption of each plot."""

    samples: list[tuple[Image, str]] = field(default_factory=list)
    plots: list[tuple[str, str, str]] = field(default_factory=list)


def preflight(config: str | Path, settings: Settings) -> tuple[Report, Pictures]:
    """Check everything about the training of `config`; whatever is wrong becomes a finding.

    Nothing is written but what was looked at in pictures, in the user's folder for caches.
    """
    start = time.perf_counter()
    report = Report(str(config), _machine(), 'the quick part' if settings.quick else 'all checks')
    pictures = Pictures()
    composed: list[Composed] = []
    report.outcomes += _read_config(config, settings, composed)
    if composed:
        with parsed_once():
            _check_composed(composed[0], settings, report, pictures)
    report.seconds = time.perf_counter() - start
    return report, pictures


def _check_composed(composed: Composed, settings: Settings, report: Report, pictures: Pictures) -> None:
    """The checks of the data, then those of what is built on them."""
    report.text = composed.cfg.pretty_text if settings.pictures else ''  # for the page; takes a second
    looker = Looker(settings.workers, memory_file())
    report.outcomes += data_outcomes(composed.cfg, looker, settings.looked_into)
    if unreadable(report.outcomes):
        report.outcomes.append(Outcome(BUILT, skipped=LEFT_OUT))
        return
    with tempfile.TemporaryDirectory(prefix='preflight-') as folder:
        _check_built(composed, Path(folder), settings, report, pictures)
    without_repeats(report.outcomes)


def _read_config(config: str | Path, settings: Settings, composed: list[Composed]) -> list[Outcome]:
    """Compose the config; in fp32 where this machine does not compute in its precision.

    A recipe for GPUs can so be checked on a machine without one: the precision is one finding, the rest is looked at.
    """
    outcome = run_check('config', _compose, config, settings, composed)
    outcome.findings += assigned_twice(config)
    if composed:
        return [outcome]
    again = run_check('config', _compose, config, replace(settings, precision='fp32'), composed)
    if not composed:
        return [outcome]
    again.details = [line for line in again.details if not line.startswith('the run computes in fp32')]
    finding = outcome.findings[0]
    remedy = finding.remedy
    if 'needs a GPU' in finding.message:
        remedy = f'start it on a machine with a GPU, as it is; or {remedy}'
    finding = replace(finding, kind='precision of this machine', remedy=remedy,
                      message=f'{finding.message} (all other checks were done in fp32)')
    return [again, Outcome(PRECISION, 'not to be had here: all other checks were done in fp32', [finding])]


def _compose(config: str | Path, settings: Settings, composed: list[Composed]) -> Outcome:
    """What the config alone shows."""
    try:
        made = compose_training(
            config, None, settings.options, settings.launcher, settings.total_batch, settings.precision)
    except SystemExit as error:
        raise ValueError(f'config {config} ends the process ({error!r}); let it state settings only') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'config {config} is no text in UTF-8 ({error}); get or write it again') from error
    composed.append(made)
    return Outcome('config', str(made.plan), details=[note for note in made.notes if note != str(made.plan)])


def _check_built(
    composed: Composed, folder: Path, settings: Settings, report: Report, pictures: Pictures
) -> None:
    """The checks that need the Runner; the pictures of the page."""
    built: list[Runner] = []
    report.outcomes.append(run_check(BUILT, _build, composed, folder, built))
    if not built:
        return
    runner = built[0]
    with _quiet():
        # where it had to be another precision than the config's, that is said
        report.outcomes += quick_outcomes(runner, {one.name for one in report.outcomes} & {PRECISION})
        if not settings.quick:
            rehearsal = run_check('rehearsal', lambda: check_rehearsal(runner, seconds=settings.seconds))
            step = rehearsal.figures.get('step_seconds')
            report.outcomes += [
                rehearsal, run_check('data loader', check_loader, runner, step),
                run_check('ground truth as prediction', check_truth, runner)]
        if settings.pictures:
            _take_pictures(runner, report, pictures)


def _build(composed: Composed, folder: Path, built: list[Runner]) -> Outcome:
    """Build the Runner in a folder that is deleted afterwards."""
    cfg = copy.deepcopy(composed.cfg)
    cfg.work_dir, cfg.log_level = str(folder), 'ERROR'
    cfg.experiment_name = folder.name  # MMEngine keeps the scope by it: two runs of a second would share one
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])  # the backends would write the config to the folder
    with _quiet():
        runner = build_runner(cfg, records=False)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    built.append(runner)
    notes, findings = [], []
    try:
        notes = check_built(composed.plan, model, runner.train_loop.dataloader, composed.keeps_total)
    except ValueError as error:  # the batch of this machine does not go with the model or the data; the rest may
        findings.append(finding_of(error, 'batch'))
    parts = [type(getattr(model, name)).__name__ for name in ('backbone', 'neck') if getattr(model, name, None)]
    images = len(runner.train_loop.dataloader.dataset)
    return Outcome(
        BUILT, f'{type(model).__name__} with {" and ".join(parts)}, '
        f'{sum(value.numel() for value in model.parameters()) / 1e6:.1f}M parameters; {images:,} training images',
        findings, notes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what pycocotools and others print, and the toolboxes' warnings of themselves, from the page."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _take_pictures(runner: Runner, report: Report, pictures: Pictures) -> None:
    from backbones.preflight.classes_plot import draw_classes
    from backbones.preflight.samples import training_samples

    figures = {outcome.name: outcome.figures for outcome in report.outcomes}
    for title, draw, given, caption in (
        ('learning rate', draw_schedule, figures.get('schedule'), 'The learning rate of every iteration.'),
        ('parameter groups', draw_groups, figures.get('parameter groups'),
         'Learning rate and weight decay by depth, from the stem to the heads.'),
        ('classes', draw_classes, {name: values for name, values in figures.items() if values},
         'How often each class occurs, by split.'),
    ):
        if given:
            _keep(report, title, lambda draw=draw, given=given: draw(given), lambda svg, title=title, caption=caption: (
                pictures.plots.append((title, svg, caption)) if svg else None))
    _keep(report, 'training samples', lambda: training_samples(runner), pictures.samples.extend)


def _keep(report: Report, name: str, make: Callable[[], Any], keep: Callable[[Any], None]) -> None:
    """Make a picture; one that cannot be made is a finding."""
    try:
        keep(make())
    except Exception as error:
        report.outcomes.append(Outcome(name, findings=[finding_of(error, name, 'warning')]))


def _machine() -> str:
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'no GPU'
    threads = torch.get_num_threads()
    return f'torch {torch.__version__}, {device}, {platform.system()}, {threads} thread{"" if threads == 1 else "s"}'
