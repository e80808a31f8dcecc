"""Training steps on a copy of a run's model, with the optimiser and the precision of its config."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.data.randomness import seed_generators
from backbones.precision.compute import compute_in
from backbones.training.precision import PrecisionHook
from backbones.weights.load import is_pretrained
from backbones.weights.sources import resolve

from .undisturbed import bare, shortened
from .worst_case import ANY_SIZE

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """What one pass and its update gave.

    Attributes:
        losses: by name, `loss` their sum.
        without: trainable parameters without a gradient.
        odd: parameters whose gradient is not finite.
        scaled: by how much the loss was multiplied before the backward pass.
        seconds: of forward and backward pass.
        update: seconds of the optimiser.
    """

    losses: dict[str, float]
    without: tuple[str, ...]
    odd: tuple[str, ...]
    scaled: float
    seconds: float
    update: float

    @property
    def loss(self) -> float:
        """The sum of the losses."""
        return self.losses['loss']

    @property
    def odd_losses(self) -> list[str]:
        """Names of the losses that are not finite; the sum only if it is alone."""
        odd = [name for name, value in self.losses.items() if not math.isfinite(value)]
        return [name for name in odd if name != 'loss'] or odd


class Rehearsal:
    """A copy of the model of a built run, to step on.

    Attributes:
        model: the copy, on the device of the run.
        notes: what is not as it will be in the run.
        average: whether the run keeps an average of its weights, which takes as much memory as they do.
        find_unused: whether the config allows parameters without a gradient.
        copied: bytes of the weights of the run's own model, which lie beside the copy.
    """

    def __init__(self, runner: Runner) -> None:
        original = bare(runner.model)
        self.copied = _bytes(original)
        self.model = copy.deepcopy(original)
        self.notes: list[str] = []
        self._start_weights()
        hook = next((hook for hook in runner.hooks if isinstance(hook, PrecisionHook)), None)
        self.precision = runner.cfg.get('precision')
        if hook is not None:
            compute_in(self.model, self.precision or 'fp32', hook.channels_last)
        if runner.cfg.get('load_from'):
            self.notes.append(f'without the weights of load_from={runner.cfg.load_from!r}')
        self.find_unused = bool(runner.cfg.get('find_unused_parameters', False))
        self.average = any(type(hook).__name__.endswith('EMAHook') for hook in runner.hooks)
        self._settings = copy.deepcopy(runner.cfg.optim_wrapper)
        self._settings.pop('accumulative_counts', None)  # the passes of a step are counted by the caller
        self._kept = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.wrapper = self._wrapper()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.model.parameters()).device

    def _start_weights(self) -> None:
        """What the Runner does at the start of the training, but for downloads."""
        for module in self.model.modules():
            init = getattr(module, 'init_cfg', None)
            entries = init if isinstance(init, list | tuple) else [init] if init else []
            absent = [entry for entry in entries if is_pretrained(entry) and not _is_here(entry.get('checkpoint'))]
            if absent and not getattr(module, 'is_init', False):
                module.init_cfg = [entry for entry in entries if entry not in absent]
                self.notes.append(f'from random weights, as {absent[0].get("checkpoint")} is not on this machine')
        try:
            self.model.init_weights()
        except Exception as error:  # another check says what is wrong with the weights
            self.notes.append(f'from other weights than the run, as those cannot be loaded ({shortened(error, 120)})')

    def _wrapper(self) -> OptimWrapper:
        wrapper = build_optim_wrapper(self.model, self._settings)
        if not isinstance(wrapper, OptimWrapper):
            raise ValueError(
                f'optim_wrapper is an {type(wrapper).__name__}: the steps of several optimisers are the model\'s own '
                'and are not rehearsed; train some iterations to see them')
        return wrapper

    def reset(self, factor: float = 1.0) -> None:
        """Go back to the weights of the start, with a new optimiser at `factor` times its learning rates."""
        self.model.load_state_dict(self._kept)
        self.wrapper = self._wrapper()
        for group in self.wrapper.optimizer.param_groups:
            group['lr'] *= factor

    @property
    def rate(self) -> float:
        """The largest learning rate of all groups."""
        return max(float(group['lr']) for group in self.wrapper.optimizer.param_groups)

    def step(self, batch: dict[str, Any], seed: int = 0) -> Step:
        """Forward, backward, update; the random numbers are the same for the same seed."""
        seed_generators(seed)
        if self.device.type == 'cuda':
            torch.cuda.manual_seed(seed)
        self.model.train()
        batch = copy.deepcopy(batch)
        start = self._now()
        with self.wrapper.optim_context(self.model):
            data = self.model.data_preprocessor(batch, True)
            losses = self.model._run_forward(data, mode='loss')
        total, named = self.model.parse_losses(losses)
        self.wrapper.backward(self.wrapper.scale_loss(total))
        between = self._now()
        without, odd = self._gradients()
        scaler = getattr(self.wrapper, 'loss_scaler', None)
        scaled = float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else 1.0
        before = self._now()
        self.wrapper.step()
        self.wrapper.zero_grad()
        update = self._now() - before
        values = {name: float(torch.as_tensor(value).detach()) for name, value in named.items() if 'loss' in name}
        return Step(dict(values, loss=float(total.detach())), without, odd, scaled, between - start, update)

    def _gradients(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        without = tuple(name for name, p in trainable if p.grad is None)
        there = [(name, p.grad) for name, p in trainable if p.grad is not None]
        finite = torch.stack([_values(grad).isfinite().all() for _, grad in there]).tolist() if there else []
        return without, tuple(name for (name, _), fine in zip(there, finite, strict=True) if not fine)

    def _now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def states(self) -> int:
        """Bytes of what the optimiser keeps."""
        state = self.wrapper.optimizer.state
        return sum(value.numel() * value.element_size() for values in state.values() for value in values.values()
                   if isinstance(value, Tensor))


def _is_here(checkpoint: Any) -> bool:
    try:
        return resolve(checkpoint).target.is_file()
    except (ValueError, OSError):
        return False


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def measured(run: Callable[[], Step], device: torch.device) -> tuple[Step, int | None, int | None]:
    """A step, the memory at its peak (bytes in all), and by how much it raised what was in use; None if not known."""
    from backbones.benchmark.peaks import memory_peak

    found: list[Step] = []
    peak = memory_peak(lambda: found.append(run()), device)
    return found[0], peak.total, peak.added


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or bool(
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)))


def free_memory() -> int | None:
    """Bytes that this process can still take on the host, by the system and by its control group."""
    found = []
    try:
        text = Path('/proc/meminfo').read_text()
        found.append(1024 * int(re.search(r'MemAvailable:\s+(\d+)', text)[1]))
    except (OSError, TypeError):
        pass
    for top in (Path('/sys/fs/cgroup'),):
        try:
            limit, used = ((top / name).read_text().strip() for name in ('memory.max', 'memory.current'))
            found.append(int(limit) - int(used))
        except (OSError, ValueError):  # no control groups, or no limit ('max')
            pass
    return min(found) if found else None


# --- smaller ----------------------------------------------------------------------------------------


def multiple_of(model: nn.Module) -> int:
    """Images whose sides are multiples of this suit the model."""
    patch = getattr(getattr(model, 'backbone', None), 'patch_size', None)
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    return 4 * patch if isinstance(patch, int) and ANY_SIZE % patch else ANY_SIZE


def smaller(size: tuple[int, int], factor: float, multiple: int) -> tuple[int, int]:
    """(H, W) times `factor`, in multiples; never larger than it is."""
    return tuple(min(side, max(multiple, round(side * factor / multiple) * multiple)) for side in size)


def unpadded(preprocessor: nn.Module, size: tuple[int, int], multiple: int) -> None:
    """Let a data preprocessor leave batches smaller than it would pad them to."""
    if getattr(preprocessor, 'size', None) is not None:
        preprocessor.size = size
    for name in ('pad_size_divisor', 'size_divisor'):
        if (getattr(preprocessor, name, None) or 0) > multiple:
            setattr(preprocessor, name, multiple)
    if getattr(preprocessor, 'buckets', None) is not None:
        preprocessor.buckets = None
    augments = getattr(preprocessor, 'batch_augments', None)
    if isinstance(augments, list | nn.ModuleList):
        kept = [one for one in augments if not re.search('Resize|Pad', type(one).__name__)]
        preprocessor.batch_augments = type(augments)(kept) if kept else None


def shrunk(batch: dict[str, list], size: tuple[int, int]) -> dict[str, list]:
    """The pictures of a batch resized to fit into `size`, with their boxes, masks and labels."""
    inputs, samples = [], []
    for image, sample in zip(batch['inputs'], copy.deepcopy(batch['data_samples']), strict=True):
        h, w = image.shape[-2:]
        factor = min(1.0, size[0] / h, size[1] / w)
        new = max(1, int(h * factor)), max(1, int(w * factor))
        inputs.append(nn.functional.interpolate(image[None].float(), new, mode='bilinear')[0].to(image.dtype))
        if 'gt_sem_seg' in sample:
            key = 'data' if 'data' in sample.gt_sem_seg else 'sem_seg'
            labels = getattr(sample.gt_sem_seg, key)  # (1, H, W)
            resized = nn.functional.interpolate(labels[None].float(), new, mode='nearest')[0].to(labels.dtype)
            sample.gt_sem_seg = type(sample.gt_sem_seg)(**{key: resized})
        for name in ('gt_instances', 'ignored_instances'):
            if name in sample:
                _shrink_instances(getattr(sample, name), (new[1] / w, new[0] / h), new)
        sample.set_metainfo(dict(img_shape=new, pad_shape=new, batch_input_shape=new))
        samples.append(sample)
    return dict(batch, inputs=inputs, data_samples=samples)


def _shrink_instances(instances: Any, scale: tuple[float, float], size: tuple[int, int]) -> None:
    if 'bboxes' in instances:
        boxes = instances.bboxes
        if isinstance(boxes, Tensor):
            instances.bboxes = boxes * boxes.new_tensor([*scale, *scale])
        else:
            boxes.rescale_(scale)
    if 'masks' in instances:
        instances.masks = instances.masks.resize(size)
