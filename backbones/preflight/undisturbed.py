"""Look at a built run without leaving a trace: what a rehearsal needs of data sets and generators, and how it is kept.

The checks that run something (rehearsal, data loader, truth, samples) work on copies of the model; what is shared by a
whole process is put back here: random generators, MMEngine's message hub, the handlers of its logger, and the record of
bad samples, which a look must not fill.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner
from torch import nn

from backbones.data.bad_samples import skipping_datasets
from backbones.data.randomness import SampleIndex, generator_states, kept_randomness, seed_generators

HUB = ('_log_scalars', '_runtime_info', '_resumed_keys')
WRAPPERS = ('_wrapped', 'dataset')  # attributes by which data sets hold the one they wrap


@contextlib.contextmanager
def undisturbed(runner: Runner, seed: int = 0) -> Iterator[None]:
    """Seed the generators, silence the log, and put back afterwards what a process has once."""
    hub, logger = MessageHub.get_current_instance(), MMLogger.get_current_instance()
    kept = {name: copy.deepcopy(getattr(hub, name)) for name in HUB[::2]} | {HUB[1]: copy.copy(hub._runtime_info)}
    handlers, logger.handlers = logger.handlers, []
    loaders = [loop.dataloader for loop in (runner.train_loop, runner.val_loop) if hasattr(loop, 'dataloader')]
    skipping = [dataset for loader in loaders for dataset in skipping_datasets(loader.dataset)]
    for dataset in skipping:
        dataset.on_bad_sample = 'raise'
    try:
        with kept_randomness(generator_states()), contextlib.redirect_stdout(io.StringIO()):
            seed_generators(seed)
            yield
    finally:
        logger.handlers = handlers
        for dataset in skipping:
            dataset.on_bad_sample = 'skip'
        for name, value in kept.items():
            setattr(hub, name, value)


def innermost(dataset: Any) -> Any:
    """The data set that reads pictures, inside of wrappers; of a concatenation the first."""
    while True:
        inner = vars(dataset) if hasattr(dataset, '__dict__') else {}
        parts = [inner[name] for name in WRAPPERS if hasattr(inner.get(name), '__getitem__')]
        parts += list(inner.get('datasets') or ())[:1]
        if not parts:
            return dataset
        dataset = parts[0]


def spread(length: int, count: int) -> list[int]:
    """At most `count` of the indices 0 to `length` - 1, evenly spread, each once."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist() if length else []


def shuffled(length: int, seed: int = 0) -> list[int]:
    """All indices in an order that depends on the seed alone."""
    return np.random.default_rng(seed).permutation(length).tolist()


def training_sample(dataset: Any, index: int, seed: int = 0) -> dict[str, Any]:
    """A sample as the training gets it in its first epoch; `seed` decides its augmentation."""
    return dataset[SampleIndex(index, 0, seed)]


def collated(loader: Any, samples: Sequence[dict]) -> dict[str, Any]:
    """A batch of samples."""
    return loader.collate_fn(list(samples))


def bare(model: nn.Module) -> nn.Module:
    """The model inside of DDP."""
    from mmengine.model import is_model_wrapper

    return model.module if is_model_wrapper(model) else model


def class_names(loop: Any) -> tuple[str, ...]:
    """Classes of a loop's data set; none where it names none."""
    return tuple((getattr(loop.dataloader.dataset, 'metainfo', None) or {}).get('classes') or ())


def shortened(error: BaseException, length: int = 400) -> str:
    """An exception in one line."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:length]}' if text else type(error).__name__
