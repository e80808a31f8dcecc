"""COCO scores in memory equal pycocotools' on awkward data; one integer histogram equals a count with care."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from backbones.data.coco_masks import run_totals
from backbones.evaluation import coco_scoring, iou_metric
from backbones.evaluation.coco_api import CheckedCoco
from backbones.evaluation.coco_detections import fill_their_pictures, flat_detections
from backbones.evaluation.coco_metric import CocoMetric
from backbones.evaluation.iou_metric import confusion

HEIGHT, WIDTH = 120, 160
CATEGORIES = (3, 9, 5, 40, 41)  # 40 has no objects, 41 neither objects nor detections
CLASSES = tuple(f'class {number}' for number in CATEGORIES)
needs_engine = pytest.mark.skipif(
    coco_scoring.faster_coco_eval() is None, reason='faster-coco-eval is not installed: pip install faster-coco-eval')
engines = pytest.mark.parametrize('engine', [pytest.param('faster-coco-eval', marks=needs_engine), 'pycocotools'])


def polygon(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h]


def awkward_truth(draw: np.random.Generator) -> dict:
    """Crowds of both kinds, ignore flags, pictures without objects, areas on the bounds, ids out of order."""
    images = [dict(id=int(n), file_name=f'{n}.jpg', height=HEIGHT, width=WIDTH) for n in (7, 2**53 + 1, 3, 1, 12, 11)]
    annotations = []
    for image in images[:-1]:
        for _ in range(int(draw.integers(4, 12))):
            box = [*draw.uniform(0, 60, 2).round(1).tolist(), *draw.uniform(4, 60, 2).round(1).tolist()]
            entry = dict(id=500 - len(annotations), image_id=image['id'], bbox=box, segmentation=[polygon(box)],
                         category_id=int(draw.choice(CATEGORIES[:3])), iscrowd=int(draw.random() < 0.2))
            entry['area'] = float(draw.choice([32**2, 96**2, 32**2 - 0.5, box[2] * box[3] * 0.8]))
            if entry['iscrowd'] and draw.random() < 0.5:
                run = int(draw.integers(1, 5000))
                entry['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=[3000, run, HEIGHT * WIDTH - 3000 - run])
            if draw.random() < 0.3:
                entry['ignore'] = 1
            annotations.append(entry)
    categories = [dict(id=number, name=name) for number, name in zip(CATEGORIES, CLASSES, strict=True)]
    return dict(images=images, categories=categories, annotations=annotations)


def awkward_predictions(truth: dict, draw: np.random.Generator, most: int = 130) -> list[dict]:
    """More than 100 of a class, none, equal scores, boxes without an area; near the objects or anywhere."""
    found = []
    for place, image in enumerate(truth['images']):
        own = [entry['bbox'] for entry in truth['annotations'] if entry['image_id'] == image['id']]
        number = (0, most, 5, 12, 30, 9)[place]
        boxes = np.array([own[int(draw.integers(len(own)))] if own and draw.random() < 0.7 else
                          [*draw.uniform(0, 90, 2), *draw.uniform(0, 60, 2)] for _ in range(number)]).reshape(-1, 4)
        boxes = np.abs(boxes + draw.normal(0, 2, boxes.shape)).astype(np.float32)
        boxes[:1, 2:] = 0
        labels = np.full(number, 0) if number == most else draw.integers(0, 4, number)
        masks = [coco_mask.frPyObjects([polygon(box.tolist())], HEIGHT, WIDTH)[0] for box in boxes]
        boxes[:, 2:] += boxes[:, :2]
        found.append(dict(img_id=image['id'], bboxes=boxes, scores=draw.uniform(0, 1, number).round(1).astype('f4'),
                          labels=labels, masks=masks, mask_scores=draw.uniform(0, 1, number).round(1).astype('f4')))
    return found


def parameters(kind: str, limits: tuple[int, ...], use_cats: int = 1) -> Params:
    params = Params(iouType=kind)
    params.maxDets, params.useCats, params.catIds = list(limits), use_cats, list(CATEGORIES)
    return params


def reference(truth: dict, found: list[dict], params: Params) -> dict:
    """pycocotools as its manual has it: lists of entries, `loadRes`, `COCOeval`."""
    entries = []
    for one in found:
        for n, (box, label) in enumerate(zip(one['bboxes'].astype(float), one['labels'], strict=True)):
            entry = dict(image_id=one['img_id'], category_id=CATEGORIES[label])
            if params.iouType == 'bbox':
                entry.update(bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]], score=float(one['scores'][n]))
            else:
                entry.update(segmentation=dict(one['masks'][n]), score=float(one['mask_scores'][n]))
            entries.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(entries), params.iouType)
        params.imgIds = list(coco.imgs)
        evaluation.params = params
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


@pytest.fixture
def write(tmp_path: Path):
    def run(truth: dict) -> str:
        (tmp_path / 'truth.json').write_text(json.dumps(truth))
        return str(tmp_path / 'truth.json')

    return run


def score(file: str, found: list[dict], params: Params, engine: str) -> COCOeval:
    coco = CheckedCoco(file, masks=True)
    params.imgIds = list(coco.imgs)
    detections = flat_detections(found, CATEGORIES, coco.imgs, masks=params.iouType == 'segm')
    return coco_scoring.score(coco, detections, params, engine)


@engines
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize('limits', [(1, 10, 100), (100, 300, 1000), (2, 3, 4)], ids=str)
@pytest.mark.parametrize('seed', range(3))
def test_every_precision_recall_and_score_is_that_of_pycocotools(write, engine, kind, limits, seed):
    draw = np.random.default_rng(seed)
    truth = awkward_truth(draw)
    found = awkward_predictions(truth, draw)
    expected = reference(truth, found, parameters(kind, limits))
    ours = score(write(truth), found, parameters(kind, limits), engine).eval
    for name in ('precision', 'recall', 'scores'):
        assert ours[name].shape == expected[name].shape
        np.testing.assert_allclose(ours[name], expected[name], rtol=0, atol=1e-12)
    assert expected['precision'].max() > 0.05 and (expected['precision'] == -1).any()  # the data are not trivial


@engines
def test_proposals_of_any_class_are_scored_as_by_pycocotools(write, engine):
    draw = np.random.default_rng(5)
    truth = awkward_truth(draw)
    found = awkward_predictions(truth, draw)
    expected = reference(truth, found, parameters('bbox', (100, 300, 1000), use_cats=0))
    ours = score(write(truth), found, parameters('bbox', (100, 300, 1000), use_cats=0), engine).eval
    for name in ('precision', 'recall', 'scores'):
        np.testing.assert_allclose(ours[name], expected[name], rtol=0, atol=1e-12)


@engines
def test_an_annotation_with_id_0_is_found_like_any_other(write, engine):
    truth = awkward_truth(np.random.default_rng(0))
    truth['annotations'] = [dict(entry, id=n) for n, entry in enumerate(truth['annotations'][:1])]
    truth['annotations'][0].update(iscrowd=0, segmentation=[polygon(truth['annotations'][0]['bbox'])])
    x, y, w, h = truth['annotations'][0]['bbox']
    label = CATEGORIES.index(truth['annotations'][0]['category_id'])
    found = [dict(img_id=7, bboxes=np.array([[x, y, x + w, y + h]]), scores=np.array([0.5]), labels=np.array([label]))]
    precision = score(write(truth), found, parameters('bbox', (1, 10, 100)), engine).eval['precision']
    assert precision[:, :, sorted(CATEGORIES).index(CATEGORIES[label]), 0].min() == pytest.approx(1)


@engines
def test_no_detection_at_all_has_recall_0_where_there_are_objects(write, engine):
    truth = awkward_truth(np.random.default_rng(0))
    recall = score(write(truth), [], parameters('bbox', (1, 10, 100)), engine).eval['recall']
    assert recall[:, 0].max() == 0 and recall[:, 4].max() == -1


@needs_engine
def test_scores_are_counted_in_their_true_order_across_pictures(write):
    """Two pictures, one object: a false detection of equal score in the other picture comes first or second."""
    images = [dict(id=n, file_name=f'{n}.jpg', height=HEIGHT, width=WIDTH) for n in (1, 2)]
    box = [2.0, 2.0, 20.0, 20.0]
    for home, expected in ((1, 1.0), (2, 0.5)):
        truth = dict(images=images, categories=[dict(id=3, name='a')], annotations=[dict(
            id=1, image_id=home, category_id=3, bbox=box, area=400.0, iscrowd=0, segmentation=[polygon(box)])])
        found = [dict(img_id=n, bboxes=np.array([[2.0, 2, 22, 22]]), scores=np.array([0.5]), labels=np.array([0]))
                 for n in (1, 2)]
        params = parameters('bbox', (1, 10, 100))
        params.catIds = [3]
        precision = score(write(truth), found, params, 'faster-coco-eval').eval['precision']
        assert precision[0, :, 0, 0, 2] == pytest.approx(expected)


def run_metric(kind: type, file: str, found: list[dict], classes: tuple[str, ...] = CLASSES, **options) -> dict:
    metric = kind(ann_file=file, **options)
    metric.dataset_meta = dict(classes=classes)
    for one in found:
        shown = {key: torch.as_tensor(value) for key, value in one.items() if key not in ('img_id', 'masks')}
        sample = dict(img_id=one['img_id'], ori_shape=(HEIGHT, WIDTH), pred_instances={**shown, 'masks': one['masks']})
        metric.process({}, [sample])
    return metric.evaluate(len(found))


@pytest.fixture
def data(write) -> tuple[str, list[dict]]:
    draw = np.random.default_rng(1)
    truth = awkward_truth(draw)
    return write(truth), awkward_predictions(truth, draw)


@pytest.mark.parametrize('options', [
    dict(metric=['bbox', 'segm']), dict(metric=['bbox', 'proposal']),
    dict(metric='bbox', iou_thrs=np.array([0.5, 0.6])), dict(metric='segm', metric_items=['mAP_50', 'AR@300']),
], ids=str)
@pytest.mark.parametrize('installed', [pytest.param(True, marks=needs_engine), False])
def test_the_metric_gives_the_values_of_mmdet_with_either_engine(data, monkeypatch, options, installed):
    if not installed:
        monkeypatch.setattr(coco_scoring, 'faster_coco_eval', lambda: None)
    file, found = data
    expected = run_metric(MMDetCocoMetric, file, found, **options)
    assert run_metric(CocoMetric, file, found, **options) == pytest.approx(expected, abs=1e-12)


def test_the_table_by_class_names_the_right_class_whatever_the_order(data):
    file, found = data
    turned = [dict(one, labels=4 - one['labels']) for one in found]
    options = dict(metric='bbox', classwise=True)
    values = run_metric(CocoMetric, file, found, **options)
    assert run_metric(CocoMetric, file, turned, CLASSES[::-1], **options) == pytest.approx(values, nan_ok=True)
    assert values['coco/class 3_precision'] > 0 and np.isnan(values['coco/class 40_precision'])


def test_predictions_do_not_go_through_a_file(data, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('a file was written')

    monkeypatch.setattr('mmdet.evaluation.metrics.coco_metric.dump', refuse)
    assert run_metric(CocoMetric, *data, metric=['bbox', 'segm'])['coco/bbox_mAP'] > 0


def test_files_of_predictions_are_written_where_they_are_asked_for(data, tmp_path):
    file, found = data
    options = dict(metric='segm', format_only=True, outfile_prefix=str(tmp_path / 'out'))
    assert run_metric(CocoMetric, file, found, **options) == {}
    assert len(json.loads((tmp_path / 'out.segm.json').read_text())) == sum(len(one['labels']) for one in found)


@needs_engine
def test_an_engine_that_is_missing_or_wrong_is_replaced_with_a_word(monkeypatch):
    said = []
    monkeypatch.setattr(coco_scoring, 'print_log', lambda text, *args: said.append(text))
    fresh = coco_scoring.faster_coco_eval.__wrapped__
    assert fresh() is not None and not said
    broken = SimpleNamespace(Dataset=lambda: SimpleNamespace(load_tuple=lambda value: None),
                             COCOevalEvaluateAccumulate=lambda *args: dict(recall=np.ones((1, 1, 1, 1))))
    monkeypatch.setattr('faster_coco_eval.faster_eval_api_cpp', broken)
    assert fresh() is None and 'answers a known question by 1.0 instead of 0.5' in said[-1]
    monkeypatch.setattr('faster_coco_eval.faster_eval_api_cpp', SimpleNamespace())
    assert fresh() is None and "no attribute 'Dataset'" in said[-1]
    monkeypatch.setitem(__import__('sys').modules, 'faster_coco_eval', None)
    assert fresh() is None and 'pip install faster-coco-eval' in said[-1]


MASK = dict(size=[HEIGHT, WIDTH], counts=coco_mask.encode(np.ones((HEIGHT, WIDTH), np.uint8, order='F'))['counts'])
GOOD = dict(img_id=3, bboxes=np.array([[1.0, 2, 3, 4]]), scores=np.array([0.5]), labels=np.array([0]), masks=[MASK])
WRONG = {
    'unknown picture': (dict(img_id=99), 'picture 99 has no picture in the annotation file'),
    'label too large': (dict(labels=np.array([5])), 'labels from 5 to 5, but 0 to 4'),
    'label below 0': (dict(labels=np.array([-1])), 'labels from -1'),
    'two scores': (dict(scores=np.array([0.5, 0.4])), 'one of each'),
    'boxes of five': (dict(bboxes=np.zeros((1, 5))), r'boxes \(1, 5\)'),
    'NaN': (dict(scores=np.array([np.nan])), 'no finite numbers for picture 3'),
    'infinite mask score': (dict(mask_scores=np.array([np.inf])), 'no finite numbers for picture 3'),
    'two masks': (dict(masks=[MASK, MASK]), 'one of each'),
    'mask of another size': (dict(masks=[MASK | dict(size=[WIDTH, HEIGHT])]), 'run-length mask of size'),
    'runs too short': (dict(masks=[MASK | dict(counts=b'05')]), 'picture 3 has run lengths that add up to 5'),
    'other signs': (dict(masks=[MASK | dict(counts=b'\xff')]), 'no string of COCO'),
    'no size': (dict(masks=[dict(counts=MASK['counts'])]), 'run-length mask of size None'),
    'empty runs': (dict(masks=[MASK | dict(counts=b'')]), 'add up to 0'),
    'other letters': (dict(masks=[MASK | dict(counts='é')]), 'no string of COCO'),
    'a bitmap': (dict(masks=[np.ones((HEIGHT, WIDTH))]), 'must be compressed run lengths'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_prediction_that_cannot_be_scored_names_its_picture(name):
    change, message = WRONG[name]
    images = {image['id']: image for image in awkward_truth(np.random.default_rng(0))['images']}
    assert len(flat_detections([GOOD], CATEGORIES, images, masks=True).scores) == 1
    with pytest.raises(ValueError, match=message):
        flat_detections([GOOD, GOOD | change], CATEGORIES, images, masks=True)


def test_a_size_of_other_numbers_is_the_same_size():
    images = {3: dict(id=3, height=HEIGHT, width=WIDTH)}
    mask = MASK | dict(size=(np.int64(HEIGHT), np.int32(WIDTH)))
    assert flat_detections([GOOD | dict(masks=[mask])], CATEGORIES, images, masks=True).masks == [mask]


def run_length_string(runs: list[int]) -> bytes:
    """COCO's coding, as its C code has it (`rleToString`)."""
    string = b''
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            code, value = value & 31, value >> 5
            more = value != (-1 if code & 16 else 0)
            string += bytes([code + 48 + 32 * more])
    return string


