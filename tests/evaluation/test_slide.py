"""Labels of sliding windows with bounded memory are mmseg's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('mmseg', reason='mmseg is not installed')

from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample

from backbones.benchmark.peaks import memory_peak
from backbones.evaluation import labels
from backbones.evaluation.labels import spare_scores
from backbones.segmentation.sliding import bytes_held, spans


class Toy(EncoderDecoder):
    """A segmenter of one convolution whose scores depend on the place in the window, as those of a network do."""

    def __init__(self, classes: int = 7) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 3, padding=1)
        self.decode_head = nn.Module()
        self.decode_head.out_channels = self.out_channels = classes
        self.align_corners, self.batches = False, []

    def encode_decode(self, inputs: torch.Tensor, batch_img_metas: list[dict]) -> torch.Tensor:
        """Scores of windows (N, C, h, w)."""
        assert tuple(batch_img_metas[0]['img_shape']) == tuple(inputs.shape[2:])
        self.batches.append(len(inputs))
        ramp = torch.linspace(0.5, 1.5, inputs.shape[3])
        return self.conv(inputs) * ramp


def model_of(crop: tuple[int, int], stride: tuple[int, int], align_corners: bool = False) -> Toy:
    model = Toy()
    model.test_cfg = ConfigDict(mode='slide', crop_size=crop, stride=stride)
    model.align_corners = align_corners
    return model


def picture(size: tuple[int, int], seed: int = 0, number: int = 1) -> torch.Tensor:
    """Smooth noise (N, 3, H, W), so that neighbours have like labels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, 3, size[0] // 3 + 2, size[1] // 3 + 2, generator=generator)
    return F.interpolate(noise, size, mode='bilinear')


@torch.no_grad()
def both(model: Toy, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch, **meta: object) -> tuple[list, list]:
    """Label maps of mmseg, and ours with nothing held that can be let go."""
    def run(segmenter: Toy) -> list[torch.Tensor]:
        samples = [SegDataSample(metainfo=dict(meta, img_shape=image.shape[2:])) for _ in image]
        return [sample.pred_sem_seg.data for sample in segmenter.predict(image, samples)]

    expected = run(model)
    ours = copy.deepcopy(model)
    assert spare_scores(ours)
    monkeypatch.setattr(labels, 'AT_ONCE', 0)
    ours.inference = None  # mmseg's way is not gone
    return expected, run(ours)


SIZES = {'one window': (24, 32), 'smaller': (20, 17), 'strides fit': (40, 56), 'they do not': (53, 71),
         'one row': (24, 90), 'one column': (77, 30), 'a pixel more': (25, 33)}


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('stride', [(16, 24), (24, 32), (7, 9)], ids=['a third', 'no overlap', 'many'])
def test_labels_are_those_of_mmseg_bit_for_bit(monkeypatch, size, stride):
    expected, found = both(model_of((24, 32), stride), picture(size), monkeypatch, ori_shape=size)
    assert found[0].equal(expected[0]) and found[0].dtype == expected[0].dtype and len(expected[0].unique()) > 3


def test_pictures_of_a_batch_do_not_mix(monkeypatch):
    expected, found = both(model_of((24, 32), (16, 24)), picture((53, 71), number=3), monkeypatch, ori_shape=(53, 71))
    assert len(found) == 3 and all(map(torch.equal, found, expected)) and not found[0].equal(found[1])


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('wanted', [(106, 142), (77, 200), (31, 40), (1, 1), (53, 300), (9, 71)], ids=str)
def test_resized_labels_differ_where_two_scores_are_equal_within_rounding_only(monkeypatch, wanted, align_corners):
    model = model_of((24, 32), (16, 24), align_corners)
    expected, found = both(model, picture((53, 71)), monkeypatch, ori_shape=wanted)
    assert found[0].shape == expected[0].shape and (found[0] != expected[0]).float().mean() <= 1e-3


def test_padding_is_left_out(monkeypatch):
    meta = dict(ori_shape=(50, 60), padding_size=[4, 7, 0, 3])
    expected, found = both(model_of((24, 32), (16, 24)), picture((53, 71)), monkeypatch, **meta)
    assert found[0].equal(expected[0])
    meta['ori_shape'] = (90, 110)
    expected, found = both(model_of((24, 32), (16, 24)), picture((53, 71)), monkeypatch, **meta)
    assert (found[0] != expected[0]).float().mean() <= 1e-3


def test_small_pictures_go_the_way_whose_scores_are_exact(monkeypatch):
    model = model_of((24, 32), (16, 24))
    spare_scores(model)
    monkeypatch.setattr(labels, 'slide_labels', None)
    sample = SegDataSample(metainfo=dict(ori_shape=(80, 90), img_shape=(53, 71)))
    with torch.no_grad():
        assert model.predict(picture((53, 71)), [sample])[0].pred_sem_seg.shape == (80, 90)


def test_windows_lie_as_those_of_mmseg():
    assert spans(53, 24, 16) == [(0, 24), (16, 40), (29, 53)] and spans(20, 24, 16) == [(0, 20)]


@pytest.mark.parametrize('stride', [(25, 24), (24, 33), (0, 24), (-1, 3)])
def test_windows_with_gaps_are_refused(monkeypatch, stride):
    model = model_of((24, 32), stride)
    spare_scores(model)
    sample = SegDataSample(metainfo=dict(ori_shape=(53, 71), img_shape=(53, 71)))
    with pytest.raises(ValueError, match=r'stride.*crop_size=\(24, 32\).*gaps'):
        model.predict(picture((53, 71)), [sample])


def test_what_is_held_follows_the_overlap_and_not_the_picture():
    whole = 4 * 150 * 4000 * 8000
    held = bytes_held(150, (4000, 8000), (512, 512), (384, 384))
    assert held < whole / 10 and held < bytes_held(150, (4000, 8000), (512, 512), (256, 256)) < 2 * held


def test_the_memory_of_a_picture_stays_a_part_of_its_scores(monkeypatch):
    side, classes = 600, 150
    model = Toy(classes)
    model.test_cfg = ConfigDict(mode='slide', crop_size=(64, 64), stride=(48, 48))
    spare_scores(model)
    monkeypatch.setattr(labels, 'AT_ONCE', 2**26)
    image = torch.zeros(1, 3, side, 2 * side)

    @torch.no_grad()
    def run() -> None:
        model.predict(image, [SegDataSample(metainfo=dict(ori_shape=(side, 2 * side), img_shape=(side, 2 * side)))])

    added = memory_peak(run, torch.device('cpu')).added
    assert added is None or added < 4 * classes * 2 * side * side / 4
