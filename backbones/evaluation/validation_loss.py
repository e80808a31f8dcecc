"""The losses of a model on a validation or test split: what training minimises, on pictures it has not seen.

One picture at a time, model in eval mode, no gradients, the geometry of the split's own pipeline. What a loss draws at
random (the samples of RPN and RoI heads) is seeded by the picture's number, so that the same weights give the same
numbers; generators and statistics of a training stay as they were.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from backbones.config import is_segmenter
from backbones.precision.compute import unwrapped
from backbones.registry import HOOKS
from backbones.runner import config_mistakes

from .tiles import LABEL_LOADERS

SEED = 0


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Measure the losses of the validation split at each evaluation: `val/loss` and its parts beside the metrics.

    With EMA, they are of the averaged weights, as the metrics are. The training goes on as without the hook, bit by
    bit.

    Args:
        split: 'val', or 'test' for `tools/test.py --loss`.
    """

    priority = 'HIGHEST'  # before EMAHook takes the averages out, and before anybody reads the metrics

    def __init__(self, split: str = 'val') -> None:
        if split not in ('val', 'test'):
            raise ValueError(f"ValidationLossHook: split={split!r}; choose 'val' or 'test'")
        self.split, self.data, self._measured = split, None, None

    def measure(self, runner: Runner) -> dict[str, float]:
        """Losses by name, `loss` being their sum."""
        if self.data is None:
            self.data = loss_data(runner.cfg, self.split)
        model = unwrapped(runner.model)
        self._measured = measure_losses(model, self.data, workers=_workers(runner.cfg, self.split))
        wrong = sorted(name for name, value in self._measured.items() if not math.isfinite(value))
        if wrong:
            runner.logger.warning(f'{", ".join(wrong)} of the {self.split} split: no finite number')
        return self._measured

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the losses to the metrics."""
        if self.split == 'val' and metrics is not None:
            metrics.update(self.measure(runner))
            for name in self._measured:  # MMEngine's log would give the mean of all evaluations
                runner.message_hub.log_scalars.pop(f'val/{name}', None)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add what was measured before the model was made fast."""
        if self.split == 'test' and metrics is not None:
            metrics.update(self._measured or self.measure(runner))


def _workers(cfg: Config, split: str) -> int:
    return int(cfg[f'{split}_dataloader'].get('num_workers') or 0)


def loss_data(cfg: Config, split: str) -> Any:
    """The data set of a split with annotations that have the size of what the network sees.

    Raises:
        ValueError: it has none, or the model no settings of training.
    """
    if not (cfg.model.get('module') or cfg.model).get('train_cfg') and not is_segmenter(cfg):
        raise ValueError(f'the losses of {cfg.filename} need model.train_cfg, which it has not')
    section = copy.deepcopy(cfg[f'{split}_dataloader'].dataset)
    inner = section
    while 'pipeline' not in inner and isinstance(inner.get('dataset'), dict):
        inner = inner.dataset
    if 'pipeline' not in inner:
        raise ValueError(f'the losses of the {split} split need a pipeline; the data set {inner.get("type")} has none')
    inner.pipeline = loss_pipeline(inner.pipeline, _has_masks(cfg), split)
    with config_mistakes(cfg), _untouched_generators():
        data = DATASETS.build(section)
        getattr(data, 'full_init', lambda: None)()
    if not len(data):
        raise ValueError(f'the {split} split has no pictures, so there is no loss')
    if not is_segmenter(cfg) and hasattr(data, 'get_data_info') and not any(
            data.get_data_info(number).get('instances') for number in range(len(data))):
        raise ValueError(f'the annotations of the {split} split have no objects, so there is no loss; leave it out')
    return data


def _has_masks(cfg: Config) -> bool:
    model = cfg.model.get('module') or cfg.model
    return bool((model.get('roi_head') or {}).get('mask_head'))


