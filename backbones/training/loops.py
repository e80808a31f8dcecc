"""Train loops that keep a recipe's total batch on fewer GPUs: one iteration is one optimiser step.

The data loader gives the images of one step of this process, `accumulate` times what fits into memory; the loop runs
the model on `accumulate` chunks of them and steps once. So iterations, epochs, schedules, intervals, averages and logs
mean what they mean without accumulation, and a checkpoint goes on with any number of GPUs.

A chunk takes every `accumulate`-th image. MMEngine's samplers give process r of g the images r, r + g, r + 2 g, ... of
one common order, so chunk k holds exactly the images that process r + g k of g x accumulate processes would have.
"""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones.registry import LOOPS


class _AccumulatingTrainLoop:
    """What both loops share.

    Args:
        runner: the Runner.
        dataloader: gives `accumulate` x (images that the model sees at a time) images.
        accumulate: forward and backward passes per optimiser step.
        kwargs: those of MMEngine's loop.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *, accumulate: int, **kwargs: Any) -> None:
        if not isinstance(accumulate, int) or isinstance(accumulate, bool) or accumulate < 1:
            raise ValueError(f'train_cfg.accumulate={accumulate!r}: give the passes per optimiser step, 1 or more')
        super().__init__(runner, dataloader, **kwargs)
        self.accumulate = accumulate
        self.images_per_pass = -(-self.dataloader.batch_sampler.batch_size // accumulate)

    def run(self) -> nn.Module:
        """Train.

        Raises:
            ValueError: the config has several optimisers, each of which would count its own steps.
        """
        if isinstance(self.runner.optim_wrapper, OptimWrapperDict):
            raise ValueError(
                f'optim_wrapper is an {type(self.runner.optim_wrapper).__name__}: gradients can be accumulated for one '
                'optimiser only; use as many GPUs as the total batch needs, or a larger train_dataloader.batch_size'
            )
        return super().run()

    def train_step(self, data_batch: Any) -> dict[str, Tensor | float]:
        """Run the model on the chunks of a batch, step once, return the mean of what the chunks would have logged."""
        chunks = split_batch(data_batch, self.images_per_pass)
        optim_wrapper = self.runner.optim_wrapper
        # Counted anew for every step, as the last batch of an epoch may have fewer chunks: the wrapper divides each
        # loss by their number, lets DDP communicate with the last one only, and steps after it. It takes the number in
        # its constructor alone, hence the attribute; it looks through the model for batch norms, hence the Identity.
        optim_wrapper._accumulative_counts = len(chunks)
        optim_wrapper.initialize_count_status(nn.Identity(), 0, len(chunks))
        return mean_of_logs([self.runner.model.train_step(chunk, optim_wrapper=optim_wrapper) for chunk in chunks])


@LOOPS.register_module()
class AccumulatingEpochBasedTrainLoop(_AccumulatingTrainLoop, EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop with `accumulate` passes per iteration."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Do one optimiser step."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.train_step(data_batch)
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


@LOOPS.register_module()
class AccumulatingIterBasedTrainLoop(_AccumulatingTrainLoop, IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop with `accumulate` passes per iteration."""

    def run_iter(self, data_batch: Any) -> None:
        """Do one optimiser step."""
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        outputs = self.train_step(data_batch)
        self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1


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
