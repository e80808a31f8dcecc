"""Trackers: what was logged is there when a run was killed, once when it goes on, and failing costs points only."""

from __future__ import annotations

import errno
import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.registry import VISBACKENDS
from resume_helpers import Interrupted, Watch, toy_runner

from backbones.training import run_logging, trackers
from backbones.training.resuming import ResumeHook
from backbones.training.trackers import STATE_FILE, Place, Tracker, as_number, choose_trackers

TRAIN = dict(loss=2.0, lr=0.1, time=0.5, iter=10, epoch=1)
VAL = {'coco/bbox_mAP': 0.25, 'time': 0.75, 'data_time': 0.1}


def place(folder: Path, iteration: int = 0, due: bool = False, branch: bool = False, now: int = 20) -> Place:
    """A run that is at step `iteration` when it starts, and at `now` when it validates."""
    return Place(folder, iteration, due, branch, lambda: now)


def tracker(kind: str, folder: Path, **options: Any) -> Tracker:
    """A tracker as a config builds it."""
    found = VISBACKENDS.build(dict(type=f'backbones.{trackers.TYPES[kind]}', save_dir=str(folder / 'vis'), **options))
    found.add_config(Config(dict(optim_wrapper=dict(lr=0.1), model=dict(type='toy'), train_cfg=dict(steps=[1, 2]))))
    return found


def events(folder: Path) -> Any:
    """What TensorBoard shows."""
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / 'tensorboard'), size_guidance=dict(scalars=0, images=0))
    return found.Reload()


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Steps and values of one curve in TensorBoard."""
    return [(event.step, round(event.value, 4)) for event in events(folder).Scalars(tag)]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What trackers say in the log."""
    found: list[str] = []
    for module in ('trackers', 'wandb_tracker', 'mlflow_tracker'):
        monkeypatch.setattr(f'backbones.training.{module}.print_log', lambda text, **more: found.append(text))
    return found


# --- TensorBoard


def test_tensorboard_shows_numbers_of_steps_and_validations_config_and_pictures(tmp_path: Path) -> None:
    board = tracker('tensorboard', tmp_path)
    board.begin(place(tmp_path))
    board.add_scalars(TRAIN, step=10)
    board.add_scalars(VAL, step=1)  # as LoggerHook counts epochs; the run is at step 20
    board.add_image('samples/a', np.full((8, 12, 3), 200, np.uint8), step=20)
    found = events(tmp_path)  # nothing was closed: as after a kill
    assert points(tmp_path, 'train/loss') == [(10, 2.0)]
    assert points(tmp_path, 'val/bbox_mAP') == [(20, 0.25)]
    assert points(tmp_path, 'train/time') == [(10, 0.5)] and points(tmp_path, 'val/time') == [(20, 0.75)]
    picture, = found.Images('samples/a')
    assert (picture.step, picture.width, picture.height) == (20, 12, 8)
    text = found.Tensors('config')[0].tensor_proto.string_val[0].decode()
    assert json.loads(text)['train_cfg'] == dict(steps=[1, 2])


def test_a_run_that_goes_on_shows_no_point_twice_in_tensorboard(tmp_path: Path) -> None:
    first = tracker('tensorboard', tmp_path)
    first.begin(place(tmp_path))
    for step in (10, 20, 30):
        first.add_scalars(dict(loss=1.0, iter=step), step=step)
    first.add_image('samples/a', np.zeros((4, 4, 3), np.uint8), step=20)
    first.add_scalars(VAL, step=20)  # then it was killed; its last checkpoint was at step 20, before the validation
    second = tracker('tensorboard', tmp_path)
    second.begin(place(tmp_path, iteration=20, due=True))
    for name in 'ab':
        second.add_image(f'samples/{name}', np.zeros((4, 4, 3), np.uint8), step=20)
    second.add_scalars(VAL, step=20)
    second.add_scalars(dict(loss=0.5, iter=30), step=30)
    assert points(tmp_path, 'train/loss') == [(10, 1.0), (20, 1.0), (30, 0.5)]
    assert points(tmp_path, 'val/bbox_mAP') == [(20, 0.25)]
    assert [len(events(tmp_path).Images(f'samples/{name}')) for name in 'ab'] == [1, 1]


