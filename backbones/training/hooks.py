"""Hooks of a run, usable by name from any MM project's config."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from backbones.evaluation.protocol import evaluation_protocol
from backbones.files import keep_older, write_json
from backbones.registry import HOOKS
from backbones.weights.fingerprint import LoadedFrom, fingerprints
from backbones.weights.load import is_pretrained, no_longer_loaded
from backbones.weights.whole_model import load_model_checkpoint


@HOOKS.register_module()
class MetricsFileHook(Hook):
    """Write `metrics.json` into the work folder after every evaluation: the numbers and how they were measured.

    `{"metrics": {...}, "protocol": {...}, "split": "val" | "test", "iteration": int, "epoch": int, "images": int,
    "train_seconds": float, "config": path, "checkpoint": path}`; what a mere test does not know is null, and so is the
    checkpoint of a validation at a moment when none was saved. Where a training cannot write the file, it goes on. A
    run replaces its own file; one that another run left is kept as `metrics.1.json`, `metrics.2.json`, ...
    """

    priority = 'LOWEST'  # after the hooks that add to or read the metrics
    _started: float | None = None
    _written = False

    def before_train(self, runner: Runner) -> None:
        """Start the clock; a run that goes on replaces its own file."""
        self._started = time.monotonic()
        self._written = runner.iter > 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the numbers of a validation during training."""
        self._write(runner, 'val', metrics, len(runner.val_dataloader.dataset))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the numbers of a test."""
        self._write(runner, 'test', metrics, len(runner.test_dataloader.dataset))

    def _write(self, runner: Runner, split: str, metrics: dict[str, float] | None, images: int) -> None:
        if not is_main_process():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        trains = isinstance(runner._train_loop, BaseLoop)  # asking a Runner that only tests would build the loop
        file = Path(runner.work_dir) / 'metrics.json'
        report = dict(
            metrics=_short_names(metrics or {}),
            protocol=evaluation_protocol(runner.cfg, split, isinstance(model, BaseTTAModel)),
            split=split,
            iteration=runner.iter if trains else None,
            epoch=runner.epoch if trains else None,
            images=images,
            train_seconds=round(time.monotonic() - self._started, 1) if self._started is not None else None,
            config=runner.cfg.filename,
            checkpoint=_just_saved(runner) if trains else runner._load_from,
        )
        try:
            kept = None if self._written else keep_older(file)
            if kept is not None:
                runner.logger.info(f'{file} of another run is kept as {kept.name}')
            self._written = True
            write_json(file, report, indent=2)
        except OSError as error:
            if not trains:
                raise
            runner.logger.warning(f'{file} could not be written ({error.strerror}); the run goes on, the log has them')


def _just_saved(runner: Runner) -> str | None:
    """The checkpoint that holds the weights a training run has at this moment, if one was written or is being written.

    MMEngine's CheckpointHook names files (`epoch_3.pth`), SafeCheckpointHook folders (`epoch_000003`).
    """
    last = runner.message_hub.runtime_info.get('last_ckpt')
    counts = (('epoch', runner.epoch), ('iter', runner.iter))
    now = {name for unit, count in counts for name in (f'{unit}_{count}.pth', f'{unit}_{count:06d}')}
    return last if last and Path(last).name in now else None


def _short_names(metrics: dict[str, float]) -> dict[str, float]:
    """Leave out the evaluator's prefix ('coco/bbox_mAP' becomes 'bbox_mAP') where that keeps the names apart."""
    short = {name.rsplit('/', 1)[-1]: value for name, value in metrics.items()}
    return short if len(short) == len(metrics) else metrics


@HOOKS.register_module()
class FineTuneHook(Hook):
    """Start from the checkpoint of a whole detector or segmenter whose number of classes may differ.

    Args:
        checkpoint: path. Everything but the class layers must fit; what starts anew is logged.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def before_train(self, runner: Runner) -> None:
        """Load after the model's own initialisation."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_model_checkpoint(model, self.checkpoint, new_classes=True)


