"""Hold every dict with a `type` against the arguments of the class that it names, without building it."""

from __future__ import annotations

import difflib
import inspect
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine import registry as roots
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from backbones.layer_decay import CUSTOM_KEYS, PARAMWISE_KEYS, LayerDecayOptimWrapperConstructor
from backbones.recipes import names
from backbones.recipes.lookup import (
    Kinds,
    bare_name,
    config_arguments,
    find,
    is_a,
    keywords_read,
    kind_names,
    listed,
    mro,
    nearest,
    reads_init_cfg,
    registered,
    scope_is_missing,
    shown_name,
)
from backbones.signatures import argument_names
from backbones.weights.load import INIT_CFG_KEYS

MODEL: Kinds = (roots.MODELS, roots.TASK_UTILS)
# Dicts under these keys are of another kind than the class around them. A kind that is not here, such as a hook, is
# searched for typed dicts no further than this table says.
SLOTS: dict[str, dict[str, Kinds]] = {
    'model': {'init_cfg': (roots.WEIGHT_INITIALIZERS,)},
    'dataset': {'pipeline': (roots.TRANSFORMS,)},
    'transform': {},
    'hook': {'switch_pipeline': (roots.TRANSFORMS,)},
    'visualizer': {'vis_backends': (roots.VISBACKENDS,)},
    'evaluator': {'metrics': (roots.METRICS,)},
}
DEEP = {'model', 'dataset', 'transform'}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxdict = _short.maxlist = _short.maxtuple = 4


def typed_findings(cfg: Config) -> list[str]:
    """One sentence for every key below the top level that no class takes, and for every unknown class."""
    scope = cfg.get('default_scope') or 'mmengine'
    if scope_is_missing(scope):
        return [f'default_scope={scope!r} is no installed package of OpenMMLab; give mmdet or mmseg']
    check = _Check(scope)
    for key in ('model', 'tta_model'):
        if cfg.get(key):
            check.built(cfg[key], key, MODEL)
    check.data_preprocessor(cfg.get('data_preprocessor'), _dict(cfg.get('model')).get('data_preprocessor'))
    for split in ('train', 'val', 'test'):
        if split != 'test' or cfg.get('test_dataloader') != cfg.get('val_dataloader'):
            check.dataloader(cfg.get(f'{split}_dataloader'), f'{split}_dataloader')
        if split != 'test' or cfg.get('test_evaluator') != cfg.get('val_evaluator'):
            check.evaluator(cfg.get(f'{split}_evaluator'), f'{split}_evaluator')
        check.loop(cfg.get(f'{split}_cfg'), split)
    check.optim_wrapper(cfg.get('optim_wrapper'), 'optim_wrapper')
    check.built(cfg.get('param_scheduler'), 'param_scheduler', (roots.PARAM_SCHEDULERS,), {'convert_to_iter_based'})
    check.default_hooks(cfg.get('default_hooks'))
    check.built(cfg.get('custom_hooks'), 'custom_hooks', (roots.HOOKS,), {'priority'})
    check.built(cfg.get('visualizer'), 'visualizer', (roots.VISUALIZERS,), default='Visualizer')
    check.built(cfg.get('log_processor'), 'log_processor', (roots.LOG_PROCESSORS,), default='LogProcessor')
    check.built(cfg.get('model_wrapper_cfg'), 'model_wrapper_cfg', (roots.MODEL_WRAPPERS,))
    for key, allowed in names.RUNNER_DICTS.items():
        check.keys(cfg.get(key), key, allowed, f"MMEngine's Runner reads no such key of {key}")
    check.keys(
        cfg.get('randomness'), 'randomness', argument_names(Runner.set_randomness),
        "MMEngine's set_randomness takes no such argument",
    )
    return check.findings