def test_a_new_run_in_a_folder_of_a_dead_one_replaces_its_points(tmp_path: Path) -> None:
    for value in (1.0, 0.5):
        board = tracker('tensorboard', tmp_path)
        board.begin(place(tmp_path))
        board.add_scalars(dict(loss=value, iter=10), step=10)
    assert points(tmp_path, 'train/loss') == [(10, 0.5)]


def test_a_full_disk_is_one_warning_and_later_points_are_readable(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tracker('tensorboard', tmp_path)
    board.begin(place(tmp_path))
    board.add_scalars(dict(loss=1.0, iter=10), step=10)

    def half(event: Any) -> None:
        board._file.write(b'torn')
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(board, '_record', half)
        for step in (20, 30):
            board.add_scalars(dict(loss=1.0, iter=step), step=step)
    assert len(said) == 1 and 'No space left on device' in said[0] and 'the run goes on' in said[0]
    board.add_scalars(dict(loss=1.0, iter=40), step=40)
    assert [step for step, _ in points(tmp_path, 'train/loss')] == [10, 40]


def test_a_tracker_that_is_the_default_and_cannot_start_is_a_warning_and_one_asked_for_a_refusal(
    tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / 'tensorboard').write_text('in the way')
    board = tracker('tensorboard', tmp_path)
    board.begin(place(tmp_path))
    board.add_scalars(TRAIN, step=10)
    assert len(said) == 1 and said[0].startswith('tensorboard: ')
    with pytest.raises(ValueError, match=r'--log tensorboard: it cannot be used .*tensorboard'):
        tracker('tensorboard', tmp_path, required=True).begin(place(tmp_path))


@pytest.mark.parametrize('content', ['', '{"tensorboard"', '[1]', '{"tensorboard": 3}', '\x00'])
def test_a_damaged_record_of_an_earlier_start_counts_as_none(tmp_path: Path, content: str, said: list[str]) -> None:
    (tmp_path / STATE_FILE).write_text(content)
    board = tracker('tensorboard', tmp_path)
    board.begin(place(tmp_path, iteration=5, due=True))
    board.add_scalars(VAL, step=5)
    assert not said and points(tmp_path, 'val/bbox_mAP') == [(20, 0.25)]


def test_values_that_are_no_numbers_are_left_out() -> None:
    values = [1, np.float32(2), torch.tensor(3.0), torch.ones(1), True, 'text', None, [1], torch.ones(2), np.ones(3)]
    assert [as_number(value) for value in values] == [1, 2, 3, 1, 1, None, None, None, None, None]


# --- a whole run


def logged_run(folder: Path, stop: int | None, state: bytes | None = None, **kind: Any) -> bytes | None:
    """A toy training with TensorBoard, as tools/train.py runs it; it may be stopped and go on."""
    backends = [dict(type='backbones.LocalVisBackend'), dict(type='backbones.TensorboardVisBackend')]
    name = f'{folder}_{stop}_{state is None}'
    runner = toy_runner(folder, 'run', images=24, validate=True,
                        visualizer=dict(type='Visualizer', vis_backends=backends, name=name), **kind)
    runner.register_hook(LoggerHook(interval=2))
    watch = Watch(stop)
    runner.register_hook(watch)
    if state is not None:
        runner.register_hook(ResumeHook(torch.load(io.BytesIO(state), weights_only=False)))
    try:
        with run_logging.logged(runner, plain=True, named=False):
            runner.train()
    except Interrupted:
        pass
    return watch.state


@pytest.mark.parametrize('kind', [dict(epochs=2), dict(iters=24)], ids=['epochs', 'iterations'])
def test_an_interrupted_run_leaves_the_curves_of_an_uninterrupted_one(tmp_path: Path, kind: dict) -> None:
    logged_run(tmp_path / 'whole', None, **kind)
    state = logged_run(tmp_path / 'parts', 8, **kind)
    logged_run(tmp_path / 'parts', None, state, **kind)
    for tag in ('train/loss', 'train/lr', 'val/sum'):
        found = points(tmp_path / 'parts' / 'run', tag)
        assert found == points(tmp_path / 'whole' / 'run', tag)
    assert found[-1][0] == 24  # steps, also where a run counts epochs


# --- which trackers


def chosen(log: list[str] | None, *backends: dict) -> tuple[list[str], list[str]]:
    """Types of the backends after `--log`, and the notes."""
    cfg = Config(dict(visualizer=dict(type='Visualizer', vis_backends=[dict(backend) for backend in backends])))
    notes = choose_trackers(cfg, log)
    return [backend['type'] for backend in cfg.visualizer.vis_backends], notes


LOCAL, BOARD = (dict(type=f'backbones.{name}VisBackend') for name in ('Local', 'Tensorboard'))


def test_log_names_the_trackers_and_leaves_those_of_other_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, 'installed', lambda name: True)
    other = dict(type='AimVisBackend')
    assert chosen(None, LOCAL, BOARD)[0] == ['backbones.LocalVisBackend', 'backbones.TensorboardVisBackend']
    assert chosen(['wandb'], LOCAL, BOARD, other)[0] == [
        'backbones.LocalVisBackend', 'AimVisBackend', 'backbones.WandbVisBackend']
    assert chosen(['none'], LOCAL, BOARD, other)[0] == ['backbones.LocalVisBackend', 'AimVisBackend']
    plain = dict(type='TensorboardVisBackend')
    assert chosen(['tensorboard', 'mlflow'], plain)[0] == ['TensorboardVisBackend', 'backbones.MLflowVisBackend']


