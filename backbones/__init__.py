"""ConvNeXt and plain ViT backbones for detection and segmentation in every MMEngine project.

In a config write ``backbone=dict(type='backbones.ConvNeXt', ...)``: MMEngine finds `backbones.registry`
through the scope in front of the dot, so that no `custom_imports` is needed. This file imports no module of
its own on purpose: MMEngine hides an import error raised here and then reports the class as not registered.
"""

from importlib.util import find_spec

if find_spec('mmengine') is None:
    raise ModuleNotFoundError(
        'backbones needs MMEngine, which is not installed: run `pip install onedl-mmengine` (the maintained '
        'fork) or, in a project on upstream OpenMMLab, `pip install mmengine`.',
        name='mmengine',
    )

__version__ = '0.1.0'
