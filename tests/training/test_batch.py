"""The total batch of a config is kept on any number of processes, or the run is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from backbones.config import load_config
from backbones.data.demo import generate_demo
from backbones.training import batch
from backbones.training.batch import BatchPlan, apply_batch_plan, check_built, plan_batch

DETECTOR = ROOT / 'configs/small/mask-rcnn_convnext_demo.py'
SEGMENTER = ROOT / 'configs/small/upernet_vit_demo.py'


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages speak of processes."""
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)


def config(total: Any = 16, batch_size: Any = 2, loop: str = 'EpochBasedTrainLoop', **more: Any) -> Config:
    """What the planner reads of a config; `total=...` leaves it out."""
    cfg = dict(
        train_cfg=dict(type=loop, max_epochs=3), optim_wrapper=dict(type='OptimWrapper', optimizer=dict(lr=0.1)),
        train_dataloader=dict(batch_size=batch_size, sampler=dict(type='DefaultSampler')))
    return Config({**cfg, **({} if total is ... else dict(total_batch=total)), **more})


@pytest.mark.parametrize(
    ('processes', 'per_gpu', 'line'),
    [
        (8, 2, 'total batch 16 = 8 processes x 2 images'),
        (2, 2, 'total batch 16 = 2 processes x 2 images x 4'),
        (1, 1, 'total batch 16 = 1 process x 1 image x 16'),
        (1, 16, 'total batch 16 = 1 process x 16 images'),
    ],
)
def test_one_line_says_how_the_total_is_made(processes: int, per_gpu: int, line: str) -> None:
    assert str(plan_batch(config(batch_size=per_gpu), processes)) == line


def test_with_gpus_the_line_speaks_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert str(BatchPlan(16, 2, 2, 4)) == 'total batch 16 = 2 GPUs x 2 images x 4'
    assert str(BatchPlan(1, 1, 1, 1)) == 'total batch 1 = 1 GPU x 1 image'


