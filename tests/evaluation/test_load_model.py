"""A checkpoint is enough to predict, from Python too; nothing that it says is executed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from saving_helpers import build

pytest.importorskip('mmdet', reason='mmdet is not installed')

import backbones
from backbones.checkpoints import read_weights
from backbones.checkpoints.export import exported_meta
from backbones.checkpoints.stored_config import NoConfig, packed, unpacked
from backbones.config import load_config
from backbones.evaluation.checkpoint_config import find_checkpoint, holds_checkpoint, safe_config
from backbones.evaluation.load_model import LoadedModel, as_rgb
from backbones.evaluation.predict import predict


def with_config(config: Path, checkpoint: Path, folder: Path, change: Callable[[dict], None] | None = None) -> Path:
    """A copy of a checkpoint that holds its config, as those of our runs do, or a changed one."""
    content = torch.load(checkpoint, weights_only=True)
    stored = load_config(config).to_dict()
    if change is not None:
        change(stored)
    content['meta'].update(packed(stored))
    torch.save(content, folder / 'epoch_1.pth')
    return folder / 'epoch_1.pth'


@pytest.fixture(scope='module')
def detecting(detector, tmp_path_factory) -> LoadedModel:
    return backbones.load_model(with_config(*detector, tmp_path_factory.mktemp('det')))


@pytest.fixture(scope='module')
def files(pictures) -> list[Path]:
    return sorted((pictures / 'images/validation').iterdir())


# --- what a checkpoint holds --------------------------------------------------------------------------------


def test_checkpoints_of_a_run_hold_its_config_as_data(tmp_path):
    runner = build(tmp_path / 'run')
    runner.cfg = Config(dict(model=dict(type='Line', scale=(3, 4)), lr=float('inf')))
    runner.train()
    found = [read_weights(tmp_path / 'run/iter_000008')['meta'], exported_meta(tmp_path / 'run/iter_8.pth')]
    for meta in found:
        assert unpacked(meta) == dict(model=dict(type='Line', scale=(3, 4)), lr=float('inf')) and 'cfg' not in meta


def test_a_config_that_is_no_data_is_told_of_when_it_is_wanted():
    meta = packed(dict(model=dict(type='A', act=torch.nn.ReLU)))
    with pytest.raises(NoConfig, match=r'holds no config, as it was no plain data \(model\.act is'):
        unpacked(meta)


def test_the_text_of_mmengine_is_read_without_being_run(detector):
    cfg = load_config(detector[0])
    assert unpacked(dict(cfg=cfg.pretty_text)) == cfg.to_dict()


@pytest.mark.parametrize('text', [
    'model = __import__("os").getcwd()', 'import os', 'model = dict(a=open("x"))', 'model = [x for x in (1,)]',
    'model = dict(**dict)', 'model = f"{1}"', 'model = ' + '(' * 500 + ')' * 500, 'model = 1 +', 'a.b = 1', '\0'])
def test_text_that_is_more_than_literals_is_refused(text):
    with pytest.raises(NoConfig, match='no plain data'):
        unpacked(dict(cfg=text))


EVIL = {
    'a function as type': lambda cfg: cfg['model'].update(neck=dict(type='os.system', command='touch CANARY')),
    'an attribute of a toolbox': lambda cfg: cfg['model'].update(neck=dict(type='mmengine.dump', obj=1, file='CANARY')),
    'a transform': lambda cfg: cfg['test_dataloader']['dataset']['pipeline'].append(
        dict(type='subprocess.getoutput', cmd='touch CANARY')),
    'the name of an NMS': lambda cfg: cfg['model']['test_cfg']['rcnn'].update(
        nms=dict(type='__import__("os").system("touch CANARY")')),
    'code as an argument': lambda cfg: cfg['model']['backbone'].update(mode='__import__("os").system("touch CANARY")'),
    'a config of a teacher': lambda cfg: cfg['model'].update(teacher_config='CANARY.py'),
    'a pickle': lambda cfg: cfg['model']['neck'].update(table='http://127.0.0.1/CANARY.pkl'),
    'a scope': lambda cfg: cfg.update(default_scope='antigravity'),
}


def test_a_checkpoint_whose_config_asks_for_code_is_refused_and_runs_none(detector, tmp_path, run_python):
    for number, change in enumerate(EVIL.values()):
        (tmp_path / str(number)).mkdir()
        with_config(*detector, tmp_path / str(number), change)
    done = run_python(f'''
import sys
import backbones, mmdet.models, mmseg.models, backbones.evaluation.load_model
from mmengine.registry import init_default_scope
heard = []
names = ('os.system', 'subprocess.Popen', 'os.posix_spawn', 'os.exec', 'socket.connect', 'pickle.find_class')
sys.addaudithook(lambda name, found: heard.append(name) if name in names or 'CANARY' in str(found) else None)
for number in range({len(EVIL)}):
    try:
        print(backbones.load_model('{tmp_path}/' + str(number) + '/epoch_1.pth'))
    except ValueError as error:
        print(number, error)
print('heard', heard)
''')
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if 'epoch_1.pth holds a config' in line]
    assert len(lines) == len(EVIL) and 'heard []' in done.stdout, done.stdout
    assert not list(tmp_path.glob('CANARY*'))


def test_first_weights_and_weights_of_classes_are_not_read(detector):
    stored = load_config(detector[0]).to_dict()
    stored['model']['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='http://127.0.0.1/a.pkl')
    stored['model']['roi_head']['mask_head']['loss_mask'] = dict(type='CrossEntropyLoss', class_weight='/tmp/a.pkl')
    assert '.pkl' not in str(safe_config(stored))


@pytest.mark.parametrize('meta, said', [
    (dict(), 'holds no config: it was written by an older version or by another program; give the config'),
    (dict(config_json='[1]'), 'holds a config'), (dict(config_json='{'), 'holds a config that cannot be read'),
    (dict(config_json='{"a": 1}'), 'holds a config without a model'), (dict(cfg=5), 'holds a config'),
    (dict(config_json='{"model": {"decode_head": 1}}'), 'holds a config without a test pipeline')])
def test_a_checkpoint_without_a_config_says_what_to_give(tmp_path, meta, said):
    torch.save(dict(state_dict={}, meta=meta), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=said):
        backbones.load_model(tmp_path / 'a.pth')


def test_it_predicts_with_a_config_beside_it(detector, files):
    assert len(backbones.load_model(*detector).predict(files[0], 0)) == 100


def test_what_is_no_model_ends_in_one_sentence(tmp_path, detector):
    (tmp_path / 'text.pth').write_text('hello')
    for given, said in (
        (tmp_path / 'text.pth', 'checkpoint'), (tmp_path / 'none.pth', 'none.pth'), (tmp_path / 'none.py', 'none.py'),
        (tmp_path, 'holds no checkpoint')):
        with pytest.raises(ValueError, match=said):
            backbones.load_model(given)
    with pytest.raises(ValueError, match='the first of two is a config'):
        backbones.load_model(detector[1], detector[1])
    with pytest.raises(ValueError, match="device='tpu'"):
        backbones.load_model(*detector, device='tpu')
    with pytest.raises(ValueError, match="precision='int8'"):
        backbones.load_model(*detector, precision='int8')


def test_of_a_work_folder_the_best_checkpoint_is_taken_or_the_newest(tmp_path):
    build(tmp_path / 'run').train()
    assert find_checkpoint(tmp_path / 'run').name == 'iter_000008'
    (tmp_path / 'run/best.json').write_text(json.dumps(dict(mAP=dict(score=1.0, checkpoint='iter_000004'))))
    assert find_checkpoint(tmp_path / 'run').name == 'iter_000004'
    shutil.copytree(tmp_path / 'run', tmp_path / 'exported', ignore=shutil.ignore_patterns('iter_0*', 'best*', 'last'))
    for name in ('iter_12.pth', 'epoch_x.pth'):
        (tmp_path / 'exported' / name).write_bytes(b'')
    (tmp_path / 'exported/epoch_x.pth').unlink()
    assert find_checkpoint(tmp_path / 'exported').name == 'iter_12.pth'


def test_where_nothing_is_or_something_else_that_is_said(tmp_path):
    (tmp_path / 'run').mkdir()
    Image.new('RGB', (4, 4)).save(tmp_path / 'photo.jpg')
    (tmp_path / 'notes').write_text('hello')
    for name, said in (('runn', r'^nothing is there at .*runn; .* Did you mean .*run\?$'),
                       ('photo.jpg', 'is a picture'), ('c.py', 'nothing is there'), ('notes', 'is no checkpoint'),
                       ('run', 'holds no checkpoint')):
        with pytest.raises(ValueError, match=said):
            find_checkpoint(tmp_path / name)
        assert not holds_checkpoint(tmp_path / name)


def test_swapped_arguments_of_a_prediction_are_told_of(tmp_path, detector):
    (tmp_path / 'in').mkdir()
    Image.new('RGB', (4, 4)).save(tmp_path / 'in/photo.jpg')
    for first in (tmp_path / 'in', tmp_path / 'in/photo.jpg'):
        with pytest.raises(ValueError, match=r'holds no checkpoint, and .*\.pth, among .* are they swapped\?'):
            predict(None, first, [detector[1]], tmp_path / 'out')


# --- what it predicts ---------------------------------------------------------------------------------------


def test_the_objects_are_those_that_the_tool_writes(detecting, detector, files, tmp_path):
    predict(*detector, files, tmp_path / 'out')
    written = json.loads((tmp_path / 'out/results.json').read_text())
    for number, found in enumerate(detecting.predict(files, score_threshold=0), start=1):
        theirs = [entry for entry in written if entry['image_id'] == number]
        theirs.sort(key=lambda entry: -entry['score'])
        corners = np.array([entry['bbox'] for entry in theirs])
        corners[:, 2:] += corners[:, :2]
        assert len(found) == len(theirs) == 100
        assert np.abs(np.sort(found.boxes, 0) - np.sort(corners, 0)).max() < 2e-3
        assert np.abs(found.scores - [entry['score'] for entry in theirs]).max() < 1e-5
        assert sorted(mask['counts'] for mask in found.masks) == sorted(e['segmentation']['counts'] for e in theirs)
        assert found.names == [detecting.classes[label] for label in found.labels]
        assert found.bitmaps().shape == (100, *found.size) == (100, 64, 96)


def test_labels_are_those_that_the_tool_writes(segmenter, files, tmp_path):
    checkpoint = with_config(*segmenter, tmp_path)
    predict(None, checkpoint, files, tmp_path / 'out')
    model = backbones.load_model(checkpoint)
    for file, found in zip(files, model.predict(files, batch_size=2), strict=True):
        written = np.array(Image.open(tmp_path / f'out/labels/{file.stem}.png'))
        assert np.array_equal(found.labels + 1, written) and set(found.names) == set(np.unique(found.labels))
    assert model.config.model.type == 'EncoderDecoder' and 'train_dataloader' in model.config


def same(one, other) -> bool:
    return np.allclose(one.boxes, other.boxes, atol=1e-3) and np.allclose(one.scores, other.scores, atol=1e-5)


def test_paths_arrays_and_pil_images_give_the_same(detecting, files):
    image = Image.open(files[0])
    found = [detecting.predict(given, 0) for given in (files[0], str(files[0]), image, np.asarray(image))]
    assert all(same(found[0], other) and other.masks == found[0].masks for other in found[1:])


def test_a_batch_of_mixed_sizes_gives_what_one_by_one_gives_in_order(detecting, files):
    images = [np.asarray(Image.open(file)) for file in files]
    images = [images[0], images[1][:40], images[1], images[2][:40], images[2]]
    alone = [detecting.predict(image, 0) for image in images]
    together = detecting.predict(images, 0, batch_size=3)
    assert all(same(*pair) for pair in zip(alone, together, strict=True))
    assert [found.size for found in together] == [(64, 96), (40, 96), (64, 96), (40, 96), (64, 96)]


def test_the_threshold_leaves_out_what_is_below(detecting, files):
    every = detecting.predict(files[0], 0)
    middle = float(every.scores[30])
    few = detecting.predict(files[0], middle)
    assert len(few) == (every.scores >= middle).sum() < 100 and few.masks == every.masks[: len(few)]
    assert len(detecting.predict(files[0], 1.0)) == 0 and detecting.predict([], 0.5) == []


def test_several_threads_get_what_one_gets(detecting, files):
    alone, found = detecting.predict(files, 0), {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: detecting.predict(files[n], 0)})) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[number], alone[number]) for number in range(3))


GREY = np.arange(64 * 96, dtype=np.uint8).reshape(64, 96)


def test_grey_is_three_equal_channels_and_alpha_is_ignored():
    assert np.array_equal(as_rgb(GREY), np.stack([GREY] * 3, 2))
    assert np.array_equal(as_rgb(GREY[..., None]), as_rgb(GREY))
    assert np.array_equal(as_rgb(np.stack([GREY] * 3 + [255 - GREY], 2)), as_rgb(GREY))
    assert np.array_equal(as_rgb(Image.fromarray(GREY)), as_rgb(GREY))


@pytest.mark.parametrize('image, said', [
    (GREY / 255, 'float64, and pictures are uint8'), (GREY.astype(np.uint16), 'uint16'), (GREY > 3, 'bool'),
    (np.stack([GREY] * 3), r'\(3, 64, 96\).*transpose'), (GREY[None, ..., None].repeat(3, 3), r'list\(image\)'),
    (GREY[:0], '96x0 pixels'), (torch.zeros(3, 4, 4), 'torch.Tensor; give a path'), (None, 'NoneType'),
    (Image.fromarray(GREY.astype(np.int32)), "mode 'I'"), (GREY[0], r'\(96,\)')])
def test_other_arrays_are_refused_with_what_to_give(detecting, image, said):
    with pytest.raises(ValueError, match=f'image number 1 .*{said}'):
        detecting.predict([GREY, image])


@pytest.mark.parametrize('options', [dict(score_threshold=2), dict(score_threshold='a'), dict(batch_size=0)])
def test_arguments_out_of_range_are_refused(detecting, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        detecting.predict(GREY, **options)


def test_a_picture_of_one_pixel_is_predicted_and_a_line_is_refused(detecting, tmp_path):
    assert detecting.predict(np.zeros((1, 1, 3), np.uint8), 0).size == (1, 1)
    for side in ((1, 20000, 3), (20000, 1, 3)):
        with pytest.raises(ValueError, match='number 1 of the list cannot be processed by the pipeline'):
            detecting.predict([GREY, np.zeros(side, np.uint8)])
    (tmp_path / 'a.jpg').write_bytes(b'<html>')
    for given, said in ((tmp_path / 'a.jpg', 'not a picture'), (tmp_path, 'is no file'), ('no.jpg', 'does not exist')):
        with pytest.raises(ValueError, match=said):
            detecting.predict(given)
