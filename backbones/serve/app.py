"""The page, the prediction endpoint, and what is known of the model and the server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backbones.cli import TRACEBACK_VARIABLE
from backbones.data.images import FORMATS
from backbones.drawing.styles import class_colours
from backbones.evaluation.load_model import LoadedModel
from backbones.serve.answers import answer, dumped, task_of, view
from backbones.serve.guard import Guard
from backbones.serve.limits import Limits, Refused, Upload, decode
from backbones.serve.worker import Worker

FOLDER = Path(__file__).parent
FILES = {
    '/': ('page.html', 'text/html'), '/page.css': ('page.css', 'text/css'), '/icon.svg': ('page.svg', 'image/svg+xml'),
    '/page.js': ('page.js', 'text/javascript'), '/drawing.js': ('page.drawing.js', 'text/javascript'),
    '/masks.js': ('page.masks.js', 'text/javascript'), '/panel.js': ('page.panel.js', 'text/javascript'),
}
LOWEST_SCORE = 0.05  # by default: low, so that the page can filter
QUERY = ('score', 'view')


class Service:
    """A model that answers requests.

    Args:
        model: anything with `predict`, `classes` and `checkpoint` as `LoadedModel` has them.
        limits: of a request.
    """

    def __init__(self, model: LoadedModel, limits: Limits) -> None:
        self.model, self.limits, self.worker = model, limits, Worker(limits.waiting)
        # The first prediction tells what the model gives, takes longest, and shows a model that cannot predict.
        self.task = task_of(model.predict(np.full((64, 96, 3), 127, np.uint8), score_threshold=0.0))
        self.pages = {path: (FOLDER / name).read_bytes() for path, (name, _) in FILES.items()}

    async def page(self, request: Request) -> Response:
        """One of the files of the page."""
        path = request.url.path
        return Response(self.pages[path], media_type=FILES[path][1])

    async def about(self, request: Request) -> Response:
        """What the model is, and the limits of the server."""
        classes = self.model.classes
        return JSONResponse(dict(
            task=self.task, classes=list(classes), colours=class_colours(len(classes)),
            checkpoint=Path(self.model.checkpoint).name, device=str(self.model.device),
            limits=dict(bytes=self.limits.max_bytes, pixels=self.limits.max_pixels, formats=list(FORMATS),
                        waiting=self.limits.waiting, score=LOWEST_SCORE)))

    async def health(self, request: Request) -> Response:
        """Whether the server answers, also while the model predicts."""
        return JSONResponse(dict(status='ok', busy=self.worker.busy, waiting=max(0, self.worker.taken - 1)))

    async def predict(self, request: Request) -> Response:
        """Predict the picture of a request."""
        start, size, upload = time.monotonic(), 0, Upload(request, self.limits)
        try:
            score, with_view = _options(request.query_params)
            with self.worker.place():
                content = await upload.picture()
                size = len(content)
                response = Response(
                    await self._predicted(request, content, score, with_view), media_type='application/json')
        except Refused as refused:
            await upload.drain()
            response = refusal(refused)
        except ClientDisconnect:
            response = JSONResponse(dict(error='the request was given up'), 499)
        _log(response.status_code, size, time.monotonic() - start)
        return response

    async def _predicted(self, request: Request, content: bytes, score: float, with_view: bool) -> bytes:
        """Wait for the prediction, unless who asked for it goes away."""
        job = self.worker.submit(lambda: self._job(content, score, with_view))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise ClientDisconnect
            return job.result()
        finally:
            job.cancel()
            gone.cancel()

    def _job(self, content: bytes, score: float, with_view: bool) -> bytes:
        """Decode, predict and encode; in the worker's thread.

        Raises:
            Refused: the picture cannot be decoded or predicted.
        """
        try:
            image = decode(content)
            start = time.monotonic()
            found = self.model.predict(image, score_threshold=score)
            seconds = time.monotonic() - start
            content = dict(answer(found, self.model.classes, score), seconds=round(seconds, 4))
            return dumped(dict(content, view=view(image, found)) if with_view else content)
        except Refused:
            raise
        except ValueError as error:
            _tell(error)
            raise Refused(422, str(error).replace('number 0 of the list', 'that was sent')) from error
        except (MemoryError, RuntimeError) as error:
            _tell(error)
            if isinstance(error, MemoryError) or 'memory' in str(error):
                raise Refused(413, 'the memory of this machine is too small for this picture; reduce it') from error
            raise Refused(500, 'the model failed on this picture; the terminal of tools/serve.py says more') from error
        except Exception as error:  # of a model of whatever kind; a client is told no more
            _tell(error)
            raise Refused(500, 'the model failed on this picture; the terminal of tools/serve.py says more') from error


def make_app(service: Service, host: str) -> Guard:
    """The application, guarded, for a server that listens on `host`."""
    routes = [Route(path, service.page) for path in FILES]
    routes += [Route('/model', service.about), Route('/health', service.health)]
    routes += [Route('/predict', service.predict, methods=['POST'])]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _failed}), host)


def refusal(refused: Refused) -> Response:
    """The answer to a refused request; the connection ends with it, as the rest of the request may be under way."""
    return JSONResponse(
        dict(error=refused.sentence), refused.status, headers={**refused.headers, 'Connection': 'close'})


def _options(query: Mapping[str, str]) -> tuple[float, bool]:
    """`score` and `view` of a query."""
    unknown = sorted(set(query) - set(QUERY))
    if unknown:
        raise Refused(400, f'the option {unknown[0][:100]!r} is unknown; allowed are {", ".join(QUERY)}')
    try:
        score = float(query.get('score', LOWEST_SCORE))
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise Refused(400, f'score={query["score"][:100]!r}: scores lie from 0 to 1; give one, such as score=0.3')
    if query.get('view', '0') not in ('0', '1'):
        raise Refused(400, f'view={query["view"][:100]!r}: give view=1 for what the page draws, or leave it out')
    return score, query.get('view') == '1'


async def _gone(request: Request) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


async def _http_error(request: Request, error: HTTPException) -> Response:
    sentence = {
        404: f'there is nothing at this address; there are {", ".join(("/", "/predict", "/model", "/health"))}',
        405: f'{request.method} is not allowed here; send pictures to /predict by POST, the rest is for GET',
    }.get(error.status_code, str(error.detail))
    return JSONResponse(dict(error=sentence), error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    _tell(error)
    return JSONResponse(dict(error='the server failed; its terminal says more'), 500)


def _tell(error: Exception) -> None:
    """One line of what went wrong, for who runs the server; a traceback where it is asked for."""
    if os.environ.get(TRACEBACK_VARIABLE) == '1':
        traceback.print_exception(error)
    elif not isinstance(error, ValueError):  # whose sentence goes to the client
        _print(f'{type(error).__name__}: {" ".join(str(error).split())[:200]} (MMBACKBONES_TRACEBACK=1 shows more)')


def _log(status: int, size: int, seconds: float) -> None:
    _print(f'{time.strftime("%H:%M:%S")}  {status}  {size / 1e6:.2f} MB  {seconds:.2f} s')


def _print(line: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # the terminal is gone; requests are answered all the same
        print(line, flush=True)
