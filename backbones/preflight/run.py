"""All checks of a config in order: the config alone, its data, the built model and schedule, then a rehearsal."""

from __future__ import annotations

import contextlib
import copy
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from backbones.data_check.looking import Looker
from backbones.data_check.remembered import memory_file
from backbones.findings import Outcome, finding_of, run_check
from backbones.preflight.groups import draw_groups
from backbones.preflight.loader import check_loader
from backbones.preflight.quick import QUICK_SAMPLE, data_outcomes, quick_outcomes
from backbones.preflight.rehearsal import check_rehearsal
from backbones.preflight.report import Report
from backbones.preflight.schedule import draw_schedule
from backbones.preflight.truth import check_truth
from backbones.runner import build_runner
from backbones.training.batch import check_built
from backbones.training.compose import Composed, compose_training
from backbones.weights.load import local_file
from backbones.weights.sources import is_url

if TYPE_CHECKING:
    from PIL.Image import Image

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
    report.outcomes.append(run_check('config', _compose, config, settings, composed))
    if composed:
        cfg = composed[0].cfg
        report.text = cfg.pretty_text if settings.pictures else ''  # for the page; takes a second
        looker = Looker(settings.workers, memory_file())
        report.outcomes += data_outcomes(cfg, looker, settings.looked_into)
        with tempfile.TemporaryDirectory(prefix='preflight-') as folder:
            _check_built(composed[0], Path(folder), settings, report, pictures)
    report.seconds = time.perf_counter() - start
    return report, pictures


def _compose(config: str | Path, settings: Settings, composed: list[Composed]) -> Outcome:
    """What the config alone shows."""
    made = compose_training(
        config, None, settings.options, settings.launcher, settings.total_batch, settings.precision)
    if made.cfg.get('load_from') and not is_url(made.cfg.load_from):
        local_file(made.cfg.load_from)
    composed.append(made)
    return Outcome('config', str(made.plan), details=[note for note in made.notes if note != str(made.plan)])


def _check_built(
    composed: Composed, folder: Path, settings: Settings, report: Report, pictures: Pictures
) -> None:
    """The checks that need the Runner; the pictures of the page."""
    built: list[Runner] = []
    report.outcomes.append(run_check('model and data sets', _build, composed, folder, built))
    if not built:
        return
    runner = built[0]
    with _quiet():
        report.outcomes += quick_outcomes(runner)
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
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])  # the backends would write the config to the folder
    with _quiet():
        runner = build_runner(cfg, records=False)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    notes = check_built(composed.plan, model, runner.train_loop.dataloader, composed.keeps_total)
    built.append(runner)
    parts = [type(getattr(model, name)).__name__ for name in ('backbone', 'neck') if getattr(model, name, None)]
    images = len(runner.train_loop.dataloader.dataset)
    return Outcome(
        'model and data sets', f'{type(model).__name__} with {" and ".join(parts)}, '
        f'{sum(value.numel() for value in model.parameters()) / 1e6:.1f}M parameters; {images:,} training images',
        details=notes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what pycocotools and others print from the page."""
    with contextlib.redirect_stdout(io.StringIO()):
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
