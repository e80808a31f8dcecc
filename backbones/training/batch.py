"""The total batch of a recipe, kept on fewer GPUs by gradient accumulation: docs/batch.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from backbones.registry import SCOPE

PLAIN_LOOPS = {loop.__name__: loop for loop in (EpochBasedTrainLoop, IterBasedTrainLoop)}
# ours -> MMEngine's; configs that older runs left behind say Accumulating
OWN_LOOPS = {f'{SCOPE}.{kind}{name}': name for name in PLAIN_LOOPS for kind in ('', 'Accumulating')}
OWN_SAMPLER = f'{SCOPE}.AspectRatioBatchSampler'
# How MMEngine's init_dist learns it: https://github.com/open-mmlab/mmengine/blob/v0.10.7/mmengine/dist/utils.py
PROCESS_VARIABLES = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}


@dataclass(frozen=True)
class BatchPlan:
    """How the images of one optimiser step are spread.

    Attributes:
        total: images per optimiser step over all processes.
        processes: one per GPU; on a machine without one, what torchrun started.
        per_gpu: images that a process sees at a time.
        accumulate: forward and backward passes of each process per step.
    """

    total: int
    processes: int
    per_gpu: int
    accumulate: int

    def __str__(self) -> str:
        """E.g. `total batch 16 = 2 GPUs x 2 images x 4`; the last factor is left out if it is 1."""
        passes = f' x {self.accumulate}' if self.accumulate > 1 else ''
        return f'total batch {self.total} = {_processes(self.processes)} x {_count(self.per_gpu, "image")}{passes}'


def count_processes(launcher: str) -> int:
    """Number of processes that `launcher` ('none', 'pytorch', 'slurm' or 'mpi') started.

    Raises:
        ValueError: its environment variable is not there or is no number: the launcher did not start this process.
    """
    if launcher == 'none':
        return 1
    name = PROCESS_VARIABLES.get(launcher)
    if name is None:
        raise ValueError(f'launcher={launcher!r} is unknown; choose none, {", ".join(PROCESS_VARIABLES)}')
    value = os.environ.get(name, '')
    if not value.isdigit() or int(value) < 1:
        given = f'is {value!r}' if value else 'is not set'
        start = dict(pytorch='torchrun --nproc_per_node N', slurm='srun', mpi='mpirun')[launcher]
        raise ValueError(
            f'--launcher {launcher}: the environment variable {name} {given}; start with `{start} ... tools/train.py '
            f'CONFIG --launcher {launcher}`, or leave out --launcher for one process'
        )
    return int(value)


def plan_batch(cfg: Config, processes: int, stated: int | None = None) -> BatchPlan:
    """Decide how often each process accumulates, so that an optimiser step has the images that the config says.

    Args:
        cfg: a composed config. Without `total_batch` it is a user's own: its batch is taken as it is.
        processes: how many train together.
        stated: another total than the config's, said explicitly (`--total-batch`).

    Raises:
        ValueError: the total is no number of images, cannot be met, or is contradicted by another key.
    """
    per_gpu, own = _per_gpu(cfg), _positive(_own_counts(cfg), 'optim_wrapper.accumulative_counts')
    recipe = cfg.get('total_batch')
    if 'total_batch' in cfg:
        _positive(recipe, 'total_batch')
    if stated is None and 'total_batch' not in cfg:
        accumulate = own * _loop_accumulate(cfg)
        return BatchPlan(processes * per_gpu * accumulate, processes, per_gpu, accumulate)
    total = recipe if stated is None else _positive(stated, '--total-batch')
    if own != 1:
        raise ValueError(
            f'optim_wrapper.accumulative_counts={own} beside a total batch of {total}: the launcher accumulates what '
            'the total needs; leave it out, and choose train_dataloader.batch_size by what fits into memory'
        )
    if (cfg.get('auto_scale_lr') or {}).get('enable'):
        raise ValueError(
            f'auto_scale_lr.enable=True beside a total batch of {total}: the batch is kept, so the learning rate must '
            'stay; leave out auto_scale_lr'
        )
    if total % (processes * per_gpu):
        raise ValueError(_what_would_fit(total, processes, per_gpu))
    plan = BatchPlan(total, processes, per_gpu, total // (processes * per_gpu))
    if plan.accumulate > 1:
        _plain_loop(cfg)
        _check_batch_sampler(cfg, plan)
    return plan


def apply_batch_plan(cfg: Config, plan: BatchPlan) -> None:
    """Change the config in place so that the run does what `plan` says; nothing if it does so already.

    The data loader gets the images of one step, a loop of ours runs the model on chunks of them. The learning rate, the
    schedule and every interval stay.
    """
    if 'total_batch' in cfg:
        cfg.total_batch = plan.total  # the config that the run leaves behind repeats the run
    if _own_counts(cfg) != 1 or plan.accumulate == _loop_accumulate(cfg):
        return
    loop = {key: value for key, value in cfg.train_cfg.items() if key not in ('type', 'by_epoch', 'accumulate')}
    name = _plain_loop(cfg)
    loader = cfg.train_dataloader
    loader.batch_size = plan.per_gpu * plan.accumulate
    if plan.accumulate > 1:
        cfg.train_cfg = dict(type=f'{SCOPE}.{name}', accumulate=plan.accumulate, **loop)
        if loader.get('batch_sampler') is not None:
            loader.batch_sampler.update(type=OWN_SAMPLER, group_size=plan.per_gpu)
    else:
        cfg.train_cfg = dict(type=f'{SCOPE}.{name}' if cfg.train_cfg.get('type') in OWN_LOOPS else name, **loop)
        (loader.get('batch_sampler') or {}).pop('group_size', None)


def batch_notes(cfg: Config, plan: BatchPlan) -> list[str]:
    """What the log says about the batch; ask before `apply_batch_plan`."""
    recipe = cfg.get('total_batch', plan.total)
    other = (
        f"the recipe's total batch is {recipe}, this run has {plan.total} because --total-batch says so; the learning "
        'rate and the schedule stay as the config has them'
    )
    return [str(plan), *([other] if recipe != plan.total else [])]


def check_built(plan: BatchPlan, model: nn.Module, dataloader: DataLoader, keeps_total: bool) -> list[str]:
    """Look at what only the built run knows: the number of images, and the layers that see less than the total batch.

    Args:
        plan: how the images are spread.
        model: the model.
        dataloader: the built training data loader.
        keeps_total: whether a total batch was asked for, by the config or by `--total-batch`.

    Returns:
        Lines for the log.

    Raises:
        ValueError: no step of an epoch could have the images that the total batch promises.
    """
    sampler, images = getattr(dataloader.batch_sampler, 'sampler', None), len(dataloader.dataset)
    # goes on with the next round of images, so every batch is full
    endless = isinstance(sampler, InfiniteSampler) or getattr(sampler, 'endless', False)
    if not endless and (len(dataloader) == 0 or (keeps_total and images < plan.total)):
        at_once = plan.processes * plan.per_gpu
        most = images // at_once * at_once
        remedy = f'--total-batch {most}' if most else 'a smaller train_dataloader.batch_size and --total-batch'
        raise ValueError(
            f'the training data set has {images} images and the total batch is {plan.total}, so no step could have it; '
            f'say {remedy} and choose a learning rate that fits, or sample without end by '
            "train_dataloader.sampler.type='InfiniteSampler' in an iteration-based run"
        )
    _check_pooled_norms(plan, model)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms or plan.accumulate == 1:
        return []
    seen = max(_images_of(norm, plan) for norm in norms)
    return [
        f'{len(norms)} batch norms take their statistics from {_count(seen, "image")} at a time, not from '
        f'{plan.total}: accumulation keeps the gradients of a step, not the statistics'
    ]


def _images_of(norm: nn.Module, plan: BatchPlan) -> int:
    """Images that a batch norm takes its statistics from."""
    return plan.per_gpu * (plan.processes if isinstance(norm, nn.SyncBatchNorm) else 1)


def _check_pooled_norms(plan: BatchPlan, model: nn.Module) -> None:
    """Refuse one image at a time where a head normalises a map pooled to one pixel; torch would in the first step."""
    for name, module in model.named_modules():
        pooled = isinstance(module, nn.Sequential) and isinstance(next(iter(module), None), nn.AdaptiveAvgPool2d)
        if not pooled or module[0].output_size not in (1, (1, 1)):
            continue
        if any(isinstance(norm, _BatchNorm) and _images_of(norm, plan) == 1 for norm in module.modules()):
            raise ValueError(
                f'model.{name} pools the map to 1 x 1 and normalises over the batch: with one image at a time there is '
                'one value per channel, which cannot be trained; set train_dataloader.batch_size=2 or more (the total '
                'batch is kept), or start two or more GPUs with SyncBN'
            )


def _what_would_fit(total: int, processes: int, per_gpu: int) -> str:
    """Why `total` is not `processes` x `per_gpu` x passes, and what to do."""
    given = f'{_processes(processes)} x {_count(per_gpu, "image")}'
    more = f'{given} are more than the total batch {total}' if processes * per_gpu > total else (
        f'the total batch {total} is no multiple of {given}')
    near = max(1, round(total / (processes * per_gpu))) * processes * per_gpu
    if total % processes:
        counts = ', '.join(str(count) for count in range(1, total + 1) if total % count == 0)
        fits = f'{_processes(processes)} cannot share {total} images evenly; start one of {counts}'
    else:
        sizes = [size for size in range(1, total // processes + 1) if total // processes % size == 0]
        fits = (
            f'{", ".join(map(str, sizes))} images per {_unit()} fit: --cfg-options train_dataloader.batch_size='
            f'{max((size for size in sizes if size <= per_gpu), default=1)}'
        )
    return f'{more}; {fits}. Another total must be said: --total-batch {near}, which leaves the learning rate as it is'


def _positive(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{name}={value!r} must be a whole number, 1 or more')
    return value


def _per_gpu(cfg: Config) -> int:
    """Images that the model of one process sees at a time, also in a config that a run of ours left behind."""
    loader = cfg.get('train_dataloader')
    if not loader or 'batch_size' not in loader:
        raise ValueError(
            f'config {cfg.filename} has no train_dataloader.batch_size; state the images per {_unit()} there')
    size, accumulate = _positive(loader['batch_size'], 'train_dataloader.batch_size'), _loop_accumulate(cfg)
    if size % accumulate:
        raise ValueError(
            f'train_dataloader.batch_size={size} is no multiple of train_cfg.accumulate={accumulate}: with a loop of '
            f'type {cfg.train_cfg.type} it is the images of a whole step of one process'
        )
    return size // accumulate


def _own_counts(cfg: Config) -> Any:
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def _loop_accumulate(cfg: Config) -> int:
    """1, unless the config already has a loop of ours."""
    loop = cfg.get('train_cfg') or {}
    if loop.get('type') not in OWN_LOOPS:
        return 1
    return _positive(loop.get('accumulate', 1), 'train_cfg.accumulate')


def _plain_loop(cfg: Config) -> str:
    """The name of MMEngine's loop that the config trains with.

    Raises:
        ValueError: it is another loop.
    """
    loop = cfg.get('train_cfg') or {}
    given = loop.get('type')
    if given is None and 'by_epoch' in loop:
        return (EpochBasedTrainLoop if loop['by_epoch'] else IterBasedTrainLoop).__name__
    if given in OWN_LOOPS:
        return OWN_LOOPS[given]
    cls = LOOPS.get(given) if isinstance(given, str) else given
    for name, plain in PLAIN_LOOPS.items():
        if cls is plain:
            return name
    raise ValueError(
        f'train_cfg.type={given!r}: gradients can be accumulated with {" and ".join(PLAIN_LOOPS)} only; train with as '
        'many GPUs as the total batch needs, raise train_dataloader.batch_size, or leave out total_batch and let your '
        'loop do it'
    )


def _check_batch_sampler(cfg: Config, plan: BatchPlan) -> None:
    """Refuse a batch sampler whose groups the split into chunks would tear apart."""
    sampler = cfg.train_dataloader.get('batch_sampler')
    if sampler is None:
        return
    given = sampler.get('type') if isinstance(sampler, Mapping) else sampler
    name = given if isinstance(given, str) else f'{given.__module__.split(".")[0]}.{given.__name__}'
    if name not in ('AspectRatioBatchSampler', 'mmdet.AspectRatioBatchSampler', OWN_SAMPLER):
        raise ValueError(
            f'train_dataloader.batch_sampler.type={given!r} may group images by a rule of its own, which '
            f'{plan.accumulate} passes per step would break; use AspectRatioBatchSampler or none, or as many GPUs as '
            'need no accumulation'
        )
    wrong = sorted({'batch_size', 'group_size'} & set(sampler))
    if wrong and not (wrong == ['group_size'] and _loop_accumulate(cfg) > 1):
        raise ValueError(
            f'train_dataloader.batch_sampler.{wrong[0]}={sampler[wrong[0]]!r}: the launcher sets it; state '
            'train_dataloader.batch_size only'
        )


def _unit() -> str:
    return 'GPU' if torch.cuda.is_available() else 'process'


def _processes(count: int) -> str:
    return _count(count, 'GPU') if torch.cuda.is_available() else f'{count} process{"" if count == 1 else "es"}'


def _count(count: int, unit: str) -> str:
    return f'{count} {unit}{"" if count == 1 else "s"}'