@pytest.mark.parametrize(
    ('cfg', 'processes', 'sentence'),
    [
        (config(total=16, batch_size=3), 1, r'no multiple of 1 process x 3 images; 1, 2, 4, 8, 16 images per process '
         r'fit: --cfg-options train_dataloader.batch_size=2\. .*--total-batch 15'),
        (config(total=4, batch_size=4), 2, r'2 processes x 4 images are more than the total batch 4; 1, 2 images per '
         r'process fit: .*batch_size=2\. .*--total-batch 8'),
        (config(total=16, batch_size=1), 3, '3 processes cannot share 16 images evenly; start one of 1, 2, 4, 8, 16'),
        (config(total=2, batch_size=1), 4, '4 processes x 1 image are more than the total batch 2; .* one of 1, 2'),
        (config(total=0), 1, 'total_batch=0 must be a whole number'),
        (config(total='16'), 1, "total_batch='16' must be a whole number"),
        (config(total=True), 1, 'total_batch=True must be'),
        (config(total=None), 1, 'total_batch=None must be'),
        (config(batch_size=0), 1, 'train_dataloader.batch_size=0 must be'),
        (config(train_dataloader=None), 1, 'has no train_dataloader.batch_size'),
        (config(optim_wrapper=dict(accumulative_counts=8)), 1, 'accumulative_counts=8 beside a total batch of 16'),
        (config(total=..., optim_wrapper=dict(accumulative_counts=0)), 1, 'accumulative_counts=0 must be'),
        (config(auto_scale_lr=dict(enable=True, base_batch_size=16)), 1, 'the learning rate must stay'),
        (config(loop='TheirLoop'), 1, "type='TheirLoop': gradients can be accumulated with EpochBasedTrainLoop"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else '',
)
def test_a_total_that_cannot_be_met_is_refused_with_a_remedy(cfg: Config, processes: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        plan_batch(cfg, processes)


@pytest.mark.parametrize('sampler', [dict(type='MultiDataAspectRatioBatchSampler'), dict(type=DefaultSampler)])
def test_a_batch_sampler_with_rules_of_its_own_is_refused_only_when_it_would_be_split(sampler: dict) -> None:
    cfg = config()
    cfg.train_dataloader.batch_sampler = sampler
    assert plan_batch(cfg, 8).accumulate == 1
    with pytest.raises(ValueError, match='may group images by a rule of its own'):
        plan_batch(cfg, 1)


def test_sizes_inside_the_batch_sampler_are_refused() -> None:
    cfg = config()
    cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler', batch_size=2)
    with pytest.raises(ValueError, match=r'batch_sampler.batch_size=2: the launcher sets it'):
        plan_batch(cfg, 1)


def test_a_loop_of_ones_own_is_left_alone_where_nothing_is_accumulated() -> None:
    cfg = config(loop='TheirLoop')
    apply_batch_plan(cfg, plan_batch(cfg, 8))
    assert cfg.train_cfg.type == 'TheirLoop'


def test_another_total_must_be_stated_and_is_logged() -> None:
    cfg = config()
    plan = plan_batch(cfg, 1, stated=8)
    assert plan == BatchPlan(8, 1, 2, 4)
    line, note = batch.batch_notes(cfg, plan)
    assert line == 'total batch 8 = 1 process x 2 images x 4'
    assert note.startswith("the recipe's total batch is 16, this run has 8 because --total-batch says so; the learning")
    assert batch.batch_notes(cfg, plan_batch(cfg, 1, stated=16)) == ['total batch 16 = 1 process x 2 images x 8']
    with pytest.raises(ValueError, match='--total-batch=0 must be'):
        plan_batch(cfg, 1, stated=0)


@pytest.mark.parametrize('loop', ['EpochBasedTrainLoop', 'IterBasedTrainLoop', 'mmengine.IterBasedTrainLoop'])
def test_accumulation_changes_loader_and_loop_and_nothing_else(loop: str) -> None:
    cfg, before = config(loop=loop), config(loop=loop)
    apply_batch_plan(cfg, plan_batch(cfg, 2))
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.train_cfg == dict(
        type=f'backbones.{loop.rsplit(".", 1)[-1]}', accumulate=4, max_epochs=3)
    cfg.train_dataloader.batch_size, cfg.train_cfg = 2, before.train_cfg
    assert cfg.to_dict() == before.to_dict()


@pytest.mark.parametrize('loop', [dict(by_epoch=False, max_iters=3), dict(type=IterBasedTrainLoop, max_iters=3)])
def test_loops_named_in_mmengines_other_ways_accumulate_too(loop: dict) -> None:
    cfg = config()
    cfg._cfg_dict['train_cfg'] = loop
    apply_batch_plan(cfg, plan_batch(cfg, 4))
    assert cfg.train_cfg == dict(type='backbones.IterBasedTrainLoop', accumulate=2, max_iters=3)


@pytest.mark.parametrize('cfg', [config(total=...), config(total=..., optim_wrapper=dict(accumulative_counts=4))])
def test_a_config_without_a_total_is_not_changed(cfg: Config) -> None:
    before, counts = cfg.to_dict(), cfg.optim_wrapper.get('accumulative_counts', 1)
    plan = plan_batch(cfg, 2)
    assert plan == BatchPlan(4 * counts, 2, 2, counts)
    apply_batch_plan(cfg, plan)
    assert cfg.to_dict() == before


def test_groups_of_one_orientation_keep_the_size_of_a_chunk() -> None:
    cfg = config()
    cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
    apply_batch_plan(cfg, plan_batch(cfg, 2))
    assert cfg.train_dataloader.batch_sampler == dict(type='backbones.AspectRatioBatchSampler', group_size=2)


@pytest.mark.parametrize(('processes', 'per_gpu'), [(1, 2), (2, 2), (4, 2), (8, 2)])
def test_the_config_that_a_run_leaves_behind_can_be_run_on_any_number_of_gpus(processes: int, per_gpu: int) -> None:
    left = config()
    left.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
    apply_batch_plan(left, plan_batch(left, 2))
    plan = plan_batch(left, processes)
    assert plan == BatchPlan(16, processes, per_gpu, 8 // processes)
    apply_batch_plan(left, plan)
    assert left.train_dataloader.batch_size == 16 // processes
    assert left.train_cfg.get('accumulate', 1) == 8 // processes
    assert left.train_cfg.type == 'backbones.EpochBasedTrainLoop'
    assert left.train_dataloader.batch_sampler.get('group_size', 2) == 2


@pytest.mark.parametrize(
    ('launcher', 'variable'), [('pytorch', 'WORLD_SIZE'), ('slurm', 'SLURM_NTASKS'), ('mpi', 'OMPI_COMM_WORLD_SIZE')])
def test_the_launcher_says_how_many_processes_there_are(
    launcher: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, '6')
    assert batch.count_processes('none') == 1 and batch.count_processes(launcher) == 6
    monkeypatch.delenv(variable)
    with pytest.raises(ValueError, match=f'environment variable {variable} is not set; start with'):
        batch.count_processes(launcher)


def loader(images: int, size: int, sampler: type = DefaultSampler, **more: Any) -> DataLoader:
    """A training data loader."""
    data = list(range(images))
    return DataLoader(data, size, sampler=sampler(data, seed=0), **more)


def test_fewer_images_than_the_total_batch_are_refused() -> None:
    plan = BatchPlan(8, 1, 2, 4)
    with pytest.raises(ValueError, match=r'has 7 images and the total batch is 8, .*--total-batch 6'):
        check_built(plan, nn.Identity(), loader(7, 8), keeps_total=True)
    assert check_built(plan, nn.Identity(), loader(8, 8), keeps_total=True) == []
    assert check_built(plan, nn.Identity(), loader(7, 8, InfiniteSampler), keeps_total=True) == []


def test_a_batch_of_ones_own_may_be_larger_than_the_data_unless_no_step_is_left() -> None:
    plan = BatchPlan(8, 1, 8, 1)
    assert check_built(plan, nn.Identity(), loader(7, 8), keeps_total=False) == []
    with pytest.raises(ValueError, match='has 7 images'):
        check_built(plan, nn.Identity(), loader(7, 8, drop_last=True), keeps_total=False)


def test_batch_norms_that_see_less_than_the_total_batch_are_named() -> None:
    model = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm2d(4))
    note = '2 batch norms take their statistics from 4 images at a time, not from 16: '
    assert check_built(BatchPlan(16, 2, 2, 4), model, loader(16, 8), True)[0].startswith(note)
    assert check_built(BatchPlan(16, 8, 2, 1), model, loader(16, 2), True) == []


def test_one_image_at_a_time_is_refused_where_a_head_normalises_one_pixel() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match=r'model\.0 pools .* one image at a time .*batch_size=2 or more'):
        check_built(BatchPlan(4, 1, 1, 4), nn.Sequential(head), loader(8, 4), keeps_total=True)
    check_built(BatchPlan(4, 1, 2, 2), nn.Sequential(head), loader(8, 4), keeps_total=True)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(head))
    check_built(BatchPlan(4, 2, 1, 2), synced, loader(8, 4), keeps_total=True)


def test_the_total_is_no_config_option() -> None:
    from backbones.training.launch import run_training

    with pytest.raises(ValueError, match=r'--cfg-options total_batch=8.* use --total-batch 8'):
        run_training(SEGMENTER, options={'total_batch': 8})


# Real runs. A driver trains the runs of a list one after the other, in one process or two.

RECORD = """
import json
from pathlib import Path
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class RecordHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        images = [Path(sample.img_path).name for sample in data_batch['data_samples']]
        ranks = all_gather_object((float(outputs['loss']), images))
        if is_main_process():
            line = dict(iter=runner.iter, loss=sum(loss for loss, _ in ranks) / len(ranks),
                        images=sorted(image for _, images in ranks for image in images))
            with (Path(runner.work_dir) / 'steps.jsonl').open('a') as file:
                file.write(json.dumps(line) + '\\n')
"""
DRIVER = """
import json, sys
from pathlib import Path
from backbones.cli import run_tool
from backbones.training.launch import run_training

def main():
    for config, work_dir, batch_size, resume, more in json.loads(Path(sys.argv[1]).read_text()):
        run_training(config, work_dir, resume, {'train_dataloader.batch_size': batch_size, **more}, sys.argv[2])

run_tool(main)  # as the tools end: torch.distributed's threads now and then abort a process that ends by itself
"""


def toy(path: Path, folder: Path, **train_cfg: Any) -> Path:
    """Write the config at `path` without chance and without validation: total batch 4, ten steps of six images."""
    data = folder / 'data'
    if not data.exists():
        generate_demo(data, num_train=8, num_val=1, size=(64, 96), progress=False)
    cfg = load_config(path, {'data_root': f'{data}/'})
    cfg.train_dataloader.dataset.pipeline = [
        step for step in cfg.train_dataloader.dataset.pipeline if step['type'] != 'RandomFlip']
    for split in ('val', 'test'):
        for key in ('cfg', 'dataloader', 'evaluator'):
            cfg.pop(f'{split}_{key}')
    cfg.train_cfg = dict(type=cfg.train_cfg.type, **train_cfg)
    cfg.total_batch = 4
    # AdamW would divide a gradient that is mere rounding by its own size, and so blow it up
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.0)
    cfg.custom_imports = dict(imports=['record'])
    cfg.custom_hooks = [dict(type='RecordHook')]
    cfg.pop('work_dir')
    (folder / 'record.py').write_text(RECORD)
    if path is SEGMENTER:
        cfg.model.data_preprocessor.size = (64, 96)
        cfg.model.backbone.arch = dict(embed_dim=48, depth=4, num_heads=3)
        cfg.model.backbone.out_indices = (0, 1, 2, 3)
        cfg.model.neck.update(in_channels=48, norm_cfg=dict(type='backbones.LN2d', eps=1e-6))
        cfg.model.decode_head.in_channels = [48] * 4
        cfg.model.auxiliary_head.in_channels = 48
        cfg.model.decode_head.loss_decode.class_weight = None  # mmseg divides by the weights of the images it sees
        for head in ('decode_head', 'auxiliary_head'):
            cfg.model[head].update(norm_cfg=dict(type='GN', num_groups=8), dropout_ratio=0.0)
    else:  # the samplers take all there are, so that nothing is drawn
        cfg.model.backbone.arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
        cfg.model.neck.in_channels = [8, 16, 24, 32]
        cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        for part in ('rpn', 'rcnn'):
            cfg.model.train_cfg[part].sampler.num = 1000000
    cfg.dump(folder / path.name)
    return folder / path.name


