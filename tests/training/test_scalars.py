"""Numbers that stay on the device: the logs say what MMEngine's say, and are read when somebody looks."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.hooks import RuntimeInfoHook as PlainHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner
from resume_helpers import Watch, assert_same_end, toy_runner, train

from backbones.training import scalars
from backbones.training.hooks import HistoryHook
from backbones.training.scalars import LateHistory, RuntimeInfoHook, Unread
from backbones.weights.read import read_state


class Chatty(Hook):
    """The model logs numbers of several kinds; one of them not always."""

    priority = 'HIGHEST'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Before RuntimeInfoHook."""
        outputs.update(
            seen=torch.tensor(runner.iter), loss_half=outputs['loss'].bfloat16()[None], plain=0.1 * runner.iter)
        if runner.iter % 3 == 1:
            outputs['sometimes'] = outputs['loss'] * 2


def logged(
    folder: Path, name: str, hook: type, state: bytes | None = None, stop: int | None = None, **kind: Any
) -> tuple[Runner, Watch]:
    """Train a toy run that logs; returns its Runner and what it saw."""
    runner = with_hook(toy_runner(folder, name, images=24, **kind), hook)
    runner.register_hook(HistoryHook(length=7))
    runner.register_hook(Chatty())
    return runner, train(runner, stop, state)


def with_hook(runner: Runner, hook: type) -> Runner:
    """Let the runner log, and this hook take the place of MMEngine's."""
    runner._hooks = [one for one in runner._hooks if not isinstance(one, PlainHook)]
    runner.register_hook(hook(deferred=True) if hook is RuntimeInfoHook else hook())
    runner.register_hook(LoggerHook(interval=5, log_metric_by_epoch=False))
    return runner


def lines(runner: Runner) -> list[dict]:
    """What the log file says, without times."""
    (file,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    return [
        {key: value for key, value in json.loads(line).items() if 'time' not in key}
        for line in file.read_text().splitlines()]


def histories(runner: Runner) -> dict[str, list]:
    """All numbers of the hub, without times."""
    found = runner.message_hub.log_scalars.items()
    return {name: [part.tolist() for part in buffer.data] for name, buffer in found if 'time' not in name}


PLAIN, LATE = PlainHook, RuntimeInfoHook
KINDS = {'epochs': dict(epochs=2, validate=True), 'iterations': dict(iters=19, validate=True)}


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_logs_and_histories_are_those_of_mmengine(tmp_path: Path, kind: dict) -> None:
    plain, _ = logged(tmp_path, 'plain', PLAIN, **kind)
    late, _ = logged(tmp_path, 'late', LATE, **kind)
    assert lines(late) == lines(plain)
    assert len(lines(plain)) > 5 and 'loss_half' in lines(plain)[1]
    assert isinstance(late.message_hub.get_scalar('train/loss'), LateHistory)
    assert histories(late) == histories(plain)


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
@pytest.mark.parametrize('hooks', [(LATE, LATE), (PLAIN, LATE), (LATE, PLAIN)], ids=['late', 'to late', 'to plain'])
def test_a_resumed_run_logs_what_the_uninterrupted_one_does(tmp_path: Path, kind: dict, hooks: tuple) -> None:
    whole, _ = logged(tmp_path, 'whole', PLAIN, **kind)
    _, first = logged(tmp_path, 'first', hooks[0], stop=8, **kind)
    second, _ = logged(tmp_path, 'second', hooks[1], first.state, **kind)
    assert_same_end(second, whole)
    assert histories(second) == histories(whole)
    assert lines(second)[-3:] == lines(whole)[-3:]


def test_nothing_is_read_between_two_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    runner = with_hook(toy_runner(tmp_path, 'run', images=40, epochs=1), LATE)
    runner.register_hook(HistoryHook())
    settle = Unread.settle

    def counted(self: Unread) -> None:
        if self._steps:
            reads.append(len(self._steps))
        settle(self)

    monkeypatch.setattr(Unread, 'settle', counted)
    train(runner)
    assert reads == [1, 4, 5, 5, 5]  # HistoryHook sets the length once


def test_numbers_that_nobody_reads_are_read_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalars, 'MOST', 4)
    unread = Unread()
    history = LateHistory(unread)
    for number in range(6):
        unread.add([history], [torch.tensor(float(number))])
    assert history._values.tolist() == [0, 1, 2, 3]
    assert history.mean() == 2.5


def test_a_tensor_that_the_model_goes_on_writing_into_counts_with_the_value_it_had() -> None:
    unread, value = Unread(), torch.tensor(1.0)
    history = LateHistory(unread)
    unread.add([history], [value])
    value.fill_(5)
    assert history.current() == 1


def test_a_shorter_history_starts_with_the_next_number() -> None:
    late, plain, unread = LateHistory(unread := Unread()), HistoryBuffer(), unread
    for buffer in (late, plain):
        for number in range(5):
            unread.add([late], [torch.tensor(float(number))]) if buffer is late else plain.update(float(number))
        buffer.max_length = 3
        assert buffer.data[0].tolist() == [0, 1, 2, 3, 4]
        unread.add([late], [torch.tensor(9.0)]) if buffer is late else plain.update(9.0)
        assert buffer.data[0].tolist() == [3, 4, 9]


def test_copies_and_files_hold_plain_histories(tmp_path: Path) -> None:
    unread = Unread()
    history = LateHistory(unread, HistoryBuffer([0.5], [1], max_length=9))
    unread.add([history], [torch.tensor(2.0)])
    for other in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert type(other) is HistoryBuffer
        assert (other.data[0].tolist(), other.max_length) == ([0.5, 2.0], 9)
    content = io.BytesIO()
    torch.save(dict(message_hub=dict(log_scalars=dict(loss=history)), state_dict=dict(a=torch.ones(1))), content)
    (tmp_path / 'file.pth').write_bytes(content.getvalue())
    assert 'a' in read_state(tmp_path / 'file.pth')  # our own reader knows MMEngine's class only


def test_a_number_by_another_way_comes_in_its_turn() -> None:
    hub, unread = MessageHub('another way'), Unread()
    hub.log_scalars['train/loss'] = history = LateHistory(unread)
    unread.add([history], [torch.tensor(1.0)])
    hub.update_scalar('train/loss', np.float32(2))
    unread.add([history], [torch.tensor(3.0)])
    assert history.data[0].tolist() == [1, 2, 3]
    assert history.statistics('mean', window_size=2) == 2.5


def test_on_a_cpu_numbers_are_taken_at_once() -> None:
    assert not RuntimeInfoHook()._stays(torch.tensor(1.0))
    assert not RuntimeInfoHook(deferred=True)._stays(torch.ones(2))
    with pytest.raises(ValueError, match="deferred='yes'; give True, False or None"):
        RuntimeInfoHook(deferred='yes')
