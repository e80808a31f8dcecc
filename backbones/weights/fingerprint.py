"""Where a backbone's weights came from, to show later that they are still there."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LoadedFrom:
    """Left on a backbone by `load_pretrained`: what to read again to compare.

    Attributes:
        source: the checkpoint as the user named it.
        checkpoint: for `local_file`.
        options: `prefix` and `patch_resize` of the load.
        filled: names of the parameters that came from the file.
    """

    source: str
    checkpoint: Any
    options: dict[str, Any]
    filled: tuple[str, ...]


def fingerprints(module: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """CRC-32 of the bytes of some parameters and buffers, by name."""
    own = module.state_dict()
    return {name: _checksum(own[name]) for name in names}


def _checksum(value: Tensor) -> int:
    flat = value.detach().cpu().contiguous().flatten()
    return zlib.crc32(memoryview(flat.view(torch.uint8).numpy()))
