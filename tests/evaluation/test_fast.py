"""Tests and predictions with a precision of their own, and compiled."""

from __future__ import annotations

import functools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.registry import init_default_scope
from PIL import Image

pytest.importorskip('mmdet', reason='mmdet is not installed')
pytest.importorskip('mmseg', reason='mmseg is not installed')

from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from torch import nn

from backbones.config import load_config
from backbones.evaluation import fast
from backbones.evaluation.fast import choose_precision, make_fast
from backbones.evaluation.predict import predict
from backbones.evaluation.run import run_test
from backbones.inference import compile_for_inference, is_prepared
from backbones.precision.compute import unwrapped

CONFIG = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that a run makes fast; compiling looks at the graphs only."""
    models = []

    def make(model: nn.Module, *options: object) -> None:
        make_fast(model, *options)
        models.append(unwrapped(model))

    torch._dynamo.reset()
    monkeypatch.setattr('backbones.evaluation.run.make_fast', make)
    monkeypatch.setattr(fast, 'check_compiler', lambda device: None)
    monkeypatch.setattr(fast, 'compile_for_inference', functools.partial(compile_for_inference, backend='eager'))
    return models


def detections(run: tuple[Path, Path], pictures: Path, folder: Path, **options: object) -> tuple[np.ndarray, dict]:
    """Scores of each picture (3, 100), falling, and the report of a test run."""
    settings = {'data_root': f'{pictures}/', 'model.test_cfg.rcnn.score_thr': 0.0}
    run_test(*run, str(folder), out=f'{folder}.json', options=settings, **options)
    results = json.loads(Path(f'{folder}.json').read_text())
    scores = [sorted((r['score'] for r in results if r['image_id'] == i), reverse=True)
              for i in sorted({r['image_id'] for r in results})]
    return np.array(scores), json.loads((folder / 'metrics.json').read_text())


def label_maps(run: tuple[Path, Path], pictures: Path, folder: Path, slide: bool = False, **options: object
               ) -> tuple[np.ndarray, dict]:
    """Label maps (3, 64, 96) and the report of a test run."""
    settings = {'data_root': f'{pictures}/', **({'model.test_cfg': SLIDE} if slide else {})}
    run_test(*run, str(folder), out=f'{folder}.zip', options=settings, **options)
    with zipfile.ZipFile(f'{folder}.zip') as archive:
        maps = [np.array(Image.open(archive.open(name))) for name in sorted(archive.namelist())]
    return np.stack(maps), json.loads((folder / 'metrics.json').read_text())


@pytest.mark.parametrize('options, tolerance', [
    (dict(precision='fp32'), 1e-4), (dict(precision='bf16'), 0.01), (dict(precision='bf16', compiled=True), 0.01)],
    ids=str)
def test_a_detector_finds_what_the_plain_one_finds(detector, pictures, tmp_path, made, options, tolerance) -> None:
    expected, report = detections(detector, pictures, tmp_path / 'plain')
    assert report['protocol']['precision'] == 'fp32' and not is_prepared(made.pop())
    found, report = detections(detector, pictures, tmp_path / 'fast', **options)
    assert is_prepared(made[0]) and report['protocol']['precision'] == options.get('precision', 'fp32')
    assert found.shape == expected.shape == (3, 100) and np.ptp(expected) > 0.7
    assert np.abs(found - expected).mean() < tolerance


@pytest.mark.parametrize('options', [dict(tta=True), dict(slide=True, compiled=True)], ids=str)
def test_a_segmenter_in_bf16_labels_nearly_every_pixel_as_in_fp32(segmenter, pictures, tmp_path, made, options) -> None:
    plain = {key: value for key, value in options.items() if key != 'compiled'}
    expected, _ = label_maps(segmenter, pictures, tmp_path / 'plain', **plain)
    found, report = label_maps(segmenter, pictures, tmp_path / 'fast', **options, precision='bf16')
    assert is_prepared(made[1]) and report['protocol']['precision'] == 'bf16'
    assert (found != expected).mean() < 0.05


def test_the_precision_of_the_config_counts(detector, pictures, tmp_path, made) -> None:
    report = detections(detector, pictures, tmp_path / 'run', tta=True)[1]
    assert report['protocol']['precision'] == 'fp32' and not is_prepared(made[0])
    settings = {'data_root': f'{pictures}/', 'precision': 'bf16'}
    run_test(*detector, str(tmp_path / 'bf16'), tta=True, options=settings)
    assert is_prepared(made[1])


@pytest.mark.parametrize('precision', [None, 'bf16'])
def test_predict_takes_a_precision(detector, pictures, tmp_path, precision) -> None:
    out = tmp_path / 'out'
    settings = {'model.test_cfg.rcnn.score_thr': 0.0}
    counts = predict(*detector, [pictures / 'images/validation'], out, options=settings, precision=precision)
    assert counts == (3, 0) and len(json.loads((out / 'results.json').read_text())) == 300


# ---- models and machines that are not ours


def test_a_model_with_another_backbone_computes_in_bf16_and_keeps_its_parameters() -> None:
    cfg = load_config(CONFIG)
    init_default_scope('mmdet')
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    model = MODELS.build(cfg.model).eval()
    with pytest.raises(ValueError, match=r'^--compile: the backbone ResNet is none of.*leave --compile out'):
        make_fast(model, 'bf16', compiled=True)
    make_fast(model, 'bf16')
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64), [DetDataSample(metainfo=meta)], mode='predict')  # as a run does
        assert model.backbone(torch.zeros(1, 3, 64, 64))[0].dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_precision_replaces_the_hook_that_would_do_it_again() -> None:
    cfg = load_config(CONFIG)
    assert choose_precision(cfg, None, False) is None and 'precision' in cfg.default_hooks
    cfg.custom_hooks = [dict(type='backbones.PrecisionHook', channels_last=False)]
    assert choose_precision(cfg, 'bf16', False) == cfg.precision == 'bf16'
    assert 'precision' not in cfg.default_hooks and cfg.custom_hooks == []


@pytest.mark.parametrize('tool', ['test', 'predict'])
@pytest.mark.parametrize('precision, sentence', [
    ('half', "precision='half' is unknown; choose one of fp32, bf16, fp16"),
    ('fp16', "precision='fp16': this CPU has no fp16 arithmetic; choose bf16 or fp32, or use a GPU")])
def test_what_cannot_be_is_refused_before_the_checkpoint_is_looked_for(
    tmp_path, monkeypatch, tool, precision, sentence
) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('backbones.precision.compute.torch.ops.mkldnn._is_mkldnn_fp16_supported', lambda: False)
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError) as error:
        if tool == 'test':
            run_test(CONFIG, 'no.pth', str(tmp_path / 'run'), precision=precision)
        else:
            predict(CONFIG, 'no.pth', [tmp_path / 'a.png'], tmp_path / 'out', precision=precision)
    assert str(error.value) == sentence


def test_a_machine_that_cannot_compile_is_told_what_it_needs(monkeypatch) -> None:
    def fails(function: object) -> object:
        raise RuntimeError('no C++ compiler\nwas found')

    monkeypatch.setattr(torch, 'compile', fails)
    with pytest.raises(ValueError, match=r'^--compile: torch.compile does not work here \(RuntimeError: no C\+\+ compi'
                                         r'ler was found\); it needs .*leave --compile out$'):
        choose_precision(load_config(CONFIG), None, True)


class Parts(nn.Module):
    """A convolution that computes in one graph or in two."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.breaks, self.conv = breaks, nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W) to (N, 4, H, W)."""
        if self.breaks:
            torch._dynamo.graph_break()
        return self.conv(x)


