"""What each data-loader worker is doing, in a small file that outlives it.

A worker writes the index of the sample that it begins and ends, by one memory write each (below 1 microsecond). When it
is killed or stopped, the main process reads there which sample it had.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import struct
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

SLOT = struct.Struct('<qqqd')  # pid, working on a sample, its index, since when (monotonic)
PID = re.compile(r'DataLoader worker \(pid(?:\(s\))?:? ?([\d, ]+)\)')
KILLED = re.compile(r'DataLoader worker \(pid.*?\) (is killed by signal: (?P<signal>[^.]+)|exited unexpectedly)')
LOADER = 'torch/utils/data/dataloader.py'
DYING_SECONDS = 2  # between the closed socket of a worker and its death
STATES = dict(
    R='running', S='sleeping', D='waiting for a disk', T='stopped by a signal', t='traced', Z='dead', X='dead')


@dataclass(frozen=True)
class Note:
    """One worker.

    Attributes:
        worker: its number.
        pid: its process.
        working: whether it was loading a sample, else it had finished one.
        index: of that sample in the data set.
        seconds: since it began, or finished.
    """

    worker: int
    pid: int
    working: bool
    index: int
    seconds: float


class WorkerNotes:
    """The notes of one data loader's workers; to be attached before its workers start.

    Args:
        loader: a map-style one with workers; of any other there is nothing to note.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.path = loader, None
        if not getattr(loader, 'num_workers', 0) or isinstance(loader.dataset, IterableDataset):
            return
        handle, path = tempfile.mkstemp(prefix='worker_notes.')
        with os.fdopen(handle, 'wb') as file:
            file.truncate(SLOT.size * loader.num_workers)
        self.path = Path(path)
        self._remove = weakref.finalize(self, _unlink, path, os.getpid())
        loader.worker_init_fn = _Start(path, getattr(loader, 'worker_init_fn', None))

    def read(self) -> list[Note]:
        """The notes of the workers that have begun."""
        content, now = self.path.read_bytes() if self.path else b'', time.monotonic()
        entries = enumerate(SLOT.iter_unpack(content))
        return [Note(i, pid, bool(work), index, now - since) for i, (pid, work, index, since) in entries if pid]

    def describe(self, note: Note) -> str:
        """E.g. `worker 1 (pid 123, stopped by a signal) has been loading sample 17 (a.jpg) for 30 s`."""
        state = process_state(note.pid)
        what = f'sample {note.index}{sample_file(self.loader.dataset, note.index)}'
        who = f'worker {note.worker} (pid {note.pid}, {state})'
        if note.index < 0:
            return f'{who} has not begun a sample'
        if note.working:
            return f'{who} has been loading {what} for {note.seconds:.0f} s'
        return f'{who} has had nothing to load for {note.seconds:.0f} s, since {what}'

    def close(self) -> None:
        """Remove the file."""
        if self.path:
            self._remove()


class _Start:
    """The worker_init_fn: calls the one there was, then notes what the data set is asked for."""

    def __init__(self, path: str, inner: Callable[[int], None] | None) -> None:
        self.path, self.inner = path, inner

    def __call__(self, worker: int) -> None:
        if self.inner is not None:
            self.inner(worker)
        dataset = get_worker_info().dataset
        # The fetcher asks the instance first; so the class of the data set stays what it is.
        with contextlib.suppress(AttributeError):
            dataset.__getitems__ = _NotedSamples(dataset, self.path, worker)


class _NotedSamples:
    """Samples of a batch, one by one, with a note before and after each."""

    def __init__(self, dataset: Any, path: str, worker: int) -> None:
        self.dataset, self.several = dataset, getattr(dataset, '__getitems__', None)
        with open(path, 'r+b') as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.offset = SLOT.size * worker
        self._note(False, -1)

    def __call__(self, indices: list) -> list:
        if self.several is not None:
            self._note(True, indices[0])
            samples = self.several(indices)
            self._note(False, indices[-1])
            return samples
        return [self._one(index) for index in indices]

    def _one(self, index: Any) -> Any:
        self._note(True, index)
        sample = self.dataset[index]
        self._note(False, index)
        return sample

    def _note(self, working: bool, index: Any) -> None:
        try:
            number = int(index)
        except (TypeError, ValueError):  # a sampler with keys of its own
            number = -1
        SLOT.pack_into(self.memory, self.offset, os.getpid(), working, number, time.monotonic())


def process_state(pid: int) -> str:
    """What the system says about a process."""
    try:
        letter = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (OSError, IndexError):
        return 'dead' if Path('/proc/self/stat').exists() else 'state unknown'
    return STATES.get(letter, letter)


