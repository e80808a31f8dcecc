"""Layer-wise and stage-wise learning-rate decay: one optimiser constructor for every backbone that knows its depth.

Use it in any MMEngine project::

    optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
        constructor='backbones.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', weight_decay_rule='convnext'))

A backbone takes part by a method ``get_layer_depth(param_name, prefix) -> (layer_id, num_layers)``; its
parameters get the learning rate ``lr * decay_rate ** (num_layers - layer_id - 1)``, all other parameters of
the model get ``lr``. ``stage_wise`` asks ``get_stage_depth`` in the same way.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from backbones.parameter_groups import use_fused_kernels
from backbones.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from backbones.weight_decay import WEIGHT_DECAY_RULES, Param, rules_text

PARAMWISE_KEYS = ('decay_rate', 'decay_type', 'num_layers', 'weight_decay_rule', 'custom_keys')
CUSTOM_KEYS = ('lr_mult', 'decay_mult')
DEPTH_METHODS = {'layer_wise': 'get_layer_depth', 'stage_wise': 'get_stage_depth'}

# Used where paramwise_cfg names no rule and the backbone class has no `weight_decay_rule`. A plain ViT is not
# here: the published recipes of ViTDet, BEiT and MAE differ, so the config has to say which one it means.
FAMILY_RULES = {'ConvNeXt': 'convnext'}


@dataclass
class Group:
    """Parameters of equal learning rate and weight decay."""

    lr: float
    weight_decay: float
    lr_scale: float
    depths: set[str] = field(default_factory=set)
    params: list[Param] = field(default_factory=list)

    @property
    def depth(self) -> str:
        """Readable depth: `3`, or `0-13` where several depths share the settings."""
        numbers = sorted(int(depth) for depth in self.depths if depth.isdigit())
        words = [depth for depth in self.depths if not depth.isdigit()]
        return ', '.join(([f'{numbers[0]}-{numbers[-1]}'] if len(numbers) > 1 else [str(n) for n in numbers]) + words)


def _check_keys(given: dict, allowed: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f' (did you mean {close[0]!r}?)' if close else ''
            raise ValueError(f'{where} has the unknown key {key!r}{hint}; allowed are {list(allowed)}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_params(model: nn.Module) -> Iterator[Param]:
    """Yield every parameter of `model` once, under its first name (as `named_parameters` does)."""
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for leaf, value in module.named_parameters(recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield Param(f'{module_name}.{leaf}' if module_name else leaf, value, module)


def _find_backbones(model: nn.Module, method: str) -> dict[str, nn.Module]:
    """Find the outermost modules with `get_layer_depth(param_name, prefix)`, by their name in the model."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        # Asked of the class: a compiled module answers for the one inside it, whose parameters have other names.
        if not hasattr(type(module), method) or any(_is_inside(name, outer) for outer in found):
            continue
        # mmpretrain's classifiers have a method of this name too, without `prefix`; the backbone inside is meant.
        if 'prefix' in inspect.signature(getattr(type(module), method)).parameters:
            found[name] = module
    return found


