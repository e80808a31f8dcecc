"""Masks loaded as windows: mmdet's pixels, pictures, boxes and losses, without a bitmap of the picture."""

from __future__ import annotations

import copy
import random
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask
from stock.toy import toy_fragment

from backbones.data.bad_samples import BadSampleError
from backbones.data.box_masks import BoxMasks
from backbones.data.coco import CocoDataset
from backbones.data.instance_annotations import LoadInstanceAnnotations
from backbones.data.mask_runs import read_windows

MINI = SHARED / 'data' / 'coco_mini'
BOTH = ('LoadAnnotations', 'backbones.LoadInstanceAnnotations')
DIMS = (8, 16, 24, 32)


@pytest.fixture(autouse=True)
def mmdet_scope() -> None:
    init_default_scope('mmdet')


def polygons(maker: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """One to three parts of 3 to 15 points: round, spiky or on whole pixels, inside the picture or half out of it."""
    parts = []
    for _ in range(maker.integers(1, 4)):
        points = maker.uniform(-0.3, 1.3, 2) * (width, height) + maker.normal(size=(maker.integers(3, 16), 2)) * 20
        points = points.round() if maker.random() < 0.3 else points
        parts.append(points.clip(-max(height, width), 2 * max(height, width)).ravel())
    return parts


def runs(maker: np.random.Generator, height: int, width: int, compressed: bool) -> dict:
    """Run lengths of specks, of nothing, or of the whole picture."""
    mask = (maker.random((height, width)) < maker.choice([0, 0.03, 0.9, 1])).astype(np.uint8)
    if compressed:
        encoded = coco_mask.encode(np.asfortranarray(mask))
        return dict(size=[height, width], counts=encoded['counts'].decode())
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return dict(size=[height, width], counts=np.diff(changes, prepend=0, append=flat.size).tolist())


def random_masks(seed: int, height: int, width: int) -> list:
    maker = np.random.default_rng(seed)
    kinds = maker.integers(0, 4, maker.integers(0, 12))
    return [
        polygons(maker, height, width) if kind < 2 else runs(maker, height, width, bool(kind - 2)) for kind in kinds
    ]


def picture(seed: int, height: int = 120, width: int = 160, objects: int = 6) -> dict:
    """A sample as it is when its picture has been read: noise, and objects of two to three corners and more."""
    maker = np.random.default_rng(seed)
    instances = []
    for number in range(objects):
        centre, extent = maker.uniform(0.2, 0.8, 2) * (width, height), maker.uniform(8, 50, 2)
        angles = np.sort(maker.uniform(0, 2 * np.pi, 9))
        points = (centre + np.stack([np.cos(angles), np.sin(angles)], 1) * extent).clip(0, (width, height))
        box = [*points.min(0).tolist(), *points.max(0).tolist()]
        mask = [points.ravel().tolist()] if number else runs(maker, height, width, True)
        instances.append(dict(bbox=box, bbox_label=number % 3, ignore_flag=int(number == 4), mask=mask))
    image = maker.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], height=height, width=width,
                img_id=seed, img_path=f'{seed}.png', instances=instances)


def pipeline(name: str, loader: str, with_picture: bool = False) -> Compose:
    """The training transforms of configs/_base_/datasets/NAME.py with this loader of annotations."""
    steps = Config.fromfile(ROOT / 'configs' / '_base_' / 'datasets' / f'{name}.py').train_pipeline
    place = next(i for i, step in enumerate(steps) if step['type'].endswith('Annotations'))
    steps[place]['type'] = loader
    return Compose(copy.deepcopy(steps[0 if with_picture else place:]))


def sample(transforms: Compose, results: dict, seed: int) -> dict | None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return transforms(copy.deepcopy(results))


def assert_same(theirs: dict | None, ours: dict | None) -> None:
    assert (theirs is None) == (ours is None)
    if theirs is None:
        return
    assert torch.equal(ours['inputs'], theirs['inputs'])
    for key in ('gt_instances', 'ignored_instances'):
        expected, given = (each['data_samples'].get(key) for each in (theirs, ours))
        assert isinstance(given.masks, BoxMasks) and not isinstance(expected.masks, BoxMasks)
        assert torch.equal(given.bboxes.tensor, expected.bboxes.tensor)
        assert torch.equal(given.labels, expected.labels)
        np.testing.assert_array_equal(given.masks.to_ndarray(), expected.masks.to_ndarray(), strict=True)


def test_polygons_and_run_lengths_cover_the_pixels_that_mmdet_loads():
    theirs = LoadAnnotations(with_mask=True)
    sizes = np.random.default_rng(0).integers(1, 90, (150, 2)).tolist()
    for seed, (height, width) in enumerate(sizes):
        masks = random_masks(seed, height, width)
        expected = BitmapMasks([theirs._poly2mask(mask, height, width) for mask in masks], height, width)
        given = BoxMasks.from_windows(read_windows(masks, height, width), height, width)
        np.testing.assert_array_equal(given.to_ndarray(), expected.to_ndarray(), strict=True)


def test_no_row_or_column_at_the_border_of_a_window_is_empty():
    for seed in range(40):
        for _, _, pixels in read_windows(random_masks(seed, 60, 50), 60, 50):
            assert not pixels.size or (pixels.any(1)[[0, -1]].all() and pixels.any(0)[[0, -1]].all())