@pytest.mark.parametrize('seed', range(4))
def test_many_masks_are_refused_where_one_of_them_is_broken(seed):
    draw = np.random.default_rng(seed)
    seen = set()
    for _ in range(300):
        strings = []
        for _ in range(int(draw.integers(1, 5))):
            runs = draw.integers(0, draw.choice([3, 40, 10**6]), draw.integers(1, 9)).tolist()
            string = bytearray(run_length_string(runs))
            if draw.random() < 0.3:
                string[draw.integers(len(string))] = draw.integers(40, 120)
            strings.append(bytes(string))
        totals = run_totals([string.decode('latin1') for string in strings])
        whole = None not in totals
        pixels = np.array([total or 0 for total in totals])
        assert fill_their_pictures(strings, pixels) is whole
        pixels[-1] += 1
        assert not fill_their_pictures(strings, pixels)
        seen.add(whole)
    assert seen == {True, False}


def test_masks_that_are_not_there_are_an_error():
    with pytest.raises(ValueError, match='has no masks'):
        flat_detections([{key: GOOD[key] for key in GOOD if key != 'masks'}], CATEGORIES, {3: {}}, masks=True)


@pytest.mark.parametrize('options, message', [
    (dict(proposal_nums=(100,)), 'three numbers'), (dict(proposal_nums=(1, 2, 3)), 'must hold 100'),
    (dict(metric_items=['mAP_7']), "'mAP_7'"), (dict(metric=['bbox', 'proposal_fast']), "use 'proposal'"),
])
def test_options_without_a_meaning_are_refused_at_the_start(options, message):
    with pytest.raises(ValueError, match=message):
        CocoMetric(**{'metric': 'bbox', **options})


