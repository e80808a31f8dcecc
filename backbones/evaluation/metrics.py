"""The metrics of the toolboxes that are there: a project with one toolbox needs no other."""

from importlib.util import find_spec

if find_spec('mmdet') is not None or find_spec('mmseg') is None:
    from . import coco_metric  # noqa: F401
if find_spec('mmseg') is not None or find_spec('mmdet') is None:
    from . import iou_metric  # noqa: F401
