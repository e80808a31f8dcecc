"""Fill a backbone from a published checkpoint: match, resize, count, and refuse what does not fit.

A load either fills every parameter of the backbone but an explicit few, or raises before anything is changed.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from backbones.weights import convnext_layouts, vit_layouts
from backbones.weights.advice import arch_name, arch_text, first_names, own_arch, refusal, size_hint
from backbones.weights.coverage import Coverage, parts_of
from backbones.weights.layout import Layout, State, recognise
from backbones.weights.read import read_state
from backbones.weights.sources import fetch, is_url

INIT_CFG_KEYS = ('type', 'checkpoint', 'prefix', 'strict', 'map_location')


# --- recognise ----------------------------------------------------------------------------------------------


def _recognise_for(module: nn.Module, state: State, prefix: str | None, source: str) -> tuple[Layout, str, State]:
    """Recognise a file for one backbone, or say what the file looks like instead.

    Raises:
        ValueError: if it is not one of the backbone's layouts.
    """
    family = type(module).__name__
    if prefix is not None:
        prefix = prefix if prefix == '' or prefix.endswith('.') else f'{prefix}.'
        if not any(name.startswith(prefix) for name in state):
            raise ValueError(
                f'checkpoint {source}: no name begins with prefix={prefix!r}; it has the parts '
                f'{first_names(parts_of(state))}; correct prefix in init_cfg, or leave it out and it is found'
            )
    found = recognise(state, module.weight_layouts, prefix)
    if found is not None:
        return found
    where = '' if prefix is None else f' under prefix={prefix!r}'
    other = recognise(state, (*convnext_layouts.LAYOUTS, *vit_layouts.LAYOUTS), prefix)
    if other is not None:
        arch = arch_text(other[0].describe(other[0].renamed(other[2])))
        raise ValueError(
            f'checkpoint {source} is not for {family}: it looks like {other[0].family} in the layout '
            f"{other[0].name!r} ({arch}); use backbone=dict(type='backbones.{other[0].family}', ...) or give "
            f'a checkpoint of {family}'
        )
    raise ValueError(
        f'checkpoint {source} is in no known layout{where}: it has {len(state)} tensors, '
        f'{first_names(list(state))}; known for {family} are '
        f'{[layout.name for layout in module.weight_layouts]}; give one of these, or rename its tensors to '
        f'the names of {family}.state_dict() and save them with torch.save'
    )


# --- compare ------------------------------------------------------------------------------------------------


def compare(module: nn.Module, native: State, layout: Layout, coverage: Coverage) -> State:
    """Sort native tensors into what fills the backbone and what does not; resize position tables.

    Args:
        module: the backbone.
        native: tensors by the backbone's own names.
        layout: knows how to resize.
        coverage: the findings are written here.

    Returns:
        What is to be copied into the backbone, by name.
    """
    own = module.state_dict()
    may_miss = module.weights_may_miss()
    ready = {}
    for name, value in native.items():
        if name not in own:
            coverage.unexpected.append(name)
            continue
        shape, wanted = tuple(value.shape), tuple(own[name].shape)
        if shape != wanted:
            fitted = layout.resize(name, value, module)
            if fitted is None or tuple(fitted.shape) != wanted:
                coverage.mismatched[name] = (shape, wanted)
                continue
            coverage.resized[name] = (shape, wanted)
            value = fitted
        ready[name] = value
        coverage.filled.append(name)
    for name in own:
        if name not in native:
            is_free = any(fnmatchcase(name, pattern) for pattern in may_miss)
            (coverage.fresh if is_free else coverage.missing).append(name)
    return ready


# --- load ---------------------------------------------------------------------------------------------------


def local_file(checkpoint: str | os.PathLike) -> Path:
    """Give the local file of a checkpoint; a URL is downloaded once per machine while the other ranks wait.

    Raises:
        ValueError: on every rank, if the download failed on one.
    """
    name = os.fspath(checkpoint)
    if not is_url(name):
        return Path(name.removeprefix('file://')).expanduser()
    error = None
    if int(os.environ.get('LOCAL_RANK', get_rank())) == 0:
        try:
            fetch(name, progress=get_rank() == 0)
        except ValueError as failure:
            error = str(failure)
    failures = [failure for failure in all_gather_object(error) if failure is not None]  # waits for all ranks
    if failures:
        raise ValueError(failures[0])
    return fetch(name)


def load_pretrained(
    module: nn.Module,
    checkpoint: str | os.PathLike,
    *,
    prefix: str | None = None,
    strict: bool = True,
    logger: Any = 'current',
) -> Coverage:
    """Fill a backbone of this package from any published checkpoint of its family.

    Args:
        module: the backbone; its class states `weight_layouts` and `weights_may_miss()`.
        checkpoint: local file or http(s) address.
        prefix: where the backbone lies in the file, such as 'backbone.'; None finds it.
        strict: False loads what fits and logs the table instead of raising.
        logger: where the summary goes, as in `mmengine.logging.print_log`.

    Returns:
        What was filled and what was not.

    Raises:
        ValueError: if the file cannot be read or, when `strict`, does not fit; the backbone is unchanged then.
    """
    source = os.fspath(checkpoint)
    state = read_state(local_file(checkpoint))
    layout, found_prefix, inner = _recognise_for(module, state, prefix, source)
    converted = layout.convert(inner, module)
    elements = {name: value.numel() for name, value in module.state_dict().items()}
    name = arch_name(own_arch(module, layout), module)
    coverage = Coverage(
        backbone=type(module).__name__ + (f'-{name}' if name else ''),
        source=source,
        layout=layout.name + (f' under {found_prefix!r}' if found_prefix else ''),
        elements=elements,
        renamed=converted.renamed,
        dropped=converted.dropped,
        outside=[key for key in state if not key.startswith(found_prefix)],
    )
    ready = compare(module, converted.native, layout, coverage)
    if strict and not coverage.complete:
        hint = size_hint(layout.describe(layout.renamed(inner)), module, layout)
        raise ValueError(refusal(coverage, converted.native, hint))
    own = module.state_dict()
    with torch.no_grad():
        for key, value in ready.items():
            own[key].copy_(value)  # casts half precision to the precision of the backbone
    if coverage.complete:
        print_log(coverage.summary(), logger=logger)
    else:
        print_log(f'strict=False: loaded what fits.\n{coverage.table()}', logger=logger, level=logging.WARNING)
    return coverage


def initialise_from_checkpoint(module: BaseModule) -> bool:
    """Load the checkpoint that `module.init_cfg` names, once. Called from a backbone's `init_weights()`.

    MMEngine's Runner calls `init_weights()` of the whole model after construction. Whether the call comes
    from there, through a parent or directly, and however often: the first fills the backbone, the others
    leave it alone. Other entries of a list `init_cfg` are applied first, as MMEngine does.

    Returns:
        False if `init_cfg` names no checkpoint, so that the caller goes on as MMEngine would.

    Raises:
        ValueError: for a wrong `init_cfg`, and as `load_pretrained`.
    """
    entries = module.init_cfg if isinstance(module.init_cfg, list | tuple) else [module.init_cfg]
    entries = [entry for entry in entries if entry]
    pretrained = [entry for entry in entries if _is_pretrained(entry)]
    if not pretrained:
        return False
    cfg = pretrained[-1]
    _check_init_cfg(cfg, len(pretrained))
    if module.is_init:
        return True
    others = [entry for entry in entries if not _is_pretrained(entry)]
    if others:
        given, module.init_cfg = module.init_cfg, others
        try:
            BaseModule.init_weights(module)
        finally:
            module.init_cfg = given
    options = {key: cfg[key] for key in ('prefix', 'strict') if key in cfg}
    load_pretrained(module, cfg['checkpoint'], **options)
    for part in module.modules():
        if isinstance(part, BaseModule):
            part.is_init = True  # or a later init_weights() of a parent would start this part anew
    if hasattr(module, '_params_init_info'):  # we were called by a parent, which keeps a log of who set what
        update_init_info(module, init_info=f'loaded from {cfg["checkpoint"]}')
    return True


def _is_pretrained(entry: Mapping[str, Any]) -> bool:
    kind = entry.get('type') if isinstance(entry, Mapping) else None
    return kind in ('Pretrained', 'PretrainedInit') or getattr(kind, '__name__', None) == 'PretrainedInit'


def _check_init_cfg(cfg: Mapping[str, Any], count: int) -> None:
    """Refuse what would be ignored.

    Raises:
        ValueError: for an unknown key, no checkpoint, or more than one Pretrained entry.
    """
    for key in cfg:
        if key not in INIT_CFG_KEYS:
            close = difflib.get_close_matches(str(key), INIT_CFG_KEYS, n=1)
            hint = f' (did you mean {close[0]!r}?)' if close else ''
            raise ValueError(f'init_cfg has the unknown key {key!r}{hint}; allowed are {list(INIT_CFG_KEYS)}')
    if not isinstance(cfg.get('checkpoint'), str | os.PathLike) or not os.fspath(cfg['checkpoint']):
        raise ValueError(
            f'init_cfg={dict(cfg)!r} names no checkpoint; give checkpoint=path or address, or leave init_cfg '
            'out to start from random weights'
        )
    if count > 1:
        raise ValueError(f'init_cfg names {count} checkpoints; give one')


# --- a checkpoint of a whole model --------------------------------------------------------------------------


# Last layers, whose first axis counts classes: boxes (one more for the background), masks, segmentation.
CLASS_LAYERS = {
    r'fc_cls\.(weight|bias)$': -1,
    r'conv_logits\.(weight|bias)$': 0,
    r'conv_seg\.(weight|bias)$': 0,
}
CLASS_DEPENDENT = re.compile(r'(fc_cls|fc_reg|conv_logits|conv_seg)\.(weight|bias)$')


def check_model_checkpoint(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Refuse a checkpoint of a whole detector or segmenter that is not of this model; loads nothing.

    Args:
        model: the built model, not wrapped.
        state_dict: tensors by name, as under 'state_dict' in the file.
        path: the file, for the message.

    Raises:
        ValueError: if a parameter is missing, left over or of another shape; with both class counts if only
            the last layers differ.
    """
    given = {name.removeprefix('module.'): value for name, value in state_dict.items()}
    own = model.state_dict()
    missing = [name for name in own if name not in given and not name.endswith('num_batches_tracked')]
    unexpected = [name for name in given if name not in own]
    mismatched = {
        name: (tuple(given[name].shape), tuple(own[name].shape))
        for name in own
        if name in given and given[name].shape != own[name].shape
    }
    if not (missing or unexpected or mismatched):
        return
    title = f'checkpoint {os.fspath(path)} does not fit {type(model).__name__}'
    counts = None if missing or unexpected else _class_counts(mismatched)
    if counts is not None:
        raise ValueError(
            f'{title}: the file was trained on {counts[0]} classes, the config has {counts[1]}; set '
            f'num_classes={counts[0]} in every head and give the data set these classes, or give a '
            f'checkpoint trained on {counts[1]} classes'
        )
    findings = []
    if missing:
        findings.append(f'{len(missing)} of {len(own)} parameters are missing in the file: {first_names(missing)}')
    if mismatched:
        shapes = [f'{name} is {old}, wanted {new}' for name, (old, new) in mismatched.items()]
        findings.append(f'{len(mismatched)} have another shape: {first_names(shapes)}')
    if unexpected:
        findings.append(f'{len(unexpected)} are not in the model: {first_names(unexpected)}')
    raise ValueError(
        f'{title}: this is a checkpoint of another model; {"; ".join(findings)}; the parts of the file are '
        f'{first_names(parts_of(given), 8)}; give the checkpoint that was trained with this config, or the '
        'config of the file'
    )


def _class_counts(
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> tuple[int, int] | None:
    """Read (classes in the file, classes in the model) off the last layers, if nothing else differs."""
    if not all(CLASS_DEPENDENT.search(name) for name in mismatched):
        return None
    found = {
        (old[0] + offset, new[0] + offset)
        for name, (old, new) in mismatched.items()
        for expression, offset in CLASS_LAYERS.items()
        if re.search(expression, name)
    }
    return found.pop() if len(found) == 1 else None
