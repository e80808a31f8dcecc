"""Downloads end in the torch hub cache, whole, verified and under one name, whatever happens on the way."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save
from web_server import Server

from backbones.weights import download as download_module
from backbones.weights.read import read_state
from backbones.weights.sources import Source, cached_path, fetch

pytestmark = pytest.mark.usefixtures('empty_cache')
WEIGHT = torch.arange(6.0).reshape(2, 3)
AT_ONCE = dict(progress=False, waits=(0, 0))
ONCE = dict(progress=False, waits=())


def other_weights() -> bytes:
    """Another checkpoint than that of `server`."""
    return save({'a': WEIGHT + 1})


def cached(folder: Path) -> list[str]:
    """List the cache."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def break_off(server: Server, url: str, after: int = 100) -> None:
    """Let a download end early."""
    server.cuts = [after]
    with pytest.raises(ValueError, match=rf'could not be downloaded.*broke off after {after} of \d+ bytes'):
        fetch(url, **ONCE)


# --- a download ---------------------------------------------------------------------------------------------


def test_a_download_is_kept_in_the_torch_hub_cache(server: Server, empty_cache: Path) -> None:
    path = fetch(f'{server.address}/w.pth', **ONCE)
    assert torch.equal(read_state(path)['a'], WEIGHT)
    assert fetch(f'{server.address}/w.pth', **ONCE) == path
    assert server.asked == ['/w.pth']
    assert len(cached(empty_cache)) == 1 and cached(empty_cache)[0].endswith('_w.pth')


@pytest.mark.parametrize('digits', [8, 64])
def test_a_hash_in_the_name_is_verified(digits: int, server: Server, empty_cache: Path) -> None:
    data = server.files['/w.pth']
    right, wrong = f'/w-{hashlib.sha256(data).hexdigest()[:digits]}.pth', f'/w-{"0" * digits}.pth'
    server.files |= {right: data, wrong: data}
    assert fetch(server.address + right, **ONCE).is_file()
    with pytest.raises(ValueError, match=r'arrived with SHA-256 .* but its name promises 0000'):
        fetch(server.address + wrong, **ONCE)
    assert cached(empty_cache) == [right[1:]]


def test_a_hash_that_the_publisher_states_is_verified_and_a_wrong_file_leaves_nothing(
    server: Server, empty_cache: Path
) -> None:
    url = f'{server.address}/w.pth'
    right = hashlib.sha256(server.files['/w.pth']).hexdigest()
    for digest, fits in (('0' * 64, False), (right, True)):
        source = Source(title='w', urls=(url,), path=None, target=cached_path(url), sha256=digest)
        if fits:
            assert fetch(source, **ONCE) == source.target
        else:
            with pytest.raises(ValueError, match=r'arrived with SHA-256 .* but its publisher states 000'):
                fetch(source, **ONCE)
            assert cached(empty_cache) == []


def test_files_of_equal_name_at_two_addresses_are_two_files(server: Server) -> None:
    for folder, value in (('a', 1.0), ('b', 2.0)):
        server.files[f'/{folder}/model.safetensors'] = save({'w': torch.tensor([value])})
    read = [read_state(fetch(f'{server.address}/{folder}/model.safetensors', **ONCE)) for folder in 'ab']
    assert [state['w'].item() for state in read] == [1.0, 2.0]


@pytest.mark.parametrize('name', ['/w_20220301.pth', '/w-20220301.pth', '/w_0123abcd.pth'])
def test_a_date_in_a_name_is_no_hash(server: Server, name: str) -> None:
    server.files[name] = server.files['/w.pth']
    assert fetch(server.address + name, **ONCE).is_file()


def test_a_web_page_in_place_of_weights_leaves_nothing(server: Server, empty_cache: Path) -> None:
    server.files['/login.pth'] = b'<html>please sign in</html>'
    with pytest.raises(ValueError, match=r'login\.pth could not be downloaded.*what arrived is a web page'):
        fetch(f'{server.address}/login.pth', **ONCE)
    assert cached(empty_cache) == []


