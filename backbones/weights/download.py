"""One download: taken up again where it broke off, verified, and under its own name only when whole.

The data goes to `NAME.partial`, and what is known of it to `NAME.partial.json`; `NAME.lock` keeps a second process out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import importlib
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmengine.logging import print_log

from backbones.files import write_json
from backbones.weights import hub
from backbones.weights.read import file_kind

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIMEOUT = 60  # seconds without a byte
WAITS = (1.0, 4.0)  # seconds before the second and the third try
CHUNK = 1 << 20
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP errors that may be gone at the next try
OURS = [  # errors of our own disk, not of the network
    getattr(errno, name)
    for name in ('EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT', 'EFBIG', 'ENOTDIR', 'EEXIST', 'ENAMETOOLONG')
]


class DownloadError(Exception):
    """One address failed; another may do.

    Attributes:
        status: the HTTP status, if that was it.
    """

    def __init__(self, finding: str, status: int | None = None) -> None:
        super().__init__(finding)
        self.status = status


class _BrokeOff(Exception):
    """Less arrived than was announced."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: bool = True,
    waits: Sequence[float] = WAITS,
    check: Callable[[Path], object] = file_kind,
    elsewhere: str = 'TORCH_HOME',
) -> None:
    """Download a file, by default a checkpoint, unless `target` exists by the time it is this process's turn.

    What arrives is verified against `sha256`, the hash in the name of `target` and that of Hugging Face, as far as
    there are such, and must pass `check`. A download that breaks off is taken up again, now and by a later call, if
    the server can do that and the file has not changed meanwhile.

    Args:
        url: http or https address.
        target: where the file goes; its folder is created.
        sha256: the digest in hexadecimal digits, or its beginning.
        progress: show a bar.
        waits: seconds before each further try.
        check: raises a ValueError where the file that arrived is not what it should be.
        elsewhere: what the user sets to have the file in another place, for messages.

    Raises:
        DownloadError: if this address does not give the file; nothing is at `target` then.
        ValueError: if it cannot be written.
    """
    partial = _Partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            while not target.is_file():
                promises = {'its publisher states': sha256, 'its name promises': promised_hash(target.name)}
                taken_up = partial.path.is_file()
                note = _receive(url, partial, any(promises.values()), progress, waits, elsewhere)
                problem = _problem(partial.path, promises | {'Hugging Face states': note['sha256']}, check)
                if problem is None:
                    partial.finish(target)
                    return
                partial.clear()
                if not taken_up:  # else the older part may be to blame: once more from the start
                    raise DownloadError(problem)
    except OSError as error:
        if error.errno not in OURS:
            raise
        raise ValueError(
            f'{target} cannot be written ({error.strerror}); free space or get the right to write there, or set '
            f'{elsewhere} to another folder'
        ) from error


def promised_hash(name: str) -> str | None:
    """Start of the SHA-256 in a file name: `name-<8 or more hex digits>.pth`, as torch and OpenMMLab write it."""
    found = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    is_date = found and re.fullmatch(r'20\d{6}', found[1])
    return found[1] if found and not is_date else None


def shown(url: str) -> str:
    """An address without its query, which may hold a signature, for messages."""
    return url.partition('?')[0]