def loss_pipeline(pipeline: list[dict], masks: bool, split: str = 'val') -> list[dict]:
    """A test pipeline whose annotations are loaded before the picture is resized, so that they are resized with it.

    Raises:
        ValueError: it loads none, or augments.
    """
    steps, kinds = [dict(step) for step in pipeline], [str(step['type']).rsplit('.', 1)[-1] for step in pipeline]
    # tiles and views are ways to predict; the loss is of the picture as it is
    for place, kind in enumerate(kinds):
        if kind == 'TileViews':
            return loss_pipeline([*steps[:place], *steps[place]['steps']], masks, split)
        if kind == 'TestTimeAug':
            raise ValueError(f'the losses of the {split} split and test-time augmentation do not go together')
    loaders = [step for step, kind in zip(steps, kinds, strict=True) if kind in LABEL_LOADERS]
    if len(loaders) != 1 or not kinds[0].startswith('LoadImage'):
        raise ValueError(
            f'the losses of the {split} split need a pipeline that loads the picture, then its annotations, once, and '
            f'it is {kinds}')
    loader = loaders[0]
    if 'with_mask' in loader or loader.get('with_bbox'):
        loader |= dict(with_bbox=True, with_mask=masks)
    return [steps[0], loader, *(step for step in steps[1:] if step is not loader)]


@torch.no_grad()
def measure_losses(model: nn.Module, data: Any, workers: int = 0) -> dict[str, float]:
    """Mean losses of a model over a data set of `loss_data`, shared among processes.

    Args:
        model: without DDP.
        data: the data set.
        workers: processes that read it.

    Returns:
        Each loss by its name, and `loss`, the sum of those that training adds up; `acc...` in percent.

    Raises:
        ValueError: the model is not able to give losses.
    """
    modes = {module: module.training for module in model.modules()}
    numbers = range(get_rank(), len(data), get_world_size())
    sums: dict[str, list[float]] = {}
    with _untouched_generators():
        model.eval()
        try:
            loader = DataLoader(Subset(data, numbers), collate_fn=pseudo_collate, num_workers=workers)
            for number, batch in zip(numbers, loader, strict=True):
                _seed(number)
                for name, value in _losses(model, batch).items():
                    sums.setdefault(name, []).append(value)
        finally:
            for module, training in modes.items():
                module.training = training
    everywhere = all_gather_object(sums)
    names = dict.fromkeys(name for found in everywhere for name in found)
    return {name: _mean([value for found in everywhere for value in found.get(name, [])]) for name in names}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else float(np.mean(values))


def _losses(model: nn.Module, batch: dict) -> dict[str, float]:
    """Losses of a batch of one picture."""
    data = model.data_preprocessor(batch, False)
    for sample in data['data_samples']:
        _pad_labels(sample, tuple(data['inputs'].shape[-2:]))
    found = model(**data, mode='loss')
    parsed, logged = model.parse_losses(found)
    return {name: float(value) for name, value in logged.items()} | dict(loss=float(parsed))


def _pad_labels(sample: Any, size: tuple[int, int]) -> None:
    """Bring label maps and masks to the padded size of the picture, which preprocessors do in training only."""
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data
        missing = [wanted - there for wanted, there in zip(size, labels.shape[-2:], strict=True)]
        if any(missing):
            sample.gt_sem_seg = type(sample.gt_sem_seg)(data=F.pad(labels, (0, missing[1], 0, missing[0]), value=255))
    for name in ('gt_instances', 'ignored_instances'):
        instances = getattr(sample, name, None)
        if instances is not None and 'masks' in instances and not isinstance(instances.masks, torch.Tensor):
            instances.masks = instances.masks.pad(size, pad_val=0)


def _seed(number: int) -> None:
    random.seed(SEED + number)
    np.random.seed((SEED + number) % 2**32)
    torch.manual_seed(SEED + number)


@contextlib.contextmanager
def _untouched_generators() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
