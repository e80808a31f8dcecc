"""The model of a config, and the work that is timed on it: backbone, inference, training step."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from backbones.classes_setting import apply_classes
from backbones.config import AMP_KEYS, dicts_in, load_config
from backbones.measure import synthetic_batch
from backbones.runner import config_mistakes
from backbones.weights.load import is_pretrained

OBJECTS = 8  # in a made-up training image; COCO's have 7.3 on average
PASSING = 300  # class scores above the threshold in a made-up test image, as a trained detector has some hundreds
RATE = 1e-6  # learning rate of the timed steps: noise must not drive the weights to where nothing is finite
ALL = 1 << 20  # more than there are anchors
STIRRED = 0.1  # standard deviation of what is added to parameters that all start at one value
RANDOM = re.compile('DropPath|Dropout|StochasticDepth')  # classes of modules that draw numbers in training


def read(config: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Compose a config and take out of its model what needs files or several processes.

    Raises:
        ValueError: it cannot be composed, or has no model with a backbone.
    """
    cfg = load_config(config, options)
    apply_classes(cfg)
    if not (cfg.get('model') or {}).get('backbone'):
        raise ValueError(f'config {config} has no model with a backbone; give that of a detector or a segmenter')
    for node in dicts_in(cfg.model):
        init = node.get('init_cfg')
        if any(is_pretrained(entry) for entry in (init if isinstance(init, list) else [init])):
            node.pop('init_cfg')
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
    return cfg


def build(cfg: Config, model: dict | None = None) -> nn.Module:
    """Build the config's model, or another one in its scope, with the weights that its heads start from."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with config_mistakes(cfg):
        built = MODELS.build(copy.deepcopy(cfg.model if model is None else model))
        built.init_weights()
    return built


def stir(module: nn.Module) -> None:
    """Add noise to the parameters that start at one value: layer scales of 1e-6, GRN at 0, tables of positions.

    Else a block would add next to nothing, and a difference between two implementations of it would not show.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(STIRRED * torch.randn(parameter.shape, generator=generator))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MMEngine from printing how parameters start, that weights are random, and the optimiser's groups."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        yield
    finally:
        logger.setLevel(level)


def is_slid(model: nn.Module) -> bool:
    """Whether a segmenter is tested crop by crop."""
    return (getattr(model, 'test_cfg', None) or {}).get('mode') == 'slide'


# --- what is run ----------------------------------------------------------------------------------


def test_batch(model: nn.Module, size: tuple[int, int], batch: int) -> dict[str, list]:
    """Images of noise, as the data loader gives them in a test."""
    data = synthetic_batch(model, size, batch, objects=1)
    data['data_samples'] = [type(sample)(metainfo=sample.metainfo) for sample in data['data_samples']]
    return data


def train_batch(model: nn.Module, size: tuple[int, int], batch: int) -> dict[str, list]:
    """Images of noise with made-up annotations."""
    return synthetic_batch(model, size, batch, objects=OBJECTS)


def seen_size(model: nn.Module, data: dict[str, list], *, training: bool) -> tuple[int, int]:
    """(H, W) of the images that the backbone gets: padded by the data preprocessor."""
    return tuple(model.data_preprocessor(dict(data), training)['inputs'].shape[-2:])


