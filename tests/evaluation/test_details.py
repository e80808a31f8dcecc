"""`tools/test.py --details`: the metric's own numbers, whole files, tables that fit a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from conftest import ROOT
from details_helpers import detect, segment
from rich.console import Console

from backbones.data.demo import generate_demo
from backbones.evaluation import coco_metric, iou_metric
from backbones.evaluation.details import DetailOptions
from backbones.evaluation.details_segmentation import check_same
from backbones.evaluation.run import run_test
from backbones.evaluation.tables import print_details, with_interval


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve validation pictures, enough for intervals."""
    root = tmp_path_factory.mktemp('details') / 'demo'
    return generate_demo(root, num_train=2, num_val=12, size=(64, 96), progress=False)


@pytest.fixture(scope='module')
def detected(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict[str, list[float]], Path]:
    """Details of an evaluation, the numbers of the metric before they are rounded, the work folder."""
    unrounded, folder = {}, tmp_path_factory.mktemp('detected')
    score = coco_metric.score

    def spy(coco, found, params, engine=None):
        evaluation = score(coco, found, params, engine)
        unrounded[params.iouType] = evaluation
        return evaluation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_metric, 'score', spy)
        details = detect(demo, folder, 0.15)
    return details, {kind: one.stats.tolist() for kind, one in unrounded.items()}, folder


@pytest.fixture(scope='module')
def segmented(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict, Path]:
    """Details of an evaluation, the areas of the metric, the work folder."""
    folder, kept = tmp_path_factory.mktemp('segmented'), {}
    compute = iou_metric.IoUMetric.compute_metrics

    def spy(self, results):
        kept['areas'] = [sum(part).double().numpy() for part in zip(*results, strict=True)]
        return compute(self, results)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iou_metric.IoUMetric, 'compute_metrics', spy)
        details = segment(demo, folder, 0.2)
    return details, kept, folder


@pytest.mark.parametrize(('kind', 'metric'), [('boxes', 'bbox'), ('masks', 'segm')])
def test_detections_have_the_numbers_of_the_metric(detected: tuple, kind: str, metric: str) -> None:
    details, unrounded, _ = detected
    averages, expected = details[kind]['metrics']['averages'], unrounded[metric]
    for name, value in zip(('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium'), expected, strict=False):
        assert averages[name] == pytest.approx(value, abs=1e-12)
    assert round(averages['ap'], 3) == details['metrics'][f'coco/{metric}_mAP'] and 0.1 < averages['ap'] < 1.0001


def test_label_maps_have_the_numbers_of_the_metric(segmented: tuple) -> None:
    details, kept, _ = segmented
    both, union, found, true = kept['areas']
    scores = details['labels']['scores']
    assert [one['IoU'] for one in scores['per_class']] == pytest.approx((100 * both / union).tolist(), abs=1e-12)
    assert [one['Dice'] for one in scores['per_class']] == pytest.approx(
        (200 * both / (found + true)).tolist(), abs=1e-12)
    assert scores['summary']['mIoU'] == pytest.approx(100 * np.mean(both / union), abs=1e-12)
    assert round(scores['summary']['mIoU'], 2) == details['metrics']['mIoU'] and 20 < scores['summary']['mIoU'] < 90


@pytest.mark.parametrize('name', ['detected', 'segmented'])
def test_details_say_what_was_evaluated_and_how(name: str, request: pytest.FixtureRequest) -> None:
    details = request.getfixturevalue(name)[0]
    assert details['checkpoint'] == 'weights.pth' and Path(details['config']).is_file()
    assert details['protocol']['scale'] == [[160, 128]] and details['protocol']['tta'] is False
    assert details['data']['images'] == 12 and details['resamplings'] == 100
    assert {'disc', 'star'} < set(details['classes']) and 'torch' in details['versions']


def test_the_protocol_of_detections_says_who_scored_at_which_thresholds(detected: tuple) -> None:
    for kind in ('boxes', 'masks'):
        protocol = detected[0][kind]['protocol']
        assert protocol['scorer'].split()[0] in ('faster-coco-eval', 'pycocotools')
        assert len(protocol['iou_thresholds']) == 10 and protocol['score_threshold_chosen_by'] == 'best F1'


