"""ConvNeXt and plain ViT backbones for detection and segmentation in every MMEngine project.

In a config write ``backbone=dict(type='backbones.ConvNeXt', ...)``: MMEngine finds `backbones.registry`
through the scope in front of the dot, so that no `custom_imports` is needed. This file imports nothing on
purpose: MMEngine hides an import error raised here and then reports the class as not registered.
"""

__version__ = '0.1.0'
