"""Labels without scores of the picture's size are mmseg's, bit for bit."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmseg', reason='mmseg is not installed')

from mmseg.structures import SegDataSample

from backbones.config import load_config
from backbones.evaluation import labels
from backbones.evaluation.labels import best_class, spare_scores

LAYOUTS = {'planes': torch.contiguous_format, 'channels last': torch.channels_last}


def scores(classes: int, size: tuple[int, int], layout: str = 'planes') -> torch.Tensor:
    """Random scores with many equal ones."""
    drawn = torch.randn(1, classes, *size, generator=torch.Generator().manual_seed(classes))
    return (drawn * 4).round().contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize('at_once', [1, 2**30], ids=['in parts', 'whole'])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('classes', [2, 19, 33, 66, 150])
@pytest.mark.parametrize('size', [(23, 31), (64, 47), (97, 90), (12, 130)], ids=str)
def test_labels_are_the_argmax_of_resized_scores(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], classes: int, layout: str, at_once: int
) -> None:
    monkeypatch.setattr(labels, 'AT_ONCE', at_once)
    given = scores(classes, (23, 31), layout)
    for align_corners in (False, True):
        resized = F.interpolate(given, size, mode='bilinear', align_corners=align_corners)
        assert best_class(given, size, align_corners).equal(resized.argmax(dim=1))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('at_once', [1, 2**30], ids=['in parts', 'whole'])
def test_nan_is_above_all_and_the_first_counts(monkeypatch: pytest.MonkeyPatch, at_once: int, layout: str) -> None:
    monkeypatch.setattr(labels, 'AT_ONCE', at_once)
    given = scores(70, (8, 8), layout)
    given[0, [3, 40], 2:4], given[0, 65, 6] = float('nan'), float('nan')
    for size in ((8, 8), (16, 16)):
        assert best_class(given, size).equal(F.interpolate(given, size, mode='bilinear').argmax(dim=1))


@pytest.fixture(scope='module')
def model() -> torch.nn.Module:
    """A small UperNet with random weights."""
    cfg = load_config(ROOT / 'configs/small/upernet_vit_demo.py')
    importlib.import_module('mmseg.models')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    return model


MODES = {'whole': dict(mode='whole'), 'slide': dict(mode='slide', crop_size=(48, 64), stride=(20, 40))}
METAS = {
    'as it is': dict(ori_shape=(64, 96)), 'resized': dict(ori_shape=(81, 122)),
    'flipped': dict(ori_shape=(64, 96), flip=True, flip_direction='horizontal'),
    'padded': dict(ori_shape=(81, 122), padding_size=[0, 5, 0, 3]),
}


@torch.no_grad()
@pytest.mark.parametrize('meta', METAS)
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('channels_last', [False, True])
def test_a_segmenter_labels_as_before_and_keeps_no_scores(
    model: torch.nn.Module, mode: str, meta: str, channels_last: bool
) -> None:
    model = copy.deepcopy(model)
    model.test_cfg = type(model.test_cfg)(MODES[mode])
    if channels_last:
        model.to(memory_format=torch.channels_last)
    image = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def predicted() -> SegDataSample:
        sample = SegDataSample(metainfo=dict(img_shape=(64, 96), pad_shape=(64, 96), **METAS[meta]))
        return model.test_step(dict(inputs=[image], data_samples=[sample]))[0]

    expected = predicted()
    assert spare_scores(model)
    found = predicted()
    assert found.pred_sem_seg.data.equal(expected.pred_sem_seg.data) and found.pred_sem_seg.data.unique().numel() > 2
    assert 'seg_logits' in expected and 'seg_logits' not in found


def test_a_class_with_its_own_way_keeps_it(model: torch.nn.Module) -> None:
    class Own(type(model)):
        def postprocess_result(self, *args: object) -> None:
            """Something else."""

    model = copy.deepcopy(model)
    model.__class__ = Own
    assert not spare_scores(model) and 'postprocess_result' not in vars(model)


def test_a_binary_head_and_no_segmenter_stay_as_they_are(model: torch.nn.Module) -> None:
    binary = copy.deepcopy(model)
    binary.decode_head.out_channels = 1
    assert not spare_scores(binary) and not spare_scores(torch.nn.Identity())
