"""What our tools put in place of MMEngine's parts in a config of any origin: by name, with the arguments it has.

The recipes here name these parts themselves (configs/_base_/hooks.py); a config of another project gets them when it
runs by our tools. What each part promises: docs/survival.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict

from backbones.config import dicts_in
from backbones.registry import SCOPE
from backbones.training.loops import make_resumable

HOOKS = dict(
    runtime_info='RuntimeInfoHook', resume='ResumeHook', metrics='MetricsFileHook', run_record='RunRecordHook',
    non_finite='NonFiniteHook', watchdog='WatchdogHook', preemption='PreemptionHook', bad_samples='BadSamplesHook',
    history='HistoryHook')
CHOSEN = dict(precision='PrecisionHook')  # a name that no config of another project gets by itself
PLAIN_HOOKS = ('timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')  # MMEngine's
WRAPPERS = {name: f'{SCOPE}.Guarded{name}' for name in ('OptimWrapper', 'AmpOptimWrapper')}
SAVES = 'SafeCheckpointHook'
# Parts with the same arguments and results, at less cost.
PREPROCESSORS = dict(DetDataPreprocessor='mmdet', SegDataPreProcessor='mmseg')
METRICS = dict(IoUMetric='mmseg', CocoMetric='mmdet')
# Arguments of mmcv's loader that ours has not, with the values that it works by.
LOADER_ONLY = dict(imdecode_backend='cv2', file_client_args=None, ignore_empty=False)


def name_parts(cfg: Config) -> None:
    """Name the class where a config sets options of a part by its key alone: `watchdog=dict(timeout_s=60)`."""
    hooks = cfg.get('default_hooks')
    for key, name in (HOOKS | CHOSEN).items() if isinstance(hooks, dict) else ():
        if isinstance(hooks.get(key), dict):
            hooks[key].setdefault('type', f'{SCOPE}.{name}')


def harden_run(cfg: Config) -> list[str]:
    """Put the parts that survive into the config of a training, in place.

    A part is left out where the config says `default_hooks.<name>=None`.

    Returns:
        Lines for the log: what took the place of what, and what stays that cannot be replaced.
    """
    before = [cfg.train_cfg.get('type'), (cfg.train_dataloader.get('sampler') or {}).get('type')]
    make_resumable(cfg)
    after = [cfg.train_cfg.get('type'), (cfg.train_dataloader.get('sampler') or {}).get('type')]
    changed = [f'{old} by {new}' for old, new in zip(before, after, strict=True) if old != new]
    hooks = {**(cfg.get('default_hooks') or {})}
    notes = _guard_steps(cfg, hooks, changed) + _save_safely(hooks, changed)
    known = (*HOOKS, *CHOSEN, *PLAIN_HOOKS)
    left_out = [key for key, hook in hooks.items() if hook is None and key in known and key not in PLAIN_HOOKS]
    unknown = [key for key, hook in hooks.items() if hook is None and key not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'default_hooks.{unknown[0]}=None: there is no such part to leave out{hint}')
    if left_out:
        notes.append(f'left out: {", ".join(left_out)}')
    present = {_name(hook) for hook in dicts_in([hooks, cfg.get('custom_hooks')])}
    for key, name in (HOOKS | CHOSEN).items():
        if key in hooks and hooks[key] is None:
            del hooks[key]  # MMEngine refuses a None that is not one of its own hooks
        elif key in CHOSEN:
            continue
        elif name not in present and key not in hooks:
            hooks[key] = dict(type=f'{SCOPE}.{name}')
    cfg.default_hooks = hooks
    _check_one_saves(cfg)
    changed += _use_faster_parts(cfg)
    for backend in dicts_in((cfg.get('visualizer') or {}).get('vis_backends')):
        if _is_plain(backend, 'LocalVisBackend', 'mmengine'):
            changed.append(_replace(backend, 'LocalVisBackend'))
    changed += harden_reading(cfg, ('train', 'val'))
    _name_record(cfg)
    notes += unchecked_data(cfg, ('train', 'val'))
    return [*([f'replaced: {", ".join(dict.fromkeys(changed))}'] if changed else []), *notes]


def harden_reading(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    """Let the data sets and evaluators of `splits` check what they read, in place.

    Returns:
        What was replaced by what.

    Raises:
        ValueError: a data set takes proposals from a pickle or YAML file, which would run what the file says.
    """
    changed = []
    for split in splits:
        for node in dicts_in((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if node.get('proposal_file'):
                raise ValueError(
                    f"{split}_dataloader: proposal_file={node['proposal_file']!r} would be read by a loader that runs "
                    'code in pickles and YAML; leave it out and train with a model that makes its proposals'
                )
            if _is_plain(node, 'LoadImageFromFile', 'mmcv') and all(
                node.get(key, value) == value for key, value in LOADER_ONLY.items()
            ):
                for key in LOADER_ONLY:
                    node.pop(key, None)
                changed.append(_replace(node, 'LoadImageFromFile'))
            elif _is_plain(node, 'LoadAnnotations', 'mmdet') and node.get('with_mask'):  # mmseg's has no such key
                changed.append(_replace(node, 'LoadInstanceAnnotations'))
            elif _is_plain(node, 'CocoDataset', 'mmdet'):
                changed.append(_replace(node, 'CocoDataset'))
        for metric in dicts_in(cfg.get(f'{split}_evaluator')):
            for name, home in METRICS.items():
                if _is_plain(metric, name, home):
                    changed.append(_replace(metric, name))
    return changed


def unchecked_data(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    """Lines for the log: data sets of other projects, whose annotations nobody checks before they are used."""
    nodes = [node for split in splits for node in dicts_in((cfg.get(f'{split}_dataloader') or {}).get('dataset'))]
    found = [node['type'] for node in nodes if 'type' in node and ('ann_file' in node or 'data_prefix' in node)]
    names = [kind if isinstance(kind, str) else f'{kind.__module__}.{kind.__name__}' for kind in found]
    return [
        f'annotations of {name} are not checked before they are used; those of backbones.CocoDataset, '
        'backbones.LabelMapDataset and backbones.ADE20KDataset are'
        for name in dict.fromkeys(names) if not name.startswith(f'{SCOPE}.')
    ]


def _guard_steps(cfg: Config, hooks: dict[str, Any], changed: list[str]) -> list[str]:
    """Use the optimiser wrapper that leaves out faulty steps; without one, no hook asks it for its findings."""
    wrapper = cfg.get('optim_wrapper') or {}
    kind = wrapper.get('type', 'OptimWrapper')
    name = kind.removeprefix('mmengine.') if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    if name in WRAPPERS and 'optimizer' in wrapper:
        wrapper['type'] = WRAPPERS[name]
        changed.append(f'{name} by {WRAPPERS[name]}')
    elif not name.rpartition('.')[2].startswith(('Guarded', 'Scaled')):
        hooks['non_finite'] = None
        return [f'optim_wrapper.type={name} takes every step: there is no guard against non-finite losses for it, only '
                f'for {" and ".join(WRAPPERS)}']
    return []


def _save_safely(hooks: dict[str, Any], changed: list[str]) -> list[str]:
    """Use the hook whose checkpoints are whole or not there."""
    hook = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))  # MMEngine's default
    if hook is None:
        return ['default_hooks.checkpoint=None: nothing is saved, so a run that ends early is lost']
    if _is_plain(hook, 'CheckpointHook', 'mmengine'):
        hooks['checkpoint'] = hook = ConfigDict(hook)
        changed.append(_replace(hook, SAVES))
    elif _name(hook) != SAVES:
        return [f'default_hooks.checkpoint.type={_name(hook)} is none of ours: what it saves is not verified, and '
                '--resume does not know it']
    return []


def _use_faster_parts(cfg: Config) -> list[str]:
    """Hooks and preprocessors of the toolboxes by ours, which wait less and give the same; what became of what."""
    changed = []
    for hook in _hooks(cfg):
        for name in ('RuntimeInfoHook', 'EMAHook'):
            if _is_plain(hook, name, 'mmengine'):
                changed.append(_replace(hook, name))
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    for name, home in PREPROCESSORS.items():
        if _is_plain(preprocessor, name, home):
            changed.append(_replace(preprocessor, name))
    return changed


def _check_one_saves(cfg: Config) -> None:
    """Refuse two hooks that would delete each other's checkpoints."""
    saving = [hook for hook in _hooks(cfg) if _name(hook) in ('CheckpointHook', SAVES)]
    if len(saving) > 1 and len({str(hook.get('out_dir')) for hook in saving}) < len(saving):
        raise ValueError(
            f'{len(saving)} hooks save checkpoints into the same folder ({", ".join(map(_name, saving))}) and would '
            "delete each other's; keep one of default_hooks.checkpoint and custom_hooks, or give one of them an out_dir"
        )


