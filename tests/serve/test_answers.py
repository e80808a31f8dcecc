"""What is answered: the same as from Python, for every kind of picture, with what the page needs to draw it."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from serve.toys import Running, ToyDetector, ToySegmenter, as_file, form, serving

import backbones
from backbones.config import load_config
from backbones.drawing.styles import class_colours

ORIENTATION = 0x112


def pixels_of(view: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(view['picture']))))


def turned(image: np.ndarray, kind: str, note: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = note
    return as_file(image, kind, exif=exif, **(dict(quality=100, subsampling=0) if kind == 'JPEG' else {}))


def test_a_detector_answers_with_boxes_scores_labels_names_and_masks(detecting: Running, png: bytes):
    found = detecting.post(png, '?score=0').json
    assert found['task'] == 'instance segmentation' and found['size'] == dict(width=90, height=60)
    assert found['labels'] == [0, 1, 2] and found['scores'] == [0.9, 0.6, 0.1] and found['score'] == 0
    assert found['names'] == found['classes'] == list(detecting.service.model.classes)
    assert found['boxes'][2] == [0, 58, 90, 60] and 'view' not in found
    for box, mask in zip(found['boxes'], found['masks'], strict=True):
        bitmap = coco_mask.decode(dict(mask, counts=mask['counts'].encode()))
        rows, columns = np.nonzero(bitmap)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] and bitmap.shape == (60, 90)


def test_scores_are_low_by_default_so_that_a_page_can_filter(detecting: Running, png: bytes):
    assert detecting.post(png).json['scores'] == [0.9, 0.6, 0.1]
    assert detecting.post(png, '?score=0.5').json['scores'] == [0.9, 0.6]


def test_a_form_and_the_bare_file_are_answered_alike(detecting: Running, png: bytes):
    answers = [detecting.post(png), detecting.ask('POST', '/predict', **form(png)),
               detecting.post(png, kind='application/octet-stream'), detecting.post(png, kind='image/whatever')]
    assert len({str({**answer.json, 'seconds': 0}) for answer in answers}) == 1


def test_a_segmenter_answers_with_a_label_map_counts_and_colours(segmenting: Running, png: bytes):
    found = segmenting.post(png).json
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found['labels_png']))))
    assert labels.dtype == np.uint8 and (labels[:, :45] == 0).all() and (labels[:, 45:] == 2).all()
    assert found['pixels'] == [2700, 0, 2700] and found['classes'] == ['left', 'never', 'right']
    assert found['colours'] == [list(colour) for colour in class_colours(3)]


def test_more_classes_than_a_byte_holds_are_kept_apart(png: bytes):
    with serving(ToySegmenter(classes=tuple(f'class {number}' for number in range(300)))) as running:
        found = running.post(png, '?view=1').json
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found['labels_png']))))
    assert labels.max() == 299 and found['pixels'][299] == 2700
    drawn = np.frombuffer(zlib.decompress(base64.b64decode(found['view']['labels'])), '<u2')
    assert np.array_equal(drawn.reshape(60, 90), labels) and len(set(map(tuple, found['colours']))) == 300


def test_colours_do_not_change_with_the_number_of_classes():
    assert class_colours(0) == [] and class_colours(3) == class_colours(80)[:3]
    assert class_colours(20) == class_colours(150)[:20]


def test_a_model_without_masks_says_so(png: bytes):
    with serving(ToyDetector(masks=False)) as running:
        assert running.post(png).json['masks'] is None
        assert running.ask('GET', '/model').json['task'] == 'object detection'


def test_the_model_is_told_without_where_it_lies(detecting: Running):
    answer = detecting.ask('GET', '/model')
    assert answer.json['checkpoint'] == 'epoch_000012' and b'secret' not in answer.body
    assert answer.json['limits'] == dict(
        bytes=1_000_000, pixels=89_478_485, formats=['JPEG', 'PNG', 'BMP', 'WEBP'], waiting=8, score=0.05)


def test_boxes_that_are_no_numbers_are_an_error_and_no_json_of_nan(png: bytes):
    model = ToyDetector()
    with serving(model) as running:
        right = model.predict

        def wrong(image: np.ndarray, score_threshold: float):
            found = right(image, score_threshold)
            found.boxes[0, 0] = np.nan
            return found

        model.predict = wrong
        answer = running.post(png)
    assert answer.status == 422 and 'no finite numbers' in answer.error


# --- kinds of pictures --------------------------------------------------------------------------------------


def kinds_of_files(picture: np.ndarray) -> dict[str, bytes]:
    image = Image.fromarray(picture)
    deep = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    return {
        'png': as_file(image), 'bmp': as_file(image, 'BMP'), 'webp': as_file(image, 'WEBP', lossless=True),
        'alpha': as_file(image.convert('RGBA')), 'palette': as_file(image.quantize(256)), '16 bits': as_file(deep),
        'grey': as_file(image.convert('L')), 'one bit': as_file(image.convert('1')),
        'cmyk': as_file(image.convert('CMYK'), 'JPEG', quality=100), 'jpeg': as_file(image, 'JPEG', quality=100),
        'progressive': as_file(image, 'JPEG', progressive=True, quality=100)}


@pytest.mark.parametrize('kind', ['png', 'bmp', 'webp', 'alpha', 'palette', '16 bits', 'grey', 'one bit', 'cmyk',
                                  'jpeg', 'progressive'])
def test_every_kind_of_picture_is_predicted_as_8_bit_rgb(detecting: Running, picture: np.ndarray, kind: str):
    answer = detecting.post(kinds_of_files(picture)[kind], '?view=1')
    seen = detecting.service.model.seen[-1]
    assert answer.status == 200 and seen.shape == (60, 90, 3) and seen.dtype == np.uint8
    expected = picture[..., :1].repeat(3, 2) if kind == '16 bits' else picture
    if kind not in ('grey', 'one bit'):
        assert np.abs(seen.astype(int) - expected).mean() < (8 if kind in ('palette', 'cmyk') else 3)
    assert np.array_equal(pixels_of(answer.json['view']), seen)  # the page shows what the model saw


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('note', [1, 3, 6, 8])
def test_a_turned_picture_is_drawn_as_the_model_saw_it(detecting: Running, picture: np.ndarray, kind: str, note: int):
    found = detecting.post(turned(picture, kind, note), '?view=1').json
    seen = detecting.service.model.seen[-1]
    view = found['view']
    assert (view['height'], view['width']) == seen.shape[:2] == (found['size']['height'], found['size']['width'])
    assert np.array_equal(pixels_of(view), seen)
    if kind == 'JPEG' and note in (6, 8):
        assert seen.shape == (90, 60, 3)


def test_a_large_picture_is_drawn_smaller_and_its_labels_are_those_of_its_pixels(segmenting: Running):
    found = segmenting.post(as_file(np.zeros((1000, 4097, 3), np.uint8)), '?view=1').json
    view = found['view']
    assert (view['width'], view['height'], view['type']) == (2048, 500, 'image/jpeg')
    assert found['size'] == dict(width=4097, height=1000) and sum(found['pixels']) == 4_097_000
    labels = np.frombuffer(zlib.decompress(base64.b64decode(view['labels'])), '<u2').reshape(500, 2048)
    assert (labels[:, :1024] == 0).all() and (labels[:, 1025:] == 2).all()


# --- a real model -------------------------------------------------------------------------------------------


def test_a_real_detector_answers_what_it_answers_from_python(tmp_path, picture: np.ndarray, png: bytes):
    import importlib

    from conftest import ROOT
    from mmengine.registry import MODELS, init_default_scope

    config = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
    cfg = load_config(config)
    importlib.import_module('mmdet.models')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.roi_head.bbox_head.fc_cls.weight.data *= 30
    classes = ('disc', 'ring', 'box', 'triangle', 'star', 'cross')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), tmp_path / 'a.pth')
    loaded = backbones.load_model(config, tmp_path / 'a.pth', device='cpu')
    with serving(loaded) as running:
        answer = running.post(png, '?score=0')
        strip = running.post(as_file(np.zeros((1, 20_000, 3), np.uint8)))
        about = running.ask('GET', '/model').json
    found, expected = answer.json, loaded.predict(picture, 0)
    assert len(found['scores']) == len(expected) > 0 and found['masks'] == expected.masks
    assert np.abs(np.array(found['boxes']) - expected.boxes).max() < 0.006
    assert about['classes'] == list(classes) and about['checkpoint'] == 'a.pth'
    assert strip.status == 422 and 'the picture that was sent cannot be processed' in strip.error