@pytest.mark.parametrize('name', ['detected', 'segmented'])
def test_tables_fit_80_columns_and_have_each_class_once_best_first(name: str, request: pytest.FixtureRequest) -> None:
    details, _, _ = request.getfixturevalue(name)
    console = Console(width=80, record=True, file=io.StringIO())
    print_details(details, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    for start in [place for place, line in enumerate(lines) if line.startswith('By class')]:
        rows = [line.split() for line in lines[start + 2:][:lines[start + 2:].index('')]]
        classes = [row[0] for row in rows if row[1] != 'not']
        there = {one for one in details['classes'] if one in classes}
        assert len(classes) == len(there) >= 5
        numbers = [float(row[2]) for row in rows if row[1] != 'not']
        assert numbers == sorted(numbers, reverse=True)


def test_what_is_printed_while_testing_is_what_the_file_says(detected: tuple) -> None:
    details = detected[0]
    for kind in ('boxes', 'masks'):
        found = details[kind]['intervals']['AP']
        text = (f'AP {found["value"]:.3f} ({found["low"]:.3f} to {found["high"]:.3f}, 100 resamplings of 12 images)')
        assert text in details['page']
    for error in details['boxes']['errors']['dap']:
        assert f'\n{error} ' in details['page']


def test_an_interval_that_is_not_known_says_why() -> None:
    few = dict(value=0.5, low=None, high=None, replicates=1000, images=1)
    assert with_interval('AP', few) == 'AP 0.500 (no interval, from 1 image only)'
    assert with_interval('AP', few | dict(value=None)) == 'AP - (not defined)'


def test_names_of_classes_are_text_and_no_markup(detected: tuple) -> None:
    details = json.loads(json.dumps(detected[0]))
    details['boxes']['metrics']['classes'][0]['name'] = '[red]a\nb'
    console = Console(width=80, record=True, file=io.StringIO())
    print_details(details, console)
    assert "'[red]a\\nb'" in console.export_text()


def test_files_of_another_evaluation_are_kept(demo: Path, tmp_path: Path) -> None:
    detect(demo, tmp_path, 0.1, DetailOptions(resamplings=100, score=0.5))
    segment(demo, tmp_path, 0.3)
    names = ('evaluation/predictions.zip', 'evaluation/details.json', 'evaluation.1/predictions.json',
             'evaluation.1/details.json')
    assert all((tmp_path / name).is_file() for name in names)
    assert json.loads((tmp_path / 'evaluation.1/details.json').read_text())['boxes']['points']['score'] == 0.5


def test_a_run_that_ends_while_it_looks_leaves_no_details(demo: Path, tmp_path: Path, monkeypatch) -> None:
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('backbones.evaluation.details_detection.find_errors', stop)
    with pytest.raises(KeyboardInterrupt):
        detect(demo, tmp_path, 0.1)
    assert [path.name for path in (tmp_path / 'evaluation').iterdir()] == ['predictions.json']


def test_a_model_that_detects_nothing_gets_details_that_say_so(demo: Path, tmp_path: Path) -> None:
    details = detect(demo, tmp_path, 0.0, most=0)
    assert details['remarks'] == ['the model detected no object in any image']
    assert details['remarks'][0] in details['page'] and 'AP 0.000 ' in details['page']
    assert details['metrics']['coco/bbox_mAP'] == details['boxes']['metrics']['averages']['ap'] == 0


def test_scores_that_are_not_those_of_the_evaluation_are_refused() -> None:
    check_same(dict(mIoU=50.004), {'mIoU': 50.0, 'aAcc': 3.0})
    with pytest.raises(ValueError, match=r'give mIoU 50\.02, and the evaluation gave 50\.00'):
        check_same(dict(mIoU=50.02), {'mIoU': 50.0})


@pytest.mark.parametrize(('options', 'segmenter', 'message'), [
    (dict(resamplings=99), False, '--resamplings 99: give 100 to 10000'),
    (dict(score=1.5), False, r'--score 1\.5: scores lie from 0 to 1'),
    (dict(max_dets=(10, 0)), False, '--max-dets 10 0: numbers of detections lie from 1'),
    (dict(max_dets=(10,)), True, '--max-dets is of detectors'), (dict(score=0.5), True, '--score is of detectors')])
def test_options_that_do_not_fit_are_refused(options: dict, segmenter: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetailOptions(**options).check(segmenter)


def test_a_run_with_details_gives_the_numbers_of_a_run_without(
    detector: tuple[Path, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = dict(data_root=f'{pictures}/', **{'model.test_cfg.rcnn.score_thr': 0.0})
    numbers = []
    for name, details in (('without', None), ('with', DetailOptions(resamplings=100))):
        numbers.append(run_test(*detector, work_dir=str(tmp_path / name), options=data, details=details))
    assert numbers[0] == numbers[1]
    assert not (tmp_path / 'without/evaluation').exists()
    written = [json.loads((tmp_path / name / 'metrics.json').read_text())['metrics'] for name in ('without', 'with')]
    assert written[0] == written[1]
    details = json.loads((tmp_path / 'with/evaluation/details.json').read_text())
    found = json.loads((tmp_path / 'with/evaluation/predictions.json').read_text())
    assert details['detections'] == len(found) > 0 and 'segmentation' in found[0]
    assert 'Masks  3 images' in capsys.readouterr().out


def test_a_segmenter_writes_details_and_the_zip_that_was_asked_for(
    segmenter: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    run_test(*segmenter, work_dir=str(tmp_path), options=dict(data_root=f'{pictures}/'),
             out=str(tmp_path / 'out.zip'), details=DetailOptions(resamplings=100))
    assert (tmp_path / 'evaluation/predictions.zip').read_bytes() == (tmp_path / 'out.zip').read_bytes()
    details = json.loads((tmp_path / 'evaluation/details.json').read_text())
    assert Path(details['labels']['images'][0]['file']).is_file()
    assert (ROOT / details['config']).exists()
