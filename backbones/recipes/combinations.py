"""Settings of a config that are each allowed, but not together: found from the config alone.

Each check is a mistake that trains, or fails late, with a message about something else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from backbones.config import dicts_in
from backbones.layer_decay import DEPTH_METHODS, PARAMWISE_KEYS
from backbones.weight_decay import WEIGHT_DECAY_RULES
from backbones.weights.load import is_pretrained

LAYER_DECAY = 'LayerDecayOptimWrapperConstructor'
ONLY_LAYER_DECAY = [key for key in PARAMWISE_KEYS if key != 'custom_keys']
CANVAS = 256  # a pad_size_divisor from here on fixes the size of every image, as ViTDet's 1024 does


def combination_findings(cfg: Config) -> list[str]:
    """One sentence for every contradiction between settings of a composed config; nothing is built."""
    findings: list[str] = []
    for check in (_sizes, _frozen, _cascade, _slide, _preprocessing, _optimiser, _ema, _intervals, _workers):
        findings += check(cfg)
    return findings


# --- the model ----------------------------------------------------------------------------------------------


def _sizes(cfg: Config) -> Iterator[str]:
    """Patches, tables of relative positions and crops that do not fit the images that the model sees."""
    preprocessor = _part(cfg, 'model', 'data_preprocessor')
    sizes = dict(_training_sizes(cfg))
    backbone = _part(cfg, 'model', 'backbone')
    if _bare(backbone) == 'VisionTransformer':
        patch = backbone.get('patch_size', 16)
        for place, size in {**sizes, **dict(_test_sizes(cfg))}.items():
            if isinstance(patch, int) and patch > 0 and any(side % patch for side in size):
                near = ' or '.join(str(_whole(size, patch, up)) for up in (False, True))
                yield (
                    f'model.backbone.patch_size={patch} does not divide {place}={_shown(size)}; set {place}='
                    f'{near}, or choose a backbone with other patches'
                )
        yield from _detector_crop(cfg, patch)
        table = _pair(backbone.get('img_size'))
        if table and backbone.get('rel_pos', 'none') != 'none':
            for place, size in sizes.items():
                if size != table:
                    yield (
                        f'model.backbone.img_size={_shown(table)} sizes the relative positions, but the model trains '
                        f'on {place}={_shown(size)}; set model.backbone.img_size={_shown(size)}'
                    )
    canvas, crop = _pair(preprocessor.get('size')), _crop(cfg)
    if canvas and crop and any(inner > outer for inner, outer in zip(crop, canvas, strict=True)):
        yield (
            f'the training crops are {_shown(crop)} (RandomCrop.crop_size) and model.data_preprocessor.size='
            f'{_shown(canvas)} is smaller, so that they do not fit into a batch; make the two equal'
        )


def _detector_crop(cfg: Config, patch: Any) -> Iterator[str]:
    """Crops of a detector, padded to the next multiple of a small pad_size_divisor, that end in a part of a patch."""
    crop, divisor = _last_crop(cfg), _part(cfg, 'model', 'data_preprocessor').get('pad_size_divisor') or 1
    numbers = all(isinstance(number, int) and number > 0 for number in (patch, divisor))
    if crop is None or 'decode_head' in _part(cfg, 'model') or not numbers or divisor >= CANVAS:
        return
    padded = _whole(crop, divisor, up=True)
    if any(side % patch for side in _pair(padded)):
        near = ' or '.join(str(_whole(crop, patch, up)) for up in (False, True))
        pad = f' padded to {padded} (model.data_preprocessor.pad_size_divisor={divisor})' if divisor > 1 else ''
        also = f' and model.data_preprocessor.pad_size_divisor={patch}' if divisor > 1 else ''
        yield (
            f'model.backbone.patch_size={patch} does not divide the training crops, RandomCrop.crop_size='
            f'{_shown(crop)}{pad}; set RandomCrop.crop_size={near}{also}, or choose a backbone with other patches'
        )


def _last_crop(cfg: Config) -> tuple[int, int] | None:
    """(H, W) of a RandomCrop of fixed size that no resizing follows."""
    crop = None
    for data in dicts_in(cfg.get('train_dataloader')):
        for step in data.get('pipeline') or ():
            if _bare(step) == 'RandomCrop':
                crop = _pair(step.get('crop_size')) if step.get('crop_type', 'absolute') == 'absolute' else None
            elif 'Resize' in _bare(step) or _bare(step) in ('RandomChoice', 'RandomApply', 'Pad'):
                crop = None
    return crop


def _training_sizes(cfg: Config) -> Iterator[tuple[str, tuple[int, int]]]:
    """Place and value of the setting that fixes the size of training images, as far as one does."""
    preprocessor = _part(cfg, 'model', 'data_preprocessor')
    divisor = preprocessor.get('pad_size_divisor')
    if _pair(preprocessor.get('size')):
        yield 'model.data_preprocessor.size', _pair(preprocessor['size'])
    elif isinstance(divisor, int) and divisor >= CANVAS:
        yield 'model.data_preprocessor.pad_size_divisor', (divisor, divisor)
    elif 'decode_head' in _part(cfg, 'model') and _crop(cfg):
        yield 'RandomCrop.crop_size', _crop(cfg)


def _test_sizes(cfg: Config) -> Iterator[tuple[str, tuple[int, int]]]:
    """Place and value of the settings that fix the size of tested images or windows."""
    test_cfg = _part(cfg, 'model', 'test_cfg')
    if test_cfg.get('mode') == 'slide' and _pair(test_cfg.get('crop_size')):
        yield 'model.test_cfg.crop_size', _pair(test_cfg['crop_size'])
    divisor = _part(cfg, 'model', 'data_preprocessor', 'test_cfg').get('size_divisor')
    if isinstance(divisor, int):
        yield 'model.data_preprocessor.test_cfg.size_divisor', (divisor, divisor)


def _frozen(cfg: Config) -> Iterator[str]:
    """Frozen layers that nothing has trained."""
    backbone = _part(cfg, 'model', 'backbone')
    frozen, given = backbone.get('frozen_stages', -1), backbone.get('init_cfg')
    entries = given if isinstance(given, list | tuple) else [given]
    whole = _part(cfg, 'model').get('init_cfg') or cfg.get('load_from') or cfg.get('resume')
    trained = whole or backbone.get('pretrained') or any(is_pretrained(entry) for entry in entries)
    if isinstance(frozen, int) and frozen >= 0 and not trained:
        yield (
            f'model.backbone.frozen_stages={frozen} keeps layers as they are, and no weights are loaded into them: '
            "they would stay random; add init_cfg=dict(type='Pretrained', checkpoint=...), or set frozen_stages=-1"
        )


def _cascade(cfg: Config) -> Iterator[str]:
    """As many box heads and training settings as stages."""
    roi_head = _part(cfg, 'model', 'roi_head')
    stages = roi_head.get('num_stages')
    lists = {
        'roi_head.bbox_head': roi_head.get('bbox_head'),
        'roi_head.stage_loss_weights': roi_head.get('stage_loss_weights'),
        'train_cfg.rcnn': _part(cfg, 'model', 'train_cfg').get('rcnn'),
    }
    for name, value in lists.items():
        if isinstance(stages, int) and isinstance(value, list | tuple) and len(value) != stages:
            yield (
                f'model.roi_head.num_stages={stages}, but model.{name} has {len(value)} entries; give one for each '
                'stage, or set num_stages'
            )


def _slide(cfg: Config) -> Iterator[str]:
    """Sliding windows that have a size and overlap."""
    test_cfg = _part(cfg, 'model', 'test_cfg')
    mode = test_cfg.get('mode')
    if 'decode_head' not in _part(cfg, 'model') or mode is None:
        return
    if mode not in ('slide', 'whole') and _bare(_part(cfg, 'model')) == 'EncoderDecoder':
        yield f"model.test_cfg.mode={mode!r} is unknown; choose 'slide' or 'whole'"
    if mode != 'slide':
        return
    missing = [key for key in ('crop_size', 'stride') if test_cfg.get(key) is None]
    if missing:
        yield (
            f"model.test_cfg.mode='slide' needs {' and '.join(missing)}; give both, such as crop_size=(512, 512), "
            "stride=(341, 341), or mode='whole'"
        )
        return
    stock = _bare(_part(cfg, 'model')) in ('EncoderDecoder', 'CascadeEncoderDecoder')
    wrong = [key for key in ('crop_size', 'stride') if not _is_window(test_cfg[key], pair=stock)]
    for key in wrong:
        yield (
            f'model.test_cfg.{key}={test_cfg[key]!r} must be a pair of whole numbers, rows and columns, of at least 1: '
            'windows have a size and move on; give for example crop_size=(512, 512), stride=(341, 341)'
        )
    if wrong:
        return
    crop, stride = _pair(test_cfg['crop_size']), _pair(test_cfg['stride'])
    if crop and stride and any(step > side for step, side in zip(stride, crop, strict=True)):
        yield (
            f'model.test_cfg.stride={_shown(stride)} is larger than crop_size={_shown(crop)}: pixels between the '
            'windows would have no prediction; give a stride of at most crop_size (two thirds of it in the published '
            'recipes)'
        )


def _is_window(size: Any, pair: bool) -> bool:
    """Whether it is a size in pixels; mmseg's own segmentors take it as a pair only."""
    sides = _pair(size)
    return sides is not None and min(sides) > 0 and not (pair and isinstance(size, int))


