"""The same look at many files: in this process as long as that is quick, then in several; known files from memory.

A decoder that crashes takes a worker process with it, not the tool, and the file is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHUNK = 16  # files of one task
ALONE_SECONDS = 2.0  # this process works alone at first: another one takes seconds to start
WORTH_SECONDS = 20.0  # of work must be left for others to be started
PLACE = '<file>'  # stands for the path in messages that are kept by content


@dataclass
class Facts:
    """What a look at one file found, all of it plain data.

    Args:
        fault: (kind, message, remedy) of what makes the file unusable; the message is about 'the picture' or 'the
            label map', as the path depends on where it lies.
    """

    fault: list[str] | None = None


Look = Callable[[bytes, str], Facts]  # with the attributes `facts`, its class, and `what` it looks at, for messages


class Looker:
    """Looks at files, each once.

    Args:
        workers: processes; None takes as many as there are cores.
        memory: database of `remembered.Memory`; None remembers nothing.
        alone_seconds: how long this process works alone before it starts others.
        progress: show a bar on a terminal when it takes more than two seconds.
    """

    def __init__(self, workers: int | None = None, memory: Path | None = None, *,
                 alone_seconds: float = ALONE_SECONDS, progress: bool = True) -> None:
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ValueError(f'workers={workers!r} must be a whole number of 1 or more; leave it out for one per core')
        self.workers = workers or _cores()
        self.memory, self.alone_seconds, self.progress = memory, alone_seconds, progress
        self.told: set[tuple[str, str]] = set()  # (path, kind) that a finding has been made of
        self._known: dict[tuple[str, str], Facts] = {}

    def first_time(self, path: str, kind: str) -> bool:
        """Tell whether this was not asked before: a picture of two data sets is reported once."""
        before = len(self.told)
        self.told.add((path, kind))
        return len(self.told) > before

    def look(self, look: Look, paths: Sequence[str], title: str) -> list[Facts]:
        """Return what `look`, a function of a module, finds in the content of each file."""
        new = [path for path in dict.fromkeys(paths) if (look.__name__, path) not in self._known]
        for path, facts in self._look_at_new(look, new, title):
            self._known[look.__name__, path] = facts
        return [self._known[look.__name__, path] for path in paths]

    def _look_at_new(self, look: Look, paths: list[str], title: str) -> Iterator[tuple[str, Facts]]:
        from tqdm import tqdm

        from .remembered import Memory

        chunks = [paths[i:i + CHUNK] for i in range(0, len(paths), CHUNK)]
        writer, fresh = Memory(self.memory), {}
        bar = tqdm(total=len(paths), desc=title, unit='file', delay=2, leave=False,
                   disable=None if self.progress else True)
        with contextlib.closing(writer), bar:
            for found in self._chunks(look, chunks):
                for path, key, facts in found:
                    if key is not None:
                        fresh[key] = asdict(facts)
                    yield path, facts
                bar.update(len(found))
                if len(fresh) > 5000:
                    writer.add(fresh)
                    fresh = {}
            writer.add(fresh)

    def _chunks(self, look: Look, chunks: list[list[str]]) -> Iterator[list]:
        start = time.monotonic()
        for done, chunk in enumerate(chunks):
            seconds = time.monotonic() - start
            left = seconds / max(done, 1) * (len(chunks) - done)
            if self.workers > 1 and seconds >= self.alone_seconds and (
                    left > WORTH_SECONDS or not self.alone_seconds):
                yield from self._in_processes(look, chunks[done:])
                return
            yield _look_at_chunk(look, chunk, self.memory)

    def _in_processes(self, look: Look, chunks: list[list[str]]) -> Iterator[list]:
        lost: list[list[str]] = []
        with _pool(self.workers, self.memory) as pool:
            tasks = {pool.submit(_work, look, chunk): chunk for chunk in chunks}
            for task in as_completed(tasks):
                try:
                    yield task.result()
                except BrokenProcessPool:  # of all that were not done when one worker died
                    lost.append(tasks[task])
        while lost:
            lost = yield from self._one_by_one(look, [path for chunk in lost for path in chunk])

    def _one_by_one(self, look: Look, paths: list[str]) -> Iterator[list]:
        """Look at one file at a time in one process; return what is left after one that kills it."""
        with _pool(1, self.memory) as pool:
            for place, path in enumerate(paths):
                try:
                    yield pool.submit(_work, look, [path]).result()
                except BrokenProcessPool:
                    fault = ['decoder crash', 'the process that decoded the file died', 'replace the file']
                    yield [(path, None, _blank(look, fault))]
                    return [[path] for path in paths[place + 1:]]
        return []


def _cores() -> int:
    try:
        return max(len(os.sched_getaffinity(0)), 1)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _pool(workers: int, memory: Path | None) -> ProcessPoolExecutor:
    """Return processes that share nothing with this one; what they import is imported once for all where that works."""
    way = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
    context = multiprocessing.get_context(way)
    if way == 'forkserver':
        context.set_forkserver_preload([f'{__package__}.worker'])
    return ProcessPoolExecutor(workers, context, _start_worker, (memory,))


_memory_of_worker: list[Path | None] = []


def _start_worker(memory: Path | None) -> None:
    from . import worker

    worker.prepare()
    _memory_of_worker[:] = [memory]


def _work(look: Look, chunk: list[str]) -> list[tuple[str, bytes | None, Facts]]:
    return _look_at_chunk(look, chunk, _memory_of_worker[0])


def _blank(look: Look, fault: list[str]) -> Facts:
    facts = look.facts()
    facts.fault = fault
    return facts


def _look_at_chunk(look: Look, chunk: Iterable[str], file: Path | None) -> list[tuple[str, bytes | None, Facts]]:
    """Return path, key of what is to be remembered (None: nothing new) and facts of each file."""
    from .remembered import Memory

    found = []
    with contextlib.closing(Memory(file)) as memory, quiet(), decoder_words() as words:
        for path in chunk:
            found.append((path, *_look_at_file(look, path, memory, words)))
    return found


def _look_at_file(look: Look, path: str, memory: Any, words: Callable[[], str]) -> tuple[bytes | None, Facts]:
    from ..data.bad_samples import BadSampleError
    from ..data.images import read_content
    from .remembered import looks_version

    try:
        content = read_content(path, kind=look.what)
    except BadSampleError as error:
        return None, _blank(look, fault_of(error, 'file unreadable', path))
    key = hashlib.blake2b(content, digest_size=16, key=looks_version(), person=look.__name__[-16:].encode()).digest()
    known = memory.get(key)
    if known is not None:
        with contextlib.suppress(TypeError):  # damaged: fields that are none
            return None, look.facts(**known)
    try:
        facts = look(content, path)
    except Exception as error:  # decoders and parsers raise whatever comes on damaged files
        return None, _blank(look, fault_of(error, 'file unreadable', path))
    facts_words = words()
    if hasattr(facts, 'decoder'):
        facts.decoder = facts_words
    return key, facts


def fault_of(error: Exception, kind: str, path: str) -> list[str]:
    """Return kind, message and remedy of an error, without the path."""
    from ..data.files import shown
    from ..findings import finding_of

    found = finding_of(error, kind)
    texts = [text.replace(f' {shown(path)}', '').replace(f' {PLACE}', '') for text in (found.message, found.remedy)]
    return [kind, *texts]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the readers log of single files is not printed: it becomes a finding."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def decoder_words() -> Iterator[Callable[[], str]]:
    """Catch what decoders in C write to the error output; the value tells what came since it was last asked."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def words() -> str:
            if not os.fstat(file.fileno()).st_size:
                return ''
            file.seek(0)
            text = file.read(400).decode(errors='replace')
            file.seek(0)
            file.truncate()
            return ' '.join(text.split())

        try:
            yield words
        finally:
            os.dup2(kept, 2)
            os.close(kept)
