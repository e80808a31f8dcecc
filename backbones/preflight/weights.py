"""What the pretrained weights would fill, looked at without a download and without touching the model."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.findings import Finding, Outcome
from backbones.precision.compute import unwrapped
from backbones.weights.advice import refusal
from backbones.weights.coverage import Coverage, parts_of
from backbones.weights.hf_config import config_beside
from backbones.weights.load import is_finite, is_pretrained, survey
from backbones.weights.read import read_file
from backbones.weights.recognition import read_tensors
from backbones.weights.sources import OFFLINE, Checkpoint, Source, cached_path, resolve, spelled

# Parts that a classifier does not have: a file that holds them is of a detector or segmenter.
WHOLE_MODEL = {'neck', 'rpn_head', 'roi_head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head',
               'proposal_generator', 'roi_heads'}
FEW = 0.5  # a foreign backbone whose file has less than this share of its parameters by name is not of this file


class Pretrained(NamedTuple):
    """A part of the model that starts from a file: its name, itself, and its entry of `init_cfg`."""

    place: str
    part: nn.Module
    entry: Mapping[str, Any]

    @property
    def field(self) -> str:
        """The key of the config."""
        return f'model.{self.place}.init_cfg.checkpoint'


def pretrained_parts(model: nn.Module) -> list[Pretrained]:
    """Every part whose `init_cfg` names a checkpoint."""
    found = []
    for name, part in model.named_modules():
        given = getattr(part, 'init_cfg', None)
        entries = given if isinstance(given, list | tuple) else [given]
        found += [Pretrained(name, part, entry) for entry in entries if is_pretrained(entry)][-1:]
    return found


def local_place(source: Source) -> Path | None:
    """The file of a checkpoint on this machine; None where it would have to be downloaded."""
    if source.path is not None:
        return source.path
    return next((cached_path(url) for url in source.urls if cached_path(url).is_file()), None)


def check_weights(runner: Runner) -> Outcome:
    """Say what the model would start from: share filled, resized, left as it is, dropped."""
    cfg, model = runner.cfg, unwrapped(runner.model)
    outcome = Outcome('pretrained weights')
    if cfg.get('load_from'):
        _whole_model(cfg.load_from, model, outcome)
        outcome.summary = outcome.summary or f'load_from={cfg.load_from!r} cannot be used'
        return outcome
    parts = pretrained_parts(model)
    for part in parts:
        _part(part, outcome)
        outcome.summary = outcome.summary or f'{part.field}={part.entry.get("checkpoint")!r} cannot be used'
    if not any(part.place.split('.')[0] == 'backbone' for part in parts):
        outcome.findings += _from_scratch(cfg, model)
        texts = [outcome.summary, 'the backbone starts from random values' + (
            ', as the card says' if _says_scratch(cfg) else '')]
        outcome.summary = '; '.join(filter(None, texts))
    return outcome


# --- nothing to load ----------------------------------------------------------------------------------------


def _says_scratch(cfg: Config) -> bool:
    card = cfg.get('card')
    return isinstance(card, Mapping) and 'init' in card and card['init'] is None


def _from_scratch(cfg: Config, model: nn.Module) -> Iterator[Finding]:
    """A backbone without weights is what the card says, or probably not what is meant."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None or _says_scratch(cfg) or cfg.get('resume') or getattr(backbone, 'pretrained', None):
        return
    yield Finding(
        'warning', 'no pretrained weights',
        f'the backbone {type(backbone).__name__} starts from random values: model.backbone.init_cfg names no '
        'checkpoint, and there is no load_from',
        "set model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...), docs/weights.md has the names; or say "
        'init=None in the card of the config', field='model.backbone.init_cfg')


# --- a backbone ---------------------------------------------------------------------------------------------


def _part(part: Pretrained, outcome: Outcome) -> None:
    """Look at the file of one part."""
    checkpoint = part.entry.get('checkpoint')
    if hasattr(part.part, 'weight_family'):
        found = _file(checkpoint, part.field, outcome)
        if found is not None:
            _own(part, found, outcome)
    elif isinstance(checkpoint, str) and '://' not in checkpoint:
        found = Path(checkpoint).expanduser()
        if not found.is_file():
            outcome.findings.append(_missing(checkpoint, part.field))
        else:
            _foreign(part, found, outcome)
    else:
        outcome.summary = f'{part.place} <- {checkpoint}, read by MMEngine when the run starts: not looked at'


def _missing(checkpoint: Checkpoint, field: str) -> Finding:
    exists = isinstance(checkpoint, str | os.PathLike) and Path(checkpoint).expanduser().exists()
    return Finding(
        'error', 'weights missing', f'{spelled(checkpoint)} is no file' if exists else
        f'the file {spelled(checkpoint)} does not exist',
        'correct the path, or name the weights by address or short name (docs/weights.md)', field=field,
        value=spelled(checkpoint))


def _file(checkpoint: Checkpoint, field: str, outcome: Outcome) -> Path | None:
    """The file on this machine; else a finding."""
    try:
        source = resolve(checkpoint)
    except ValueError as error:
        what, _, remedy = str(error).partition('; ')
        outcome.findings.append(Finding('error', 'weights unknown', what, remedy, field=field, value=str(checkpoint)))
        return None
    place = local_place(source)
    if place is None:
        offline = os.environ.get(OFFLINE, '').strip().lower() not in ('', '0', 'false', 'no', 'off')
        target = cached_path(source.urls[0])
        if offline:
            outcome.findings.append(Finding(
                'warning', 'weights not here',
                f'{source.title} is not on this machine, and {OFFLINE} forbids to download it',
                f'put {source.urls[0]} at {target}', field=field, value=spelled(checkpoint)))
        outcome.summary = f'{source.title} is not on this machine' + (
            '' if offline else ' and will be downloaded when training starts: not looked at')
        return None
    if not place.is_file():
        outcome.findings.append(_missing(checkpoint, field))
        return None
    return place