# --- images -------------------------------------------------------------------------------------------------


def _preprocessing(cfg: Config) -> Iterator[str]:
    """Images that are normalised twice, zero labels that are told two things."""
    mean = _part(cfg, 'model', 'data_preprocessor').get('mean')
    for split in ('train', 'val', 'test'):
        if split == 'test' and cfg.get('test_dataloader') == cfg.get('val_dataloader'):
            continue
        place = f'{split}_dataloader'
        for step in _steps(cfg.get(place)):
            if _bare(step) == 'Normalize' and mean is not None:
                yield (
                    f'{place}: the pipeline has a Normalize and model.data_preprocessor has a mean, too: images would '
                    'be normalised twice; leave out Normalize (and a Pad after it: the data_preprocessor pads)'
                )
        for data in dicts_in(cfg.get(place)):
            said = data.get('reduce_zero_label')
            if 'pipeline' not in data or said is None:
                continue
            for step in dicts_in(data['pipeline']):
                if step.get('reduce_zero_label') not in (None, said):
                    yield (
                        f'{place}: the data set has reduce_zero_label={said} and {step.get("type")} has '
                        f'reduce_zero_label={step["reduce_zero_label"]}; say it in the data set only'
                    )


def _workers(cfg: Config) -> Iterator[str]:
    """Workers that cannot persist."""
    for split in ('train', 'val', 'test'):
        if split == 'test' and cfg.get('test_dataloader') == cfg.get('val_dataloader'):
            continue
        loader = _part(cfg, f'{split}_dataloader')
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key) and loader.get('num_workers', 0) == 0:
                yield (
                    f'{split}_dataloader.{key}={loader[key]} needs workers, and num_workers is 0; set num_workers to 1 '
                    f'or more, or {key}={"False" if key == "persistent_workers" else "None"}'
                )


