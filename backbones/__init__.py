"""ConvNeXt and plain ViT backbones for detection and segmentation in every MMEngine project.

In a config write ``backbone=dict(type='backbones.ConvNeXt', ...)``: MMEngine finds `backbones.registry`
through the scope in front of the dot, so that no `custom_imports` is needed. In Python,
``backbones.load_backbone(FILE)`` builds and fills the backbone of any lab's checkpoint, and
``backbones.load_model(CHECKPOINT).predict(IMAGES)`` runs a trained detector or segmenter.

This file imports no module of its own on purpose: MMEngine hides an import error raised here and then reports the
class as not registered.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

if find_spec('mmengine') is None:
    raise ModuleNotFoundError(
        'backbones needs MMEngine, which is not installed: run `pip install onedl-mmengine` (the maintained '
        'fork) or, in a project on upstream OpenMMLab, `pip install mmengine`.',
        name='mmengine',
    )

__version__ = '0.1.0'

_OFFERED = {'load_backbone': 'backbones.from_weights', 'load_model': 'backbones.evaluation.load_model'}


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for."""
    if name in _OFFERED:
        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
