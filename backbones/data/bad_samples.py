"""What happens in training when one sample cannot be read: stop, or go on within a budget and keep a record.

The record is `bad_samples.jsonl`, one JSON object per line and event, appended by whichever worker of whichever rank
met it. It is also how they share the budget.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
from mmengine.dist import get_rank
from torch.utils.data import get_worker_info

from .files import shown

POLICIES = ('raise', 'skip')


class BadSampleError(ValueError):
    """The picture or label map of one sample cannot be used.

    Args:
        message: what is wrong and what to do.
        path: the file.
    """

    def __init__(self, message: str, path: str = '') -> None:  # one argument is enough: workers' errors are made anew
        super().__init__(message)
        self.path = path


class TooManyBadSamplesError(ValueError):
    """The budget of `on_bad_sample='skip'` is spent."""


class BadSampleMixin:
    """Put before an MMEngine data set in the list of bases.

    Args:
        on_bad_sample: 'raise' stops at a sample that cannot be read (`BadSampleError`). 'skip', in training only, puts
            the next readable index of the data set in its place and writes both down.
        max_bad_samples: how many different files may be unreadable in the whole run, resumed parts included; one more
            stops it.
        bad_samples_file: the record, such as `work_dirs/run/bad_samples.jsonl`; needed for 'skip'.
        *args: those of the data set, as `**kwargs`.
    """

    def __init__(
        self,
        *args,
        on_bad_sample: str = 'raise',
        max_bad_samples: int = 10,
        bad_samples_file: str | None = None,
        **kwargs,
    ) -> None:
        self.on_bad_sample, self.max_bad_samples = on_bad_sample, max_bad_samples
        self.bad_samples_file = os.path.abspath(bad_samples_file) if bad_samples_file else None
        if on_bad_sample not in POLICIES:
            raise ValueError(f'on_bad_sample={on_bad_sample!r} is unknown; choose one of {list(POLICIES)}')
        if isinstance(max_bad_samples, bool) or not isinstance(max_bad_samples, int) or max_bad_samples < 1:
            raise ValueError(f'max_bad_samples={max_bad_samples!r} must be a whole number, 1 or more')
        super().__init__(*args, **kwargs)
        if on_bad_sample == 'skip':
            self._check_can_skip()

    def _check_can_skip(self) -> None:
        if self.test_mode:
            raise ValueError(
                "on_bad_sample='skip' is for training only: a score over the readable part of a data set is none of "
                'the data set; leave it out where test_mode=True'
            )
        if self.bad_samples_file is None:
            raise ValueError(
                "on_bad_sample='skip' needs bad_samples_file=..., such as 'work_dirs/run/bad_samples.jsonl'"
            )
        _check_can_append(self.bad_samples_file)
        for step in getattr(self.pipeline, 'transforms', ()):
            if type(step).__name__ == 'LoadImageFromFile' and not type(step).__module__.startswith('backbones.'):
                raise ValueError(
                    f"on_bad_sample='skip' needs backbones.LoadImageFromFile in the pipeline, which has "
                    f'{type(step).__module__}.LoadImageFromFile: that one does not tell an unreadable picture from a '
                    'mistake in the program'
                )

    def prepare_data(self, idx: int) -> Any:
        """Load sample `idx`, or what takes its place."""
        try:
            return self._prepare(idx)
        except BadSampleError as error:
            if self.test_mode or self.on_bad_sample == 'raise':
                raise
            bad, epoch = [(int(idx), error)], getattr(idx, 'epoch', None)
        for step in range(1, len(self)):
            self._check_budget(bad, epoch)
            place = (int(idx) + step) % len(self)
            try:
                data = self._prepare(place)
            except BadSampleError as error:
                bad.append((place, error))
                continue
            for index, error in bad:
                self._record(index, error, epoch, replaced_by=place)
            return data
        for index, error in bad:
            self._record(index, error, epoch, replaced_by=None)
        raise TooManyBadSamplesError(
            f'no sample of the data set can be read; they are listed in {self.bad_samples_file}. The last: {bad[-1][1]}'
        )

    def _prepare(self, idx: int) -> Any:
        """Load sample `idx`; what OpenCV refuses later than the loader is a fault of the sample, too."""
        try:
            return super().prepare_data(idx)
        except cv2.error as error:
            info = self.get_data_info(idx)
            path = str(info.get('img_path', f'sample {idx}'))
            raise BadSampleError(
                f'the picture {shown(path)} cannot be processed by the pipeline: {" ".join(str(error).split())}. A '
                'picture of few rows or columns may have none left after Resize: take it off the list, or correct the '
                'pipeline',
                path,
            ) from error

    def _check_budget(self, bad: list[tuple[int, BadSampleError]], epoch: int | None) -> None:
        files = {event['file'] for event in read_bad_samples(self.bad_samples_file)}
        files |= {error.path for _, error in bad}
        if len(files) <= self.max_bad_samples:
            return
        for index, error in bad:
            self._record(index, error, epoch, replaced_by=None)
        raise TooManyBadSamplesError(
            f'{len(files)} files of the data set are unreadable, more than max_bad_samples={self.max_bad_samples}; '
            f'they are listed in {self.bad_samples_file}: repair them, or raise the budget and resume. The '
            f'last: {bad[-1][1]}'
        )

    def _record(self, index: int, error: BadSampleError, epoch: int | None, replaced_by: int | None) -> None:
        worker = get_worker_info()
        append_line(
            self.bad_samples_file,
            dict(
                time=time.strftime('%Y-%m-%dT%H:%M:%S'), epoch=epoch, index=index, file=error.path, reason=str(error),
                replaced_by=replaced_by, rank=get_rank(), worker=None if worker is None else worker.id,
            ),
        )


def append_line(path: str | Path, event: dict) -> None:
    """Append `event` as one line of JSON with one write: lines of several processes never mix (local file systems).

    Raises:
        ValueError: the file cannot be written; with what was to be written.
    """
    line = (json.dumps(event) + '\n').encode()
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(handle, line) != len(line):
                raise OSError('it took only a part of a line; is the disk full?')
        finally:
            os.close(handle)
    except OSError as error:
        raise ValueError(
            f'bad_samples_file={shown(path)} cannot be written: {error}. It was to take: '
            f'{event.get("reason", event)}. Make room or give another file'
        ) from error


def _check_can_append(path: str) -> None:
    """Raise where the record cannot be written; leave no file behind: several processes may ask at once."""
    folder = os.path.dirname(path)
    try:
        if os.path.lexists(path):
            os.close(os.open(path, os.O_RDWR | os.O_APPEND))  # to write, and to read what the budget has lost
        else:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise ValueError(
            f'bad_samples_file={shown(path)} cannot be written: {error}; give a file in a folder that can be written '
            'to, such as work_dirs/run/bad_samples.jsonl'
        ) from error


def read_bad_samples(path: str | Path) -> list[dict]:
    """Return the events of a record; none where there is no file. A line that a kill cut off is left out."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and 'file' in event:
            events.append(event)
    return events


def skipping_datasets(dataset: Any) -> Iterator[BadSampleMixin]:
    """Find the data sets with `on_bad_sample='skip'` inside wrappers and concatenations."""
    if getattr(dataset, 'on_bad_sample', None) == 'skip' and isinstance(dataset, BadSampleMixin):
        yield dataset
        return
    inner = vars(dataset) if hasattr(dataset, '__dict__') else {}
    for part in (*(inner[name] for name in ('_wrapped', 'dataset') if name in inner), *inner.get('datasets', ())):
        yield from skipping_datasets(part)