# --- the schedule -------------------------------------------------------------------------------------------


def _optimiser(cfg: Config) -> Iterator[str]:
    """Options of the layer decay, and mixed precision."""
    wrapper = _part(cfg, 'optim_wrapper')
    options = _part(wrapper, 'paramwise_cfg')
    constructor = str(wrapper.get('constructor') or 'DefaultOptimWrapperConstructor')
    place = 'optim_wrapper.paramwise_cfg'
    if constructor.rpartition('.')[2] == LAYER_DECAY and 'num_layers' in options:
        yield (
            f'{place}.num_layers={options["num_layers"]!r} is not needed: the backbone knows how many layers it has; '
            'remove num_layers'
        )
    yield from _named_options(options, constructor.rpartition('.')[2], place)
    rate = options.get('decay_rate')
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate <= 1):
        yield (
            f'{place}.decay_rate={rate!r} is not in (0, 1]; give for example 0.7 (each layer learns at 0.7 of the rate '
            'of the layer above), or 1.0 for equal learning rates'
        )
    given = [key for key in ONLY_LAYER_DECAY if key in options]
    if given and constructor.rpartition('.')[2] == 'DefaultOptimWrapperConstructor':
        yield (
            f'{place} has {", ".join(given)}, which {constructor} ignores; set optim_wrapper.constructor='
            f"'backbones.{LAYER_DECAY}', or remove {'it' if len(given) == 1 else 'them'}"
        )
    if _bare(wrapper).endswith('AmpOptimWrapper'):
        dtype = wrapper.get('dtype')  # None is float16 on a GPU
        if dtype not in (None, 'float16', 'bfloat16'):
            yield f"optim_wrapper.dtype={dtype!r} is no precision of AmpOptimWrapper; give 'float16' or 'bfloat16'"


def _named_options(options: Mapping[str, Any], constructor: str, place: str) -> Iterator[str]:
    """Options of the layer decay that are chosen by name."""
    choices = {'decay_type': DEPTH_METHODS}
    if constructor == LAYER_DECAY:
        choices['weight_decay_rule'] = WEIGHT_DECAY_RULES
    elif constructor != 'LearningRateDecayOptimizerConstructor':  # that of mmdet and mmseg
        return
    for key, known in choices.items():
        given = options.get(key)
        if given is None or (isinstance(given, str) and given in known):
            continue
        near = difflib.get_close_matches(str(given), list(known), 1)
        hint = f'did you mean {near[0]!r}? There' if near else 'there'
        yield f'{place}.{key}={given!r} is unknown; {hint} are {", ".join(map(repr, known))}'


