"""The registries of scope `backbones`: children of MMEngine's root registries.

MMEngine imports this module by itself for a type such as `'backbones.ConvNeXt'` and then, at the first lookup
in a registry, that registry's `locations`. A location is imported only when something of its registry is
looked up, so the plug-in half of the package (models and optimiser constructors) never needs mmcv, mmdet or
mmseg.

MMEngine swallows an ImportError that is raised while it imports this module; nothing here may fail once
MMEngine is installed. An error inside a location comes through as it is.
"""

from __future__ import annotations

import mmengine.registry as _root

SCOPE = 'backbones'


def _child(name: str, parent: _root.Registry, *locations: str) -> _root.Registry:
    """Make the registry of scope `backbones` below MMEngine's `parent`."""
    places = [f'{SCOPE}.{place}' for place in locations]
    return _root.Registry(name, parent=parent, scope=SCOPE, locations=places)


# Those of evaluation, detection and segmentation import mmdet or mmseg only when their class is built: a backbone alone
# needs no toolbox.
MODELS = _child(
    'model', _root.MODELS, 'layers', 'convnext', 'vit', 'pyramid', 'evaluation.instance_tta', 'evaluation.tiles_model',
    'detection.roi_extractor', 'detection.rpn_head', 'detection.standard_roi_head', 'detection.staged_roi_head',
    'detection.cascade_roi_head', 'detection.mask_head', 'segmentation.linear_head', 'segmentation.heads',
    'detection.preprocessor', 'segmentation.preprocessor', 'training.ema'
)
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', _root.OPTIM_WRAPPER_CONSTRUCTORS, 'layer_decay', 'parameter_groups'
)
OPTIM_WRAPPERS = _child('optim_wrapper', _root.OPTIM_WRAPPERS, 'training.guards', 'training.precision')
DATASETS = _child('dataset', _root.DATASETS, 'data')
TRANSFORMS = _child('transform', _root.TRANSFORMS, 'data', 'evaluation.tiles_model')
HOOKS = _child(
    'hook', _root.HOOKS, 'training.signals', 'training.non_finite', 'training.watchdog', 'training.lock',
    'training.run_record', 'training.inject_run', 'training.hooks', 'training.precision', 'training.bad_samples_hook',
    'training.safe_checkpoint', 'training.resuming', 'training.ema', 'training.scalars',
    'training.progress', 'training.sample_predictions', 'training.run_logging', 'compiling.hook', 'evaluation.outputs',
    'evaluation.validation_loss')
VISBACKENDS = _child('vis_backend', _root.VISBACKENDS, 'training.log_files')
METRICS = _child('metric', _root.METRICS, 'evaluation.metrics')
LOOPS = _child('loop', _root.LOOPS, 'training.loops')
DATA_SAMPLERS = _child('data sampler', _root.DATA_SAMPLERS, 'data')