def test_objects_without_a_usable_mask_are_ignored_as_by_mmdet():
    results = picture(0)
    results['instances'][1]['mask'] = []
    results['instances'][2]['mask'] = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]
    results['instances'][3]['mask'] = dict(size=[120, 160])
    expected, given = (
        kind(with_bbox=True, with_mask=True).transform(copy.deepcopy(results))
        for kind in (LoadAnnotations, LoadInstanceAnnotations)
    )
    assert given['gt_ignore_flags'].tolist() == [False, True, True, True, True, False]
    np.testing.assert_array_equal(given['gt_ignore_flags'], expected['gt_ignore_flags'])
    np.testing.assert_array_equal(given['gt_masks'].to_ndarray(), expected['gt_masks'].to_ndarray())
    assert torch.equal(given['gt_bboxes'].tensor, expected['gt_bboxes'].tensor)


def test_a_picture_without_objects_has_no_masks():
    results = LoadInstanceAnnotations(with_mask=True).transform(picture(0, objects=0))
    assert results['gt_masks'].to_ndarray().shape == (0, 120, 160)


def test_polygons_stay_polygons_on_demand():
    results = LoadInstanceAnnotations(with_mask=True, poly2mask=False).transform(picture(0))
    assert isinstance(results['gt_masks'], PolygonMasks)


@pytest.mark.parametrize(('mask', 'words'), [
    (dict(size=[160, 120], counts='PPY1'), r'of size \[160, 120\] while'),
    (dict(size=[120, 160], counts='999'), 'add up to 27 pixels while its picture has 19200'),
    (dict(size=[120, 160], counts=[9000, 9000]), 'add up to 18000 pixels'),
    (dict(size=[120, 160], counts='abc\x80'), "no string of COCO's kind"),
    (dict(size=[120, 160], counts=''), "no string of COCO's kind"),
    (dict(size=[120, 160], counts='oooooooooooo0'), "no string of COCO's kind"),
])
def test_run_lengths_that_do_not_fill_their_picture_are_told_with_its_name(mask, words):
    results = picture(0)
    results['instances'][2]['mask'] = mask
    with pytest.raises(BadSampleError, match=rf'of the picture 0\.png, mask 2 .*{words}.*; write the mask again'):
        LoadInstanceAnnotations(with_mask=True).transform(results)


@pytest.mark.parametrize('name', ['coco_ms', 'coco_lsj', 'demo_coco'])
def test_a_training_pipeline_gives_the_samples_that_mmdets_loader_gives(name):
    theirs, ours = (pipeline(name, loader) for loader in BOTH)
    for seed in range(6):
        results = picture(seed, objects=seed)
        assert_same(sample(theirs, results, seed), sample(ours, results, seed))


@pytest.mark.skipif(not MINI.is_dir(), reason=f'the pictures of {MINI} are not here')
@pytest.mark.parametrize('name', ['coco_ms', 'coco_lsj'])
def test_a_training_pipeline_gives_the_same_samples_of_real_pictures(name):
    dataset = CocoDataset(data_root=str(MINI), ann_file='annotations/instances_train2017.json',
                          data_prefix=dict(img='train2017/'), pipeline=[])
    theirs, ours = (pipeline(name, loader, with_picture=True) for loader in BOTH)
    for index in range(0, len(dataset), 20):
        results = dataset.get_data_info(index)
        assert_same(sample(theirs, results, index), sample(ours, results, index))


def test_a_training_step_of_mask_rcnn_has_the_same_losses():
    model = toy_fragment('mask_rcnn')
    model.backbone = dict(type='backbones.ConvNeXt', arch=dict(depths=(1, 1, 1, 1), dims=DIMS))
    model.neck.in_channels = list(DIMS)
    torch.manual_seed(0)
    detector = MODELS.build(model).train()
    losses = []
    for loader in BOTH:
        transforms = pipeline('demo_coco', loader)
        samples = [sample(transforms, picture(seed), seed) for seed in range(2)]
        data = {key: [each[key] for each in samples] for key in samples[0]}
        torch.manual_seed(1)
        np.random.seed(1)
        losses.append(detector(**detector.data_preprocessor(data, training=True), mode='loss'))
    assert losses[0].keys() == losses[1].keys() and losses[0]['loss_mask'] > 0
    for name, expected in losses[0].items():
        for one, other in zip(*[torch.stack(list(each)) if isinstance(each, list) else each[None]
                                for each in (expected, losses[1][name])], strict=True):
            assert torch.equal(one, other), name


def test_large_pictures_take_the_memory_of_their_objects():
    results = picture(0, objects=0)
    results['ori_shape'] = (8000, 8000)
    results['instances'] = [
        dict(bbox=[x, y, x + 90, y + 90], bbox_label=0, ignore_flag=0,
             mask=[[x, y, x + 90, y + 5, x + 85, y + 90, x + 4, y + 70]])
        for x, y in np.random.default_rng(0).uniform(0, 7900, (300, 2)).tolist()
    ]
    tracemalloc.start()
    masks = LoadInstanceAnnotations(with_mask=True).transform(results)['gt_masks']
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(masks) == 300 and masks.areas.min() > 1000
    assert peak < 20e6  # bitmaps: 19,200 MB