@HOOKS.register_module()
class NothingLeftHook(Hook):
    """Say in one log line that a resumed run had already reached its end, where MMEngine ends in silence."""

    def before_train(self, runner: Runner) -> None:
        """The loop knows how far the checkpoint was."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        if done >= end:
            unit, name = ('epochs', 'max_epochs') if by_epoch else ('iterations', 'max_iters')
            runner.logger.info(
                f'nothing left to do: the run has done {done} {unit} and train_cfg.{name} is {end}; set that higher to '
                'go on'
            )


@HOOKS.register_module()
class HistoryHook(Hook):
    """Keep the newest values of each number that training logs, where MMEngine keeps, copies and saves up to a million.

    `HistoryBuffer.update` copies the whole history of each number in every step: after 160,000 steps some 6 ms for ten
    numbers, and 26 MB in each checkpoint. Where the log wants longer windows (`log_processor.custom_cfg` with
    `window_size='global'` or `'epoch'`), nothing is forgotten.

    Args:
        length: how many values, 1 or more; smoothing looks at the last 10 by default.
    """

    def __init__(self, length: int = 1000) -> None:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f'HistoryHook: length={length!r}; give a number of values, 1 or more')
        self.length = length

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Buffers are made when they get their first value."""
        windows = [entry.get('window_size', 1) for entry in runner.log_processor.custom_cfg]
        if runner.iter % 100 or any(not isinstance(size, int) or size > self.length for size in windows):
            return
        for name, buffer in runner.message_hub.log_scalars.items():
            if name.startswith('train/'):
                buffer.max_length = self.length


def _entries(init_cfg: dict | list | None) -> list:
    return list(init_cfg) if isinstance(init_cfg, list | tuple) else [init_cfg]


@HOOKS.register_module()
class PretrainedWeightsHook(Hook):
    """Before the first step, show that pretrained weights are still what the file says, and the same on every rank.

    Args:
        against_file: False where a checkpoint of the whole model has replaced them on purpose.
    """

    priority = 'LOWEST'  # after everything that may touch the weights

    def __init__(self, against_file: bool = True) -> None:
        self.against_file = against_file

    def before_train(self, runner: Runner) -> None:
        """Compare, and raise on every rank if one differs.

        Raises:
            ValueError: naming the part, the file and the parameters.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        loaded = {name: part.loaded_from for name, part in model.named_modules() if hasattr(part, 'loaded_from')}
        forgotten = [
            name for name, part in model.named_modules()
            if self.against_file and hasattr(part, 'weight_family') and name not in loaded
            and any(map(is_pretrained, _entries(part.init_cfg)))
        ]
        if forgotten:
            raise ValueError(
                f'{forgotten[0]}.init_cfg names a checkpoint that was never loaded; call init_weights() of the model '
                'before the first step'
            )
        findings = [self._finding(model.get_submodule(name), name, source) for name, source in loaded.items()]
        digests = {name: fingerprints(model.get_submodule(name), source.filled) for name, source in loaded.items()}
        ranks = all_gather_object(([finding for finding in findings if finding], digests))
        for rank, (texts, theirs) in enumerate(ranks):
            if texts:
                raise ValueError(f'rank {rank}: {"; ".join(texts)}')
            if theirs != ranks[0][1]:
                raise ValueError(
                    f'rank {rank} holds other pretrained weights than rank 0; let every machine read the same file '
                    f'({", ".join(source.source for source in loaded.values())})'
                )
        for name, source in loaded.items():
            if self.against_file:
                print_log(
                    f'{name}: {len(source.filled)} tensors are those of {source.source} on '
                    f'{"every rank" if len(ranks) > 1 else "the model"} before the first step', logger='current')

    def _finding(self, part: nn.Module, name: str, loaded: LoadedFrom) -> str:
        lost = no_longer_loaded(part) if self.against_file else []
        if not lost:
            return ''
        return (
            f'{name} was filled from {loaded.source}, but {len(lost)} of its {len(loaded.filled)} tensors have '
            f'other values now ({", ".join(lost[:3])}); find what initialised the model after the load: init_weights() '
            'of another part, or a hook'
        )