def backbone_run(backbone: nn.Module, images: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """One forward pass for the maps."""

    def run() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(backbone(images))

    return run


def inference_run(model: nn.Module, data: dict[str, list]) -> Callable[[], list]:
    """`test_step`, its masks encoded as the evaluation does where they come as bitmaps."""

    def run() -> list:
        with torch.no_grad():
            samples = model.test_step(dict(data, data_samples=[sample.clone() for sample in data['data_samples']]))
        for sample in samples:
            found = sample.get('pred_instances')
            if found is not None and isinstance(found.get('masks'), Tensor):
                from mmdet.structures.mask import encode_mask_results

                found.masks = encode_mask_results(found.masks.detach().cpu().numpy())
        return samples

    return run


def train_run(model: nn.Module, data: dict[str, list], wrapper: OptimWrapper) -> Callable[[], dict]:
    """`train_step`: forward, backward, step of the optimiser."""
    return lambda: model.train_step(dict(data), wrapper)


def own_optimiser(cfg: Config, model: nn.Module, changes: dict[str, Any]) -> OptimWrapper:
    """The optimiser of the config in fp32, unless `changes` to `optim_wrapper` say otherwise."""
    settings = copy.deepcopy(cfg.get('optim_wrapper') or {})
    settings['type'] = str(settings.get('type', 'OptimWrapper')).replace('AmpOptimWrapper', 'OptimWrapper')
    for key in (*AMP_KEYS, 'accumulative_counts'):
        settings.pop(key, None)
    settings.update(changes)
    settings.setdefault('optimizer', dict(type='AdamW'))['lr'] = RATE
    with config_mistakes(cfg):
        return build_optim_wrapper(model, settings)


def stock_optimiser(model: nn.Module) -> OptimWrapper:
    """AdamW as MMEngine builds it for a config with a `paramwise_cfg`: one group for each parameter.

    https://github.com/open-mmlab/mmengine/blob/v0.10.7/mmengine/optim/optimizer/default_constructor.py#L204-L307
    """
    return build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=RATE, weight_decay=0.05),
        paramwise_cfg=dict(norm_decay_mult=0.0)))


def first_losses(model: nn.Module, data: dict[str, list], wrapper: OptimWrapper) -> dict[str, float]:
    """Losses and gradient norm of one pass that learns from all anchors and RoIs; nothing is updated."""
    model.train()
    with _repeatable(model):
        with wrapper.optim_context(model):
            losses = model(**model.data_preprocessor(dict(data), True), mode='loss')
        loss, named = model.parse_losses(losses)
        loss.backward()
    gradients = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    wrapper.zero_grad()
    found = {name: float(value.detach()) for name, value in named.items() if 'loss' in name}
    return dict(found, **{'gradient norm': float(torch.stack(gradients).float().norm())})


@contextlib.contextmanager
def _repeatable(model: nn.Module) -> Iterator[None]:
    """Samplers take all there is, dropout and stochastic depth are off."""
    samplers = list(_samplers(model))
    numbers = [sampler.num for sampler in samplers]
    off = [module for module in model.modules() if RANDOM.search(type(module).__name__) and module.training]
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for sampler in samplers:
        sampler.num = ALL
    for module in off:
        module.training = False
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for sampler, number in zip(samplers, numbers, strict=True):
            sampler.num = number
        for module in off:
            module.training = True


def _samplers(model: nn.Module) -> Iterator[Any]:
    """What draws anchors and RoIs: each implementation by random numbers of its own."""
    for head in (getattr(model, 'rpn_head', None), getattr(model, 'roi_head', None)):
        found = [getattr(head, 'sampler', None), getattr(head, 'bbox_sampler', None)]
        for sampler in (one for item in found for one in (item if isinstance(item, list) else [item])):
            if hasattr(sampler, 'num'):
                yield sampler


# --- detections from random weights ---------------------------------------------------------------


def usual_threshold(model: nn.Module, data: dict[str, list]) -> float | None:
    """The score that about `PASSING` class scores of an image exceed; None for a model without box heads.

    With random weights none or all pass the threshold of the config, and the time of suppression and masks would be
    that of no real image. Set it on both sides with `set_threshold`.
    """
    if not hasattr(getattr(model, 'roi_head', None), 'bbox_head'):
        return None
    heads = model.roi_head.bbox_head
    heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
    seen: list[Tensor] = []
    hooks = [head.register_forward_hook(lambda module, given, out: seen.append(out[0])) for head in heads]
    before = model.roi_head.test_cfg.score_thr
    set_threshold(model, 2.0)  # nothing passes
    try:
        inference_run(model, data)()
    finally:
        set_threshold(model, before)
        for hook in hooks:
            hook.remove()
    scores = torch.stack(seen).float().mean(0).softmax(-1)[:, :-1].flatten()  # (RoIs of all images x classes)
    wanted = min(PASSING * len(data['inputs']), len(scores))
    return float(scores.topk(wanted).values[-1]) if wanted else None


def set_threshold(model: nn.Module, value: float | None) -> None:
    """Set the score that a detection needs; None leaves it."""
    if value is not None:
        model.roi_head.test_cfg.score_thr = value
