"""A whole comparison of toy models: every row is there, with equal numbers on both sides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from stock.toy import shrink

from backbones.benchmark import compare, models, peaks, peers, variants, work
from backbones.benchmark.compare import Settings, benchmark
from backbones.benchmark.report import HEAD, format_report
from backbones.benchmark.skipping import Skipped
from backbones.files import check_writable, write_json

STAGES = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
CONVNEXT = dict(type='backbones.ConvNeXt', arch=STAGES, layer_scale_init_value=1.0, drop_path_rate=0.5)
ADAMW = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.9, weight_decay_rule='convnext'))
QUICK = dict(variants=('fp32',), size=(64, 64), repeats=1, peak_seconds=0.001)


def toy_config(folder: Path, fragment: str, **backbone: object) -> Path:
    """A config of a narrow model without data."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/models' / f'{fragment}.py')
    if fragment == 'upernet':
        cfg.default_scope = 'mmseg'
        cfg.model.data_preprocessor.size, cfg.model.test_cfg = (64, 64), dict(mode='whole')
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.update(channels=8, num_classes=3)
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = [8, 16, 24, 32], 24
    else:
        cfg.default_scope = 'mmdet'
        shrink(cfg.model)
        cfg.model.neck.in_channels = [8, 16, 24, 32]
    cfg.model.backbone = {**CONVNEXT, **backbone}
    cfg.optim_wrapper = ADAMW
    path = folder / f'{fragment}.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module', autouse=True)
