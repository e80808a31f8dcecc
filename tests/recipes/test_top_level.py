"""Top-level names of a config that nobody reads: old ones, misspelt ones, and variables that are left over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from mmengine.config import Config
from recipe_configs import DETECTOR, changed, compose

from backbones.config import load_config
from backbones.recipes import keys
from backbones.recipes.keys import check_config, key_findings


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


def test_all_mistakes_come_in_one_error_that_counts_them() -> None:
    cfg = changed(DETECTOR, {'model.backbone.dropp': 1, 'optim_wrapper.paramwise_cfg.decay_rate': 1.5, 'fp16': {}})
    with pytest.raises(
        ValueError, match=r'(?s)demo\.py has 3 mistakes:\n- .fp16.*\n- model\.backbone.*\n- .*decay_rate=1\.5'
    ):
        check_config(cfg)


@pytest.mark.parametrize('line', ['my_pipeline = []', "norm_cfg = dict(type='BN')", "dataset_type = 'CocoDataset'"])
def test_a_variable_that_is_left_over_is_a_warning(line: str, leaf, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(keys, 'print_log', lambda text, logger, level: said.append((text, logger, level)))
    cfg = leaf(line)
    check_config(cfg)
    assert len(said) == len(key_findings(cfg)) == 1
    assert line.split(' ')[0] in said[0][0] and said[0][1:] == ('current', logging.WARNING)


def test_a_variable_that_a_fragment_has_used_already_is_an_error(leaf) -> None:
    with pytest.raises(ValueError, match=r"'test_pipeline' \(leaf\.py\) has no effect: demo_coco\.py has a variable"):
        check_config(leaf('test_pipeline = []'))


@pytest.mark.parametrize('line', ["fp16 = dict(loss_scale='dynamic')", 'train_dataloder = dict(batch_size=4)'])
def test_an_old_or_misspelt_name_is_an_error(line: str, leaf) -> None:
    with pytest.raises(ValueError, match=line.split(' ')[0]):
        check_config(leaf(line))


def test_imported_names_and_functions_are_no_dead_keys(leaf) -> None:
    text = 'import os.path as osp\nfrom pathlib import Path\nwork_dir = str(Path("work_dirs") / osp.basename("x"))\n'
    assert key_findings(leaf(text)) == []


def test_a_config_in_the_new_style_names_classes_by_importing_them(tmp_path: Path) -> None:
    (tmp_path / 'new.py').write_text(
        'from mmengine.optim import OptimWrapper\nfrom torch.optim import AdamW\n'
        "optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))\ndefault_scope = 'mmdet'\n"
    )
    assert key_findings(Config.fromfile(tmp_path / 'new.py')) == []


# --- data_root ----------------------------------------------------------------------------------------------


OWN_DATA = '\n'.join(
    f"{split}_dataloader = dict(dataset=dict(data_root='/mine/', ann_file='/mine/x.json'))\n"
    f"{split}_evaluator = dict(ann_file='/mine/x.json')"
    for split in ('val', 'test')
) + "\ntrain_dataloader = dict(dataset=dict(data_root='/mine/', ann_file='/mine/x.json'))\n"


def test_an_inherited_data_root_is_fine_where_every_data_set_has_its_own(leaf) -> None:
    assert key_findings(leaf(OWN_DATA)) == []


@pytest.mark.parametrize('text', ["data_root = '/elsewhere/'", OWN_DATA + "data_root = '/elsewhere/'"])
def test_a_data_root_that_moves_nothing_is_found(text: str, leaf, matches) -> None:
    matches(key_findings(leaf(text)), r"data_root='/elsewhere/' has no effect.*--cfg-options data_root=")


def test_a_data_root_that_is_changed_after_reading_is_found(matches) -> None:
    matches(key_findings(changed(DETECTOR, {'data_root': '/elsewhere/'})), "data_root='/elsewhere/' has no effect")


def test_a_data_root_that_moves_the_data_is_fine() -> None:
    assert key_findings(load_config(DETECTOR, {'data_root': '/elsewhere/demo'})) == []


# --- data_preprocessor --------------------------------------------------------------------------------------


def test_a_data_preprocessor_beside_that_of_the_model_is_dead(leaf, matches) -> None:
    matches(
        key_findings(leaf('data_preprocessor = dict(pad_size_divisor=64)')),
        r'data_preprocessor \(pad_size_divisor\) has no effect: the model has .* into model\.data_preprocessor',
    )


def test_an_unknown_key_of_a_top_level_data_preprocessor_is_found(leaf) -> None:
    findings = key_findings(leaf('data_preprocessor = dict(pad_size_divisr=64)'))
    assert len(findings) == 2
    assert 'data_preprocessor.pad_size_divisr=64: DetDataPreprocessor takes no such' in findings[1]


def test_a_data_preprocessor_of_a_model_without_one_is_checked(leaf, matches) -> None:
    text = "data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisr=1)"
    cfg = leaf(text)
    del cfg.model['data_preprocessor']
    matches(key_findings(cfg), r"^data_preprocessor\.pad_size_divisr=1: .*'pad_size_divisor'")


def test_a_data_preprocessor_that_the_model_takes_from_a_variable_is_fine(leaf) -> None:
    text = 'data_preprocessor = dict(pad_size_divisor=64)\nmodel = dict(data_preprocessor=data_preprocessor)'
    assert key_findings(leaf(text)) == []
