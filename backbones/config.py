"""Read a config, apply command-line options, fit it to the machine it runs on."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

# What our tools read besides the arguments of MMEngine's Runner.
OWN_KEYS = {
    'activation_checkpointing', 'card', 'classes', 'data_root', 'find_unused_parameters', 'precision', 'total_batch',
    'tta_mode', 'tta_model', 'tta_scales',
}
AMP_KEYS = ('dtype', 'loss_scale', 'use_fsdp')  # what AmpOptimWrapper takes and OptimWrapper does not


def load_config(path: str | Path, options: dict[str, Any] | None = None, work_dir: str | None = None) -> Config:
    """Compose the config at `path`.

    Args:
        path: a Python config. It is code and runs as such: use configs you trust.
        options: `{'optim_wrapper.optimizer.lr': 1e-4}` as `--cfg-options` gives it. `data_root` moves every path below
            the config's own `data_root`: of all splits, and of the annotation files of the evaluators.
        work_dir: where the run writes; default `work_dirs/<config name>`.

    Raises:
        ValueError: no such file, it does not parse, an option names a key that no config has, or the work folder is a
            file.
    """
    cfg = read_config(path)
    for key in options or {}:
        _check_option(cfg, key)
    options = dict(options or {})
    if 'data_root' in options and 'data_root' in cfg:
        _move_data(cfg, str(cfg.data_root), str(options.pop('data_root')))
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f'--cfg-options {options} do not fit {path}: {error}') from error
    # fp32: what mixed precision alone takes goes, too
    if str(options.get('optim_wrapper.type')).removeprefix('backbones.') in ('OptimWrapper', 'GuardedOptimWrapper'):
        for key in AMP_KEYS:
            if f'optim_wrapper.{key}' not in options:
                cfg.optim_wrapper.pop(key, None)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    in_the_way = [place for place in (Path(cfg.work_dir), *Path(cfg.work_dir).parents) if place.is_file()]
    if in_the_way:
        raise ValueError(
            f'the work folder {cfg.work_dir} cannot be made: {in_the_way[0]} is a file; choose another --work-dir'
        )
    return cfg


def read_config(path: str | Path) -> Config:
    """Compose the config at `path` as it stands.

    Raises:
        ValueError: no such file, or it cannot be read; the message names what is near.
    """
    path = Path(path)
    if path.is_dir():
        inside = ', '.join(sorted(file.name for file in path.glob('*.py'))) or 'no config'
        raise ValueError(f'config {str(path)!r} is a folder; name one file in it ({inside})')
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob('*.py')], 1)
        raise ValueError(f'config {str(path)!r} does not exist' + (f'; did you mean {near[0]!r}?' if near else ''))
    if path.suffix != '.py':  # MMEngine would read YAML by a loader that runs what the file says
        raise ValueError(f'config {str(path)!r} is no Python file; configs end in .py, and ours are in configs/')
    try:
        return Config.fromfile(path)
    except (SyntaxError, KeyError, TypeError, AttributeError, NameError, OSError, RuntimeError) as error:
        raise ValueError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error


def _check_option(cfg: Config, key: str) -> None:
    """Refuse an override that would have no effect: an unknown key, or a variable that the file has already used."""
    top, *path = key.split('.')
    known = OWN_KEYS | set(inspect.signature(Runner.__init__).parameters) - {'self'}
    if top not in known and top in cfg:
        raise ValueError(
            f'--cfg-options {key}: {top!r} is a variable that is used only while the config is read; override what it '
            'was used for, such as model.backbone.init_cfg.checkpoint or train_cfg.max_iters'
        )
    node: Any = cfg
    for depth, part in enumerate([top, *path[:-1]] if path else [top]):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        there = list(node) if isinstance(node, dict | Config) else []
        if part not in (set(there) | known if depth == 0 else there):
            near = difflib.get_close_matches(part, known if depth == 0 else there, 1)
            if part == 'init_cfg' and 'type' in there:  # every module takes one
                near = []
            if near or depth == 0:  # a new dict, such as a data set's metainfo, is fine; a typo of an old one is not
                hint = f'did you mean {near[0]!r}? ' if near else ''
                where = '.'.join([top, *path][:depth]) or 'the config'
                has = sorted(map(str, there))
                raise ValueError(f'--cfg-options {key}: {where} has no {part!r}; {hint}It has {has}')
        node = node.get(part) if part in there else {}


def fit_to_machine(cfg: Config, training: bool = True) -> None:
    """Change in place what this machine cannot do, and say so; refuse what would change the numbers.

    Without a GPU: processes talk over gloo, SyncBN becomes BN (its statistics are then per process).

    Args:
        cfg: a composed config with its `launcher`.
        training: False leaves out what only training needs.

    Raises:
        ValueError: the config asks for fp16 / bf16 AMP, which MMEngine's AmpOptimWrapper does only on a GPU.
    """
    if torch.cuda.is_available():
        return
    env_cfg = cfg.get('env_cfg') or {}
    cfg.env_cfg = dict(env_cfg, dist_cfg=dict(env_cfg.get('dist_cfg') or {}, backend='gloo'))
    optim_wrapper = cfg.get('optim_wrapper') or {}
    if training and str(optim_wrapper.get('type', '')).endswith('AmpOptimWrapper'):
        raise ValueError(
            f"optim_wrapper.type={optim_wrapper['type']!r} (mixed precision) needs a GPU and this machine has none; "
            'train with --precision bf16 or --precision fp32 (docs/precision.md), neither of which is the published '
            'setting'
        )
    launcher = cfg.get('launcher', 'none')
    if launcher not in ('none', 'pytorch'):
        raise ValueError(f'--launcher {launcher} needs GPUs and there are none; use torchrun and --launcher pytorch')
    if launcher == 'pytorch':
        if not torch.distributed.is_initialized():
            # MMEngine's init_dist calls torch.cuda.set_device, which CPU builds of torch do not have
            torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
        changed = [norm for norm in dicts_in(cfg.model) if norm.get('type') == 'SyncBN']
        for norm in changed:
            norm['type'] = 'BN'
        if changed:
            print_log(f'no GPU: {len(changed)} SyncBN settings became BN (statistics per process)', 'current')


def is_segmenter(cfg: Config) -> bool:
    """Whether the config's model labels pixels; otherwise it finds objects."""
    model = cfg.model.get('module', cfg.model)  # behind test-time augmentation
    return 'decode_head' in model


def _move_data(cfg: Config, old: str, new: str) -> None:
    """Replace the folder `old` by `new` at the start of every path of the data sets and evaluators."""
    cfg.data_root = new
    old, new = old.rstrip('/'), new.rstrip('/')
    for split in ('train', 'val', 'test'):
        for node in dicts_in([cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')]):
            for key, value in list(node.items()):
                if isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
                    node[key] = new + value[len(old) :]


def dicts_in(node: Any) -> Iterator[dict]:
    """Every dict inside a config node."""
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for child in node:
        yield from dicts_in(child)
