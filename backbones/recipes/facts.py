"""What a composed config does, in the words of the cards: read from its values, not from what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from backbones.config import is_segmenter
from backbones.flops import on_meta
from backbones.recipes.schedule import schedulers

PRECISIONS = {'float16': 'fp16', 'bfloat16': 'bf16'}
DEPTH_METHODS = {'layer_wise': 'get_layer_depth', 'stage_wise': 'get_stage_depth'}


def facts(cfg: Config) -> dict[str, Any]:
    """Every fact that a card states and a config decides, under the card's names.

    The backbone is built on the meta device, for its number of layers.

    Raises:
        ValueError: something in the config has no words here.
    """
    backbone = cfg.model.backbone
    wrapper = cfg.optim_wrapper
    return dict(
        init=init_of(backbone),
        batch=cfg.get('total_batch'),
        per_gpu=cfg.train_dataloader.batch_size,
        schedule=schedule_of(cfg),
        warmup=warmup_of(cfg),
        lr=wrapper.optimizer.lr,
        weight_decay=wrapper.optimizer.get('weight_decay', 0.0),
        no_weight_decay=spared_of(wrapper),
        decay=decay_of(cfg),
        drop_path=backbone.get('drop_path_rate', 0.0),
        precision=cfg.get('precision') or precision_of(wrapper),
        clip=(wrapper.get('clip_grad') or {}).get('max_norm'),
        ema=ema_of(cfg),
        frozen=is_frozen(cfg),
        train=train_of(cfg),
        test=test_of(cfg),
    )


def init_of(backbone: dict) -> str | None:
    """File name, `org/repository` or short name of the pretrained weights."""
    checkpoint = (backbone.get('init_cfg') or {}).get('checkpoint')
    if checkpoint is None:
        return None
    address = urlsplit(checkpoint)
    if address.netloc == 'huggingface.co':
        return '/'.join(address.path.strip('/').split('/')[:2])
    return address.path.rpartition('/')[2] if address.scheme in ('http', 'https') else checkpoint


def schedule_of(cfg: Config) -> str:
    """Length of the training and the shape of the learning rate after the warm-up."""
    loop = cfg.train_cfg
    length = f'{loop.max_epochs} epochs' if 'max_epochs' in loop else f'{loop.max_iters} iterations'
    shapes = [_shape(scheduler) for scheduler in schedulers(cfg) if not _is_warmup(scheduler)]
    return ', '.join([length, *shapes])


def _is_warmup(scheduler: dict) -> bool:
    return scheduler['type'] == 'LinearLR' and scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0)


def _shape(scheduler: dict) -> str:
    kind = scheduler['type']
    if kind == 'MultiStepLR':
        return f'steps at {" and ".join(map(str, scheduler["milestones"]))}'
    if kind == 'PolyLR':
        return f'poly {scheduler.get("power", 1.0)} to {scheduler.get("eta_min", 0.0):g}'
    if kind == 'CosineAnnealingLR':
        return f'cosine to {scheduler.get("eta_min", 0.0):g}'
    raise ValueError(f'param_scheduler {kind} has no words for a card; use MultiStepLR, PolyLR or CosineAnnealingLR')


def warmup_of(cfg: Config) -> str | None:
    """Iterations and first factor of the warm-up."""
    for scheduler in schedulers(cfg):
        if _is_warmup(scheduler):
            unit = 'epochs' if scheduler.get('by_epoch', True) else 'iterations'
            return f'{scheduler["end"]} {unit} from {scheduler.get("start_factor", 1 / 3):g}'
    return None


def spared_of(wrapper: dict) -> str | None:
    """What is spared from weight decay: the rule's name, or the parts of names."""
    paramwise = wrapper.get('paramwise_cfg') or {}
    if _decays_by_layer(wrapper):
        return paramwise.get('weight_decay_rule') or 'of the backbone'
    keys = [key for key, setting in (paramwise.get('custom_keys') or {}).items() if setting.get('decay_mult') == 0]
    return ', '.join(sorted(keys)) or None


