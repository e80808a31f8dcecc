"""Detectors of every kind in tiles: each tile is seen as a picture of its own would be, and memory stays small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.structures import DetDataSample
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from pycocotools import mask as coder
from stock import toy

from backbones.benchmark.peaks import memory_peak
from backbones.evaluation.outputs import coco_results
from backbones.evaluation.tiles import Tiles
from backbones.evaluation.tiles_model import TiledDetector, TileViews, merge_views

RESIZE, PACK = dict(type='Resize', scale=(96, 64), keep_ratio=True), dict(
    type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
PAD = dict(type='Pad', size=(96, 96), pad_val=dict(img=(114, 114, 114)))
TILES = Tiles(64, 48, 0.25)


def _plain_norms(node: object) -> None:
    if isinstance(node, dict) and node.get('type') == 'SyncBN':
        node['type'] = 'BN'
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _plain_norms(child)


def detector(fragment: str, masks: bool = True) -> nn.Module:
    """A toy with random weights that finds much."""
    init_default_scope('mmdet')
    config = toy.toy_fragment(fragment)
    config.backbone = dict(
        type='backbones.ConvNeXt', arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), layer_scale_init_value=1.0)
    config.neck.in_channels = [8, 16, 24, 32]
    if not masks:
        for name in ('mask_head', 'mask_roi_extractor'):
            config.roi_head.pop(name)
    config.test_cfg.rpn.update(nms_pre=30, max_per_img=20)
    config.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10, mask_format='rle')
    _plain_norms(config)
    torch.manual_seed(0)
    return MODELS.build(config).eval()


def data_of(steps: list, pixels: np.ndarray) -> dict:
    shape = pixels.shape[:2]
    given = dict(img=pixels.copy(), img_shape=shape, ori_shape=shape, img_id=0, img_path='a.png')
    return pseudo_collate([Compose(steps)(given)])


@pytest.mark.parametrize('pad', [False, True], ids=['as it is', 'padded'])
@pytest.mark.parametrize(
    ('fragment', 'masks'), [('mask_rcnn', True), ('mask_rcnn', False), ('cascade_mask_rcnn', True)])
def test_each_tile_is_seen_as_a_picture_of_its_own(fragment, masks, pad):
    model = detector(fragment, masks)
    steps = [RESIZE, *[PAD] * pad, PACK]
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    frames = [(0, 0, 150, 100), *TILES.frames((100, 150))]
    with torch.no_grad():
        seen = [model.test_step(data_of(steps, pixels[y0:y1, x0:x1]))[0].pred_instances for x0, y0, x1, y1 in frames]
        expected = merge_views([*zip(frames, seen, strict=True)], (100, 150))
        arguments = dict(width=64, height=48, overlap=0.25)
        tiled = TiledDetector(model, arguments, steps)
        (sample,) = tiled.test_step(data_of([TileViews(arguments, steps)], pixels))
    found = sample.pred_instances
    assert found.bboxes.equal(expected.bboxes) and found.scores.equal(expected.scores) and len(found) > 10
    assert ('masks' in found) == masks and (not masks or found.masks == expected.masks)
    assert not masks or {tuple(mask['size']) for mask in found.masks} == {(100, 150)}
    assert {len(one) for one in (found, expected)} == {len(coco_results(sample, range(1, 99), 0))}


class Large(nn.Module):
    """Finds `number` objects in each picture, each as large as half of it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def test_step(self, data: dict) -> list[DetDataSample]:
        for sample in data['data_samples']:
            height, width = sample.ori_shape
            corners = np.random.default_rng(height).uniform(0, 0.5, (self.number, 2)) * (width, height)
            boxes = np.concatenate([corners, np.tile([width / 2, height / 2], (self.number, 1))], axis=1)
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor(np.concatenate([corners, corners + boxes[:, 2:]], axis=1), dtype=torch.float32),
                scores=torch.linspace(1, 0.1, self.number), labels=torch.arange(self.number),
                masks=coder.frPyObjects(boxes, height, width))
        return data['data_samples']


def test_no_bitmaps_of_the_pictures_size_are_held_for_all_objects():
    number, size = 60, (1500, 2200)
    arguments = dict(width=800, height=800, overlap=0.25)
    init_default_scope('mmdet')
    tiled = TiledDetector(Large(number), arguments, [RESIZE, PACK])
    data = data_of([TileViews(arguments, [RESIZE, PACK])], np.zeros((*size, 3), np.uint8))
    found = []

    def run() -> None:
        (sample,) = tiled.test_step(data)
        found.extend(coco_results(sample, range(1, number + 1), 0))

    peak = memory_peak(run, torch.device('cpu'))
    assert len(found) > number and sum(one['segmentation']['size'] == list(size) for one in found) == len(found)
    if peak.added is not None:
        assert peak.added < number * size[0] * size[1] / 10