def _own(part: Pretrained, file: Path, outcome: Outcome) -> None:
    """What a load of our own reader would do."""
    options = {key: part.entry[key] for key in ('prefix', 'patch_resize') if key in part.entry}
    checkpoint, strict = part.entry['checkpoint'], part.entry.get('strict', True)
    try:
        state, wrappers = read_tensors(file)
        coverage, native, hint = survey(part.part, checkpoint, state, wrappers, config_beside(file), **options)
    except ValueError as error:
        what, _, remedy = str(error).rpartition('; ')
        outcome.findings.append(Finding(
            'error', 'weights do not fit', what or remedy, remedy if what else '', file=str(file), field=part.field))
        return
    coverage.not_finite += [name for name in coverage.filled if not is_finite(native[name])]
    outcome.findings += _coverage_findings(part, coverage, refusal(coverage, native, hint), strict, file)
    outcome.summary = f'{part.place}: {coverage.summary()}'
    outcome.details += coverage.table().splitlines()
    outcome.figures[part.place] = _figures(coverage)


def _figures(coverage: Coverage) -> dict[str, Any]:
    total = max(coverage.total_elements, 1)
    left = [name for name in coverage.elements if name not in set(coverage.filled)]
    return dict(
        layout=coverage.layout, filled=round(coverage.filled_elements / total, 6),
        resized=round(sum(coverage.elements[name] for name in coverage.resized) / total, 6),
        random=round(sum(coverage.elements[name] for name in left) / total, 6), left_random=left,
        dropped=list(coverage.dropped), outside=parts_of(coverage.outside), differs=list(coverage.differs))


def _coverage_findings(
    part: Pretrained, coverage: Coverage, refused: str, strict: bool, file: Path
) -> Iterator[Finding]:
    if not coverage.complete:
        share = 1 - coverage.filled_elements / max(coverage.total_elements, 1)
        mark = '. To do: ' if '. To do: ' in refused else ': ' if ': the file is of another size' in refused else '; '
        what, _, remedy = refused.partition(mark) if mark != '; ' else refused.rpartition(mark)
        kind, severity = ('weights do not fit', 'error') if strict else ('weights fill a part', 'warning')
        if coverage.not_finite:
            severity = 'error'
        yield Finding(severity, kind, f'{what}; {share:.0%} of the values would stay random', remedy,
                      file=str(file), field=part.field)
    settings = [text for text in coverage.differs if not text.startswith(('norm_eps', 'pos_interpolation'))]
    for text in settings:  # norm_eps: inputs.py; the interpolation shows on maps of another size only
        yield Finding(
            'warning', 'weights of other settings', f'the weights were trained with another setting: {text}',
            f'set model.{part.place}.{text.partition("=")[0]} to that of the source', field=part.field)
    whole = sorted(set(parts_of(coverage.outside)) & WHOLE_MODEL)
    if whole:
        yield Finding(
            'note', 'weights of a whole model',
            f'the file holds a whole model ({", ".join(whole)}), and its backbone alone is taken',
            'set load_from in place of model.backbone.init_cfg to start from all of it', file=str(file),
            field=part.field)


def _foreign(part: Pretrained, file: Path, outcome: Outcome) -> None:
    """A backbone of another package: which of its parameters the file has by name, as MMEngine looks for them."""
    try:
        content = read_file(file)
    except ValueError as error:
        outcome.findings.append(Finding('error', 'weights unreadable', str(error), file=str(file), field=part.field))
        return
    state = content.get('state_dict', content)
    prefix = part.entry.get('prefix') or ''
    prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
    own = {name: value for name, value in part.part.state_dict().items() if isinstance(value, Tensor)}
    total = sum(value.numel() for value in own.values())
    filled = sum(value.numel() for name, value in own.items()
                 if tuple(getattr(state.get(prefix + name), 'shape', ())) == tuple(value.shape))
    share = filled / max(total, 1)
    converts = getattr(part.part, 'convert_weights', False)
    outcome.summary = f'{part.place} <- {file}: ' + (
        'converted by the backbone itself, not looked at' if converts else f'{share:.1%} of the values by name')
    outcome.figures[part.place] = dict(filled=None if converts else share)
    if not converts and share < FEW:
        yield_of = f'{share:.0%} of the values of {type(part.part).__name__} have their name and shape in {file}'
        outcome.findings.append(Finding(
            'warning', 'weights fill a part', f'only {yield_of}: MMEngine loads what fits and goes on',
            'give a file in the names of the backbone, or set prefix in init_cfg', file=str(file), field=part.field))


# --- a whole model ------------------------------------------------------------------------------------------


def _whole_model(checkpoint: Checkpoint, model: nn.Module, outcome: Outcome) -> None:
    """What `load_from` would do, done to a copy."""
    from backbones.weights.whole_model import load_model_checkpoint

    if _file(checkpoint, 'load_from', outcome) is None:
        return
    try:
        load_model_checkpoint(copy.deepcopy(model), checkpoint, new_classes=True)
    except ValueError as error:
        what, _, remedy = str(error).rpartition('; ')
        outcome.findings.append(Finding(
            'error', 'weights do not fit', what or remedy, remedy if what else '', field='load_from',
            value=spelled(checkpoint)))
        return
    outcome.summary = f'{type(model).__name__} <- {spelled(checkpoint)}: the whole model'