def train(folder: Path, processes: int, *runs: tuple) -> None:
    """Train (config, work folder, batch size, resume, options) one after the other."""
    (folder / 'driver.py').write_text(DRIVER)
    (folder / f'runs{processes}.json').write_text(json.dumps([list(map(str, r[:2])) + list(r[2:]) for r in runs]))
    start = [sys.executable]
    if processes > 1:
        start += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
    environment = {
        **os.environ, 'PYTHONPATH': f'{ROOT}:{folder}', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [*start, str(folder / 'driver.py'), str(folder / f'runs{processes}.json'),
         'pytorch' if processes > 1 else 'none'],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def steps(folder: Path) -> list[dict]:
    """What the hook wrote."""
    return [json.loads(line) for line in (folder / 'steps.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished runs, named after `processes x images x passes`."""
    folder = tmp_path_factory.mktemp('runs')
    segmenter = toy(SEGMENTER, folder, max_iters=10)
    detector = toy(DETECTOR, folder, max_epochs=5)
    half = {'train_cfg.max_iters': 6, 'default_hooks.checkpoint.interval': 3}
    train(
        folder, 1,
        (segmenter, folder / 'segmenter 1x4', 4, None, {}),
        (segmenter, folder / 'segmenter 1x2x2', 2, None, {}),
        (segmenter, folder / 'resumed', 2, None, half),
        (segmenter, folder / 'resumed', 2, 'latest', {}),
        (detector, folder / 'detector 1x4', 4, None, {'train_cfg.max_epochs': 1}),
        (detector, folder / 'detector 1x2x2', 2, None, {}))
    train(
        folder, 2,
        (segmenter, folder / 'segmenter 2x2', 2, None, {}),
        (segmenter, folder / 'segmenter 2x1x2', 1, None, {}),
        (detector, folder / 'detector 2x2', 2, None, {}))
    return folder


@pytest.mark.parametrize('way', ['2x2', '1x2x2', '2x1x2'])
def test_the_first_ten_losses_of_a_segmenter_are_the_same_however_the_batch_is_spread(runs: Path, way: str) -> None:
    whole, spread = steps(runs / 'segmenter 1x4'), steps(runs / f'segmenter {way}')
    assert len(whole) == len(spread) == 10
    for one, other in zip(whole, spread, strict=True):
        assert other['images'] == one['images'] and len(one['images']) == 4
        assert other['loss'] == pytest.approx(one['loss'], abs=1e-4)
    assert len({round(step['loss'], 4) for step in whole}) == 10


def test_the_first_ten_losses_of_a_detector_are_those_of_as_many_gpus_as_chunks(runs: Path) -> None:
    spread, chunks = steps(runs / 'detector 2x2'), steps(runs / 'detector 1x2x2')
    assert [len(step['images']) for step in chunks] == [4] * 10
    for one, other in zip(spread, chunks, strict=True):
        assert other['images'] == one['images']
        assert other['loss'] == pytest.approx(one['loss'], abs=1e-4)


def test_the_losses_of_a_detector_depend_on_how_many_images_are_normalised_together(runs: Path) -> None:
    whole, chunks = steps(runs / 'detector 1x4'), steps(runs / 'detector 1x2x2')
    assert chunks[0]['images'] == whole[0]['images']
    difference = abs(chunks[0]['loss'] - whole[0]['loss'])
    assert 1e-4 < difference < 0.1 * whole[0]['loss']


def test_a_resumed_run_goes_on_with_the_step_and_the_images_of_an_uninterrupted_one(runs: Path) -> None:
    whole, parts = steps(runs / 'segmenter 1x2x2'), steps(runs / 'resumed')
    assert [step['iter'] for step in parts] == list(range(10))
    assert [step['images'] for step in parts] == [step['images'] for step in whole]
    assert [step['loss'] for step in parts] == pytest.approx([step['loss'] for step in whole], abs=1e-4)


def test_each_run_logs_its_batch(runs: Path) -> None:
    for way, line in {
        'segmenter 1x4': '1 process x 4 images\n', 'segmenter 1x2x2': '1 process x 2 images x 2\n',
        'segmenter 2x1x2': '2 processes x 1 image x 2\n', 'detector 2x2': '2 processes x 2 images\n',
    }.items():
        log = ''.join(path.read_text() for path in (runs / way).glob('*/*.log'))
        assert f'total batch 4 = {line}' in log


def test_weights_after_ten_steps_agree(runs: Path) -> None:
    whole, chunks = (
        torch.load(runs / f'segmenter {way}' / 'iter_10.pth', weights_only=True)['state_dict']
        for way in ('1x4', '1x2x2'))
    torch.testing.assert_close(chunks, whole, atol=1e-4, rtol=1e-4)
