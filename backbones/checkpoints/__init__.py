"""Checkpoints that survive: a state tree as tensors and JSON, published whole, verified before use.

docs/checkpoints.md describes the format and the promises.
"""

from backbones.checkpoints.rotation import Best, Found, clean_up, list_checkpoints, newest_valid, read_best, rotate
from backbones.checkpoints.store import (
    is_checkpoint,
    read_checkpoint,
    read_manifest,
    read_weights,
    verify_checkpoint,
    write_checkpoint,
)

__all__ = [
    'Best', 'Found', 'clean_up', 'is_checkpoint', 'list_checkpoints', 'newest_valid', 'read_best', 'read_checkpoint',
    'read_manifest', 'read_weights', 'rotate', 'verify_checkpoint', 'write_checkpoint',
]