def test_an_address_that_does_not_exist_says_where_to_put_the_file(server: Server, empty_cache: Path) -> None:
    with pytest.raises(ValueError, match=r'could not be downloaded.*404.*put the file at .*none\.pth'):
        fetch(f'{server.address}/none.pth', **ONCE)
    assert cached(empty_cache) == []
    assert len(server.asked) == 1  # no second try


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    server.errors['/w.pth'] = [503, 429]
    assert fetch(f'{server.address}/w.pth', **AT_ONCE).is_file()
    assert len(server.asked) == 3


def test_a_signature_in_an_address_is_not_shown(server: Server) -> None:
    with pytest.raises(ValueError, match='404') as caught:
        fetch(f'{server.address}/none.pth?signature=secret', **ONCE)
    assert 'secret' not in str(caught.value)


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(
    server: Server, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match=r'has 0 MiB left, and .* are to be downloaded; free space, or set TORCH_HOME'):
        fetch(f'{server.address}/w.pth', **ONCE)
    assert cached(empty_cache) == []


def test_a_cache_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'cache').write_text('a file where the folder should be')
    with pytest.raises(ValueError, match=r'cannot be written .*set TORCH_HOME'):
        fetch(f'{server.address}/w.pth', **ONCE)


def test_a_redirect_to_another_kind_of_server_is_refused(server: Server) -> None:
    server.redirects['/w.pth'] = 'ftp://127.0.0.1/w.pth'
    with pytest.raises(ValueError, match='redirected from http to ftp'):
        fetch(f'{server.address}/w.pth', **ONCE)


# --- taken up again -----------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_goes_on_at_once_where_it_was(server: Server, empty_cache: Path) -> None:
    server.cuts = [100, 200]
    path = fetch(f'{server.address}/w.pth', **AT_ONCE)
    assert server.ranges_asked() == [None, 'bytes=100-', 'bytes=300-']
    assert path.read_bytes() == server.files['/w.pth']
    assert cached(empty_cache) == [path.name]


def test_a_download_that_broke_off_is_taken_up_by_a_later_call(server: Server, empty_cache: Path) -> None:
    url = f'{server.address}/w.pth'
    break_off(server, url)
    assert not cached_path(url).exists()
    path = fetch(url, **ONCE)
    assert server.ranges_asked() == [None, 'bytes=100-']
    assert server.headers[1]['If-Range'].startswith('"')
    assert path.read_bytes() == server.files['/w.pth']
    assert cached(empty_cache) == [path.name]


@pytest.mark.parametrize('if_range', [True, False])
def test_a_file_that_changed_between_its_halves_starts_anew(if_range: bool, server: Server) -> None:
    url = f'{server.address}/w.safetensors'
    server.files['/w.safetensors'] = save({'a': torch.zeros(100)})
    break_off(server, url, after=200)
    server.files['/w.safetensors'] = save({'a': torch.ones(100)})  # as long, and with the same header
    server.if_range = if_range  # False: the server sends the rest of the other file
    assert fetch(url, **ONCE).read_bytes() == server.files['/w.safetensors']


def test_a_server_that_knows_no_ranges_starts_anew(server: Server) -> None:
    url = f'{server.address}/w.pth'
    server.ranges = False
    break_off(server, url)
    assert fetch(url, **ONCE).read_bytes() == server.files['/w.pth']
    assert server.ranges_asked() == [None, 'bytes=100-']


def test_a_part_that_nothing_can_be_checked_by_is_not_taken_up(server: Server) -> None:
    url = f'{server.address}/w.pth'
    server.validators = False
    break_off(server, url)
    assert fetch(url, **ONCE).read_bytes() == server.files['/w.pth']
    assert server.ranges_asked() == [None, None]


def test_a_part_longer_than_the_file_starts_anew(server: Server) -> None:
    url = f'{server.address}/w.pth'
    break_off(server, url, after=400)
    server.files['/w.pth'] = other_weights()
    server.if_range = False
    assert len(server.files['/w.pth']) < 400
    assert fetch(url, **ONCE).read_bytes() == server.files['/w.pth']
    assert server.ranges_asked() == [None, 'bytes=400-', None]


def test_a_whole_part_only_wants_its_name(server: Server) -> None:
    url = f'{server.address}/w.pth'
    break_off(server, url)
    cached_path(url).with_name(f'{cached_path(url).name}.partial').write_bytes(server.files['/w.pth'])
    assert fetch(url, **ONCE).read_bytes() == server.files['/w.pth']
    assert len(server.asked) == 1