class _Check:
    """Collects findings; `place` is always the dotted place in the config."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.findings: list[str] = []

    # --- one dict

    def built(
        self, node: Any, place: str, kinds: Kinds, extra: Iterable[str] = (), default: str | None = None
    ) -> None:
        """Check what a builder makes objects of: a dict with a type, or a list of them."""
        if isinstance(node, list | tuple):
            for index, child in enumerate(node):
                self.built(child, f'{place}[{index}]', kinds, extra, default)
        elif isinstance(node, dict) and ('type' in node or default):
            self.typed(node, place, kinds, extra, default=default)
        elif isinstance(node, str | int | float) and not isinstance(node, bool):
            self.findings.append(f'{place}={node!r} is no dict; give dict(type=...) with a {kinds[0].name}')
        elif isinstance(node, dict):
            near = difflib.get_close_matches('type', map(str, node), 1)
            given = f', but {near[0]!r}' if near else ''
            self.findings.append(
                f"{place} has no 'type'{given}; name its class, a {kinds[0].name}, by type, or remove the dict"
            )

    def typed(
        self, node: dict, place: str, kinds: Kinds, extra: Iterable[str] = (), parent: Any = None,
        default: str | None = None,
    ) -> None:
        """Hold the keys of one typed dict against its class, and go on with what is in it."""
        before = self.scope
        self.scope = node.get('_scope_', self.scope)
        try:
            cls = self.look_up(node.get('type', default), f'{place}.type', kinds)
            if cls is not None:
                self._hold(node, place, cls, set(extra) | names.BUILDER_KEYS.get(_last(place), set()), kinds, parent)
            if not any(is_a(cls, name) for name in names.OWN_TYPES):
                self.children(node, place, kinds, cls)
        finally:
            self.scope = before

    def _hold(self, node: dict, place: str, cls: Any, extra: set[str], kinds: Kinds, parent: Any) -> None:
        """Check the keys of a dict whose class is known."""
        allowed = config_arguments(cls, kinds) | extra
        if kinds[0] is roots.WEIGHT_INITIALIZERS and is_a(cls, 'PretrainedInit') and hasattr(parent, 'weight_family'):
            allowed = set(INIT_CFG_KEYS)  # our backbones load by themselves
        forward = next((names.FORWARDS[c.__name__] for c in mro(cls) if c.__name__ in names.FORWARDS), None)
        if is_a(cls, 'CheckpointHook'):
            allowed |= argument_names(Runner.save_checkpoint)
        elif forward is not None:
            kind = (roots.MODELS,) if kinds[0] is roots.HOOKS else kinds
            other = self.look_up(node.get(forward[0], forward[1]), f'{place}.{forward[0]}', kind)
            if other is None:
                return
            allowed |= argument_names(other)
        elif keywords_read(cls) is None or any(c.__name__ in names.UNCHECKED for c in mro(cls)):
            return
        else:
            allowed |= keywords_read(cls)
        self.keys(node, place, allowed | {'type', '_scope_'}, f'{shown_name(node, cls)} takes no such argument')
        _untyped(self, node, place, cls)

    def children(self, node: Any, place: str, kinds: Kinds, parent: Any = None) -> None:
        """Look for typed dicts inside `node`."""
        slots = SLOTS.get(kinds[0].name, {})
        if isinstance(node, list | tuple):
            items = [(f'{place}[{index}]', None, child) for index, child in enumerate(node)]
        else:
            items = [(f'{place}.{key}', key, child) for key, child in node.items()]
        for where, key, child in items:
            if not isinstance(child, dict | list | tuple) or key in names.OWN_DICTS:
                continue
            if key in names.OPERATORS and isinstance(child, dict):
                self.operator(child, where, key)
            elif key in slots:
                self.entries(child, where, slots[key], parent)
            elif kinds[0].name in DEEP:
                if isinstance(child, dict) and 'type' in child:
                    self.typed(child, where, kinds, parent=parent)
                else:
                    self.children(child, where, kinds, parent)

    def entries(self, node: Any, place: str, kinds: Kinds, parent: Any) -> None:
        """Check a typed dict, or those in a list, which may hold lists."""
        if isinstance(node, dict) and 'type' in node:
            self.typed(node, place, kinds, parent=parent)
        elif isinstance(node, dict) and not (kinds[0] is roots.WEIGHT_INITIALIZERS and reads_init_cfg(parent)):
            self.built(node, place, kinds)
        for index, child in enumerate(node if isinstance(node, list | tuple) else ()):
            self.entries(child, f'{place}[{index}]', kinds, parent)

    def operator(self, node: dict, place: str, key: str) -> None:
        """Check a dict that names an operator of mmcv: `nms` a function, `roi_layer` a class."""
        from mmcv import ops

        kind = node.get('type', 'nms')
        found = kind if callable(kind) else getattr(ops, str(kind), None)
        if not callable(found):
            near = difflib.get_close_matches(str(kind), [name for name in dir(ops) if callable(getattr(ops, name))], 1)
            self.findings.append(
                f'{place}.type={kind!r} is no operator of mmcv.ops; '
                f'{f"write {near[0]!r}" if near else "give nms or soft_nms, RoIAlign or RoIPool"}'
            )
            return
        extra = set() if key == 'roi_layer' else names.NMS_KEYS - argument_names(found)
        allowed = (argument_names(found) - {'boxes', 'scores'}) | extra | {'type'}  # the caller fills these two
        self.keys(node, place, allowed, f'mmcv.ops.{kind} takes no such argument')

    def keys(self, node: Any, place: str, allowed: Iterable[str], rule: str) -> None:
        """Find the keys of a dict that are not allowed."""
        if node is not None and not isinstance(node, dict):
            self.findings.append(f'{place}={_short.repr(node)} is no dict; give dict(...), or remove it')
            return
        for key in node or ():
            if key in allowed:
                continue
            if key in names.OLD_KEYS:
                self.old_key(node, place, key)
                continue
            meant = nearest(str(key), sorted(set(allowed) - {'_scope_'}))
            remedy = f'did you mean {meant[0]!r}? Rename it' if meant else f'choose among {listed(allowed)}'
            self.findings.append(f'{place}.{key}={_short.repr(_plain(node[key]))}: {rule}; {remedy}, or remove it')

    def old_key(self, node: dict, place: str, key: str) -> None:
        """Name what replaces a key of the old code bases."""
        value = _short.repr(_plain(node[key]))
        self.findings.append(
            f'{place}.{key}={value} is an old name (MMCV 1.x, mmdet 2.x, mmseg 0.x); {names.OLD_KEYS[key]} instead'
        )

    # --- classes

    def look_up(self, kind: Any, place: str, kinds: Kinds) -> Callable[..., Any] | None:
        """Find the class of a `type`, or add a finding and return None."""
        if not isinstance(kind, str):
            if not callable(kind):
                self.findings.append(f'{place}={kind!r} is neither the name of a class nor a class; give one of both')
                return None
            return kind
        scope, _, bare = kind.rpartition('.')
        for root in kinds:
            try:
                found = find(root, self.scope, kind)
            except ImportError as error:  # of a module that holds classes of this kind
                self.findings.append(f'{place}={kind!r} cannot be looked up: {error}; install what is missing')
                return None
            if callable(found):
                return found
        if bare in names.OLD_TYPES:
            self.findings.append(
                f'{place}={kind!r} is an old class (MMCV 1.x, mmdet 2.x, mmseg 0.x); {names.OLD_TYPES[bare]}'
            )
            return None
        top = scope.split('.')[0]
        if top and scope_is_missing(top):
            known = difflib.get_close_matches(top, ('mmdet', 'mmseg', 'mmpretrain', 'mmengine', 'backbones'), 1)
            hint = f'did you mean {known[0]}.{bare}? Otherwise install' if known and known[0] != top else 'install'
            self.findings.append(f'{place}={kind!r}: package {top!r} is not installed; {hint} {top}')
            return None
        self.findings.append(f'{place}={kind!r} is no {kind_names(kinds)} of {top or self.scope}; '
                             f'{self._near_class(top, bare, kinds)}')
        return None

    def _near_class(self, scope: str, bare: str, kinds: Kinds) -> str:
        """Tell the nearest registered name, in the given scope and in our own."""
        for own in dict.fromkeys((scope or self.scope, 'backbones')):
            there = {name for root in kinds for name in registered(root, own)}
            near = difflib.get_close_matches(bare, sorted(there), 1, 0.6 if own != 'backbones' else 0.8)
            ours = own != 'backbones' and any(bare in registered(root, 'backbones') for root in kinds)
            if near and not ours:
                prefix = f'{own}.' if own == 'backbones' or scope else ''
                return f'did you mean {prefix + near[0]!r}?'
        there = sorted({name for root in kinds for name in registered(root, scope or self.scope)})
        listed = f'there {"are" if len(there) > 1 else "is"} {", ".join(there)}' if 0 < len(there) <= 20 else ''
        return listed or f'correct the name, or put the package that has it in front, as in package.{bare}'

    # --- sections of the config

    def dataloader(self, node: Any, place: str) -> None:
        """Check a dataloader, its data set, samplers and functions."""
        if not isinstance(node, dict):
            return
        allowed = argument_names(DataLoader) | names.DATALOADER_KEYS
        self.keys(node, place, allowed, "neither torch's DataLoader nor MMEngine takes it")
        for key, kind in {
            'dataset': roots.DATASETS, 'sampler': roots.DATA_SAMPLERS, 'batch_sampler': roots.DATA_SAMPLERS,
            'collate_fn': roots.FUNCTIONS, 'worker_init_fn': roots.FUNCTIONS,
        }.items():
            self.built(node.get(key), f'{place}.{key}', (kind,))

    def evaluator(self, node: Any, place: str) -> None:
        """Check an evaluator: a metric, a list of metrics, or an Evaluator with its metrics."""
        if isinstance(node, dict) and 'metrics' in node and not self._is_metric(node.get('type')):
            self.typed(node, place, (roots.EVALUATOR,), default='Evaluator')
        else:
            self.built(node, place, (roots.METRICS,))

    def _is_metric(self, kind: Any) -> bool:
        """Whether a type is a metric, so that `metrics` beside it is no part of an Evaluator, but a typo."""
        try:
            return isinstance(kind, str) and find(roots.METRICS, self.scope, kind) is not None
        except ImportError:  # look_up tells
            return False

    def loop(self, node: Any, split: str) -> None:
        """Check train_cfg, val_cfg or test_cfg."""
        if not isinstance(node, dict):
            return
        default = {'train': 'EpochBasedTrainLoop' if node.get('by_epoch', True) else 'IterBasedTrainLoop'}
        extra = {'by_epoch'} if split == 'train' and 'type' not in node else set()
        self.typed(node, f'{split}_cfg', (roots.LOOPS,), extra, default=default.get(split, f'{split.title()}Loop'))

    def default_hooks(self, node: Any) -> None:
        """Check the default hooks; MMEngine takes any name, so that a misspelt one is a second hook."""
        for name, hook in _dict(node).items():
            if isinstance(hook, str | int | float | list | tuple):
                self.findings.append(f'default_hooks.{name}={hook!r} is no hook; give dict(...); None leaves it out')
                continue
            self.built(hook, f'default_hooks.{name}', (roots.HOOKS,), {'priority'})
            meant = difflib.get_close_matches(name, names.DEFAULT_HOOKS, 1, 0.8)
            # `checkpoint_best`, `logger2`: a further hook, named after the default one
            further = any(name.startswith(known) and not name[len(known) :].isalpha() for known in names.DEFAULT_HOOKS)
            if meant and name not in names.DEFAULT_HOOKS and not further:
                self.findings.append(
                    f"default_hooks.{name} is none of MMEngine's default hooks, so it would run beside "
                    f'{meant[0]!r} and not in its place; did you mean {meant[0]!r}? Rename it, or move it to '
                    'custom_hooks'
                )

    def data_preprocessor(self, node: Any, own: Any) -> None:
        """Check the top-level data preprocessor, which is that of the model if the model has none of its own."""
        if own is None:
            self.built(node, 'data_preprocessor', MODEL)
        elif isinstance(node, dict):  # keys.py finds that it is dead; what both have is checked in the model
            further = {key: value for key, value in node.items() if key not in own or key == 'type'}
            self.built({'type': _dict(own).get('type'), **further}, 'data_preprocessor', MODEL)

    def optim_wrapper(self, node: Any, place: str) -> None:
        """Check the optimiser wrapper, its optimiser, clipping and parameter-wise options."""
        if not isinstance(node, dict) or 'optimizer' not in node:
            return  # several wrappers in one dict are for their constructor to know
        self.typed(
            node, place, (roots.OPTIM_WRAPPERS,), {'constructor', 'paramwise_cfg'}, default='OptimWrapper'
        )
        self.built(node['optimizer'], f'{place}.optimizer', (roots.OPTIMIZERS,))
        clip = node.get('clip_grad')
        by_value = _dict(clip).get('type', 'norm') == 'value'
        function = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
        self.keys(
            clip, f'{place}.clip_grad', argument_names(function) - {'parameters'} | {'type'},
            f"torch's {function.__name__} takes no such argument")
        name = node.get('constructor') or 'DefaultOptimWrapperConstructor'
        cls = self.look_up(name, f'{place}.constructor', (roots.OPTIM_WRAPPER_CONSTRUCTORS,))
        options = node.get('paramwise_cfg')
        if cls is DefaultOptimWrapperConstructor:
            allowed = names.DEFAULT_PARAMWISE | set(PARAMWISE_KEYS)  # layer decay's: see combinations.py
        elif inspect.isclass(cls) and issubclass(cls, LayerDecayOptimWrapperConstructor):
            allowed = set(PARAMWISE_KEYS)
        elif getattr(cls, '__name__', '') == 'LearningRateDecayOptimizerConstructor':
            allowed = names.STOCK_DECAY_PARAMWISE
        else:
            return
        self.keys(options, f'{place}.paramwise_cfg', allowed, f'{cls.__name__} has no such option')
        for key, setting in _dict(_dict(options).get('custom_keys')).items():
            where = f'{place}.paramwise_cfg.custom_keys[{key!r}]'
            self.keys(setting, where, CUSTOM_KEYS, 'a parameter has no such setting')


def _untyped(check: _Check, node: dict, place: str, cls: Any) -> None:
    """Check the dicts without a type that a class reads by name."""
    if is_a(cls, 'TwoStageDetector'):
        for name, parts in names.TWO_STAGE.items():
            given = node.get(name)
            parts_here = {*parts, *(('panoptic',) if is_a(cls, 'TwoStagePanopticSegmentor') else ())}
            check.keys(given, f'{place}.{name}', parts_here, f'a two-stage detector reads no such part of {name}')
            given = given if isinstance(given, dict) else {}
            plain = bare_name(_dict(node.get('rpn_head')).get('type')) == 'RPNHead'
            for part, allowed in parts.items():
                if part != 'rcnn' and not plain:
                    continue  # an RPN of another kind reads more
                settings = given.get(part) or {}
                for index, one in enumerate(settings if isinstance(settings, list | tuple) else [settings]):
                    where = f'{place}.{name}.{part}' + (f'[{index}]' if one is not settings else '')
                    check.keys(one, where, allowed, 'neither the detector nor its heads read it')
    for base, allowed in names.TEST_CFG.items():
        if shown_name(node, cls) == base:  # classes derived from it have heads that read more
            check.keys(node.get('test_cfg'), f'{place}.test_cfg', allowed, f'{base} does not read it')
    for base, dicts in names.DATASET_DICTS.items():
        if is_a(cls, base):
            for name, allowed in dicts.items():
                check.keys(node.get(name), f'{place}.{name}', allowed, f'{cls.__name__} does not read it')
    metainfo = node.get('metainfo')
    for old in ('CLASSES', 'PALETTE') if isinstance(metainfo, dict) else ():
        if old in metainfo:
            check.old_key(metainfo, f'{place}.metainfo', old)


def _dict(node: Any) -> dict:
    return node if isinstance(node, dict) else {}


def _last(place: str) -> str:
    return place.rpartition('.')[2].partition('[')[0]


def _plain(value: Any) -> Any:
    """MMEngine's ConfigDict as a dict, which shows itself shortly."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list) else value
