"""The registries: found by scope from every toolbox, light, and clear where MMEngine is absent."""

from __future__ import annotations

import importlib.util

import mmengine.registry
import pytest

from backbones import registry

BUILD = """
from {registry} import MODELS
model = MODELS.build(dict(type='backbones.ConvNeXt', arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))))
print(type(model).__module__, model.out_channels)
"""


@pytest.mark.parametrize('toolbox', ['mmengine', 'mmdet', 'mmseg'])
def test_a_fresh_process_in_an_empty_folder_builds_the_backbone_by_its_scoped_name(run_python, toolbox):
    for module in () if toolbox == 'mmengine' else ('mmcv', toolbox):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed')
    process = run_python(BUILD.format(registry=f'{toolbox}.registry'))
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == 'backbones.convnext (8, 8, 8, 8)'


def test_building_a_backbone_imports_no_toolbox(run_python):
    toolboxes = {'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision', 'transformers', 'timm'}
    build = BUILD.format(registry='mmengine.registry')
    process = run_python(f'{build}\nimport sys\nprint(sorted({toolboxes} & set(sys.modules)))')
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == '[]'


@pytest.mark.parametrize('module', ['registry', 'convnext', 'vit', 'pyramid', 'layer_decay', 'weights.load'])
def test_without_mmengine_one_sentence_says_what_to_install(run_python, module):
    process = run_python(f"import sys\nsys.modules['mmengine'] = None\nimport backbones.{module}")
    assert process.returncode != 0
    assert process.stderr.count('Traceback') == 1
    assert 'pip install onedl-mmengine' in process.stderr.splitlines()[-1]


@pytest.mark.parametrize('hook', ['PrecisionHook', 'MetricsFileHook', 'PredictionFileHook'])
def test_hooks_need_no_toolbox(run_python, hook):
    process = run_python(
        "import sys\nsys.modules.update(mmcv=None, mmdet=None, mmseg=None)\n"
        f"from mmengine.registry import HOOKS\nprint(HOOKS.build(dict(type='backbones.{hook}')))")
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    'build',
    [
        "DATASETS.build(dict(type='backbones.CocoDataset'))",
        "METRICS.build(dict(type='backbones.CocoMetric'))",
        "MODELS.build(dict(type='backbones.SingleRoIExtractor', roi_layer={}, out_channels=8, featmap_strides=[4]))",
    ],
)
def test_without_mmcv_one_sentence_says_how_to_get_it(run_python, build):
    process = run_python(
        f"import sys\nsys.modules['mmcv'] = None\nfrom mmengine.registry import DATASETS, METRICS, MODELS\n{build}")
    assert process.returncode != 0
    assert 'tools/setup/build_mmcv.py' in process.stderr.splitlines()[-1]


def test_a_broken_mmengine_is_not_reported_as_a_missing_one(run_python):
    code = (
        'import importlib.machinery, sys, types\n'
        "broken = types.ModuleType('mmengine')\n"
        "broken.__spec__ = importlib.machinery.ModuleSpec('mmengine', None)\n"
        'broken.__path__ = []\n'
        "sys.modules['mmengine'] = broken\n"
        'import backbones.registry'
    )
    process = run_python(code)
    assert process.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'mmengine.registry'"


@pytest.mark.parametrize(
    ('name', 'root'),
    [
        ('MODELS', 'MODELS'),
        ('OPTIM_WRAPPER_CONSTRUCTORS', 'OPTIM_WRAPPER_CONSTRUCTORS'),
        ('DATASETS', 'DATASETS'),
        ('TRANSFORMS', 'TRANSFORMS'),
        ('HOOKS', 'HOOKS'),
        ('METRICS', 'METRICS'),
        ('LOOPS', 'LOOPS'),
        ('DATA_SAMPLERS', 'DATA_SAMPLERS'),
        ('OPTIM_WRAPPERS', 'OPTIM_WRAPPERS'),
    ],
)
def test_each_registry_is_a_child_of_the_root_of_its_kind(name, root):
    child = getattr(registry, name)
    assert child.scope == 'backbones'
    assert child.parent is getattr(mmengine.registry, root)


@pytest.mark.parametrize('name', [
    'MODELS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'DATASETS', 'TRANSFORMS', 'HOOKS', 'METRICS', 'LOOPS', 'DATA_SAMPLERS',
    'OPTIM_WRAPPERS'])
def test_each_location_is_a_module_of_the_package(name):
    for location in getattr(registry, name)._locations:
        assert importlib.util.find_spec(location) is not None, location
