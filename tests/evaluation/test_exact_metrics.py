"""Scores of checked numbers: mIoU counted exactly, COCO's files looked at before C code sees them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric as MMSegIoUMetric

from backbones.evaluation.coco_api import CheckedCoco
from backbones.evaluation.coco_metric import CocoMetric
from backbones.evaluation.iou_metric import IoUMetric, areas, confusion

CLASSES = tuple('abcde')


def sample(predicted: np.ndarray, labels: np.ndarray | None, **meta) -> dict:
    found = dict(pred_sem_seg=dict(data=torch.as_tensor(predicted)[None]), img_path='x/a.jpg', seg_map_path='y/a.png')
    if labels is not None:
        found['gt_sem_seg'] = dict(data=torch.as_tensor(labels)[None])
    return found | meta


def evaluate(kind: type, samples: list[dict], **options) -> dict:
    metric = kind(**options)
    metric.dataset_meta = dict(classes=CLASSES)
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def drawn(count: int = 6, size: tuple[int, int] = (7, 9)) -> list[dict]:
    draw = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        labels = draw.choice([0, 1, 2, 3, 255], size)  # class 4 is never there
        predicted = np.where(draw.random(size) < 0.6, labels % 255, draw.integers(0, 4, size))
        samples.append(sample(predicted, labels.astype(np.uint8)))
    return samples


def test_the_type_is_found_by_its_scoped_name():
    assert METRICS.get('backbones.IoUMetric') is IoUMetric and METRICS.get('backbones.CocoMetric') is CocoMetric


@pytest.mark.parametrize('options', [
    dict(), dict(iou_metrics=['mIoU', 'mDice', 'mFscore']), dict(nan_to_num=0), dict(ignore_index=3),
], ids=str)
def test_the_numbers_are_those_of_mmseg(options):
    samples = drawn()
    if 'ignore_index' in options:
        for one in samples:
            one['gt_sem_seg']['data'][one['gt_sem_seg']['data'] == 255] = 0
    ours, theirs = evaluate(IoUMetric, samples, **options), evaluate(MMSegIoUMetric, samples, **options)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-2)


def test_two_thousand_million_pixels_are_counted_exactly():
    one = torch.tensor([[1_000_003]])
    totals = [areas(one) for _ in range(2000)]
    assert int(sum(total[1] for total in totals)) == 2_000_006_000
    assert float(sum(torch.tensor([1_000_003.0]) for _ in range(2000))) != 2_000_006_000  # as mmseg does


def test_the_confusion_matrix_has_true_classes_as_rows():
    counts = confusion(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]), 2, 255, 'x')
    assert counts.tolist() == [[1, 1], [0, 0]] and counts.dtype == torch.int64
    assert [area.tolist() for area in areas(counts)] == [[1, 0], [2, 1], [1, 1], [2, 0]]


@pytest.mark.parametrize('value, kind', [(5, np.uint8), (254, np.uint8), (300, np.uint16), (-1, np.int64)])
def test_a_label_out_of_range_is_an_error_with_file_and_value(value, kind):
    labels = np.zeros((2, 3), kind)
    labels[0, 0] = value
    with pytest.raises(ValueError, match=rf'label map y/a\.png holds the value {value} in 1 pixels, but 0 to 4'):
        evaluate(IoUMetric, [sample(np.zeros((2, 3), np.uint8), labels)])


def test_a_prediction_out_of_range_is_an_error():
    with pytest.raises(ValueError, match=r'prediction for y/a\.png holds the value 7 in 6 pixels'):
        evaluate(IoUMetric, [sample(np.full((2, 3), 7), np.zeros((2, 3), np.uint8))])


def test_labels_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r'is \(2, 3\) .* its prediction is \(4, 6\)'):
        evaluate(IoUMetric, [sample(np.zeros((4, 6), int), np.zeros((2, 3), np.uint8))])


def test_a_picture_of_one_row_is_counted():
    assert evaluate(IoUMetric, [sample(np.zeros((1, 3), int), np.zeros((1, 3), np.uint8))])['mIoU'] == 100


def test_a_missing_label_map_is_an_error():
    with pytest.raises(ValueError, match='comes without a label map'):
        evaluate(IoUMetric, [sample(np.zeros((1, 3), int), None)])


def test_predictions_are_written_as_mmseg_writes_them(tmp_path):
    for kind, folder in ((IoUMetric, 'ours'), (MMSegIoUMetric, 'theirs')):
        options = dict(format_only=True, output_dir=str(tmp_path / folder))
        evaluate(kind, [sample(np.array([[0, 4], [1, 2]]), None, reduce_zero_label=True)], **options)
    read = [np.asarray(Image.open(tmp_path / folder / 'a.png')) for folder in ('ours', 'theirs')]
    assert read[0].tolist() == read[1].tolist() == [[1, 5], [2, 3]]


SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


@pytest.fixture
def content() -> dict:
    objects = [dict(id=n, image_id=1, category_id=3, bbox=[2 + 20 * n, 2, 10, 10], area=100, iscrowd=0,
                    segmentation=[[v + 20 * n * (i % 2 == 0) for i, v in enumerate(SQUARE)]]) for n in (0, 1)]
    return dict(images=[dict(id=1, file_name='a.jpg', height=40, width=50)],
                categories=[dict(id=3, name='disc'), dict(id=1, name='box')], annotations=objects)


@pytest.fixture
def write(tmp_path, content, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    def run() -> str:
        (tmp_path / 'a.json').write_text(json.dumps(content))
        return str(tmp_path / 'a.json')

    return run


def score(file: str, boxes: list[list[float]], **changes) -> dict:
    metric = CocoMetric(ann_file=file, metric=['bbox'])
    metric.dataset_meta = dict(classes=('disc', 'box'))
    found = dict(bboxes=torch.tensor(boxes), scores=torch.full((len(boxes),), 0.9),
                 labels=torch.zeros(len(boxes), dtype=torch.long)) | changes
    metric.process({}, [dict(img_id=1, ori_shape=(40, 50), pred_instances=found)])
    return metric.evaluate(1)


PERFECT = [[2.0, 2.0, 12.0, 12.0], [22.0, 2.0, 32.0, 12.0]]


def test_an_annotation_with_id_0_is_found_like_any_other(write):
    assert score(write(), PERFECT)['coco/bbox_mAP'] == pytest.approx(1, abs=1e-3)  # pycocotools alone: 0.252


def test_annotations_without_area_and_crowd_flag_are_scored(write, content):
    for entry in content['annotations']:
        del entry['iscrowd'], entry['area']
    assert score(write(), PERFECT)['coco/bbox_mAP'] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('changes', [dict(scores=torch.tensor([0.9, float('nan')])),
                                     dict(bboxes=torch.tensor([[0, 0, float('inf'), 5], PERFECT[0]]))])
def test_a_prediction_that_is_no_number_is_an_error(write, changes):
    with pytest.raises(ValueError, match='no finite numbers for picture 1'):
        score(write(), PERFECT, **changes)


def test_an_evaluator_of_masks_refuses_a_file_without(write, content):
    del content['annotations'][1]['segmentation']
    with pytest.raises(ValueError, match=r'1 annotations of .*a\.json have no segmentation \(ids 1\)'):
        CocoMetric(ann_file=write(), metric=['bbox', 'segm'])
    CocoMetric(ann_file=write(), metric='bbox')


def test_a_missing_file_of_the_evaluator_is_named():
    with pytest.raises(ValueError, match=r'nowhere\.json of the evaluator does not exist'):
        CocoMetric(ann_file='nowhere.json')


GOOD = dict(image_id=1, category_id=3, score=0.5, bbox=[1, 2, 3, 4])
RUNS = dict(size=[40, 50], counts=[2000])
RESULTS = {
    'unknown image': (dict(image_id=7), 'image_id 7'),
    'unknown class': (dict(category_id=7), 'category_id 7'),
    'class that is a list': (dict(category_id=[3]), r'category_id \[3\]'),
    'box with NaN': (dict(bbox=[1, float('nan'), 3, 4]), 'four finite numbers'),
    'box of three': (dict(bbox=[1, 2, 3]), 'four finite numbers'),
    'score of words': (dict(score='high'), 'four finite numbers'),
    'neither box nor mask': (dict(bbox=None), 'neither bbox nor segmentation'),
    'runs too short': (dict(segmentation=RUNS | dict(counts=[5])), 'add up to 5'),
    'string too short': (dict(segmentation=RUNS | dict(counts='05')), 'add up to 5'),
    'bytes too short': (dict(segmentation=RUNS | dict(counts=b'05')), 'add up to 5'),
    'string of other signs': (dict(segmentation=RUNS | dict(counts='\x7f')), 'no string of COCO'),
    'runs of another size': (dict(segmentation=RUNS | dict(size=[50, 40])), 'run-length mask of size'),
    'far polygon': (dict(segmentation=[[1, 2, 1e8, 4, 5, 6]]), 'far outside'),
}


@pytest.mark.parametrize('name', RESULTS)
def test_a_broken_result_is_refused_by_its_place(write, name):
    change, message = RESULTS[name]
    with pytest.raises(ValueError, match=rf'entry 1 of the results .*{message}'):
        CheckedCoco(write()).loadRes([dict(GOOD), GOOD | change])


def test_a_result_file_is_read_and_checked(write, tmp_path):
    truth = CheckedCoco(write())
    (tmp_path / 'r.json').write_text(json.dumps([GOOD]))
    assert len(truth.loadRes(str(tmp_path / 'r.json')).anns) == 1
    (tmp_path / 'r.json').write_text(json.dumps([GOOD])[:-9])
    with pytest.raises(ValueError, match=r'r\.json is not readable as JSON'):
        truth.loadRes(str(tmp_path / 'r.json'))
    (tmp_path / 'r.json').write_text('{}')
    with pytest.raises(ValueError, match=r'r\.json must be a list of detections'):
        truth.loadRes(str(tmp_path / 'r.json'))
