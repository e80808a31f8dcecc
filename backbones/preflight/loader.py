"""How many images the training data loader gives, against what the model takes; and where its time goes.

The loader is built anew over the same data set, with the workers of the config, and read for some seconds without a
model. The runner's own loader is not started.
"""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from backbones.data.randomness import SampleIndex
from backbones.findings import Finding, Outcome

from .undisturbed import innermost, shortened, shuffled, undisturbed
from .worst_case import batch_size

TIMED = 8  # samples whose transforms are timed one by one
FEW = 3  # batches in a row that a rate needs
MANY, LONG = 50, 2.0  # batches and seconds that are enough
SLOWER = 0.95  # of the images per second of the model: below it, the model waits for the loader
WAITING = 0.25  # of an iteration that a loader without workers may take


def check_loader(runner: Runner, step_seconds: float | None = None, *, seconds: float = 15.0) -> Outcome:
    """Measure the loader; hold it against the model where that is known.

    Args:
        runner: built by `backbones.runner.build_runner`.
        step_seconds: of an iteration of the model, which takes one batch of the loader: `step_seconds` of the figures
            of the rehearsal. None: only the loader is measured.
        seconds: for the measurement; workers are started and stopped besides.
    """
    outcome, loader = Outcome('data loader'), runner.train_loop.dataloader
    if not hasattr(loader.dataset, '__getitem__'):
        outcome.skipped = 'the data set gives no sample by number'
        return outcome
    with undisturbed(runner):
        try:
            rate, batches = _images_per_second(loader, seconds * 0.7)
        except Exception as error:
            outcome.findings.append(Finding(
                'error', 'loader fails', f'the data loader cannot be read: {shortened(error)}',
                'correct the file or the transform that the message names; train_dataloader.num_workers=0 shows where'))
            return outcome
        shares = _transform_seconds(loader.dataset, seconds * 0.3)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    outcome.figures.update(
        images_per_second=rate, workers=loader.num_workers, cores=cores, batches=batches, transforms=shares)
    workers = f'{loader.num_workers} worker{"" if loader.num_workers == 1 else "s"}'
    outcome.summary = f'{_rate(rate)} img/s with {workers} ({cores} core{"" if cores == 1 else "s"})'
    outcome.details += _table(shares)
    if step_seconds:
        _compare(outcome, loader, rate, batch_size(loader) / step_seconds, cores, shares)
    return outcome


def _compare(
    outcome: Outcome, loader: DataLoader, rate: float, wanted: float, cores: int, shares: dict[str, float]
) -> None:
    """Say whether the model has to wait."""
    outcome.figures['model_images_per_second'] = wanted
    if loader.num_workers:
        outcome.summary += f', the model takes {_rate(wanted)}'
        if rate < SLOWER * wanted:
            _say(outcome, f'the loader is the bottleneck: {_rate(rate)} img/s against {_rate(wanted)}', loader, cores,
                 shares)
        return
    part = wanted / (wanted + rate)  # of the time of an iteration, as images are made while the model waits
    outcome.summary += f', the model {_rate(wanted)}; without workers it waits {part:.0%} of the time'
    if part > WAITING:
        _say(outcome, f'without workers the model waits {part:.0%} of the time: the loader gives {_rate(rate)} img/s, '
             f'the model takes {_rate(wanted)}', loader, cores, shares)


def _say(outcome: Outcome, message: str, loader: DataLoader, cores: int, shares: dict[str, float]) -> None:
    now, remedies = loader.num_workers, []
    if now < cores:
        remedies.append(f'raise train_dataloader.num_workers from {now} to {min(cores, max(2 * now, 4))}, as this '
                        f'machine has {cores} core{"" if cores == 1 else "s"}')
    if shares:
        slowest = max(shares, key=shares.get)
        remedies.append(f'the slowest transform is {slowest} with {shares[slowest] / sum(shares.values()):.0%} of the '
                        'time of a sample: make it cheaper, or store smaller pictures')
    outcome.findings.append(Finding(
        'warning', 'loader slower than model', message, '; '.join(remedies), field='train_dataloader.num_workers',
        value=now))


# --- measured ---------------------------------------------------------------------------------------


class _Batches:
    """Lists of indices without end, in a shuffled order; each pass over the data draws its augmentation anew."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        indices = (SampleIndex(index, epoch, 0) for epoch in itertools.count()
                   for index in shuffled(self.length, epoch))
        while True:
            yield list(itertools.islice(indices, self.size))


class _Same(Dataset):
    """The data set, whatever methods it has beside `__getitem__`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def _images_per_second(loader: DataLoader, seconds: float) -> tuple[float, int]:
    """Images per second once all workers are busy, and the batches that were counted."""
    size, workers = batch_size(loader), loader.num_workers
    options = dict(multiprocessing_context=loader.multiprocessing_context, prefetch_factor=loader.prefetch_factor,
                   timeout=max(60.0, 4 * seconds)) if workers else {}
    copy_of = DataLoader(
        _Same(loader.dataset), batch_sampler=_Batches(len(loader.dataset), size), num_workers=workers,
        collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn, pin_memory=loader.pin_memory, **options)
    batches = iter(copy_of)
    try:
        first = time.perf_counter()
        ahead = max(1, workers * (loader.prefetch_factor or 1))  # what was made while nobody counted
        for _ in range(ahead):
            next(batches)
            if time.perf_counter() - first > seconds / 2:
                break
        start, done = time.perf_counter(), 0
        while done < FEW or time.perf_counter() - start < seconds - (start - first):
            next(batches)
            done += 1
            if (done >= MANY and time.perf_counter() - start > LONG) or time.perf_counter() - first > 4 * seconds:
                break
        return size * done / (time.perf_counter() - start), done
    finally:
        if hasattr(batches, '_shutdown_workers'):
            batches._shutdown_workers()


def _transform_seconds(dataset: Any, seconds: float) -> dict[str, float]:
    """Mean seconds of each transform of the innermost data set's pipeline; nothing where it has none."""
    dataset = innermost(dataset)
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    if not transforms or not hasattr(dataset, 'get_data_info'):
        return {}
    spent: dict[str, float] = defaultdict(float)
    end, looked = time.perf_counter() + seconds, 0
    for index in shuffled(len(dataset), 1)[:TIMED + 1]:
        results = copy.deepcopy(dataset.get_data_info(index))
        for place, transform in enumerate(transforms):
            start = time.perf_counter()
            try:
                results = transform(results)
            except Exception:  # such as one that wants several pictures; what there is remains
                return {name: value / max(looked, 1) for name, value in spent.items()} if looked > 1 else {}
            if looked:  # the first sample makes caches ready
                spent[_name(place, transform, transforms)] += time.perf_counter() - start
            if results is None:
                break
        looked += 1
        if time.perf_counter() > end:
            break
    return {name: value / max(looked - 1, 1) for name, value in spent.items()}


def _name(place: int, transform: Any, transforms: Any) -> str:
    name = type(transform).__name__
    many = [type(other).__name__ for other in transforms].count(name) > 1
    return f'{name} ({place + 1})' if many else name


def _table(shares: dict[str, float]) -> list[str]:
    total = sum(shares.values())
    width = max(map(len, shares), default=0)
    return [f'{name.ljust(width)}  {1000 * value:7.1f} ms  {value / total:4.0%}' for name, value in shares.items()]


def _rate(value: float) -> str:
    return f'{value:,.0f}' if value >= 10 else f'{value:.1f}'
