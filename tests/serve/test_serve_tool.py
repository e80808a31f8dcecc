"""The tool: what it prints, what it refuses before a model is loaded, how it ends."""

from __future__ import annotations

import http.client
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from serve.toys import ToyDetector

import backbones
from backbones.serve import server
from backbones.serve.server import Server, address_of, serve, take_port

STAND_IN = '''
import backbones
from serve.toys import ToyDetector
def load_model(*given, device, precision):
    return ToyDetector()
backbones.load_model = load_model
from backbones.cli import run_tool
from backbones.serve.server import serve
run_tool(lambda: serve('run', port=0))
'''


def start() -> tuple[subprocess.Popen, list[str]]:
    """The tool with a stand-in for the model; returns when it has printed its address."""
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}', 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen(
        [sys.executable, '-c', STAND_IN], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()
    said = []
    while not said or 'http://' not in said[-1]:
        said.append(lines.get(timeout=120))
    process.lines = lines
    return process, said


def test_it_prints_its_address_when_it_listens_and_ends_at_ctrl_c_with_a_line(png: bytes):
    process, said = start()
    try:
        assert said[-2] == 'instance segmentation, 3 classes, epoch_000012 on cpu\n'
        port = int(re.fullmatch(r'http://127\.0\.0\.1:(\d+)  \(Ctrl-C ends\)\n', said[-1])[1])
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)  # and stays open
        connection.request('POST', '/predict', png, {'Content-Type': 'image/png'})
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.lines.get(timeout=5).split()[1] == '200' and process.lines.get(timeout=5) == 'stopped\n'
        assert 'Traceback' not in process.stderr.read()
    finally:
        process.kill()


@pytest.mark.parametrize('host, warned', [('0.0.0.0', True), ('127.0.0.1', False), ('localhost', False)])
def test_on_an_address_that_others_reach_it_warns_that_there_is_no_password(
        host: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def interrupted(self: server.Server, sockets: list[socket.socket]) -> None:
        for each in sockets:
            each.close()
        raise KeyboardInterrupt

    given = []
    monkeypatch.setattr(
        backbones, 'load_model', lambda *names, **options: given.append((names, options)) or ToyDetector())
    monkeypatch.setattr(server.Server, 'run', interrupted)
    taken = socket.socket()
    taken.bind(('127.0.0.1', 0))
    monkeypatch.setattr(server, 'take_port', lambda host, port: taken)
    assert serve('run', 'config.py', host=host, device='cpu') == 0
    assert given == [(('config.py', 'run'), dict(device='cpu', precision=None))]
    out, err = capsys.readouterr()
    assert out.endswith('stopped\n') and ('anyone who reaches this machine there may use the model' in err) == warned


def test_a_port_that_is_taken_is_told_with_the_next_that_is_free(tmp_path: Path):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf'port {port} of 127\.0\.0\.1 is taken .*; (\d+) is free: --port \1'):
            serve(tmp_path / 'none', port=port)  # before the model is looked for


def test_two_that_start_at_once_do_not_both_get_the_port():
    with take_port('127.0.0.1', 0) as first:
        first.listen()
        with pytest.raises(ValueError, match='is taken'):
            take_port('127.0.0.1', first.getsockname()[1])


@pytest.mark.parametrize('given, said', [
    (dict(port=70000), 'ports go from 1 to 65535'), (dict(port=-1), 'ports go from'), (dict(max_mb=0), '--max-mb 0'),
    (dict(max_mb=float('nan')), '--max-mb nan'), (dict(host='no such host'), 'is no address of this machine'),
    (dict(host='192.0.2.1'), '--host 192.0.2.1 .* cannot be listened on'), (dict(port=0), 'none.* is no')])
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, given: dict, said: str):
    with pytest.raises(ValueError, match=said if 'none' not in said else 'none'):
        serve(tmp_path / 'none', **given)


def test_a_port_that_is_not_allowed_is_told(monkeypatch: pytest.MonkeyPatch):
    def bound(family: int, kind: int, place: tuple) -> socket.socket:
        if place[1] < 1024:
            raise PermissionError(13, 'Permission denied')
        return socket.socket()

    monkeypatch.setattr(server, '_bound', bound)
    with pytest.raises(ValueError, match=r'port 80 .* is not allowed to you .*: --port 8000'):
        take_port('127.0.0.1', 80)


@pytest.mark.parametrize('host, address', [
    ('127.0.0.1', 'http://127.0.0.1:1'), ('::1', 'http://[::1]:1'), ('::', 'http://localhost:1')])
def test_the_address_is_one_that_a_browser_takes(host: str, address: str):
    assert address_of(host, 1) == address


def test_a_missing_library_names_its_extra(run_python: Callable):
    done = run_python(f'''
import sys
sys.modules['uvicorn'] = None
sys.argv = ['serve.py', 'run']
import runpy
runpy.run_path({str(ROOT / 'tools/serve.py')!r}, run_name='__main__')
''')
    assert done.returncode == 2 and "pip install 'mmbackbones[serve]'" in done.stderr and 'Traceback' not in done.stderr


def test_log_files_of_the_process_stay_open(tmp_path: Path) -> None:
    kept = logging.FileHandler(tmp_path / 'run.log')
    Server(lambda scope, receive, send: None)
    assert kept.stream is not None
    kept.close()