def _name_record(cfg: Config) -> None:
    """Say where data sets that skip bad samples write them down."""
    for dataset in dicts_in((cfg.get('train_dataloader') or {}).get('dataset')):
        if dataset.get('on_bad_sample') == 'skip':
            dataset.setdefault('bad_samples_file', f'{cfg.work_dir}/bad_samples.jsonl')


def _hooks(cfg: Config) -> Iterator[dict]:
    yield from (hook for hook in (cfg.get('default_hooks') or {}).values() if isinstance(hook, dict))
    yield from (hook for hook in cfg.get('custom_hooks') or [] if isinstance(hook, dict))


def _name(node: dict) -> str:
    kind = node.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _is_plain(node: dict, name: str, home: str) -> bool:
    """Whether a typed dict names the class of another project, not a subclass of the same name elsewhere."""
    kind = node.get('type')
    if isinstance(kind, str):
        scope, _, bare = kind.rpartition('.')
        return bare == name and scope in ('', 'mmengine', 'mmcv', 'mmdet', 'mmseg')
    return getattr(kind, '__name__', '') == name and kind.__module__.partition('.')[0] == home


def _replace(node: dict, name: str) -> str:
    before = node['type'] if isinstance(node['type'], str) else node['type'].__name__
    node['type'] = f'{SCOPE}.{name}'
    return f'{before} by {node["type"]}'