def test_a_config_without_a_visualizer_can_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, 'installed', lambda name: True)
    cfg = Config(dict())
    choose_trackers(cfg, ['wandb'])
    assert [one['type'] for one in cfg.visualizer.vis_backends] == [
        'backbones.LocalVisBackend', 'backbones.WandbVisBackend']
    assert choose_trackers(Config(dict()), None) == []


def test_without_tensorboard_the_default_is_a_line_and_asking_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, 'installed', lambda name: False)
    kinds, notes = chosen(None, LOCAL, BOARD)
    assert kinds == ['backbones.LocalVisBackend']
    assert notes == ['no TensorBoard: pip install tensorboard; the run goes on without it']
    with pytest.raises(ValueError, match='--log tensorboard: tensorboard is not installed; pip install tensorboard'):
        chosen(['tensorboard'], LOCAL, BOARD)


@pytest.mark.parametrize(('log', 'message'), [
    (['wnadb'], 'did you mean wandb'), (['neptune'], 'choose among tensorboard, wandb, mlflow, or none'),
    (['configs/a.py'], 'give the config before --log'), (['none', 'wandb'], 'none means no tracker at all')])
def test_a_wrong_name_is_refused(log: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f'--log .*{message}'):
        chosen(log, LOCAL)


def test_tools_that_do_not_train_import_no_tracker() -> None:
    code = (
        'import sys; import backbones.training.log_files, backbones.evaluation.run, backbones.training.launch\n'
        "assert not {'tensorboard', 'wandb', 'mlflow', 'tqdm.auto'} & set(sys.modules)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- W&B


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """W&B without a login, and without a network."""
    module = pytest.importorskip('wandb')
    for name in ('WANDB_API_KEY', 'WANDB_MODE', 'WANDB_PROJECT', 'WANDB_NAME', 'WANDB_IDENTITY_TOKEN_FILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('NETRC', str(tmp_path / 'no.netrc'))
    return module


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """What the offline files of W&B hold, one dict per logged row."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for file in sorted(folder.glob('wandb/offline-run-*/*.wandb')):
        for content in log_records(file.read_bytes()):
            record = Record.FromString(content)
            if record.WhichOneof('record_type') == 'history':
                rows.append({item.key or '/'.join(item.nested_key): json.loads(item.value_json)
                             for item in record.history.item})
    return rows


def log_records(content: bytes) -> list[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB, parts of records headed by length and kind."""
    found, record, place = [], b'', 7  # behind W&B's own header
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for a header
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack('<HB', content[place + 4:place + 7])
        record += content[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(record)
            record = b''
    return found


def test_wandb_without_a_login_is_offline_and_goes_on_in_the_same_run(
    tmp_path: Path, wandb: Any, said: list[str]
) -> None:
    for iteration, steps in ((0, (10, 20)), (10, (20, 30))):
        run = tracker('wandb', tmp_path, required=True)
        run.begin(place(tmp_path, iteration=iteration))
        for step in steps:
            run.add_scalars(dict(loss=step / 10, iter=step), step=step)
        run.add_scalars(VAL)
        run.add_image('samples/a', np.zeros((4, 4, 3), np.uint8), step=20)
        run.end(0)
    wandb.teardown()  # its service writes behind
    assert 'no W&B login, so the run is logged offline' in said[0] and 'wandb sync --append' in said[1]
    identities = {file.stem for file in tmp_path.glob('wandb/offline-run-*/*.wandb')}
    assert identities == {f'run-{json.loads((tmp_path / STATE_FILE).read_text())["wandb"]["id"]}'}
    rows = wandb_rows(tmp_path)
    assert [row['iteration'] for row in rows if 'train/loss' in row] == [10, 20, 30]
    assert [row['iteration'] for row in rows if 'val/bbox_mAP' in row] == [20]


def test_wandb_that_does_not_answer_is_offline(
    tmp_path: Path, wandb: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    init, modes = wandb.init, []

    def lost(mode: str, **options: Any) -> Any:
        modes.append(mode)
        if mode == 'online':
            raise wandb.errors.CommError('Run initialization has timed out')
        return init(mode='disabled', **options)

    monkeypatch.setenv('WANDB_API_KEY', 'x' * 40)
    monkeypatch.setattr(wandb, 'init', lost)
    tracker('wandb', tmp_path, required=True).begin(place(tmp_path))
    assert modes == ['online', 'offline'] and 'no connection to W&B (Run initialization has timed out)' in said[0]


# --- MLflow


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow without a server."""
    module = pytest.importorskip('mlflow')
    for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(name, raising=False)
    return module


def test_mlflow_goes_on_in_the_same_run_with_no_step_twice(tmp_path: Path, mlflow: Any, said: list[str]) -> None:
    for iteration, steps in ((0, (10, 20)), (10, (20, 30))):
        run = tracker('mlflow', tmp_path, required=True)
        run.begin(place(tmp_path, iteration=iteration))
        for step in steps:
            run.add_scalars(dict(loss=step / 10, iter=step), step=step)
        run.add_scalars(VAL)
        run.add_image('samples/a', np.zeros((4, 4, 3), np.uint8), step=20)
        client, identity = run.experiment, run._run_id
        run.end(0)
    assert identity == json.loads((tmp_path / STATE_FILE).read_text())['mlflow']['id']
    assert [(one.step, one.value) for one in client.get_metric_history(identity, 'train/loss')] == [
        (10, 1.0), (20, 2.0), (30, 3.0)]
    assert [one.step for one in client.get_metric_history(identity, 'val/bbox_mAP')] == [20]
    found = client.get_run(identity)
    assert found.info.status == 'FINISHED' and found.data.params['optim_wrapper.lr'] == '0.1'
    assert {one.path for one in client.list_artifacts(identity)} == {'config.json', 'samples'}
    assert all(text.startswith('mlflow: run ') for text in said)


def test_a_checkpoint_that_is_not_the_newest_begins_another_mlflow_run(tmp_path: Path, mlflow: Any) -> None:
    identities = []
    for branch in (False, True):
        run = tracker('mlflow', tmp_path)
        run.begin(place(tmp_path, iteration=10, branch=branch))
        identities.append(run._run_id)
        run.end(1)
    assert len(set(identities)) == 2


def test_a_lost_mlflow_server_is_one_warning_and_holds_nobody_up(
    tmp_path: Path, mlflow: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracker('mlflow', tmp_path)
    run.begin(place(tmp_path))

    def lost(*arguments: Any, **more: Any) -> None:
        raise mlflow.exceptions.MlflowException('API request failed: connection refused')

    monkeypatch.setattr(run.experiment, 'log_batch', lost)
    for step in (10, 20, 30):
        run.add_scalars(dict(loss=1.0, iter=step), step=step)
    run.end(0)
    warned = [text for text in said if 'connection refused' in text]
    assert len(warned) == 1 and 'the run goes on' in warned[0]
