"""One prediction at a time, in a thread of its own, so that everything else is answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from backbones.serve.limits import Refused


class Worker:
    """Runs jobs one after the other. Its thread ends with the process, also in the middle of a job.

    Args:
        waiting: so many may wait beside the one that runs.

    Attributes:
        busy: whether a job runs.
    """

    def __init__(self, waiting: int) -> None:
        self.places, self.taken, self.busy, self.last_s = waiting + 1, 0, False, 1.0
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name='prediction', daemon=True).start()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the line, from before the picture is read until it is answered.

        Raises:
            Refused: all are taken (503).
        """
        if self.taken >= self.places:
            seconds = max(1, min(60, round(self.taken * self.last_s)))
            raise Refused(
                503, f'{self.places} pictures are being read or predicted already; send it again in {seconds} s',
                {'Retry-After': str(seconds)})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def submit(self, job: Callable[[], Any]) -> asyncio.Future:
        """Put a job in line; cancel what is returned, and a job that has not begun never does."""
        future = asyncio.get_running_loop().create_future()
        self._jobs.put((job, future))
        return future

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            if future.cancelled():
                continue
            self.busy, start = True, time.monotonic()
            try:
                result, error = job(), None
            except BaseException as caught:  # whatever it is, the next job must run
                result, error = None, caught
            self.busy, self.last_s = False, time.monotonic() - start
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                future.get_loop().call_soon_threadsafe(_settle, future, result, error)
            del job, future, result, error  # the picture is not kept until the next one comes


def _settle(future: asyncio.Future, result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
