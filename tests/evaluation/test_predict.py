"""Pictures that cannot be predicted are told of one by one; the others are predicted, within bounded memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

pytest.importorskip('mmdet', reason='mmdet is not installed')

from mmdet.structures import DetDataSample

from backbones.config import load_config
from backbones.detection.mask_paste import as_rles
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


def drawn(sample: DetDataSample, path: Path) -> np.ndarray:
    """The overlay of a sample whose picture is NOISE."""
    init_default_scope('mmdet')
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name=f'{path} {id(sample)}'))
    visualizer.dataset_meta = dict(classes=('a',), palette=[(255, 0, 0)])
    np.random.seed(0)  # mmdet draws a shade for each mask
    outputs.save_overlay(visualizer, sample, path)
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


def test_too_many_large_masks_are_drawn_over_a_smaller_picture(pictures, monkeypatch):
    monkeypatch.setattr(outputs, 'MOST_DRAWN', 30 * 40 // 4)
    monkeypatch.setattr(outputs, 'SMALLEST_DRAWN', 1)
    masks = torch.zeros(1, 30, 40, dtype=torch.bool)
    masks[:, 4:24, 4:20] = True
    sample = sample_of(pictures, as_rles(masks), number=1)
    assert drawn(sample, pictures / 'out.png').shape == (15, 20, 3)
    assert outputs._drawn_at(sample, 2, 1).pred_instances.bboxes.tolist() == [[2, 2, 10, 12]]
    assert outputs._drawn_at(sample, 2, 1).pred_instances.masks[0, 2:12, 2:10].sum() == masks.sum() / 4


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
    assert outputs._zoom(*size) == zoom


def test_the_overlay_of_a_strip_is_drawn_at_a_bounded_size(tmp_path, pictures, model):
    Image.fromarray(NOISE[:2].repeat(15, 1)).save(pictures / 'in/m.png')  # 600 x 2
    assert predicted(pictures)[0] == (3, 0)
    with Image.open(pictures / 'out/overlays/m.png') as drawn:
        assert max(drawn.size) <= outputs.LARGEST_DRAWN
