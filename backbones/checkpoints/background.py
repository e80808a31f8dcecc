"""Writing while the run goes on: one thread that brings a copy of the state to the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Writer:
    """Runs jobs one after the other in a thread of its own, or at once.

    Args:
        background: False runs each job before `submit` returns.
    """

    def __init__(self, background: bool = True) -> None:
        self._pool = ThreadPoolExecutor(1, 'checkpoint') if background else None
        self._jobs: list[Future] = []

    def submit(self, job: Callable[[], Any]) -> None:
        """Queue a job."""
        if self._pool is not None:
            self._jobs.append(self._pool.submit(job))
            return
        done: Future = Future()
        try:
            done.set_result(job())
        except Exception as error:
            done.set_exception(error)
        self._jobs.append(done)

    @property
    def busy(self) -> bool:
        """Whether a job is waited for or has a result that nobody asked for."""
        return bool(self._jobs)

    def results(self, wait: bool = False) -> list[Any]:
        """Give results and exceptions of the jobs that ended since the last call, in order.

        Args:
            wait: until all have ended.
        """
        found = []
        while self._jobs and (wait or self._jobs[0].done()):
            job = self._jobs.pop(0)
            error = job.exception()
            found.append(job.result() if error is None else error)
        return found

    def close(self) -> None:
        """End the thread after its jobs."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
