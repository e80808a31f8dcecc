"""Datasets that check what they read, and the generated demo data set.

Importing this package registers `backbones.CocoDataset` and `backbones.LoadInstanceAnnotations` where mmdet is
installed, and `backbones.LabelMapDataset`, `backbones.ADE20KDataset` and `backbones.LoadLabelMap` where mmseg is: a
project with one toolbox needs no other. `backbones.LoadImageFromFile` needs mmcv only,
`backbones.AspectRatioBatchSampler`, `backbones.ResumableSampler`, `backbones.ResumableInfiniteSampler` and
`backbones.ReproducibleDataset` nothing.
"""

from importlib.util import find_spec

from backbones.missing import toolbox_needed

from . import randomness, samplers  # noqa: F401

with toolbox_needed():
    if find_spec('mmcv') is not None:
        from . import images  # noqa: F401
    if find_spec('mmdet') is not None:
        from . import coco, instance_annotations  # noqa: F401
    if find_spec('mmseg') is not None:
        from . import label_maps  # noqa: F401