class _Partial:
    """The part of a file that is there, and what the server said of the whole."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f'{target.name}.partial')
        self.note_path = target.with_name(f'{target.name}.partial.json')

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def note(self, url: str, verified: bool) -> dict[str, Any] | None:
        """Give what is known of the part, if it can be taken up: from the same address, and told from a newer file."""
        try:
            note = json.loads(self.note_path.read_text())
            usable = note['url'] == shown(url) and self.size > 0
            return note if usable and (note['validator'] or note['sha256'] or verified) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, note: dict[str, Any]) -> None:
        """Forget an older part."""
        self.clear()
        write_json(self.note_path, note)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        os.replace(self.path, target)
        self.note_path.unlink(missing_ok=True)


# --- receive ------------------------------------------------------------------------------------------------


def _receive(
    url: str, partial: _Partial, verified: bool, progress: bool, waits: Sequence[float], elsewhere: str
) -> dict[str, Any]:
    """Bring the whole file to `partial` and return what the server said of it; failures that may pass are tried again.

    Raises:
        DownloadError: if it still fails after the last of `waits`, or at once where that is no use.
    """
    for wait in (*waits, None):
        status = None
        try:
            return _attempt(url, partial, verified, progress, elsewhere)
        except urllib.error.HTTPError as error:
            status, said = error.code, error.headers.get('X-Error-Message', '')
            finding, may_pass = f'HTTP {status} {error.reason}' + (f' ({said})' if said else ''), status in PASSING
        except (http.client.InvalidURL, UnicodeError) as error:
            finding, may_pass = f'this is no web address: {error}', False
        except urllib.error.URLError as error:
            finding, may_pass = str(error.reason), isinstance(error.reason, TimeoutError | ConnectionResetError)
        except (_BrokeOff, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            finding, may_pass = str(error) or type(error).__name__, True
        if not may_pass or wait is None:
            raise DownloadError(finding, status)
        time.sleep(wait)
    raise AssertionError('unreachable')


def _attempt(url: str, partial: _Partial, verified: bool, progress: bool, elsewhere: str) -> dict[str, Any]:
    """Ask once for what is missing, or for everything if that cannot be had."""
    note = partial.note(url, verified)
    start = partial.size if note else 0
    if note and start == note['total']:
        return note
    headers = {'User-Agent': 'mmbackbones', 'Accept-Encoding': 'identity'}
    if start:
        headers |= {'Range': f'bytes={start}-'} | ({'If-Range': note['validator']} if note['validator'] else {})
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=headers | hub.headers(url))
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        partial.clear()  # the part is longer than the file: it is of another one
        return _attempt(url, partial, verified, progress, elsewhere)
    with response:
        found = _note_of(url, response, redirects.sha256)
        goes_on = start > 0 and response.status == 206
        if goes_on and not _same(note, found, response.headers, start):
            partial.clear()
            return _attempt(url, partial, verified, progress, elsewhere)
        _check_room(partial.path.parent, found['total'], start if goes_on else 0, elsewhere)
        if not goes_on:
            start = 0
            partial.begin(found)
        _write(response, partial.path, start, found['total'], progress, url)
    if found['total'] is not None and partial.size != found['total']:
        raise _BrokeOff(f'broke off after {partial.size} of {found["total"]} bytes')
    return found


def _note_of(url: str, response: http.client.HTTPResponse, sha256: str | None) -> dict[str, Any]:
    """Write down what tells this version of the file from another, and its size in bytes."""
    headers = response.headers
    etag = headers.get('ETag', '')
    total = headers.get('Content-Range', '').rpartition('/')[2] if response.status == 206 else None
    total = headers.get('Content-Length', '') if total is None else total
    return dict(
        url=shown(url),
        validator=(etag if etag.startswith('"') else '') or headers.get('Last-Modified', ''),
        total=int(total) if total.isdigit() else None,
        sha256=sha256 or (_hash_in(headers, 'X-Linked-Etag', 'ETag') if hub.is_hub(response.url) else None),
    )


def _same(note: dict[str, Any], found: dict[str, Any], headers: Message, start: int) -> bool:
    """Whether the rest that a server offers belongs to the part that is there."""
    begins_there = re.match(rf'bytes {start}-', headers.get('Content-Range', '')) is not None
    known = [key for key in ('validator', 'total', 'sha256') if note[key] and found[key]]
    return begins_there and all(note[key] == found[key] for key in known)


def _write(response: Any, path: Path, start: int, total: int | None, progress: bool, url: str) -> None:
    """Append the body of a response to a file, with a bar."""
    bar = importlib.import_module('torch.hub').tqdm(
        total=total,
        initial=start,
        disable=not progress,
        unit='B',
        unit_scale=True,
        desc=Path(urlsplit(url).path).name,
    )
    with bar, path.open('ab') as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _check_room(folder: Path, total: int | None, there: int, elsewhere: str) -> None:
    """Refuse a file that does not fit on the disk.

    Raises:
        ValueError: with both sizes.
    """
    needed, free = (total or 0) - there, shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'{folder} has {free / 2**20:,.0f} MiB left, and {needed / 2**20:,.0f} MiB are to be downloaded; free '
            f'space, or set {elsewhere} to a folder on another disk'
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, with the token only to the server it is for, and read what Hugging Face says on the way.

    Its large files lie on another server. The redirect there carries their SHA-256 as `X-Linked-Etag`; the ETag of the
    other server may be a hash of another kind: https://github.com/huggingface/huggingface_hub/issues/3018
    """

    def __init__(self) -> None:
        self.sha256: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request:
        """Make the request to the new address."""
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new != 'https' and (new, old) != ('http', 'http'):
            raise DownloadError(f'redirected from {old} to {shown(newurl)}, where anyone could change the file')
        if hub.is_hub(req.full_url):
            self.sha256 = self.sha256 or _hash_in(headers, 'X-Linked-Etag')
        kept = {key: value for key, value in req.headers.items() if key.lower() != 'authorization'}
        return urllib.request.Request(newurl, headers=kept | hub.headers(newurl), unverifiable=True)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # unknown to Python 3.10


def _hash_in(headers: Message, *names: str) -> str | None:
    """Find a SHA-256 in headers that may hold one. Hugging Face's small files have a git hash of 40 digits there."""
    for name in names:
        value = headers.get(name, '').strip().removeprefix('W/').strip('"').lower()
        if re.fullmatch(r'[0-9a-f]{64}', value):
            return value
    return None


# --- verify -------------------------------------------------------------------------------------------------


def _problem(path: Path, promises: dict[str, str | None], check: Callable[[Path], object]) -> str | None:
    """Say what is wrong with a file that arrived whole; None if it passes `check` and all hashes are right."""
    try:
        check(path)
    except ValueError as error:
        return str(error).replace(f'checkpoint {path}', 'what arrived')
    known = {who: expected.lower() for who, expected in promises.items() if expected}
    digest = _sha256(path) if known else ''
    for who, expected in known.items():
        if not digest.startswith(expected):
            return f'arrived with SHA-256 {digest}, but {who} {expected}; do not use the file if that repeats'
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# --- lock ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(target: Path, doing: str = 'downloads') -> Iterator[None]:
    """Keep other processes from making the same file; the system gives the lock back when a process dies."""
    if fcntl is None:
        yield
        return
    path = target.with_name(f'{target.name}.lock')
    handle = _acquire(path, doing)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it finds that it is gone, and makes another
        os.close(handle)


def _acquire(path: Path, doing: str) -> int:
    """Open and lock a file, and make sure that it is still the one at `path`; a file system without locks has none."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log(f'another process {doing} {path.stem}; waiting for it', logger='current')
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(handle)
                raise
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