def test_a_part_with_wrong_bytes_is_found_out_and_loaded_anew(server: Server) -> None:
    data = server.files['/w.pth']
    name = f'w-{hashlib.sha256(data).hexdigest()[:8]}.pth'
    url, server.files[f'/{name}'] = f'{server.address}/{name}', data
    break_off(server, url)
    cached_path(url).with_name(f'{name}.partial').write_bytes(data[:50] + b'x' * 50)
    assert fetch(url, **ONCE).read_bytes() == data
    assert server.ranges_asked() == [None, 'bytes=100-', None]


# --- two at once --------------------------------------------------------------------------------------------


def test_of_two_downloads_at_once_the_second_waits_for_the_first(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, asked = threading.Event(), threading.Event()
    server.gate = threading.Event()
    monkeypatch.setattr(download_module, 'print_log', lambda text, **_: 'waiting' in text and waits.set())
    server.asked = SimpleNamespace(append=lambda path: (paths.append(path), asked.set()))
    paths, found = [], []

    def run() -> None:
        found.append(fetch(f'{server.address}/w.pth', **ONCE))

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert asked.wait(20)
    threads[1].start()
    assert waits.wait(20)
    server.gate.set()
    for thread in threads:
        thread.join(20)
    assert paths == ['/w.pth']
    assert found[0] == found[1] and found[0].read_bytes() == server.files['/w.pth']


def test_the_lock_of_a_process_that_was_killed_blocks_nobody(server: Server, empty_cache: Path) -> None:
    url = f'{server.address}/w.pth'
    lock = cached_path(url).with_name(f'{cached_path(url).name}.lock')
    lock.parent.mkdir(parents=True)
    code = 'import fcntl, sys; f = open(sys.argv[1], "w"); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()'
    with subprocess.Popen(
        [sys.executable, '-c', code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline()
        holder.kill()
    path = fetch(url, **ONCE)
    assert cached(empty_cache) == [path.name]


# --- Hugging Face -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('same_server', [True, False])
def test_the_token_goes_to_hugging_face_and_to_no_server_it_redirects_to(
    same_server: bool, start_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    front, other = start_server(), start_server()
    store = front if same_server else other
    front.redirects['/lab/m/resolve/main/w.pth'] = f'{store.address}/blob'
    store.files['/blob'] = other_weights()
    monkeypatch.setenv('HF_ENDPOINT', front.address)
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    fetch('hf://lab/m/w.pth', **ONCE)
    assert front.headers[0]['Authorization'] == 'Bearer hf_secret'
    assert store.headers[-1].get('Authorization') == ('Bearer hf_secret' if same_server else None)


def test_the_token_goes_to_no_other_address(
    start_server: Callable[[], Server], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HF_ENDPOINT', start_server().address)
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    fetch(f'{server.address}/w.pth', **ONCE)
    assert 'Authorization' not in server.headers[0]


def test_the_hash_of_hugging_face_is_verified(
    start_server: Callable[[], Server], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, store = start_server(), start_server()
    data = other_weights()
    store.files['/blob'] = data
    store.extra['/blob'] = {'ETag': f'"{"1" * 64}"'}  # of another kind, and not to be believed
    monkeypatch.setenv('HF_ENDPOINT', front.address)
    for name, digest in (('right', hashlib.sha256(data).hexdigest()), ('wrong', '0' * 64)):
        path = f'/lab/m/resolve/main/{name}.safetensors'
        front.redirects[path] = f'{store.address}/blob'
        front.extra[path] = {'X-Linked-Etag': f'"{digest}"'}
    front.redirects['/lab/m/resolve/main/unknown.safetensors'] = f'{store.address}/blob'
    for name in ('right', 'unknown'):
        assert fetch(f'hf://lab/m/{name}.safetensors', **ONCE).is_file()
    with pytest.raises(ValueError, match=r'arrived with SHA-256 .* but Hugging Face states 0000'):
        fetch('hf://lab/m/wrong.safetensors', **ONCE)
    assert cached(empty_cache) == ['lab--m--main--right.safetensors', 'lab--m--main--unknown.safetensors']
