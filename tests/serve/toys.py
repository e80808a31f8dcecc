"""A server on a free port of this machine, and models that find what they are told to."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('starlette', reason='the extra [serve] is not installed')
pytest.importorskip('uvicorn', reason='the extra [serve] is not installed')
pytest.importorskip('python_multipart', reason='the extra [serve] is not installed')
pytest.importorskip('mmdet', reason='mmdet is not installed')

from pycocotools import mask as coco_mask

from backbones.evaluation.load_model import Detections, LabelMap
from backbones.serve.app import Service, make_app
from backbones.serve.limits import Limits
from backbones.serve.server import Server, take_port

HOSTILE = '<img src=x onerror=document.title="broken">'


def rle(bitmap: np.ndarray) -> dict[str, Any]:
    """COCO run lengths of a bitmap."""
    found = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return dict(size=list(bitmap.shape), counts=found['counts'].decode())


@dataclass
class ToyDetector:
    """Finds a disc of class 0, a box of class 1 and a weak one of class 2 in every picture of 20 pixels or more."""

    classes: tuple[str, ...] = ('disc', HOSTILE, 'weak')
    checkpoint: str = '/home/somebody/secret/epoch_000012'
    device: str = 'cpu'
    masks: bool = True
    seen: list[np.ndarray] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def predict(self, image: np.ndarray, score_threshold: float) -> Detections:
        self.before()
        self.seen.append(image)
        height, width = image.shape[:2]
        boxes, bitmaps = [], []
        if min(height, width) >= 20:
            y, x = np.mgrid[:height, :width]
            bitmaps = [(y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2,
                       (x > width * 0.7) & (x < width * 0.9) & (y < height * 0.4), y > height - 3]
            for bitmap in bitmaps:
                rows, columns = np.nonzero(bitmap)
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        scores = np.array([0.9, 0.6, 0.1][: len(boxes)], np.float32)
        keep = scores >= score_threshold
        labels = np.arange(len(boxes))[keep]
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4)[keep], scores[keep], labels, [self.classes[n] for n in labels],
            [rle(bitmap) for bitmap, kept in zip(bitmaps, keep, strict=True) if kept] if self.masks else None,
            (height, width))


@dataclass
class ToySegmenter:
    """The left half is class 0, the right one the last class."""

    classes: tuple[str, ...] = ('left', 'never', 'right')
    checkpoint: str = 'run/iter_000400'
    device: str = 'cpu'

    def predict(self, image: np.ndarray, score_threshold: float) -> LabelMap:
        height, width = image.shape[:2]
        last = len(self.classes) - 1
        labels = np.zeros((height, width), np.uint8 if last < 256 else np.uint16)
        labels[:, width // 2:] = last
        return LabelMap(labels, {0: self.classes[0], last: self.classes[last]}, (height, width))


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        service: behind it.
        port: on 127.0.0.1.
    """

    service: Service
    port: int

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **kw: Any) -> Answer:
        """One request on a connection of its own; the body is sent in chunks where it is an iterator."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, **kw)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def post(self, content: Any, query: str = '', kind: str = 'image/png', **headers: str) -> Answer:
        """A picture as the body itself."""
        return self.ask('POST', f'/predict{query}', content, {'Content-Type': kind, **headers})


@dataclass(frozen=True)
class Answer:
    """Of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        content = self.json
        assert set(content) == {'error'} and 'Traceback' not in content['error']
        return content['error']


@contextlib.contextmanager
def serving(model: Any, host: str = '127.0.0.1', **limits: Any) -> Iterator[Running]:
    """Serve a model in a thread until the end of the block; `host` is what the server believes to listen on."""
    service = Service(model, Limits(**limits))
    port = take_port('127.0.0.1', 0)
    server = Server(make_app(service, host))
    thread = threading.Thread(target=server.run, args=([port],), daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end
            threading.Event().wait(0.01)
        yield Running(service, port.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)


def as_file(image: Image.Image | np.ndarray, kind: str = 'PNG', **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def form(content: bytes, name: str = 'image', file: str | None = 'a.png', kind: str = 'image/png') -> dict[str, Any]:
    """`body` and `headers` of a form with one field."""
    file = '' if file is None else f'; filename="{file}"'
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\nContent-Type: {kind}\r\n\r\n'
    return dict(body=head.encode() + content + b'\r\n--edge--\r\n',
                headers={'Content-Type': 'multipart/form-data; boundary=edge'})
