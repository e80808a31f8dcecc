"""Evaluations of perturbed ground truth of the demo data: the true metrics, no model."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from conftest import ROOT
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image

from backbones.config import load_config
from backbones.data.coco import CocoDataset
from backbones.data.label_maps import LabelMapDataset
from backbones.evaluation.coco_metric import CocoMetric
from backbones.evaluation.details import DetailOptions, Details
from backbones.evaluation.iou_metric import IoUMetric

DETECTOR, SEGMENTER = 'small/mask-rcnn_convnext_demo.py', 'small/upernet_vit_demo.py'
QUICK = DetailOptions(resamplings=100)


def runner_of(config: str, root: Path, work_dir: Path, metric: object, dataset: object) -> SimpleNamespace:
    """What `Details` asks of a runner."""
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        cfg=load_config(ROOT / 'configs' / config, dict(data_root=f'{root}/')), work_dir=str(work_dir),
        logger=logging.getLogger('details'), test_dataloader=loader, register_hook=lambda hook: None,
        test_loop=SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric]), dataloader=loader))


def detect(root: Path, work_dir: Path, noise: float, options: DetailOptions = QUICK, most: int | None = None) -> dict:
    """Evaluate boxes and masks of the validation pictures, moved by `noise` of their size; of a picture `most`."""
    file, draw = root / 'annotations/instances_val.json', np.random.default_rng(3)
    dataset = CocoDataset(ann_file=str(file), data_prefix=dict(img=str(root / 'images/validation/')), pipeline=[],
                          test_mode=True, serialize_data=False)
    metric = CocoMetric(ann_file=str(file), metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    kept = Details(runner_of(DETECTOR, root, work_dir, metric, dataset), 'weights.pth', options)
    truth = json.loads(file.read_text())
    for image in truth['images']:
        own = [one for one in metric._coco_api.imgToAnns[image['id']] if not one['iscrowd']][:most]
        boxes = np.array([one['bbox'] for one in own], np.float64).reshape(-1, 4)
        boxes += draw.normal(0, noise, boxes.shape) * boxes[:, [2, 3, 2, 3]]
        masks = [metric._coco_api.annToRLE(one) for one in own]
        corners = torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), dtype=torch.float)
        labels = [dataset.cat_ids.index(one['category_id']) for one in own]
        labels = torch.tensor([(label + (draw.random() < noise)) % 6 for label in labels], dtype=torch.long)
        found = dict(bboxes=corners, scores=torch.tensor(draw.random(len(own)), dtype=torch.float), labels=labels,
                     masks=masks)
        shape = image['height'], image['width']
        metric.process({}, [dict(img_id=image['id'], ori_shape=shape, pred_instances=found)])
    return _end(kept, metric, len(truth['images']))


def segment(root: Path, work_dir: Path, wrong: float, options: DetailOptions = QUICK) -> dict:
    """Evaluate label maps of the validation pictures of which the part `wrong` has been moved on by a class."""
    draw = np.random.default_rng(3)
    dataset = LabelMapDataset(
        str(root), data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'), pipeline=[],
        test_mode=True, serialize_data=False)
    metric = IoUMetric(iou_metrics=['mIoU', 'mDice'])
    metric.dataset_meta = dataset.metainfo
    runner = runner_of(SEGMENTER, root, work_dir, metric, dataset)
    kept = Details(runner, 'weights.pth', options)
    for place in range(len(dataset)):
        info = dataset.get_data_info(place)
        stored = np.array(Image.open(info['seg_map_path'])).astype(np.int64)
        truth = np.where(stored == 0, 255, stored - 1)
        found = np.where(draw.random(stored.shape) < wrong, truth + 1, truth) % 10
        sample = BaseDataElement(metainfo=dict(img_path=info['img_path'], seg_map_path=info['seg_map_path']))
        sample.pred_sem_seg = PixelData(data=torch.tensor(found)[None])
        sample.gt_sem_seg = PixelData(data=torch.tensor(truth)[None])
        metric.process({}, [dict(img_path=info['img_path'], seg_map_path=info['seg_map_path'],
                                 pred_sem_seg=dict(data=torch.tensor(found)[None]),
                                 gt_sem_seg=dict(data=torch.tensor(truth)[None]))])
        kept.kept.after_test_iter(runner, place, None, [sample])
    kept.kept.after_test_epoch(runner)
    return _end(kept, metric, len(dataset))


def _end(kept: Details, metric: object, images: int) -> dict:
    metrics = metric.evaluate(images)
    with contextlib.redirect_stdout(io.StringIO()) as page:
        kept.write(metrics)
    details = json.loads((kept.folder / 'details.json').read_text())
    return details | dict(page=page.getvalue())