def small_matrices() -> Iterator[None]:
    """The peak of the machine is nobody's concern here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(peaks.SIDES, 'cpu', (64,))
        yield


@pytest.fixture(scope='module', params=['mask_rcnn', 'upernet'])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = toy_config(tmp_path_factory.mktemp('config'), request.param)
    return benchmark(path, None, Settings(against=('stock', 'timm'), **QUICK))


def test_every_kind_of_work_is_compared_with_every_peer_that_is_there(report: dict) -> None:
    there = [name for name in ('stock', 'timm') if not any(line.startswith(f'{name}:') for line in report['skipped'])]
    assert [(row['what'], row['against']) for row in report['rows']] == [
        (what, name) for what in compare.WHAT for name in there]
    assert 'stock' in there


def test_both_sides_compute_the_same(report: dict) -> None:
    for row in report['rows']:
        assert row['max_rel'] < 1e-4, row['what']


def test_shares_of_the_peak_follow_from_flops_and_median(report: dict) -> None:
    for row in report['rows']:
        rate = row['flops'] / row['ours_ms'] * 1000
        assert row['flops_per_second'] == pytest.approx(rate)
        assert row['share_of_peak'] == pytest.approx(rate / row['matrix_peak'])
        assert row['matrix_peak'] <= report['matrix_peak']['float32']


def test_the_report_is_a_table_with_a_line_for_every_row_and_plain_json(report: dict, tmp_path: Path) -> None:
    lines = format_report(report).split('\n')
    head = next(i for i, line in enumerate(lines) if line.startswith('what'))
    assert lines[head].split()[-2:] == ['peer', '+MB']
    assert len({len(line) for line in lines[head : head + 1 + len(report['rows'])]}) == 1, HEAD
    write_json(tmp_path / 'report.json', report)
    assert len(json.loads((tmp_path / 'report.json').read_text())['rows']) == len(report['rows'])


def test_a_detector_with_random_weights_finds_objects_on_either_side(tmp_path: Path) -> None:
    report = benchmark(toy_config(tmp_path, 'mask_rcnn'), None, Settings(
        what=['inference'], against=['stock'], **QUICK))
    found = report['rows'][0]['detail'].split()
    assert int(found[0]) == int(found[2]) > 0


def test_the_machine_is_told_without_the_name_of_the_host(report: dict) -> None:
    import platform

    assert report['machine']['threads'] == torch.get_num_threads()
    assert platform.node() not in json.dumps(report['machine'])


# --- skipping and refusing ---


def test_a_peer_that_cannot_take_part_costs_one_line_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(ours: torch.nn.Module) -> torch.nn.Module:
        raise Skipped('not today')

    monkeypatch.setitem(peers.PEERS, 'timm', peers.Peer('timm', '', refuses))
    report = benchmark(toy_config(tmp_path, 'mask_rcnn'), None, Settings(
        what=['backbone', 'train'], against=['timm', 'stock'], **QUICK))
    assert report['skipped'] == ['timm: not today']
    assert [row['against'] for row in report['rows']] == ['stock', 'stock']
    assert 'skipped: timm: not today' in format_report(report)


def test_a_peer_that_breaks_while_it_runs_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.PEERS, 'timm', peers.Peer('timm', '', lambda ours: torch.nn.Linear(2, 2)))
    report = benchmark(toy_config(tmp_path, 'mask_rcnn'), None, Settings(what=['backbone'], against=['timm'], **QUICK))
    assert report['skipped'][0].startswith('timm: it does not run on this input (RuntimeError')
    assert 'nothing was compared' in format_report(report)


@pytest.mark.parametrize(('setting', 'message'), [
    (dict(what=['speed']), '--what speed: choose among backbone, inference, train'),
    (dict(against=['keras']), '--against keras: there is no such peer; choose among'),
    (dict(variants=['fp8']), '--variants fp8: there is no such variant; choose among plain, fp32'),
    (dict(repeats=0), '--repeats 0 must be at least 1'),
    (dict(batch=-1), '--batch -1 must be at least 1'),
    (dict(threads=0), '--threads 0 must be at least 1'),
    (dict(seconds=0.0), '--seconds 0.0 must be more than 0'),
    (dict(checkpoint='nothing.pth'), '--checkpoint nothing.pth is no file'),
])
def test_a_wrong_setting_is_refused_before_anything_is_built(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark('no config is read', None, Settings(**setting))


def test_images_that_the_model_does_not_take_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='give images of at least 32 x 32 pixels'):
        benchmark(toy_config(tmp_path, 'mask_rcnn'), None, Settings(
            what=['backbone'], against=['stock'], repeats=1, size=(16, 16)))


def test_a_checkpoint_of_the_whole_model_is_used_as_it_is(tmp_path: Path) -> None:
    path = toy_config(tmp_path, 'mask_rcnn')
    cfg = models.read(path)
    with models.quiet():
        model = models.build(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'trained.pth')
    comparison = compare._Comparison(cfg, Settings(checkpoint=str(tmp_path / 'trained.pth')))
    loaded = comparison.reference.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = toy_config(tmp_path, 'mask_rcnn')
    torch.save(dict(state_dict=dict(weight=torch.zeros(2))), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth does not fit the model of'):
        benchmark(path, None, Settings(checkpoint=str(tmp_path / 'other.pth')))


def test_a_config_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'empty.py').write_text('a = 1\n')
    with pytest.raises(ValueError, match='has no model with a backbone'):
        models.read(tmp_path / 'empty.py')


def test_a_file_for_the_report_in_no_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='does not exist; make it first'):
        check_writable(str(tmp_path / 'nowhere' / 'report.json'))
    check_writable(str(tmp_path / 'report.json'))
    assert not list(tmp_path.iterdir())


# --- models and variants ---


def test_a_variant_is_prepared_from_a_copy_and_compared_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, 'VARIANTS', dict(variants.VARIANTS))

    @variants.register('off by one', dtype=torch.bfloat16)
    def off(model: torch.nn.Module, what: str) -> torch.nn.Module:
        with torch.no_grad():
            model.norm0.bias.add_(1.0)
        return model

    report = benchmark(toy_config(tmp_path, 'mask_rcnn'), None, Settings(
        what=['backbone'], against=['stock'], **dict(QUICK, variants=['off by one', 'plain'])))
    first, second = report['rows']
    assert (first['ours'], first['dtype']) == ('off by one', 'bfloat16')
    assert first['max_abs'] == pytest.approx(1.0, abs=1e-4)
    assert second['max_abs'] < 1e-5
    assert set(report['matrix_peak']) == {'float32', 'bfloat16'}


def test_two_variants_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a variant 'fp32' already"):
        variants.register('fp32')


def test_no_checkpoint_is_looked_for(tmp_path: Path) -> None:
    path = toy_config(tmp_path, 'mask_rcnn', init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))
    assert 'init_cfg' not in models.read(path).model.backbone


def test_the_optimiser_is_that_of_the_config_in_fp32(tmp_path: Path) -> None:
    cfg = models.read(toy_config(tmp_path, 'mask_rcnn'))
    with models.quiet():
        wrapper = models.own_optimiser(cfg, models.build(cfg), {})
    assert type(wrapper).__name__ == 'GuardedOptimWrapper'
    assert max(group['lr'] for group in wrapper.optimizer.param_groups) == models.RATE


def test_layer_scales_that_start_near_zero_are_stirred_and_weights_are_not() -> None:
    layer = torch.nn.Linear(4, 4)
    layer.gamma = torch.nn.Parameter(torch.full((4,), 1e-6))
    before = layer.weight.clone()
    models.stir(layer)
    assert layer.gamma.abs().max() > 1e-2
    assert torch.equal(layer.weight, before)


def test_the_flops_of_a_sliding_window_are_those_of_its_crops(tmp_path: Path) -> None:
    path = toy_config(tmp_path, 'upernet')
    cfg = models.read(path)
    models.build(cfg)  # sets the scope
    whole = work.model_flops(cfg, (64, 64), 1, {}, training=False)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(40, 40))
    assert work.model_flops(cfg, (64, 144), 2, {}, training=False) == 2 * 3 * whole


def test_a_training_step_counts_three_forward_passes_and_the_rois_that_were_drawn(tmp_path: Path) -> None:
    cfg = models.read(toy_config(tmp_path, 'mask_rcnn'))
    models.build(cfg)
    forward = work.model_flops(cfg, (64, 64), 1, dict(box=24.0, mask=3.0), training=False)
    assert work.model_flops(cfg, (64, 64), 1, dict(box=24.0, mask=3.0), training=True) == 3 * forward
    assert work.model_flops(cfg, (64, 64), 1, dict(box=24.0, mask=4.0), training=False) > forward
