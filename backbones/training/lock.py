"""One run per work folder: a lock file that names its holder, and tells a dead holder from a living one."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from backbones.processes import process_start
from backbones.registry import HOOKS
from backbones.training.exits import launched_rank

LOCK_FILE = 'run.lock'
HEARTBEAT_SECONDS = 30  # the holder touches its lock that often
STALE_SECONDS = 300  # a lock of another machine that was not touched for so long is left over


def machine() -> str:
    """What must be equal for a process id to mean the same process: host, boot, and namespace of a container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
        parts.append(os.readlink('/proc/self/ns/pid'))
    return '/'.join(parts)


class WorkFolderLock:
    """The lock of a work folder; of several ranks only rank 0 takes it.

    What this process holds already it may take again; the lock then stays until the first one releases it.

    Args:
        folder: the work folder; made if it is not there.
        rank: of this process; default: what the launcher said.
    """

    def __init__(self, folder: Path | str, rank: int | None = None) -> None:
        self.path = Path(folder) / LOCK_FILE
        self._rank = launched_rank() if rank is None else rank
        self._mine: dict | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the lock, also over a dead holder, which is logged.

        Raises:
            ValueError: a run goes on in the folder, or nothing can be written there.
        """
        if self._rank != 0 or self._mine is not None:
            return
        mine = dict(
            token=uuid.uuid4().hex, host=socket.gethostname(), machine=machine(), pid=os.getpid(),
            started=process_start(os.getpid()), command=shlex.join(sys.argv), time=time.strftime('%F %T'),
            job=os.environ.get('SLURM_JOB_ID'), restarts=os.environ.get('SLURM_RESTART_COUNT', '0'))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(self.path.parent):
                while not _create(self.path, json.dumps(mine)):
                    if _is_of(_read(self.path), mine):
                        return
                    self._remove_if_stale(mine)
        except OSError as error:
            raise ValueError(
                f'the work folder {self.path.parent} cannot be written ({error}); correct its permissions or free some '
                'space, or choose another --work-dir'
            ) from error
        self._mine = mine
        atexit.register(self.release)
        threading.Thread(target=self._beat, name='work folder lock', daemon=True).start()

    def release(self) -> None:
        """Remove the lock, if it is still this process's."""
        mine, self._mine = self._mine, None
        if mine is None or mine['pid'] != os.getpid():  # a forked process is not the holder
            return
        self._stop.set()
        atexit.unregister(self.release)
        with contextlib.suppress(OSError):
            if (_read(self.path) or {}).get('token') == mine['token']:
                self.path.unlink()

    def __enter__(self) -> WorkFolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _remove_if_stale(self, mine: dict) -> None:
        """Remove the lock that is there.

        Raises:
            ValueError: its holder lives.
        """
        try:
            age = _now_on(self.path.parent) - self.path.stat().st_mtime
        except FileNotFoundError:  # released at this moment
            return
        holder = _read(self.path)
        why = _why_stale(holder, mine, age)
        if why is None:
            who = (
                f"process {holder['pid']} on {holder['host']}, started {holder['time']} as `{holder['command']}`"
                if holder else 'a process that has not yet written its name'
            )
            raise ValueError(
                f'another run goes on in {self.path.parent}: {who} (last sign of life {max(age, 0):.0f} s ago); wait '
                f'for its end, choose another --work-dir, or delete {self.path} if you know that it is dead'
            )
        print_log(f'{self.path} was left behind ({why}) and is taken over', logger='current', level=logging.WARNING)
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Show that the holder lives, and say if somebody took the lock away."""
        while not self._stop.wait(HEARTBEAT_SECONDS):
            mine = self._mine
            if mine is None:
                return
            try:
                if (_read(self.path) or {}).get('token') != mine['token']:
                    print_log(f'{self.path} was removed or taken over while this run goes on', logger='current',
                              level=logging.WARNING)
                    return
                os.utime(self.path)
            except OSError as error:
                print_log(f'{self.path} cannot be touched: {error}', logger='current', level=logging.WARNING)


def _is_of(holder: dict | None, mine: dict) -> bool:
    """Whether the process that wrote `mine` is the holder."""
    return holder is not None and all(holder[key] == mine[key] for key in ('machine', 'pid', 'started'))


def _why_stale(holder: dict | None, mine: dict, age: float) -> str | None:
    """Why a lock last touched `age` seconds ago is left over; None if it may be in use."""
    old = f'no sign of life for {age:.0f} s'
    if holder is None:  # unreadable: cut off while it was written, where the file system has no links
        return old if age > STALE_SECONDS else None
    who = f"process {holder['pid']} on {holder['host']}"
    if holder['machine'] == mine['machine']:
        start = process_start(holder['pid'])
        if start is None:
            return f'{who} is dead'
        return None if start == holder['started'] else f'{who} is dead; its number is another process now'
    if mine['job'] and holder['job'] == mine['job'] and holder['restarts'] != mine['restarts']:
        return f"{who} was an earlier start of Slurm job {mine['job']}"
    return f'{who}: {old}' if age > STALE_SECONDS else None


def _create(path: Path, content: str) -> bool:
    """Create `path` whole, or return False if it is there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'w') as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            with contextlib.suppress(FileExistsError):
                with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), 'w') as file:
                    file.write(content)
                return True
            return False
        return True
    finally:
        os.unlink(temporary)


def _read(path: Path) -> dict | None:
    """The holder; None if the file is gone or holds none."""
    try:
        holder = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    keys = {'token', 'host', 'machine', 'pid', 'started', 'command', 'time', 'job', 'restarts'}
    return holder if isinstance(holder, dict) and keys <= set(holder) and isinstance(holder['pid'], int) else None


def _now_on(folder: Path) -> float:
    """The time by the clock that stamps the files of `folder`, which may be another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix='.clock.') as file:
        file.write(b'.')
        file.flush()
        return os.fstat(file.fileno()).st_mtime


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no two processes take over a left lock at once, where the file system can lock a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@HOOKS.register_module()
class WorkFolderLockHook(Hook):
    """Refuse to train in a work folder where another run goes on."""

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        """Take the lock; it is released when the process or the run ends."""
        self._lock = WorkFolderLock(runner.work_dir, runner.rank)
        self._lock.acquire()

    def after_run(self, runner: Runner) -> None:
        """Release the lock."""
        self._lock.release()
