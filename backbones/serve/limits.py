"""What a request may send: how much, how slowly, and of what kind. Nothing of it is ever written to a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import numpy as np
import python_multipart  # noqa: F401  starlette needs it for forms and asserts that it is there
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from backbones.data.image_headers import read_header
from backbones.data.images import FORMATS, MAX_PIXELS, decode_image

MEGABYTE = 1_000_000
FORM_BYTES = 16_384  # that a form takes beside its picture: boundaries, file name, headers
PLAIN_TYPES = ('image/', 'application/octet-stream')
SENT = 'that was sent'  # in place of a file name, in the messages of the project's reader
KINDS = ', '.join(FORMATS)
HOW = "send a form with the file as 'image', or the file itself with a Content-Type such as image/jpeg"


class Refused(Exception):
    """A request that is not answered with a prediction.

    Args:
        status: of HTTP.
        sentence: what was given, what is allowed, what to do.
        headers: to be sent with it.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}


@dataclass(frozen=True)
class Limits:
    """Of one server.

    Attributes:
        max_bytes: of a picture as a file.
        idle_s: seconds without a byte after which an upload is given up.
        upload_s: seconds that a whole upload may take.
        waiting: requests that may wait beside the one that is predicted.
        drain_s: seconds for which what a refused request still sends is read and thrown away; a browser that is
            cut off while it sends shows no answer.
    """

    max_bytes: int = 20 * MEGABYTE
    idle_s: float = 15.0
    upload_s: float = 120.0
    waiting: int = 8
    drain_s: float = 3.0
    max_pixels: int = field(default=MAX_PIXELS, init=False)


class InMemoryParser(MultiPartParser):
    """Starlette's, whose parts never go to a temporary file: the length of the body is limited before."""

    spool_max_size = 1 << 60


class Upload:
    """The body of one request.

    Args:
        request: whose body nobody has read yet.
        limits: to keep.
    """

    def __init__(self, request: Request, limits: Limits) -> None:
        self.request, self.limits, self._ended = request, limits, False

    async def picture(self) -> bytes:
        """Read the picture, from a form or as the body itself.

        Raises:
            Refused: too long (413), too slow (408), of another kind (415) or no form that can be read (400).
            ClientDisconnect: nobody waits for an answer.
        """
        headers, most = self.request.headers, self.limits.max_bytes
        kind = headers.get('content-type', '').partition(';')[0].strip().lower()
        is_form = kind == 'multipart/form-data'
        if not is_form and not kind.startswith(PLAIN_TYPES):
            given = f'the Content-Type is {kind[:100]!r}' if kind else 'the request has no Content-Type'
            raise Refused(415, f'{given}: {HOW}')
        if headers.get('content-encoding', 'identity').lower() != 'identity':
            raise Refused(415, 'the request is compressed (Content-Encoding), which is not undone here: send it plain')
        if is_form:
            most += FORM_BYTES
        length = headers.get('content-length', '')
        if length.isdecimal() and int(length) > most:
            raise self._too_long()
        content = await self._from_form(most) if is_form else b''.join([chunk async for chunk in self._chunks(most)])
        if len(content) > self.limits.max_bytes:
            raise self._too_long()
        return content

    async def drain(self) -> None:
        """Throw away what a refused request still sends, for a short time; a client that asks first never sends it."""
        if not self._ended and 'expect' not in self.request.headers:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._read_away(), self.limits.drain_s)

    async def _read_away(self) -> None:
        while not self._ended:
            await self._receive()

    async def _receive(self) -> Message:
        message = await self.request.receive()
        self._ended = not message.get('more_body', False)  # the end of the body, or of the connection
        return message

    async def _chunks(self, most: int) -> AsyncGenerator[bytes, None]:
        """Yield the body, and refuse it while it is read where it is longer than `most` or too slow."""
        limits, now = self.limits, asyncio.get_running_loop().time
        end, total = now() + limits.upload_s, 0
        while not self._ended:
            try:
                message = await asyncio.wait_for(self._receive(), max(0.0, min(limits.idle_s, end - now())))
            except asyncio.TimeoutError:
                self._ended = True  # waited for long enough
                raise Refused(
                    408, f'the upload is too slow: {limits.idle_s:g} s without a byte, or {limits.upload_s:g} s in '
                    'all, are too long; send it again') from None
            if message['type'] == 'http.disconnect':
                raise ClientDisconnect
            chunk = message.get('body', b'')
            total += len(chunk)
            if total > most:
                raise self._too_long()
            yield chunk

    def _too_long(self) -> Refused:
        return Refused(
            413, f'the file is longer than {self.limits.max_bytes / MEGABYTE:g} MB, the limit of this server: reduce '
            'the picture, or start tools/serve.py with a larger --max-mb')

    async def _from_form(self, most: int) -> bytes:
        parser = InMemoryParser(
            self.request.headers, self._chunks(most), max_files=1, max_fields=1, max_part_size=1000)
        try:
            form = await parser.parse()
        except (MultiPartException, ValueError, KeyError) as error:
            reason = ' '.join(str(getattr(error, 'message', error)).split())
            raise Refused(400, f'the form cannot be read ({reason}): {HOW}') from None
        async with contextlib.AsyncExitStack() as closing:
            closing.push_async_callback(form.close)
            names = [name for name, _ in form.multi_items()]
            if names == ['image'] and isinstance(form['image'], str):
                raise Refused(400, f'image was sent as text: write image=@photo.jpg, with an @ before the file; {HOW}')
            if names != ['image'] or not isinstance(form['image'], UploadFile):
                raise Refused(
                    400, f"the form has {names or 'no fields'}, and must have one file with the name 'image': {HOW}")
            return await form['image'].read()


def decode(content: bytes) -> np.ndarray:
    """Decode a picture as the project's test pipelines do: (H, W, 3) uint8 RGB, turned as its EXIF note says.

    Raises:
        Refused: it is no picture or of a kind that is not read (415), has too many pixels (413), is damaged (422).
    """
    try:
        header = read_header(content)
    except ValueError as error:
        raise Refused(415, f'the file {error}; allowed are pictures: {KINDS}') from None
    if header.format not in FORMATS:
        raise Refused(415, f'the file is a {header.format} picture; allowed are {KINDS}: convert it')
    if header.width * header.height > MAX_PIXELS:
        raise Refused(413, f'the picture says that it is {header.width}x{header.height} pixels; up to {MAX_PIXELS} in '
                      'all are allowed: reduce it')
    try:
        return decode_image(content, SENT)[..., ::-1]
    except ValueError as error:
        raise Refused(422, str(error)) from None
