"""The tools as a user runs them: train, resume, test and predict on a tiny generated data set, one process and two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from backbones.convnext import ConvNeXt
from backbones.data.demo import generate_demo
from backbones.weights.read import read_state

DETECTOR = 'configs/small/mask-rcnn_convnext_demo.py'
SEGMENTER = 'configs/small/upernet_vit_demo.py'
EVERY_BOX = 'model.test_cfg.rcnn.score_thr=0.0'  # after two iterations nothing is certain, yet results are wanted


def run_tool(*arguments: str | Path, processes: int = 0) -> subprocess.CompletedProcess:
    """Run `python tools/...` (or torchrun with that many processes) from the checkout's root."""
    launch = [sys.executable]
    if processes:
        launch += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(
        [*launch, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and three validation pictures of 64 x 96 pixels."""
    root = tmp_path_factory.mktemp('data') / 'demo'
    return generate_demo(root, num_train=6, num_val=3, size=(64, 96), progress=False)


def options(config: str, data: Path, *more: str) -> list[str]:
    """Make a run of two iterations on `data`."""
    short = {
        DETECTOR: ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1'],
        SEGMENTER: ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2'],
    }[config]
    return ['--cfg-options', f'data_root={data}/', *short, *more]


@pytest.fixture(scope='module')
def detector_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a detector trained for two iterations."""
    folder = tmp_path_factory.mktemp('detector')
    done = run_tool('tools/train.py', DETECTOR, '--work-dir', folder, *options(DETECTOR, data))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope='module')
def segmenter_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a segmenter trained for two iterations."""
    folder = tmp_path_factory.mktemp('segmenter')
    done = run_tool('tools/train.py', SEGMENTER, '--work-dir', folder, *options(SEGMENTER, data))
    assert done.returncode == 0, done.stderr
    return folder


def test_training_leaves_a_checkpoint_and_the_metrics_with_their_protocol(detector_run: Path) -> None:
    report = json.loads((detector_run / 'metrics.json').read_text())
    assert (detector_run / 'epoch_1.pth').is_file()
    assert 0 <= report['metrics']['bbox_mAP'] <= 1
    assert report['protocol']['scale'] == [[160, 128]]
    assert report['protocol']['flip'] is False
    assert report['images'] == 3
    assert report['checkpoint'] == str(detector_run / 'epoch_000001')


def test_a_test_in_the_folder_of_a_training_keeps_what_the_training_wrote(
    detector_run: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(detector_run, tmp_path, dirs_exist_ok=True)
    config, trained = tmp_path / Path(DETECTOR).name, json.loads((tmp_path / 'metrics.json').read_text())
    before = config.read_text()
    more = options(DETECTOR, data, EVERY_BOX)
    done = run_tool('tools/test.py', DETECTOR, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path, *more)
    assert done.returncode == 0, done.stderr
    assert config.read_text() == before
    assert json.loads((tmp_path / 'metrics.1.json').read_text()) == trained
    report = json.loads((tmp_path / 'metrics.json').read_text())
    assert report['split'] == 'test' and report['checkpoint'] == str(tmp_path / 'epoch_1.pth')


def test_resume_of_a_finished_run_says_that_nothing_is_left(detector_run: Path, data: Path) -> None:
    done = run_tool('tools/train.py', DETECTOR, '--work-dir', detector_run, '--resume', *options(DETECTOR, data))
    assert done.returncode == 0, done.stderr
    assert 'nothing left to do: the run has done 1 epochs and train_cfg.max_epochs is 1' in done.stdout + done.stderr


def test_a_segmenter_reports_mode_and_ignore_label(segmenter_run: Path) -> None:
    report = json.loads((segmenter_run / 'metrics.json').read_text())
    assert 0 <= report['metrics']['mIoU'] <= 100
    assert report['protocol']['mode'] == 'whole'
    assert report['protocol']['ignore_label'] == 255
    assert report['protocol']['label_0_ignored'] is True


def test_a_new_run_never_overwrites_an_old_one(detector_run: Path, data: Path) -> None:
    before = (detector_run / 'epoch_1.pth').read_bytes()
    done = run_tool('tools/train.py', DETECTOR, '--work-dir', detector_run, *options(DETECTOR, data))
    assert done.returncode == 2
    assert 'already holds a run (epoch_000001); go on with it by --resume' in done.stderr
    assert 'Traceback' not in done.stderr
    assert (detector_run / 'epoch_1.pth').read_bytes() == before


def test_resume_goes_on_where_the_run_stopped(detector_run: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'resumed'
    shutil.copytree(detector_run / 'epoch_000001', folder / 'epoch_000001')
    more = options(DETECTOR, data, 'train_cfg.max_epochs=2')
    done = run_tool('tools/train.py', DETECTOR, '--work-dir', folder, '--resume', *more)
    assert done.returncode == 0, done.stderr
    assert (folder / 'epoch_2.pth').is_file()
    assert json.loads((folder / 'metrics.json').read_text())['epoch'] == 2


def test_test_with_tta_writes_results_overlays_and_a_protocol_that_says_so(
    detector_run: Path, data: Path, tmp_path: Path
) -> None:
    done = run_tool(
        'tools/test.py', DETECTOR, detector_run / 'epoch_1.pth', '--work-dir', tmp_path / 'w', '--tta', '--out',
        tmp_path / 'results.json', '--show-dir', tmp_path / 'shown', *options(DETECTOR, data, EVERY_BOX))
    assert done.returncode == 0, done.stderr
    protocol = json.loads((tmp_path / 'w' / 'metrics.json').read_text())['protocol']
    assert protocol['tta'] is True and protocol['flip'] is True
    assert protocol['scale'] == [[160, 128], [240, 192]]
    ids = {image['id'] for image in json.loads((data / 'annotations/instances_val.json').read_text())['images']}
    results = json.loads((tmp_path / 'results.json').read_text())
    assert {entry['image_id'] for entry in results} == ids
    assert results and {entry['category_id'] for entry in results} <= {2, 3, 5, 9, 12, 17}
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 3


def test_a_segmenter_writes_a_zip_of_label_maps_at_the_size_of_the_images(
    segmenter_run: Path, data: Path, tmp_path: Path
) -> None:
    done = run_tool(
        'tools/test.py', SEGMENTER, segmenter_run / 'iter_2.pth', '--work-dir', tmp_path / 'w', '--tta', '--out',
        tmp_path / 'labels.zip', *options(SEGMENTER, data))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / 'labels.zip') as archive:
        assert len(archive.namelist()) == 3
        with archive.open(archive.namelist()[0]) as file:
            labels = np.array(Image.open(file))
    assert labels.shape == (64, 96)
    assert labels.min() >= 1 and labels.max() <= 10


def test_predict_needs_no_annotations(detector_run: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i, image in enumerate(sorted((data / 'images/validation').iterdir())):
        (folder / f'photo {i}.jpg').write_bytes(image.read_bytes())
    (folder / 'broken.jpg').write_bytes(b'<html>not found</html>')
    done = run_tool(
        'tools/predict.py', DETECTOR, detector_run / 'epoch_1.pth', folder, '--out', tmp_path / 'out',
        '--cfg-options', EVERY_BOX)
    assert done.returncode == 1
    assert 'broken.jpg is' in done.stderr and 'XML, not a picture' in done.stderr and 'Traceback' not in done.stderr
    assert len(list((tmp_path / 'out' / 'overlays').glob('*.png'))) == 3
    index = json.loads((tmp_path / 'out' / 'images.json').read_text())
    assert [category['name'] for category in index['categories']] == [
        'disc', 'ring', 'box', 'triangle', 'star', 'cross']
    assert {e['image_id'] for e in json.loads((tmp_path / 'out' / 'results.json').read_text())} == {
        image['id'] for image in index['images']}


def test_predict_writes_label_maps_of_a_segmenter(segmenter_run: Path, data: Path, tmp_path: Path) -> None:
    image = next((data / 'images/validation').iterdir())
    done = run_tool('tools/predict.py', SEGMENTER, segmenter_run / 'iter_2.pth', image, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert np.array(Image.open(tmp_path / 'out' / 'labels' / f'{image.stem}.png')).shape == (64, 96)
    assert (tmp_path / 'out' / 'classes.txt').read_text() == (data / 'classes.txt').read_text()


def test_two_processes_train_over_gloo_and_score_every_image_once(data: Path, tmp_path: Path) -> None:
    # SyncBN, which has no CPU form, is asked for on purpose: it becomes BN and says so
    sync = 'model.decode_head.norm_cfg.type=SyncBN'
    done = run_tool(
        'tools/train.py', SEGMENTER, '--work-dir', tmp_path, '--launcher', 'pytorch',
        *options(SEGMENTER, data, sync, 'train_dataloader.batch_size=2'), processes=2)
    assert done.returncode == 0, done.stderr
    assert 'became BN' in done.stdout + done.stderr
    assert 'total batch 4 = 2 processes x 2 images\n' in done.stdout + done.stderr
    assert json.loads((tmp_path / 'metrics.json').read_text())['images'] == 3


def test_two_processes_find_what_one_finds(detector_run: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for processes in (0, 2):
        out = tmp_path / f'{processes}.json'
        launcher = ['--launcher', 'pytorch'] if processes else []
        done = run_tool(
            'tools/test.py', DETECTOR, detector_run / 'epoch_1.pth', '--work-dir', tmp_path / out.stem, '--out', out,
            *launcher, *options(DETECTOR, data, EVERY_BOX), processes=processes)
        assert done.returncode == 0, done.stderr
        found.append((json.loads(out.read_text()), json.loads((tmp_path / out.stem / 'metrics.json').read_text())))
    (alone, report), (together, report_together) = found
    assert len(alone) > 0 and together == alone
    assert report_together['metrics'] == report['metrics'] and report_together['images'] == 3


def test_two_processes_train_a_detector_from_weights_that_are_those_of_the_file(data: Path, tmp_path: Path) -> None:
    arch = dict(depths=(2, 2, 4, 2), dims=(24, 48, 96, 192))
    torch.save({'model': ConvNeXt(arch, output_norm=False).state_dict()}, tmp_path / 'backbone.pth')
    init = [f'model.backbone.init_cfg.{key}' for key in ('type=Pretrained', f'checkpoint={tmp_path}/backbone.pth')]
    more = [*init, 'train_dataloader.batch_size=2']  # on each of two processes: the total batch stays
    done = run_tool(
        'tools/train.py', DETECTOR, '--work-dir', tmp_path, '--launcher', 'pytorch', *options(DETECTOR, data, *more),
        processes=2)
    assert done.returncode == 0, done.stderr
    said = f'backbone: 106 tensors are those of {tmp_path}/backbone.pth on every rank before the first step'
    assert said in done.stdout + done.stderr
    assert json.loads((tmp_path / 'metrics.json').read_text())['images'] == 3


def test_two_processes_in_bf16_find_what_one_finds_and_say_so(detector_run: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for processes in (0, 2):
        out = tmp_path / f'{processes}.json'
        launcher = ['--launcher', 'pytorch'] if processes else []
        done = run_tool(
            'tools/test.py', DETECTOR, detector_run / 'epoch_1.pth', '--work-dir', tmp_path / out.stem, '--out', out,
            '--precision', 'bf16', *launcher, *options(DETECTOR, data, EVERY_BOX), processes=processes)
        assert done.returncode == 0, done.stderr
        assert 'the model computes in bf16' in done.stdout + done.stderr
        report = json.loads((tmp_path / out.stem / 'metrics.json').read_text())
        assert report['protocol']['precision'] == 'bf16' and report['images'] == 3
        found.append(json.loads(out.read_text()))
    assert found[0] == found[1] and len(found[0]) == 300


@pytest.mark.parametrize('tool', ['test.py', 'predict.py'])
def test_an_unknown_precision_ends_with_one_sentence(tool: str, data: Path, tmp_path: Path) -> None:
    more = [next((data / 'images/validation').iterdir()), '--out', tmp_path / 'out'] if tool == 'predict.py' else []
    done = run_tool(f'tools/{tool}', DETECTOR, 'none.pth', *more, '--precision', 'int8')
    assert done.returncode == 2
    assert done.stderr.endswith("error: precision='int8' is unknown; choose one of fp32, bf16, fp16\n")


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (['model.backbone.arch=tinny'], "arch='tinny'"),
        (['model.backbone.out_indices=[0,1,2,7]'], 'out_indices'),
        (['model.rpn_head.anchor_generator.strides=[8,16,32,64,128]'], 'strides disagree'),
        (["train_dataloader.dataset.metainfo.classes=['disc','rnig']"], "did you mean 'ring'"),
        (["train_dataloader.dataset.data_prefix.img=images/trainning"], 'images/trainning'),
        (['optim_wrapper.type=AmpOptimWrapper'], 'needs a GPU'),
        (['model.backbone.type=backbones.ConvNext'], r"did you mean 'backbones\.ConvNeXt'\?"),
        (['val_evaluator.ann_file=nope.json'], r"annotation file nope\.json of the evaluator does not exist"),
        (['load_from=nope.pth'], 'nope.pth'),
        (['model.backbone.drop_path=0.1'], r"ConvNeXt takes no such argument; did you mean 'drop_path_rate'"),
        (['train_cfg.max_epoch=3'], r"train_cfg\.max_epoch=3: .* did you mean 'max_epochs'"),
        (['model.roi_head.bbox_head.num_clases=3'], r"bbox_head\.num_clases=3: .* did you mean 'num_classes'"),
        (['model.neck.colour=3'], r"neck\.colour=3: FPN takes .* choose among .*add_extra_convs.*out_channels"),
        (['optim_wrapper.optimizer.momentum=0.9'], r"optimizer\.momentum=0\.9: AdamW takes .* choose among .*betas"),
        (['data_root=nowhere/'], 'annotation file nowhere/annotations/instances_train.json does not exist'),
    ],
    ids=lambda value: value[0].split('=')[0] if isinstance(value, list) else '',
)
def test_a_mistake_in_the_config_ends_with_one_sentence(
    change: list[str], sentence: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.config import DictAction

    from backbones.training.launch import run_training

    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    changes = dict(item.split('=', 1) for item in options(DETECTOR, data, *change)[1:])
    changes = {key: DictAction._parse_iterable(value) for key, value in changes.items()}
    with pytest.raises(ValueError, match=r'(?s)' + sentence.replace('(', r'\(')):
        run_training(ROOT / DETECTOR, str(tmp_path), options=changes)
    assert not list(tmp_path.glob('*.pth'))


def test_a_checkpoint_of_another_model_is_refused(segmenter_run: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = segmenter_run / 'iter_2.pth'
    done = run_tool('tools/test.py', DETECTOR, checkpoint, '--work-dir', tmp_path, *options(DETECTOR, data))
    assert done.returncode == 2
    assert str(checkpoint) in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'metrics.json').exists()


def test_weights_of_a_run_of_another_tool_are_neither_overwritten_nor_resumed(
    detector_run: Path, tmp_path: Path
) -> None:
    from backbones.training.launch import run_training

    (tmp_path / 'epoch_1.pth').write_bytes((detector_run / 'epoch_1.pth').read_bytes())
    for resume, sentence in {
        None: r'holds weights of another run \(epoch_1\.pth\)', 'auto': 'load_from=.*epoch_1.pth',
        'latest': r'no checkpoint to go on from, only files of weights \(epoch_1\.pth\)',
        str(tmp_path / 'epoch_1.pth'): 'a file of weights holds no place in the data',
    }.items():
        with pytest.raises(ValueError, match=sentence):
            run_training(ROOT / DETECTOR, str(tmp_path), resume=resume)


def test_fine_tuning_takes_all_but_the_class_layers_from_another_run(
    detector_run: Path, data: Path, tmp_path: Path
) -> None:
    heads = [f'model.roi_head.{head}.num_classes=2' for head in ('bbox_head', 'mask_head')]
    splits = [f"{split}_dataloader.dataset.metainfo.classes=['disc','ring']" for split in ('train', 'val')]
    still = 'optim_wrapper.optimizer.lr=0.0'
    done = run_tool(
        'tools/train.py', DETECTOR, '--no-preflight', '--work-dir', tmp_path,  # which refuses a rate of 0
        *options(DETECTOR, data, f'load_from={detector_run}/epoch_1.pth', still, *heads, *splits))
    assert done.returncode == 0, done.stderr
    old, new = (read_state(folder / 'epoch_1.pth') for folder in (detector_run, tmp_path))
    anew = {name for name in old if old[name].shape != new[name].shape}
    assert {name.rsplit('.', 1)[0] for name in anew} == {
        'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg', 'roi_head.mask_head.conv_logits'}
    assert all(name in done.stdout + done.stderr for name in anew)
    averages = ('running_mean', 'running_var', 'num_batches_tracked')  # move in training, whatever the rate
    kept = [name for name in old if name not in anew and not name.endswith(averages)]
    assert [name for name in kept if not old[name].equal(new[name])] == []


def test_init_cfg_of_the_whole_model_is_loaded_counted_and_refused_like_load_from(
    detector_run: Path, data: Path, tmp_path: Path
) -> None:
    init = ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={detector_run}/epoch_1.pth']
    done = run_tool('tools/train.py', DETECTOR, '--work-dir', tmp_path / 'good', *options(DETECTOR, data, *init))
    assert done.returncode == 0, done.stderr
    total = len(read_state(detector_run / 'epoch_1.pth'))
    assert f'MaskRCNN <- {detector_run}/epoch_1.pth: {total}/{total} tensors' in done.stdout + done.stderr
    other = [*init, 'model.neck.out_channels=32', 'model.rpn_head.in_channels=32']
    done = run_tool('tools/train.py', DETECTOR, '--work-dir', tmp_path / 'bad', *options(DETECTOR, data, *other))
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr


def test_resume_with_nothing_to_resume_from_is_an_error(data: Path, tmp_path: Path) -> None:
    from backbones.training.launch import run_training

    with pytest.raises(ValueError, match='holds no checkpoint to go on from'):
        run_training(ROOT / DETECTOR, str(tmp_path), resume='latest')
