"""Scores by class name, merged views, protocols and prediction files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from pycocotools import mask as coco_mask

from backbones.config import load_config
from backbones.detection.mask_paste import as_bitmaps, as_rles
from backbones.evaluation.coco_metric import CocoMetric
from backbones.evaluation.instance_tta import InstanceTTAModel
from backbones.evaluation.outputs import coco_results, label_png
from backbones.evaluation.predict import find_images, pipeline_without_labels, predict
from backbones.evaluation.protocol import evaluation_protocol
from backbones.evaluation.run import tta_pipeline, use_tta


def annotation_file(folder: Path, names: list[str]) -> Path:
    """One image with an object of class 'cat' (id 5) and one of class 'dog' (id 2), categories in the order given."""
    ids = dict(cat=5, dog=2)
    boxes = dict(cat=[2, 2, 20, 10], dog=[30, 20, 20, 24])
    path = folder / 'ann.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=1, width=64, height=48, file_name='1.jpg')],
        categories=[dict(id=ids[name], name=name) for name in names],
        annotations=[
            dict(id=i, image_id=1, category_id=ids[name], bbox=box, area=box[2] * box[3], iscrowd=0)
            for i, (name, box) in enumerate(boxes.items(), start=1)])))
    return path


def score(ann_file: Path, classes: tuple[str, ...], labels: list[int]) -> dict[str, float]:
    """Evaluate the two true boxes (cat, dog) given with `labels`."""
    metric = CocoMetric(ann_file=str(ann_file), metric='bbox')
    metric.dataset_meta = dict(classes=classes)
    boxes = torch.tensor([[2.0, 2, 22, 12], [30, 20, 50, 44]])[: len(labels)]
    prediction = dict(bboxes=boxes, scores=torch.tensor([0.9, 0.8])[: len(labels)], labels=torch.tensor(labels))
    metric.process({}, [dict(img_id=1, ori_shape=(48, 64), pred_instances=prediction)])
    return metric.evaluate(1)


@pytest.mark.parametrize('order', [['cat', 'dog'], ['dog', 'cat']])
@pytest.mark.parametrize('classes', [('cat', 'dog'), ('dog', 'cat')])
def test_ap_follows_class_names_whatever_the_order_of_the_file(
    tmp_path: Path, order: list[str], classes: tuple[str, ...]
) -> None:
    labels = [classes.index('cat'), classes.index('dog')]
    assert score(annotation_file(tmp_path, order), classes, labels)['coco/bbox_mAP'] == 1.0
    assert score(annotation_file(tmp_path, order), classes, labels[::-1])['coco/bbox_mAP'] == 0.0


def test_a_model_that_detects_nothing_scores_zero(tmp_path: Path) -> None:
    assert score(annotation_file(tmp_path, ['cat', 'dog']), ('cat', 'dog'), [])['coco/bbox_mAP'] == 0.0


def view(boxes: list[list[float]], scores: list[float], flip: bool, rle: bool = False) -> DetDataSample:
    """A prediction of a 20 x 40 image; masks are the filled boxes, bitmaps or run lengths."""
    masks = torch.zeros(len(boxes), 20, 40, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    sample = DetDataSample(
        metainfo=dict(ori_shape=(20, 40), flip=flip, flip_direction='horizontal' if flip else None))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4), scores=torch.tensor(scores),
        labels=torch.zeros(len(boxes), dtype=torch.long), masks=as_rles(masks) if rle else masks)
    return sample


def merge(*views: DetDataSample) -> InstanceData:
    model = InstanceTTAModel(
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100), module=Steps())
    return model.merge_preds([list(views)])[0].pred_instances


class Steps(torch.nn.Module):
    """What BaseTTAModel asks of a model."""

    def test_step(self, data: object) -> object:
        return data


def test_the_same_object_of_a_flipped_view_is_merged_with_its_mask_turned_back() -> None:
    merged = merge(view([[2, 3, 12, 13]], [0.6], False), view([[28, 3, 38, 13]], [0.9], True))
    assert merged.bboxes.tolist() == [[2, 3, 12, 13]]
    assert merged.scores.tolist() == pytest.approx([0.9])
    assert merged.masks[0, 3:13, 2:12].all() and merged.masks.sum() == 100


def test_different_objects_of_two_views_are_all_kept() -> None:
    assert len(merge(view([[2, 3, 12, 13]], [0.6], False), view([[2, 3, 12, 13]], [0.9], True))) == 2


def test_views_without_any_object_merge_to_none() -> None:
    assert len(merge(view([], [], False), view([], [], True))) == 0


@pytest.mark.parametrize('views', [
    [([[2, 3, 12, 13]], [0.6], False), ([[28, 3, 38, 13], [1, 1, 9, 9]], [0.9, 0.5], True)],
    [([], [], False), ([[28, 3, 38, 13]], [0.9], True)],
    [([], [], False), ([], [], True)],
])
def test_run_lengths_are_merged_as_bitmaps_are(views: list[tuple]) -> None:
    bitmaps, run_lengths = (merge(*(view(*one, rle=rle) for one in views)) for rle in (False, True))
    assert bitmaps.bboxes.equal(run_lengths.bboxes) and len(run_lengths.masks) == len(bitmaps)
    assert as_bitmaps(run_lengths.masks, (20, 40)).equal(bitmaps.masks)


def test_a_view_without_objects_may_hold_a_tensor_beside_run_lengths() -> None:
    merged = merge(view([], [], False), view([[28, 3, 38, 13]], [0.9], True, rle=True))
    assert as_bitmaps(merged.masks, (20, 40))[0, 3:13, 2:12].all()


def test_the_protocol_names_slide_stride_and_ignored_label() -> None:
    cfg = load_config(ROOT / 'configs/convnext/upernet_convnext-b-in22k_160k_ade20k-640.py')
    assert evaluation_protocol(cfg) == dict(
        scale=[(2560, 640)], keep_ratio=True, flip=False, tta=False, precision='fp32', unit='percent', mode='slide',
        crop_size=(640, 640), stride=(426, 426), ignore_label=255, label_0_ignored=True)


def test_the_protocol_of_tta_lists_every_scale_the_flip_and_whole_images() -> None:
    cfg = load_config(ROOT / 'configs/convnext/upernet_convnext-b-in22k_160k_ade20k-640.py')
    use_tta(cfg)
    protocol = evaluation_protocol(cfg, tta=True)
    assert protocol['scale'] == [(int(2560 * r), int(640 * r)) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert protocol['flip'] is True and protocol['mode'] == 'whole'


def test_the_protocol_says_what_the_model_computes_in() -> None:
    cfg = load_config(ROOT / 'configs/small/mask-rcnn_convnext_demo.py')
    cfg.precision = 'bf16'
    assert evaluation_protocol(cfg)['precision'] == 'bf16'
    cfg.precision, cfg.test_cfg.fp16 = None, True  # MMEngine's autocast
    assert [evaluation_protocol(cfg, split)['precision'] for split in ('test', 'val')] == ['autocast', 'fp32']


def test_tta_without_a_resize_to_replace_is_refused() -> None:
    with pytest.raises(ValueError, match='exactly one Resize'):
        tta_pipeline([dict(type='LoadImageFromFile')], [(8, 8)])


@pytest.mark.parametrize('rle', [False, True])
def test_coco_results_hold_category_ids_and_masks_that_decode_to_the_prediction(rle: bool) -> None:
    sample = view([[2, 3, 12, 13]], [0.5], False)
    (entry,) = coco_results(view([[2, 3, 12, 13]], [0.5], False, rle), [17], image_id=4)
    json.dumps(entry)
    assert entry['image_id'] == 4 and entry['category_id'] == 17 and entry['bbox'] == [2, 3, 10, 10]
    assert np.array_equal(coco_mask.decode(entry['segmentation']), sample.pred_instances.masks[0].numpy())


@pytest.mark.parametrize(('zero_is_ignored', 'values'), [(True, {1, 3}), (False, {0, 2})])
def test_label_pngs_count_from_one_where_zero_is_ignored(
    tmp_path: Path, zero_is_ignored: bool, values: set[int]
) -> None:
    sample = DetDataSample(pred_sem_seg=PixelData(data=torch.tensor([[[0, 2], [2, 0]]])))
    (tmp_path / 'x.png').write_bytes(label_png(sample, zero_is_ignored))
    assert set(np.unique(np.array(Image.open(tmp_path / 'x.png'))).tolist()) == values


@pytest.mark.parametrize('score', [50, -0.1, float('nan')])
def test_a_score_outside_0_to_1_is_refused(score: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf'--score {score:g}: scores lie from 0 to 1'):
        predict('config.py', 'checkpoint.pth', [tmp_path], tmp_path / 'out', score)


def test_images_of_equal_names_get_different_results(tmp_path: Path) -> None:
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'one.jpg').write_bytes(b'')
    assert list(find_images([tmp_path / 'a', tmp_path / 'b'])) == ['one', 'one-2']


def test_no_image_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='no image in'):
        find_images([tmp_path])
    with pytest.raises(ValueError, match='does not exist'):
        find_images([tmp_path / 'missing.jpg'])


def test_prediction_loads_no_annotations() -> None:
    steps = [dict(type='LoadImageFromFile'), dict(type='backbones.LoadLabelMap'), dict(type='PackSegInputs')]
    assert [step['type'] for step in pipeline_without_labels(steps)] == ['LoadImageFromFile', 'PackSegInputs']