@pytest.mark.parametrize('ignore', [255, 2, -1, -100, 4095, 5])
@pytest.mark.parametrize('kind', [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_the_histogram_counts_what_the_careful_count_counts(ignore, kind):
    if ignore not in range(torch.iinfo(kind).min, torch.iinfo(kind).max + 1):
        pytest.skip('no value of this type')
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (31, 17), generator=draw)
    labels[labels == 4] = ignore
    predicted = torch.randint(0, 5, (31, 17), generator=draw)
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for true, found in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if true != ignore:
            expected[true, found] += 1
    assert torch.equal(confusion(predicted.to(kind), labels.to(kind), 5, ignore, 'x'), expected)


@pytest.mark.parametrize('label, found, message', [
    (5, 0, 'label map x holds the value 5 in 1 pixels'), (300, 0, 'label map x holds the value 300'),
    (70000, 0, 'label map x holds the value 70000'), (-1, 0, 'label map x holds the value -1'),
    (0, 5, 'prediction for x holds the value 5 in 1'), (0, -1, 'prediction for x holds the value -1'),
    (0, 255, 'prediction for x holds the value 255'),
])
def test_the_histogram_hides_no_value_out_of_range(label, found, message):
    labels, predicted = torch.full((2, 3), 255), torch.zeros(2, 3, dtype=torch.int64)
    labels[0, 0], predicted[0, 0] = label, found
    with pytest.raises(ValueError, match=message):
        confusion(predicted, labels, 5, 255, 'x')


def test_a_prediction_out_of_range_where_nothing_counts_is_no_error():
    assert confusion(torch.tensor([[9, 1]]), torch.tensor([[255, 1]]), 2, 255, 'x').tolist() == [[0, 0], [0, 1]]


def test_an_ordinary_picture_is_counted_in_one_histogram(monkeypatch):
    monkeypatch.setattr(iou_metric, '_count_with_care', None)
    assert confusion(torch.tensor([[0, 1]]), torch.tensor([[255, 1]]), 2, 255, 'x').tolist() == [[0, 0], [0, 1]]
