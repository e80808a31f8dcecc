"""Fill a backbone from a published checkpoint: match, resize, count, and refuse what does not fit.

A load either fills every parameter of the backbone but an explicit few, or raises before anything is changed.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from backbones.positions import check_patch_rule
from backbones.weights.advice import (
    arch_name,
    differences,
    refusal,
    size_hint,
)
from backbones.weights.coverage import Coverage
from backbones.weights.family import Family
from backbones.weights.fingerprint import LoadedFrom
from backbones.weights.hf_config import config_beside, facts
from backbones.weights.layout import State
from backbones.weights.recognition import Recognised, about, read_tensors, recognise_for
from backbones.weights.sources import Checkpoint, fetch, licence_notice, resolve, spelled

INIT_CFG_KEYS = ('type', 'checkpoint', 'prefix', 'strict', 'patch_resize', 'map_location')
PIECE = 1 << 20  # values copied at once


# --- compare ------------------------------------------------------------------------------------------------


def compare(
    module: nn.Module, own: State, native: State, family: Family, coverage: Coverage, patch_resize: str
) -> State:
    """Sort native tensors into what fills the backbone and what does not; resize position tables and patches.

    Args:
        module: the backbone.
        own: its state dict.
        native: tensors of the file by the backbone's own names.
        family: knows how to resize.
        coverage: the findings are written here.
        patch_resize: as in `load_pretrained`.

    Returns:
        What is to be copied into the backbone, by name.
    """
    may_miss = module.weights_may_miss()
    ready = {}
    for name, value in native.items():
        if name not in own:
            coverage.unexpected.append(name)
            continue
        if own[name].is_floating_point() and not value.is_floating_point():
            raise ValueError(
                f'{name} is {value.dtype}, where floats are wanted; give the file before it was quantised'
            )
        shape, wanted = tuple(value.shape), tuple(own[name].shape)
        if shape != wanted:
            fitted = family.resize(name, value, module, patch_resize)
            if fitted is None or tuple(fitted.shape) != wanted:
                coverage.mismatched[name] = (shape, wanted)
                continue
            coverage.resized[name] = (shape, wanted)
            value = fitted
        ready[name] = value
        coverage.filled.append(name)
    # what a checkpoint may lack, it lacks as a whole: one table of many is lost, not left out
    free = [pattern for pattern in may_miss if not any(fnmatchcase(name, pattern) for name in native)]
    for name in own:
        if name not in native:
            is_free = any(fnmatchcase(name, pattern) for pattern in free)
            (coverage.fresh if is_free else coverage.missing).append(name)
    return ready


def _fill(own: State, ready: State, names: Sequence[str]) -> list[str]:
    """Copy `ready` into `own`, cast to the precision there, and name what is not finite.

    Piece by piece, so that each is summed while it is in the cache: a second pass over the whole costs a third more.
    """
    sums = []
    for name in names:
        target, value = own[name], ready[name]
        if target.numel() <= PIECE or not (target.is_contiguous() and value.is_contiguous()):
            pieces = [(target, value)]
        else:
            pieces = zip(target.view(-1).split(PIECE), value.view(-1).split(PIECE), strict=True)
        for mine, theirs in pieces:
            mine.copy_(theirs)
            if mine.is_floating_point():
                sums.append(mine.sum(dtype=torch.float32))
    if not sums or torch.stack(sums).sum().isfinite():
        return []
    return [name for name in names if not is_finite(own[name])]  # or only the sum of finite values overflows


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; the sum tells in one fast pass that it does not."""
    if not value.is_floating_point() or torch.isfinite(value.sum(dtype=torch.float32)):
        return True
    return bool(torch.isfinite(value).all())  # the sum of finite values may overflow


# --- load ---------------------------------------------------------------------------------------------------


def local_file(checkpoint: Checkpoint) -> Path:
    """Give the local file of a checkpoint; it is downloaded once per machine while the other ranks wait.

    Args:
        checkpoint: any name, or a list of names, that `sources.resolve` knows.

    Raises:
        ValueError: for an unknown name; on every rank, if the download failed on one.
    """
    source = resolve(checkpoint)
    licence_notice(source)
    if source.path is not None and not isinstance(checkpoint, list | tuple):
        return source.path  # a list may name a file that only some machines have, so all ranks go on
    error = None
    if int(os.environ.get('LOCAL_RANK', get_rank())) == 0:
        try:
            fetch(source, progress=get_rank() == 0)
        except ValueError as failure:
            error = str(failure)
    failures = [failure for failure in all_gather_object(error) if failure is not None]  # waits for all ranks
    if failures:
        raise ValueError(failures[0])
    return fetch(source)


