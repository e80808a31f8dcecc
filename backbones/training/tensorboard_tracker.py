"""TensorBoard: event files in `tensorboard/` of the work folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mmengine.config import Config

from backbones.registry import VISBACKENDS
from backbones.training.trackers import Place, Tracker

FOLDER = 'tensorboard'


@VISBACKENDS.register_module()
class TensorboardVisBackend(Tracker):
    """MMEngine's TensorboardVisBackend, for runs that are killed, resumed, and on a full disk.

    TensorBoard's own writer hands its records to a thread and goes on for two minutes before they are on the disk, and
    no longer writes once a disk was full. Here each point is in the file when the call returns; after a failure, the
    next point begins a new file, since a reader stops at a torn record. A run that goes on tells TensorBoard to forget
    what was logged behind its checkpoint.
    """

    name, again = 'tensorboard', True

    def start(self, place: Place, state: dict[str, Any]) -> None:
        """Open an event file; points behind the place are dropped by every reader."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._records, self._file, self._writer = RecordWriter, None, None
        self._folder = place.work_dir / FOLDER if place.work_dir != Path(self._save_dir) else place.work_dir
        # The validation after the step that the run goes on from may be done again; what the killed run logged of it
        # has the step of the place itself and stays.
        again = place.validation_due and state.get('val') == place.iteration
        self._marks = dict(val=place.iteration) if again else {}
        self._pictures = {name: step for name, step in self._pictures.items() if step == place.iteration}
        others = self._folder.is_dir() and any(self._folder.glob('*tfevents*'))
        if others:
            self._write(step=place.iteration + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            self._opened()

    @property
    def experiment(self) -> Any:
        """A SummaryWriter of torch, for what the methods here do not write."""
        from torch.utils.tensorboard import SummaryWriter

        self._init_env()
        if getattr(self, '_summary_writer', None) is None:
            self._summary_writer = SummaryWriter(str(self._folder))
        return self._summary_writer

    def write_config(self, config: Config) -> None:
        """As JSON, under "Text"."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        from backbones.training.run_record import plain

        text = json.dumps(plain(config.to_dict()), indent=1)
        indented = '\n'.join(f'    {line}' for line in text.splitlines())  # Markdown: as it stands
        tensor = TensorProto(
            dtype=DT_STRING, string_val=[indented.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]))
        about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name='text'))
        step = self.place.iteration + 1 if self.place.iteration else 0
        self._write(step=step, summary=Summary(value=[Summary.Value(tag='config', metadata=about, tensor=tensor)]))

    def write_scalars(self, values: dict[str, float], step: int, kind: str) -> None:
        """One record of all numbers."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=found))
        if kind == 'val':
            self.mark(kind, step)

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """As JPEG, a tenth of what a PNG takes."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        content, (height, width) = jpeg(image), image.shape[:2]
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, image=picture)]))

    def finish(self, code: int) -> None:
        """Close the file."""
        if getattr(self, '_summary_writer', None) is not None:
            self._summary_writer.close()
        self._closed()

    def _opened(self) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # readers take the files of a folder by their names
            path = self._folder / f'events.out.tfevents.{time.time_ns() / 1e9:.6f}.{os.getpid()}'
            self._file: BinaryIO | None = path.open('ab')
            self._writer = self._records(self._file)
            self._record(Event(wall_time=time.time(), file_version='brain.Event:2'))
        return self._writer

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            self._opened()
            self._record(Event(wall_time=time.time(), **event))
        except OSError:
            self._closed()
            raise

    def _record(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._file.flush()

    def _closed(self) -> None:
        file, self._file, self._writer = getattr(self, '_file', None), None, None
        if file is not None:
            with contextlib.suppress(OSError):  # what it could not write is what was warned of
                file.close()


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """An RGB picture (H, W, 3) as a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='JPEG', quality=quality)
    return buffer.getvalue()
