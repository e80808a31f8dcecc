"""Fast inference of trained models.

`prepare.py` folds, converts and packs a model, `compiled.py` compiles it; `blocks.py` holds the blocks as they run.
"""

from backbones.inference.compiled import compile_for_inference
from backbones.inference.prepare import is_prepared, prepare_for_inference

__all__ = ['compile_for_inference', 'is_prepared', 'prepare_for_inference']
