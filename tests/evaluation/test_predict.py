"""Pictures that cannot be predicted are told of one by one; the others are predicted, within bounded memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks

from backbones.config import load_config
from backbones.detection.mask_paste import as_rles
from backbones.drawing.sheets import GAP, LARGEST_DRAWN, drawn_size
from backbones.evaluation import outputs, predict

CONFIG = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


class OneBox:
    """Finds one object in every picture; notes the sizes it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def test_step(self, batch: dict) -> list:
        """Predict the upper left quarter."""
        (sample,) = batch['data_samples']
        height, width = sample.ori_shape
        self.seen.append((height, width))
        masks = torch.zeros(1, height, width, dtype=torch.bool)
        masks[:, : height // 2, : width // 2] = True
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([[0.0, 0, width / 2, height / 2]]), scores=torch.tensor([0.9]),
            labels=torch.tensor([0]), masks=masks)
        return [sample]


@pytest.fixture
def model(monkeypatch) -> OneBox:
    model = OneBox()

    def build(cfg: Config, checkpoint: str) -> tuple[OneBox, tuple[str, ...]]:
        init_default_scope(cfg.default_scope)
        return model, tuple('abcdef')

    monkeypatch.setattr(predict, 'build_model', build)
    return model


def predicted(folder: Path, **options: object) -> tuple[tuple[int, int], list[dict]]:
    """Predict the pictures in `folder`; return the counts and what images.json lists."""
    counts = predict.predict(CONFIG, 'none.pth', [folder / 'in'], folder / 'out', options=options)
    return counts, json.loads((folder / 'out/images.json').read_text())['images']


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder whose first and last picture are sound."""
    (tmp_path / 'in').mkdir()
    for name in 'az':
        Image.fromarray(NOISE).save(tmp_path / f'in/{name}.png')
    return tmp_path


@pytest.mark.parametrize('size', [(5000, 1), (1, 5000), (2000, 3)])
def test_a_thin_picture_is_told_of_and_the_others_are_predicted(pictures, model, capsys, size):
    Image.new('RGB', size).save(pictures / 'in/m.png')
    counts, listed = predicted(pictures)
    assert counts == (2, 1) and [Path(image['file_name']).name for image in listed] == ['a.png', 'z.png']
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'not predicted' in line]
    assert 'm.png cannot be processed by the pipeline' in line


def test_a_pipe_among_the_pictures_is_told_of(pictures, model, monkeypatch, capsys):
    from backbones.data import images

    read = images.fileio.get
    monkeypatch.setattr(
        images.fileio, 'get', lambda path, **options: pytest.fail('opened') if 'm.png' in str(path) else read(path))
    os.mkfifo(pictures / 'in/m.png')
    assert predicted(pictures)[0] == (2, 1)
    assert 'm.png is no regular file' in capsys.readouterr().err


def test_a_picture_whose_bitmaps_would_fill_the_memory_is_told_of_and_not_predicted(
    pictures, model, monkeypatch, capsys
):
    monkeypatch.setattr(predict, 'LARGEST_MASKS', 100 * 40 * 30)
    Image.fromarray(NOISE.repeat(2, 0)).save(pictures / 'in/m.png')
    as_bitmaps = {'model.test_cfg.rcnn.mask_format': 'bitmap'}
    assert predicted(pictures, **as_bitmaps)[0] == (2, 1) and model.seen == [(30, 40)] * 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'not predicted' in line]
    assert 'm.png is 40x60 pixels, for which up to 100 objects take' in line and 'max_per_img' in line


def test_run_lengths_have_no_such_bound(pictures, model, monkeypatch):
    monkeypatch.setattr(predict, 'LARGEST_MASKS', 1)
    assert predicted(pictures)[0] == (2, 0)


def drawn(sample: DetDataSample, path: Path, **options: object) -> np.ndarray:
    """The overlay of a sample whose picture is NOISE."""
    outputs.save_overlay(sample, path, ('a',), [(255, 0, 0)], **options)
    return np.array(Image.open(path))


def sample_of(pictures: Path, masks: object, number: int = 2) -> DetDataSample:
    """Objects scored 0.9 and 0.1, ... in a picture of 30 x 40."""
    sample = DetDataSample(metainfo=dict(img_path=str(pictures / 'in/a.png'), ori_shape=(30, 40)))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 4, 20, 24]]).repeat(number, 1), labels=torch.zeros(number, dtype=torch.long),
        scores=torch.tensor([0.9, 0.1])[:number], masks=masks)
    return sample


def test_run_lengths_are_drawn_as_bitmaps_are(pictures):
    masks = torch.zeros(2, 30, 40, dtype=torch.bool)
    masks[:, 5:20, 6:18] = True
    images = [drawn(sample_of(pictures, form), pictures / 'out.png') for form in (masks, as_rles(masks))]
    assert np.array_equal(*images) and not np.array_equal(images[0], NOISE.repeat(13, 0).repeat(13, 1))


@pytest.mark.parametrize('masks', [[], torch.zeros(0, 30, 40, dtype=torch.bool)], ids=['run lengths', 'bitmaps'])
def test_a_picture_without_objects_is_drawn(pictures, masks):
    assert drawn(sample_of(pictures, masks, number=0), pictures / 'out.png').shape == (30 * 13, 40 * 13, 3)


def test_many_large_masks_are_drawn_one_at_a_time(pictures):
    side, number = 1500, 40  # 90 MB of bitmaps
    Image.new('RGB', (side, side)).save(pictures / 'in/a.png')
    full = coco_mask.encode(np.ones((side, side), np.uint8, order='F'))
    sample = sample_of(pictures, [], number=0)
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, side, side]]).repeat(number, 1), labels=torch.zeros(number, dtype=torch.long),
        scores=torch.full((number,), 0.9), masks=[full] * number)
    tracemalloc.start()
    image = drawn(sample, pictures / 'out.png')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.shape == (side, side, 3) and peak < 12 * 3 * side * side  # some pictures of 7 MB


def test_objects_at_or_below_the_score_are_not_drawn(pictures):
    masks = torch.ones(2, 30, 40, dtype=torch.bool)
    shown = [drawn(sample_of(pictures, masks), pictures / 'out.png', score_threshold=score)
             for score in (0.05, 0.5, 0.9)]
    plain = drawn(sample_of(pictures, [], number=0), pictures / 'out.png')
    assert not np.array_equal(shown[0], shown[1]) and np.array_equal(shown[2], plain)


def test_the_same_prediction_is_the_same_file(pictures):
    masks = torch.ones(2, 30, 40, dtype=torch.bool)
    files = []
    for seed in (0, 1):
        np.random.seed(seed)
        drawn(sample_of(pictures, masks), pictures / 'out.png')
        files.append((pictures / 'out.png').read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize('annotated', [True, False])
def test_ground_truth_is_beside_the_prediction_at_the_same_scale(pictures, annotated):
    sample = sample_of(pictures, [], number=0)
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes([[10.0, 10, 30, 20]]), labels=torch.tensor([0])) if annotated else InstanceData()
    sheet = drawn(sample, pictures / 'out.png', draw_gt=True)
    zoom, above = 13, 20
    assert sheet.shape == (30 * zoom + above, (2 * 40 * zoom + GAP) if annotated else 40 * zoom, 3)
    if annotated:
        left, right = sheet[above:, :40 * zoom], sheet[above:, 40 * zoom + GAP:]
        assert tuple(left[20 * zoom, 20 * zoom]) == (255, 0, 0) and tuple(left[15 * zoom, 10 * zoom]) == (255, 0, 0)
        changed = (left != right).any(axis=2)
        assert not changed[21 * zoom:].any() and changed[:21 * zoom].any()


@pytest.mark.parametrize('masks', ['bitmaps', 'polygons'])
def test_masks_of_the_ground_truth_are_drawn_in_any_form(pictures, masks):
    bitmap = np.zeros((1, 30, 40), np.uint8)
    bitmap[0, 10:20, 10:30] = 1
    polygon = np.array([10.0, 10, 30, 10, 30, 20, 10, 20])
    sample = sample_of(pictures, [], number=0)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 30, 20]]), labels=torch.tensor([0]),
        masks=BitmapMasks(bitmap, 30, 40) if masks == 'bitmaps' else PolygonMasks([[polygon]], 30, 40))
    sheet = drawn(sample, pictures / 'out.png', draw_gt=True)[20:]
    left, right = sheet[:, :520].astype(float), sheet[:, 520 + GAP:].astype(float)
    inside = np.s_[14 * 13:16 * 13, 14 * 13:26 * 13]
    assert np.abs(left[inside] - (0.55 * right[inside] + 0.45 * np.array([255, 0, 0]))).max() <= 1


def test_true_masks_of_the_size_after_resize_are_told_of(pictures):
    sample = sample_of(pictures, [], number=0)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[1.0, 1, 3, 2]]), labels=torch.tensor([0]),
        masks=BitmapMasks(np.ones((1, 60, 80)), 60, 80))
    with pytest.raises(ValueError, match=r'true masks have \(60, 80\).*after Resize in the test pipeline'):
        drawn(sample, pictures / 'out.png', draw_gt=True)


def test_a_sample_without_a_prediction_is_told_of(pictures):
    with pytest.raises(ValueError, match='neither pred_instances nor pred_sem_seg'):
        drawn(DetDataSample(metainfo=dict(img_path=str(pictures / 'in/a.png'))), pictures / 'out.png')


@pytest.mark.parametrize('config, largest', [
    ('mask-rcnn_convnext_demo.py', 42), ('upernet_vit_demo.py', 16 * 1024 / 4 / 6)])
def test_the_largest_picture_that_is_predicted_fills_the_memory_that_is_allowed(config, largest):
    cfg, million = load_config(ROOT / 'configs/small' / config), 1 << 20
    side = int((largest * million) ** 0.5)
    predict.check_output_size(cfg, (side - 500, side - 500), 6, Path('a.png'))
    with pytest.raises(ValueError, match=r'a\.png is .* GiB; at most (4|16) are allowed'):
        predict.check_output_size(cfg, (side + 500, side + 500), 6, Path('a.png'))


def test_a_detector_without_masks_has_no_such_bound():
    cfg = load_config(CONFIG)
    cfg.model.roi_head.mask_head = None
    predict.check_output_size(cfg, (9400, 9400), 6, Path('a.png'))


@pytest.mark.parametrize('size, zoom', [
    ((2, 600), 3), ((600, 2), 3), ((1, 1), 384), ((1, 5000), 1), ((100, 100), 4), ((384, 9000), 1), ((383, 500), 2)])
def test_a_small_picture_is_enlarged_within_2048_pixels(size, zoom):
    assert drawn_size(*size) == (zoom * size[1], zoom * size[0])


def test_the_overlay_of_a_strip_is_drawn_at_a_bounded_size(tmp_path, pictures, model):
    Image.fromarray(NOISE[:2].repeat(15, 1)).save(pictures / 'in/m.png')  # 600 x 2
    assert predicted(pictures)[0] == (3, 0)
    with Image.open(pictures / 'out/overlays/m.png') as drawn:
        assert max(drawn.size) <= LARGEST_DRAWN