def _is_inside(name: str, outer: str) -> bool:
    return outer == '' or name.startswith(f'{outer}.')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build an optimiser whose learning rates fall with the distance from the head.

    Parameters with equal learning rate and weight decay share one parameter group, each with the readable
    entries ``depth`` and ``lr_scale``. Frozen parameters are left out. The table of groups is logged once, on rank 0.

    Args:
        optim_wrapper_cfg: optimiser wrapper with its ``optimizer``, which states ``lr`` and ``weight_decay``.
        paramwise_cfg: a dict of

            - ``decay_rate`` (float, above 0 and at most 1): factor from one layer to the layer below; 1 = no decay.
            - ``decay_type``: ``'layer_wise'`` (default) or ``'stage_wise'``.
            - ``weight_decay_rule``: a key of ``WEIGHT_DECAY_RULES``. The default is the class attribute
              ``weight_decay_rule`` of the backbone, else the rule of its family (``'convnext'`` for
              ConvNeXt); a plain ViT needs it stated, because the published recipes differ.
            - ``custom_keys``: ``{part of a parameter name: dict(lr_mult=..., decay_mult=...)}``, the longest
              key that fits wins. ``lr_mult`` multiplies the decayed learning rate. ``decay_mult`` replaces
              the rule: the weight decay becomes ``weight_decay * decay_mult``; without it the rule holds.
            - ``num_layers``: never needed. Accepted from old configs when it is the backbone's official number.

    Raises:
        ValueError: for a setting that is unknown, out of range or does not fit the model; see the message.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if not isinstance(optim_wrapper_cfg, dict) or not isinstance(optim_wrapper_cfg.get('optimizer'), dict):
            raise ValueError(
                f'optim_wrapper has no optimizer: {optim_wrapper_cfg!r}; give '
                "optimizer=dict(type='AdamW', lr=..., weight_decay=...)"
            )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def _validate_cfg(self) -> None:
        """Check everything that can be checked without the model. Called by the base class.

        Raises:
            ValueError: naming the setting, what is allowed and what to do.
        """
        for name, value in (('lr', self.base_lr), ('weight_decay', self.base_wd)):
            if not _is_number(value) or value < 0:
                raise ValueError(
                    f'optimizer={self.optimizer_cfg!r}: {name}={value!r} is no number of 0 or more; layer '
                    'decay scales it, so write it into the optimizer'
                )
        cfg = self.paramwise_cfg
        if not isinstance(cfg, dict):
            raise ValueError(f'paramwise_cfg={cfg!r} is no dict; give dict(decay_rate=..., decay_type=...)')
        _check_keys(cfg, PARAMWISE_KEYS, 'paramwise_cfg')
        rate = cfg.get('decay_rate')
        if not _is_number(rate) or not 0 < rate <= 1:
            raise ValueError(
                f'decay_rate={rate!r} is not in (0, 1]; give for example 0.7 (each layer learns at 0.7 of '
                'the rate of the layer above) or 1.0 for equal learning rates'
            )
        if cfg.get('decay_type', 'layer_wise') not in DEPTH_METHODS:
            raise ValueError(f'decay_type={cfg["decay_type"]!r} is unknown; choose one of {list(DEPTH_METHODS)}')
        rule = cfg.get('weight_decay_rule')
        if rule is not None and rule not in WEIGHT_DECAY_RULES:
            raise ValueError(f'weight_decay_rule={rule!r} is unknown; choose one of\n{rules_text()}')
        self._validate_custom_keys(cfg.get('custom_keys') or {})

    @staticmethod
    def _validate_custom_keys(custom_keys: dict) -> None:
        if not isinstance(custom_keys, dict) or not all(isinstance(v, dict) for v in custom_keys.values()):
            raise ValueError(
                f'custom_keys={custom_keys!r} is no dict of dicts; give '
                f'{{part of a name: dict(lr_mult=..., decay_mult=...)}}'
            )
        for key, setting in custom_keys.items():
            _check_keys(setting, CUSTOM_KEYS, f'custom_keys[{key!r}]')
            for name, value in setting.items():
                if not _is_number(value) or value < 0:
                    raise ValueError(f'custom_keys[{key!r}]: {name}={value!r} is no number of 0 or more')

    @property
    def depth_method(self) -> str:
        """Method that a backbone is asked for depths by."""
        return DEPTH_METHODS[self.paramwise_cfg.get('decay_type', 'layer_wise')]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser wrapper of `model`, which may be wrapped for distributed training."""
        wrapper = super().__call__(model.module if is_model_wrapper(model) else model)
        use_fused_kernels(wrapper.optimizer)
        return wrapper

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: Any = None) -> None:
        """Append the parameter groups of the whole model `module` to `params`. Called by the base class."""
        groups = self._groups(module)
        grouped = [id(param.value) for group in groups for param in group.params]
        expected = {id(param.value): param.name for param in _all_params(module) if param.value.requires_grad}
        lost = [name for key, name in expected.items() if key not in set(grouped)]
        if lost or len(grouped) != len(expected):
            raise RuntimeError(
                f'{len(expected)} trainable parameters, {len(grouped)} places in the groups; in no group: '
                f'{lost[:5]}; a subclass that overrides the grouping must place each parameter exactly once'
            )
        for group in groups:
            values = [param.value for param in group.params]
            settings = {'lr': group.lr, 'weight_decay': group.weight_decay}
            params.append({'params': values, **settings, 'depth': group.depth, 'lr_scale': group.lr_scale})
        if is_main_process():
            print_log(self._table(groups), logger='current')

    def _groups(self, model: nn.Module) -> list[Group]:
        """Sort the trainable parameters of `model` into groups, ordered by learning rate."""
        backbones = self._backbones(model)
        self._rule_name = self._choose_rule(backbones)
        groups: dict[tuple[float, float], Group] = {}
        unused_keys = set(self.paramwise_cfg.get('custom_keys') or {})
        for param in _all_params(model):
            key = self._custom_key(param.name)
            unused_keys.discard(key)
            if not param.value.requires_grad:
                continue
            depth, scale = self._depth_and_scale(param.name, backbones)
            lr, weight_decay = self._settings(param, scale, key)
            group = groups.setdefault(
                (lr, weight_decay), Group(lr, weight_decay, lr / self.base_lr if self.base_lr else scale)
            )
            group.depths.add(depth)
            group.params.append(param)
        if unused_keys:
            raise ValueError(
                f'custom_keys {sorted(unused_keys)} decide about no parameter of {type(model).__name__}: each is part '
                'of no parameter name, or a longer key takes all of its parameters; correct or remove them'
            )
        if not groups:
            raise ValueError(f'{type(model).__name__} has no trainable parameter; unfreeze a part of it')
        return sorted(groups.values(), key=lambda group: (group.lr, group.weight_decay))

    def _backbones(self, model: nn.Module) -> dict[str, nn.Module]:
        """Find the backbones that decay applies to, and refuse a model in which one cannot take part."""
        method = self.depth_method
        backbones = _find_backbones(model, method)
        for name, module in model.named_modules():
            is_backbone = name.rpartition('.')[2] == 'backbone' and any(p.requires_grad for p in module.parameters())
            knows = any(found == name or _is_inside(found, name) or _is_inside(name, found) for found in backbones)
            if is_backbone and not knows:
                raise ValueError(self._no_depth_message(f'{name} is a {type(module).__name__}', method))
        if not backbones:
            raise ValueError(self._no_depth_message(f'no part of {type(model).__name__} is a backbone', method))
        self._check_num_layers(backbones, method)
        return backbones

    def _no_depth_message(self, finding: str, method: str) -> str:
        other = "use decay_type='layer_wise', " if method == 'get_stage_depth' else ''
        MODELS.import_from_location()
        known = sorted(f'backbones.{name}' for name, cls in MODELS.module_dict.items() if hasattr(cls, method))
        return (
            f'{finding} without the method {method}(param_name, prefix), so its layers have no known depth; '
            f'{other}use one of {known}, write that method, or leave out this constructor'
        )

    def _check_num_layers(self, backbones: dict[str, nn.Module], method: str) -> None:
        given = self.paramwise_cfg.get('num_layers')
        if given is None:
            return
        for name, module in backbones.items():
            prefix = f'{name}.' if name else ''
            first = next(param for param, _ in module.named_parameters())
            _, total = getattr(module, method)(prefix + first, prefix)
            if given != total - 2:
                raise ValueError(
                    f'num_layers={given!r} does not fit {name or "the model"} ({type(module).__name__}), '
                    f'which has {total - 2}; a wrong number scales learning rates above the base rate, so remove '
                    f'num_layers from paramwise_cfg (the backbone knows it) or set it to {total - 2}'
                )

    def _choose_rule(self, backbones: dict[str, nn.Module]) -> str:
        """Take the weight-decay rule of the config, else of the backbone, else of its family."""
        rule = self.paramwise_cfg.get('weight_decay_rule')
        if rule is not None:
            return rule
        declared = set()
        for module in backbones.values():
            families = [FAMILY_RULES[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in FAMILY_RULES]
            declared.add(getattr(module, 'weight_decay_rule', None) or next(iter(families), None))
        if len(declared) != 1 or not declared <= set(WEIGHT_DECAY_RULES):
            classes = sorted({type(module).__name__ for module in backbones.values()})
            raise ValueError(
                f'{classes} can be trained with more than one published weight-decay rule; add '
                f'weight_decay_rule=... to paramwise_cfg, one of\n{rules_text()}'
            )
        return declared.pop()

    def _depth_and_scale(self, name: str, backbones: dict[str, nn.Module]) -> tuple[str, float]:
        """Give the readable depth of a parameter and the factor on its learning rate."""
        owner = next((found for found in backbones if _is_inside(name, found)), None)
        if owner is None:
            return 'head', 1.0
        method = self.depth_method
        prefix = f'{owner}.' if owner else ''
        inside = name[len(prefix) :].replace('_orig_mod.', '')  # a block inside may be compiled
        answer = getattr(backbones[owner], method)(prefix + inside, prefix)
        is_pair = isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, int) for part in answer)
        if not is_pair or not 0 <= answer[0] < answer[1]:
            raise ValueError(
                f'{type(backbones[owner]).__name__}.{method}({prefix + inside!r}, {prefix!r}) gave '
                f'{answer!r}; it must give (layer_id, num_layers) with 0 <= layer_id < num_layers, otherwise the '
                'learning rate would be scaled above the base rate; correct the method'
            )
        layer_id, num_layers = answer
        # the last id is that of everything after the blocks: output norms, necks and heads alike
        depth = 'head' if layer_id == num_layers - 1 else str(layer_id)
        return depth, float(self.paramwise_cfg['decay_rate']) ** (num_layers - layer_id - 1)

    def _custom_key(self, name: str) -> str | None:
        """Find the custom key that decides about a parameter: the longest that is part of its name."""
        fitting = [key for key in self.paramwise_cfg.get('custom_keys') or {} if key in name]
        return min(fitting, key=lambda key: (-len(key), key)) if fitting else None

    def _settings(self, param: Param, scale: float, key: str | None) -> tuple[float, float]:
        """Compute learning rate and weight decay of one parameter."""
        custom = self.paramwise_cfg['custom_keys'][key] if key is not None else {}
        lr = self.base_lr * scale * custom.get('lr_mult', 1.0)
        if 'decay_mult' in custom:
            return lr, self.base_wd * custom['decay_mult']
        exempt = WEIGHT_DECAY_RULES[self._rule_name].exempt(param)
        return lr, 0.0 if exempt else float(self.base_wd)

    def _table(self, groups: list[Group]) -> str:
        """Write the groups as an aligned table."""
        cfg = self.paramwise_cfg
        rows = [('depth', 'tensors', 'parameters', 'lr', 'lr scale', 'weight decay', 'first')]
        for group in groups:
            elements = sum(param.value.numel() for param in group.params)
            numbers = (f'{group.lr:.4g}', f'{group.lr_scale:.4g}', f'{group.weight_decay:.4g}')
            rows.append((group.depth, str(len(group.params)), f'{elements:,}', *numbers, group.params[0].name))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        lines = [
            '  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=False)) + '  ' + row[-1]
            for row in rows
        ]
        tensors = sum(len(group.params) for group in groups)
        return (
            f'Learning rates: {cfg.get("decay_type", "layer_wise")} decay {cfg["decay_rate"]} of lr '
            f'{self.base_lr:g}, {tensors} tensors in {len(groups)} groups.\n'
            f'Weight decay {self.base_wd:g}, {WEIGHT_DECAY_RULES[self._rule_name].about}.\n' + '\n'.join(lines)
        )
