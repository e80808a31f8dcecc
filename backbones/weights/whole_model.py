"""Checkpoints of whole detectors and segmenters: read safely, compared, then loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from backbones.weights.advice import first_names
from backbones.weights.coverage import parts_of
from backbones.weights.load import is_finite, local_file, survey
from backbones.weights.read import peel, read_file
from backbones.weights.sources import Checkpoint, spelled

# Last layers, whose first axis counts classes: boxes (one more for the background), masks, segmentation.
CLASS_LAYERS = {
    r'fc_cls\.(weight|bias)$': -1,
    r'conv_logits\.(weight|bias)$': 0,
    r'conv_seg\.(weight|bias)$': 0,
}
CLASS_DEPENDENT = re.compile(r'(fc_cls|fc_reg|conv_logits|conv_seg)\.(weight|bias)$')


def load_model_checkpoint(model: nn.Module, path: Checkpoint, new_classes: bool = False) -> dict[str, Any]:
    """Fill `model` from a checkpoint of the same model; nothing is changed if it does not fit.

    Args:
        model: a detector or segmenter.
        path: a run of `tools/train.py`, or a published model whose heads have the same names; its backbone may be in
            any layout that `load_pretrained` knows. Any name that `sources.resolve` knows.
        new_classes: leave the class layers of a file with another number of classes out, and log their names.

    Returns:
        The file's `meta` (class names under `dataset_meta`), or an empty dict.

    Raises:
        ValueError: the file is missing or damaged, or belongs to another model; one sentence with the remedy.
    """
    content = read_file(local_file(path))
    state = _with_native_backbone(model, peel(content, str(path)), path)
    taken = len(state)
    if new_classes:
        state, taken = _without_other_classes(model, state, path)
    check_model_checkpoint(model, state, path)
    spoilt = [name for name, value in state.items() if not is_finite(value)]
    if spoilt:
        raise ValueError(
            f'checkpoint {spelled(path)} cannot be used: {len(spoilt)} tensors hold NaN or infinity: '
            f'{first_names(spoilt)}; take a checkpoint from before the run diverged'
        )
    model.load_state_dict(state, strict=False)  # checked above; files of old versions lack num_batches_tracked
    print_log(f'{type(model).__name__} <- {spelled(path)}: {taken}/{len(model.state_dict())} tensors', 'current')
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def _with_native_backbone(model: nn.Module, state: dict[str, Tensor], path: Checkpoint) -> dict[str, Tensor]:
    """Give the backbone's tensors in a whole model their native names and values; the others stay as they are."""
    backbone = getattr(model, 'backbone', None)
    inner = {name: value for name, value in state.items() if name.startswith('backbone.')}
    if not hasattr(backbone, 'weight_family') or {f'backbone.{name}' for name in backbone.state_dict()} == set(inner):
        return state
    try:
        coverage, native, _ = survey(backbone, path, inner, ())
    except ValueError:
        return state  # check_model_checkpoint says what does not fit
    print_log(coverage.summary(), 'current')
    own = {name: value for name, value in backbone.state_dict().items() if name in coverage.fresh}
    others = {name: value for name, value in state.items() if name not in inner}
    return {**others, **{f'backbone.{name}': value for name, value in {**own, **native}.items()}}


def _without_other_classes(
    model: nn.Module, state: Mapping[str, Tensor], path: Checkpoint
) -> tuple[dict[str, Tensor], int]:
    """Put the model's own class layers in place of those of the file that have another shape; count what is left."""
    own = model.state_dict()
    anew = [
        name for name, value in state.items()
        if CLASS_DEPENDENT.search(name) and name in own and own[name].shape != value.shape
    ]
    if anew:
        print_log(f'{spelled(path)} has other classes; these layers start anew: {", ".join(anew)}', 'current')
    return {**state, **{name: own[name] for name in anew}}, len(state) - len(anew)


def check_model_checkpoint(model: nn.Module, state_dict: Mapping[str, Tensor], path: Checkpoint) -> None:
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
    title = f'checkpoint {spelled(path)} does not fit {type(model).__name__}'
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
