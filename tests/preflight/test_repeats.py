"""The whole quick part says every fact once, goes on where it can, and ends in findings whatever the config does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from preflight_runs import demo_data
from recipe_configs import DETECTOR, SEGMENTER

from backbones.data import coco_files
from backbones.data_check import annotations
from backbones.findings import Finding
from backbones.preflight.report import Report
from backbones.preflight.run import Settings, preflight

VAL_IS_TRAIN = {
    'val_dataloader.dataset.ann_file': 'annotations/instances_train.json',
    'val_dataloader.dataset.data_prefix.img': 'images/training/',
    'val_evaluator.ann_file': f'{demo_data()}/annotations/instances_train.json'}


def looked(path: Path, root: Any = None, **options: Any) -> Report:
    options = {'data_root': str(root or demo_data()), **options}
    return preflight(path, Settings(options=options, quick=True, workers=1))[0]


def serious(report: Report) -> list[Finding]:
    """Without the warm-up, which is long for eight pictures."""
    return [one for one in report.findings if one.severity != 'note' and one.kind != 'long warm-up']


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_data(), tmp_path / 'data'))


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_recipe_for_gpus_is_checked_without_one_but_for_its_precision() -> None:
    changes = {'optim_wrapper.type': 'backbones.GuardedAmpOptimWrapper', 'model.neck.out_channels': 32}
    report = looked(DETECTOR, **changes)
    assert [one.kind for one in serious(report)] == ['precision of this machine', 'channels']
    assert 'in fp32' in serious(report)[0].message
    assert [outcome.name for outcome in report.outcomes].count('precision') == 1


def test_weights_that_are_missing_do_not_end_the_other_checks() -> None:
    report = looked(DETECTOR, load_from='/nowhere/weights.pth')
    assert [one.kind for one in serious(report)] == ['weights missing']


@pytest.mark.parametrize('file', ['images/validation/000002.jpg', 'annotations/instances_val.json'])
def test_a_missing_file_is_one_error(root: Path, file: str) -> None:
    (root / file).unlink()
    assert len(serious(looked(DETECTOR, root))) == 1


@pytest.mark.parametrize('file', ['annotations/training/000003.png', 'classes.txt'])
def test_a_missing_file_of_a_segmenter_is_one_error(root: Path, file: str) -> None:
    (root / file).unlink()
    assert len(serious(looked(SEGMENTER, root))) == 1


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTER])
def test_a_data_root_that_is_not_there_is_one_error(config: str, tmp_path: Path) -> None:
    report = looked(config, tmp_path / 'nowhere')
    found, = serious(report)
    assert found.message.replace("/'", "'") == (
        f"data_root='{tmp_path}/nowhere' does not exist; train and val are read from it")
    assert [outcome.name for outcome in report.outcomes] == ['config', 'data folder', 'model and data sets']


def test_a_file_as_data_root_is_one_error(tmp_path: Path) -> None:
    (tmp_path / 'data.zip').touch()
    found, = serious(looked(SEGMENTER, tmp_path / 'data.zip'))
    assert found.message.startswith(f"data_root='{tmp_path}/data.zip' is no folder; ")


def test_a_split_of_its_own_whose_folder_is_not_there_leaves_the_others_to_be_looked_at(tmp_path: Path) -> None:
    report = looked(DETECTOR, **{'val_dataloader.dataset.data_root': str(tmp_path / 'gone')})
    assert [one.kind for one in serious(report)] == ['folder missing']
    assert 'annotations train' in [outcome.name for outcome in report.outcomes]


def test_maps_of_255_alone_are_no_reason_for_another_reading_of_zero(root: Path) -> None:
    for file in root.glob('annotations/*/*.png'):
        Image.new('L', Image.open(file).size, 255).save(file)
    assert {one.kind for one in serious(looked(SEGMENTER, root))} == {'value out of range'}


def test_names_that_differ_between_splits_are_said_by_the_file_alone(root: Path) -> None:
    file = root / 'annotations/instances_val.json'
    content = json.loads(file.read_text())
    content['categories'][0]['name'] += 'x'
    file.write_text(json.dumps(content))
    assert [one.kind for one in serious(looked(DETECTOR, root))] == ['class misspelt']


def test_a_class_count_is_told_once_for_all_splits() -> None:
    report = looked(DETECTOR, **{'model.roi_head.mask_head.num_classes': 80})
    assert [one.field for one in serious(report)] == ['model.roi_head.mask_head.num_classes']


def test_scores_on_the_training_data_are_noted_for_a_few_pictures_and_found_for_many(monkeypatch) -> None:
    from backbones.preflight import data

    kinds = [(one.severity, one.kind) for one in looked(DETECTOR, **VAL_IS_TRAIN).findings]
    assert ('note', 'scored on the training data') in kinds
    monkeypatch.setattr(data, 'BY_HEART', 4)
    assert [one.kind for one in serious(looked(DETECTOR, **VAL_IS_TRAIN))] == ['scored on the training data']


@pytest.mark.parametrize(('text', 'part'), [
    ('import sys\nsys.exit(3)\n', 'ends the process'), ('model = dict(\n', 'never closed'), ('', 'train_dataloader'),
    ('1 / 0\n', 'division'), (b'\xff\xfe\x00model', '')])
def test_a_config_that_cannot_be_read_is_one_error(tmp_path: Path, monkeypatch, text: str | bytes, part: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'mine.py'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    report, _ = preflight(file, Settings(quick=True))
    assert [outcome.name for outcome in report.outcomes] == ['config'] and report.exit_code() == 2
    assert part in report.findings[0].message and len(report.findings) == 1
    assert os.listdir(tmp_path) == ['mine.py']


def test_every_annotation_file_is_parsed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, parse = [], coco_files.parse_json

    def counted(text: str, file: str, *args: Any, **more: Any) -> Any:
        files.append(Path(file).name)
        return parse(text, file, *args, **more)

    for module in (coco_files, annotations):
        monkeypatch.setattr(module, 'parse_json', counted)
    assert serious(looked(DETECTOR, root)) == []
    assert files.count('instances_train.json') == 1
