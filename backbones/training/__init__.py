"""What a run needs beyond MMEngine. Importing this package registers its hooks in scope `backbones`."""

from backbones.evaluation.outputs import PredictionFileHook
from backbones.training.hooks import ChannelsLastHook, MetricsFileHook

__all__ = ['ChannelsLastHook', 'MetricsFileHook', 'PredictionFileHook']
