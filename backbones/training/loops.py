"""Train loops whose runs can be interrupted after any step, and that keep a recipe's total batch on fewer GPUs.

One iteration is one optimiser step. With `accumulate`, the data loader gives the images of one step of this process,
`accumulate` times what fits into memory; the loop runs the model on `accumulate` chunks of them and steps once. So
iterations, epochs, schedules, intervals, averages and logs mean what they mean without accumulation, and a checkpoint
goes on with any number of GPUs.

A chunk takes every `accumulate`-th image. MMEngine's samplers give process r of g the images r, r + g, r + 2 g, ... of
one common order, so chunk k holds exactly the images that process r + g k of g x accumulate processes would have.

What makes a run resumable: the loop knows which steps are finished and where that is in the data (`progress`), starts
from there (`resume_at`), and neither validation nor a data loader takes random numbers from the training.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop as PlainEpochLoop
from mmengine.runner import IterBasedTrainLoop as PlainIterLoop
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones.data.feed import Feed
from backbones.data.randomness import ReproducibleDataset, generator_states, kept_randomness, set_generator_states
from backbones.data.samplers import ResumableInfiniteSampler, ResumableSampler
from backbones.registry import LOOPS, SCOPE

SAMPLERS = dict(DefaultSampler=f'{SCOPE}.ResumableSampler', InfiniteSampler=f'{SCOPE}.ResumableInfiniteSampler')


class _TrainLoop:
    """What both loops share.

    Args:
        runner: the Runner.
        dataloader: gives `accumulate` x (images that the model sees at a time) images.
        accumulate: forward and backward passes per optimiser step.
        kwargs: those of MMEngine's loop.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *, accumulate: int = 1, **kwargs: Any) -> None:
        if not isinstance(accumulate, int) or isinstance(accumulate, bool) or accumulate < 1:
            raise ValueError(f'train_cfg.accumulate={accumulate!r}: give the passes per optimiser step, 1 or more')
        super().__init__(runner, with_reproducible_dataset(dataloader), **kwargs)
        self.accumulate = accumulate
        if accumulate > 1:
            self.images_per_pass = -(-self.dataloader.batch_sampler.batch_size // accumulate)
        self.feed = Feed(self.dataloader)
        self.validating: dict[str, Any] | None = None  # while it validates, the random state of the training
        self.averages_swapped = False  # while it validates, EMAHook has exchanged weights and averages
        self._stepped = False  # the step of iteration `_iter` is done, its `after_train_iter` hooks are not
        self._epoch_ended = False  # the same for an epoch
        self._validation_due = False
        self._resumed_states: dict[str, Any] | None = None
        runner.register_hook(_ValidationStage(), priority='LOW')

    def progress(self) -> dict[str, Any]:
        """What has been done, as plain data: good at any time, inside hooks or between them."""
        epoch = self._epoch + self._epoch_ended
        place = dict(epoch=epoch, legs=[]) if self._epoch_ended else self.feed.place()
        done = dict(epoch=epoch, iter=self._iter + self._stepped)
        return dict(done, place=place, validation_due=self._validation_due or self._is_due(done))

    def resume_at(self, progress: dict[str, Any], states: dict[str, Any] | None) -> list[str]:
        """Start from there instead of from the beginning; to be called before the first step.

        Args:
            progress: what `progress` gave.
            states: random states for the first step; None leaves the generators as they are.

        Returns:
            Lines for the log: what is not as it was.
        """
        notes = self.feed.seek(progress['place'])
        self._epoch, self._iter = progress['epoch'], progress['iter']
        self._validation_due = progress['validation_due']
        self._resumed_states = states
        return notes

    def run(self) -> nn.Module:
        """Train.

        Raises:
            ValueError: the config accumulates with several optimisers, each of which would count its own steps.
        """
        if self.accumulate > 1 and isinstance(self.runner.optim_wrapper, OptimWrapperDict):
            raise ValueError(
                f'optim_wrapper is an {type(self.runner.optim_wrapper).__name__}: gradients can be accumulated for one '
                'optimiser only; use as many GPUs as the total batch needs, or a larger train_dataloader.batch_size'
            )
        self.runner.call_hook('before_train')
        self._train()
        self.runner.call_hook('after_train')
        return self.runner.model

    def step_on(self, idx: int, data_batch: Any) -> None:
        """Do one optimiser step, with its hooks."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.train_step(data_batch)
        self.feed.batches += 1
        self._stepped = True
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter, self._stepped = self._iter + 1, False

    def train_step(self, data_batch: Any) -> dict[str, Tensor | float]:
        """Run the model on the chunks of a batch, step once, return the mean of what the chunks would have logged."""
        optim_wrapper = self.runner.optim_wrapper
        if self.accumulate == 1:
            return self.runner.model.train_step(data_batch, optim_wrapper=optim_wrapper)
        chunks = split_batch(data_batch, self.images_per_pass)
        # Counted anew for every step, as the last batch of an epoch may have fewer chunks: the wrapper divides each
        # loss by their number, lets DDP communicate with the last one only, and steps after it. It takes the number in
        # its constructor alone, hence the attribute; it looks through the model for batch norms, hence the Identity.
        optim_wrapper._accumulative_counts = len(chunks)
        optim_wrapper.initialize_count_status(nn.Identity(), 0, len(chunks))
        return mean_of_logs([self.runner.model.train_step(chunk, optim_wrapper=optim_wrapper) for chunk in chunks])

    def _is_validated(self, count: int, last: int) -> bool:
        """Whether a validation follows the epoch or iteration number `count`."""
        interval = self.dynamic_intervals[bisect.bisect(self.dynamic_milestones, count + 1) - 1]
        has_loop = self.runner.val_loop is not None
        return has_loop and count >= self.val_begin and (count % interval == 0 or count == last)

    def _validate_if_due(self) -> None:
        """Validate; the training goes on with the random numbers that it would have had without."""
        if not self._validation_due:
            return
        self.validating = generator_states()
        with kept_randomness(self.validating):
            self.runner.val_loop.run()
        self.validating, self._validation_due = None, False

    def _take_resumed_states(self) -> None:
        """As late as can be: hooks and loaders that start anew may have drawn numbers."""
        if self._resumed_states is not None:
            set_generator_states(self._resumed_states)
            self._resumed_states = None


@LOOPS.register_module(name=['EpochBasedTrainLoop', 'AccumulatingEpochBasedTrainLoop'])  # the latter in older configs
class EpochBasedTrainLoop(_TrainLoop, PlainEpochLoop):
    """MMEngine's EpochBasedTrainLoop that can resume after any step, with `accumulate` passes per step."""

    def _train(self) -> None:
        if self._validation_due:
            self._take_resumed_states()
        self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due()

    def run_epoch(self) -> None:
        """Train for an epoch, or for what is left of it."""
        self.feed.start_epoch(self._epoch)
        start = self.feed.consumed_batches
        if not start:
            self._take_resumed_states()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        batches = self.feed.iterator()
        self._take_resumed_states()
        for idx, data_batch in enumerate(batches, start):
            self.run_iter(idx, data_batch)
        self._epoch_ended = True
        self.runner.call_hook('after_train_epoch')
        self._epoch, self._epoch_ended = self._epoch + 1, False
        self._validation_due = self._is_validated(self._epoch, self._max_epochs)
        self.feed.start_epoch(self._epoch)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Do one optimiser step."""
        self.step_on(idx, data_batch)

    def _is_due(self, done: dict[str, int]) -> bool:
        return self._epoch_ended and self._is_validated(done['epoch'], self._max_epochs)


@LOOPS.register_module(name=['IterBasedTrainLoop', 'AccumulatingIterBasedTrainLoop'])
class IterBasedTrainLoop(_TrainLoop, PlainIterLoop):
    """MMEngine's IterBasedTrainLoop that can resume after any step, with `accumulate` passes per step."""

    def _train(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self._follow_plain_resume()
        self.feed.seek(self.feed.place())  # DistSamplerSeedHook has sent the sampler to epoch 0
        batches: Iterator[Any] | None = None
        while True:
            self._take_resumed_states()
            self._validate_if_due()
            if self._iter >= self._max_iters or self.stop_training:
                break
            self.runner.model.train()
            if batches is None:
                batches = self.feed.endless_iterator()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            self._validation_due = self._is_validated(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')

    def run_iter(self, data_batch: Any) -> None:
        """Do one optimiser step."""
        self.step_on(self._iter, data_batch)

    def _is_due(self, done: dict[str, int]) -> bool:
        return self._stepped and self._is_validated(done['iter'], self._max_iters)

    def _follow_plain_resume(self) -> None:
        """Find the place in the data after MMEngine's own `Runner.resume`, which sets the iteration only."""
        if self._iter and not self.feed.consumed_batches and not self.feed.epoch and not self.fast_forward_on_resume:
            epoch, batches = (0, self._iter) if self.feed.endless else divmod(self._iter, len(self.dataloader))
            leg = dict(self.feed.layout, batches=batches)
            for note in self.feed.seek(dict(epoch=epoch, legs=[leg] if batches else [])):
                self.runner.logger.warning(note)


class _ValidationStage(Hook):
    """Tell the loop how far a validation is: after EMAHook (priority NORMAL), before what saves (VERY_LOW)."""

    def before_val_epoch(self, runner: Runner) -> None:
        """Weights and averages have been exchanged."""
        runner.train_loop.averages_swapped = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """They are back, and the metrics are there."""
        runner.train_loop.averages_swapped = runner.train_loop._validation_due = False


def make_resumable(cfg: Config) -> None:
    """Put our loop and samplers into a config where it has MMEngine's, in place; their order and steps are the same.

    A sampler or loop of another kind stays: its runs resume less exactly.
    """
    loop, loader = cfg.train_cfg, cfg.train_dataloader
    plain = {kind.__name__: kind for kind in (PlainEpochLoop, PlainIterLoop)}
    given = loop.get('type')
    if given is None and 'by_epoch' in loop:
        given = (PlainEpochLoop if loop.by_epoch else PlainIterLoop).__name__
    name = given.removeprefix('mmengine.') if isinstance(given, str) else getattr(given, '__name__', None)
    if name in plain and (isinstance(given, str) or given is plain[name]):
        rest = {key: value for key, value in loop.items() if key not in ('type', 'by_epoch')}
        cfg.train_cfg = dict(type=f'{SCOPE}.{name}', **rest)
    if loader.sampler.get('type') in SAMPLERS:
        loader.sampler.type = SAMPLERS[loader.sampler.type]
        batch_sampler = loader.get('batch_sampler') or {}
        if batch_sampler.get('type') in ('AspectRatioBatchSampler', 'mmdet.AspectRatioBatchSampler'):
            loader.batch_sampler.type = f'{SCOPE}.AspectRatioBatchSampler'


def with_reproducible_dataset(dataloader: DataLoader | dict) -> DataLoader | dict:
    """Put `ReproducibleDataset` around the data set of a loader's config where the sampler is one of ours."""
    sampler = dataloader.get('sampler') if isinstance(dataloader, dict) else None
    kind = sampler.get('type') if isinstance(sampler, dict) else None
    kinds = {*SAMPLERS.values(), ResumableSampler, ResumableInfiniteSampler}
    dataset = dataloader['dataset'] if kind in kinds else None
    is_one = isinstance(dataset, dict) and dataset.get('type') in (f'{SCOPE}.ReproducibleDataset', ReproducibleDataset)
    if kind not in kinds or is_one or isinstance(dataset, ReproducibleDataset):
        return dataloader
    return {**dataloader, 'dataset': dict(type=ReproducibleDataset, dataset=dataset)}


def split_batch(data_batch: Any, images_per_pass: int) -> list[dict[str, list]]:
    """Split a collated batch into as few chunks as possible, n of them; chunk k has images k::n.

    Args:
        data_batch: a dict of lists with one entry per image, such as `inputs` and `data_samples`.
        images_per_pass: most images of a chunk; the sizes of chunks differ by one image at most.

    Raises:
        ValueError: the batch is anything else.
    """
    def per_image(value: Any) -> bool:
        return isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value)

    if not isinstance(data_batch, dict) or not data_batch or not all(map(per_image, data_batch.values())):
        kinds = data_batch if isinstance(data_batch, dict) else dict(batch=data_batch)
        what = ', '.join(f'{key}: {type(value).__name__}' for key, value in kinds.items())
        raise ValueError(
            f'a batch of ({what}) cannot be split to accumulate gradients; it must be a dict of lists with one entry '
            "per image, as train_dataloader.collate_fn=dict(type='pseudo_collate') makes it; or train with as many "
            'GPUs as need no accumulation'
        )
    lengths = {key: len(value) for key, value in data_batch.items()}
    count = min(lengths.values())
    if count == 0 or len(set(lengths.values())) > 1:
        raise ValueError(f'a batch must have one entry per image in each of its lists; their lengths are {lengths}')
    chunks = -(-count // images_per_pass)
    return [{key: list(value[k::chunks]) for key, value in data_batch.items()} for k in range(chunks)]


def mean_of_logs(logs: list[dict[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """Average each value over the chunks that have it."""
    values: dict[str, list] = {}
    for log in logs:
        for key, value in log.items():
            values.setdefault(key, []).append(value.detach() if isinstance(value, Tensor) else value)
    return {key: sum(found) / len(found) for key, found in values.items()}
