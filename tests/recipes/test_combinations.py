"""Settings that contradict each other are found from the config alone; test_keys.py checks all shipped configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config

from backbones.recipes.combinations import combination_findings

DEMO = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
CASCADE = ROOT / 'configs/convnext/cascade-mask-rcnn_convnext-b-in22k_3x_coco.py'
VITDET = ROOT / 'configs/vit/mask-rcnn_vitdet-b-mae_100e_coco.py'
SLIDE = ROOT / 'configs/convnext/upernet_convnext-b-in22k_160k_ade20k-640.py'
VIT = ROOT / 'configs/vit/upernet_vit-b-in21k_160k_ade20k-512.py'
PATCH_14 = {'model.backbone.patch_size': 14, 'model.backbone.rel_pos': 'none', 'model.backbone.img_size': None}

ROWS = [
    (
        VITDET,
        {'model.backbone.patch_size': 14, 'model.backbone.rel_pos': 'none'},
        r'patch_size=14 does not divide model\.data_preprocessor\.pad_size_divisor=1024; set .*=1022 or 1036',
    ),
    (
        VIT,
        {'model.data_preprocessor.size': (528, 520)},
        r'patch_size=16 does not divide .*size=\(528, 520\); set .*\(528, 512\)',
    ),
    (
        VITDET,
        {'model.backbone.img_size': 512},
        r'img_size=512 sizes the relative positions, but the model trains on .*=1024',
    ),
    (
        SLIDE,
        {'model.data_preprocessor.size': (512, 512)},
        r'crops are 640 \(RandomCrop\.crop_size\).*size=512 is smaller',
    ),
    (DEMO, {'model.backbone.frozen_stages': 2}, r'frozen_stages=2 keeps layers.*stay random; add init_cfg='),
    (
        CASCADE,
        {'model.roi_head.num_stages': 2, 'model.train_cfg.rcnn': [{}, {}], 'model.roi_head.stage_loss_weights': [1, 1]},
        r'num_stages=2, but model\.roi_head\.bbox_head has 3 entries',
    ),
    (SLIDE, {'model.test_cfg': {'mode': 'slide', 'stride': None}}, r"mode='slide' needs stride; give both"),
    (SLIDE, {'model.test_cfg.stride': (700, 426)}, r'stride=\(700, 426\) is larger than crop_size=640'),
    (SLIDE, {'model.test_cfg.stride': (0, 32)}, r'test_cfg\.stride=\(0, 32\) must be a pair of whole .* at least 1'),
    (SLIDE, {'model.test_cfg.stride': 0}, r'test_cfg\.stride=0 must be a pair of whole numbers, rows and columns'),
    (SLIDE, {'model.test_cfg.stride': 341}, r'test_cfg\.stride=341 must be a pair'),
    (
        VITDET,
        {**PATCH_14, 'model.data_preprocessor.pad_size_divisor': 32},
        r'patch_size=14 does not divide the training crops, RandomCrop\.crop_size=1024 padded to 1024 .*'
        r'set RandomCrop\.crop_size=1022 or 1036 and model\.data_preprocessor\.pad_size_divisor=14',
    ),
    (SLIDE, {'optim_wrapper.paramwise_cfg.decay_type': 'layerwise'}, r"decay_type='layerwise' .* mean 'layer_wise'\?"),
    (
        SLIDE,
        {'optim_wrapper.paramwise_cfg.weight_decay_rule': 'convnet'},
        r"paramwise_cfg\.weight_decay_rule='convnet' is unknown; did you mean 'convnext'\? There are 'convnext'",
    ),
    (SLIDE, {'model.test_cfg.mode': 'slides'}, r"mode='slides' is unknown; choose 'slide' or 'whole'"),
    (
        SLIDE,
        {'optim_wrapper.paramwise_cfg.num_layers': 12},
        r'num_layers=12 is not needed: the backbone knows.*remove num_layers',
    ),
    (SLIDE, {'optim_wrapper.paramwise_cfg.decay_rate': 1.2}, r'decay_rate=1\.2 is not in \(0, 1\]; give for example'),
    (SLIDE, {'optim_wrapper.paramwise_cfg.decay_rate': 0}, r'decay_rate=0 is not in \(0, 1\]'),
    (
        SLIDE,
        {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor'},
        r"decay_rate, .* which DefaultOptimWrapperConstructor ignores; set .*'backbones\.LayerDecay.*or remove them",
    ),
    (SLIDE, {'optim_wrapper.dtype': 'fp16'}, r"dtype='fp16' is no precision of AmpOptimWrapper; give 'float16' or"),
    (
        SLIDE,
        {'train_dataloader.dataset.reduce_zero_label': False},
        r'train_dataloader: the data set has reduce_zero_label=False and .*LoadLabelMap has .*=True',
    ),
    (
        DEMO,
        {'train_dataloader.dataset.pipeline.2.type': 'Normalize'},
        r'has a Normalize .* normalised twice; leave out Norm',
    ),
    (DEMO, {'train_dataloader.persistent_workers': True}, r'persistent_workers=True needs workers.*num_workers is 0'),
    (
        DEMO,
        {'custom_hooks': [dict(type='EMAHook', momentum=0.9998)]},
        r'EMAHook\.momentum=0\.9998: MMEngine means the share of the newest.*\(0\.0002 is the decay 0\.9998\)',
    ),
    (
        DEMO,
        {'custom_hooks': [dict(type='EMAHook', begin_iter=5, begin_epoch=1)]},
        r'begin_iter=5 and begin_epoch=1; give one',
    ),
    (SLIDE, {'param_scheduler.1.by_epoch': True}, r'param_scheduler\[1\] \(PolyLR\) counts epochs.*would never change'),
    (
        SLIDE,
        {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=9)},
        r'checkpoint saves every 9 epochs.*set by_epoch=False',
    ),
]


@pytest.mark.parametrize(('path', 'changes', 'sentence'), ROWS, ids=[' '.join(row[1]) for row in ROWS])
def test_a_contradiction_is_one_sentence_with_its_remedy(path: Path, changes: dict, sentence: str) -> None:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(changes)
    findings = combination_findings(cfg)
    assert len(findings) == 1, findings
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(findings[0])


@pytest.mark.parametrize(
    'changes',
    [
        {'load_from': 'detector.pth'},
        {'model.init_cfg': dict(type='Pretrained', checkpoint='detector.pth')},
        {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='backbone.pth')},
    ],
)
def test_frozen_layers_are_fine_where_weights_are_loaded(changes: dict) -> None:
    cfg = Config.fromfile(DEMO)
    cfg.merge_from_dict({'model.backbone.frozen_stages': 2, **changes})
    assert combination_findings(cfg) == []


def test_two_normalisations_in_one_evaluation_are_told_once() -> None:
    cfg = Config.fromfile(DEMO)
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'].dataset.pipeline[1].type = 'Normalize'
    assert len(combination_findings(cfg)) == 1


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='CosineAnnealingLR', T_max=10, convert_to_iter_based=True),
        dict(type='ReduceOnPlateauLR', monitor='mIoU'),
    ],
)
def test_schedulers_that_an_iteration_based_run_steps_are_fine(scheduler: dict) -> None:
    cfg = Config.fromfile(SLIDE)
    cfg.param_scheduler = [scheduler]
    assert combination_findings(cfg) == []


def test_patches_that_divide_the_padded_crop_are_fine() -> None:
    cfg = Config.fromfile(VITDET)
    cfg.merge_from_dict({'model.backbone.patch_size': 16, 'model.data_preprocessor.pad_size_divisor': 32})
    assert combination_findings(cfg) == []