def _ema(cfg: Config) -> Iterator[str]:
    """Averages of the weights that follow the newest ones, or start twice."""
    for hook in dicts_in([cfg.get('custom_hooks'), cfg.get('default_hooks')]):
        if _bare(hook) != 'EMAHook':
            continue
        momentum = hook.get('momentum', 0.0002)
        if not isinstance(momentum, int | float) or not 0 < momentum < 0.5:
            other = f' ({1 - momentum:.6g} is the decay {momentum!r})' if _in_unit(momentum) else ''
            yield (
                f'EMAHook.momentum={momentum!r}: MMEngine means the share of the newest weights, not the decay; give a '
                f'small number, such as 0.0002{other}'
            )
        if hook.get('begin_iter') and hook.get('begin_epoch'):
            yield (
                f'EMAHook has begin_iter={hook["begin_iter"]} and begin_epoch={hook["begin_epoch"]}; give one of them'
            )


def _intervals(cfg: Config) -> Iterator[str]:
    """Schedulers and checkpoints that count epochs, where the loop counts iterations and has no epochs."""
    if _bare(_part(cfg, 'train_cfg')) != 'IterBasedTrainLoop':
        return
    schedulers = cfg.get('param_scheduler') or []
    for index, scheduler in enumerate(schedulers if isinstance(schedulers, list | tuple) else [schedulers]):
        if not isinstance(scheduler, Mapping) or 'type' not in scheduler or not scheduler.get('by_epoch', True):
            continue
        # MMEngine converts the one, and steps the other after each validation
        if not scheduler.get('convert_to_iter_based') and not _bare(scheduler).startswith('ReduceOnPlateau'):
            yield (
                f'param_scheduler[{index}] ({scheduler["type"]}) counts epochs, but train_cfg is an '
                'IterBasedTrainLoop, which has none: the learning rate would never change; set by_epoch=False and '
                'count iterations'
            )
    hook = _part(cfg, 'default_hooks').get('checkpoint', {'type': 'CheckpointHook', 'interval': 1}) or {}
    default = {'CheckpointHook': True, 'SafeCheckpointHook': None}  # None counts as the loop does
    counts_epochs = _bare(hook) in default and hook.get('by_epoch', default[_bare(hook)])
    if counts_epochs and hook.get('interval') != 'validation':
        yield (
            f'default_hooks.checkpoint saves every {hook.get("interval", -1)} epochs, but train_cfg is an '
            'IterBasedTrainLoop, which has none: nothing would be saved on the way; set by_epoch=False and '
            'an interval in iterations'
        )


# --- helpers ------------------------------------------------------------------------------------------------


def _part(node: Any, *keys: str) -> Mapping[str, Any]:
    """A dict inside a config; an empty one where it is absent or no dict, which keys.py finds."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict | Config) else None
    return node if isinstance(node, dict) else {}


def _bare(node: Any) -> str:
    """The name of the class of a typed dict, without its scope."""
    kind = node.get('type', '') if isinstance(node, dict) else ''
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _pair(size: Any) -> tuple[int, int] | None:
    """A size as (H, W); None where it is no size."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return tuple(size)
    return None


def _crop(cfg: Config) -> tuple[int, int] | None:
    """(H, W) of the last RandomCrop of fixed size in the training pipeline."""
    crops = [
        _pair(step.get('crop_size'))
        for step in _steps(cfg.get('train_dataloader'))
        if _bare(step) == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute'
    ]
    return crops[-1] if crops else None


def _steps(loader: Any) -> Iterator[dict]:
    """Every transform of the data sets of a dataloader."""
    for data in dicts_in(loader):
        if 'pipeline' in data:
            yield from dicts_in(data['pipeline'])


def _shown(size: Sequence[int]) -> str:
    return str(size[0]) if size[0] == size[1] else str(tuple(size))


def _whole(size: Sequence[int], patch: int, up: bool) -> int | tuple[int, ...]:
    """The nearest size in whole patches: up to `size`, or from it on."""
    sides = tuple((-(-side // patch) if up else max(side // patch, 1)) * patch for side in size)
    return sides[0] if sides[0] == sides[1] else sides


def _in_unit(value: Any) -> bool:
    return isinstance(value, int | float) and 0.5 <= value < 1
