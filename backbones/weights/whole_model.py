"""Checkpoints of whole detectors and segmenters: read safely, compared, then loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from backbones.weights.load import CLASS_DEPENDENT, check_model_checkpoint, local_file
from backbones.weights.read import peel, read_file


def load_model_checkpoint(model: nn.Module, path: str | os.PathLike, new_classes: bool = False) -> dict[str, Any]:
    """Fill `model` from a checkpoint of the same model; nothing is changed if it does not fit.

    Args:
        model: a detector or segmenter.
        path: file (or URL) written by `tools/train.py` or another MMEngine run.
        new_classes: leave the class layers of a file with another number of classes out, and log their names.

    Returns:
        The file's `meta` (class names under `dataset_meta`), or an empty dict.

    Raises:
        ValueError: the file is missing or damaged, or belongs to another model; one sentence with the remedy.
    """
    content = read_file(local_file(path))
    state = peel(content, str(path))
    if new_classes:
        state = _without_other_classes(model, state, path)
    check_model_checkpoint(model, state, path)
    model.load_state_dict(state)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def _without_other_classes(model: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike) -> dict[str, Tensor]:
    """Put the model's own class layers in place of those of the file that have another shape."""
    own = model.state_dict()
    anew = [
        name for name, value in state.items()
        if CLASS_DEPENDENT.search(name) and name in own and own[name].shape != value.shape
    ]
    if anew:
        print_log(f'{os.fspath(path)} has other classes; these layers start anew: {", ".join(anew)}', 'current')
    return {**state, **{name: own[name] for name in anew}}
