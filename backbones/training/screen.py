"""What is on the screen: the bar at the foot of a terminal, what is printed above it, and what only the log holds."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from mmengine.runner import Runner

OFTEN = 0.2  # seconds between two drawings of the bar
SMALLEST_BAR = 8  # characters
# What the bar or the line of metrics says; it stays in the log file.
SHOWN = re.compile(r'(Epoch|Iter)\((train|val)\)|(Epoch|Iter)\(test\).* eta: |Exp name: ')
# What MMEngine's Runner logs when it is built, hundreds of lines: environment and config (by `_log_env`), then hooks.
DUMP_FUNCTION = '_log_env'
DUMP = re.compile(r'\n-+\nSystem environment:|Config:\n|Hooks will be executed in the following order:\n')


def is_terminal(plain: bool = False) -> bool:
    """Whether a bar may be drawn: the standard output is a terminal that can, and nobody wants plain lines.

    A terminal that does not know its size (0 rows or columns, as below `script` without one) shows no bar.
    """
    if plain or os.environ.get('CI') or os.environ.get('TERM', 'dumb') == 'dumb':
        return False
    try:
        return sys.stdout.isatty() and _has_a_size(sys.stdout)
    except (AttributeError, ValueError):  # closed, or replaced by something else
        return False


def _has_a_size(stream: TextIO) -> bool:
    try:
        return all(os.get_terminal_size(stream.fileno()))
    except (AttributeError, ValueError, OSError):  # no terminal of the system, such as that of a notebook
        return True


@contextlib.contextmanager
def dumps_in_the_log_only() -> Iterator[None]:
    """Keep the environment, the config and the hooks of Runners that are built meanwhile from the screen.

    Their log file holds them; one line says where that is.
    """
    before = Runner.build_logger

    def build_logger(runner: Runner, *args: Any, **kwargs: Any) -> logging.Logger:
        logger = before(runner, *args, **kwargs)
        files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        for handler in logger.handlers:
            if files and isinstance(handler, logging.StreamHandler) and handler not in files:
                handler.addFilter(_is_no_dump)
        if files:
            path, here = Path(files[0].baseFilename), Path.cwd()
            path = path.relative_to(here) if path.is_relative_to(here) else path
            logger.info(f'log file, with environment, config and hooks: {path}')
        return logger

    Runner.build_logger = build_logger
    try:
        yield
    finally:
        Runner.build_logger = before


class Screen:
    """One bar on the standard output; lines that are printed meanwhile appear above it.

    Args:
        total: what the bar counts to.
        logger: MMEngine's; its lines about single steps stay in its file.
    """

    def __init__(self, total: int, logger: logging.Logger) -> None:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread: data-loader workers are forked
        tqdm.set_lock(threading.RLock())  # no semaphore of the system
        self._out, self._errors = sys.stdout, sys.stderr
        self._bar = tqdm(total=total, file=self._out, leave=False, dynamic_ncols=True, bar_format='{desc}')
        self._drawn = 0.0
        self._above = _Above(self._out, self._bar)
        self._proxies = [('stdout', self._out, self._above)]
        if self._errors.isatty():
            self._proxies.append(('stderr', self._errors, _Above(self._out, self._bar)))
        for name, _, proxy in self._proxies:
            setattr(sys, name, proxy)
        self._handlers = [
            handler for handler in logger.handlers
            if isinstance(handler, logging.StreamHandler) and getattr(handler, 'stream', None) is self._out]
        for handler in self._handlers:
            handler.setStream(self._above)
            handler.addFilter(_is_news)

    def show(self, state: str, done: int, facts: Sequence[str] = (), total: int | None = None, now: bool = False
             ) -> None:
        """Draw the bar, unless that has just been done.

        Args:
            state: what is going on.
            done: how far the bar is.
            facts: behind the bar, as many as there is room for; the first is the most important.
            total: what it counts to from now on.
            now: draw it in any case.
        """
        moment = time.monotonic()
        if self._bar is None or (not now and moment - self._drawn < OFTEN):
            return
        self._drawn = moment
        columns = shutil.get_terminal_size().columns
        with self._bar.get_lock():
            self._bar.total = total if total is not None else self._bar.total
            self._bar.n = min(done, self._bar.total)
            self._bar.bar_format = bar_format(state, facts, columns)
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar away, and leave everything as it was."""
        if self._bar is None:
            return
        for handler in self._handlers:
            handler.setStream(self._out)
            handler.removeFilter(_is_news)
        for name, before, proxy in self._proxies:
            proxy.finish()
            if getattr(sys, name) is proxy:
                setattr(sys, name, before)
        self._bar.close()
        self._bar = None


def bar_format(state: str, facts: Sequence[str], columns: int) -> str:
    """The bar as tqdm takes it: state, percentage, bar, and of the facts what fits into a line of `columns`."""
    room = columns - len(state) - len('  100%||') - SMALLEST_BAR - 1
    tail = ''
    for fact in facts:
        if len(tail) + 2 + len(fact) > room:
            break
        tail += f'  {fact}'
    escaped = (text.replace('{', '{{').replace('}', '}}') for text in (state, tail))
    state, tail = escaped
    return f'{state}  {{percentage:3.0f}}%|{{bar}}|{tail}'


class _Above(io.TextIOBase):
    """A text stream whose whole lines appear above a bar."""

    def __init__(self, stream: TextIO, bar: Any) -> None:
        self._stream, self._bar, self._rest = stream, bar, ''

    def write(self, text: str) -> int:
        """Print what are whole lines; the rest waits for its end."""
        with self._bar.get_lock():
            whole, line, self._rest = (self._rest + text).rpartition('\n')
            if line:
                self._bar.clear(nolock=True)
                self._stream.write(f'{whole}\n')
                self._stream.flush()
                self._bar.refresh(nolock=True)
        return len(text)

    def finish(self) -> None:
        """Print what has no line end."""
        if self._rest:
            self.write('\n')

    def flush(self) -> None:
        """Lines are flushed as they are printed."""

    def isatty(self) -> bool:
        """As the stream below."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """As the stream below."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """As the stream below."""
        return self._stream.encoding


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the bar does not say it."""
    return not SHOWN.match(str(record.msg))


def _is_no_dump(record: logging.LogRecord) -> bool:
    """Whether it is none of what `dumps_in_the_log_only` keeps from the screen."""
    return record.funcName != DUMP_FUNCTION and not DUMP.match(str(record.msg))
