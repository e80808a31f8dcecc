"""What a config costs: parameters, multiply-adds, memory of a training step, time of an epoch; what makes it fit."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from backbones.classes_setting import apply_classes
from backbones.config import load_config
from backbones.flops import count_macs, count_params, on_meta
from backbones.image_sizes import ImageSizes, image_sizes
from backbones.known_images import known_images
from backbones.memory import Memory, training_memory
from backbones.runner import config_mistakes
from backbones.training.batch import plan_batch

# What the memory model leaves out: the CUDA context and workspaces of kernels, and the allocator's fragmentation.
# Assumed, not measured.
CONTEXT_BYTES, FRAGMENTATION = 2**30, 1.1
UNITS = {'': 1, 'K': 1000, 'M': 1000**2, 'G': 1000**3, 'T': 1000**4}


def parse_bytes(text: str) -> int:
    """Read a size such as 24G, 24GB, 24GiB or 24000M; cards are sold in GiB, so a bare G counts as GiB.

    Raises:
        ValueError: it is none, or less than a MiB, which has forgotten its unit.
    """
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)(I?B)?', text.strip().upper())
    if found is None or float(found[1]) == 0:
        raise ValueError(f'{text!r} is no size of memory; write it like 24G, 24GiB or 24000M')
    binary = found[3] == 'IB' or (found[2] == 'G' and not found[3])
    factor = 1024 ** 'KMGT'.index(found[2]) * 1024 if binary and found[2] else UNITS[found[2]]
    count = int(float(found[1]) * factor)
    if count < 2**20:
        raise ValueError(f'{text!r} is a memory of less than 1 MiB; is {found[1]}G meant?')
    return count


def parse_size(text: str) -> tuple[int, int]:
    """Read (H, W) off a text such as 800x1280.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r'([1-9]\d*)\s*[xX]\s*([1-9]\d*)', text.strip())
    if found is None:
        raise ValueError(f'{text!r} is no size of an image; write height x width in pixels, like 800x1280')
    return int(found[1]), int(found[2])


