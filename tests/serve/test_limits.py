"""What is not answered with a prediction: too much, too slow, of another kind, from elsewhere."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from serve.toys import Running, ToyDetector, as_file, form, serving
from starlette.datastructures import Headers

from backbones.serve import server as server_module
from backbones.serve.guard import Guard

NOISE = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and holds no pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b''.join(parts)


# --- size ---------------------------------------------------------------------------------------------------


def test_a_file_beyond_the_limit_is_refused_by_its_length(detecting: Running):
    answer = detecting.post(as_file(NOISE))
    assert answer.status == 413 and 'longer than 1 MB' in answer.error and '--max-mb' in answer.error


def test_a_form_beyond_the_limit_is_refused(detecting: Running):
    answer = detecting.ask('POST', '/predict', **form(as_file(NOISE)))
    assert answer.status == 413 and 'longer than 1 MB' in answer.error


@pytest.mark.parametrize('boxed', [False, True])
def test_chunks_without_a_length_are_refused_while_they_are_read(detecting: Running, boxed: bool):
    sent = []

    def chunks() -> Iterator[bytes]:
        if boxed:
            yield form(b'')['body'].split(b'\r\n--edge--')[0]
        for _ in range(40):
            sent.append(50_000)
            yield bytes(50_000)

    kind = 'multipart/form-data; boundary=edge' if boxed else 'image/png'
    answer = detecting.ask('POST', '/predict', chunks(), {'Content-Type': kind}, encode_chunked=True)
    assert answer.status == 413 and 'longer than 1 MB' in answer.error
    assert sum(sent) == 2_000_000  # a client that does not look before it has sent all is answered, not cut off


def test_a_file_of_just_the_limit_is_taken(png):
    with serving(ToyDetector(), max_bytes=len(png)) as running:
        assert running.post(png).status == running.ask('POST', '/predict', **form(png)).status == 200
        assert running.post(png + b'\0').status == running.ask('POST', '/predict', **form(png + b'\0')).status == 413


def test_a_client_that_asks_before_it_sends_never_sends_a_file_that_is_too_long(detecting: Running):
    with socket.create_connection(('127.0.0.1', detecting.port)) as connection:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n'
                           b'Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n')
        answer = read_all(connection)
    assert answer.startswith(b'HTTP/1.1 413') and b'100 Continue' not in answer


@pytest.mark.parametrize('size', [(20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_small_file_of_too_many_pixels_is_refused_before_it_is_decoded(detecting: Running, size: tuple[int, int]):
    answer = detecting.post(png_of(*size))
    assert answer.status == 413 and f'{size[0]}x{size[1]} pixels' in answer.error


def test_nothing_is_written_to_a_file(detecting: Running, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'none'))  # to write one is an error
    large = as_file(NOISE[:500, :500])
    assert len(large) > 700_000 and detecting.ask('POST', '/predict', **form(large)).status == 200
    with serving(ToyDetector(), max_bytes=5_000_000) as running:
        large = as_file(NOISE)
        assert len(large) > 1_500_000 and running.ask('POST', '/predict', **form(large)).status == 200


# --- kind ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('content, said', [
    (b'hello', 'is no picture'), (b'', 'is empty'), (b'<html><script>', 'is a web page'), (b'%PDF-1.7', 'is a PDF'),
    (b'GIF89a' + bytes(50), 'is a GIF'), (b'<svg xmlns="x"/>', 'is no picture'), (b'PK\x03\x04', 'zip archive'),
    (as_file(NOISE[:20, :20], 'TIFF'), 'is a TIFF picture')])
def test_the_kind_is_told_by_the_content_not_by_the_name(detecting: Running, content: bytes, said: str):
    for answer in (detecting.ask('POST', '/predict', **form(content, file='photo.jpg', kind='image/jpeg')),
                   detecting.post(content, kind='image/jpeg')):
        assert answer.status == 415 and said in answer.error and 'JPEG, PNG, BMP, WEBP' in answer.error


@pytest.mark.parametrize('kind', ['text/plain', 'application/json', 'application/x-www-form-urlencoded', ''])
def test_another_content_type_is_refused_with_what_to_send(detecting: Running, png: bytes, kind: str):
    answer = detecting.post(png, kind=kind)
    assert answer.status == 415 and "send a form with the file as 'image'" in answer.error


def test_a_compressed_request_is_refused(detecting: Running, png: bytes):
    assert detecting.post(png, **{'Content-Encoding': 'gzip'}).status == 415


def test_a_cut_off_picture_is_refused_and_the_next_is_predicted(detecting: Running, png: bytes):
    jpeg = as_file(NOISE[:100, :100], 'JPEG')
    for content in (jpeg[: len(jpeg) // 2], png[:-30]):
        answer = detecting.post(content)
        assert answer.status == 422 and 'the picture that was sent cannot be decoded: it is cut off' in answer.error
    assert detecting.post(png).status == 200


@pytest.mark.parametrize('change, said', [
    (dict(name='file'), r"has \['file'\]"), (dict(file=None), 'image was sent as text: write image=@photo.jpg')])
def test_a_form_with_other_fields_says_what_it_must_have(detecting: Running, png: bytes, change: dict, said: str):
    content = b'text' if 'file' in change else png
    answer = detecting.ask('POST', '/predict', **form(content, **change))
    assert answer.status == 400 and said.replace('\\', '') in answer.error


@pytest.mark.parametrize(
    'body', [b'', b'garbage', b'--edge\r\nContent-Disposition: form-data\r\n\r\n1\r\n--edge--\r\n'])
def test_a_form_that_is_none_is_refused(detecting: Running, body: bytes):
    answer = detecting.ask('POST', '/predict', body, {'Content-Type': 'multipart/form-data; boundary=edge'})
    assert answer.status == 400 and 'image' in answer.error
    answer = detecting.ask('POST', '/predict', body, {'Content-Type': 'multipart/form-data'})
    assert answer.status == 400 and 'boundary' in answer.error


@pytest.mark.parametrize('query, said', [
    ('score=2', 'from 0 to 1'), ('score=nan', 'from 0 to 1'), ('score=-1', 'from'), ('score=', 'from'),
    ('score=a', "score='a'"), ('view=2', 'view=1'), ('threshold=0.5', "'threshold' is unknown; allowed are score")])
def test_a_wrong_option_is_refused_with_what_is_allowed(detecting: Running, png: bytes, query: str, said: str):
    answer = detecting.post(png, f'?{query}')
    assert answer.status == 400 and said in answer.error


# --- time and number ----------------------------------------------------------------------------------------


def test_an_upload_that_stops_is_given_up_and_its_place_is_free_again(png):
    with serving(ToyDetector(), idle_s=0.2, waiting=0) as running:
        with socket.create_connection(('127.0.0.1', running.port)) as connection:
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n'
                               b'Content-Length: 1000\r\n\r\nabc')
            answer = read_all(connection)
        assert answer.startswith(b'HTTP/1.1 408') and b'0.2 s without a byte' in answer
        assert running.post(png).status == 200


def test_an_upload_of_endless_drops_ends_after_the_time_for_all(png):
    with serving(ToyDetector(), idle_s=5, upload_s=0.3) as running, \
            socket.create_connection(('127.0.0.1', running.port)) as connection:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n'
                           b'Content-Length: 1000\r\n\r\n')
        connection.settimeout(0.05)
        answer = b''
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
                break
            connection.sendall(b'x')
        assert answer.startswith(b'HTTP/1.1 408')


def test_headers_that_never_end_are_not_waited_for(monkeypatch, detecting: Running):
    monkeypatch.setattr(server_module, 'HEADER_S', 0.2)
    with socket.create_connection(('127.0.0.1', detecting.port)) as connection:
        connection.sendall(b'GET /health HTTP/1.1\r\nHost: loc')
        assert read_all(connection) == b''


def test_one_is_predicted_the_others_wait_and_beyond_the_places_is_a_503(png):
    begun, go_on, model = threading.Semaphore(0), threading.Event(), ToyDetector()
    with serving(model, waiting=1) as running:
        def hold() -> None:
            begun.release()
            assert go_on.wait(20)

        model.before = hold
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(running.post(png).status)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert begun.acquire(timeout=10)
        while running.service.worker.taken < 2:
            threading.Event().wait(0.01)
        health = running.ask('GET', '/health')  # answered while the model predicts
        assert health.json == dict(status='ok', busy=True, waiting=1)
        assert not begun.acquire(blocking=False)  # one at a time
        answer = running.post(png)
        assert answer.status == 503 and int(answer.headers['retry-after']) >= 1 and 'send it again' in answer.error
        go_on.set()
        for thread in threads:
            thread.join(20)
        assert answers == [200, 200] and running.post(png).status == 200


def test_a_picture_whose_sender_is_gone_is_not_predicted(png):
    begun, go_on, model = threading.Event(), threading.Event(), ToyDetector()
    with serving(model, waiting=3) as running:
        model.before = lambda: (begun.set(), go_on.wait(20))
        first = threading.Thread(target=lambda: running.post(png))
        first.start()
        assert begun.wait(10)
        with socket.create_connection(('127.0.0.1', running.port)) as connection:
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n'
                               b'Content-Length: %d\r\n\r\n%b' % (len(png), png))
            while running.service.worker.taken < 2:
                threading.Event().wait(0.01)
        while running.service.worker.taken > 1:
            threading.Event().wait(0.01)
        seen = len(model.seen)
        go_on.set()
        first.join(20)
        assert running.post(png).status == 200 and len(model.seen) == seen + 2  # the first and this one


# --- who asks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('host', [
    'evil.example', 'evil.example:8000', '127.0.0.1.evil.example', '192.168.0.7', '', '['])
def test_a_name_that_is_not_ours_is_refused(detecting: Running, host: str):
    for path in ('/', '/model', '/health'):
        answer = detecting.ask('GET', path, headers={'Host': host})
        assert answer.status == 403 and 'this server is not called' in answer.error


@pytest.mark.parametrize('host', ['localhost', 'LOCALHOST:8000', '127.0.0.1:1234', '[::1]:8000'])
def test_the_names_of_this_machine_are_ours_at_any_port(detecting: Running, host: str):
    assert detecting.ask('GET', '/health', headers={'Host': host}).status == 200


@pytest.mark.parametrize('headers', [
    {'Origin': 'http://evil.example'}, {'Origin': 'null'}, {'Origin': 'http://127.0.0.1:1'}, {'Origin': 'http://['},
    {'Sec-Fetch-Site': 'cross-site'}, {'Sec-Fetch-Site': 'same-site'}])
def test_a_page_of_elsewhere_may_not_send_pictures(detecting: Running, png: bytes, headers: dict[str, str]):
    answer = detecting.post(png, **headers)
    assert answer.status == 403 and 'may not send pictures' in answer.error


def test_its_own_page_may_send_pictures(detecting: Running, png: bytes):
    assert detecting.post(png, Origin=detecting.address, **{'Sec-Fetch-Site': 'same-origin'}).status == 200


@pytest.mark.parametrize('host, allowed, refused', [
    ('0.0.0.0', ['192.168.0.7', 'localhost', '[fe80::1]:80'], ['evil.example']), ('::', ['10.0.0.1'], ['a.b']),
    ('192.168.0.7', ['192.168.0.7:8000', 'localhost'], ['192.168.0.8']), ('my.host', ['My.Host'], ['host'])])
def test_the_names_follow_the_address_that_is_listened_on(host: str, allowed: list[str], refused: list[str]):
    guard = Guard(None, host)
    assert [name for name in allowed if guard.refusal('GET', Headers(dict(host=name)))] == []
    assert [name for name in refused if not guard.refusal('GET', Headers(dict(host=name)))] == []


@pytest.mark.parametrize('method, path, status', [
    ('GET', '/', 200), ('GET', '/page.js', 200), ('GET', '/model', 200), ('GET', '/none', 404),
    ('GET', '/predict', 405),
    ('GET', '/../app.py', 404), ('GET', '/%2e%2e/app.py', 404), ('DELETE', '/', 405), ('OPTIONS', '/predict', 405)])
def test_every_answer_carries_the_headers_of_security_and_errors_are_json(
        detecting: Running, method: str, path: str, status: int):
    answer = detecting.ask(method, path)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert answer.status == status and (status == 200 or answer.error)
    assert headers['content-security-policy'].startswith("default-src 'self'") and 'unsafe' not in str(headers)
    assert headers['x-content-type-options'] == 'nosniff' and 'server' not in headers
    assert not [name for name in headers if name.startswith('access-control')]


def test_a_model_that_fails_tells_the_client_no_more_than_that(png, capsys):
    model = ToyDetector()
    with serving(model) as running:
        def fail() -> None:
            raise KeyError('/home/secret')

        model.before = fail
        answer = running.post(png)
        assert answer.status == 500 and 'the model failed on this picture' in answer.error
        assert 'secret' not in answer.error
        model.before = lambda: None
        assert running.post(png).status == 200
    assert "KeyError: '/home/secret'" in capsys.readouterr().out


def test_nothing_of_a_request_is_logged_but_size_time_and_status(detecting: Running, png: bytes, capsys):
    detecting.ask('POST', '/predict?score=0.123', **form(png, file='my secret holiday.png'))
    line = capsys.readouterr().out
    assert len(line.splitlines()) == 1 and line.split()[1:3] == ['200', f'{len(png) / 1e6:.2f}']
    assert 'secret' not in line and '0.123' not in line and '127.0.0.1' not in line


def test_the_json_of_an_error_is_json_also_with_what_was_sent_in_it(detecting: Running, png: bytes):
    answer = detecting.post(png, '?%22%3Cscript%3E=1')
    assert 'script' in json.loads(answer.body)['error'] and answer.headers['content-type'] == 'application/json'


def test_a_strip_of_one_pixel_and_a_pixel_are_pictures(detecting: Running):
    for size in ((1, 1), (1, 500), (500, 1)):
        answer = detecting.post(as_file(Image.new('RGB', size)), '?view=1')
        assert answer.status == 200 and answer.json['boxes'] == []
        assert answer.json['size'] == dict(width=size[0], height=size[1])
