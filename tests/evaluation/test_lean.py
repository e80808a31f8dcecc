"""Masks as run lengths, and no masks of the ground truth, where nothing looks at bitmaps; the results stay the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from backbones.config import dicts_in, load_config
from backbones.evaluation.lean import needs_labels_only, spare_masks, use_run_lengths
from backbones.evaluation.run import run_test

CONFIG = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
SIZE = (64, 96)
WIDTH = 16


def narrow_roi_head(fragment: str, score_thr: float = 0.0) -> torch.nn.Module:
    """The RoI head of a model fragment, 16 channels wide, with random weights."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/{fragment}.py').model
    init_default_scope('mmdet')
    heads = cfg.roi_head
    for part in dicts_in(heads):
        for key in ('in_channels', 'out_channels', 'conv_out_channels', 'fc_out_channels'):
            if key in part:
                part[key] = WIDTH
        if 'norm_cfg' in part and part['norm_cfg']['type'] == 'SyncBN':
            part['norm_cfg']['type'] = 'BN'
    heads.update(train_cfg=None, test_cfg=dict(cfg.test_cfg.rcnn, score_thr=score_thr, max_per_img=8))
    torch.manual_seed(1)
    return MODELS.build(heads).eval()


@torch.no_grad()
def predicted(head: torch.nn.Module, form: str) -> list[InstanceData]:
    """What a RoI head predicts for two pictures, one of them without proposals."""
    head = copy.deepcopy(head)
    head.test_cfg = ConfigDict(head.test_cfg, mask_format=form)
    generator = torch.Generator().manual_seed(2)
    maps = tuple(torch.randn(2, WIDTH, 64 // 2**i, 96 // 2**i, generator=generator) for i in range(4))
    corners = torch.rand(12, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 8 + torch.rand(12, 2, generator=generator) * 40], dim=1)
    metas = dict(img_shape=(128, 192), ori_shape=SIZE, scale_factor=(2.0, 2.0))
    return head.predict(
        maps, [InstanceData(bboxes=boxes), InstanceData(bboxes=boxes[:0])],
        [DetDataSample(metainfo=metas), DetDataSample(metainfo=metas)], rescale=True)


@pytest.mark.parametrize('fragment', ['mask_rcnn', 'cascade_mask_rcnn', 'cascade_mask_rcnn_vitdet'])
def test_run_lengths_are_the_bitmaps_through_the_whole_prediction(fragment: str) -> None:
    head = narrow_roi_head(fragment)
    (bitmaps, none), (run_lengths, empty) = predicted(head, 'bitmap'), predicted(head, 'rle')
    assert isinstance(run_lengths.masks, list) and len(run_lengths.masks) == len(bitmaps.masks) == 8
    assert run_lengths.bboxes.equal(bitmaps.bboxes) and 0 < bitmaps.masks.float().mean() < 1
    for rle, bitmap in zip(run_lengths.masks, bitmaps.masks, strict=True):
        assert np.array_equal(coco_mask.decode(rle).astype(bool), bitmap.numpy())
    assert len(none.masks) == len(empty.masks) == 0


@pytest.mark.parametrize('fragment', ['mask_rcnn', 'cascade_mask_rcnn', 'cascade_mask_rcnn_vitdet'])
def test_pictures_without_any_object_have_no_masks_in_either_form(fragment: str) -> None:
    head = narrow_roi_head(fragment, score_thr=1.0)
    for form in ('bitmap', 'rle'):
        assert [len(found.masks) for found in predicted(head, form)] == [0, 0]


def with_masks(cfg: Config) -> list[bool]:
    """Which steps of the test pipeline load masks."""
    return [step['with_mask'] for step in dicts_in(cfg.test_dataloader.dataset) if 'with_mask' in step]


@pytest.mark.parametrize('name', [
    'convnext/mask-rcnn_convnext-t-in1k_3x_coco', 'convnext/cascade-mask-rcnn_convnext-b-in22k_3x_coco',
    'vit/mask-rcnn_vitdet-b-mae_100e_coco', 'vit/cascade-mask-rcnn_vitdet-b-mae_100e_coco'])
def test_the_recipes_are_tested_with_run_lengths_and_without_loading_masks(name: str) -> None:
    cfg = load_config(ROOT / f'configs/{name}.py')
    assert len(spare_masks(cfg, 'test')) == 2
    assert cfg.model.test_cfg.rcnn.mask_format == 'rle' and with_masks(cfg) == [False]


def test_masks_are_loaded_where_they_are_drawn() -> None:
    cfg = load_config(CONFIG)
    spare_masks(cfg, 'test', draws=True)
    assert cfg.model.test_cfg.rcnn.mask_format == 'rle' and with_masks(cfg) == [True]


def test_masks_are_loaded_for_a_metric_without_annotation_file() -> None:
    cfg = load_config(CONFIG, {'test_evaluator.ann_file': None})
    spare_masks(cfg, 'test')
    assert with_masks(cfg) == [True]


@pytest.mark.parametrize('options', [
    {'custom_hooks': [dict(type='DetVisualizationHook')]},
    {'custom_hooks': [dict(type='mine.Hook')]},
    {'test_evaluator.type': 'DumpDetResults'},
])
def test_bitmaps_and_ground_truth_stay_for_what_is_not_known(options: dict) -> None:
    cfg = load_config(CONFIG, options)
    assert spare_masks(cfg, 'test') == []
    assert 'mask_format' not in cfg.model.test_cfg.rcnn and with_masks(cfg) == [True]


@pytest.mark.parametrize('options', [
    {'model.test_cfg.rcnn.mask_format': 'bitmap'}, {'model.test_cfg.rcnn.mask_thr_binary': -1},
    {'model.roi_head.mask_head.type': 'FCNMaskHead'},
])
def test_bitmaps_stay_where_they_are_asked_for_or_needed(options: dict) -> None:
    assert not use_run_lengths(load_config(CONFIG, options))


@pytest.mark.parametrize('options, only', [
    ({}, True), ({'test_evaluator.type': 'mine.ScoreMetric'}, False),
    ({'custom_hooks': [dict(type='SegVisualizationHook')]}, False)])
def test_scores_are_needed_by_what_is_not_known(options: dict, only: bool) -> None:
    assert needs_labels_only(load_config(ROOT / 'configs/small/upernet_vit_demo.py', options), 'test') == only


@pytest.mark.parametrize('tta', [False, True])
def test_a_test_with_run_lengths_writes_what_one_with_bitmaps_writes(
    detector: tuple[Path, Path], pictures: Path, tmp_path: Path, tta: bool
) -> None:
    written = []
    for form in ('bitmap', 'rle'):
        options = {
            'data_root': f'{pictures}/', 'model.test_cfg.rcnn.score_thr': 0.0, 'model.test_cfg.rcnn.mask_format': form}
        out = tmp_path / f'{form}.json'
        metrics = run_test(*detector, str(tmp_path / form), tta=tta, out=str(out), options=options)
        written.append((json.loads(out.read_text()), metrics))
    assert written[0] == written[1] and len(written[0][0]) > 100


@pytest.mark.parametrize('score_thr', [0.0, 1.0], ids=['objects', 'no objects'])
def test_mmdets_inferencer_works_with_our_configs(
    detector: tuple[Path, Path], tmp_path: Path, score_thr: float
) -> None:
    cfg = load_config(detector[0], {'model.test_cfg.rcnn.score_thr': score_thr})
    cfg.visualizer.name = f'inferencer {score_thr}'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(tmp_path / 'a.png')
    inferencer = DetInferencer(cfg, str(detector[1]), device='cpu', show_progress=False)
    (found,) = inferencer(str(tmp_path / 'a.png'), out_dir=str(tmp_path / 'out'))['predictions']
    assert len(found['masks']) == len(found['bboxes']) == (100 if score_thr == 0 else 0)
    assert (tmp_path / 'out/vis/a.png').is_file()
