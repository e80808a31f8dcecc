"""How a run ends before its time: exit codes, and a note of the last one in the work folder. Table: docs/guards.md."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from backbones.files import write_json

SAVED = 85  # ended by a signal, everything saved: start again with --resume
HUNG = 86  # the watchdog ended a run that stood still
NON_FINITE = 87  # too many steps in a row had a non-finite loss or gradient
WORKER_DIED = 88  # a data-loader worker was killed
EXIT_FILE = 'last_exit.json'
RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')  # torchrun, srun, mpirun
_ends_with_run = False  # see ending_with_the_run


@contextlib.contextmanager
def ending_with_the_run() -> Iterator[None]:
    """Around the work of a tool: an error that leaves its run ends the process, and nobody goes on after it."""
    global _ends_with_run
    before, _ends_with_run = _ends_with_run, True
    try:
        yield
    finally:
        _ends_with_run = before


def process_ends_with_run() -> bool:
    """Whether this process is one of our tools; else a notebook, a test or another project's program may go on."""
    return _ends_with_run


class RunEnded(SystemExit):
    """A run that ends early in an orderly way; uncaught, the process exits with `code` and without a traceback.

    Args:
        code: one of the exit codes of this module.
        message: one sentence, already shown in the log.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        """The sentence."""
        return self.message


def note_exit(work_dir: Path | str, code: int, reason: str) -> None:
    """Write `last_exit.json` into the work folder: torchrun exits with 1 whatever the code of its processes was."""
    try:
        write_json(Path(work_dir) / EXIT_FILE, dict(code=code, reason=reason, time=time.strftime('%FT%T%z')))
    except OSError as error:
        _log(f'{EXIT_FILE} could not be written: {error}')


def forget_exit(work_dir: Path | str) -> None:
    """Remove the note of an earlier run; that of a run which cannot write is left as it is."""
    try:
        (Path(work_dir) / EXIT_FILE).unlink(missing_ok=True)
    except OSError as error:
        _log(f'{EXIT_FILE} of an earlier run could not be removed: {error}')


def launched_rank(launcher: str | None = None) -> int:
    """The rank that the launcher gave this process, known before torch.distributed is set up; 0 without a launcher."""
    if launcher == 'none':
        return 0
    return next((int(os.environ[name]) for name in RANK_VARIABLES if os.environ.get(name, '').isdigit()), 0)


def _log(text: str) -> None:
    from mmengine.logging import print_log  # here, as this module is read before a tool has parsed its command line

    print_log(text, logger='current')
