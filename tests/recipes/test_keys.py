"""A key that nobody reads, or a class that is not there, is one sentence with its place and its remedy."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope

from backbones.recipes.keys import check_config, key_findings

LEAVES = sorted(path for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_')
DETECTOR = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
CASCADE = ROOT / 'configs/convnext/cascade-mask-rcnn_convnext-b-in22k_3x_coco.py'
COCO = ROOT / 'configs/convnext/mask-rcnn_convnext-t-in1k_3x_coco.py'
SEGMENTER = ROOT / 'configs/small/upernet_vit_demo.py'
ADE20K = ROOT / 'configs/convnext/upernet_convnext-b-in22k_160k_ade20k-640.py'


@functools.cache
def _composed(path: Path) -> Config:
    return Config.fromfile(path)


def compose(path: Path) -> Config:
    """Compose a config; reading it takes most of the time and is done once."""
    return copy.deepcopy(_composed(path))


def changed(path: Path, changes: dict) -> Config:
    """Compose a config, then change it by dotted keys."""
    cfg = compose(path)
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture
def leaf(tmp_path: Path) -> Callable[[str], Config]:
    """Return leaf(text): the composed config of a file of that text over the demo detector's fragments."""

    def write(text: str, name: str = 'leaf.py') -> Config:
        bases = [
            str(ROOT / 'configs/_base_' / part)
            for part in ('models/mask_rcnn.py', 'datasets/demo_coco.py', 'schedules/coco_3x.py', 'runtime_det.py')
        ]
        path = tmp_path / name
        path.write_text(f'_base_ = {bases!r}\n{text}')
        return Config.fromfile(path)

    return write


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_no_shipped_config_has_a_dead_key_or_contradicts_itself(path: Path) -> None:
    check_config(Config.fromfile(path))


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
    (DETECTOR, {'train_dataloader.sampler.shufle': True}, r"sampler\.shufle=True: DefaultSampler.*'shuffle'"),
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
        r"default_hooks\.checkpoint\.max_keep_ckpt=1: Check.*'max_keep_ckpts'",
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


@pytest.fixture
def matches() -> Callable[[list[str], str], None]:
    """Return matches(findings, pattern): there is exactly one finding, and it fits."""

    def check(findings: list[str], pattern: str) -> None:
        assert len(findings) == 1, findings
        with pytest.raises(ValueError, match=pattern):
            raise ValueError(findings[0])

    return check


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
    ('line', 'remedy'),
    [
        ("optimizer = dict(type='SGD', lr=0.1)", r"write optim_wrapper=dict\(type='OptimWrapper', optimizer"),
        ('optimizer_config = dict(grad_clip=None)', r'clip_grad=dict\(max_norm'),
        ('grad_clip = dict(max_norm=1)', r'optim_wrapper=dict\(clip_grad'),
        ("lr_config = dict(policy='poly')", 'param_scheduler='),
        ("runner = dict(type='EpochBasedRunner', max_epochs=12)", 'train_cfg=dict'),
        ('total_epochs = 12', 'max_epochs'),
        ('data = dict(samples_per_gpu=2)', 'train_dataloader, val_dataloader'),
        ('samples_per_gpu = 2', 'batch_size'),
        ('img_norm_cfg = dict(mean=[0, 0, 0])', 'data_preprocessor'),
        ("evaluation = dict(metric='bbox')", 'val_evaluator'),
        ('checkpoint_config = dict(interval=1)', 'CheckpointHook'),
        ('log_config = dict(interval=50)', 'LoggerHook'),
        ("fp16 = dict(loss_scale='dynamic')", r'AmpOptimWrapper.*trains in fp32'),
        ("workflow = [('train', 1)]", 'leave it out'),
        ("dist_params = dict(backend='nccl')", r'env_cfg=dict\(dist_cfg'),
        ('cudnn_benchmark = True', r'env_cfg=dict\(cudnn_benchmark'),
        ("resume_from = 'x.pth'", '--resume PATH'),
        ("pretrained = 'x.pth'", 'init_cfg'),
        ('gpu_ids = [0]', 'CUDA_VISIBLE_DEVICES'),
    ],
)
def test_an_old_top_level_name_is_given_with_what_replaces_it(line: str, remedy: str, leaf, matches) -> None:
    name = line.split(' ')[0]
    matches(key_findings(leaf(line)), rf"'{name}' \(leaf\.py\) is an old name.*{remedy}")


def test_a_variable_that_is_used_below_is_fine_even_with_an_old_name(leaf) -> None:
    assert (
        key_findings(leaf('data = 7\nwidths = [8] * 4\nmodel = dict(neck=dict(in_channels=widths, num_outs=data))'))
        == []
    )


def test_a_variable_of_a_fragment_that_the_leaf_uses_is_fine(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text('shared = [8] * 4\n')
    (tmp_path / 'leaf.py').write_text(
        '_base_ = "base.py"\nmodel = dict(type="mmdet.FPN", out_channels=8, num_outs=4, '
        'in_channels={{_base_.shared}})\n'
    )
    assert key_findings(Config.fromfile(tmp_path / 'leaf.py')) == []


def test_a_name_that_is_used_only_before_it_is_assigned_is_dead(leaf, matches) -> None:
    text = 'width = 64\nmodel = dict(neck=dict(out_channels=width))\nheight = 3\n'
    matches(key_findings(leaf(text)), r"'height' \(leaf\.py\) is read by nobody, neither by the Runner")


def test_a_misspelt_top_level_name_is_given_with_the_nearest(leaf, matches) -> None:
    matches(
        key_findings(leaf('train_dataloder = dict(batch_size=4)')),
        r"'train_dataloder' .*did you mean 'train_dataloader'",
    )


def test_overriding_a_variable_that_a_fragment_has_used_is_said_to_have_no_effect(leaf, matches) -> None:
    findings = key_findings(leaf("roi_align = dict(type='RoIPool', output_size=7)"))
    matches(findings, r"'roi_align' \(leaf\.py\) has no effect: mask_rcnn\.py has a variable 'roi_align', too")


def test_a_name_added_after_reading_is_dead(matches) -> None:
    matches(key_findings(changed(DETECTOR, {'some_name': 1})), r"'some_name' is read by nobody")


@pytest.fixture(scope='module')
def dumped() -> str:
    """The demo detector's config as MMEngine writes it into a work folder."""
    return compose(DETECTOR).pretty_text


def test_variables_in_a_config_that_mmengine_wrote_are_not_taken_for_dead_keys(dumped: str, tmp_path: Path) -> None:
    (tmp_path / 'dumped.py').write_text(dumped)
    assert 'train_pipeline = ' in dumped
    assert key_findings(Config.fromfile(tmp_path / 'dumped.py')) == []


def test_an_old_name_in_a_config_that_mmengine_wrote_is_found(dumped: str, tmp_path: Path, matches) -> None:
    (tmp_path / 'dumped.py').write_text(dumped.replace('\nload_from', '\nfp16 = dict()\nload_from'))
    matches(key_findings(Config.fromfile(tmp_path / 'dumped.py')), "'fp16' .*trains in fp32")


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


def test_all_mistakes_come_in_one_error_that_counts_them() -> None:
    cfg = changed(DETECTOR, {'model.backbone.dropp': 1, 'optim_wrapper.paramwise_cfg.decay_rate': 1.5, 'fp16': {}})
    with pytest.raises(
        ValueError, match=r'(?s)demo\.py has 3 mistakes:\n- .fp16.*\n- model\.backbone.*\n- .*decay_rate=1\.5'
    ):
        check_config(cfg)