def budget(
    config: str | Path,
    options: dict[str, Any] | None = None,
    *,
    size: tuple[int, int] | None = None,
    gpu_memory: int | None = None,
    measure: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Count what a config costs, without data, without weights and, unless `measure` is given, without computing.

    Args:
        config: path of the config.
        options: dotted config keys to override.
        size: (H, W) of every image, in place of what the pipelines make at most.
        gpu_memory: bytes of one GPU; adds the table of what fits.
        measure: training steps to time on this machine, on made-up images.
        progress: gets a line about what comes next.

    Returns:
        `config`, `params`, `macs` at `train` and `test` size, `memory` of a step, `batch`, `epoch`, and `fits`; the
        last four are None and `missing` says why where the config does not say how it trains.

    Raises:
        ValueError: the config cannot be composed, built or counted; `measure` is negative.
    """
    if measure < 0:
        raise ValueError(f'--measure {measure} must be the number of training steps to time, 0 for none')
    cfg = load_config(config, options)
    apply_classes(cfg)
    if measure and _batch_missing(cfg):
        raise ValueError(f'--measure {measure} times training steps, but {_batch_missing(cfg)}')
    model = _build(cfg)
    sizes = image_sizes(cfg) if size is None else ImageSizes(size, size, size)
    progress('counting')
    with _countable(cfg, model):
        report = dict(
            config=str(config),
            params=count_params(model).as_dict(),
            trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            macs={name: dict(size=list(size), **count_macs(model, size).as_dict())
                  for name, size in (('train', sizes.train), ('test', sizes.test))},
            memory=None, batch=None, epoch=None, fits=None, missing=_batch_missing(cfg),
        )
    if report['missing']:
        return report
    plan = plan_batch(cfg, processes=1)
    setting = _Setting(cfg, sizes, plan.per_gpu, plan.total)
    with _countable(cfg, model):
        memory = setting.memory(model, setting.precision, plan.per_gpu, several_gpus=True)
    report.update(
        memory=dict(size=list(setting.size(plan.per_gpu)), precision=setting.precision, **memory.as_dict()),
        batch=dict(total=plan.total, per_gpu=plan.per_gpu),
        epoch=_epoch(cfg, plan.total),
    )
    report['memory']['per_image'] = _per_image(setting, model, memory)
    if gpu_memory is not None:
        report['gpu_memory'] = gpu_memory
        report['fits'] = list(_ways_to_fit(cfg, setting, gpu_memory, progress))
    if measure:
        report['epoch'].update(_measured(cfg, sizes.train, plan.per_gpu, measure, report['epoch'], progress))
    return report


def _build(cfg: Config, **backbone: Any) -> nn.Module:
    """Build the model in shapes, with other settings of its backbone."""
    if cfg.get('model') is None:
        raise ValueError(f'config {cfg.filename} has no model; give the config of a detector or a segmenter')
    if not {'roi_head', 'decode_head'} & set(cfg.model):
        raise ValueError(_not_countable(cfg, cfg.model.get('type')))
    settings = copy.deepcopy(cfg.model)
    if backbone:
        settings.backbone.update(backbone)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with config_mistakes(cfg), on_meta():
        return MODELS.build(settings)


def _not_countable(cfg: Config, kind: Any) -> str:
    name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    return (
        f'config {cfg.filename}: the model {name} cannot be counted; only two-stage detectors with RoI heads (Mask '
        "R-CNN, Cascade Mask R-CNN) and mmseg's EncoderDecoders with a decode head of maps can"
    )


@contextlib.contextmanager
def _countable(cfg: Config, model: nn.Module) -> Iterator[None]:
    """Turn what a model of another kind raises while it is counted into one sentence about the kinds that can be."""
    try:
        yield
    except (TypeError, AttributeError, KeyError, IndexError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f'{_not_countable(cfg, type(model))} ({type(error).__name__}: {error})') from error


def _batch_missing(cfg: Config) -> str | None:
    """What a config lacks, so that its training steps are unknown."""
    loader = cfg.get('train_dataloader')
    if loader and 'batch_size' in loader:
        return None
    what = 'train_dataloader.batch_size' if loader else 'train_dataloader'
    return f'config {cfg.filename} has no {what}; give it a train_dataloader=dict(batch_size=...), the images per GPU'


# --- memory ---------------------------------------------------------------------------------------


class _Setting:
    """How a config trains: precision, sizes, optimiser."""

    def __init__(self, cfg: Config, sizes: ImageSizes, per_gpu: int, total: int) -> None:
        wrapper = cfg.get('optim_wrapper') or {}
        amp = 'Amp' in str(wrapper.get('type', ''))
        self.precision = ('bf16' if 'bfloat16' in str(wrapper.get('dtype')) else 'fp16') if amp else 'fp32'
        self.optimiser = dict(wrapper.get('optimizer') or {'type': 'AdamW'})
        self.average = any(str(hook.get('type', '')).endswith('EMAHook') for hook in cfg.get('custom_hooks') or [])
        self.sizes, self.per_gpu, self.total = sizes, per_gpu, total

    def size(self, batch: int) -> tuple[int, int]:
        """Size to which a batch may be padded: beside a lying image, a standing one makes it a square."""
        return self.sizes.batch if batch > 1 else self.sizes.train

    def memory(
        self, model: nn.Module, precision: str, batch: int, size: tuple[int, int] | None = None, *,
        several_gpus: bool = False,
    ) -> Memory:
        return training_memory(
            model, size or self.size(batch), batch, precision=precision, optimiser=self.optimiser,
            average=self.average, accumulate=self.total > batch, several_gpus=several_gpus)


def _per_image(setting: _Setting, model: nn.Module, memory: Memory) -> int:
    """Activations that one more image of the same size adds."""
    count = setting.per_gpu + 1
    more = setting.memory(model, setting.precision, count, setting.size(setting.per_gpu), several_gpus=True)
    return more.activations - memory.activations


def _ways_to_fit(
    cfg: Config, setting: _Setting, gpu_memory: int, progress: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Each combination of precision, checkpointing and images at a time, as it is first, with the memory it needs."""
    precisions = [setting.precision, *(['bf16'] if setting.precision == 'fp32' else [])]
    divisors = [n for n in range(setting.per_gpu, 0, -1) if setting.total % n == 0]
    if setting.per_gpu == 1 and setting.total % 2 == 0:
        divisors.append(2)  # a BatchNorm over one value stops one image on one GPU
    has_cp = 'with_cp' in inspect.signature(type(_build(cfg).backbone)).parameters
    configured = bool(cfg.model.backbone.get('with_cp', False))
    checkpointing = [configured, True] if has_cp and not configured else [configured]
    for with_cp in checkpointing:
        model = _build(cfg, with_cp=with_cp) if has_cp else _build(cfg)
        for precision in precisions:
            for count in divisors:
                progress(f'{precision}, {count} images{", checkpointing" if with_cp else ""}')
                way = dict(precision=precision, with_cp=with_cp, per_gpu=count, accumulate=setting.total // count,
                           options=_options(cfg, setting, precision, with_cp, count))
                try:
                    peak = setting.memory(model, precision, count).peak
                except ValueError as error:  # a BatchNorm over one value, say: the real run would end there, too
                    yield dict(way, peak=None, need=None, fits=False, impossible=str(error))
                    continue
                need = math.ceil(peak * FRAGMENTATION) + CONTEXT_BYTES
                yield dict(way, peak=peak, need=need, fits=need <= gpu_memory)


def _options(cfg: Config, setting: _Setting, precision: str, with_cp: bool, count: int) -> list[str]:
    """The command-line options that make a config train so."""
    options = []
    if precision != setting.precision:
        options += ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16']
    if with_cp and not cfg.model.backbone.get('with_cp', False):
        options.append('model.backbone.with_cp=True')
    if count != setting.per_gpu:
        options.append(f'train_dataloader.batch_size={count}')
        if 'total_batch' not in cfg:
            options.append(f'optim_wrapper.accumulative_counts={setting.total // count}')
    return options


# --- time -----------------------------------------------------------------------------------------


def _epoch(cfg: Config, total: int) -> dict[str, Any]:
    """Images and optimiser steps of an epoch, and how many epochs the run has."""
    images, source = training_images(cfg)
    loop = cfg.get('train_cfg') or {}
    steps = None if images is None else math.ceil(images / total)
    epochs = loop.get('max_epochs')
    if epochs is None and steps and loop.get('max_iters'):
        epochs = round(loop['max_iters'] / steps, 2)
    return dict(images=images, source=source, steps=steps, epochs=epochs, steps_of_run=loop.get('max_iters') or (
        steps * epochs if steps and epochs else None))


def training_images(cfg: Config) -> tuple[int | None, str]:
    """Images that an epoch sees, and where the number comes from: what is known of COCO and ADE20K, or the data."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    known = known_images(dataset)
    if known is not None:
        return known[0], f'as {known[1]} has them'
    try:
        return len(DATASETS.build(dataset.to_dict())), 'counted in the data set'
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, f'the data set is not here ({dataset.get("data_root", "no data_root")})'


def _measured(
    cfg: Config, size: tuple[int, int], batch: int, steps: int, epoch: dict[str, Any], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds of a training step on this machine, and what an epoch and the run would take at that rate."""
    from backbones.measure import seconds_per_step

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    precision = _Setting(cfg, ImageSizes(size, size, size), batch, batch).precision if device == 'cuda' else 'fp32'
    progress(f'{steps + 1} training steps on {device}')
    with config_mistakes(cfg):
        model = MODELS.build(cfg.model).to(device)
    seconds = seconds_per_step(model, size, batch, steps, precision=precision)
    name = torch.cuda.get_device_name() if device == 'cuda' else f'this CPU, {torch.get_num_threads()} threads'
    per_image = seconds / batch
    return dict(
        device=name, measured_steps=steps, measured_batch=batch, measured_size=list(size), measured_precision=precision,
        seconds_per_image=per_image, seconds_per_pass=seconds,
        seconds_per_epoch=per_image * epoch['images'] if epoch['images'] else None)


# --- as text --------------------------------------------------------------------------------------


def format_budget(report: dict[str, Any]) -> str:
    """Aligned tables of what `budget` returns."""
    blocks = [report['config'], _costs(report)]
    if report['missing']:
        return '\n\n'.join([*blocks, f'memory and time are not counted: {report["missing"]}'])
    blocks += [_memory(report), _time(report)]
    if report['fits'] is not None:
        blocks.append(_fits(report))
    return '\n\n'.join(blocks)


def _costs(report: dict[str, Any]) -> str:
    rows = [['', 'backbone', 'neck', 'heads', 'total']]
    rows.append(['parameters', *(f'{report["params"][key] / 1e6:.2f}M' for key in rows[0][1:])])
    for name, macs in report['macs'].items():
        h, w = macs['size']
        rows.append([f'multiply-adds, {name}, {h} x {w}', *(f'{macs[key] / 1e9:,.1f}G' for key in rows[0][1:])])
    frozen = report['params']['total'] - report['trainable']
    return table(rows) + (f'\nof the parameters {frozen / 1e6:.2f}M are frozen' if frozen else '')


def _memory(report: dict[str, Any]) -> str:
    memory, batch = report['memory'], report['batch']
    h, w = memory['size']
    title = f'one training step, {batch["per_gpu"]} x {h} x {w}, {memory["precision"]}'
    names = dict(weights='weights', optimiser='optimiser states', activations='activations',
                 transient='gradients and temporaries at the peak', peak='peak')
    rows = [[title, 'GiB'], *([text, _gib(memory[key])] for key, text in names.items())]
    rows.append(['activations per further image', _gib(memory['per_image'])])
    return f'{table(rows)}\nwith several GPUs, DDP holds the gradients once more: {_gib(memory["gradients"])} GiB'


def _time(report: dict[str, Any]) -> str:
    epoch = report['epoch']
    if epoch['images'] is None:
        lines = [f'images per epoch: unknown, {epoch["source"]}']
    else:
        lines = [f'{epoch["images"]:,} images ({epoch["source"]}) / total batch {report["batch"]["total"]} = '
                 f'{epoch["steps"]:,} steps per epoch; the run has {epoch["epochs"]} epochs']
    if 'seconds_per_pass' not in epoch:
        return '\n'.join([*lines, 'time: not measured; add --measure 5'])
    h, w = epoch['measured_size']
    lines.append(
        f'measured: {epoch["seconds_per_pass"]:.3g} s for {epoch["measured_batch"]} x {h} x {w} in '
        f'{epoch["measured_precision"]} (median of {epoch["measured_steps"]}) on {epoch["device"]}')
    if epoch['seconds_per_epoch']:
        hours = epoch['seconds_per_epoch'] / 3600
        run = f', {hours * epoch["epochs"]:,.1f} h for the run' if epoch['epochs'] else ''
        lines.append(
            f'extrapolated to one device of this kind: {hours:,.1f} h per epoch{run}; images of the largest size, '
            'without loading, evaluation and checkpoints')
    return '\n'.join(lines)


def _fits(report: dict[str, Any]) -> str:
    rows = [['precision', 'checkpointing', 'images', 'accumulated', 'peak GiB', 'needed GiB', 'fits']]
    for way in report['fits']:
        rows.append([way['precision'], 'yes' if way['with_cp'] else 'no', str(way['per_gpu']), str(way['accumulate']),
                     _gib(way['peak']), _gib(way['need']), 'yes' if way['fits'] else 'no'])
    total, limit = report['batch']['total'], _gib(report['gpu_memory'])
    lines = [f'total batch {total} on one GPU of {limit} GiB; needed = peak x {FRAGMENTATION} + '
             f'{_gib(CONTEXT_BYTES)} GiB for what is not counted', table(rows)]
    problems = {way['impossible'] for way in report['fits'] if 'impossible' in way}
    lines += [f'impossible: {problem}' for problem in sorted(problems)]
    first = next((way for way in report['fits'] if way['fits']), None)
    if first is None:
        lines.append('none of these fits: take a smaller backbone or image, freeze stages, or use a larger GPU')
    elif first['options']:
        lines.append(f'the first that fits: --cfg-options {" ".join(first["options"])}')
    else:
        lines.append('it fits as it is')
    return '\n'.join(lines)


def _gib(count: int | None) -> str:
    return 'impossible' if count is None else f'{count / 2**30:.2f}'


def table(rows: list[list[str]]) -> str:
    """Align the first column left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                   zip(row[1:], widths[1:], strict=True))]) for row in rows]
    return '\n'.join(line.rstrip() for line in lines)
