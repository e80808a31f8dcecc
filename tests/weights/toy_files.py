"""Toy checkpoints as their publishers would save them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONVNEXT = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
VIT = dict(embed_dim=8, depth=2, num_heads=2)


def official(model: nn.Module) -> dict[str, Tensor]:
    """Give the state of a backbone as its source would publish it: random, with a classifier."""
    torch.manual_seed(0)
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    state = {name: value for name, value in state.items() if not re.match(r'norm\d', name)}
    width = state['stages.3.0.dwconv.weight'].shape[0] if 'stages.3.0.dwconv.weight' in state else 8
    head = {'norm.weight': width, 'norm.bias': width, 'head.weight': width, 'head.bias': width}
    return {**state, **{name: torch.zeros(size) for name, size in head.items()}}


def saved(path: Path, state: dict[str, Any], wrapper: str = 'model') -> Path:
    """Save a state and return the path."""
    torch.save({wrapper: state}, path)
    return path


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether every tensor of `state` that the model has is in it."""
    own = model.state_dict()
    return all(torch.equal(own[name], value) for name, value in state.items() if name in own)