def load_pretrained(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    prefix: str | None = None,
    strict: bool = True,
    patch_resize: str = 'flexivit',
    logger: Any = 'current',
) -> Coverage:
    """Fill a backbone of this package from any published checkpoint of its family.

    Args:
        module: the backbone; its class states `weight_family` and `weights_may_miss()`.
        checkpoint: any name, or a list of names, that `sources.resolve` knows: path, address, short name.
        prefix: where the backbone lies in the file, such as 'backbone.'; None finds it.
        strict: False loads what fits and logs the table instead of raising.
        patch_resize: a key of `positions.PATCH_RULES`: how patches of another size are resized; 'none' refuses them.
        logger: where the summary goes, as in `mmengine.logging.print_log`.

    Returns:
        What was filled and what was not.

    Raises:
        ValueError: if the file cannot be read or, when `strict`, does not fit; the backbone is unchanged then, unless
            the file holds NaN or infinity, which shows while it is copied.
    """
    check_patch_rule(patch_resize)
    file = local_file(checkpoint)
    coverage, ready, hint = survey(
        module, checkpoint, *read_tensors(file), config_beside(file), prefix=prefix, patch_resize=patch_resize)
    if strict and not coverage.complete:
        raise ValueError(refusal(coverage, ready, hint))
    own = module.state_dict()
    with torch.no_grad():
        coverage.not_finite += _fill(own, ready, coverage.filled)
    if strict and coverage.not_finite:
        raise ValueError(refusal(coverage, ready, hint))
    if coverage.complete:
        print_log(coverage.summary(), logger=logger)
    else:
        print_log(f'strict=False: loaded what fits.\n{coverage.table()}', logger=logger, level=logging.WARNING)
    options = dict(prefix=prefix, patch_resize=patch_resize)
    kept = tuple(name for name in coverage.filled if name not in coverage.not_finite)
    module.loaded_from = LoadedFrom(spelled(checkpoint), checkpoint, options, kept)
    return coverage


def no_longer_loaded(module: nn.Module) -> list[str]:
    """Read the checkpoint of a filled backbone again and name the parameters whose values are not those of the file."""
    loaded: LoadedFrom = module.loaded_from
    state, wrappers = read_tensors(local_file(loaded.checkpoint))
    ready = survey(module, loaded.checkpoint, state, wrappers, **loaded.options)[1]
    own = module.state_dict()
    return [name for name in loaded.filled if not torch.equal(own[name], ready[name].to(own[name]))]


def survey(
    module: nn.Module,
    checkpoint: Checkpoint,
    state: State,
    wrappers: Sequence[str],
    config: Mapping[str, Any] | None = None,
    *,
    prefix: str | None = None,
    patch_resize: str = 'flexivit',
) -> tuple[Coverage, State, str]:
    """Find out what a load would do; changes nothing.

    Args:
        module: the backbone.
        checkpoint: the file, for messages.
        state: its tensors.
        wrappers: the keys that wrapped them.
        config: Hugging Face's config.json beside the file.
        prefix: as in `load_pretrained`, like `patch_resize`.
        patch_resize: as there.

    Returns:
        The coverage, the native tensors of the file, resized where needed, and a hint on another size.

    Raises:
        ValueError: if the file is in no layout of the backbone.
    """
    source = spelled(checkpoint)
    with about(source):
        found = recognise_for(module, state, wrappers, prefix, source)
        return _survey(module, found, source, config, patch_resize)


def _survey(
    module: nn.Module, found: Recognised, source: str, config: Mapping[str, Any] | None, patch_resize: str
) -> tuple[Coverage, State, str]:
    own = module.state_dict()
    told = facts(config, found.family.sizes(found.native)) if config else {}
    heads = found.heads or told.pop('num_heads', None)
    name = arch_name(module, own)
    native, left_out = found.family.fit(found.native, module)
    coverage = Coverage(
        backbone=found.family.name + (f'-{name}' if name else ''),
        source=source,
        layout=found.title,
        elements={key: value.numel() for key, value in own.items()},
        bytes={key: value.numel() * value.element_size() for key, value in own.items()},
        renamed=found.renamed,
        dropped=[*found.dropped, *left_out],
        outside=found.outside,
        differs=differences(module, {**found.layout.source, **told}),
    )
    ready = compare(module, own, native, found.family, coverage, patch_resize)
    if heads is not None and heads != module.num_heads:
        coverage.mismatched['num_heads'] = ((heads,), (module.num_heads,))
    hint = '' if coverage.complete else size_hint(found.family.sizes(found.native), module)
    return coverage, {**native, **ready}, hint


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
    pretrained = [entry for entry in entries if is_pretrained(entry)]
    if not pretrained:
        return False
    cfg = pretrained[-1]
    _check_init_cfg(cfg, len(pretrained))
    if module.is_init:
        return True
    others = [entry for entry in entries if not is_pretrained(entry)]
    if others:
        given, module.init_cfg = module.init_cfg, others
        try:
            BaseModule.init_weights(module)
        finally:
            module.init_cfg = given
    options = {key: cfg[key] for key in ('prefix', 'strict', 'patch_resize') if key in cfg}
    load_pretrained(module, cfg['checkpoint'], **options)
    for part in module.modules():
        if isinstance(part, BaseModule):
            part.is_init = True  # or a later init_weights() of a parent would start this part anew
    if hasattr(module, '_params_init_info'):  # we were called by a parent, which keeps a log of who set what
        update_init_info(module, init_info=f'loaded from {cfg["checkpoint"]}')
    return True


def is_pretrained(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of an init_cfg names a checkpoint."""
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
    given = cfg.get('checkpoint')
    names = given if isinstance(given, list | tuple) else [given]
    if not names or not all(isinstance(name, str | os.PathLike) and os.fspath(name) for name in names):
        raise ValueError(
            f'init_cfg={dict(cfg)!r} names no checkpoint; give checkpoint=path or address, or leave init_cfg '
            'out to start from random weights'
        )
    if count > 1:
        raise ValueError(f'init_cfg names {count} checkpoints; give one')
