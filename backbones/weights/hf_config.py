"""Hugging Face's `config.json` beside a checkpoint: what no tensor shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ACTIVATIONS = {'gelu': 'gelu', 'quick_gelu': 'quick_gelu', 'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_new': 'gelu_tanh'}


def config_beside(file: Path) -> dict[str, Any] | None:
    """Read the config.json in the folder of a local file; None if there is none."""
    try:
        content = json.loads(file.with_name('config.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def facts(config: Mapping[str, Any] | None, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Give `norm_eps`, `act` and `num_heads` of a ViT, as far as they are told.

    Args:
        config: what `config_beside` gave; a CLIP file keeps the image tower's part under vision_config.
        sizes: `embed_dim` and `depth` of the checkpoint; a config of another model is left alone.
    """
    part = (config or {}).get('vision_config') or config or {}
    told = (part.get('hidden_size'), part.get('num_hidden_layers')) if isinstance(part, Mapping) else None
    if told != (sizes.get('embed_dim', 0), sizes.get('depth', 0)):
        return {}
    found: dict[str, Any] = {}
    eps, heads = part.get('layer_norm_eps'), part.get('num_attention_heads')
    if isinstance(eps, float) and 0 < eps < math.inf:
        found['norm_eps'] = eps
    if str(part.get('hidden_act')) in ACTIVATIONS:
        found['act'] = ACTIVATIONS[str(part['hidden_act'])]
    if isinstance(heads, int) and heads > 0:
        found['num_heads'] = heads
    return found
