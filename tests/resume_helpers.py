"""A toy run with every source of randomness, that can be stopped after a step and resumed from its captured state."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.layers import DropPath
from backbones.training.resuming import ResumeHook
from backbones.training.run_state import capture


class Drawn(Dataset):
    """Inputs (4,) with noise of all three generators; each sample says its index and what was drawn."""

    def __init__(self, count: int) -> None:
        self.metainfo = dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)])
        numbers = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(count, 4, generator=numbers)

    def __len__(self) -> int:
        return len(self.inputs)

    def get_data_info(self, index: int) -> dict[str, int]:
        """Every third image is landscape."""
        return dict(width=1 + (index % 3 == 0), height=1 + (index % 3 > 0))

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = torch.tensor([random.random(), np.random.rand(), float(torch.rand(())), np.random.randint(9)])
        return dict(inputs=self.inputs[index] + 0.1 * noise, data_samples=f'{int(index)}: {noise.tolist()}')


class Noisy(BaseModel):
    """Dropout, drop path, running statistics; the loss needs no target."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 4))
        self.path = DropPath(0.5)
        self.register_buffer('running', torch.zeros(4))

    def forward(self, inputs: Any, data_samples: list | None = None, mode: str = 'loss') -> Any:
        """Loss, or predictions in validation."""
        if mode != 'loss':
            return [float(value) for value in self.body(torch.stack(list(inputs))).sum(1)]
        inputs = torch.stack(list(inputs))
        self.running.lerp_(inputs.mean(0), 0.1)
        return dict(loss=(inputs + self.path(self.body(inputs)) - 1).square().mean())


class Interrupted(Exception):
    """The end of an interrupted run."""


class Watch(Hook):
    """Remember what was consumed; stop after `stop` steps with the captured state."""

    priority = 'VERY_LOW'

    def __init__(self, stop: int | None, at: str = 'after_train_iter') -> None:
        self.stop, self.at, self.seen, self.state = stop, at, [], None
        self.validated: list[int] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """After a step."""
        for sample in data_batch['data_samples']:
            self.seen.append((runner.train_loop.feed.epoch, sample))
        self._maybe('after_train_iter', runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """After an epoch."""
        self._maybe('after_train_epoch', runner, runner.iter)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """In the middle of a validation."""
        self._maybe('after_val_iter', runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """After a validation."""
        self.validated.append(runner.iter)
        self._maybe('after_val_epoch', runner, runner.iter)

    def _maybe(self, at: str, runner: Runner, done: int) -> None:
        if self.at == at and done == self.stop:
            content = io.BytesIO()
            torch.save(capture(runner), content)
            self.state = content.getvalue()
            raise Interrupted


def toy_runner(
    folder: Path, name: str, *, images: int = 12, batch: int = 2, epochs: int = 2, iters: int | None = None,
    workers: int = 0, accumulate: int = 1, ratio: bool = False, validate: bool = False, sampler: str | None = None,
    optim: dict | None = None, **more: Any,
) -> Runner:
    """Build a run; with `iters` it is iteration-based."""
    kind = dict(type='backbones.EpochBasedTrainLoop', max_epochs=epochs)
    if iters:
        kind = dict(type='backbones.IterBasedTrainLoop', max_iters=iters)
        if validate:
            kind['val_interval'] = 3
    sampler = sampler or ('backbones.ResumableInfiniteSampler' if iters else 'backbones.ResumableSampler')
    loader = dict(
        dataset=Drawn(images), batch_size=batch * accumulate, num_workers=workers, sampler=dict(type=sampler))
    if ratio:
        loader['batch_sampler'] = dict(type='backbones.AspectRatioBatchSampler', group_size=batch)
    if validate:
        more.update(
            val_dataloader=dict(dataset=Drawn(4), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(), val_evaluator=dict(type=Sum))
    return Runner(
        Noisy(), str(folder / name), train_cfg=dict(kind, accumulate=accumulate), train_dataloader=loader,
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.05, weight_decay=0.1), clip_grad=dict(max_norm=1.0), **(optim or {})),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type='MultiStepLR', by_epoch=not iters, milestones=[1, 5], gamma=0.5)],
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        default_hooks=dict(checkpoint=None, logger=None), log_level='ERROR',
        experiment_name=f'{folder}_{name}', **dict(dict(randomness=dict(seed=5)), **more))


