"""Metrics, test-time augmentation, prediction. Importing this package registers them in scope `backbones`."""

from backbones.evaluation.coco_metric import CocoMetric
from backbones.evaluation.instance_tta import InstanceTTAModel
from backbones.evaluation.outputs import PredictionFileHook

__all__ = ['CocoMetric', 'InstanceTTAModel', 'PredictionFileHook']