def sample_file(dataset: Any, index: int) -> str:
    """` (path)` of a sample, as data sets of MMEngine know it, or nothing."""
    with contextlib.suppress(Exception):  # a data set of any kind, while something else is already wrong
        info = dataset.get_data_info(index)
        path = info.get('img_path') or info.get('file_name') or info.get('filename')
        return f' ({path})' if path else ''
    return ''


def explain_worker_death(error: BaseException | str, notes: list[WorkerNotes]) -> str | None:
    """One sentence for an error that the death of a worker caused; None for any other error.

    PyTorch's own message names the worker. Where the kill fell while a batch was being received, the error is whatever
    the broken socket gives (EOFError, ConnectionResetError, FileNotFoundError, ...): then the exit codes decide.
    """
    chain = list(_chain(error)) if isinstance(error, BaseException) else [error]
    texts = [str(item) for item in chain]
    ends = _ended_workers(chain)
    pids = [int(pid) for text in texts for group in PID.findall(text) for pid in re.findall(r'\d+', group)]
    if not any(KILLED.search(text) for text in texts):
        if not ends:
            return None
        pids = list(ends)
    cause = next((match['signal'] for text in texts if (match := KILLED.search(text)) and match['signal']), None)
    cause = cause or next((signal.strsignal(-code) for code in ends.values() if code < 0), None)
    code = next(iter(ends.values()), 0)
    ended = f'was killed by signal: {_signal_name(cause)}' if cause else (
        f'ended with exit code {code}' if code > 0 else 'ended without an error')
    known = [(one, note) for one in notes for note in one.read() if note.pid in pids]
    if not known:
        return f'data-loader worker (pid {", ".join(map(str, pids))}) {ended}; what it was loading is not known'
    return '; '.join(_death(one, note, ended) for one, note in known) + _remedy(cause)


def _ended_workers(chain: list[Any]) -> dict[int, int]:
    """Exit codes by process of the workers that failed, of the loader that the errors come from.

    A dying process closes its sockets before its parent can see that it is dead: hence a short wait.
    """
    workers = _workers(chain)
    texts = [str(item) for item in chain]
    if any(text.startswith('Caught ') and 'in DataLoader worker process' in text for text in texts):
        return {}  # a worker that tells of an error lives
    with _deaths_not_heard():
        living = [worker.sentinel for worker in workers if worker.exitcode is None]
        if living and not any(worker.exitcode for worker in workers):
            for sentinel in multiprocessing.connection.wait(living, DYING_SECONDS):
                next(worker for worker in workers if worker.sentinel == sentinel).join(DYING_SECONDS)
        return {worker.pid: worker.exitcode for worker in workers if worker.exitcode}


def _workers(chain: list[Any]) -> list[multiprocessing.Process]:
    """The workers of the loader through whose iterator an error came."""
    for error in chain:
        for frame, _ in traceback.walk_tb(getattr(error, '__traceback__', None)):
            iterator = frame.f_locals.get('self')
            if LOADER in frame.f_code.co_filename and getattr(iterator, '_workers', None):
                return list(iterator._workers)
    return []


@contextlib.contextmanager
def _deaths_not_heard() -> Iterator[None]:
    """For a while, let PyTorch's handler of SIGCHLD not raise wherever the main thread is: it would be here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handler = signal.signal(signal.SIGCHLD, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler if handler is not None else signal.SIG_DFL)
        if heard and callable(handler):  # it raises once for each loader: better here than while the process ends
            with contextlib.suppress(RuntimeError):
                handler(heard[0], None)


def _death(notes: WorkerNotes, note: Note, ended: str) -> str:
    what = f'sample {note.index}{sample_file(notes.loader.dataset, note.index)}'
    doing = 'before its first sample' if note.index < 0 else f'while it loaded {what}'
    if note.index >= 0 and not note.working:
        doing = f'between two samples, after {what}'
    return f'data-loader worker {note.worker} (pid {note.pid}) {ended}, {doing}'


def _signal_name(cause: str) -> str:
    by_text = {signal.strsignal(number): number.name for number in signal.Signals}
    return f'{by_text[cause]} ({cause})' if cause in by_text else cause


def _remedy(cause: str | None) -> str:
    if cause == signal.strsignal(signal.SIGKILL):
        return '; the system does that when memory runs out: use fewer workers or smaller images'
    if cause == signal.strsignal(signal.SIGBUS):
        return '; mostly /dev/shm is full: use fewer workers, or give the container more shared memory'
    return '; load that sample alone to see more'


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _unlink(path: str, pid: int) -> None:
    if os.getpid() == pid:
        Path(path).unlink(missing_ok=True)