def _decays_by_layer(wrapper: dict) -> bool:
    return str(wrapper.get('constructor', '')).endswith('LayerDecayOptimWrapperConstructor')


def decay_of(cfg: Config) -> str | None:
    """Layer-wise decay and the number of layers that the backbone has for it, stem and head aside."""
    paramwise = cfg.optim_wrapper.get('paramwise_cfg') or {}
    if not _decays_by_layer(cfg.optim_wrapper) or paramwise.get('decay_rate') == 1:
        return None
    kind = paramwise.get('decay_type', 'layer_wise')
    backbone = _backbone(cfg)
    name = next(name for name, _ in backbone.named_parameters())
    layers = getattr(backbone, DEPTH_METHODS[kind])(name)[1] - 2
    return f'{kind} {paramwise["decay_rate"]}, {layers} layers'


def precision_of(wrapper: dict) -> str:
    """Precision that the optimiser wrapper really uses: a key `fp16` beside it does nothing."""
    if not str(wrapper.get('type', 'OptimWrapper')).endswith('AmpOptimWrapper'):
        return 'fp32'
    return PRECISIONS[wrapper.get('dtype') or 'float16']


def ema_of(cfg: Config) -> float | None:
    """Momentum of the averaged weights that are evaluated."""
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if str(hook['type']).endswith('EMAHook')]
    return hooks[0].get('momentum', 0.0002) if hooks else None


def is_frozen(cfg: Config) -> bool:
    """Whether no part of the backbone learns."""
    return not any(value.requires_grad for value in _backbone(cfg).parameters())


def _backbone(cfg: Config) -> nn.Module:
    """The backbone in shapes only."""
    with on_meta(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model.backbone.to_dict() | {'init_cfg': None})


# --- images -------------------------------------------------------------------------------------------------


def _steps(pipeline: list) -> Iterator[dict]:
    """Every transform of a pipeline, those of each choice in turn."""
    for step in pipeline:
        if step['type'] == 'RandomChoice':
            for branch in step['transforms']:
                yield from _steps(branch)
        else:
            yield step


def _by_x(size: Any) -> str:
    return f'{size[0]} x {size[1]}'


def train_of(cfg: Config) -> str:
    """Sizes of the training images: multi-scale sides, jittering and crop."""
    steps: dict[str, list[dict]] = {}
    for step in _steps(cfg.train_dataloader.dataset.pipeline):
        steps.setdefault(step['type'], []).append(step)
    words = []
    if 'RandomChoiceResize' in steps:  # the last one decides the size
        short, long = zip(*steps['RandomChoiceResize'][-1]['scales'], strict=True)
        words.append(f'short side {min(min(short), min(long))}..{min(max(short), max(long))}, long side {max(long)}')
    elif 'RandomResize' in steps:
        step = steps['RandomResize'][0]
        low, high = step.get('ratio_range', (1.0, 1.0))
        words.append(f'{_by_x(step["scale"])} times {low}..{high}')
    elif 'Resize' in steps:
        words.append(_by_x(steps['Resize'][0]['scale']))
    if 'RandomCrop' in steps and 'RandomChoiceResize' not in steps:
        words.append(f'crop {_by_x(steps["RandomCrop"][0]["crop_size"])}')
    return ', '.join(words) or 'as they are'


def test_of(cfg: Config) -> str:
    """Size of the tested images, and whether they are covered whole or by windows."""
    resize = [step for step in cfg.test_dataloader.dataset.pipeline if step['type'] == 'Resize']
    words = [_by_x(resize[0]['scale'])] if resize else ['as they are']
    mode = cfg.model.get('test_cfg') or {}
    if is_segmenter(cfg):
        slides = mode.get('mode', 'whole') == 'slide'
        words.append(f'slide {_by_x(mode["crop_size"])} by {_by_x(mode["stride"])}' if slides else 'whole')
    elif mode.get('rcnn', {}).get('nms', {}).get('type') == 'soft_nms':
        words.append('soft-NMS')
    return ', '.join(words)
