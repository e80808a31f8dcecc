"""What a prediction takes (patterns, folders, videos), and how it goes on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from predict_helpers import Killed, OneBox

pytest.importorskip('mmdet', reason='mmdet is not installed')

from backbones.evaluation import predict
from backbones.evaluation.batches import Batches
from backbones.evaluation.inputs import find_images

CONFIG = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'


@pytest.fixture
def model(monkeypatch) -> OneBox:
    model = OneBox()
    monkeypatch.setattr(predict, 'build_model', model.build)
    return model


def painted(value: int, height: int = 30) -> np.ndarray:
    return np.full((height, 40, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six pictures of two sizes, each of its own grey."""
    (tmp_path / 'in').mkdir()
    for number in range(6):
        Image.fromarray(painted(20 * number + 20, 30 + number % 2)).save(tmp_path / f'in/{number}.png')
    return tmp_path


def video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (40, 32))
    for number in range(frames):
        writer.write(painted(20 * number + 20, 32))
    writer.release()
    return path


def run(folder: Path, out: str = 'out', images: list | None = None, **options: object) -> tuple[int, int]:
    return predict.predict(CONFIG, 'none.pth', images or [folder / 'in'], folder / out, **options)


def content(folder: Path) -> dict[str, bytes]:
    """All files but the record, in the order of the work."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*')) if path.is_file() and path.name != 'progress.jsonl'
    }


def results(folder: Path) -> tuple[bytes, bytes]:
    return tuple((folder / name).read_bytes() for name in ('results.json', 'images.json'))


# --- inputs -------------------------------------------------------------------------------------------------


def test_patterns_and_folders_are_followed_and_a_file_counts_once(folder):
    video(folder / 'in/clip.avi', 1)
    (folder / 'in/notes.txt').write_text('no picture')
    names = ['0', '1', '2', '3', '4', '5', 'clip']
    assert list(find_images([folder / 'in'])) == list(find_images([f'{folder}/**/*'])) == names
    several = [f'{folder}/in/[13].png', folder / 'in/1.png', f'{folder}/i?']
    assert list(find_images(several)) == ['1', '3', *'0245', 'clip']
    with pytest.raises(ValueError, match=r"no file matches .*\*\.jpg'; put the pattern in quotes"):
        find_images([f'{folder}/*.jpg'])


def test_a_file_whose_name_looks_like_a_pattern_is_taken(folder):
    Image.fromarray(painted(9)).save(folder / 'in/a[1].png')
    assert list(find_images([folder / 'in/a[1].png'])) == ['a[1]']


def test_every_second_frame_of_a_video_is_predicted_under_its_number(folder, model):
    video(folder / 'clip.avi', 5)
    assert run(folder, images=[folder / 'in/0.png', folder / 'clip.avi'], every=2) == (4, 0)
    listed = json.loads((folder / 'out/images.json').read_text())['images']
    assert [image['file_name'] for image in listed[1:]] == [f'{folder}/clip.avi#{number}' for number in (0, 2, 4)]
    overlays = sorted(path.name for path in (folder / 'out/overlays/clip').iterdir())
    assert overlays == ['000000.png', '000002.png', '000004.png']
    scores = [entry['score'] * 255 for entry in json.loads((folder / 'out/results.json').read_text())]
    assert np.abs(np.array(scores) - [20, 20, 60, 100]).max() < 4  # the frames are those of these numbers


def test_a_video_that_cannot_be_decoded_is_told_of_and_the_rest_is_predicted(folder, model, capfd):
    for name, data in (('a.mp4', b'nonsense' * 50), ('b.avi', b'')):
        (folder / 'in' / name).write_bytes(data)
    assert run(folder) == (6, 2)
    told = [line for line in capfd.readouterr().err.splitlines() if 'not predicted: the video' in line]
    assert len(told) == 2 and all('cannot be decoded' in line and 'ffmpeg' in line for line in told)


def test_one_corrupt_picture_of_many_is_told_of(folder, model, capsys):
    (folder / 'in/3.png').write_bytes((folder / 'in/3.png').read_bytes()[:60])
    assert run(folder, batch=4) == (5, 1)
    assert '3.png' in capsys.readouterr().err and len(json.loads((folder / 'out/results.json').read_text())) == 5


# --- batches ------------------------------------------------------------------------------------------------


def test_pictures_of_one_size_go_together_and_the_results_are_the_same(folder, model):
    run(folder, 'alone')
    assert model.batches == [1] * 6
    model.batches.clear()
    run(folder, 'together', batch=2)
    assert model.batches == [2, 2, 1, 1] and content(folder / 'alone') == content(folder / 'together')


def test_few_items_wait_however_many_kinds_there_are():
    batches = Batches(2)
    given = [batches.add(kind, kind) for kind in range(20)]
    assert [group for groups in given for group in groups] == [[kind] for kind in range(13)]
    assert batches.rest() == [[kind] for kind in range(13, 20)] and batches.rest() == []


@pytest.mark.parametrize('option', ['every', 'batch'])
def test_numbers_below_one_are_refused(folder, option):
    with pytest.raises(ValueError, match=f'--{option} 0: give a number from 1'):
        run(folder, **{option: 0})


# --- going on -----------------------------------------------------------------------------------------------


def killed(folder: Path, model: OneBox, at: int, **options: object) -> None:
    """Predict until a picture at which nothing more is written, as after SIGKILL."""
    model.killed_at = at
    with pytest.raises(Killed):
        run(folder, **options)
    model.killed_at = None


@pytest.mark.parametrize('batch', [1, 2])
def test_a_killed_prediction_goes_on_and_ends_as_an_uninterrupted_one(folder, model, batch):
    video(folder / 'in/clip.avi', 4)
    run(folder, 'whole')
    killed(folder, model, 5, batch=batch)
    there = {path: path.stat().st_mtime_ns for path in (folder / 'out/overlays').rglob('*.png')}
    with (folder / 'out/progress.jsonl').open('ab') as record:
        record.write(b'{"title": "half a li')
    model.batches.clear()
    assert run(folder, batch=batch, resume=True) == (10, 0)
    assert content(folder / 'out') == content(folder / 'whole')
    assert 0 < sum(model.batches) == 10 - len(there) and all(p.stat().st_mtime_ns == t for p, t in there.items())


def test_a_prediction_that_gets_sigkill_again_and_again_ends_as_an_uninterrupted_one(folder, model):
    done = subprocess.run(
        [sys.executable, ROOT / 'tests/predict_helpers.py', CONFIG, folder], capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}, timeout=120)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) > 3, done.stderr
    run(folder, 'whole')
    assert content(folder / 'out') == content(folder / 'whole')


def test_going_on_after_the_end_predicts_what_is_new_or_changed_only(folder, model):
    run(folder)
    before = results(folder / 'out')
    model.batches.clear()
    assert run(folder, resume=True) == (6, 0) and model.batches == [] and results(folder / 'out') == before
    Image.fromarray(painted(250)).save(folder / 'in/10.png')  # sorts between the others
    Image.fromarray(painted(240, 32)).save(folder / 'in/4.png')
    (folder / 'out/overlays/5.png').unlink()
    assert run(folder, resume=True) == (7, 0) and model.batches == [1, 1, 1]
    images = json.loads(results(folder / 'out')[1])['images']
    assert sorted(image['id'] for image in images) == list(range(1, 8))
    found = {entry['image_id']: round(entry['score'] * 255) for entry in json.loads(results(folder / 'out')[0])}
    assert [found[image['id']] for image in images if image['file_name'].endswith(('/4.png', '/10.png'))] == [240, 250]


def test_a_picture_that_failed_is_tried_again(folder, model):
    (folder / 'in/3.png').write_bytes(b'')
    assert run(folder) == (5, 1)
    Image.fromarray(painted(80, 31)).save(folder / 'in/3.png')
    assert run(folder, resume=True) == (6, 0)
    run(folder, 'whole')
    assert content(folder / 'out') == content(folder / 'whole')


def test_nothing_is_overwritten_unless_it_is_the_same_prediction(folder, model):
    run(folder)
    before = content(folder / 'out')
    with pytest.raises(ValueError, match='is not an empty folder; choose a new one, or add --resume'):
        run(folder)
    with pytest.raises(ValueError, match='begun with another score; go on with the same'):
        run(folder, resume=True, score_threshold=0.5)
    with pytest.raises(ValueError, match='begun with another model'):
        run(folder, resume=True, options={'model.test_cfg.rcnn.score_thr': 0.5})
    with pytest.raises(ValueError, match=r'holds no predictions to go on with \(progress\.jsonl\)'):
        run(folder, 'in', images=[folder / 'in/0.png'], resume=True)
    assert content(folder / 'out') == before


def test_a_pictures_name_that_is_taken_by_another_one_is_made_unique_when_going_on(folder, model):
    run(folder)
    (folder / 'more').mkdir()
    Image.fromarray(painted(250)).save(folder / 'more/0.png')
    before = (folder / 'out/overlays/0.png').read_bytes()
    run(folder, images=[folder / 'more', folder / 'in'], resume=True)
    assert (folder / 'out/overlays/0.png').read_bytes() == before and (folder / 'out/overlays/0-2.png').is_file()
