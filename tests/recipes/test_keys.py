"""A key that nobody reads, or a class that is not there, is one sentence with its place and its remedy."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
from conftest import ROOT
from mmdet.models.necks import FPN
from mmengine.config import Config
from mmengine.registry import DefaultScope
from recipe_configs import CASCADE, COCO, DETECTOR, SEGMENTER, changed, compose

from backbones.recipes.combinations import combination_findings
from backbones.recipes.keys import check_config, key_findings

LEAVES = sorted(path for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_')


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_no_shipped_config_has_a_dead_key_or_contradicts_itself(path: Path) -> None:
    cfg = Config.fromfile(path)
    assert key_findings(cfg) + combination_findings(cfg) == []


TYPOS = [
    (
        DETECTOR,
        {'model.backbone.drop_path_rat': 0.1},
        r"model\.backbone\.drop_path_rat=0\.1: ConvNeXt.*'drop_path_rate'",
    ),
    (DETECTOR, {'model.backbone.xyz': 1}, r'model\.backbone\.xyz=1: ConvNeXt takes no such.*choose among arch, '),
    (
        DETECTOR,
        {'model.backbone.type': 'backbones.ConvNext'},
        r"'backbones\.ConvNext' is no model.*'backbones\.ConvNeXt'\?",
    ),
    (
        DETECTOR,
        {'model.backbone.type': 'ConvNeXt'},
        r"'ConvNeXt' is no model.*of mmdet; did you mean 'backbones\.ConvNeXt'",
    ),
    (DETECTOR, {'model.backbone.type': 'nowhere.Net'}, r"package 'nowhere' is not installed; install nowhere"),
    (DETECTOR, {'model.backbone.type': 'mmpretrian.Net'}, r'did you mean mmpretrain\.Net\?'),
    (DETECTOR, {'model.neck.num_out': 5}, r"model\.neck\.num_out=5: FPN .*'num_outs'"),
    (DETECTOR, {'model.neck.norm_cfg.epsilon': 1}, r"model\.neck\.norm_cfg\.epsilon=1: LayerNorm2d.*'eps'"),
    (
        DETECTOR,
        {'model.rpn_head.loss_cls.use_sigmoids': True},
        r"model\.rpn_head\.loss_cls\.use_sigmoids.*'use_sigmoid'",
    ),
    (DETECTOR, {'model.rpn_head.bbox_coder.target_mean': 0}, r"DeltaXYWHBBoxCoder takes no.*'target_means'"),
    (DETECTOR, {'model.roi_head.mask_head.num_class': 1}, r"model\.roi_head\.mask_head\.num_class.*'num_classes'"),
    (
        DETECTOR,
        {'model.roi_head.bbox_roi_extractor.roi_layer.type': 'RoIAlgn'},
        r"no operator of mmcv\.ops; write 'RoIAlign'",
    ),
    (
        DETECTOR,
        {'model.roi_head.bbox_roi_extractor.roi_layer.sampling': 0},
        r"sampling=0: mmcv\.ops\.RoIAlign.*'sampling_ratio'",
    ),
    (DETECTOR, {'model.train_cfg.rcnn.sampler.number': 1}, r"sampler\.number=1: RandomSampler takes no.*'num'"),
    (
        DETECTOR,
        {'model.train_cfg.rcnn.assigner.type': 'MaxIouAssigner'},
        r"'MaxIouAssigner' is no .*'MaxIoUAssigner'\?",
    ),
    (DETECTOR, {'model.train_cfg.rcnn.mask_sise': 28}, r"model\.train_cfg\.rcnn\.mask_sise=28: neither.*'mask_size'"),
    (
        DETECTOR,
        {'model.test_cfg.rcnn.max_num': 50},
        r'model\.test_cfg\.rcnn\.max_num=50 is an old name.*write max_per_img',
    ),
    (DETECTOR, {'model.test_cfg.rccn': {}}, r"model\.test_cfg\.rccn=\{\}: a two-stage detector.*'rcnn'"),
    (
        DETECTOR,
        {'model.test_cfg.rcnn.nms.iou_thresh': 0.5},
        r"rcnn\.nms\.iou_thresh=0\.5: mmcv\.ops\.nms.*'iou_threshold'",
    ),
    (DETECTOR, {'train_dataloader.batchsize': 2}, r"train_dataloader\.batchsize=2: neither torch's.*'batch_size'"),
    (DETECTOR, {'train_dataloader.sampler.shufle': True}, r"sampler\.shufle=True: ResumableSampler.*'shuffle'"),
    (DETECTOR, {'train_dataloader.dataset.anno_file': 'x'}, r"dataset\.anno_file='x': CocoDataset.*'ann_file'"),
    (
        DETECTOR,
        {'train_dataloader.dataset.data_prefix.image': 'x'},
        r"data_prefix\.image='x': CocoDataset does not.*'img'",
    ),
    (COCO, {'train_dataloader.dataset.filter_cfg.min_sice': 2}, r"filter_cfg\.min_sice=2: CocoDataset.*'min_size'"),
    (
        DETECTOR,
        {'train_dataloader.dataset.pipeline.2.probability': 1},
        r'pipeline\[2\]\.probability=1: RandomFlip takes no',
    ),
    (
        COCO,
        {'train_dataloader.dataset.pipeline.3.transforms.0.0.keep_ration': 1},
        r"pipeline\[3\]\.transforms\[0\]\[0\]\.keep_ration=1: RandomChoiceResize.*'keep_ratio'",
    ),
    (DETECTOR, {'val_evaluator.metrik': 'bbox'}, r"val_evaluator\.metrik='bbox': CocoMetric.*'metric'"),
    (DETECTOR, {'optim_wrapper.optimizer.xyz': 1}, r'AdamW takes no such argument; choose among (?!.*params).*, or'),
    (DETECTOR, {'optim_wrapper.optimizer.weigth_decay': 0.1}, r"optimizer\.weigth_decay=0\.1: AdamW.*'weight_decay'"),
    (
        DETECTOR,
        {'optim_wrapper.optimizer.type': 'AdmW'},
        r"optim_wrapper\.optimizer\.type='AdmW' is no optimizer.*'AdamW'\?",
    ),
    (DETECTOR, {'optim_wrapper.clip_grad.max_nrom': 1}, r"clip_grad\.max_nrom=1: torch's clip_grad_norm_.*'max_norm'"),
    (
        DETECTOR,
        {'optim_wrapper.constructor': 'backbones.LayerDecay'},
        r"'backbones\.LayerDecay' is no optimizer wrapper con",
    ),
    (
        DETECTOR,
        {'optim_wrapper.paramwise_cfg.decay_rat': 0.7},
        r"paramwise_cfg\.decay_rat=0\.7: LayerDecay.*'decay_rate'",
    ),
    (
        DETECTOR,
        {'optim_wrapper.paramwise_cfg.custom_keys': {'neck': {'lr_mul': 2}}},
        r"custom_keys\['neck'\]\.lr_mul=2.*'lr_mult'",
    ),
    (
        DETECTOR,
        {'param_scheduler.0.start_faktor': 1},
        r"param_scheduler\[0\]\.start_faktor=1: LinearLR.*'start_factor'",
    ),
    (
        DETECTOR,
        {'default_hooks.checkpoint.max_keep_ckpt': 1},
        r"default_hooks\.checkpoint\.max_keep_ckpt=1: SafeCheck.*'max_keep_ckpts'",
    ),
    (
        DETECTOR,
        {'default_hooks.logger': {'_delete_': True, 'interval': 5}},
        r"default_hooks\.logger has no 'type'; name its class, a hook",
    ),
    (DETECTOR, {'train_cfg.max_epoch': 1}, r"train_cfg\.max_epoch=1: EpochBasedTrainLoop.*'max_epochs'"),
    (
        DETECTOR,
        {'visualizer.vis_backends.0.type': 'LocalBackend'},
        r"vis_backends\[0\]\.type='LocalBackend'.*'LocalVisBackend'\?",
    ),
    (DETECTOR, {'randomness.sead': 1}, r"randomness\.sead=1: MMEngine's set_randomness.*'seed'"),
    (DETECTOR, {'env_cfg.cudnn_bench': True}, r"env_cfg\.cudnn_bench=True: MMEngine's Runner.*'cudnn_benchmark'"),
    (
        DETECTOR,
        {'default_hooks.watchdog': False},
        r'default_hooks\.watchdog=False is no hook; give dict\(\.\.\.\); None leaves it out',
    ),
    (DETECTOR, {'default_hooks.chekpoint': dict(type='CheckpointHook')}, r"chekpoint is none .*mean 'checkpoint'\?"),
    (DETECTOR, {'tta_model.tta_config': {}}, r"tta_model\.tta_config=\{\}: InstanceTTAModel.*'tta_cfg'"),
    (DETECTOR, {'default_scope': 'mmdett'}, r"default_scope='mmdett' is no installed package.*give mmdet or mmseg"),
    (
        SEGMENTER,
        {'model.test_cfg.strides': 4},
        r"model\.test_cfg\.strides=4: EncoderDecoder does not read it.*'stride'",
    ),
    (
        SEGMENTER,
        {'model.data_preprocessor.test_cfg.size_divisors': 8},
        r"test_cfg\.size_divisors=8: Seg.*'size_divisor'",
    ),
    (SEGMENTER, {'model.decode_head.loss_decode.class_weights': 1}, r"loss_decode\.class_weights=1: .*'class_weight'"),
    (SEGMENTER, {'val_dataloader.dataset.data_prefix.img': 'x'}, r"data_prefix\.img='x': LabelMapDataset.*'img_path'"),
    (CASCADE, {'model.backbone.init_cfg.checkpiont': 'x'}, r"init_cfg\.checkpiont='x': PretrainedInit.*'checkpoint'"),
]


@pytest.mark.parametrize(('path', 'changes', 'sentence'), TYPOS, ids=[' '.join(row[1]) for row in TYPOS])
def test_a_typo_is_named_with_its_place_and_the_nearest_name(path: Path, changes: dict, sentence: str, matches) -> None:
    matches(key_findings(changed(path, changes)), sentence)


OLD = [
    (
        DETECTOR,
        {'model.backbone.pretrained': 'x.pth'},
        r"backbone\.pretrained='x\.pth' is an old name.*init_cfg=dict",
    ),
    (
        DETECTOR,
        {'train_dataloader.samples_per_gpu': 2},
        r'train_dataloader\.samples_per_gpu=2 .*write batch_size instead',
    ),
    (DETECTOR, {'train_dataloader.workers_per_gpu': 2}, r'workers_per_gpu=2 .*write num_workers instead'),
    (DETECTOR, {'val_dataloader.dataset.pipeline.1.img_scale': (9, 9)}, r'img_scale=.* is an old name.*write scale='),
    (
        DETECTOR,
        {'val_dataloader.dataset.pipeline.1.ratio_range': (1, 2)},
        r"ratio_range.*use dict\(type='RandomResize'",
    ),
    (DETECTOR, {'val_dataloader.dataset.pipeline.1.multiscale_mode': 'value'}, r'multiscale_mode.*RandomChoiceResize'),
    (DETECTOR, {'train_dataloader.dataset.pipeline.2.flip_ratio': 0.5}, r'flip_ratio=0\.5 .*write prob instead'),
    (
        DETECTOR,
        {'train_dataloader.dataset.pipeline.3.type': 'DefaultFormatBundle'},
        r'DefaultFormatBundle.*PackDetInputs',
    ),
    (
        DETECTOR,
        {'train_dataloader.dataset.pipeline.3.type': 'Collect'},
        r"'Collect' is an old class.*PackDetInputs",
    ),
    (DETECTOR, {'train_dataloader.dataset.img_prefix': 'x'}, r"img_prefix='x' is an old name.*data_prefix=dict\(img="),
    (DETECTOR, {'train_dataloader.dataset.metainfo.CLASSES': ['a']}, r'metainfo\.CLASSES=.* write classes instead'),
    (
        DETECTOR,
        {'optim_wrapper.grad_clip': {'max_norm': 1}},
        r'optim_wrapper\.grad_clip=.* write clip_grad=dict\(max_norm=',
    ),
    (DETECTOR, {'optim_wrapper.fp16': {}}, r'optim_wrapper\.fp16=.*AmpOptimWrapper'),
    (DETECTOR, {'param_scheduler.0.policy': 'step'}, r"param_scheduler\[0\]\.policy='step' .*name a class by type"),
]


@pytest.mark.parametrize(('path', 'changes', 'sentence'), OLD, ids=[' '.join(row[1]) for row in OLD])
def test_an_old_name_in_a_dict_is_given_with_what_replaces_it(
    path: Path, changes: dict, sentence: str, matches
) -> None:
    matches(key_findings(changed(path, changes)), sentence)


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='EMAHook', momentum=1e-4, update_buffers=True, priority='HIGH'),
        dict(type='EMAHook', ema_type='ExpMomentumEMA', gamma=2000),
        dict(type='CheckpointHook', save_optimizer=False),
        dict(type='mmdet.CheckInvalidLossHook', interval=50),
    ],
)
def test_arguments_that_a_hook_hands_on_are_known(hook: dict) -> None:
    assert key_findings(changed(DETECTOR, {'custom_hooks': [hook]})) == []


def test_an_argument_that_neither_a_hook_nor_what_it_hands_it_to_takes_is_found(matches) -> None:
    hook = dict(type='EMAHook', momentun=1e-4)
    matches(
        key_findings(changed(DETECTOR, {'custom_hooks': [hook]})),
        r"custom_hooks\[0\]\.momentun=0\.0001: EMA.*'momentum'",
    )


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'optim_wrapper.clip_grad': 5}, r'optim_wrapper\.clip_grad=5 is no dict; give dict'),
        ({'val_evaluator': 'bbox'}, r"val_evaluator='bbox' is no dict; give dict\(type=\.\.\.\) with a metric"),
        ({'train_dataloader.dataset.pipeline.2.type': None}, r'pipeline\[2\]\.type=None is neither the name of a'),
    ],
)
def test_a_value_that_is_no_dict_with_a_type_is_named(changes: dict, sentence: str, matches) -> None:
    cfg = changed(DETECTOR, {'test_evaluator': 'bbox'} if 'val_evaluator' in changes else {})
    cfg.merge_from_dict(changes)
    cfg.test_evaluator = cfg.val_evaluator
    matches(key_findings(cfg), sentence)


def test_nested_data_sets_are_checked(matches) -> None:
    cfg = compose(DETECTOR)
    inner = dict(cfg.train_dataloader.dataset, ann_fil='x')
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner])
    )
    matches(
        key_findings(cfg), r"train_dataloader\.dataset\.dataset\.datasets\[0\]\.ann_fil='x': CocoDataset.*'ann_file'"
    )


def test_classes_of_other_scopes_are_found_by_their_prefix() -> None:
    assert key_findings(changed(SEGMENTER, {'model.decode_head.loss_decode.type': 'mmseg.CrossEntropyLoss'})) == []


def test_the_global_scope_is_left_as_it_was() -> None:
    before = DefaultScope.get_current_instance()
    key_findings(compose(SEGMENTER))
    assert DefaultScope.get_current_instance() is before


def test_the_config_is_left_as_it_was() -> None:
    cfg = compose(CASCADE)
    before = copy.deepcopy(cfg.to_dict())
    check_config(cfg)
    assert cfg.to_dict() == before


def test_a_full_config_is_checked_in_half_a_second() -> None:
    cfg = compose(CASCADE)
    key_findings(cfg)  # imports mmdet
    start = time.perf_counter()
    key_findings(cfg)
    assert time.perf_counter() - start < 0.5


def test_a_metric_with_metrics_is_told_of_metric(matches) -> None:
    cfg = compose(DETECTOR)
    cfg.val_evaluator = cfg.test_evaluator = dict(type='backbones.CocoMetric', ann_file='x.json', metrics=['bbox'])
    matches(key_findings(cfg), r"val_evaluator\.metrics=\['bbox'\]: CocoMetric takes no such.*'metric'\?")


@pytest.mark.parametrize('name', ['visualization', 'logger2', 'checkpoint_best', 'mine'])
def test_further_default_hooks_may_have_any_name_of_their_own(name: str) -> None:
    assert key_findings(changed(DETECTOR, {f'default_hooks.{name}': dict(type='CheckpointHook')})) == []


def test_keys_of_stock_classes_that_read_them_in_their_own_way_are_fine() -> None:
    head = dict(type='VFNetHead', num_classes=1, in_channels=8, strides=[8], dcn_on_last_conv=True)
    backbone = dict(type='PyramidVisionTransformer', init_cfg=dict(checkpoint='pvt.pth'))
    model = dict(type='DDQDETR', backbone=backbone, bbox_head=head, dqs_cfg=dict(type='nms', iou_threshold=0.8))
    assert key_findings(Config(dict(default_scope='mmdet', model=model))) == []


def test_an_init_cfg_without_type_is_found_where_nobody_reads_it(matches) -> None:
    cfg = changed(DETECTOR, {'model.neck.init_cfg': dict(checkpoint='x.pth')})
    matches(key_findings(cfg), r"model\.neck\.init_cfg has no 'type'; name its class, a weight initializer")


class Popping(FPN):
    """Reads one name out of its further arguments."""

    def __init__(self, **kwargs: object) -> None:
        self.extra = kwargs.pop('extra', None)
        super().__init__(**kwargs)


class Storing(FPN):
    """Keeps its further arguments, whatever they are called."""

    def __init__(self, in_channels: list, out_channels: int, num_outs: int, **kwargs: object) -> None:
        self.kept = dict(kwargs)
        super().__init__(in_channels, out_channels, num_outs)


def test_arguments_that_a_class_takes_out_of_its_kwargs_are_known(matches) -> None:
    cfg = changed(DETECTOR, {'model.neck.type': Popping, 'model.neck.extra': 1})
    assert key_findings(cfg) == []
    cfg.model.neck.num_out = 5
    matches(key_findings(cfg), r"model\.neck\.num_out=5: Popping takes no such argument; did you mean 'num_outs'")


def test_a_class_that_uses_its_kwargs_otherwise_is_not_checked() -> None:
    cfg = changed(DETECTOR, {'model.neck.type': Storing, 'model.neck.anything': 1})
    assert key_findings(cfg) == []
