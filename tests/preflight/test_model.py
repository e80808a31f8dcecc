"""What is wrong in a config is said before the first step, with the value, the place and the remedy."""

from __future__ import annotations

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from preflight_runs import fake_run, real_run
from recipe_configs import CASCADE, DETECTOR, SEGMENTER

from backbones.flops import on_meta
from backbones.preflight.model import (
    check_class_counts,
    check_classes,
    check_maps,
    check_model,
    class_findings,
    text_of,
)


def build(path, **changes):
    """Build the model of a config with dotted keys changed."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def test_strides_of_neck_and_rpn_that_disagree_are_refused() -> None:
    model = build(DETECTOR, model__rpn_head__anchor_generator__strides=[8, 16, 32, 64, 128])
    with pytest.raises(ValueError, match=r'FPN gives \[4, 8, 16, 32, 64\].*strides is \[8, 16, 32, 64, 128\]'):
        check_model(model)


def test_too_few_levels_for_the_rpn_are_refused() -> None:
    with pytest.raises(ValueError, match=r'FPN gives \[4, 8, 16, 32\]'):
        check_model(build(DETECTOR, model__neck__num_outs=4))


def test_strides_of_a_roi_extractor_that_disagree_are_refused() -> None:
    model = build(DETECTOR, model__roi_head__mask_roi_extractor__featmap_strides=[8, 16, 32, 64])
    with pytest.raises(ValueError, match=r'mask_roi_extractor\.featmap_strides'):
        check_model(model)


def test_channels_of_backbone_and_neck_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r'channels \[24, 48, 96, 192\].*in_channels=\[96, 192, 384, 768\]'):
        check_model(build(DETECTOR, model__neck__in_channels=[96, 192, 384, 768]))


def test_channels_of_a_segmentation_head_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r'auxiliary_head.in_channels=\[128\].*\[96\]'):
        check_model(build(SEGMENTER, model__auxiliary_head__in_channels=128))


@pytest.mark.parametrize(
    'setting', ['rpn_head__in_channels', 'roi_head__bbox_head__in_channels', 'roi_head__mask_head__in_channels',
                'roi_head__bbox_roi_extractor__out_channels'])
def test_channels_of_a_detection_head_that_disagree_are_refused(setting: str) -> None:
    name = setting.replace('__', r'\.')
    with pytest.raises(ValueError, match=rf'model\.{name}=32 but the maps of FPN have 64 channels'):
        check_model(build(DETECTOR, **{f'model__{setting}': 32}))


def test_a_tap_beyond_the_last_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r'auxiliary_head.in_index=4 but there are only 4 maps'):
        check_model(build(SEGMENTER, model__auxiliary_head__in_index=4))


def test_a_head_with_another_number_of_classes_is_refused() -> None:
    classes = ('disc', 'ring', 'box', 'triangle', 'star')
    with pytest.raises(ValueError, match=r'model.roi_head.bbox_head.num_classes=6 but the train data set has 5'):
        check_classes(build(DETECTOR), classes, 'the train data set')


def test_one_weight_per_class_is_wanted() -> None:
    model = build(SEGMENTER, model__decode_head__loss_decode__class_weight=[1.0] * 9)
    with pytest.raises(ValueError, match=r'model\.decode_head\.loss_decode\.class_weight has 9 values for 10 classes'):
        check_classes(model, tuple('abcdefghij'), 'the train data set')


def test_the_check_leaves_mode_and_weights_as_they_were() -> None:
    model = build(DETECTOR).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model)
    assert model.training and model.backbone.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_backbone_for_four_channels_is_probed_with_four() -> None:
    check_model(build(DETECTOR, model__backbone__in_channels=4))


def test_a_neck_of_a_segmenter_that_declares_other_strides_than_it_gives_is_refused() -> None:
    model = build(SEGMENTER, model__neck__in_stride=16)
    said = r'Feature2Pyramid declares out_strides=\[4, 8, 16, 32\].*\[2, 4, 8, 16\]; set model\.neck\.in_stride=8'
    with pytest.raises(ValueError, match=said):
        check_model(model)


def test_a_backbone_that_declares_other_strides_than_it_gives_is_refused() -> None:
    model = build(DETECTOR)
    model.backbone.out_strides = (2, 4, 8, 16)
    with pytest.raises(ValueError, match=r'ConvNeXt declares out_strides=\[2, 4, 8, 16\].*\[4, 8, 16, 32\]'):
        check_model(model)


def test_patches_of_14_pixels_give_strides_from_3_and_a_half() -> None:
    cfg = Config.fromfile(ROOT / 'configs/small/mask-rcnn_vit_coco8.py')
    cfg.model.backbone.update(patch_size=14, img_size=448, pretrain_img_size=448)
    cfg.model.neck.in_stride = 14
    init_default_scope(cfg.default_scope)
    with pytest.raises(ValueError, match=r'SimpleFPN gives \[3\.5, 7, 14, 28, 56\]'):
        check_model(MODELS.build(cfg.model))
    cfg.model.rpn_head.anchor_generator.strides = [3.5, 7, 14, 28, 56]
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        cfg.model.roi_head[name].featmap_strides = [3.5, 7, 14, 28]
    check_model(MODELS.build(cfg.model))


# --- all findings at once -----------------------------------------------------------------------------------


def test_the_page_shows_every_stride_that_disagrees_where_the_launcher_names_the_first() -> None:
    strides = {'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128],
               'model.roi_head.mask_roi_extractor.featmap_strides': [2, 4, 8, 16]}
    run = fake_run(DETECTOR, strides)
    outcome = check_maps(run)
    assert [finding.field for finding in outcome.findings] == [*strides]
    with pytest.raises(ValueError) as raised:
        check_model(run.model)
    assert str(raised.value) == text_of(outcome.findings[0])


def test_a_neck_that_no_head_was_made_for_is_one_finding() -> None:
    strides = {f'model.roi_head.{name}.featmap_strides': [8, 16, 32, 64] for name in (
        'bbox_roi_extractor', 'mask_roi_extractor')}
    heads = fake_run(DETECTOR, {**strides, 'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128]})
    (finding,) = check_maps(heads).findings
    assert finding.kind == 'strides' and 'the RoI heads expect the same' in finding.message
    (finding,) = check_maps(fake_run(DETECTOR, {'model.neck.out_channels': 128})).findings
    assert finding.kind == 'channels' and 'set model.neck.out_channels=64' in finding.remedy


@pytest.mark.parametrize(('path', 'summary'), [
    (DETECTOR, '4, 8, 16, 32, 64 pixels and 64 channels in neck, RPN and RoI heads'),
    (SEGMENTER, '2, 4, 8, 16 pixels and 96 channels in neck, decode head and auxiliary head')])
def test_strides_and_channels_of_a_sound_model_are_told(path, summary: str) -> None:
    outcome = check_maps(fake_run(path))
    assert outcome.findings == [] and outcome.summary == summary


def test_strides_that_disagree_are_not_told_as_if_they_were_those_of_the_heads() -> None:
    outcome = check_maps(fake_run(DETECTOR, {'model.rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128]}))
    assert outcome.summary == (
        'neck: 4, 8, 16, 32, 64 pixels and 64 channels, which does not fit what is set elsewhere')


def test_a_neck_that_fails_is_one_finding() -> None:
    outcome = check_maps(fake_run(DETECTOR, {'model.neck.in_channels': [96, 192, 384, 768]}))
    assert [finding.kind for finding in outcome.findings] == ['channels'] and outcome.summary == ''


def test_every_head_of_a_cascade_with_another_count_is_found() -> None:
    classes = ('disc', 'ring', 'box')
    with on_meta():
        model = build(CASCADE)
    found = [finding.field for finding in class_findings(model, classes, 'the train data set')]
    assert found == [f'model.roi_head.{kind}_head.{stage}.num_classes' for kind in ('bbox', 'mask')
                     for stage in range(3)]
    with pytest.raises(ValueError, match=r"set classes='annotations' or classes=\[\.\.\.\] once"):
        check_classes(model, classes, 'the train data set')


def test_a_built_run_is_sound_and_a_split_of_other_classes_is_found() -> None:
    run = real_run(DETECTOR)
    outcome = check_class_counts(run)
    assert outcome.findings == [] and outcome.summary == '6 classes in 2 heads and the data of train and val'
    assert check_maps(run).findings == []
    run.val_loop.dataloader.dataset._metainfo['classes'] = ('ring', 'disc', 'box', 'triangle', 'star', 'cross')
    outcome = check_class_counts(run)
    assert [finding.kind for finding in outcome.findings] == ['classes of the splits']
    assert "label 0 is 'disc' in the train data set" in outcome.findings[0].message
