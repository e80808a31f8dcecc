"""What a config costs: image sizes off the pipelines, the tables, the ways to fit, and the tool as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config
from torch import nn

from backbones import budget as module
from backbones.budget import budget, format_budget, parse_bytes, parse_size, table, training_images
from backbones.files import check_writable
from backbones.image_sizes import ImageSizes, image_sizes

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
DETECTOR = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
SEGMENTER = ROOT / 'configs/small/upernet_vit_demo.py'
GIB = 2**30


# --- sizes as text --------------------------------------------------------------------------------


@pytest.mark.parametrize(('text', 'count'), [
    ('24G', 24 * GIB), ('24GiB', 24 * GIB), ('24gib', 24 * GIB), ('24 GB', 24 * 10**9), ('24000M', 24 * 10**9),
    ('24000MiB', 24000 * 2**20), ('0.5G', GIB // 2), ('2000000', 2000000)])
def test_sizes_of_memory_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize('text', ['', 'G', '24X', '-1G', '0G', '1,5G', 'a lot'])
def test_what_is_no_size_of_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='is no size of memory; write it like 24G, 24GiB or 24000M'):
        parse_bytes(text)


@pytest.mark.parametrize('text', ['24', '24.0', '24B', '24K'])
def test_a_memory_without_its_unit_is_refused_with_what_is_meant(text: str) -> None:
    with pytest.raises(ValueError, match=r"is a memory of less than 1 MiB; is 24(\.0)?G meant\?"):
        parse_bytes(text)


def test_sizes_of_images_are_read_and_others_refused() -> None:
    assert parse_size('800x1280') == parse_size('800 X 1280') == (800, 1280)
    for text in ('800', '0x5', '800x', 'axb'):
        with pytest.raises(ValueError, match='is no size of an image; write height x width'):
            parse_size(text)


# --- sizes off the pipelines ----------------------------------------------------------------------


@pytest.mark.parametrize(('path', 'sizes'), [
    # a standing crop beside a lying image makes the batch a square
    ('convnext/mask-rcnn_convnext-t-in1k_3x_coco', ImageSizes((800, 1344), (1344, 1344), (800, 1344))),
    ('vit/mask-rcnn_vitdet-b-mae_100e_coco', ImageSizes((1024, 1024), (1024, 1024), (1024, 1024))),
    ('convnext/upernet_convnext-b-in22k_160k_ade20k-640', ImageSizes((640, 640), (640, 640), (640, 2560))),
    ('vit/upernet_vit-b-in21k_160k_ade20k-512', ImageSizes((512, 512), (512, 512), (512, 2048)))])
def test_the_sizes_of_the_recipes_are_read_off_their_pipelines(path: str, sizes: ImageSizes) -> None:
    assert image_sizes(Config.fromfile(ROOT / f'configs/{path}.py')) == sizes


def config(*transforms: dict, sampler: str | None = None, **preprocessor: object) -> Config:
    """A config of nothing but pipelines."""
    loader = dict(dataset=dict(pipeline=list(transforms)), batch_sampler=dict(type=sampler) if sampler else None)
    return Config(dict(model=dict(data_preprocessor=preprocessor), train_dataloader=loader, test_dataloader=loader))


RESIZE = dict(type='Resize', scale=(1333, 800), keep_ratio=True)


def test_a_batch_grouped_by_shape_is_no_square() -> None:
    assert image_sizes(config(RESIZE)).batch == (1333, 1333)
    assert image_sizes(config(RESIZE, sampler='AspectRatioBatchSampler')).batch == (800, 1333)


def test_without_keep_ratio_a_scale_is_width_and_height() -> None:
    assert image_sizes(config(dict(type='Resize', scale=(1333, 800)))).train == (800, 1333)
    assert image_sizes(config(dict(type='mmdet.Resize', scale=(800, 1333)))).train == (1333, 800)


def test_a_crop_takes_no_more_than_there_is() -> None:
    crop = dict(type='RandomCrop', crop_size=(900, 900))
    assert image_sizes(config(dict(type='Resize', scale=(640, 480)), crop)).train == (480, 640)


def test_jittering_counts_with_its_largest_factor() -> None:
    jitter = dict(type='RandomResize', scale=(400, 300), ratio_range=(0.1, 2.0), keep_ratio=True)
    assert image_sizes(config(jitter, pad_size_divisor=32)).train == (608, 800)


def test_of_several_branches_the_largest_counts() -> None:
    choice = dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=(64, 64))], [RESIZE]])
    assert image_sizes(config(choice)).train == (800, 1333)


def test_a_pipeline_that_leaves_sizes_open_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r'neither resizes nor crops to a stated size.*say which by --size 800x1280'):
        image_sizes(config(dict(type='LoadImageFromFile')))


def test_without_a_dataloader_the_size_must_be_said() -> None:
    with pytest.raises(ValueError, match=r'has no train_dataloader, so the size .* say it by --size 800x1280'):
        image_sizes(Config(dict(model={})))


# --- the report -----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def report() -> dict:
    return budget(DETECTOR, {'train_dataloader.batch_size': 4}, size=(128, 160), gpu_memory=6 * GIB)


def test_the_parts_of_a_model_add_up(report: dict) -> None:
    for counts in (report['params'], report['macs']['train'], report['macs']['test']):
        assert counts['backbone'] + counts['neck'] + counts['heads'] == counts['total'] > 0


def test_more_images_and_less_checkpointing_need_more(report: dict) -> None:
    need = {(way['precision'], way['with_cp'], way['per_gpu']): way['need'] for way in report['fits']}
    assert {key[0] for key in need} == {'fp32', 'bf16'}
    assert need['fp32', False, 4] > need['fp32', False, 2] > need['fp32', False, 1]
    assert need['fp32', False, 4] > need['fp32', True, 4]
    assert need['fp32', False, 4] > need['bf16', False, 4]


def test_the_total_batch_is_kept_by_accumulation(report: dict) -> None:
    assert {way['per_gpu'] * way['accumulate'] for way in report['fits']} == {report['batch']['total']}


def test_as_it_is_comes_first_and_what_fits_states_its_options(report: dict) -> None:
    first, *others = report['fits']
    assert (first['precision'], first['with_cp'], first['per_gpu'], first['options']) == ('fp32', False, 4, [])
    assert all(way['options'] for way in others)
    assert 'it fits as it is' in format_budget(report)


def test_the_options_that_are_told_make_the_config_what_was_promised(report: dict) -> None:
    ways = [dict(way, fits=way['with_cp'] and way['per_gpu'] < 4) for way in report['fits']]
    chosen = next(way for way in ways if way['fits'])
    line = f'the first that fits: --cfg-options {" ".join(chosen["options"])}'
    assert line in format_budget({**report, 'fits': ways}).splitlines()
    told = dict(option.split('=') for option in chosen['options'])
    told = {key: int(value) if value.isdigit() else {'True': True}.get(value, value) for key, value in told.items()}
    assert budget(DETECTOR, told, size=(128, 160))['memory']['peak'] == chosen['peak']


def test_nothing_that_fits_is_said_so(report: dict) -> None:
    text = format_budget({**report, 'fits': [dict(way, fits=False) for way in report['fits']]})
    assert 'none of these fits: take a smaller backbone or image' in text


def test_one_image_at_a_time_is_impossible_where_a_batch_norm_sees_one_value() -> None:
    ways = budget(SEGMENTER, {'train_dataloader.batch_size': 2}, size=(64, 64), gpu_memory=GIB)['fits']
    single = [way for way in ways if way['per_gpu'] == 1]
    assert single and all(not way['fits'] and 'more than 1 value per channel' in way['impossible'] for way in single)


def test_one_image_for_each_of_several_gpus_is_no_obstacle_to_synced_norms() -> None:
    cfg = {f'model.{part}.norm_cfg.type': 'SyncBN' for part in ('neck', 'decode_head', 'auxiliary_head')}
    assert budget(SEGMENTER, {'train_dataloader.batch_size': 1, **cfg}, size=(64, 64))['memory']['peak'] > 0


def test_frozen_parameters_and_missing_data_are_told() -> None:
    frozen = budget(DETECTOR, {'model.backbone.frozen_stages': 2, 'data_root': '/not/here'}, size=(64, 64))
    assert frozen['trainable'] < frozen['params']['total']
    assert 'are frozen' in format_budget(frozen)
    assert frozen['epoch']['images'] is None
    assert 'images per epoch: unknown, the data set is not here' in format_budget(frozen)


def test_a_measured_step_gives_the_time_of_an_epoch() -> None:
    pair = budget(DETECTOR, {'train_dataloader.batch_size': 1}, size=(64, 64), measure=1)
    epoch = pair['epoch']
    assert epoch['seconds_per_pass'] > 0 and epoch['measured_size'] == [64, 64]
    text = format_budget({**pair, 'epoch': {**epoch, 'images': 7200, 'steps': 7200, 'epochs': 2,
                                            'seconds_per_pass': 2.0, 'seconds_per_epoch': 14400.0}})
    assert '4.0 h per epoch, 8.0 h for the run' in text


@pytest.mark.parametrize(('path', 'images'), [
    ('convnext/mask-rcnn_convnext-t-in1k_3x_coco', 117_266), ('vit/upernet_vit-b-in21k_160k_ade20k-512', 20_210)])
def test_the_images_of_public_data_are_known_without_it(path: str, images: int) -> None:
    assert training_images(Config.fromfile(ROOT / f'configs/{path}.py'))[0] == images


def test_columns_are_aligned() -> None:
    assert table([['a', 'x'], ['long', '10']]) == 'a      x\nlong  10'


# --- bad input and the tool -----------------------------------------------------------------------


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match='--measure -1 must be the number of training steps'):
        budget(DETECTOR, measure=-1)


def test_a_misspelt_key_of_the_model_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r'cannot be built: .*Did you mean frozen_stages'):
        budget(DETECTOR, {'model.backbone.frozen_stage': 2}, size=(64, 64))


ONLY = r"the model {} cannot be counted; only two-stage detectors with RoI heads .* mmseg's EncoderDecoders"


@pytest.mark.parametrize('name', ['RetinaNet', 'DETR', 'mmdet.Mask2Former'])
def test_a_model_of_another_kind_is_refused_with_the_kinds_that_can_be_counted(name: str, tmp_path: Path) -> None:
    (tmp_path / 'other.py').write_text(f"model = dict(type={name!r}, backbone=dict(type='ResNet', depth=50))")
    with pytest.raises(ValueError, match=ONLY.format(name.rpartition('.')[2])) as caught:
        budget(tmp_path / 'other.py', size=(64, 64))
    assert 'pass model.backbone' not in str(caught.value)


class _Queries(nn.Module):
    def forward(self, maps: tuple, samples: list) -> None:
        """Take more than maps, as a head of queries does."""


def test_a_decode_head_that_takes_more_than_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build = module._build

    def with_queries(cfg: Config) -> nn.Module:
        model = build(cfg)
        model.decode_head = _Queries()
        return model

    monkeypatch.setattr(module, '_build', with_queries)
    with pytest.raises(ValueError, match=ONLY.format('EncoderDecoder')):
        budget(SEGMENTER, size=(64, 64))


def test_without_a_dataloader_parameters_and_flops_are_counted_and_the_rest_says_what_is_missing() -> None:
    report = budget(SEGMENTER, {'train_dataloader': None}, size=(64, 64), gpu_memory=GIB)
    text = format_budget(report)
    assert report['params']['total'] > 0 and report['macs']['train']['total'] > 0
    assert report['memory'] is report['fits'] is None
    assert 'multiply-adds, train, 64 x 64' in text
    assert 'memory and time are not counted' in text and 'has no train_dataloader; give it' in text
    with pytest.raises(ValueError, match=r'--measure 1 times training steps, but .* has no train_dataloader'):
        budget(SEGMENTER, {'train_dataloader': None}, size=(64, 64), measure=1)


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, 'tools/budget.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
                          capture_output=True, text=True, timeout=120)


def test_the_tool_prints_tables_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / 'budget.json'
    done = run(SEGMENTER, '--size', '64x64', '--gpu-memory', '24G', '--json', file)
    assert done.returncode == 0, done.stderr
    assert 'multiply-adds, train, 64 x 64' in done.stdout and 'one training step' in done.stdout
    assert json.loads(file.read_text())['gpu_memory'] == 24 * GIB


def test_json_into_a_folder_that_is_not_there_is_refused_first() -> None:
    done = run(SEGMENTER, '--json', '/not/here/budget.json')
    assert 'error: --json /not/here/budget.json: the folder /not/here does not exist; make it first' in done.stderr
    assert 'Traceback' not in done.stderr


def test_the_place_of_json_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf'--json {tmp_path} cannot be written \(Is a directory\); name a file in'):
        check_writable(str(tmp_path))
    check_writable(str(tmp_path / 'budget.json'))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_of_memory_ends_the_tool_with_one_sentence() -> None:
    done = run(SEGMENTER, '--gpu-memory', 'much')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.strip() == "error: 'much' is no size of memory; write it like 24G, 24GiB or 24000M"