class Sum:
    """A metric that draws random numbers, as some do."""

    def __new__(cls, **kwargs: Any) -> Any:
        from mmengine.evaluator import BaseMetric

        class Made(BaseMetric):
            def process(self, data_batch: Any, data_samples: Any) -> None:
                torch.rand(3)
                self.results.extend(data_samples)

            def compute_metrics(self, results: list) -> dict[str, float]:
                return dict(sum=float(np.sum(results)))

        return Made(**kwargs)


def train(runner: Runner, stop: int | None = None, state: bytes | None = None, at: str = 'after_train_iter') -> Watch:
    """Train to the end or to an interruption, from the beginning or from a state."""
    watch = Watch(stop, at)
    runner.register_hook(watch, priority='VERY_LOW')
    if state is not None:
        tree = torch.load(io.BytesIO(state), weights_only=True)
        runner.register_hook(ResumeHook(tree), priority='HIGHEST')
        random.seed(), np.random.seed(), torch.seed()  # what a new process has, not what the first one left
    try:
        runner.train()
    except Interrupted:
        pass
    else:
        assert stop is None, 'the run was to be interrupted'
    return watch


def final(runner: Runner) -> dict[str, Tensor]:
    """Weights, averages, moments, learning rates at the end of a run."""
    ema = next(hook.ema_model for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    optimizer = runner.optim_wrapper.optimizer
    model = getattr(runner.model, 'module', runner.model)
    found = {f'model.{name}': value for name, value in model.state_dict().items()}
    found |= {f'ema.{name}': value for name, value in ema.state_dict().items()}
    found |= {
        f'optimizer.{number}.{key}': value
        for number, entry in optimizer.state_dict()['state'].items() for key, value in entry.items()
    }
    lrs = [group['lr'] for group in optimizer.param_groups]
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    return {**found, 'lr': torch.tensor(lrs, dtype=torch.float64), 'losses': torch.from_numpy(losses.copy())}


def assert_same_end(resumed: Runner, whole: Runner) -> None:
    """Bit by bit."""
    here, there = final(resumed), final(whole)
    assert here.keys() == there.keys()
    different = [name for name in here if not here[name].equal(there[name])]
    assert not different, different


def both_kinds(rank: int, folder: Path, kinds: dict[str, dict]) -> None:
    """One of two processes, for each kind of run."""
    for name, kind in kinds.items():
        (folder / name).mkdir(exist_ok=True)
        in_two_processes(rank, folder / name, **kind)
    os._exit(0)  # as the tools end: threads of torch.distributed now and then abort a process that ends by itself


def in_two_processes(rank: int, folder: Path, **kind: Any) -> None:
    """What one of two processes does: uninterrupted; 2 -> 2; 2 -> 1 -> 2. Leaves what it saw in `folder`."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)

    def run(name: str, stop: int | None, state: bytes | None, processes: int = 2) -> tuple[Watch, Runner]:
        if processes == 2:
            path = folder / f'meet_{name}'
            torch.distributed.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
        per_process = kind | dict(batch=4 // processes)
        try:
            wrapper = dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None))
            parallel = dict(launcher='pytorch', cfg=wrapper)
            runner = toy_runner(folder / str(rank), name, **per_process, **(parallel if processes == 2 else {}))
            return train(runner, stop, state), runner
        finally:
            if processes == 2:
                torch.distributed.destroy_process_group()

    seen: dict[str, Any] = {}
    whole, end = run('whole', None, None)
    first, _ = run('first', 2, None)
    again, end_again = run('again', None, first.state)
    seen['whole'], seen['again'] = whole.seen, first.seen + again.seen
    seen['different'] = [name for name, value in final(end).items() if not value.equal(final(end_again)[name])]
    state = first.state
    if rank == 0:
        middle, _ = run('middle', 4, state, processes=1)
        seen['middle'], state = middle.seen, middle.state
        (folder / 'middle.new').write_bytes(state)
        (folder / 'middle.new').rename(folder / 'middle')
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder / "wait"}', rank=rank, world_size=2)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    last, _ = run('last', None, (folder / 'middle').read_bytes())
    seen['first'], seen['last'] = first.seen, last.seen
    torch.save(seen, folder / f'seen_{rank}')