@torch.no_grad()
@pytest.mark.parametrize('breaks, said', [(False, 'is compiled for 2 sizes'), (True, 'cannot be compiled')])
def test_what_torch_compile_would_raise_for_runs_as_it_is_and_is_said_once(monkeypatch, breaks, said) -> None:
    from backbones.inference import compiled

    lines = []
    torch._dynamo.reset()
    monkeypatch.setattr(fast, 'print_log', lambda text, **_: lines.append(text))
    monkeypatch.setattr(fast, 'MAX_SHAPES', 2)
    monkeypatch.setattr(compiled, 'MAX_SHAPES', 2)
    part = Parts(breaks)
    run = fast._Compiled('neck', compiled._compiled(part.forward, torch.device('cpu'), 'eager'))
    for height in (4, 5, 6, 4, 7):
        x = torch.randn(1, 3, height, 4)
        assert run(x).equal(part(x))
    assert len(lines) == 1 and lines[0].startswith(f'--compile: neck {said}')


def test_what_a_segmenter_may_be_given_is_bounded_by_what_its_network_sees(
    segmenter, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / 'in').mkdir()
    Image.new('RGB', (960, 640)).save(tmp_path / 'in/large.png')
    seen = load_config(segmenter[0]).test_dataloader.dataset.pipeline[1].scale
    for number, allowed in enumerate((seen[0] * seen[1], 1)):
        monkeypatch.setattr('backbones.evaluation.predict.LARGEST_LOGITS', allowed * 4 * 10)
        assert predict(*segmenter, [tmp_path / 'in'], tmp_path / f'out {number}') == (1 - number, number)
    assert 'large.png is' in capsys.readouterr().err
