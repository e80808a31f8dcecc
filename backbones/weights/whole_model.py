"""Checkpoints of whole detectors and segmenters: read safely, compared, then loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from backbones.weights.load import check_model_checkpoint
from backbones.weights.read import peel, read_file


def load_model_checkpoint(model: nn.Module, path: str | os.PathLike) -> dict[str, Any]:
    """Fill `model` from a checkpoint of the same model; nothing is changed if it does not fit.

    Args:
        model: a detector or segmenter.
        path: file written by `tools/train.py` or another MMEngine run.

    Returns:
        The file's `meta` (class names under `dataset_meta`), or an empty dict.

    Raises:
        ValueError: the file is missing or damaged, or belongs to another model; one sentence with the remedy.
    """
    content = read_file(Path(path).expanduser())
    state = peel(content, str(path))
    check_model_checkpoint(model, state, path)
    model.load_state_dict(state)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) else {}
