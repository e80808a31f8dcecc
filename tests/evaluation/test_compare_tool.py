"""tools/compare.py: what is beyond noise, from files and from folders; what cannot be compared, in a sentence."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from conftest import ROOT
from details_helpers import SEGMENTER, detect, segment
from rich.console import Console

from backbones.data.demo import generate_demo
from backbones.evaluation.compare_files import CompareOptions, compare_predictions
from backbones.evaluation.tables import print_comparison

QUICK = dict(resamplings=200)


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen validation pictures."""
    root = tmp_path_factory.mktemp('compare') / 'demo'
    return generate_demo(root, num_train=2, num_val=16, size=(64, 96), progress=False)


@pytest.fixture(scope='module')
def runs(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Work folders of a good and a bad detector and segmenter."""
    folder = tmp_path_factory.mktemp('runs')
    detect(demo, folder / 'good', 0.05)
    detect(demo, folder / 'bad', 0.3)
    segment(demo, folder / 'fine', 0.1)
    segment(demo, folder / 'poor', 0.3)
    return {name: folder / name for name in ('good', 'bad', 'fine', 'poor')}


def compare(first: Path, second: Path, **options) -> dict:
    return compare_predictions(str(first), str(second), CompareOptions(**QUICK, **options))


def test_two_folders_of_detectors_are_compared_without_a_word_about_their_data(runs: dict[str, Path]) -> None:
    found = compare(runs['good'], runs['bad'] / 'evaluation')
    assert list(found['kinds']) == ['boxes', 'masks'] and not found['remarks']
    details = [json.loads((runs[name] / 'evaluation/details.json').read_text()) for name in ('good', 'bad')]
    for kind, part in found['kinds'].items():
        ap = part['overall'][0]
        assert (ap['name'], part['images']) == ('AP', 16)
        expected = [one[kind]['metrics']['averages']['ap'] for one in details]
        assert [ap['first'], ap['second']] == pytest.approx(expected, abs=1e-12)
        assert ap['difference'] == pytest.approx(expected[1] - expected[0], abs=1e-12)
    boxes = found['kinds']['boxes']['overall'][0]
    assert boxes['low'] < boxes['difference'] < boxes['high'] < 0 and boxes['beyond'] is True


def test_two_folders_of_segmenters_are_compared_by_class(runs: dict[str, Path]) -> None:
    part = compare(runs['poor'], runs['fine'])['kinds']['labels']
    details = [json.loads((runs[name] / 'evaluation/details.json').read_text()) for name in ('poor', 'fine')]
    assert part['overall'][0]['name'] == 'mIoU' and part['overall'][0]['beyond'] is True
    for place, name in enumerate(('first', 'second')):
        expected = [one['IoU'] for one in details[place]['labels']['scores']['per_class']]
        assert [row[name] for row in part['classes']] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('name', ['good', 'fine'])
def test_a_prediction_set_does_not_differ_from_itself(runs: dict[str, Path], name: str) -> None:
    for part in compare(runs[name], runs[name])['kinds'].values():
        rows = [*part['overall'], *part['classes']]
        assert {row['difference'] for row in rows} <= {0.0, None} and not any(row['beyond'] for row in rows)


def test_files_of_detections_are_compared_as_their_folders_are(runs: dict[str, Path], demo: Path) -> None:
    files = [runs[name] / 'evaluation/predictions.json' for name in ('good', 'bad')]
    ann = str(demo / 'annotations/instances_val.json')
    by_file, by_folder = compare(*files, ann=ann), compare(runs['good'], runs['bad'])
    assert by_file['kinds'] == by_folder['kinds'] == compare(runs['good'], files[1])['kinds']


def test_zips_are_compared_by_a_config_or_a_folder_of_label_maps(runs: dict[str, Path], demo: Path) -> None:
    files = [runs[name] / 'evaluation/predictions.zip' for name in ('fine', 'poor')]
    config = dict(config=str(ROOT / 'configs' / SEGMENTER), config_options=dict(data_root=f'{demo}/'))
    by_folder = compare(*files, labels=str(demo / 'annotations/validation'), first_class=1)['kinds']
    assert compare(*files, **config)['kinds'] == by_folder == compare(runs['fine'], runs['poor'])['kinds']


def test_one_threshold_holds_for_both_where_it_is_given(runs: dict[str, Path]) -> None:
    assert compare(runs['good'], runs['bad'], score=0.5)['kinds']['boxes']['scores'] == [0.5, 0.5]


def test_a_difference_of_protocol_is_told(runs: dict[str, Path], tmp_path: Path) -> None:
    other = edited(runs['bad'], tmp_path, lambda details: details['protocol'].update(tta=True))
    assert compare(runs['good'], other)['remarks'] == [
        'the two were evaluated in different ways: tta False and True']


def test_far_fewer_images_with_detections_are_told(runs: dict[str, Path], tmp_path: Path, demo: Path) -> None:
    file = runs['good'] / 'evaluation/predictions.json'
    some = [one for one in json.loads(file.read_text()) if one['image_id'] % 4 == 0]
    (tmp_path / 'some.json').write_text(json.dumps(some))
    (remark,) = compare(file, tmp_path / 'some.json', ann=str(demo / 'annotations/instances_val.json'))['remarks']
    assert 'some.json has detections in 3 images and the other in 14' in remark


def test_tables_fit_80_columns_and_name_the_better_one(runs: dict[str, Path]) -> None:
    for first, second, words in (('good', 'bad', 'AP: A is better'), ('poor', 'fine', 'mIoU: B is better')):
        console = Console(width=80, record=True, file=io.StringIO())
        print_comparison(compare(runs[first], runs[second]), console)
        text = console.export_text()
        assert words in text and 'beyond noise' in text
        assert max(len(line) for line in text.splitlines() if not line.startswith(('A  ', 'B  '))) <= 80


def edited(run: Path, folder: Path, change) -> Path:
    """A copy of the evaluation of a run with other details."""
    copy = folder / 'evaluation'
    shutil.copytree(run / 'evaluation', copy)
    details = json.loads((copy / 'details.json').read_text())
    change(details)
    (copy / 'details.json').write_text(json.dumps(details))
    return copy


CHANGES = {
    'other annotations': (lambda one: one['data'].update(annotation_sha256='0'), 'are of different data sets'),
    'other classes': (lambda one: one['classes'].append('tree'), "first in None and 'tree'"),
    'another version': (lambda one: one.update(format=0), 'of another version of this project'),
    'not a file': (lambda one: one['files'].update(masks='x.json'), r'x\.json is not there'),
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_cannot_be_compared_is_refused_in_a_sentence(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    with pytest.raises(ValueError, match=message):
        compare(runs['good'], edited(runs['bad'], tmp_path, change))


def test_boxes_are_not_compared_with_masks(runs: dict[str, Path], tmp_path: Path) -> None:
    one = edited(runs['good'], tmp_path / 'boxes', lambda details: details.update(kinds=['boxes']))
    other = edited(runs['bad'], tmp_path / 'masks', lambda details: details.update(kinds=['masks']))
    with pytest.raises(ValueError, match='compare boxes with boxes, or masks with masks'):
        compare(one, other)


def test_an_empty_prediction_set_is_refused(runs: dict[str, Path], tmp_path: Path, demo: Path) -> None:
    (tmp_path / 'empty.json').write_text('[]\n')
    with pytest.raises(ValueError, match=r'empty\.json holds no detection at all'):
        compare(runs['good'], tmp_path / 'empty.json')
    zipfile.ZipFile(tmp_path / 'empty.zip', 'w').close()
    with pytest.raises(ValueError, match=r'empty\.zip holds no label map'):
        compare(runs['fine'], tmp_path / 'empty.zip')


def test_an_evaluation_that_was_ended_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs['bad'], tmp_path / 'bad')
    (tmp_path / 'bad/evaluation/details.json').unlink()
    for place in ('bad', 'bad/evaluation'):
        with pytest.raises(ValueError, match=r'has no details\.json: that evaluation was ended'):
            compare(runs['good'], tmp_path / place)
    (tmp_path / 'bad/evaluation/details.json').write_text('{"form')
    with pytest.raises(ValueError, match=r'details\.json is damaged'):
        compare(runs['good'], tmp_path / 'bad')


def test_the_truth_must_be_told_and_fit(runs: dict[str, Path], demo: Path) -> None:
    boxes, labels = runs['good'] / 'evaluation/predictions.json', runs['fine'] / 'evaluation/predictions.zip'
    with pytest.raises(ValueError, match='--ann is needed'):
        compare(boxes, boxes)
    with pytest.raises(ValueError, match='--config CONFIG is needed'):
        compare(labels, labels)
    with pytest.raises(ValueError, match='--labels needs --first-class'):
        compare(labels, labels, labels=str(demo / 'annotations/validation'))
    with pytest.raises(ValueError, match=r'--config is for label maps, and these are detections'):
        compare(boxes, boxes, config='x.py')
    with pytest.raises(ValueError, match=r'instances_train\.json is not the annotation file that'):
        compare(runs['good'], boxes, ann=str(demo / 'annotations/instances_train.json'))
    with pytest.raises(ValueError, match='are of no picture of the data set'):
        compare(labels, labels, labels=str(demo / 'annotations/training'), first_class=1)
    with pytest.raises(ValueError, match=r'is of a detection model and .* of a segmentation model'):
        compare(boxes, labels)


@pytest.mark.parametrize('make', [
    lambda folder: (folder / '20260102_030405/vis_data').mkdir(parents=True),
    lambda folder: (folder / 'picture.jpg').write_bytes(b'none'),
    lambda folder: Image.new('RGB', (4, 4)).save(folder / 'picture.png'),
])
def test_a_folder_without_an_evaluation_is_told_as_such(runs: dict[str, Path], tmp_path: Path, make) -> None:
    make(tmp_path)
    for pair in ((runs['good'], tmp_path), (tmp_path, runs['fine'])):
        with pytest.raises(ValueError, match=r'has no evaluation/; run `python tools/test\.py CONFIG CHECKPOINT'):
            compare(*pair)


def run_command(*arguments: object) -> int:
    """tools/compare.py in this process; the exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr('sys.argv', ['compare.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/compare.py'), run_name='__main__')
    return end.value.code


def test_the_command_prints_tables_and_writes_json(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / 'x.json'
    assert not run_command(runs['good'], runs['bad'], '--resamplings', 100, '--json', file)
    assert capsys.readouterr().out.startswith('A  ')
    assert json.loads(file.read_text())['kinds']['boxes']['overall'][0]['beyond'] is True


def test_the_command_ends_in_a_sentence_on_a_mistake(runs: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    assert run_command(runs['good'], runs['bad'], '--resamplings', 1) == 2
    assert capsys.readouterr().err == 'error: --resamplings 1: give 100 to 10000; 1000 are usual\n'
