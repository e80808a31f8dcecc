"""What training logs stays on the device until somebody asks: one transfer per log line instead of one per number.

MMEngine's RuntimeInfoHook reads each loss with `.item()` in each iteration, and each of these makes the host wait until
the GPU has done all that was queued. Here the numbers of an iteration are put into one small tensor on the device; the
first look at a history (LoggerHook's at its interval, a checkpoint's, anybody's) reads all that has gathered at once.
The histories then hold what MMEngine's would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook as PlainHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner
from torch import Tensor

from backbones.registry import HOOKS

MOST = 1000  # iterations that may gather unread


class Unread:
    """Numbers on a device whose histories have not got them yet."""

    def __init__(self) -> None:
        self._steps: list[tuple[list[LateHistory], Tensor]] = []

    def add(self, histories: list[LateHistory], values: list[Tensor]) -> None:
        """Take one number for each history, in one call per dtype and device."""
        kinds: dict[tuple, list[int]] = {}
        for place, value in enumerate(values):
            kinds.setdefault((value.dtype, value.device), []).append(place)
        for places in kinds.values():
            # a copy, because the model may go on writing into what it gave
            held = torch.stack([values[place].detach().reshape(()) for place in places])
            self._steps.append(([histories[place] for place in places], held))
        if len(self._steps) >= MOST:
            self.settle()

    def settle(self) -> None:
        """Read all numbers, with one transfer per dtype and device, and hand them to their histories."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        kinds: dict[tuple, list[Tensor]] = {}
        for _, held in steps:
            kinds.setdefault((held.dtype, held.device), []).append(held)
        numbers = {kind: iter(torch.cat(tensors).tolist()) for kind, tensors in kinds.items()}
        gathered: dict[int, tuple[LateHistory, list]] = {}
        for histories, held in steps:
            for history in histories:
                number = next(numbers[held.dtype, held.device])
                gathered.setdefault(id(history), (history, []))[1].append(number)
        for history, found in gathered.values():
            history.extend(found)


class LateHistory(HistoryBuffer):
    """MMEngine's HistoryBuffer, some of whose numbers may still lie on a device; any look at it reads them.

    A copy or a pickle of it is a plain HistoryBuffer.

    Args:
        unread: where they lie.
        former: whose numbers come first.
    """

    def __init__(self, unread: Unread, former: HistoryBuffer | None = None) -> None:
        self._unread = unread
        self._values, self._counts = np.array([]), np.array([])
        super().__init__()
        if former is not None:
            self._values, self._counts = former.data
            self.max_length = former.max_length

    @property
    def _log_history(self) -> np.ndarray:
        self._unread.settle()
        return self._values

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def _count_history(self) -> np.ndarray:
        self._unread.settle()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    @property
    def max_length(self) -> int:
        """How many numbers are kept."""
        return self._max_length

    @max_length.setter
    def max_length(self, length: int) -> None:
        if getattr(self, '_max_length', length) != length:
            self._unread.settle()  # these are kept by the length that was
        self._max_length = length

    def extend(self, numbers: list[int | float]) -> None:
        """As many times `update`, with one copy of the history."""
        values = np.append(self._values, numbers) if len(self._values) else np.array(numbers)
        counts = np.append(self._counts, [1] * len(numbers)) if len(self._counts) else np.array([1] * len(numbers))
        self._values, self._counts = values[-self.max_length:], counts[-self.max_length:]

    def __reduce_ex__(self, protocol: int) -> tuple:
        plain = HistoryBuffer(max_length=self.max_length)
        plain._log_history, plain._count_history = self._log_history, self._count_history
        return HistoryBuffer, (), plain.__getstate__()


@HOOKS.register_module()
class RuntimeInfoHook(PlainHook):
    """MMEngine's RuntimeInfoHook without a wait for the GPU in each iteration; what is logged is the same.

    Args:
        deferred: whether the numbers that the model logs stay on their device until somebody looks; by default those on
            a GPU do.
    """

    def __init__(self, deferred: bool | None = None) -> None:
        if deferred not in (True, False, None):
            raise ValueError(f'RuntimeInfoHook: deferred={deferred!r}; give True, False or None (None: True on a GPU)')
        self.deferred = deferred
        self._unread = Unread()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Take what the model logs."""
        histories, values = [], []
        for key, value in (outputs or {}).items():
            if self._stays(value):
                histories.append(self._history(runner.message_hub, f'train/{key}'))
                values.append(value)
            else:
                runner.message_hub.update_scalar(f'train/{key}', value)
        if values:
            self._unread.add(histories, values)

    def _stays(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or value.numel() != 1:  # MMEngine says what is wrong with others
            return False
        return value.is_cuda if self.deferred is None else self.deferred

    def _history(self, hub: MessageHub, name: str) -> LateHistory:
        """The history of that name in the hub, which a resumed run has filled with plain ones."""
        hub._set_resumed_keys(name, True)
        history = hub.log_scalars.get(name)
        if not isinstance(history, LateHistory) or history._unread is not self._unread:
            hub.log_scalars[name] = history = LateHistory(self._unread, history)
        return history
